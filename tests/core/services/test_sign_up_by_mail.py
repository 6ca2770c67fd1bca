"""Opening an account where mail is sent: the address first, the password behind the link, nothing before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlmodel import Session

from core import errors
from core.db import Database, utcnow
from core.identity import oidc_rows
from core.identity.tables import User
from core.services import (
    closing,
    confirmation,
    customer_invitations,
    mails,
    password_reset,
    sign_in,
    sign_up_by_mail,
    team,
)
from core.services.application import Application
from tests.conftest import PASSWORD, OpenApp
from tests.core.services import test_mails
from tests.core.services.helpers import balance, change
from tests.core.services.test_password_reset import send_all
from tests.mail_server import PUBLIC_URL, MailServer

PAST = "2001-01-01 00:00:00.000000"
ANN, OPERATOR = "ann@example.com", "operator@example.com"
NEW = "violet harbour kettle moss"
HERE = "203.0.113.7"

server = test_mails.server


@pytest.fixture
def app(open_app: OpenApp, database_url: str, server: MailServer) -> Application:
    """An application that sends mail, on each kind of database, with its operator, whose own mail was sent."""
    app = open_app(database_url=database_url, **server.settings())
    sign_in.sign_up(app, OPERATOR, PASSWORD)
    send_all(app)
    server.received.clear()
    return app


def asked(app: Application, server: MailServer, email: str = ANN, language: str = "en") -> str:
    """Ask for an account; gives the secret that was mailed."""
    sign_up_by_mail.request_mail(app, email, language=language)
    assert send_all(app) == ["sent"]
    return server.received[-1].secret


def enter(app: Application, ticket: str) -> User:
    """Whom a ticket signs in."""
    user = sign_in.signed_in_user(app, sign_in.open_session(app, ticket))
    assert user is not None
    return user


def opened(app: Application, server: MailServer, email: str = ANN) -> User:
    """Somebody who opened an account by mail."""
    return enter(app, sign_up_by_mail.open_account(app, asked(app, server, email), PASSWORD).ticket)


def count(app: Application, table: str) -> int:
    """How many rows a table has."""
    with app.db.read() as session:
        return int(session.connection().execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def test_an_account_begins_with_its_mail(app: Application, server: MailServer) -> None:
    """The wish alone makes nothing; the link makes the account, confirmed, welcomed and signed in, once."""
    tables = ("user_", "account", "entry", "audit_event", "user_session", "sign_in_ticket", "email_link")
    before = [count(app, table) for table in tables]
    secret = asked(app, server, " Ann@Example.com", "zh_CN")
    assert [count(app, table) for table in tables] == before
    [mail] = server.received
    assert (mail.to, mail.message["Subject"]) == ([ANN], "请创建您的账户")
    assert mail.link == f"{PUBLIC_URL}/?sign_up={secret}"
    assert sign_up_by_mail.look_at_link(app, secret) == ANN
    assert [count(app, table) for table in tables] == before
    done = sign_up_by_mail.open_account(app, secret, PASSWORD, language="zh_CN")
    assert done.welcome_mt == 20_000
    ann = enter(app, done.ticket)
    assert (ann.email, ann.role, ann.language, ann.is_operator) == (ANN, "owner", "zh_CN", False)
    assert ann.email_verified_at is not None
    assert confirmation.find_unconfirmed(app, ann) is None
    assert balance(app, ann) == (20_000, 0)
    for deed in (sign_up_by_mail.look_at_link, lambda app, secret: sign_up_by_mail.open_account(app, secret, NEW)):
        with pytest.raises(errors.EmailLinkError) as refused:
            deed(app, secret)
        assert refused.value.details == {"was_used": True}
    assert enter(app, sign_in.sign_in(app, ANN, PASSWORD)).id == ann.id
    assert send_all(app) == []


def test_whose_address_is_taken_is_told_by_mail(app: Application, server: MailServer) -> None:
    """He reads that he has an account, in his language, and where to go; no link in it opens anything by itself."""
    ann = opened(app, server)
    change(app, "UPDATE user_ SET language = 'zh_CN' WHERE id = :id", id=ann.id)
    links = count(app, "sign_up_link"), count(app, "email_link")
    server.received.clear()
    sign_up_by_mail.request_mail(app, ANN)
    assert send_all(app) == ["sent"]
    [mail] = server.received
    assert (mail.to, mail.message["Subject"]) == ([ANN], "您已有账户")
    assert [line for line in mail.text.split("\n") if line.startswith("http")] == [
        f"{PUBLIC_URL}/",
        f"{PUBLIC_URL}/?forgotten=1",
    ]
    assert (count(app, "sign_up_link"), count(app, "email_link")) == links
    enter(app, sign_in.sign_in(app, ANN, PASSWORD))


def test_whom_the_provider_lets_in_is_told_of_no_password(
    app: Application, server: MailServer, open_app: OpenApp, database_url: str
) -> None:
    """He reads where he signs in, and of no link for a new password, which he would not get."""
    issuer = "https://id.example.com"
    ann = opened(app, server)
    change(app, "UPDATE user_ SET password_digest = '' WHERE id = :id", id=ann.id)
    with app.db.write() as session:
        oidc_rows.link(session, ann.id, issuer, "ann")
    app = open_app(
        database_url=database_url, **server.settings(oidc_issuer=issuer, oidc_client_id="x", oidc_client_secret="y")
    )
    server.received.clear()
    sign_up_by_mail.request_mail(app, ANN)
    assert send_all(app) == ["sent"]
    [mail] = server.received
    assert mail.message["Subject"] == "You have an account already"
    assert [line for line in mail.text.split("\n") if line.startswith("http")] == [f"{PUBLIC_URL}/"]
    assert "password" not in mail.text


def test_a_stranger_prepares_nothing(app: Application, server: MailServer) -> None:
    """Whatever he asks before and after the owner of an address does, only a password typed behind a mail opens it: any
    of them, and then no other."""
    strangers, owners, again = asked(app, server), asked(app, server), asked(app, server)
    server.reply = "451 later"
    sign_up_by_mail.request_mail(app, ANN)
    assert send_all(app) == ["retried"]
    for _number in range(3):
        with pytest.raises(errors.BadCredentialsError):
            sign_in.sign_in(app, ANN, PASSWORD)
    ann = enter(app, sign_up_by_mail.open_account(app, owners, NEW).ticket)
    for secret in (strangers, owners, again):
        with pytest.raises(errors.EmailLinkError):
            sign_up_by_mail.open_account(app, secret, PASSWORD)
    assert [one.email for one in team.list_members(app, ann)] == [ANN]
    with pytest.raises(errors.BadCredentialsError):
        sign_in.sign_in(app, ANN, PASSWORD)
    enter(app, sign_in.sign_in(app, ANN, NEW))


def test_many_tabs_at_once(app: Application, server: MailServer) -> None:
    """Of eight tabs with the same link one opens the account, with its password, and the tokens come once."""
    secret = asked(app, server)
    passwords = [f"violet harbour kettle {number} moss" for number in range(8)]

    def tab(password: str) -> bool:
        try:
            sign_up_by_mail.open_account(app, secret, password)
        except errors.EmailLinkError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(tab, passwords))
    assert won.count(True) == 1
    assert balance(app, enter(app, sign_in.sign_in(app, ANN, passwords[won.index(True)]))) == (20_000, 0)


def test_who_comes_again_is_welcomed_once(app: Application, server: MailServer) -> None:
    """The address of a deleted account opens another as any new one does, without tokens."""
    closing.delete_account(app, opened(app, server), PASSWORD, forfeit_mt=20_000)
    done = sign_up_by_mail.open_account(app, asked(app, server), NEW)
    assert done.welcome_mt == 0
    assert balance(app, enter(app, done.ticket)) == (0, 0)


def test_a_refusal_leaves_the_link(
    app: Application, server: MailServer, open_app: OpenApp, database_url: str, sign_up: Callable[..., User]
) -> None:
    """A weak password, a policy that changed, an account that came otherwise: nothing is used up."""
    secret = asked(app, server)
    for password in ("short", "password123!", "ann2024!ann2024!"):
        with pytest.raises(errors.WeakPasswordError):
            sign_up_by_mail.open_account(app, secret, password)
    closed = open_app(database_url=database_url, **server.settings(sign_up="closed"))
    with pytest.raises(errors.SignUpClosedError):
        sign_up_by_mail.open_account(closed, secret, PASSWORD)
    other = asked(app, server, "bob@example.com")
    sign_up(app, "bob@example.com")
    with pytest.raises(errors.EmailTakenError):
        sign_up_by_mail.open_account(app, other, NEW)
    assert sign_up_by_mail.look_at_link(app, other) == "bob@example.com"
    enter(app, sign_up_by_mail.open_account(app, secret, PASSWORD).ticket)


def test_what_nobody_opened_goes(app: Application, server: MailServer) -> None:
    """After three days a link does nothing and its address is in no table; other texts are no links."""
    secret = asked(app, server)
    for guess in ("", "x" * 5000, "\ud800", "' OR 1=1 --"):
        with pytest.raises(errors.EmailLinkError):
            sign_up_by_mail.open_account(app, guess, PASSWORD)
    with app.db.read() as session:
        [row] = session.connection().execute(text("SELECT * FROM sign_up_link")).all()
    assert secret not in repr(row)
    change(app, "UPDATE sign_up_link SET expires_at = :past", past=PAST)
    with pytest.raises(errors.EmailLinkError) as refused:
        sign_up_by_mail.open_account(app, secret, PASSWORD)
    assert refused.value.details == {"was_used": False}
    change(app, "UPDATE mail SET created_at = :past", past=PAST)
    mails.clean_up(app)
    assert (count(app, "sign_up_link"), count(app, "mail")) == (0, 0)


def test_no_old_wish_is_kept_or_sent(
    app: Application, server: MailServer, open_app: OpenApp, database_url: str
) -> None:
    """Where the mail server was taken away, an address that somebody typed goes after two days, and hears no more."""

    def wish() -> None:
        sign_up_by_mail.request_mail(app, ANN)
        three_days_ago = (utcnow() - timedelta(days=3)).isoformat(" ")
        change(app, "UPDATE mail SET created_at = :then WHERE kind = 'sign_up'", then=three_days_ago)

    wish()
    mails.clean_up(open_app(database_url=database_url))
    assert count(app, "mail WHERE kind = 'sign_up'") == 0
    wish()
    assert send_all(app) == ["dropped"]


def test_a_used_link_keeps_no_address(app: Application, server: MailServer) -> None:
    """Neither the row of a used link nor, after the account is deleted, one that was not used names anybody."""
    ann = opened(app, server)
    with app.db.read() as session:
        assert session.connection().execute(text("SELECT email FROM sign_up_link")).scalars().all() == [""]
    change(app, "UPDATE sign_up_link SET email = :email, used_at = NULL", email=ANN)
    closing.delete_account(app, ann, PASSWORD, forfeit_mt=20_000)
    assert count(app, "sign_up_link") == 0


def test_who_deletes_his_account_meanwhile_hears_no_more(
    app: Application, server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An account that is deleted after its mail was claimed gets none, and no link names its address."""
    ann = opened(app, server)
    server.received.clear()
    sign_up_by_mail.request_mail(app, ANN)
    write, writes = Database.write, 0

    @contextmanager
    def delete_after_the_claim(db: Database) -> Iterator[Session]:
        nonlocal writes
        writes += 1
        if writes == 2:
            closing.delete_account(app, ann, PASSWORD, forfeit_mt=20_000)
        with write(db) as session:
            yield session

    monkeypatch.setattr(Database, "write", delete_after_the_claim)
    assert send_all(app) == ["dropped"]
    assert server.received == []
    assert count(app, "sign_up_link WHERE used_at IS NULL") == 0


