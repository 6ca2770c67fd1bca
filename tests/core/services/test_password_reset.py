"""A forgotten password: the link of a mail or of the operator's, single use, and what it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pyotp
import pytest
from sqlalchemy import event, text

from core import errors
from core.db import utcnow
from core.identity import email_links, oidc_rows, users
from core.identity.tables import User
from core.mail import outbox
from core.services import closing, confirmation, password_reset, profile, second_factor, sign_in
from core.services.application import Application
from core.services.mails import send_next
from tests.conftest import PASSWORD, OpenApp
from tests.core.services import test_mails
from tests.core.services.helpers import balance, change
from tests.mail_server import MailServer

PAST = "2001-01-01 00:00:00.000000"
NEW = "violet harbour kettle moss"
HERE = "203.0.113.7"


server, app = test_mails.server, test_mails.app


@pytest.fixture
def ann(app: Application, sign_up: Callable[..., User]) -> User:
    """A customer, whose welcome mail was sent."""
    sign_up(app, "operator@example.com")
    ann = sign_up(app, "ann@example.com")
    send_all(app)
    return ann


def send_all(app: Application) -> list[str]:
    """Send what is due; gives what came of each."""
    assert app.smtp is not None
    outcomes = []
    while outcome := send_next(app, app.smtp):
        outcomes.append(outcome)
    return outcomes


def asked(app: Application, server: MailServer, email: str = "ann@example.com") -> str:
    """Ask for a link; gives the secret that was mailed."""
    password_reset.request_reset(app, email)
    assert send_all(app) == ["sent"]
    return server.received[-1].secret


def test_a_new_password_ends_every_sign_in(app: Application, server: MailServer, ann: User) -> None:
    """With the link the password is another, the address confirmed, every session and ticket over; then it is used."""
    token = sign_in.open_session(app, sign_in.sign_in(app, ann.email, PASSWORD))
    ticket = sign_in.sign_in(app, ann.email, PASSWORD)
    secret = asked(app, server)
    assert password_reset.look_at_link(app, secret) == "ann@example.com"
    password_reset.set_password(app, secret, NEW)
    assert sign_in.signed_in_user(app, token) is None
    with pytest.raises(errors.SignInTicketError):
        sign_in.open_session(app, ticket)
    with pytest.raises(errors.BadCredentialsError):
        sign_in.sign_in(app, ann.email, PASSWORD)
    user = sign_in.signed_in_user(app, sign_in.open_session(app, sign_in.sign_in(app, ann.email, NEW)))
    assert user is not None
    assert user.email_verified_at is not None
    assert balance(app, ann) == (20_000, 0)
    with pytest.raises(errors.EmailLinkError) as refused:
        password_reset.set_password(app, secret, PASSWORD)
    assert refused.value.details == {"was_used": True}
    sign_in.sign_in(app, ann.email, NEW)


def test_two_tabs_at_once(app: Application, server: MailServer, ann: User) -> None:
    """Of eight tabs with the same link one sets its password, and the others are told."""
    secret = asked(app, server)
    passwords = [f"violet harbour kettle {number} moss" for number in range(8)]

    def tab(password: str) -> bool:
        try:
            password_reset.set_password(app, secret, password)
        except errors.EmailLinkError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(tab, passwords))
    assert won.count(True) == 1
    sign_in.sign_in(app, ann.email, passwords[won.index(True)])


def test_links_end(app: Application, server: MailServer, ann: User) -> None:
    """A newer link ends an older; after an hour a link is too old; a link of another purpose is none."""
    confirming = server.received[1].secret
    first, second = asked(app, server), asked(app, server)
    for secret in (first, confirming, "", "x" * 5000, "\ud800"):
        with pytest.raises(errors.EmailLinkError):
            password_reset.set_password(app, secret, NEW)
    change(app, "UPDATE email_link SET expires_at = :past WHERE kind = 'reset'", past=PAST)
    with pytest.raises(errors.EmailLinkError):
        password_reset.set_password(app, second, NEW)
    sign_in.sign_in(app, ann.email, PASSWORD)


@pytest.mark.parametrize("password", ["short", "password123!", "ann2024!ann2024!"])
def test_a_weak_password_leaves_the_link(app: Application, server: MailServer, ann: User, password: str) -> None:
    """What is easy to guess is refused here as everywhere, and the link works for a better one."""
    secret = asked(app, server)
    with pytest.raises(errors.WeakPasswordError):
        password_reset.set_password(app, secret, password)
    password_reset.set_password(app, secret, NEW)


def test_nobody_learns_who_has_an_account(app: Application, server: MailServer, ann: User) -> None:
    """Known, unknown, deleted: the request runs the same statements and says the same; only the known gets a mail."""
    statements: list[str] = []

    def listen(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    def request(email: str) -> list[str]:
        statements.clear()
        password_reset.request_reset(app, email)
        return list(statements)

    event.listen(app.db.engine, "before_cursor_execute", listen)
    request("warm@example.com")
    known, unknown = request("ann@example.com"), request("eve@example.com")
    closing.delete_account(app, ann, PASSWORD, forfeit_mt=0)
    assert known == unknown == request("bob@example.com")
    assert not any("user_" in statement and "FROM user_" in statement for statement in known)
    event.remove(app.db.engine, "before_cursor_execute", listen)
    server.received.clear()
    assert "sent" not in send_all(app)
    assert server.received == []


def test_a_deleted_account_gets_nothing(
    app: Application, server: MailServer, ann: User, sign_up: Callable[..., User]
) -> None:
    """Neither a link that was sent before it was deleted works, nor is another sent."""
    bob = sign_up(app, "bob@example.com")
    send_all(app)
    secret = asked(app, server, "bob@example.com")
    closing.delete_account(app, bob, PASSWORD, forfeit_mt=0)
    with pytest.raises(errors.EmailLinkError):
        password_reset.set_password(app, secret, NEW)
    password_reset.request_reset(app, "bob@example.com")
    assert send_all(app) == ["dropped"]


def test_requests_are_limited(open_app: OpenApp, server: MailServer, sign_up: Callable[..., User]) -> None:
    """One network is told to wait; for one address the sixth mail of an hour is silently not sent."""
    app = open_app(rate_resets=3, **server.settings())
    sign_up(app)
    send_all(app)
    for number in range(3):
        password_reset.request_reset(app, f"a{number}@example.com", address=HERE)
    with pytest.raises(errors.TooManyFromHereError):
        password_reset.request_reset(app, "ann@example.com", address=HERE)
    with pytest.raises(errors.TooManyFromHereError):
        password_reset.set_password(app, "x", NEW, address=HERE)
    send_all(app)
    for number in range(8):
        password_reset.request_reset(app, "ann@example.com", address=f"198.51.100.{number}")
    assert send_all(app) == ["sent"] * 5


def test_who_was_locked_out_is_let_in(app: Application, server: MailServer, ann: User) -> None:
    """Somebody else's guesses do not keep the owner out once he has shown by a mail who he is."""
    for _number in range(app.settings.sign_in_attempts_max):
        with pytest.raises(errors.BadCredentialsError):
            sign_in.sign_in(app, ann.email, "a wrong guess of it")
    with pytest.raises(errors.TooManyAttemptsError):
        sign_in.sign_in(app, ann.email, PASSWORD)
    password_reset.set_password(app, asked(app, server), NEW)
    sign_in.sign_in(app, ann.email, NEW)


