"""What goes wrong in a forward pass ends the image that is to blame, and nothing else.

A real network computes; before it stands a door that lets faults happen as a device would.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from core.errors import InferenceError
from core.inference.backends.choose import count_cores
from core.inference.backends.network import Network
from core.inference.detections import Detections
from core.inference.engine import Engine
from core.inference.images import DecodedImage, Pixels
from core.inference.pipeline import DetectParams, to_batch
from core.inference.registry import ModelVersion
from core.inference.replicas import Replica
from core.inference.scheduler import Inference, Priority

SEED = 20_261_126
SIZE_PX = 96
BATCH = 8
# A picture of this one colour stands for what a network cannot bear.
POISON = (7, 77, 177)

Fault = Callable[[NDArray[np.float32]], None]


class Door:
    """A network behind a door: `faults` are called with each batch before it passes, and may raise or wait."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.faults: list[Fault] = []
        self.batches: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def forward(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The network's own answer, unless a fault comes before."""
        self.batches.append(len(batch))
        for fault in list(self.faults):
            fault(batch)
        return self._network.forward(batch)

    def forward_pixels(self, padded: list[Pixels]) -> list[NDArray[np.float32]]:
        """The same door, whoever makes the batch."""
        return self.forward(to_batch(padded))

    def close(self) -> None:
        """The network behind it belongs to all tests."""


class Bench:
    """An engine of batches on a real network; every load of the model makes a new door."""

    def __init__(self, replica: Replica) -> None:
        self.doors: list[Door] = []
        self.faults: list[Fault] = []
        self.replica = replica

    def load(self, _version: ModelVersion) -> Any:
        door = Door(self.replica.network)
        door.faults = self.faults
        self.doors.append(door)
        return door


@contextmanager
def running(replica: Replica, **changes: Any) -> Iterator[tuple[Engine, Bench]]:
    """An engine on the processor that makes batches as one on a GPU does."""
    bench = Bench(replica)
    options = {"queue_max": 2000, "batch_size_max": BATCH, "batch_wait_ms_max": 5.0, **changes}
    engine = Engine(bench.load, device=torch.device("cpu"), **options)
    engine.start()
    try:
        yield engine, bench
    finally:
        bench.faults.clear()
        engine.stop()


def pictures(count: int, bus: DecodedImage, seed: int = SEED) -> list[Pixels]:
    """Pieces of a photograph, all different, all of one shape."""
    draw = random.Random(seed)
    height, width = bus.pixels.shape[:2]
    corners = [(draw.randrange(height - 400), draw.randrange(width - 400)) for _ in range(count)]
    return [bus.pixels[top : top + 400, left : left + 400] for top, left in corners]


def poison() -> Pixels:
    """The picture that breaks a batch."""
    return np.full((400, 400, 3), POISON, np.uint8)


def breaks_on_poison(batch: NDArray[np.float32]) -> None:
    """As a kernel that does not bear an input."""
    blue, green, red = (value / 255 for value in POISON)
    for image in batch:
        if np.allclose(image[:, SIZE_PX // 2, SIZE_PX // 2], (red, green, blue), atol=1e-3):
            raise RuntimeError("an illegal memory access was encountered")


def submit(engine: Engine, version: ModelVersion, pixels: Pixels, customer: str = "a") -> Future[Inference]:
    """One picture."""
    return engine.submit(pixels, version, DetectParams(SIZE_PX), customer=customer)


def assert_alone(replica: Replica, pixels: Pixels, found: Detections) -> None:
    """The answer that the picture gets all by itself."""
    alone, _shape = replica.run(pixels, DetectParams(SIZE_PX))
    assert found.class_names() == alone.class_names()
    np.testing.assert_allclose(found.confidence, alone.confidence, atol=1e-3)
    np.testing.assert_allclose(found.xyxy, alone.xyxy, atol=0.5)


def test_a_poisoned_batch_loses_one_image(version: ModelVersion, replica: Replica, bus: DecodedImage) -> None:
    """One of eight images breaks its batch: it fails with its cause, the seven others get what they get alone."""
    with running(replica) as (engine, bench):
        bench.faults.append(breaks_on_poison)
        good = pictures(7, bus)
        futures = [submit(engine, version, pixels) for pixels in [*good[:3], poison(), *good[3:]]]
        with pytest.raises(InferenceError) as caught:
            futures.pop(3).result(60)
        assert "illegal memory" in str(caught.value.__cause__)
        for pixels, future in zip(good, futures, strict=True):
            assert_alone(replica, pixels, future.result(60).detections)
        assert len(bench.doors) == 1, "a picture that is to blame does not cost a replica"


def test_out_of_memory_halves_the_batches(version: ModelVersion, replica: Replica, bus: DecodedImage) -> None:
    """A device that holds three images at a time: all are served, and later batches are small from the start."""

    def too_many(batch: NDArray[np.float32]) -> None:
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    with running(replica) as (engine, bench):
        bench.faults.append(too_many)
        sent = pictures(24, bus)
        for pixels, future in [(pixels, submit(engine, version, pixels)) for pixels in sent]:
            assert_alone(replica, pixels, future.result(60).detections)
        bench.doors[0].batches.clear()
        for future in [submit(engine, version, pixels) for pixels in sent]:
            future.result(60)
        assert max(bench.doors[0].batches) <= 3


def test_a_lost_device_is_opened_anew(version: ModelVersion, replica: Replica, bus: DecodedImage) -> None:
    """Nothing passes any more, not even grey: the model is loaded again, and not one image is lost."""
    with running(replica) as (engine, bench):
        submit(engine, version, bus.pixels).result(60)
        lost = bench.doors[0]

        def gone(_batch: NDArray[np.float32]) -> None:
            if bench.doors[-1] is lost:
                raise RuntimeError("CUDA error: device-side assert triggered")

        bench.faults.append(gone)
        sent = pictures(12, bus)
        for pixels, future in [(pixels, submit(engine, version, pixels)) for pixels in sent]:
            assert_alone(replica, pixels, future.result(60).detections)
        assert len(bench.doors) >= 2


def test_a_failure_that_is_over_costs_nobody_his_image(
    version: ModelVersion, replica: Replica, bus: DecodedImage
) -> None:
    """A pass fails once, and grey passes after it (another stream opened the device anew): the image is answered."""
    with running(replica) as (engine, bench):
        failures: list[int] = []

        def once(batch: NDArray[np.float32]) -> None:
            if not failures:
                failures.append(len(batch))
                raise RuntimeError("CUDA error: launch failed")

        engine.warm(version)
        bench.faults.append(once)
        assert_alone(replica, bus.pixels, submit(engine, version, bus.pixels).result(60).detections)
        assert failures == [1]
        assert len(bench.doors) == 1


def test_a_device_that_stays_lost_fails_each_image(version: ModelVersion, replica: Replica, bus: DecodedImage) -> None:
    """Every image ends in an error, none waits for ever, and the engine serves again when the device is back."""
    with running(replica) as (engine, bench):

        def gone(_batch: NDArray[np.float32]) -> None:
            raise RuntimeError("CUDA error: unknown error")

        bench.faults.append(gone)
        for future in [submit(engine, version, pixels) for pixels in pictures(5, bus)]:
            with pytest.raises(InferenceError):
                future.result(60)
        bench.faults.clear()
        assert_alone(replica, bus.pixels, submit(engine, version, bus.pixels).result(60).detections)


def test_a_pass_that_never_ends_is_given_up(version: ModelVersion, replica: Replica, bus: DecodedImage) -> None:
    """Its images fail after the time-out, another stream serves the next ones, and stopping does not wait for it."""
    released = threading.Event()
    hung: list[int] = []

    def hang(batch: NDArray[np.float32]) -> None:
        if not hung:
            hung.append(len(batch))
            released.wait(60)

    with running(replica, forward_timeout_s=1.0) as (engine, bench):
        engine.warm(version)
        bench.faults.append(hang)
        first = submit(engine, version, bus.pixels)
        with pytest.raises(InferenceError, match="too long"):
            first.result(30)
        assert engine.streams_lost == 1
        sent = pictures(6, bus)
        for pixels, future in [(pixels, submit(engine, version, pixels)) for pixels in sent]:
            assert_alone(replica, pixels, future.result(60).detections)
        released.set()  # it comes back: nothing is answered twice, and its thread ends


def test_an_engine_without_streams_says_so(version: ModelVersion, replica: Replica, bus: DecodedImage) -> None:
    """When as many streams hang as may be replaced, no thread follows and `is_stuck` tells the operator."""
    released = threading.Event()
    with running(replica, forward_timeout_s=0.3, streams_lost_max=0, batch_size_max=1) as (engine, bench):
        engine.warm(version)
        assert not engine.is_stuck
        bench.faults.append(lambda _batch: released.wait(60) and None)
        for number, future in enumerate([submit(engine, version, pixels) for pixels in pictures(count_cores(), bus)]):
            with pytest.raises(InferenceError, match="too long"):
                future.result(30)
            assert engine.streams_lost > number
        assert engine.is_stuck
        released.set()


@pytest.mark.skipif(count_cores() < 2, reason="needs two cores: with one there is no express stream")
def test_a_vip_waits_for_no_forward(version: ModelVersion, replica: Replica, bus: DecodedImage) -> None:
    """Every stream is in the middle of a pass, and more wait: a VIP's image is answered before any of them ends."""
    gate = threading.Event()

    def slow_but_for_vips(batch: NDArray[np.float32]) -> None:
        try:
            breaks_on_poison(batch)
        except RuntimeError:
            return  # the VIP's picture
        gate.wait(60)

    with running(replica, batch_size_max=1) as (engine, bench):
        engine.warm(version)
        bench.faults.append(slow_but_for_vips)
        busy = [submit(engine, version, pixels) for pixels in pictures(count_cores() + 4, bus)]
        vip = engine.submit(poison(), version, DetectParams(SIZE_PX), customer="v", priority=Priority.VIP)
        vip.result(30)
        assert not any(future.done() for future in busy)
        gate.set()
        for future in busy:
            future.result(60)


def test_a_failure_after_the_deadline_is_not_tried_again(
    version: ModelVersion, replica: Replica, bus: DecodedImage
) -> None:
    """A pass that fails when nobody waits any more is the last one for its image."""
    with running(replica, batch_size_max=1) as (engine, bench):
        engine.warm(version)

        def slow_and_failing(_batch: NDArray[np.float32]) -> None:
            time.sleep(0.4)
            raise RuntimeError("CUDA error: launch failed")

        bench.faults.append(slow_and_failing)
        before = len(bench.doors[0].batches)
        late = engine.submit(bus.pixels, version, DetectParams(SIZE_PX), customer="a", timeout_s=0.2)
        with pytest.raises(InferenceError):
            late.result(60)
        assert len(bench.doors[0].batches) == before + 1


def test_a_stream_that_was_given_up_tries_nothing_again(
    version: ModelVersion, replica: Replica, bus: DecodedImage
) -> None:
    """Its pass raises after all: no further pass on it, and the replica that others use stays."""
    released = threading.Event()

    def hang_then_fail(_batch: NDArray[np.float32]) -> None:
        released.wait(60)
        raise RuntimeError("CUDA error: launch failed")

    with running(replica, batch_size_max=1, forward_timeout_s=0.3) as (engine, bench):
        engine.warm(version)
        bench.faults.append(hang_then_fail)
        before = len(bench.doors[0].batches)
        with pytest.raises(InferenceError, match="too long"):
            submit(engine, version, bus.pixels).result(30)
        bench.faults.clear()
        released.set()
        (lost,) = engine._streams_lost
        assert lost.thread is not None
        lost.thread.join(30)
        assert len(bench.doors[0].batches) == before + 1
        assert_alone(replica, bus.pixels, submit(engine, version, bus.pixels).result(60).detections)
        assert len(bench.doors) == 1


def test_who_is_late_is_not_run(version: ModelVersion, replica: Replica, bus: DecodedImage) -> None:
    """A request whose time is over when its turn comes fails without a forward pass."""
    gate = threading.Event()
    with running(replica, batch_size_max=1) as (engine, bench):
        engine.warm(version)
        bench.faults.append(lambda _batch: gate.wait(60) and None)
        busy = [submit(engine, version, pixels) for pixels in pictures(2, bus)]
        late = engine.submit(bus.pixels, version, DetectParams(SIZE_PX), customer="a", timeout_s=0.05)
        time.sleep(0.2)
        passes = len(bench.doors[0].batches)
        gate.set()
        with pytest.raises(InferenceError, match="too long"):
            late.result(60)
        for future in busy:
            future.result(60)
        assert len(bench.doors[0].batches) <= passes + 2


def test_five_hundred_images_through_every_fault(version: ModelVersion, replica: Replica, bus: DecodedImage) -> None:
    """Poison, out of memory, a lost device, a hung pass and a dying thread, twenty times each among 500 images.

    Every image ends: with the answer it gets alone, or with an error. Only the poison must fail; a hung or dying pass
    takes at most its batch along.
    """
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when the test fails
    draw = random.Random(SEED)
    happened: Counter[str] = Counter()
    mutex = threading.Lock()
    let_go = threading.Event()
    lost: list[Door] = []

    def trouble(batch: NDArray[np.float32]) -> None:
        breaks_on_poison(batch)
        with mutex:
            if lost and lost[-1] is bench.doors[-1]:
                raise RuntimeError("CUDA error: the device was lost")
            left = [kind for kind in ("memory", "device", "hang", "death") if happened[kind] < 20]
            kind = draw.choice(left) if left and draw.random() < 0.6 else None
            if kind == "memory" and len(batch) < 2:
                kind = None
            if kind is None:
                return
            happened[kind] += 1
            if kind == "device":
                lost.append(bench.doors[-1])
        if kind == "memory":
            raise torch.OutOfMemoryError("out of memory")
        if kind == "device":
            raise RuntimeError("CUDA error: the device was lost")
        if kind == "death":
            raise SystemExit("the thread dies")
        let_go.wait(60)

    with running(replica, forward_timeout_s=1.0, streams_lost_max=25) as (engine, bench):
        engine.warm(version)
        bench.faults.append(trouble)
        sent = [(pixels, False) for pixels in pictures(480, bus)] + [(poison(), True)] * 20
        draw.shuffle(sent)
        futures = []
        for number, (pixels, bad) in enumerate(sent):
            futures.append((pixels, bad, submit(engine, version, pixels, customer=f"c{number % 5}")))
        served = failed = 0
        for pixels, bad, future in futures:
            error = future.exception(120)
            if error is None:
                assert not bad
                served += 1
                if served % 10 == 0:
                    assert_alone(replica, pixels, future.result().detections)
            else:
                assert isinstance(error, InferenceError)
                failed += 1
        assert served + failed == 500
        assert served >= 480 - (happened["hang"] + happened["death"]) * BATCH
        assert {kind: happened[kind] for kind in ("device", "hang", "death")} == {"device": 20, "hang": 20, "death": 20}
        bench.faults.clear()
        let_go.set()
        for stream in engine._streams_lost:
            assert stream.thread is not None
            stream.thread.join(60)  # they come back all at once, and one network serves them in turn
        assert_alone(replica, bus.pixels, submit(engine, version, bus.pixels).result(60).detections)
        assert engine.queue_depth == 0