def test_forgetting_before_opening(app: Application, server: MailServer) -> None:
    """Who asks for a new password before he has opened his account gets none, and his link goes on working."""
    secret = asked(app, server)
    password_reset.request_reset(app, ANN)
    assert send_all(app) == ["dropped"]
    enter(app, sign_up_by_mail.open_account(app, secret, PASSWORD).ticket)


def test_a_late_mail_tells_nobody_that_he_has_what_he_opened(app: Application, server: MailServer) -> None:
    """A wish that waited for the server while another of the same person opened the account is dropped."""
    sign_up_by_mail.request_mail(app, ANN)
    secret = asked_of_two(app, server)
    enter(app, sign_up_by_mail.open_account(app, secret, PASSWORD).ticket)
    change(app, "UPDATE mail SET next_attempt_at = :past", past=PAST)
    assert send_all(app) == ["dropped"]


def asked_of_two(app: Application, server: MailServer) -> str:
    """Ask once more while the mail that was asked for before is put off; gives the secret that is mailed."""
    server.reply = "451 later"
    assert send_all(app) == ["retried"]
    server.reply = ""
    return asked(app, server)


def test_it_is_no_mail_bomb(open_app: OpenApp, database_url: str, server: MailServer) -> None:
    """Five mails a day, from wherever they are asked for, and nobody is told that they were enough; as many are left to
    whoever forgot his password."""
    app = open_app(database_url=database_url, rate_sign_ups=3, **server.settings())
    sign_in.sign_up(app, OPERATOR, PASSWORD)
    send_all(app)
    for number in range(8):
        sign_up_by_mail.request_mail(app, ANN, address=f"198.51.100.{number}")
    assert send_all(app) == ["sent"] * 5
    two_hours_ago = (utcnow() - timedelta(hours=2)).isoformat(" ")
    change(app, "UPDATE mail SET created_at = :then", then=two_hours_ago)
    for number in range(8):
        sign_up_by_mail.request_mail(app, ANN, address=f"192.0.2.{number}")
    assert send_all(app) == []
    for number in range(8):
        password_reset.request_reset(app, ANN, address=f"198.51.100.{number}")
    assert send_all(app) == ["dropped"] * 5  # she has no account: there is no password to forget
    for number in range(3):
        sign_up_by_mail.request_mail(app, f"a{number}@example.com", address=HERE)
    for email in (ANN, "new@example.com"):
        with pytest.raises(errors.TooManyFromHereError):
            sign_up_by_mail.request_mail(app, email, address=HERE)


