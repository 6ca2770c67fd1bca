"""Signing in with an identity provider, beside passwords. Docs/adr/0034 says what links an identity to a user."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from sqlmodel import Session

from core.config import Settings
from core.db import one_at_a_time
from core.errors import InvalidEmailError, InvitationError, OidcRefusedError, SignUpClosedError
from core.identity import oidc_rows, second_factors, sessions, users
from core.identity.audit_log import record_event
from core.identity.oidc import Claims, Provider, SignInSecret
from core.identity.tables import OidcIdentity, User
from core.ledger.posting import lock_account
from core.services import confirmation, second_factor, sign_in
from core.services.application import Application

CALLBACK_PATH = "/session/oidc/callback"


@dataclass(frozen=True, slots=True)
class Returned:
    """What a browser comes back with: the secret that it kept, and what the provider sent it with.

    `issuer` is who the provider says that it is (RFC 9207), if it says so; `address` the network address it comes from.
    """

    secret: str
    state: str
    code: str
    issuer: str | None = None
    address: str | None = None


def is_offered(app: Application) -> bool:
    """Whether an identity provider is configured."""
    return bool(app.settings.oidc_issuer)


def start(app: Application, *, address: str | None = None) -> tuple[str, str]:
    """Where at the provider to send a browser, and the secret that it is to keep.

    `address` is the network address that it comes from. Raises `OidcRefusedError`, or before anything is done
    `TooManyFromHereError`.
    """
    app.rates.hit_client("sign_in", address)
    secret = SignInSecret.make()
    url = provider_of(app.settings).authorization_url(SignInSecret(secret))
    with app.db.write() as session:
        oidc_rows.begin(session, SignInSecret(secret).digest)
    return url, secret


def finish(app: Application, returned: Returned, *, language: str = "en", invitation: str | None = None) -> str:
    """A ticket for whoever came back from the provider; somebody new is admitted as `sign_up` would.

    Raises `OidcRefusedError`, a second time always, or `TooManyFromHereError`.
    """
    claims = _claims_of(app, returned)
    email = _address(claims)
    email_digest = _look_at_newcomer(app, claims, email, returned.address)
    with app.db.write() as session:
        one_at_a_time(session, "sign_up")
        user = oidc_rows.find_user(session, claims.issuer, claims.subject)
        if user is None:
            user = _first_sign_in(app, session, claims, email, email_digest, language, invitation)
        record_event(session, actor=user.id, action="user.sign_in_oidc", subject=user.id, account_id=user.account_id)
        return sessions.issue_ticket(session, user.id)


def permit_link(app: Application, user: User, code: str) -> str:
    """For somebody with a second factor, whose code is used up: the secret with which `link` links within ten minutes.

    Raises what `second_factor.sign_in` raises for a code.
    """
    permit = SignInSecret.make()
    second_factor.with_code(app, user.id, code, lambda session: oidc_rows.begin(session, _permit_digest(user, permit)))
    return permit


def link(app: Application, user: User, returned: Returned, *, permit: str = "") -> None:
    """Let whoever came back from the provider sign in as this user, who is signed in: both have the same address.

    Where he has a second factor, `permit` is of `permit_link`: what is linked lets him in without it. Raises
    `OidcRefusedError` or `TooManyFromHereError`.
    """
    claims = _claims_of(app, returned)
    with app.db.write() as session:
        one_at_a_time(session, "sign_up")
        now = users.find_member(session, user.account_id, user.id)
        owner = oidc_rows.find_user(session, claims.issuer, claims.subject)
        if now is not None and owner is not None and owner.id == now.id:
            return
        # Also where somebody else is signed in at the provider, in this very browser: the address tells.
        if now is None or owner is not None or _address(claims) != now.email:
            raise OidcRefusedError("The identity provider knows this person by another address.", reason="other")
        if _knows(session, now, claims.issuer):
            raise OidcRefusedError("Another identity of this provider is linked already.", reason="other")
        _link(app, session, now, claims, permit=permit)


def unlink(app: Application, user: User, issuer: str, token: str) -> None:
    """Let an issuer's identity sign in as this user no more; of his sessions only that of `token` stays.

    Raises `OidcRefusedError` where he has no password.
    """
    with app.db.write() as session:
        users.lock_user(session, user.id)
        now = users.find_member(session, user.account_id, user.id)
        if now is None or not now.password_digest:
            raise OidcRefusedError("Without a password this is the only way in.", reason="only")
        oidc_rows.remove_of(session, user.id, issuer)
        sessions.revoke_all(session, user.id, but=token)
        record_event(session, actor=user.id, action="user.unlink_oidc", subject=user.id, account_id=user.account_id)


def list_identities(app: Application, user: User) -> Sequence[OidcIdentity]:
    """What signs in as this user, oldest first."""
    with app.db.read() as session:
        return oidc_rows.list_of(session, user.id)


def provider_of(settings: Settings) -> Provider:
    """The configured provider; what is known of it is shared by all threads."""
    secret = settings.oidc_client_secret.get_secret_value()
    return _provider(settings.oidc_issuer, settings.oidc_client_id, secret, redirect_uri(settings))


def redirect_uri(settings: Settings) -> str:
    """Where the provider sends browsers back to, as it is registered there."""
    return settings.public_url.rstrip("/") + CALLBACK_PATH


@lru_cache(maxsize=4)
def _provider(issuer: str, client_id: str, secret: str, redirect_uri: str) -> Provider:
    return Provider(issuer, client_id, secret, redirect_uri)


def _claims_of(app: Application, returned: Returned) -> Claims:
    app.rates.hit_client("sign_in_return", returned.address)
    kept = SignInSecret(returned.secret)
    with app.db.write() as session:
        # First of all, whatever comes with it: it is tried once.
        has_begun = oidc_rows.use_up(session, kept.digest)
    state = returned.state.encode(errors="replace")
    if not has_begun or not hmac.compare_digest(state, kept.derive("state").encode()):
        raise OidcRefusedError("This sign-in was not begun here, was used, or took too long.", reason="state")
    if not returned.code:
        raise OidcRefusedError("The identity provider let nobody in.", reason="denied")
    return provider_of(app.settings).claims_of(returned.code, kept, said_by=returned.issuer)


def _address(claims: Claims) -> str | None:
    """The verified address as it is stored, if there is one that can be."""
    try:
        return None if claims.email is None else users.normalise_email(claims.email)
    except InvalidEmailError:
        return None


def _look_at_newcomer(app: Application, claims: Claims, email: str | None, address: str | None) -> str:
    """Count who will be new, and give his address's digest, which takes long; empty for who is known.

    Outside of the transaction that decides: nobody shall wait for either.
    """
    with app.db.read() as session:
        is_known = oidc_rows.find_user(session, claims.issuer, claims.subject) is not None
        if is_known or email is None or users.find_user(session, email) is not None:
            return ""
    app.rates.hit_client("sign_up", address)
    return users.digest_email(email)


def _first_sign_in(
    app: Application,
    session: Session,
    claims: Claims,
    email: str | None,
    email_digest: str,
    language: str,
    invitation: str | None,
) -> User:
    if email is None:
        raise OidcRefusedError("The identity provider has not verified an address.", reason="email")
    user = users.find_user(session, email)
    if user is None:
        user = _admit(app, session, email, email_digest or users.digest_email(email), language, invitation)
    elif user.password_digest:
        # Addresses are not verified here: it may be another's who chose that password, or his who comes now. The
        # password tells: he signs in with it, and links the two.
        raise OidcRefusedError("There is an account with this address and a password.", reason="password")
    elif _knows(session, user, claims.issuer):
        # The provider gave the address of one to another.
        raise OidcRefusedError("This address is that of another identity of the provider.", reason="another")
    _link(app, session, user, claims)
    return user


def _admit(
    app: Application, session: Session, email: str, email_digest: str, language: str, invitation: str | None
) -> User:
    try:
        return sign_in.admit(
            app,
            session,
            email,
            password_digest="",
            email_digest=email_digest,
            language=language,
            invitation=invitation,
        )
    except InvitationError as error:
        raise OidcRefusedError(error.message, reason="invitation") from None
    except SignUpClosedError as error:
        reason = "uninvited" if error.details["policy"] == "invitation" else "closed"
        raise OidcRefusedError(error.message, reason=reason) from None


def _knows(session: Session, user: User, issuer: str) -> bool:
    return any(one.issuer == issuer for one in oidc_rows.list_of(session, user.id))


def _link(app: Application, session: Session, user: User, claims: Claims, *, permit: str = "") -> None:
    lock_account(session, user.account_id)
    # He may have been removed, or have turned a second factor on, until the account was ours.
    if not users.lock_user(session, user.id):
        raise OidcRefusedError("Who this was is no user any more.", reason="state")
    has_factor = second_factors.find(session, user.id) is not None
    if has_factor and not oidc_rows.use_up(session, _permit_digest(user, permit)):
        raise OidcRefusedError("A second factor is on, and none of its codes was shown.", reason="code")
    # The provider has verified his address: no mail need ask him to.
    confirmation.note_confirmed(app, session, user)
    oidc_rows.link(session, user.id, claims.issuer, claims.subject)
    record_event(session, actor=user.id, action="user.link_oidc", subject=user.id, account_id=user.account_id)


def _permit_digest(user: User, permit: str) -> str:
    # Never that of a sign-in that begins, and nobody else's.
    return hashlib.sha256(f"link {user.id} {permit}".encode(errors="replace")).hexdigest()
