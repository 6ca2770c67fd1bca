"""Opening an account where mail is sent: the address first, and the password behind the link of its mail.

Nothing is there until the link is used, so that nobody prepares an account with another's address, or learns of one.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.db import one_at_a_time
from core.errors import InvalidEmailError
from core.identity import sessions, sign_up_links, users
from core.ledger.posting import lock_account
from core.mail import outbox
from core.services.application import Application
from core.services.confirmation import note_confirmed
from core.services.sign_in import admit, begins_with_mail, require_open


@dataclass(frozen=True, slots=True)
class Opened:
    """A new account: the ticket that signs its owner in, and the milli-tokens that he was given."""

    ticket: str
    welcome_mt: int


def is_needed(app: Application) -> bool:
    """Whether whoever comes uninvited begins with a mail, rather than with `sign_in.sign_up`."""
    with app.db.read() as session:
        return begins_with_mail(app, session)


def request_mail(app: Application, email: str, *, language: str = "en", address: str | None = None) -> None:
    """Ask for the mail that an account begins with. What happens here is the same whether there is one or not.

    `address` is the network address that this comes from. Raises `InvalidEmailError`, `SignUpClosedError` or
    `TooManyFromHereError`.
    """
    app.rates.hit_client("sign_up", address)
    email = users.normalise_email(email)
    if not email.isascii():
        # By the text alone, whoever has it: the page would promise a mail that no server is given.
        raise InvalidEmailError("No mail reaches a name in another script: enter an address such as name@example.com.")
    with app.db.read() as session:
        require_open(app, session)
    # Only what was typed is written down: whether there is a user the keeper of the outbox looks, later.
    with app.db.write() as session:
        outbox.put_asked(session, "sign_up", email, facts={"language": language})


def look_at_link(app: Application, secret: str) -> str:
    """The address that a link opens an account with; nothing is used up. Raises `EmailLinkError`."""
    with app.db.read() as session:
        return sign_up_links.find_email(session, secret)


def open_account(
    app: Application, secret: str, password: str, *, language: str = "en", address: str | None = None
) -> Opened:
    """Open the account of a link's address, which is confirmed by it, with its welcome tokens.

    Raises `EmailLinkError`; `WeakPasswordError`, `EmailTakenError` or `SignUpClosedError`, after which the link goes on
    working; or `TooManyFromHereError`.
    """
    app.rates.hit_client("reset", address)
    with app.db.read() as session:
        email = sign_up_links.find_email(session, secret)
    password_digest = users.hash_password(password, email=email)
    email_digest = users.digest_email(email)
    with app.db.write() as session:
        one_at_a_time(session, "sign_up")
        user = admit(
            app,
            session,
            sign_up_links.use_link(session, secret),
            password_digest=password_digest,
            email_digest=email_digest,
            language=language,
            invitation=None,
        )
        lock_account(session, user.account_id)
        welcome_mt = note_confirmed(app, session, user)
        return Opened(sessions.issue_ticket(session, user.id), welcome_mt)
