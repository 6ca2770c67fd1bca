"""A low balance is told once for each crossing, however many charges cross it and however many look for it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import visionmeter_client
from sqlalchemy import text

from core import errors
from core.identity import users
from core.identity.tables import User
from core.ledger import ledger
from core.services import limits, sign_in, team, webhooks
from core.services.application import Application
from core.services.balance_alerts import announce_alerts
from core.services.mails import send_next
from core.services.webhooks import deliver_next
from gateway.answers import delivery_answer, webhook_body
from tests.conftest import PASSWORD, OpenApp
from tests.core.jobs.messages import end_pauses
from tests.core.services import test_mails, test_webhooks
from tests.core.services.helpers import balance, change
from tests.core.services.test_webhooks import Receiver
from tests.mail_server import MailServer

PAST = "2001-01-01 00:00:00.000000"
CHARGE_MT = 1_000

receiver = test_webhooks.receiver

server = test_mails.server


@pytest.fixture
def app(open_app: OpenApp, database_url: str, server: MailServer) -> Application:
    """An application that sends mail and may call the loopback, on each kind of database."""
    return open_app(database_url=database_url, fetch_allowed_hosts="127.0.0.1", **server.settings())


@pytest.fixture
def ann(app: Application, sign_up: Callable[..., User]) -> User:
    """An owner with a confirmed address, 20 tokens, and a warning below 10."""
    ann = sign_up(app, "ann@example.com")
    change(app, "UPDATE user_ SET email_verified_at = :past", past=PAST)
    change(app, "DELETE FROM mail")
    top_up(app, ann, 20_000)
    limits.set_limits(app, ann, day_cap_mt=None, month_cap_mt=None, alert_below_mt=10_000)
    return ann


def top_up(app: Application, user: User, amount_mt: int) -> None:
    """Put tokens into the account."""
    with app.db.write() as session:
        ledger.post_top_up(session, user.account_id, amount_mt, source="house:test", actor="test")


def spend(app: Application, user: User, name: str) -> None:
    """Hold and capture one token."""
    with app.db.write() as session:
        hold = ledger.place_hold(session, user.account_id, CHARGE_MT, charge_key=name, lease_s=60, actor=user.id)
    with app.db.write() as session:
        ledger.capture_hold(session, hold.id, CHARGE_MT, actor=user.id)


def told(app: Application, server: MailServer) -> list[list[str]]:
    """Send what is due; gives to whom mails went so far."""
    assert app.smtp is not None
    while send_next(app, app.smtp):
        pass
    return [one.to for one in server.received]


def test_many_threads_cross_once(app: Application, server: MailServer, ann: User) -> None:
    """Sixteen threads spend past the threshold while eight look for crossings: one mail; it names the threshold."""
    with ThreadPoolExecutor(24) as pool:
        charges = [pool.submit(spend, app, ann, f"charge {number}") for number in range(16)]
        looks = [pool.submit(announce_alerts, app) for _number in range(8)]
        for charge in charges:
            charge.result()
        found = sum(look.result() for look in looks)
    assert found + announce_alerts(app) == 1
    assert balance(app, ann) == (4_000, 0)
    assert told(app, server) == [["ann@example.com"]]
    assert "10.000" in server.received[0].text
    assert "https://vision.example.com/top_up" in server.received[0].text


def test_it_is_armed_again_above_the_threshold(app: Application, server: MailServer, ann: User) -> None:
    """Below it nothing more is said; after the balance was above it the next crossing is."""
    for number in range(12):
        spend(app, ann, f"first {number}")
    assert announce_alerts(app) == 1
    top_up(app, ann, 1_000)
    spend(app, ann, "still below")
    assert announce_alerts(app) == 0
    top_up(app, ann, 10_000)
    assert announce_alerts(app) == 0
    for number in range(9):
        spend(app, ann, f"second {number}")
    assert announce_alerts(app) == 1
    assert told(app, server) == [["ann@example.com"]] * 2


def test_only_confirmed_owners_get_mail(app: Application, server: MailServer, ann: User) -> None:
    """A member, and an owner whose address nobody has confirmed, are not written to."""
    for email, role in (("bob@example.com", "owner"), ("cy@example.com", "member")):
        sign_in.sign_up(app, email, PASSWORD, invitation=team.invite_member(app, ann, email, role))
    change(app, "UPDATE user_ SET email_verified_at = :past WHERE role = 'member'", past=PAST)
    change(app, "DELETE FROM mail")
    for number in range(12):
        spend(app, ann, f"charge {number}")
    assert announce_alerts(app) == 1
    assert told(app, server) == [["ann@example.com"]]


def test_without_a_mail_server_the_pages_say_it(
    open_app: OpenApp, database_url: str, sign_up: Callable[..., User]
) -> None:
    """Nothing is queued that a server configured later would send late; the banner stands on every page."""
    app = open_app(database_url=database_url)
    ann = sign_up(app, "ann@example.com")
    limits.set_limits(app, ann, day_cap_mt=None, month_cap_mt=None, alert_below_mt=10_000)
    for number in range(12):
        spend(app, ann, f"charge {number}")
    assert announce_alerts(app) == 1
    assert limits.find_low_balance(app, ann) == limits.LowBalance(10_000, 8_000)
    with app.db.read() as session:
        assert session.connection().execute(text("SELECT count(*) FROM mail")).scalar_one() == 0


def test_a_program_is_told_once(app: Application, ann: User, receiver: Receiver) -> None:
    """Threads that cross the threshold and threads that look for it: one signed message with both amounts."""
    limits.set_alert_url(app, ann, receiver.url)
    with ThreadPoolExecutor(24) as pool:
        charges = [pool.submit(spend, app, ann, f"charge {number}") for number in range(16)]
        looks = [pool.submit(announce_alerts, app) for _number in range(8)]
        for work in (*charges, *looks):
            work.result()
    announce_alerts(app)
    receiver.statuses = [500, 204]
    assert deliver_next(app, webhook_body) == "retried"
    assert deliver_next(app, webhook_body) is None
    end_pauses(app.db)
    assert deliver_next(app, webhook_body) == "delivered"
    assert deliver_next(app, webhook_body) is None
    (_path, headers, body), again = receiver.got
    assert (again[1]["webhook-id"], again[2]) == (headers["webhook-id"], body)
    told = visionmeter_client.webhooks.verify_low_balance(webhooks.get_secret(app, ann), headers, body)
    assert told.type == "balance.low"
    assert told.data.account_id == ann.account_id
    assert (told.data.threshold_tokens, told.data.balance_tokens) == (10, 9)
    [delivery] = webhooks.list_deliveries(app, ann, limit=10)
    answer = delivery_answer(delivery)
    assert (answer["type"], answer["job_id"], answer["status"]) == ("balance.low", None, "delivered")
    assert webhooks.resend(app, ann, delivery.id).status == "pending"


def test_only_an_owner_names_the_address(app: Application, ann: User) -> None:
    """A member may not, an address inside is refused, and without one nobody is called."""
    sign_in.sign_up(
        app, "cy@example.com", PASSWORD, invitation=team.invite_member(app, ann, "cy@example.com", "member")
    )
    with app.db.read() as session:
        member = users.find_user(session, "cy@example.com")
    assert member is not None
    with pytest.raises(errors.RoleNeededError):
        limits.set_alert_url(app, member, "https://example.com/")
    for url in ("http://10.0.0.1/", "ftp://example.com/", "javascript:alert(1)"):
        with pytest.raises(errors.WebhookUrlRefusedError):
            limits.set_alert_url(app, ann, url)
    limits.set_alert_url(app, ann, "http://127.0.0.1:9/")
    assert limits.get_alert_url(app, ann) == "http://127.0.0.1:9/"
    limits.set_alert_url(app, ann, None)
    for number in range(12):
        spend(app, ann, f"charge {number}")
    assert announce_alerts(app) == 1
    assert webhooks.list_deliveries(app, ann, limit=10) == []
