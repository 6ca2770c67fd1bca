"""Forward passes that may fail: in smaller parts, on a fresh replica, until what is to blame stands alone."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from core.inference.backends.network import Arrays
from core.inference.images import Pixels
from core.inference.pipeline import grey_picture
from core.inference.replicas import Replica, Replicas
from core.inference.scheduler import Bucket, Request

log = logging.getLogger("visionmeter")

# `Replica.forward`, watched.
Forward = Callable[[Replica, list[Pixels]], Arrays]


class GivenUp(BaseException):
    """The stream that this pass was for was given up meanwhile: nobody waits for what is left of its batch.

    No error of a pass: it goes by whatever tries one again.
    """


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request: its part of all outputs (`Network.forward`, without the batch), or why there is none.

    `ms` is the pass that it was in, of `batch_size` images.
    """

    request: Request
    outputs: Arrays | Exception
    ms: float
    batch_size: int


class Passes:
    """Runs batches. Remembers for each bucket how many images fit into the device's memory; thread-safe."""

    def __init__(self, replicas: Replicas, batch_size_max: int) -> None:
        self._replicas = replicas
        self._batch_size_max = batch_size_max
        self._fits: dict[Bucket, int] = {}
        self._mutex = threading.Lock()

    def batch_max(self, bucket: Bucket) -> int:
        """How many images a batch of a bucket may have."""
        return self._fits.get(bucket, self._batch_size_max)

    def run(self, replica: Replica, requests: list[Request], forward: Forward) -> Iterator[Outcome]:
        """Every request with its outcome. One that breaks a batch is found by halving it: the others succeed.

        An image that fails alone gets one more chance: on the same replica where a grey image passes, as what failed
        may be over; on one that is loaded anew where not even a grey image passes (a device that was lost, say).
        """
        started = time.perf_counter()
        outputs, error = _try(replica, [request.padded for request in requests], forward)
        if outputs is None:
            assert error is not None
            if is_out_of_memory(error):
                self._shrink(requests)
            yield from self._again(replica, requests, forward, error)
            return
        ms = (time.perf_counter() - started) * 1000
        for index, request in enumerate(requests):
            yield Outcome(request, [output[index] for output in outputs], ms, len(requests))

    def _again(
        self, replica: Replica, requests: list[Request], forward: Forward, error: Exception
    ) -> Iterator[Outcome]:
        if len(requests) > 1:
            half = len(requests) // 2
            yield from self.run(replica, requests[:half], forward)
            yield from self.run(replica, requests[half:], forward)
            return
        if requests[0].is_late:
            yield Outcome(requests[0], error, 0.0, 1)
            return
        if is_out_of_memory(error):
            log.warning("one image alone does not fit into memory", exc_info=error)
            yield Outcome(requests[0], error, 0.0, 1)
            return
        if _is_broken(replica, forward):
            log.warning("a replica of %s is broken: it is loaded anew", replica.version.model.name, exc_info=error)
            self._replicas.discard(replica)
        started = time.perf_counter()
        try:
            with self._replicas.use(replica.version) as fresh:
                outputs = forward(fresh, [requests[0].padded])
        except Exception as second:
            # An image that is to blame, weights that do not load, a device that is still gone: the end for this image.
            log.warning("a forward pass failed on one image", exc_info=second)
            outcome = Outcome(requests[0], second, 0.0, 1)
        else:
            outcome = Outcome(requests[0], [output[0] for output in outputs], (time.perf_counter() - started) * 1000, 1)
        yield outcome

    def _shrink(self, requests: list[Request]) -> None:
        """Batches of this bucket are half as large from now on."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        bucket, fits = requests[0].bucket, max(1, len(requests) // 2)
        with self._mutex:
            if fits < self.batch_max(bucket):
                self._fits[bucket] = fits
                log.warning("out of memory: batches of %d × %d have %d images now", bucket.height, bucket.width, fits)


def _try(replica: Replica, padded: list[Pixels], forward: Forward) -> tuple[Arrays | None, Exception | None]:
    """A pass, or what it raised."""
    try:
        return forward(replica, padded), None
    except Exception as error:
        # Whatever a back end raises.
        return None, error


def _is_broken(replica: Replica, forward: Forward) -> bool:
    """Whether not even a picture that cannot be to blame passes."""
    return _try(replica, [grey_picture()], forward)[0] is None


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, on the device or on the machine."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "out of memory" in str(error).lower()
