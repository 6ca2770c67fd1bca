"""One account leaves room for the others: its share of the lane of requests, and of the open streams."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from gateway import events
from tests.gateway.calls import blocked_model, open_gateway
from tests.gateway.test_detect import picture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from core.inference.engine import Engine
    from tests.gateway.calls import Customer, Gateway

PLACES = 8
SHARE = 6


@pytest.fixture
def narrow(tmp_path: Path, weights_dir: Path, engine: Engine) -> Iterator[Gateway]:
    """A gateway with eight places for requests."""
    with open_gateway("sqlite", tmp_path, weights_dir, engine, engine_queue_max=PLACES) as served:
        yield served


def test_an_account_has_three_quarters_of_the_lane(narrow: Gateway) -> None:
    """The seventh of eight places is refused to an account that has six, takes nothing from it, and is another's."""
    greedy, other = narrow.customer(), narrow.customer()
    with ThreadPoolExecutor(PLACES) as pool:
        with blocked_model():
            running = [pool.submit(greedy.detect, picture(100 + number)) for number in range(SHARE)]
            _wait_until_held(greedy, SHARE)
            refused = greedy.detect(picture(200))
            assert (refused.status_code, refused.json()["code"]) == (503, "engine_busy")
            assert int(refused.headers["Retry-After"]) >= 1
            served = pool.submit(other.detect, picture(300))
            _wait_until_held(other, 1)
        assert [one.result(60).status_code for one in [*running, served]] == [200] * (SHARE + 1)
    assert greedy.balance() == (20 - SHARE * 0.25, 0.0)
    assert greedy.detect(picture(200)).status_code == 200


def test_drawing_stands_in_the_lane(narrow: Gateway) -> None:
    """A stored picture is drawn where detections are served: refused while that account's share is full."""
    customer = narrow.customer()
    stored = customer.detect(picture(1)).json()["id"]
    with ThreadPoolExecutor(PLACES) as pool:
        with blocked_model():
            running = [pool.submit(customer.detect, picture(100 + number)) for number in range(SHARE)]
            _wait_until_held(customer, SHARE)
            assert customer.get(f"/results/{stored}?annotated=png").status_code == 503
            assert customer.get(f"/results/{stored}").status_code == 200
        assert [one.result(60).status_code for one in running] == [200] * SHARE
    drawn = customer.get(f"/results/{stored}?annotated=png")
    assert (drawn.status_code, drawn.headers["content-type"]) == (200, "image/png")


def test_an_account_has_its_share_of_streams(narrow: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """One stream more than an account may have is a 429, another account has its own, and one that ends makes room."""
    monkeypatch.setattr(events, "STREAMS_ACCOUNT_MAX", 3)
    customer, other = narrow.customer(), narrow.customer()
    with ThreadPoolExecutor(PLACES) as pool:
        with blocked_model():
            mine, theirs = (one.run("/jobs", {"a.png": picture(7)}).json()["id"] for one in (customer, other))
            streams = [pool.submit(customer.get, f"/jobs/{mine}/events") for _ in range(3)]
            refused = _refused_stream(customer, mine)
            assert (refused["limit"], refused["limit_max"]) == ("streams", 3)
            streams.append(pool.submit(other.get, f"/jobs/{theirs}/events"))
            time.sleep(0.5)
            assert not any(stream.done() for stream in streams)
        assert [_kinds(stream)[-1] for stream in streams] == ["finished"] * 4
    assert customer.get(f"/jobs/{mine}/events").status_code == 200


def _wait_until_held(customer: Customer, images: int) -> None:
    deadline = time.monotonic() + 30
    while customer.get("/balance").json()["held_tokens"] < images * 0.25:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _refused_stream(customer: Customer, job_id: str) -> Any:
    """The refusal, once the streams before it are open: until then it is no stream that would wait, but a 429."""
    deadline = time.monotonic() + 30
    while events._streams._of_account[customer.user.account_id] < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    answer = customer.get(f"/jobs/{job_id}/events")
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) >= 1
    return answer.json()


def _kinds(stream: Future[Any]) -> list[str]:
    return [line.split(": ")[1] for line in stream.result(60).text.splitlines() if line.startswith("event: ")]
