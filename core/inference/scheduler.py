"""Which requests run next: bounded, fair between customers, a lane for VIPs, batches of one model and one shape."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from core.errors import EngineBusyError, EngineStoppedError, InferenceError
from core.geometry import NetworkInput
from core.inference.detections import Detections
from core.inference.images import Pixels
from core.inference.pipeline import DetectParams
from core.inference.registry import ModelVersion

# So many dispatches of VIPs in a row, then one of the others if any wait: a VIP's head waits for at most one forward,
# and nobody waits for ever.
VIP_RUN_MAX = 8
# How long a VIP in the express stream keeps the others' batches back. Longer than a forward takes; a pass that hangs
# must not hold everybody up.
HOLD_BACK_S_MAX = 1.0


class Priority(IntEnum):
    """The lanes of the queue, the first one first."""

    VIP = 0
    NORMAL = 1


class Bucket(NamedTuple):
    """What may share a batch: images of one letterboxed shape for one version of a model.

    Images of different shapes in one batch would be padded to the largest, and that changes their answers.
    """

    sha256: str
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Inference:
    """The answer to one request. Times in milliseconds; `input_shape` is the tensor's `(height, width)`.

    `model_ms` is the forward pass of the batch that the image was in, of `batch_size` images. Of an image in tiles,
    `tiles_failed` gave nothing (`core.inference.tiled`).
    """

    detections: Detections
    input_shape: tuple[int, int]
    wait_ms: float
    model_ms: float
    batch_size: int = 1
    tiles_failed: int = 0


@dataclass(slots=True, eq=False)
class Request:
    """One image on its way. `padded` is the network input, `(height, width, 3)` uint8 BGR; sides in pixels.

    `deadline` is a time of `time.monotonic`, after which nobody waits for the answer.
    """

    version: ModelVersion
    params: DetectParams
    padded: Pixels
    shape: NetworkInput
    image_height: int
    image_width: int
    customer: str
    priority: Priority
    deadline: float | None
    submitted_at: float = field(default_factory=time.perf_counter)
    future: Future[Inference] = field(default_factory=Future)

    @property
    def bucket(self) -> Bucket:
        """What it may share a batch with."""
        return Bucket(self.version.sha256, self.shape.height, self.shape.width)

    @property
    def is_late(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.deadline is not None and time.monotonic() >= self.deadline


def wait_for(future: Future[Inference], deadline: float) -> Inference:
    """The answer to a request, waited for until `deadline` of `time.monotonic`.

    Raises `InferenceError` when time is over, and what the future raises.
    """
    try:
        return future.result(timeout=max(0.0, deadline - time.monotonic()))
    except FutureTimeoutError:
        future.cancel()
        raise InferenceError("The model took too long on this image. Nothing was taken: try again.") from None


class Scheduler:
    """A bounded queue of requests, taken out in batches. Thread-safe.

    In a lane, customers take turns: whoever sends a thousand images makes another's one wait for one batch.
    """

    def __init__(self, places_max: int) -> None:
        self._places_max = places_max
        self._lanes: dict[Priority, OrderedDict[str, deque[Request]]] = {lane: OrderedDict() for lane in Priority}
        self._depth = 0
        self._vips_in_a_row = 0
        # Of `time.monotonic`: until then a VIP computes in the express stream.
        self._held_back_until = 0.0
        self._closed = False
        self._changed = threading.Condition()

    @property
    def depth(self) -> int:
        """Requests that wait now."""
        return self._depth

    def require_place(self) -> None:
        """Raise `EngineStoppedError` when it was closed, `EngineBusyError` when it is full."""
        if self._closed:
            raise EngineStoppedError("The service is restarting: run it again in a minute.")
        if self._depth >= self._places_max:
            raise EngineBusyError("The service is busy: run it again in a few seconds. Nothing was taken.")

    def put(self, request: Request) -> None:
        """Queue a request, or raise what `require_place` raises."""
        with self._changed:
            self.require_place()
            self._lanes[request.priority].setdefault(request.customer, deque()).append(request)
            self._depth += 1
            self._changed.notify_all()

    def take(self, batch_max: Callable[[Bucket], int], *, wait_s: float = 0.0, express: bool = False) -> list[Request]:
        """The next batch: its first request by lane and turn, the others of the same bucket by turn.

        Waits for the first one, and up to `wait_s` seconds from its arrival for others to share its batch. Requests
        that were cancelled meanwhile are left out. Empty once the queue is closed.

        The `express` stream takes nothing but VIPs. Between its batch and its next call, or for `HOLD_BACK_S_MAX`, the
        other streams take of the others only what is due to them (`VIP_RUN_MAX`): the VIP has the cores.
        """
        lanes = (Priority.VIP,) if express else tuple(Priority)
        with self._changed:
            if express:
                self._held_back_until = 0.0
                self._changed.notify_all()
            while (first := self._next(lanes)) is None:
                if self._closed:
                    return []
                held_back_s = self._held_back_until - time.monotonic()
                self._changed.wait(held_back_s if held_back_s > 0 else None)
            if express:
                self._held_back_until = time.monotonic() + HOLD_BACK_S_MAX
            batch = [first]
            room = batch_max(first.bucket)
            self._fill(batch, room, lanes)
            while len(batch) < room and not self._closed:
                left_s = first.submitted_at + wait_s - time.perf_counter()
                if left_s <= 0:
                    break
                self._changed.wait(left_s)
                self._fill(batch, room, lanes)
            return batch

    def close(self) -> list[Request]:
        """Take nothing more in; gives what waited."""
        with self._changed:
            self._closed = True
            left = [request for lane in self._lanes.values() for queue in lane.values() for request in queue]
            for lane in self._lanes.values():
                lane.clear()
            self._depth = 0
            self._changed.notify_all()
        return left

    def _next(self, lanes: tuple[Priority, ...]) -> Request | None:
        while (lane := self._choose_lane(lanes)) is not None:
            customer, queue = self._lanes[lane].popitem(last=False)
            request = queue.popleft()
            self._depth -= 1
            if queue:
                self._lanes[lane][customer] = queue  # at the end: the others have their turn first
            if request.future.set_running_or_notify_cancel():
                self._vips_in_a_row = self._vips_in_a_row + 1 if lane is Priority.VIP else 0
                return request
        return None

    def _choose_lane(self, lanes: tuple[Priority, ...]) -> Priority | None:
        vip = self._lanes[Priority.VIP]
        normal = Priority.NORMAL in lanes and self._lanes[Priority.NORMAL]
        is_due = self._vips_in_a_row >= VIP_RUN_MAX
        if vip and not (normal and is_due):
            return Priority.VIP
        return Priority.NORMAL if normal and (is_due or time.monotonic() >= self._held_back_until) else None

    def _fill(self, batch: list[Request], room: int, lanes: tuple[Priority, ...]) -> None:
        """Add requests of the same bucket, one a customer and round, VIPs first."""
        bucket = batch[0].bucket
        for lane in (self._lanes[priority] for priority in lanes):
            found = True
            while found and len(batch) < room:
                found = False
                for customer in list(lane):
                    if len(batch) >= room:
                        break
                    request = self._take_of(lane, customer, bucket)
                    if request is not None:
                        found = True
                        if request.future.set_running_or_notify_cancel():
                            batch.append(request)

    def _take_of(self, lane: OrderedDict[str, deque[Request]], customer: str, bucket: Bucket) -> Request | None:
        queue = lane[customer]
        for index, request in enumerate(queue):
            if request.bucket == bucket:
                del queue[index]
                self._depth -= 1
                if queue:
                    lane.move_to_end(customer)
                else:
                    del lane[customer]
                return request
        return None
