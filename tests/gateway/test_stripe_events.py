"""The real gateway and Stripe's stand-in: events in every disorder, `kill -9` among them, books compared at the end."""

from __future__ import annotations

import http.client
import json
import queue
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
from sqlmodel import select

from core.identity.tables import User
from core.payments.card_tables import CardEvent
from core.payments.tables import Payment
from core.services import payments
from core.services.application import Application
from gateway.stripe_events import EVENT_BYTES_MAX, EVENTS_MAX, WaitingRoom
from tests.conftest import OpenApp, empty_database
from tests.core.services.test_cards import compare_books
from tests.gateway.server import GatewayServer, gateway_server
from tests.stripe_stand_in import Stripe, settings_for, sign, stand_in

SEED = 70_031
PEOPLE = 20
AT_ONCE = 5
SENDERS = 6
# A gateway that was killed takes half a minute to come back where others use the cores.
PATIENCE_S = 400


@pytest.fixture
def stripe() -> Iterator[Stripe]:
    """Stripe's stand-in."""
    with stand_in() as stripe:
        yield stripe


class Endpoint:
    """The gateway at one address, which may be killed and started again while events are sent to it."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self._folder, self._settings = folder, settings
        self._stack = ExitStack()
        self.port = 0
        self.server: GatewayServer
        self.start()

    def start(self) -> None:
        """Start on the port that it had."""
        started = gateway_server(self._folder, port=self.port, instant=True, log_level="ERROR", **self._settings)
        self.server = self._stack.enter_context(started)
        self.port = urlsplit(self.server.url).port or 0

    def restart(self) -> None:
        """`kill -9`, and begin again."""
        self.server.kill()
        self.start()

    def close(self) -> None:
        """The end."""
        self._stack.close()


def deliver(port: int, body: bytes, *, hang_up: bool) -> bool:
    """One attempt of Stripe's; False when there was no 200, or nobody waited for it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        headers = {"Stripe-Signature": sign(body), "Content-Type": "application/json"}
        connection.request("POST", "/v1/stripe/webhook", body, headers)
        return not hang_up and connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def send_all(endpoint: Endpoint, events: list[dict[str, Any]], chance: random.Random, *, kills: int) -> Counter[str]:
    """Send each event until it is answered, some without reading the answer, while the gateway dies `kills` times."""
    waiting: queue.SimpleQueue[tuple[bytes, bool]] = queue.SimpleQueue()
    for event in events:
        waiting.put((json.dumps(event).encode(), chance.random() < 0.1))
    counts: Counter[str] = Counter()
    done = threading.Semaphore(0)
    deadline = time.monotonic() + PATIENCE_S

    def work() -> None:
        while time.monotonic() < deadline:
            try:
                body, hang_up = waiting.get(timeout=0.2)
            except queue.Empty:
                if counts["answered"] >= len(events):
                    return
                continue
            if deliver(endpoint.port, body, hang_up=hang_up):
                counts["answered"] += 1
                done.release()
            else:
                counts["sent again"] += 1
                waiting.put((body, False))
                time.sleep(0.25)

    threads = [threading.Thread(target=work) for _number in range(SENDERS)]
    for thread in threads:
        thread.start()
    for _kill in range(kills):
        for _event in range(len(events) // (kills + 2)):
            done.acquire(timeout=PATIENCE_S)
        endpoint.restart()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert counts["answered"] == len(events), counts
    return counts


def run_storm(
    app: Application, people: list[User], endpoint: Endpoint, stripe: Stripe, *, turns: int, kills: int
) -> None:
    """`turns` times 100 top-ups; each paid session is credited once, each unpaid one never."""
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when the test fails
    chance = random.Random(SEED)
    opened: dict[str, tuple[User, int]] = {}
    counts: Counter[str] = Counter()
    for turn in range(turns):
        events: list[dict[str, Any]] = []
        for number in range(PEOPLE * AT_ONCE):
            user, minor = people[number % PEOPLE], chance.randrange(1_000, 200_000)
            payment = payments.open_payment(app, user, "stripe", minor, idempotency_key=f"{turn} {number}")
            opened[payment.id] = (user, minor)
            session_id = stripe.session_of(payment.id)["id"]
            fate = chance.random()
            if fate < 0.75:
                told = [stripe.pay(session_id)]
                if chance.random() < 0.15:
                    told.append(stripe.refund(session_id, chance.randrange(1, minor + 1)))
                events += [event for event in told for _copy in range(chance.choice((1, 1, 2, 3)))]
                counts["paid"] += 1
            elif fate < 0.85:
                stripe.pay(session_id)
                counts["lost"] += 1
            else:
                about = {**stripe.session_of(payment.id), "payment_status": "paid", "status": "complete"}
                body = json.dumps(stripe.event("checkout.session.completed", about)).encode()
                header = sign(body, secret="whsec_guess") if fate < 0.93 else sign(body, at=time.time() - 3600)
                forged = httpx.post(
                    f"{endpoint.server.url}/v1/stripe/webhook", content=body, headers={"Stripe-Signature": header}
                )
                assert (forged.status_code, forged.json()["code"]) == (400, "bad_signature")
                events.append(stripe.expire(session_id))
                counts["forged"] += 1
        chance.shuffle(events)
        counts += send_all(endpoint, events, chance, kills=kills)
        _wait_for(app, stripe)
    counts["sessions"] = len(opened)
    print(dict(counts))  # noqa: T201  # figures
    compare_books(app, stripe, opened)


def _wait_for(app: Application, stripe: Stripe) -> None:
    """Until the keeper has found what no event told."""
    deadline = time.monotonic() + PATIENCE_S
    paid = sum(one["payment_status"] == "paid" for one in stripe.sessions.values())
    while time.monotonic() < deadline:
        with app.db.read() as session:
            states = Counter(session.exec(select(Payment.state).where(Payment.provider == "stripe")).all())
        if states["paid"] == paid and not states["pending"]:
            return
        time.sleep(0.2)
    raise AssertionError(f"{paid} are paid at Stripe, and here {states}")


def _storm_on(
    kind: str, tmp_path: Path, open_app: OpenApp, sign_up: Callable[..., User], stripe: Stripe, **size: int
) -> None:
    with empty_database(kind, tmp_path) as url:
        settings = settings_for(stripe, stripe_check_after_s=2)
        app = open_app(database_url=url, **settings)
        sign_up(app, "operator@example.com")
        people = [sign_up(app, f"customer{number}@example.com") for number in range(PEOPLE)]
        endpoint = Endpoint(tmp_path / "data", {"database_url": url, **settings})
        try:
            run_storm(app, people, endpoint, stripe, **size)
            with app.db.read() as session:
                assert session.exec(select(CardEvent)).first() is not None
        finally:
            endpoint.close()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_hundred_top_ups_with_a_crash(
    kind: str, tmp_path: Path, open_app: OpenApp, sign_up: Callable[..., User], stripe: Stripe
) -> None:
    """Duplicated, shuffled, cut, lost and forged events, and a `kill -9`: the ledger has Stripe's books."""
    _storm_on(kind, tmp_path, open_app, sign_up, stripe, turns=1, kills=1)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_thousand_top_ups_with_crashes(
    kind: str, tmp_path: Path, open_app: OpenApp, sign_up: Callable[..., User], stripe: Stripe
) -> None:
    """The same with 1,000 top-ups and ten `kill -9`."""
    _storm_on(kind, tmp_path, open_app, sign_up, stripe, turns=10, kills=1)


def test_what_the_endpoint_refuses(tmp_path: Path, stripe: Stripe) -> None:
    """No key is asked for; too large is 413, no signature 400, and a stranger's event is answered with 200."""
    (tmp_path / "data").mkdir()
    with gateway_server(tmp_path / "data", instant=True, **settings_for(stripe)) as server:
        url = f"{server.url}/v1/stripe/webhook"
        assert httpx.post(url, content=b"x" * (EVENT_BYTES_MAX + 1)).status_code == 413
        assert httpx.post(url, content=b"{}").json()["code"] == "bad_signature"
        assert httpx.get(url).status_code == 405
        body = json.dumps(stripe.event("customer.created", {"id": "cus_1"})).encode()
        answer = httpx.post(url, content=body, headers={"Stripe-Signature": sign(body)})
        assert (answer.status_code, answer.json()) == (200, {"received": True})
        assert "whsec_" not in server.log
        assert "sk_test" not in server.log


@pytest.mark.parametrize("addresses", [1, 40], ids=["behind a proxy", "from forty addresses"])
def test_slow_strangers_keep_no_event_out(tmp_path: Path, stripe: Stripe, addresses: int) -> None:
    """Three times as many half-sent bodies as there is room for: Stripe's events are answered at once all the same."""
    (tmp_path / "data").mkdir()
    with ExitStack() as stack:
        server = stack.enter_context(gateway_server(tmp_path / "data", instant=True, **settings_for(stripe)))
        where = urlsplit(server.url)
        half = b"x" * (EVENT_BYTES_MAX // 2)
        head = f"POST /v1/stripe/webhook HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Length: {EVENT_BYTES_MAX}\r\n\r\n"
        strangers = []
        for number in range(3 * EVENTS_MAX):
            source = ("127.0.0.1" if addresses == 1 else f"127.0.1.{1 + number % addresses}", 0)
            stranger = socket.create_connection((where.hostname, where.port), timeout=20, source_address=source)
            strangers.append(stack.enter_context(stranger))
            with suppress(OSError):
                stranger.sendall(head.encode() + half)
        for _event in range(20):
            body = json.dumps(stripe.event("customer.created", {"id": "cus_1"})).encode()
            answer = httpx.post(
                f"{server.url}/v1/stripe/webhook", content=body, headers={"Stripe-Signature": sign(body)}, timeout=20
            )
            assert answer.status_code == 200
        # They did take the room: the last of them are still in it, and the first were shown out.
        assert strangers[0].recv(100).startswith(b"HTTP/1.1 408")
        strangers[-1].setblocking(False)
        with pytest.raises(BlockingIOError):
            strangers[-1].recv(100)


def test_the_crowd_makes_room() -> None:
    """A full room costs the address that has most in it its oldest body, and nobody else anything."""

    async def crowd() -> list[tuple[str, bool]]:
        room = WaitingRoom(3)
        shown_out: list[tuple[str, bool]] = []

        async def wait(address: str) -> None:
            with room.enter(address) as scope:
                await anyio.sleep(0.2)
            shown_out.append((address, scope.cancelled_caught))

        async with anyio.create_task_group() as group:
            for address in ("few", "many", "many", "many", "few"):
                group.start_soon(wait, address)
                await anyio.sleep(0.01)
        return sorted(shown_out)

    assert anyio.run(crowd) == [("few", False), ("few", False), ("many", False), ("many", True), ("many", True)]
