"""Retries: what is sent again, when, and that it is the same request to the last byte."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import anyio
import httpx
import pytest
from visionmeter_client import ApiError, RateLimitedError, UnreachableError
from visionmeter_client._retry import FIRST_PAUSE_S, PAUSE_S_MAX, pause_before_retry_s

from tests.clients.calling import DETECTION, FINISHED, JOB, KINDS, call

SPENDING = ["detect", "annotated", "create_job"]
BALANCE = {"tokens": 20.000, "held_tokens": 0, "remaining_tokens": 19.4, "currency": "CNY", "price_per_token": 0.01}


@pytest.fixture
def pauses_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, none of which is waited for."""
    made: list[float] = []

    async def sleep(seconds: float) -> None:
        made.append(seconds)

    # Only the client's: other threads of this process sleep as well.
    own = SimpleNamespace(**{**vars(time), "sleep": made.append})
    monkeypatch.setattr("visionmeter_client.client.time", own)
    monkeypatch.setattr(anyio, "sleep", sleep)
    return made


class Faulty:
    """A network that fails in turn, and then lets requests through."""

    def __init__(self, *faults: Exception | int | tuple[int, str], answer: Any = None) -> None:
        self.faults = list(faults)
        self.answer = answer
        self.seen: list[tuple[str | None, bytes]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append((request.headers.get("Idempotency-Key"), request.read()))
        if not self.faults:
            if b"annotated" in request.content:
                return httpx.Response(200, content=b"PNG")
            return httpx.Response(200, json=self.answer)
        fault = self.faults.pop(0)
        if isinstance(fault, Exception):
            raise fault
        status, retry_after = fault if isinstance(fault, tuple) else (fault, None)
        return httpx.Response(status, headers={"Retry-After": retry_after} if retry_after else {})


def arguments(method: str) -> list[Any]:
    """What a spending method is called with."""
    return [[b"a picture", b"another"]] if method == "create_job" else [b"a picture"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", SPENDING)
def test_every_try_of_a_spending_call_is_the_same(kind: str, method: str, pauses_s: list[float]) -> None:
    """One idempotency key, made before the first try, and one body, whatever goes wrong on the way."""
    network = Faulty(
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        503,
        httpx.RemoteProtocolError("cut off"),
        answer=JOB if method == "create_job" else DETECTION,
    )
    call(kind, network, method, *arguments(method))
    assert len(network.seen) == 5
    assert len(set(network.seen)) == 1
    key, body = network.seen[0]
    assert key is not None
    assert len(key) == 32
    assert b"a picture" in body
    again = Faulty(answer=JOB if method == "create_job" else DETECTION)
    call(kind, again, method, *arguments(method))
    assert again.seen[0][0] != key


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", SPENDING)
def test_the_callers_key_is_the_one_that_is_sent(kind: str, method: str) -> None:
    """Who keeps his own keys can repeat a call after a crash of his own; a key that no header carries is refused."""
    network = Faulty(answer=JOB if method == "create_job" else DETECTION)
    call(kind, network, method, *arguments(method), idempotency_key="order-17")
    assert network.seen[0][0] == "order-17"
    for wrong in ("", "two words", "line\n", "ü", "x" * 256):
        with pytest.raises(ValueError, match="1 to 255 visible ASCII"):
            call(kind, network, method, *arguments(method), idempotency_key=wrong)
    assert len(network.seen) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(kind: str, status: int, pauses_s: list[float]) -> None:
    """With growing room for each pause, until it works."""
    network = Faulty(status, status, status, answer=BALANCE)
    assert str(call(kind, network, "balance").remaining_tokens) == "19.4"
    assert len(network.seen) == 4
    assert all(0 <= pause_s <= FIRST_PAUSE_S * 2**number for number, pause_s in enumerate(pauses_s))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [301, 307, 400, 401, 402, 403, 404, 409, 413, 415, 422, 501])
def test_what_will_not_pass_is_not_tried_again(kind: str, status: int, pauses_s: list[float]) -> None:
    """One request, one error; a redirect is followed nowhere, the key would travel along."""
    network = Faulty(*[status] * 2, answer=DETECTION)
    with pytest.raises(ApiError) as raised:
        call(kind, network, "detect", b"a picture")
    assert (raised.value.status, len(network.seen), pauses_s) == (status, 1, [])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("retries_max", "tries"), [(0, 1), (2, 3)])
