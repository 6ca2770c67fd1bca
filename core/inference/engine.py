"""The engine: a bounded queue, one thread on one device, a few loaded models.

It takes decoded images and a model version and gives `Detections`. It knows no money and no database. A
request carries its own immutable parameters, so no request can change another's answer.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
import torchvision  # noqa: F401  # imported first on purpose: without it NMS is some 30 times slower

from core.errors import (
    EngineBusyError,
    EngineStoppedError,
    InferenceError,
    VisionMeterError,
)
from core.inference.detections import Detections
from core.inference.images import Pixels
from core.inference.pipeline import DetectParams, letterbox, suppress, to_original, to_tensor
from core.inference.registry import ModelVersion
from core.inference.weights import load_network


@dataclass(frozen=True, slots=True)
class Inference:
    """The answer to one request. Times in milliseconds; `input_shape` is the tensor's `(height, width)`."""

    detections: Detections
    input_shape: tuple[int, int]
    wait_ms: float
    model_ms: float


@dataclass(slots=True)
class Replica:
    """One loaded model on one device. `network` maps `(1, 3, H, W)` to `(1, 4 + classes, candidates)`."""

    version: ModelVersion
    network: torch.nn.Module
    names: Mapping[int, str]
    device: torch.device

    def run(self, pixels: Pixels, params: DetectParams) -> tuple[Detections, tuple[int, int]]:
        """One image, `(H, W, 3)` BGR, through the network."""
        padded, shape = letterbox(pixels, params.img_size)
        tensor = to_tensor(padded, self.device)
        with torch.inference_mode():
            output = self.network(tensor)
        prediction = output[0] if isinstance(output, list | tuple) else output
        rows = suppress(prediction[0], params)
        detections = to_original(rows, shape, pixels.shape[0], pixels.shape[1], self.names)
        return detections, (int(tensor.shape[2]), int(tensor.shape[3]))


@dataclass(slots=True)
class _Request:
    pixels: Pixels
    version: ModelVersion
    params: DetectParams
    submitted_at: float
    future: Future[Inference] = field(default_factory=Future)


def choose_device(wanted: str) -> torch.device:
    """`auto` takes the first of cuda, mps and cpu that is there; anything else is taken at its word."""
    if wanted != "auto":
        return torch.device(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


class Engine:
    """Runs images through models, one at a time on one device. Thread-safe; `start` it once."""

    def __init__(self, *, device: str = "auto", queue_max: int = 64, models_loaded_max: int = 3) -> None:
        self.device = choose_device(device)
        self._models_loaded_max = models_loaded_max
        self._queue: queue.Queue[_Request | None] = queue.Queue(maxsize=queue_max)
        self._replicas: OrderedDict[str, Replica] = OrderedDict()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._stopping = threading.Event()
        self._started = False

    @property
    def device_name(self) -> str:
        """The device in words, for example `cpu` or `cuda (NVIDIA H100)`."""
        if self.device.type == "cuda":
            return f"cuda ({torch.cuda.get_device_name(self.device)})"
        return self.device.type

    @property
    def queue_depth(self) -> int:
        """Requests that wait now."""
        return self._queue.qsize()

    def start(self) -> None:
        """Start the worker thread."""
        self._started = True
        self._thread.start()

    def warm(self, version: ModelVersion) -> None:
        """Load a model and run one grey image through it, so that the first customer does not wait for it."""
        import numpy as np

        grey = np.full((64, 64, 3), 114, np.uint8)
        self.submit(grey, version, DetectParams(img_size=64)).result()

    def submit(self, pixels: Pixels, version: ModelVersion, params: DetectParams) -> Future[Inference]:
        """Queue one image, `(H, W, 3)` uint8 BGR. Raises `EngineBusyError` when the queue is full.

        The future's errors: `WeightsRefusedError`, `InferenceError`, `EngineStoppedError`.
        """
        if self._stopping.is_set():
            raise EngineStoppedError("The service is restarting: run it again in a minute.")
        request = _Request(pixels, version, params, time.perf_counter())
        try:
            self._queue.put_nowait(request)
        except queue.Full:
            raise EngineBusyError("The service is busy: run it again in a few seconds. Nothing was taken.") from None
        return request.future

    def stop(self, *, timeout_s: float = 10.0) -> None:
        """Finish the image in hand, refuse the rest, end the thread."""
        self._stopping.set()
        while True:
            try:
                request = self._queue.get_nowait()
            except queue.Empty:
                break
            if request is not None:
                _fail(request, EngineStoppedError("The service is restarting: run it again in a minute."))
        if self._started:
            self._queue.put(None)
            self._thread.join(timeout_s)

    def _work(self) -> None:
        torch.set_num_threads(max(1, torch.get_num_threads(), _cores()))
        while (request := self._queue.get()) is not None:
            if not request.future.set_running_or_notify_cancel():
                continue
            started = time.perf_counter()
            try:
                detections, input_shape = self._replica(request.version).run(request.pixels, request.params)
            except VisionMeterError as error:
                request.future.set_exception(error)
            except Exception as error:
                # Whatever a network raises (shapes, memory, device) must end this request, not the thread.
                failure = InferenceError("The model failed on this image. Nothing was taken: try again.")
                failure.__cause__ = error
                request.future.set_exception(failure)
            else:
                finished = time.perf_counter()
                request.future.set_result(
                    Inference(
                        detections=detections,
                        input_shape=input_shape,
                        wait_ms=(started - request.submitted_at) * 1000,
                        model_ms=(finished - started) * 1000,
                    )
                )

    def _replica(self, version: ModelVersion) -> Replica:
        replica = self._replicas.get(version.sha256)
        if replica is None:
            network, names = load_network(version.path, version.sha256, self.device)
            replica = Replica(version, network, names, self.device)
            self._replicas[version.sha256] = replica
            while len(self._replicas) > self._models_loaded_max:
                self._replicas.popitem(last=False)
        self._replicas.move_to_end(version.sha256)
        return replica


def _fail(request: _Request, error: VisionMeterError) -> None:
    if request.future.set_running_or_notify_cancel():
        request.future.set_exception(error)


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
