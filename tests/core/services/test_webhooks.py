"""Webhooks against a real receiver: signed, tried again until received, given up when told, and never redirected."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from sqlmodel import select

from core import errors
from core.db import utcnow
from core.fetch.webhook_signing import verify
from core.identity.audit_log import list_events
from core.identity.tables import User
from core.jobs.blobs import hash_bytes
from core.jobs.deliveries import ATTEMPTS_MAX, PAUSES, claim_delivery
from core.jobs.tables import WebhookDelivery
from core.services import api_keys, team, webhooks
from core.services.api_key_settings import KeySettings
from core.services.application import Application
from core.services.metered_detection import submit_quote
from core.services.run_report import RunReport
from core.services.webhooks import WebhookSender, deliver_next
from tests.conftest import OpenApp
from tests.core.jobs.messages import end_pauses
from tests.core.services.helpers import change, pictures, quote, wait
from tests.listening import listening


@dataclass
class Receiver:
    """Somebody's server: keeps what it gets, and answers with the next of its statuses, the last one for good."""

    statuses: list[int]
    url: str = ""
    got: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    def answer(self) -> int:
        """The status of this attempt."""
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver on the loopback that says 204."""
    receiver = Receiver([204])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.got.append((self.path, dict(self.headers.items()), body))
            status = receiver.answer()
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_arguments: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
    with listening(server):
        yield receiver


@pytest.fixture
def app(open_app: OpenApp, database_url: str) -> Application:
    """An application on each kind of database that may call the loopback."""
    return open_app(database_url=database_url, fetch_allowed_hosts="127.0.0.1")


@pytest.fixture
def ann(app: Application, sign_up: Callable[..., User], start_runner: Callable[[Application], Any]) -> User:
    """A customer whose jobs are worked on."""
    start_runner(app)
    return sign_up(app)


def make_body(delivery: WebhookDelivery, report: RunReport) -> bytes:
    """A message that names its job."""
    return json.dumps({"message": delivery.id, "job": report.job.id, "status": report.job.status}).encode()


def finish_job(app: Application, user: User, url: str, seed: int = 1) -> str:
    """The id of a finished job that tells an address of its end."""
    files = pictures(1, seed=seed)
    quoted = quote(app, user, files)
    job = submit_quote(app, user, quoted.id, {hash_bytes(one): one for one in files.values()}, webhook_url=url)
    wait(app, user, job)
    return job.id


def delivery_of(app: Application, job_id: str) -> WebhookDelivery:
    """The message of a job."""
    with app.db.read() as session:
        return session.exec(select(WebhookDelivery).where(WebhookDelivery.job_id == job_id)).one()


def make_due(app: Application) -> None:
    """Let every pause be over."""
    end_pauses(app.db)


def test_a_message_is_signed_and_sent_once(app: Application, ann: User, receiver: Receiver) -> None:
    """Verified with the account's secret over the bytes received; after a 2xx nothing is due any more."""
    job_id = finish_job(app, ann, receiver.url)
    assert deliver_next(app, make_body) == "delivered"
    [(path, headers, body)] = receiver.got
    assert path == "/hook"
    secret = webhooks.get_secret(app, ann)
    assert verify(secret, headers, body, now=utcnow())
    assert not verify(secret, headers, body + b" ", now=utcnow())
    assert not verify(secret, headers, body, now=utcnow() + timedelta(minutes=6))
    assert json.loads(body) == {"message": headers["webhook-id"], "job": job_id, "status": "finished"}
    assert headers["Content-Type"] == "application/json"
    delivery = delivery_of(app, job_id)
    assert (delivery.attempts, delivery.last_status, delivery.given_up_at) == (1, 204, None)
    assert delivery.delivered_at is not None
    make_due(app)
    assert deliver_next(app, make_body) is None


def test_no_message_before_the_end_or_without_an_address(
    app: Application, sign_up: Callable[..., User], start_runner: Callable[[Application], Any], receiver: Receiver
) -> None:
    """A job that is not finished has no message, and one without an address never has."""
    user, files = sign_up(app), pictures(2, seed=2)
    by_hash = {hash_bytes(one): one for one in files.values()}
    job = submit_quote(app, user, quote(app, user, files).id, by_hash, webhook_url=receiver.url)
    assert deliver_next(app, make_body) is None
    start_runner(app)
    wait(app, user, job)
    other = quote(app, user, pictures(1, seed=3))
    wait(app, user, submit_quote(app, user, other.id, {hash_bytes(one): one for one in pictures(1, seed=3).values()}))
    assert deliver_next(app, make_body) == "delivered"
    assert deliver_next(app, make_body) is None


