"""The outbox: who gets a mail, once, and what happens when the server does not take it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import text

from core.identity.tables import User
from core.mail import outbox
from core.services import doctor, mails
from core.services.application import Application
from core.services.mails import MailKeeper, send_next
from tests.conftest import OpenApp
from tests.core.services.helpers import change
from tests.mail_server import MailServer, mail_server

PAST = "2001-01-01 00:00:00.000000"


@pytest.fixture
def server() -> Iterator[MailServer]:
    """A mail server."""
    with mail_server() as server:
        yield server


@pytest.fixture
def app(open_app: OpenApp, database_url: str, server: MailServer) -> Application:
    """An application that sends mail, on each kind of database."""
    return open_app(database_url=database_url, **server.settings())


def attempt(app: Application) -> str | None:
    """One attempt at what is due."""
    assert app.smtp is not None
    return send_next(app, app.smtp)


def everything(app: Application) -> str:
    """All that the tables of mails and links hold, as text."""
    with app.db.read() as session:
        rows = [session.connection().execute(text(f"SELECT * FROM {table}")).all() for table in ("mail", "email_link")]
    return repr(rows)


def test_one_mail_once(app: Application, server: MailServer, sign_up: Callable[..., User]) -> None:
    """Eight senders at once send a mail once, and nothing of its secret is in the database or the log."""
    sign_up(app, "ann@example.com")
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda _n: attempt(app), range(8)))
    assert [one for one in outcomes if one] == ["sent"]
    [got] = server.received
    assert got.to == ["ann@example.com"]
    assert got.link.startswith("https://vision.example.com/?confirm=")
    assert got.secret not in everything(app)
    assert attempt(app) is None


def test_a_mail_speaks_its_readers_language(app: Application, server: MailServer, sign_up: Callable[..., User]) -> None:
    """The language is the user's own."""
    sign_up(app, "ann@example.com")
    change(app, "UPDATE user_ SET language = 'zh_CN'")
    attempt(app)
    assert server.received[0].message["Subject"] == "请确认您的邮箱地址"