def test_the_operator_hands_over_a_link(app: Application, server: MailServer, ann: User) -> None:
    """It sets a password once, ends mailed links, confirms no address, and is on the record."""
    mailed = asked(app, server)
    secret = password_reset.make_link(app.db, " Ann@example.com")
    with pytest.raises(errors.EmailLinkError):
        password_reset.set_password(app, mailed, NEW)
    password_reset.set_password(app, secret, NEW)
    sign_in.sign_in(app, ann.email, NEW)
    with app.db.read() as session:
        assert session.get_one(User, ann.id).email_verified_at is None
        rows = session.connection().execute(
            text("SELECT actor, action FROM audit_event WHERE action LIKE '%reset%' ORDER BY created_at")
        )
        assert [tuple(row) for row in rows] == [
            ("operator", "user.make_reset_link"),
            (ann.id, "user.reset_password"),
        ]
    with pytest.raises(errors.MemberNotFoundError):
        password_reset.make_link(app.db, "eve@example.com")


def test_a_changed_password_ends_links(app: Application, server: MailServer, ann: User) -> None:
    """A link that was mailed before the password was changed, or a second factor turned on, works no more."""
    token = sign_in.open_session(app, sign_in.sign_in(app, ann.email, PASSWORD))
    secret = asked(app, server)
    ticket = profile.change_password(app, ann, token, PASSWORD, NEW).ticket
    with pytest.raises(errors.EmailLinkError):
        password_reset.look_at_link(app, secret)
    secret, token = asked(app, server), sign_in.open_session(app, ticket)
    enrolment = second_factor.begin(app, ann, NEW)
    second_factor.turn_on(app, ann, token, enrolment, pyotp.TOTP(enrolment.seed).at(utcnow()))
    with pytest.raises(errors.EmailLinkError):
        password_reset.look_at_link(app, secret)


