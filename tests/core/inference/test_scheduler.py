"""Which requests run next: turns, the VIP lane, batches of one bucket, the bound, and what is cancelled."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import EngineBusyError, EngineStoppedError
from core.geometry import network_input
from core.inference.pipeline import DetectParams
from core.inference.registry import Model, ModelVersion
from core.inference.scheduler import VIP_RUN_MAX, Bucket, Priority, Request, Scheduler

MODEL = Model("m", "M", "m.pt", None, embedded=False, classes="")
VERSION = ModelVersion(MODEL, Path("m.pt"), "a" * 64)
OTHER = replace(VERSION, sha256="b" * 64)
PIXELS = np.zeros((1, 1, 3), np.uint8)


def request(
    customer: str = "a",
    *,
    size: int = 640,
    version: ModelVersion = VERSION,
    priority: Priority = Priority.NORMAL,
) -> Request:
    """An image of a square shape."""
    shape = network_input(size, size, size)
    return Request(version, DetectParams(size), PIXELS, shape, size, size, customer, priority, None)


def fill(scheduler: Scheduler, *requests: Request) -> list[Request]:
    """Queue some, in this order."""
    for one in requests:
        scheduler.put(one)
    return list(requests)


def alone(_bucket: Bucket) -> int:
    """Batches of one."""
    return 1


def drain(scheduler: Scheduler, room: int = 1) -> list[list[Request]]:
    """Every batch until nothing waits."""
    batches = []
    while scheduler.depth:
        batches.append(scheduler.take(lambda _bucket: room))
    return batches


def test_a_customer_with_one_image_waits_for_one_batch() -> None:
    """A has a thousand images, then B sends one: it is in the second batch at the latest."""
    scheduler = Scheduler(2000)
    fill(scheduler, *(request("a") for _ in range(1000)))
    scheduler.take(lambda _bucket: 8)
    (late,) = fill(scheduler, request("b"))
    batches = [scheduler.take(lambda _bucket: 8) for _ in range(2)]
    assert late in [one for batch in batches for one in batch]


def test_customers_take_turns() -> None:
    """Three customers with four, two and one images: each round serves each who has any, in the order of arrival."""
    scheduler = Scheduler(100)
    fill(scheduler, *(request(customer) for customer in "aaaabbc"))
    assert [batch[0].customer for batch in drain(scheduler)] == list("abcabaa")


def test_a_batch_is_shared_between_customers() -> None:
    """Four places of a batch go around: nobody has two while another who fits has none."""
    scheduler = Scheduler(100)
    fill(scheduler, *(request("a") for _ in range(10)), request("b"), request("c"))
    assert Counter(one.customer for one in scheduler.take(lambda _bucket: 4)) == {"a": 2, "b": 1, "c": 1}


def test_a_batch_has_one_shape_and_one_version() -> None:
    """Images of another shape or another version wait for a batch of their own, and none is lost."""
    scheduler = Scheduler(100)
    sent = fill(
        scheduler,
        *(
            request(customer, size=size, version=version)
            for customer in "ab"
            for size in (320, 640)
            for version in (VERSION, OTHER)
        ),
    )
    batches = drain(scheduler, room=8)
    assert all(len({one.bucket for one in batch}) == 1 for batch in batches)
    assert [len(batch) for batch in batches] == [2, 2, 2, 2]
    assert {id(one) for batch in batches for one in batch} == {id(one) for one in sent}


def test_a_vip_goes_before_everybody() -> None:
    """However many wait, the next batch is the VIP's; others of its shape ride along."""
    scheduler = Scheduler(100)
    fill(scheduler, *(request("a") for _ in range(50)), request("v", priority=Priority.VIP))
    batch = scheduler.take(lambda _bucket: 3)
    assert [one.customer for one in batch] == ["v", "a", "a"]


def test_vips_do_not_shut_the_others_out() -> None:
    """A flood of VIPs lets one of the others through after so many batches."""
    scheduler = Scheduler(1000)
    fill(scheduler, *(request("v", priority=Priority.VIP) for _ in range(100)), request("a"))
    order = [batch[0].customer for batch in drain(scheduler)]
    assert order.index("a") == VIP_RUN_MAX


def test_the_express_stream_takes_vips_alone() -> None:
    """It waits beside a full queue of others for a VIP, and others do not ride along with him."""
    scheduler = Scheduler(100)
    fill(scheduler, *(request("a") for _ in range(20)))
    with ThreadPoolExecutor(1) as pool:
        taking = pool.submit(scheduler.take, lambda _bucket: 3, express=True)
        time.sleep(0.05)
        assert not taking.done()
        fill(scheduler, request("v", priority=Priority.VIP))
        assert [one.customer for one in taking.result(5)] == ["v"]


def test_others_are_held_back_while_a_vip_has_the_express_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else starts until the express stream asks again; a VIP who comes meanwhile does."""
    monkeypatch.setattr("core.inference.scheduler.HOLD_BACK_S_MAX", 60.0)
    scheduler = Scheduler(100)
    fill(scheduler, request("v", priority=Priority.VIP), request("a"), request("a"))
    with ThreadPoolExecutor(3) as pool:
        assert scheduler.take(alone, express=True)[0].customer == "v"
        other = pool.submit(scheduler.take, alone)
        time.sleep(0.05)
        assert not other.done()
        fill(scheduler, request("w", priority=Priority.VIP))
        assert other.result(5)[0].customer == "w"
        other = pool.submit(scheduler.take, alone)
        time.sleep(0.05)
        assert not other.done()
        express = pool.submit(scheduler.take, alone, express=True)
        assert other.result(5)[0].customer == "a"
        scheduler.close()
        assert express.result(5) == []


def test_holding_back_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A VIP's pass that hangs holds the others back for so long and no longer."""
    monkeypatch.setattr("core.inference.scheduler.HOLD_BACK_S_MAX", 0.2)
    scheduler = Scheduler(100)
    fill(scheduler, request("v", priority=Priority.VIP), request("a"))
    started = time.monotonic()
    assert scheduler.take(alone, express=True)[0].customer == "v"
    assert scheduler.take(alone)[0].customer == "a"
    assert time.monotonic() - started >= 0.2