def test_nothing_personal_is_logged(
    app: Application, server: MailServer, sign_up: Callable[..., User], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the address nor the link stands in a line of the log, whatever the server says."""
    sign_up(app, "ann@example.com")
    server.reply = "451 ann@example.com is busy"
    with caplog.at_level(logging.DEBUG, logger="visionmeter"):
        assert attempt(app) == "retried"
        change(app, "UPDATE mail SET next_attempt_at = :past", past=PAST)
        server.reply = ""
        assert attempt(app) == "sent"
    assert "sent" in caplog.text
    assert "ann@example.com" not in caplog.text
    assert server.received[0].secret not in caplog.text


def test_a_mail_is_tried_again_and_given_up(app: Application, server: MailServer, sign_up: Callable[..., User]) -> None:
    """What the server puts off waits longer and longer, and ends visibly after the last attempt."""
    sign_up(app, "ann@example.com")
    server.reply = "451 later"
    outcomes = []
    for _number in range(outbox.ATTEMPTS_MAX):
        outcomes.append(attempt(app))
        assert attempt(app) is None  # not before its pause is over
        change(app, "UPDATE mail SET next_attempt_at = :past WHERE ended_at IS NULL", past=PAST)
    assert outcomes == ["retried"] * (outbox.ATTEMPTS_MAX - 1) + ["given_up"]
    assert attempt(app) is None
    [finding] = [one for one in doctor.examine(app.settings) if one.subject == "mail" and one.level == "warning"]
    assert finding.sentence.startswith("1 mails")
    assert "SMTPRecipientsRefused 451" in everything(app)


def test_each_attempt_has_its_own_link(app: Application, server: MailServer, sign_up: Callable[..., User]) -> None:
    """A server that took a mail and could not say so gets another with a new link: the older one ends."""
    sign_up(app, "ann@example.com")
    attempt(app)
    change(app, "UPDATE mail SET ended_at = NULL, outcome = '', next_attempt_at = :past", past=PAST)
    attempt(app)
    first, second = server.received
    assert first.secret != second.secret
    assert first.message["Message-ID"] != second.message["Message-ID"]
    with app.db.read() as session:
        assert session.connection().execute(text("SELECT count(*) FROM email_link")).scalar_one() == 1


def test_an_address_that_is_refused(app: Application, server: MailServer, sign_up: Callable[..., User]) -> None:
    """A 5xx for the recipient gives up at once."""
    sign_up(app, "ann@example.com")
    server.reply = "550 unknown"
    assert attempt(app) == "given_up"
    assert attempt(app) is None


def test_a_server_that_is_away(app: Application, server: MailServer, sign_up: Callable[..., User]) -> None:
    """While the server is down nothing is lost; when it is back everything goes."""
    assert app.smtp is not None
    sign_up(app, "ann@example.com")
    nobody = replace(app.smtp, port=1)
    assert send_next(app, nobody) == "down"
    change(app, "UPDATE mail SET next_attempt_at = :past", past=PAST)
    assert attempt(app) == "sent"
    assert len(server.received) == 1


def test_who_is_gone_gets_nothing(app: Application, server: MailServer, sign_up: Callable[..., User]) -> None:
    """A mail for somebody who was removed meanwhile, or has confirmed by now, is dropped."""
    ann, bob = sign_up(app, "ann@example.com"), sign_up(app, "bob@example.com")
    change(app, "UPDATE user_ SET disabled_at = :past, is_operator = false WHERE id = :id", past=PAST, id=ann.id)
    change(app, "UPDATE user_ SET email_verified_at = :past WHERE id = :id", past=PAST, id=bob.id)
    assert [attempt(app), attempt(app), attempt(app)] == ["dropped", "dropped", None]
    assert server.received == []


def test_a_kind_of_another_version_waits_for_it(
    app: Application, server: MailServer, sign_up: Callable[..., User], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an upgrade an older process leaves alone what only a newer one can say, and sends what comes after it."""
    sign_up(app, "ann@example.com")
    with app.db.write() as session:
        outbox.put_asked(session, "sign_up", "bob@example.com", facts={"language": "en"})
    change(app, "UPDATE mail SET next_attempt_at = :past WHERE kind = 'sign_up'", past=PAST)
    with monkeypatch.context() as older:
        older.setattr(outbox, "KINDS", ("confirm",))
        assert [attempt(app), attempt(app)] == ["sent", None]
    assert attempt(app) == "sent"
    assert [one.to for one in server.received] == [["ann@example.com"], ["bob@example.com"]]


def test_the_keeper_sends(app: Application, server: MailServer, sign_up: Callable[..., User]) -> None:
    """The thread finds what is due by itself, tells its outcome, and cleans up what ended long ago."""
    told: list[str] = []
    sign_up(app, "ann@example.com")
    keeper = MailKeeper(app, told=told.append)
    keeper.start()
    try:
        server.wait_for("ann@example.com")
    finally:
        keeper.stop()
    assert told == ["sent"]
    change(app, "UPDATE mail SET created_at = :past", past=PAST)
    change(app, "UPDATE email_link SET expires_at = :past", past=PAST)
    mails.clean_up(app)
    assert everything(app) == "[[], []]"


def test_a_long_queue_keeps_no_balance_back(app: Application, server: MailServer, sign_up: Callable[..., User]) -> None:
    """A balance that falls while mails are sent is told of between two of them."""
    ann = sign_up(app, "ann@example.com")
    sign_up(app, "bob@example.com")
    untold: list[int] = []

    def told(_outcome: str) -> None:
        if not untold:
            statement = (
                "INSERT INTO low_balance_alert (account_id, seq, threshold_mt, posted_after_mt, created_at) "
                "VALUES (:account, 1, 10, 5, :now)"
            )
            change(app, statement, account=ann.account_id, now=PAST)
        with app.db.read() as session:
            count = "SELECT count(*) FROM low_balance_alert WHERE told_at IS NULL"
            untold.append(session.connection().execute(text(count)).scalar_one())

    assert MailKeeper(app, told=told)._send_due()
    assert untold == [1, 0]