def test_tries_end(kind: str, retries_max: int, tries: int, pauses_s: list[float]) -> None:
    """After `retries_max` further tries the last fault is raised, with no word of the key."""
    network = Faulty(*[httpx.ConnectError("refused")] * 9)
    with pytest.raises(UnreachableError) as raised:
        call(kind, network, "balance", retries_max=retries_max)
    assert str(raised.value) == "https://vision.example.com cannot be reached: refused."
    assert (len(network.seen), len(pauses_s)) == (tries, tries - 1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_servers_pause_is_kept(kind: str, pauses_s: list[float]) -> None:
    """`Retry-After` is waited for, and a little more; one that is too long is given to the caller at once."""
    call(kind, Faulty((429, "3"), (503, "7"), answer=BALANCE), "balance")
    assert 3 <= pauses_s[0] <= 3 + FIRST_PAUSE_S
    assert 7 <= pauses_s[1] <= 7 + 2 * FIRST_PAUSE_S
    network = Faulty((429, "3600"))
    with pytest.raises(RateLimitedError) as raised:
        call(kind, network, "balance")
    assert (raised.value.retry_after_s, len(network.seen), len(pauses_s)) == (3600, 1, 2)


def test_pauses_are_bounded_and_spread() -> None:
    """The hundredth pause is no longer than the longest, and two clients do not come back together."""
    error = UnreachableError("gone")
    pauses_s = [pause_before_retry_s(error, 100, 1000) for _ in range(200)]
    assert max(pauses_s) <= PAUSE_S_MAX
    assert max(pauses_s) - min(pauses_s) > PAUSE_S_MAX / 2


# Events --------------------------------------------------------------------------------------------


def stream(*events: dict[str, Any], end: str = "") -> bytes:
    """An event stream as the server writes it."""
    return b"".join(f"event: progress\ndata: {json.dumps(event)}\n\n".encode() for event in events) + end.encode()


def in_turn(*bodies: bytes | int) -> tuple[Callable[[httpx.Request], httpx.Response], list[httpx.Request]]:
    """Answers with one body after another."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        body = bodies[len(seen) - 1]
        return httpx.Response(body) if isinstance(body, int) else httpx.Response(200, content=body)

    return answer, seen


@pytest.mark.parametrize("kind", KINDS)
def test_events_go_on_after_a_broken_connection(kind: str, pauses_s: list[float]) -> None:
    """A stream that ends too early is opened again, also in the middle of an event; it ends with the finished one."""
    handler, seen = in_turn(stream(JOB, end='data: {"id": "jo'), 503, stream(JOB), stream(JOB, FINISHED, JOB))
    states = call(kind, handler, "iter_events", "job_1")
    assert [state.status for state in states] == ["running", "running", "running", "finished"]
    assert len(seen) == 4
    assert len(pauses_s) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_events_that_never_come_end_in_an_error(kind: str, pauses_s: list[float]) -> None:
    """Streams without a single event are counted as tries; a job that is not there is told at once."""
    handler, seen = in_turn(*[b": still here\n\n"] * 9)
    with pytest.raises(UnreachableError):
        call(kind, handler, "iter_events", "job_1", retries_max=2)
    assert len(seen) == 3
    handler, seen = in_turn(404)
    with pytest.raises(ApiError):
        call(kind, handler, "iter_events", "job_1")
    assert len(seen) == 1
