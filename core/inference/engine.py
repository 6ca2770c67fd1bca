"""The engine: a bounded queue, streams that compute on one device, a few loaded models.

It takes decoded images and a model version and gives `Detections`. It knows no money and no database. A request carries
its own immutable parameters, so no request can change another's answer.

The image is letterboxed in the thread that submits it; a stream takes batches and does nothing but forward passes;
what a pass gives is turned into detections by other threads. Whatever fails in a pass is tried again in smaller parts
until the image that is to blame stands alone (`core.inference.passes`), and a pass that never ends is given up.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from core.errors import EngineStoppedError, InferenceError, VisionMeterError
from core.inference.backends.choose import count_cores, name_device
from core.inference.backends.network import Arrays, Network
from core.inference.decode import decode
from core.inference.images import Pixels
from core.inference.passes import GivenUp, Passes
from core.inference.pipeline import GREY_PX, DetectParams, grey_picture, prepare
from core.inference.registry import ModelVersion
from core.inference.replicas import Replica, Replicas
from core.inference.scheduler import Inference, Priority, Request, Scheduler

log = logging.getLogger("visionmeter")

# A pass that takes longer never ends. Far longer than the largest batch of the slowest model needs on a CPU.
FORWARD_TIMEOUT_S = 120.0
WATCH_INTERVAL_S = 0.5
# Streams that hang keep their thread and its memory; after so many something is wrong that a new thread does not mend.
STREAMS_LOST_MAX = 8


def choose_device(wanted: str) -> torch.device:
    """`auto` takes the first of cuda, mps and cpu that is there; anything else is taken at its word."""
    if wanted != "auto":
        return torch.device(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


@dataclass(slots=True)
class _Stream:
    """A thread that computes. `batch` is in its hands since `busy_since` (`time.monotonic`), while a pass runs.

    The `express` one takes VIPs alone.
    """

    express: bool = False
    thread: threading.Thread | None = None
    batch: list[Request] | None = None
    busy_since: float | None = None
    lost: bool = False


class Engine:
    """Runs images through models on one device. Thread-safe; `start` it once.

    `load` opens the network of a version (`core.inference.backends.choose`). On a CPU there are as many streams as
    cores and each image is a batch of its own, and where that is more than one, an express stream beside them, so that
    a VIP's image waits for no forward at all. Elsewhere there is one stream, which takes up to `batch_size_max` images
    of one shape at a time and waits up to `batch_wait_ms_max` milliseconds for them.
    """

    def __init__(
        self,
        load: Callable[[ModelVersion], Network],
        *,
        device: torch.device,
        queue_max: int = 64,
        models_loaded_max: int = 3,
        models_bytes_max: int | None = None,
        batch_size_max: int | None = None,
        batch_wait_ms_max: float | None = None,
        forward_timeout_s: float = FORWARD_TIMEOUT_S,
        streams_lost_max: int = STREAMS_LOST_MAX,
    ) -> None:
        self.device = device
        on_cpu = device.type == "cpu"
        self._batch_wait_s = (batch_wait_ms_max if batch_wait_ms_max is not None else 0.0 if on_cpu else 2.0) / 1000
        self._forward_timeout_s = forward_timeout_s
        self._streams_lost_max = streams_lost_max
        self._scheduler = Scheduler(queue_max)
        self._replicas = Replicas(load, models_loaded_max, models_bytes_max)
        self._passes = Passes(self._replicas, batch_size_max if batch_size_max is not None else 1 if on_cpu else 16)
        self._streams_count = count_cores() if on_cpu else 1
        self._streams: list[_Stream] = []
        self._streams_lost: list[_Stream] = []
        self._finishers = ThreadPoolExecutor(max(2, self._streams_count), thread_name_prefix="engine-finish")
        self._watcher = threading.Thread(target=self._watch, name="engine-watch", daemon=True)
        self._stopping = threading.Event()

    @property
    def backends(self) -> Mapping[str, str]:
        """What computes, for each loaded version: `openvino fp32` for example, by the SHA-256 of its weights."""
        return {
            replica.version.sha256: f"{replica.network.backend} {replica.network.precision}"
            for replica in self._replicas.loaded()
        }

    @property
    def device_name(self) -> str:
        """The device in words, for example `cpu` or `cuda (NVIDIA H100)`."""
        return name_device(self.device)

    @property
    def queue_depth(self) -> int:
        """Requests that wait now."""
        return self._scheduler.depth

    @property
    def streams_lost(self) -> int:
        """Streams whose forward pass never ended."""
        return len(self._streams_lost)

    @property
    def is_stuck(self) -> bool:
        """Whether every stream was given up: nothing is served until the process is started again."""
        return bool(self._streams_lost) and all(stream.express for stream in self._streams)

    def start(self) -> None:
        """Start the threads."""
        for _ in range(self._streams_count):
            self._start_stream()
        if self._streams_count > 1:
            self._start_stream(express=True)
        self._watcher.start()

    def warm(self, version: ModelVersion) -> None:
        """Load a model and run one grey image through it, so that the first customer does not wait for it."""
        with self._replicas.use(version) as replica:
            replica.run(grey_picture(), DetectParams(img_size=GREY_PX))

    def submit(
        self,
        pixels: Pixels,
        version: ModelVersion,
        params: DetectParams,
        *,
        customer: str = "",
        priority: Priority = Priority.NORMAL,
        timeout_s: float | None = None,
    ) -> Future[Inference]:
        """Queue one image, `(H, W, 3)` uint8 BGR, for a customer; nothing runs for it after `timeout_s` seconds.

        Raises `EngineBusyError` when the queue is full, `EngineStoppedError`, and `InferenceError` for pixels that are
        no image. The future's errors: `WeightsRefusedError`, `InferenceError`, `EngineStoppedError`.
        """
        # Asked before the work of letterboxing; `put` decides.
        self._scheduler.require_place()
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
            raise InferenceError("The model takes pictures with three channels. Nothing was taken.")
        padded, shape = prepare(pixels, params.img_size, version.model)
        request = Request(
            version=version,
            params=params,
            padded=padded,
            shape=shape,
            image_height=pixels.shape[0],
            image_width=pixels.shape[1],
            customer=customer,
            priority=priority,
            deadline=None if timeout_s is None else time.monotonic() + timeout_s,
        )
        self._scheduler.put(request)
        return request.future

    def stop(self, *, timeout_s: float = 10.0) -> None:
        """Finish the images in hand, refuse the rest, end the threads."""
        self._stopping.set()
        if self._watcher.is_alive():
            self._watcher.join(timeout_s)  # it starts no stream any more
        for request in self._scheduler.close():
            if request.future.set_running_or_notify_cancel():
                fail(request, EngineStoppedError("The service is restarting: run it again in a minute."))
        until = time.monotonic() + timeout_s
        for stream in [*self._streams, *self._streams_lost]:
            if stream.thread is not None:
                stream.thread.join(max(0.0, until - time.monotonic()))
        self._finishers.shutdown()
        self._replicas.close()

    # The streams ------------------------------------------------------------------------------------

    def _start_stream(self, *, express: bool = False) -> None:
        stream = _Stream(express)
        stream.thread = threading.Thread(target=self._work, args=(stream,), name="engine-stream", daemon=True)
        self._streams.append(stream)
        stream.thread.start()

    def _work(self, stream: _Stream) -> None:
        while not stream.lost:
            batch = self._scheduler.take(self._passes.batch_max, wait_s=self._batch_wait_s, express=stream.express)
            if not batch:
                return
            try:
                self._run(stream, batch)
            except GivenUp:
                return  # all of it was answered when it was given up
            except VisionMeterError as error:
                for request in batch:
                    fail(request, error)
            except BaseException as error:
                # Whatever a back end raises (it may be no Exception) must end these requests, not the stream.
                log.exception("a stream of the engine goes on after an error")
                for request in batch:
                    fail(request, _broken(error))

    def _run(self, stream: _Stream, batch: list[Request]) -> None:
        waited = [request for request in batch if not _is_late(request)]
        if not waited:
            return
        with self._replicas.use(waited[0].version) as replica:

            def forward(replica: Replica, padded: list[Pixels]) -> Arrays:
                if stream.lost:
                    raise GivenUp
                # All of the batch, also when this is a part of it: a pass that never ends answers none of them.
                stream.batch, stream.busy_since = waited, time.monotonic()
                try:
                    return replica.forward(padded)
                finally:
                    stream.batch, stream.busy_since = None, None

            started = time.perf_counter()
            for outcome in self._passes.run(replica, waited, forward):
                if isinstance(outcome.outputs, VisionMeterError):
                    fail(outcome.request, outcome.outputs)
                elif isinstance(outcome.outputs, Exception):
                    fail(outcome.request, _broken(outcome.outputs))
                else:
                    self._finishers.submit(
                        _finish, outcome.request, outcome.outputs, replica, started, outcome.ms, outcome.batch_size
                    )

    # What never ends --------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._stopping.wait(WATCH_INTERVAL_S):
            for stream in list(self._streams):
                since, batch = stream.busy_since, stream.batch
                if since is not None and batch is not None and time.monotonic() - since > self._forward_timeout_s:
                    self._give_up(stream, batch)

    def _give_up(self, stream: _Stream, batch: list[Request]) -> None:
        """Answer what a stream will not, and let another take its place; it ends by itself should it ever come back."""
        stream.lost = True
        self._streams.remove(stream)
        self._streams_lost.append(stream)
        log.error("a forward pass of %d images did not end within %s s", len(batch), self._forward_timeout_s)
        for request in batch:
            fail(request, InferenceError("The model took too long on this image. Nothing was taken: try again."))
        if len(self._streams_lost) <= self._streams_lost_max:
            self._start_stream(express=stream.express)
        else:
            log.critical("no stream takes the place of the lost one: restart the service")


def fail(request: Request, error: VisionMeterError) -> None:
    """Answer a request with an error, unless it was answered."""
    try:
        request.future.set_exception(error)
    except InvalidStateError:
        pass  # its stream was given up, or it failed before the rest of its batch did


def _broken(cause: BaseException) -> InferenceError:
    failure = InferenceError("The model failed on this image. Nothing was taken: try again.")
    failure.__cause__ = cause
    return failure


def _is_late(request: Request) -> bool:
    if not request.is_late:
        return False
    fail(request, InferenceError("The model took too long on this image. Nothing was taken: try again."))
    return True


def _finish(
    request: Request,
    outputs: Arrays,
    replica: Replica,
    started: float,
    model_ms: float,
    batch_size: int,
) -> None:
    """From what the network says to detections in the original image."""
    try:
        detections = decode(
            outputs,
            replica.network.facts,
            request.params,
            request.shape,
            request.image_height,
            request.image_width,
        )
        answer = Inference(
            detections=detections,
            input_shape=(request.shape.height, request.shape.width),
            wait_ms=(started - request.submitted_at) * 1000,
            model_ms=model_ms,
            batch_size=batch_size,
        )
        request.future.set_result(answer)
    except InvalidStateError:
        pass  # its stream had been given up
    except Exception as error:
        # An output that is no prediction: this image fails, and the thread goes on.
        fail(request, _broken(error))
