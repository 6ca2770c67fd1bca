"""A new password for whoever forgot his: by a link in a mail, or by one that the operator hands over."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sqlmodel import Session

from core.db import Database, one_at_a_time
from core.errors import MemberNotFoundError
from core.fetch.webhook_signing import new_secret
from core.identity import api_keys, email_links, invitations, oidc_rows, second_factors, sessions, users
from core.identity.audit_log import record_event
from core.identity.tables import User
from core.jobs import deliveries
from core.ledger import spending
from core.ledger.posting import lock_account
from core.mail import outbox
from core.services import team
from core.services.application import Application
from core.services.confirmation import note_confirmed


@dataclass(frozen=True, slots=True)
class Ended:
    """What somebody else may have prepared with an address that was never confirmed, and what of it ended.

    All of the account's where it was opened with the address and its tokens wait; else the user's own, and of
    `members` none. His second factor and what signs in as him at an identity provider have ended, too.
    """

    api_keys: int
    invitations: int
    members: int
    of_account: bool


def request_reset(app: Application, email: str, *, address: str | None = None) -> None:
    """Ask for a link by mail for a typed address. What happens here is the same whether anybody has it or not.

    `address` is the network address that this comes from. Raises `InvalidEmailError` or `TooManyFromHereError`.
    """
    app.rates.hit_client("reset", address)
    email = users.normalise_email(email)
    # Only what was typed is written down: whether there is a user the keeper of the outbox looks, later.
    with app.db.write() as session:
        outbox.put_asked(session, "reset", email)


def look_at_link(app: Application, secret: str) -> str:
    """Whose password a link would set; nothing is used up. Raises `EmailLinkError`."""
    with app.db.read() as session:
        return email_links.find_user(session, secret, email_links.FOR_PASSWORD).email


def set_password(app: Application, secret: str, password: str, *, address: str | None = None) -> Ended | None:
    """Replace the password of a link's user and end his sign-ins everywhere; he signs in with the new one.

    Gives what else ended, where his address was not confirmed. Raises `EmailLinkError`, `WeakPasswordError`
    (the link goes on working) or `TooManyFromHereError`.
    """
    app.rates.hit_client("reset", address)
    with app.db.read() as session:
        found = email_links.find_user(session, secret, email_links.FOR_PASSWORD)
    password_digest = users.hash_password(password, email=found.email)
    with app.db.write() as session:
        # As when an account is deleted: who joins it at this moment has joined, or cannot.
        one_at_a_time(session, "team")
        lock_account(session, found.account_id)
        user = email_links.find_user(session, secret, email_links.FOR_PASSWORD)
        _id, kind = email_links.use_link(session, secret, email_links.FOR_PASSWORD)
        email_links.end_links(session, user.id, email_links.FOR_PASSWORD)
        users.set_password(session, user.id, password_digest)
        users.forget_attempts(session, user.email)
        sessions.revoke_all(session, user.id)
        ended = None
        # Nobody prepares an installation for its operator: his second factor stays one.
        maybe_prepared = user.email_verified_at is None and not user.is_operator
        if maybe_prepared and user.welcome_due_since is not None:
            ended = _end_what_was_prepared(session, user)
        elif maybe_prepared and kind == "reset":
            # In a team that he was invited into, or in an account from before mail: it may be others', who stay.
            ended = _end_what_he_has(session, user)
        record_event(
            session,
            actor=user.id,
            action="user.reset_password",
            subject=user.id,
            account_id=user.account_id,
            details={"by": "mail" if kind == "reset" else "operator"},
        )
        if kind == "reset":
            # Only a mail shows whose address it is.
            note_confirmed(app, session, user)
    return ended


def _end_what_was_prepared(session: Session, user: User) -> Ended:
    """Leave nothing in an account with which whoever opened it with another's address could get into it again."""
    # First of all: whoever accepts one at this moment has joined, or cannot.
    withdrawn = invitations.revoke_all(session, user.account_id)
    keys = api_keys.revoke_all(session, user.account_id)
    # The others may have made a viewer of him.
    users.set_role(session, user.id, "owner")
    others = [one for one in users.list_members(session, user.account_id) if one.id != user.id]
    for other in others:
        team.end_membership(session, user.account_id, other.id)
    second_factors.remove(session, user.id)
    oidc_rows.remove_of(session, user.id)
    spending.set_alert_url(session, user.account_id, None)
    deliveries.replace_secret(session, user.account_id, new_secret())
    return _record_end(session, user, Ended(keys, withdrawn, len(others), of_account=True))


def _end_what_he_has(session: Session, user: User) -> Ended:
    """Leave nothing with which somebody else who joined, or began, with his address could act or come in as him."""
    withdrawn = invitations.revoke_invitations_by(session, user.id)
    keys = len(api_keys.revoke_keys_by(session, user.id))
    second_factors.remove(session, user.id)
    oidc_rows.remove_of(session, user.id)
    return _record_end(session, user, Ended(keys, withdrawn, 0, of_account=False))


def _record_end(session: Session, user: User, ended: Ended) -> Ended:
    record_event(
        session,
        actor=user.id,
        action="user.end_what_was_prepared",
        subject=user.id,
        account_id=user.account_id,
        details=asdict(ended),
    )
    return ended


def make_link(db: Database, email: str) -> str:
    """The secret of a link that the operator hands over, for a day.

    Raises `InvalidEmailError` or `MemberNotFoundError`.
    """
    with db.write() as session:
        user = users.find_typed(session, email)
        if user is None:
            raise MemberNotFoundError("Nobody signs in with this address.")
        record_event(
            session, actor="operator", action="user.make_reset_link", subject=user.id, account_id=user.account_id
        )
        return email_links.issue_link(session, user.id, "printed")
