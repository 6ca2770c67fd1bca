"""Confirming an address: the welcome tokens come with it, once for an address, whoever tries what."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from core import errors
from core.identity.tables import User
from core.services import closing, confirmation, sign_in
from core.services.application import Application
from core.services.mails import send_next
from tests.conftest import PASSWORD, OpenApp
from tests.core.services import test_mails
from tests.core.services.helpers import balance, change
from tests.mail_server import MailServer, Received

PAST = "2001-01-01 00:00:00.000000"

server = test_mails.server


@pytest.fixture
def app(open_app: OpenApp, database_url: str, server: MailServer) -> Application:
    """An application that sends mail, on each kind of database, with its operator."""
    app = open_app(database_url=database_url, **server.settings())
    sign_in.sign_up(app, "operator@example.com", PASSWORD)
    return app


def mailed(app: Application, server: MailServer, email: str) -> Received:
    """The newest mail to an address, after all that is due was sent."""
    assert app.smtp is not None
    while send_next(app, app.smtp):
        pass
    return [one for one in server.received if one.to == [email]][-1]


def anew(app: Application, user: User) -> User:
    """A user as he is now."""
    with app.db.read() as session:
        return session.get_one(User, user.id)


def test_tokens_come_with_the_address(app: Application, server: MailServer, sign_up: Callable[..., User]) -> None:
    """Nothing is given at sign-up; the link gives it, once, with the address confirmed."""
    ann = sign_up(app, "ann@example.com")
    assert balance(app, ann) == (0, 0)
    assert confirmation.find_unconfirmed(app, ann) == confirmation.Unconfirmed("on its way", 20_000)
    secret = mailed(app, server, "ann@example.com").secret
    assert confirmation.find_unconfirmed(app, ann) == confirmation.Unconfirmed("sent", 20_000)
    assert confirmation.look_at_link(app, secret) == "ann@example.com"
    assert confirmation.confirm(app, secret) == confirmation.Confirmed("ann@example.com", 20_000)
    assert balance(app, ann) == (20_000, 0)
    assert confirmation.find_unconfirmed(app, anew(app, ann)) is None
    for _attempt in range(2):
        with pytest.raises(errors.EmailLinkError) as refused:
            confirmation.confirm(app, secret)
        assert refused.value.details == {"was_used": True}
    assert balance(app, ann) == (20_000, 0)


def test_many_tabs_at_once(app: Application, server: MailServer, sign_up: Callable[..., User]) -> None:
    """Sixteen tabs that confirm at one moment give the tokens once."""
    ann = sign_up(app, "ann@example.com")
    secret = mailed(app, server, "ann@example.com").secret

    def tab(_number: int) -> int:
        try:
            return confirmation.confirm(app, secret).welcome_mt
        except errors.EmailLinkError:
            return 0

    with ThreadPoolExecutor(16) as pool:
        assert sorted(pool.map(tab, range(16)))[-2:] == [0, 20_000]
    assert balance(app, ann) == (20_000, 0)


def test_an_address_is_welcomed_once(app: Application, server: MailServer, sign_up: Callable[..., User]) -> None:
    """Whoever confirmed, left and comes again confirms again, and gets nothing for it."""
    ann = sign_up(app, "ann@example.com")
    confirmation.confirm(app, mailed(app, server, "ann@example.com").secret)
    closing.delete_account(app, anew(app, ann), PASSWORD, forfeit_mt=20_000)
    again = sign_up(app, " Ann@Example.COM ")
    assert confirmation.find_unconfirmed(app, again) == confirmation.Unconfirmed("on its way", 0)
    assert confirmation.confirm(app, mailed(app, server, "ann@example.com").secret).welcome_mt == 0
    assert balance(app, again) == (0, 0)


def test_a_strangers_attempt_costs_nothing(app: Application, server: MailServer, sign_up: Callable[..., User]) -> None:
    """Somebody who used another's address and left before it was confirmed has not used up its welcome."""
    eve = sign_up(app, "ann@example.com")
    theirs = mailed(app, server, "ann@example.com").secret
    closing.delete_account(app, eve, PASSWORD, forfeit_mt=0)
    with pytest.raises(errors.EmailLinkError):
        confirmation.confirm(app, theirs)
    ann = sign_up(app, "ann@example.com")
    assert confirmation.confirm(app, mailed(app, server, "ann@example.com").secret).welcome_mt == 20_000
    assert balance(app, ann) == (20_000, 0)


def test_a_newer_mail_takes_the_place_of_an_older(
    app: Application, server: MailServer, sign_up: Callable[..., User]
) -> None:
    """Asked again, the older link ends; five an hour are sent, then it is said to wait."""
    ann = sign_up(app, "ann@example.com")
    first = mailed(app, server, "ann@example.com").secret
    for _number in range(4):
        confirmation.ask_again(app, ann)
    with pytest.raises(errors.TooManyMailsError):
        confirmation.ask_again(app, ann)
    newest = mailed(app, server, "ann@example.com").secret
    with pytest.raises(errors.EmailLinkError) as refused:
        confirmation.confirm(app, first)
    assert refused.value.details == {"was_used": False}
    assert confirmation.confirm(app, newest).welcome_mt == 20_000


def test_an_old_link(app: Application, server: MailServer, sign_up: Callable[..., User]) -> None:
    """After three days a link does nothing, nor does any other text."""
    ann = sign_up(app, "ann@example.com")
    secret = mailed(app, server, "ann@example.com").secret
    change(app, "UPDATE email_link SET expires_at = :past", past=PAST)
    for text in (secret, "", "x" * 5000, "\ud800", "' OR 1=1 --"):
        with pytest.raises(errors.EmailLinkError):
            confirmation.confirm(app, text)
    assert balance(app, ann) == (0, 0)


def test_without_mail_all_stays_as_it_was(open_app: OpenApp, database_url: str, sign_up: Callable[..., User]) -> None:
    """No mail server: the tokens are given at sign-up, and nobody is asked to confirm anything."""
    app = open_app(database_url=database_url)
    ann = sign_up(app, "ann@example.com")
    assert balance(app, ann) == (20_000, 0)
    assert confirmation.find_unconfirmed(app, ann) is None


def test_who_was_welcomed_before_mail_was_set_up(
    open_app: OpenApp, database_url: str, server: MailServer, sign_up: Callable[..., User]
) -> None:
    """An account of earlier days can confirm its address, and is not welcomed twice."""
    ann = sign_up(open_app(database_url=database_url), "ann@example.com")
    app = open_app(database_url=database_url, **server.settings())
    assert confirmation.find_unconfirmed(app, ann) == confirmation.Unconfirmed("none", 0)
    confirmation.ask_again(app, ann)
    assert confirmation.confirm(app, mailed(app, server, "ann@example.com").secret).welcome_mt == 0
    assert balance(app, ann) == (20_000, 0)