def test_tried_again_after_a_failure(app: Application, ann: User, receiver: Receiver) -> None:
    """A 500 is followed by another attempt after the pause and not before: the same message, signed anew."""
    receiver.statuses = [500, 503, 200]
    job_id = finish_job(app, ann, receiver.url)
    for attempt, outcome in enumerate(["retried", "retried", "delivered"], start=1):
        before = utcnow()
        assert deliver_next(app, make_body) == outcome
        delivery = delivery_of(app, job_id)
        assert delivery.attempts == attempt
        if outcome == "retried":
            pause = delivery.next_attempt_at - before
            assert PAUSES[attempt - 1] - timedelta(seconds=5) <= pause <= PAUSES[attempt - 1] + timedelta(seconds=60)
            assert deliver_next(app, make_body) is None, "before its pause is over"
            make_due(app)
    assert len(receiver.got) == 3
    assert len({headers["webhook-id"] for _, headers, _ in receiver.got}) == 1
    assert len({body for _, _, body in receiver.got}) == 1
    secret = webhooks.get_secret(app, ann)
    assert all(verify(secret, headers, body, now=utcnow()) for _, headers, body in receiver.got)


@pytest.mark.parametrize(
    ("status", "outcome"), [(410, "given_up"), (404, "retried"), (302, "retried"), (307, "retried")]
)
def test_gone_and_elsewhere(app: Application, ann: User, receiver: Receiver, status: int, outcome: str) -> None:
    """410 ends it at once; a redirect is not followed, whatever it says, and counts as a failure."""
    receiver.statuses = [status]
    job_id = finish_job(app, ann, receiver.url)
    assert deliver_next(app, make_body) == outcome
    assert [path for path, _, _ in receiver.got] == ["/hook"]
    delivery = delivery_of(app, job_id)
    assert (delivery.last_status, delivery.delivered_at) == (status, None)
    assert (delivery.given_up_at is not None) == (outcome == "given_up")


def test_given_up_after_a_day(app: Application, ann: User, receiver: Receiver) -> None:
    """So many attempts over about a day, and then no more."""
    receiver.statuses = [500]
    job_id = finish_job(app, ann, receiver.url)
    outcomes = []
    for _ in range(ATTEMPTS_MAX):
        make_due(app)
        outcomes.append(deliver_next(app, make_body))
    assert outcomes == ["retried"] * (ATTEMPTS_MAX - 1) + ["given_up"]
    make_due(app)
    assert deliver_next(app, make_body) is None
    assert delivery_of(app, job_id).attempts == len(receiver.got) == ATTEMPTS_MAX
    assert timedelta(hours=20) <= sum(PAUSES, timedelta()) <= timedelta(hours=28)


def test_nobody_there(app: Application, ann: User) -> None:
    """An address where nobody listens is tried again, without a status."""
    job_id = finish_job(app, ann, "http://127.0.0.1:9/hook")
    assert deliver_next(app, make_body) == "retried"
    assert delivery_of(app, job_id).last_status is None


def test_an_address_that_became_private(app: Application, ann: User, open_app: OpenApp, receiver: Receiver) -> None:
    """What may not be called any more when the message is due is given up, and not called."""
    job_id = finish_job(app, ann, receiver.url)
    strict = open_app(database_url=app.settings.sqlalchemy_url, fetch_allowed_hosts="")
    assert deliver_next(strict, make_body) == "given_up"
    assert receiver.got == []
    assert delivery_of(app, job_id).given_up_at is not None


def test_a_sender_that_died_is_followed_by_another(app: Application, ann: User, receiver: Receiver) -> None:
    """A crash between claiming and sending loses nothing: the message is due again after its pause."""
    job_id = finish_job(app, ann, receiver.url)
    with app.db.write() as session:
        assert claim_delivery(session, utcnow()) is not None
    assert deliver_next(app, make_body) is None
    make_due(app)
    assert deliver_next(app, make_body) == "delivered"
    assert delivery_of(app, job_id).attempts == 2


def test_a_message_that_cannot_be_made_keeps_nobody_waiting(app: Application, ann: User, receiver: Receiver) -> None:
    """A failure of ours counts as an attempt, and the account's next message is sent at once."""
    broken, good = (finish_job(app, ann, receiver.url, seed=seed) for seed in (4, 5))

    def fail(_delivery: WebhookDelivery, _report: RunReport) -> bytes:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        deliver_next(app, fail)
    assert deliver_next(app, make_body) == "delivered"
    assert (delivery_of(app, broken).status, delivery_of(app, good).status) == ("pending", "delivered")
    assert delivery_of(app, broken).attempts == 1