def test_a_name_that_no_mail_reaches_is_refused(app: Application) -> None:
    """A name before the @ in another script is refused at once, and a domain in one is not."""
    for email in ("jörg@example.com", "用户@example.com"):
        with pytest.raises(errors.InvalidEmailError):
            sign_up_by_mail.request_mail(app, email)
    assert send_all(app) == []
    sign_up_by_mail.request_mail(app, "ann@bücher.example")
    assert send_all(app) == ["sent"]


def test_a_password_alone_opens_nothing(app: Application) -> None:
    """Where mail is sent, a form with a password that was drawn before tells nobody who is here."""
    for email in (OPERATOR, ANN):
        with pytest.raises(errors.MailFirstError):
            sign_in.sign_up(app, email, PASSWORD)
    assert count(app, "user_") == 1


def test_of_two_who_are_first_one_is(open_app: OpenApp, database_url: str, server: MailServer) -> None:
    """Four who sign up at once on a new installation: one becomes its operator, the others begin with a mail."""
    app = open_app(database_url=database_url, **server.settings())
    assert not sign_up_by_mail.is_needed(app)

    def first(number: int) -> bool:
        try:
            sign_in.sign_up(app, f"first{number}@example.com", PASSWORD)
        except errors.MailFirstError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(first, range(4))) == [False, False, False, True]
    assert sign_up_by_mail.is_needed(app)


