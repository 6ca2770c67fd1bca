"""Endpoints that hang delay nobody else: senders in earnest, against receivers that never answer."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from sqlmodel import col, update

from core.jobs.tables import WebhookDelivery, WebhookTurn
from core.ledger import ledger
from core.services.application import Application
from core.services.run_report import RunReport
from core.services.webhooks import SENDERS, WebhookSender
from tests.conftest import OpenApp
from tests.core.jobs.messages import add_messages
from tests.listening import listening

# How long a message that is due may wait for a sender: one look of theirs, and some room for a busy machine.
SOON_S = 3.0


@dataclass
class Receivers:
    """One server for all: what goes to `/hang/…` is never answered, the rest at once."""

    url: str
    leave: threading.Event = field(default_factory=threading.Event)
    got: dict[str, float] = field(default_factory=dict)
    in_hand: Counter[str] = field(default_factory=Counter)
    most_in_hand: Counter[str] = field(default_factory=Counter)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def receive(self, path: str, message: str) -> bool:
        """Whether to answer."""
        if not path.startswith("/hang/"):
            self.got[message] = time.monotonic()
            return True
        with self.guard:
            self.in_hand[path] += 1
            self.most_in_hand[path] = max(self.most_in_hand[path], self.in_hand[path])
        self.leave.wait(60)
        return False

    def wait_for(self, message: str, since: float) -> float:
        """How long it took until a message was there, in seconds."""
        while message not in self.got:
            assert time.monotonic() < since + 30, "it never came"
            time.sleep(0.01)
        return self.got[message] - since


@pytest.fixture
def receivers() -> Iterator[Receivers]:
    """Them, on the loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            if receivers.receive(self.path, self.headers["webhook-id"]):
                self.send_response(204)
                self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receivers = Receivers(f"http://127.0.0.1:{server.server_port}")
    with listening(server):
        yield receivers
        receivers.leave.set()


def make_body(delivery: WebhookDelivery, _report: RunReport) -> bytes:
    """A small message."""
    return delivery.id.encode()


@contextmanager
def sending(receivers: Receivers, *apps: Application) -> Iterator[None]:
    """The threads of one process for each application."""
    with ExitStack() as stack:
        senders = [WebhookSender(app, make_body) for app in apps]
        # Last in, first out: what hangs is let go before the threads are waited for.
        for sender in senders:
            stack.callback(sender.stop)
        stack.callback(receivers.leave.set)
        for sender in senders:
            sender.start()
        yield


def open_account(app: Application, name: str) -> str:
    """The id of a new account."""
    with app.db.write() as session:
        return ledger.open_account(session, name).id


def wait_until_in_hand(receivers: Receivers, count: int) -> None:
    """Until so many messages hang."""
    deadline = time.monotonic() + 10
    while sum(receivers.in_hand.values()) < count:
        assert time.monotonic() < deadline, receivers.in_hand
        time.sleep(0.01)


def test_a_dead_endpoint_delays_nobody(open_app: OpenApp, database_url: str, receivers: Receivers) -> None:
    """Fifty messages of A hang, in two processes; B's, which comes last, is there within moments."""
    apps = [open_app(database_url=database_url, fetch_allowed_hosts="127.0.0.1") for _process in range(2)]
    ann, bob = (open_account(apps[0], name) for name in ("Ann", "Bob"))
    add_messages(apps[0].db, ann, f"{receivers.url}/hang/ann", 50)
    with sending(receivers, *apps):
        wait_until_in_hand(receivers, 1)
        time.sleep(1.5)  # every sender has looked for work meanwhile
        since = time.monotonic()
        (message,) = add_messages(apps[0].db, bob, f"{receivers.url}/bob")
        assert receivers.wait_for(message, since) < SOON_S
        assert receivers.most_in_hand == {"/hang/ann": 1}


def test_many_dead_endpoints_delay_nobody(open_app: OpenApp, database_url: str, receivers: Receivers) -> None:
    """More accounts that have failed than senders, each with messages due: one sender is left for who answers."""
    app = open_app(database_url=database_url, fetch_allowed_hosts="127.0.0.1")
    dead = [open_account(app, f"dead {number}") for number in range(2 * SENDERS)]
    for account_id in dead:
        add_messages(app.db, account_id, f"{receivers.url}/hang/{account_id}", 3)
    with app.db.write() as session:
        session.execute(update(WebhookTurn).where(col(WebhookTurn.account_id).in_(dead)).values(failures=1))
    bob = open_account(app, "Bob")
    with sending(receivers, app):
        wait_until_in_hand(receivers, SENDERS - 1)
        time.sleep(1.5)
        assert sum(receivers.in_hand.values()) == SENDERS - 1
        for _ in range(3):
            since = time.monotonic()
            (message,) = add_messages(app.db, bob, f"{receivers.url}/bob")
            assert receivers.wait_for(message, since) < SOON_S
        assert set(receivers.most_in_hand.values()) == {1}
