"""OpenVINO: the fastest on most CPUs, in FP32. Converted once from torch, kept on disk, compiled at start."""

from __future__ import annotations

import contextlib
import importlib.metadata
import queue
import sys
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.inference.backends.converted import Recipe, converted
from core.inference.backends.head import load_flat
from core.inference.backends.network import Arrays, NetworkFacts
from core.inference.memory import return_freed
from core.inference.weights import require_weights

if TYPE_CHECKING:
    import openvino as ov

# More streams than these take memory by the gigabyte and gain little: beyond it each gets several threads.
STREAMS_MAX = 16
# OpenVINO keeps what it prepared for a shape, by default for more than a hundred of them and 4 MB each, in each stream.
# This is what some twenty need.
PREPARED_MAX = 1000
MODEL_FILE = "model.xml"
TRACE_SHAPE = (1, 3, 320, 256)

# The first calls of a process must not run at once: the binding initialises statics of C++ in them while it lets other
# threads run, and two threads then wait for each other for ever (seen in 2 of 10 starts with 2026.4.1).
_first_calls = threading.Lock()


class OpenVinoNetwork:
    """A network in OpenVINO: compiled once for many calls, a core each, and once for a single call on all cores."""

    backend = "openvino"
    precision = "fp32"

    def __init__(self, model_file: Path, facts: NetworkFacts, *, cores: int) -> None:
        openvino = _openvino()
        self.facts = facts
        self.streams = min(cores, STREAMS_MAX)
        core = openvino.Core()
        model = core.read_model(model_file)
        self._requests: queue.LifoQueue[ov.InferRequest] = queue.LifoQueue()
        with _first_calls:
            many = core.compile_model(model, "CPU", _settings(streams=self.streams, cores=cores))
            for request in [many.create_infer_request() for _ in range(self.streams)]:
                _warm(request)
                self._requests.put(request)
            self._alone: ov.InferRequest | None = None
            if self.streams > 1:
                single = core.compile_model(model, "CPU", _settings(streams=1, cores=cores))
                self._alone = single.create_infer_request()
                _warm(self._alone)
        self._mutex = threading.Lock()
        self._calls = 0

    @property
    def names(self) -> Mapping[int, str]:
        """Class ids and their names."""
        return self.facts.names

    def forward(self, batch: NDArray[np.float32]) -> Arrays:
        """See `Network.forward`. A call that finds no other gets all cores; so does one that finds all streams busy."""
        with self._mutex:
            alone = None
            if self._calls == 0 or self._calls >= self.streams:
                # Nobody else has it until it is put back.
                alone, self._alone = self._alone, None
            self._calls += 1
        try:
            if alone is not None:
                return _infer(alone, batch)
            request = self._requests.get()
            try:
                return _infer(request, batch)
            finally:
                self._requests.put(request)
        finally:
            with self._mutex:
                self._calls -= 1
                if alone is not None:
                    self._alone = alone

    def close(self) -> None:
        """Give back its memory."""
        self._alone = None
        with contextlib.suppress(queue.Empty):
            while True:
                self._requests.get_nowait()
        return_freed()


def open_openvino(path: Path, sha256: str, *, cache_dir: Path, cores: int) -> OpenVinoNetwork:
    """The network of a weights file, converted if it is not in `cache_dir` yet.

    Raises `ImportError` without OpenVINO, `NotConvertibleError`, `WeightsRefusedError`, and `OSError` where the folder
    cannot be written.
    """
    openvino = _openvino()
    require_weights(path, sha256)
    recipe = Recipe(sha256, "openvino", "fp32", _versions(openvino))
    folder, facts = converted(recipe, cache_dir, lambda fresh: _convert(path, sha256, fresh))
    return OpenVinoNetwork(folder / MODEL_FILE, facts, cores=cores)


def _convert(path: Path, sha256: str, folder: Path) -> NetworkFacts:
    openvino = _openvino()
    network, facts = load_flat(path, sha256, torch.device("cpu"), form="openvino")
    example = torch.zeros(TRACE_SHAPE)
    with warnings.catch_warnings(), torch.no_grad():
        # Tracing is deprecated in torch, untyped, and what OpenVINO takes; it notes each Python number that it meets.
        warnings.simplefilter("ignore")
        trace: Any = torch.jit.trace  # it has no types
        traced = trace(network, example, strict=False, check_trace=False)
        model = openvino.convert_model(traced, example_input=example)
    # As Ultralytics' exporter, but in full precision: `compress_to_fp16` is on unless it is said.
    model.reshape([-1, 3, -1, -1])
    openvino.save_model(model, folder / MODEL_FILE, compress_to_fp16=False)
    return facts


def _settings(*, streams: int, cores: int) -> dict[str, Any]:
    return {
        # Left to itself it computes in bfloat16 on CPUs that have it.
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": str(streams),
        "INFERENCE_NUM_THREADS": str(cores),
        # Pinned, the first streams of two models would share one core while another idles.
        "ENABLE_CPU_PINNING": "NO",
        "CPU_RUNTIME_CACHE_CAPACITY": str(PREPARED_MAX),
    }


def _warm(request: ov.InferRequest) -> None:
    _infer(request, np.zeros((1, 3, 64, 64), np.float32))


def _infer(request: ov.InferRequest, batch: NDArray[np.float32]) -> Arrays:
    # The outputs are copied: the request writes the next ones to the same place.
    return list(request.infer({0: batch}, share_inputs=True).values())


def _versions(openvino: Any) -> dict[str, str]:
    """What the converted network depends on beside the weights."""
    return {
        "openvino": str(openvino.__version__),
        "torch": str(torch.__version__),
        "ultralytics": importlib.metadata.version("ultralytics"),
        "recipe": "1",
    }


def _openvino() -> Any:
    """OpenVINO without its telemetry, which would report each import and each conversion to its makers."""
    if "openvino" not in sys.modules:
        # None makes the import fail; OpenVINO then takes a stub that does nothing.
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # what the import system documents
    import openvino

    return openvino