@pytest.mark.parametrize("policy", ["invitation", "closed"])
def test_by_invitation_nobody_asks(policy: str, open_app: OpenApp, database_url: str, server: MailServer) -> None:
    """Where accounts are not open a wish is refused, for a known address as for any; the invited enter at once."""
    app = open_app(database_url=database_url, **server.settings(sign_up=policy))
    operator = enter(app, sign_in.sign_up(app, OPERATOR, PASSWORD))
    for email in (OPERATOR, ANN):
        with pytest.raises(errors.SignUpClosedError) as refused:
            sign_up_by_mail.request_mail(app, email)
        assert refused.value.details == {"policy": policy}
    code = team.invite_member(app, operator, ANN, "member")
    assert enter(app, sign_in.sign_up(app, ANN, PASSWORD, invitation=code)).account_id == operator.account_id


def test_whom_no_mail_reaches_is_invited(app: Application, server: MailServer) -> None:
    """The operator's invitation opens an account at once, also where anybody may ask for one; its tokens wait."""
    server.reply = "550 unknown"
    sign_up_by_mail.request_mail(app, ANN)
    assert send_all(app) == ["given_up"]
    operator = enter(app, sign_in.sign_in(app, OPERATOR, PASSWORD))
    code = customer_invitations.invite_customer(app, operator, ANN)
    ann = enter(app, sign_in.sign_up(app, ANN, PASSWORD, invitation=code))
    assert ann.account_id != operator.account_id
    assert balance(app, ann) == (0, 0)


def test_without_mail_an_account_is_opened_at_once(open_app: OpenApp, database_url: str) -> None:
    """No mail server: nobody waits for a mail that nobody sends, and that an address is taken is said."""
    app = open_app(database_url=database_url)
    sign_in.sign_up(app, OPERATOR, PASSWORD)
    assert not sign_up_by_mail.is_needed(app)
    assert balance(app, enter(app, sign_in.sign_up(app, ANN, PASSWORD))) == (20_000, 0)
    with pytest.raises(errors.EmailTakenError):
        sign_in.sign_up(app, ANN, PASSWORD)