def test_what_is_due_to_the_others_is_not_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many VIPs in a row one of the others starts beside the VIP in the express stream."""
    monkeypatch.setattr("core.inference.scheduler.HOLD_BACK_S_MAX", 60.0)
    scheduler = Scheduler(100)
    fill(scheduler, *(request("v", priority=Priority.VIP) for _ in range(VIP_RUN_MAX + 1)), request("a"))
    for _ in range(VIP_RUN_MAX):
        assert scheduler.take(alone, express=True)[0].customer == "v"
    assert scheduler.take(alone)[0].customer == "a"


def test_the_queue_is_bounded() -> None:
    """One more than fits is refused, and what was taken makes room."""
    scheduler = Scheduler(2)
    fill(scheduler, request(), request())
    with pytest.raises(EngineBusyError):
        scheduler.put(request())
    scheduler.take(alone)
    scheduler.put(request())
    assert scheduler.depth == 2


def test_what_was_cancelled_is_not_taken() -> None:
    """A cancelled request is left out, at the head of its queue and inside a batch; its customer's others are not."""
    scheduler = Scheduler(100)
    sent = fill(scheduler, *(request() for _ in range(5)))
    assert sent[0].future.cancel()
    assert sent[2].future.cancel()
    assert scheduler.take(lambda _bucket: 8) == [sent[1], sent[3], sent[4]]
    assert scheduler.depth == 0


def test_waiting_for_company() -> None:
    """The first of a batch waits so long for others of its bucket, and not at all when the batch is full."""
    scheduler = Scheduler(100)
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(scheduler.take, lambda _bucket: 2, wait_s=30.0)
        fill(scheduler, request("a"))
        time.sleep(0.05)
        assert not taken.done()
        fill(scheduler, request("c", size=320), request("b"))
        assert [one.customer for one in taken.result(5)] == ["a", "b"]
    started = time.perf_counter()
    assert len(scheduler.take(lambda _bucket: 2, wait_s=0.05)) == 1
    assert time.perf_counter() - started < 5


def test_closing_gives_back_what_waits() -> None:
    """Who waits for work gets none, who waits for an answer is handed back, and nothing more is taken in."""
    scheduler = Scheduler(100)
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(scheduler.take, alone)
        time.sleep(0.05)
        assert scheduler.close() == []
        assert taken.result(5) == []
    with pytest.raises(EngineStoppedError):
        scheduler.put(request())
    other = Scheduler(100)
    sent = fill(other, request("a"), request("b", priority=Priority.VIP))
    assert set(map(id, other.close())) == set(map(id, sent))
    assert other.take(alone) == []


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from([320, 640]), st.sampled_from(Priority), st.integers(0, 5)),
        max_size=60,
    ),
    st.integers(1, 8),
)
def test_every_request_is_taken_once(wanted: list[tuple[str, int, Priority, int]], room: int) -> None:
    """Whatever comes in whatever order: each that is not cancelled is taken exactly once, in the order of its customer,
    lane and shape, and the depth is right at each step."""
    scheduler = Scheduler(100)
    sent = [(request(customer, size=size, priority=lane), fate == 0) for customer, size, lane, fate in wanted]
    for one, cancelled in sent:
        scheduler.put(one)
        if cancelled:
            one.future.cancel()
    alive = [one for one, cancelled in sent if not cancelled]
    taken: list[Request] = []
    while len(taken) < len(alive):
        batch = scheduler.take(lambda _bucket: room)
        assert 1 <= len(batch) <= room
        assert len({one.bucket for one in batch}) == 1
        taken += batch
    assert {id(one) for one in taken} == {id(one) for one in alive}
    assert len(taken) == len(alive)
    for key in {(one.customer, one.priority, one.bucket) for one in alive}:
        assert [one for one in taken if (one.customer, one.priority, one.bucket) == key] == [
            one for one in alive if (one.customer, one.priority, one.bucket) == key
        ]


def test_many_threads_lose_nothing() -> None:
    """Four that queue and four that take: each of 4,000 requests is taken once."""
    scheduler = Scheduler(10_000)
    taken: list[Request] = []
    mutex = threading.Lock()

    def take() -> None:
        while batch := scheduler.take(lambda _bucket: 4):
            with mutex:
                taken.extend(batch)

    def put(customer: str) -> None:
        for _ in range(1000):
            scheduler.put(request(customer))

    with ThreadPoolExecutor(8) as pool:
        takers = [pool.submit(take) for _ in range(4)]
        putters = [pool.submit(put, name) for name in "abcd"]
        for putter in putters:
            putter.result()
        while scheduler.depth:
            time.sleep(0.01)
        scheduler.close()
        for taker in takers:
            taker.result()
    assert len(taken) == len({id(one) for one in taken}) == 4000