def test_many_senders_send_each_message_once(app: Application, ann: User, receiver: Receiver) -> None:
    """Six at once on five messages: each message is sent by one of them."""
    for seed in range(5):
        finish_job(app, ann, receiver.url, seed=10 + seed)
    with ThreadPoolExecutor(6) as pool:
        outcomes = list(pool.map(lambda _n: deliver_next(app, make_body), range(12)))
    while (outcome := deliver_next(app, make_body)) is not None:
        outcomes.append(outcome)  # of an account one is in hand at a time: some found nothing to do
    assert [outcome for outcome in outcomes if outcome] == ["delivered"] * 5
    assert len({headers["webhook-id"] for _, headers, _ in receiver.got}) == len(receiver.got) == 5


def test_the_threads_deliver(app: Application, ann: User, receiver: Receiver) -> None:
    """Started, they deliver by themselves and say so; stopped, they end."""
    told: list[str] = []
    delivered = threading.Event()

    def tell(outcome: str) -> None:
        told.append(outcome)
        delivered.set()

    sender = WebhookSender(app, make_body, told=tell)
    sender.start()
    try:
        finish_job(app, ann, receiver.url)
        assert delivered.wait(30)
    finally:
        sender.stop()
    assert told == ["delivered"]
    assert not any(thread.name.startswith("webhooks-") and thread.is_alive() for thread in threading.enumerate())


def test_a_message_is_sent_again(app: Application, ann: User, receiver: Receiver) -> None:
    """Under the same id and with the same body, whether it was received or given up; each time is on the record."""
    receiver.statuses = [204, 410, 204]
    job_id = finish_job(app, ann, receiver.url)
    assert deliver_next(app, make_body) == "delivered"
    message = delivery_of(app, job_id)
    program = api_keys.authenticate(app, api_keys.create_key(app, ann, KeySettings("p")).secret, None)
    assert webhooks.resend(app, ann, message.id).status == "pending"
    assert webhooks.resend(app, ann, message.id).attempts == 0, "again while it is on its way"
    assert deliver_next(app, make_body) == "given_up"
    assert webhooks.resend(app, program, message.id).status == "pending"
    assert deliver_next(app, make_body) == "delivered"
    assert deliver_next(app, make_body) is None
    assert [headers["webhook-id"] for _, headers, _ in receiver.got] == [message.id] * 3
    assert len({body for _, _, body in receiver.got}) == 1
    with app.db.read() as session:
        events = list_events(session, account_id=ann.account_id)
    resent = [(event.actor, event.subject) for event in events if event.action == "webhook.resend"]
    assert resent == [(program.id, message.id), (ann.id, message.id)]


def test_who_may_send_again(app: Application, ann: User, sign_up: Callable[..., User], receiver: Receiver) -> None:
    """Members and keys of the account that has the message; a viewer may look, and a stranger sees nothing."""
    message = delivery_of(app, finish_job(app, ann, receiver.url))
    stranger = sign_up(app, "bob@example.com")
    with pytest.raises(errors.DeliveryNotFoundError):
        webhooks.resend(app, stranger, message.id)
    assert webhooks.list_deliveries(app, stranger, limit=9) == []
    change(app, "UPDATE user_ SET role = 'viewer' WHERE id = :id", id=ann.id)
    with pytest.raises(errors.RoleNeededError):
        webhooks.resend(app, ann, message.id)
    assert [one.id for one in webhooks.list_deliveries(app, ann, limit=9)] == [message.id]


def test_who_may_read_the_secret(app: Application, ann: User, sign_up: Callable[..., User]) -> None:
    """Members and keys that manage keys, and each look is on the record; viewers and other keys may not."""
    manager = api_keys.create_key(app, ann, KeySettings("m", manages_keys=True))
    plain = api_keys.create_key(app, ann, KeySettings("p"))
    secret = webhooks.get_secret(app, ann)
    assert webhooks.get_secret(app, api_keys.authenticate(app, manager.secret, None)) == secret
    with pytest.raises(errors.KeyMayNotError):
        webhooks.get_secret(app, api_keys.authenticate(app, plain.secret, None))
    stranger = sign_up(app, "bob@example.com")
    assert webhooks.get_secret(app, stranger) != secret
    change(app, "UPDATE user_ SET role = 'viewer' WHERE id = :id", id=stranger.id)
    with pytest.raises(errors.RoleNeededError):
        webhooks.get_secret(app, stranger)
    assert team.list_members(app, ann)