def test_a_stranger_ends_no_link_of_the_operators(app: Application, server: MailServer, ann: User) -> None:
    """Asking for a mail leaves the link that the operator handed over; whichever is used ends the other."""
    printed = password_reset.make_link(app.db, ann.email)
    mailed = asked(app, server)
    assert password_reset.look_at_link(app, printed) == ann.email
    password_reset.set_password(app, mailed, NEW)
    with pytest.raises(errors.EmailLinkError):
        password_reset.look_at_link(app, printed)


def test_two_links_at_once(app: Application, ann: User) -> None:
    """Of two that are made at once one is left."""
    with ThreadPoolExecutor(1) as pool:
        with app.db.write() as session:
            email_links.issue_link(session, ann.id, "reset")
            other = pool.submit(password_reset.make_link, app.db, ann.email)
            time.sleep(0.5)
        other.result(30)
    with app.db.read() as session:
        left = "SELECT count(*) FROM email_link WHERE kind IN ('reset', 'printed')"
        assert session.connection().execute(text(left)).scalar_one() == 1


def test_an_old_request_is_dropped(app: Application, server: MailServer, ann: User) -> None:
    """A mail that waited for its server longer than a link lives is not sent: nobody waits for it any more."""
    password_reset.request_reset(app, ann.email)
    change(app, "UPDATE mail SET created_at = :past WHERE kind = 'reset'", past=PAST)
    assert send_all(app) == ["dropped"]


def test_whom_the_provider_looks_after(open_app: OpenApp, database_url: str, server: MailServer) -> None:
    """Somebody without a password who signs in at the provider gets none by mail; the operator can give him one."""
    app = open_app(
        database_url=database_url, oidc_issuer="https://id.example.com", oidc_client_id="x", **server.settings()
    )
    sign_in.sign_up(app, "ann@example.com", PASSWORD)
    send_all(app)
    with app.db.write() as session:
        ann = users.find_user(session, "ann@example.com")
        assert ann is not None
        users.set_password(session, ann.id, "")
        oidc_rows.link(session, ann.id, "https://elsewhere.example.com", "1")
    asked(app, server)
    with app.db.write() as session:
        oidc_rows.link(session, ann.id, "https://id.example.com", "1")
    password_reset.request_reset(app, "ann@example.com")
    assert send_all(app) == ["dropped"]
    password_reset.set_password(app, password_reset.make_link(app.db, "ann@example.com"), NEW)
    sign_in.sign_in(app, "ann@example.com", NEW)


def test_making_and_deleting_accounts_is_no_mail_bomb(
    app: Application, server: MailServer, ann: User, sign_up: Callable[..., User]
) -> None:
    """Ten mails a day go to an address, however often an account with it is made, asked for, and deleted."""
    for _number in range(12):
        bob = sign_up(app, "bob@example.com")
        password_reset.request_reset(app, "bob@example.com")
        change(app, "UPDATE mail SET created_at = :hours_ago", hours_ago=(utcnow() - timedelta(hours=2)).isoformat(" "))
        closing.delete_account(app, bob, PASSWORD, forfeit_mt=0)
    with app.db.read() as session:
        rows = session.connection().execute(text("SELECT kind, user_id, email FROM mail WHERE outcome = 'dropped'"))
        assert sorted(tuple(row) for row in rows) == [("confirm", None, "")] * 5 + [("reset", None, "")] * 5
    with pytest.raises(errors.TooManyMailsError):
        confirmation.ask_again(app, sign_up(app, "bob@example.com"))


def test_requests_do_not_fill_the_table(app: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond so many that wait, requests are silently not stored."""
    monkeypatch.setattr(outbox, "ASKED_WAITING_MAX", 2)
    for number in range(4):
        password_reset.request_reset(app, f"a{number}@example.com")
    with app.db.read() as session:
        assert session.connection().execute(text("SELECT count(*) FROM mail")).scalar_one() == 2
