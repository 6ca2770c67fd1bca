"""OpenVINO: the fastest on most CPUs, in FP32, or in INT8 where the weights are quantized. Compiled at start.

Weights of torch are converted once and kept on disk; ONNX files and quantized ones are taken as they are.
"""

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

from core.errors import WeightsRefusedError
from core.inference.backends.bounds import Bounds
from core.inference.backends.converted import Recipe, converted
from core.inference.backends.head import load_flat
from core.inference.backends.network import Arrays, NetworkFacts, compute_each
from core.inference.memory import return_freed
from core.inference.onnx_file import inspect_onnx, is_onnx
from core.inference.quantized_file import PRECISION, is_quantized, read_quantized
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
WARM_PX = (64, 64)

# The first calls of a process must not run at once: the binding initialises statics of C++ in them while it lets other
# threads run, and two threads then wait for each other for ever (seen in 2 of 10 starts with 2026.4.1).
_first_calls = threading.Lock()


class OpenVinoNetwork:
    """A network in OpenVINO: compiled once for many calls, a core each, and once for a single call on all cores.

    `from_graph`: an operator gave its graph, and so it meets one picture at a time (`compute_each`). `bounds`
    says for which shapes it may compute.
    """

    backend = "openvino"

    def __init__(
        self,
        model: ov.Model,
        facts: NetworkFacts,
        *,
        cores: int,
        precision: str = "fp32",
        from_graph: bool = False,
        bounds: Bounds | None = None,
    ) -> None:
        self.facts = facts
        self._from_graph = from_graph
        self._bounds = bounds
        self.precision = precision
        self.streams = min(cores, STREAMS_MAX)
        core = _openvino().Core()
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
        if self._bounds is not None:
            self._bounds.require(*batch.shape[2:])
        return compute_each(self._forward, batch) if self._from_graph else self._forward(batch)

    def _forward(self, batch: NDArray[np.float32]) -> Arrays:
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
    """The network of a weights file, converted if it is one of torch and not in `cache_dir` yet.

    Raises `ImportError` without OpenVINO, `NotConvertibleError`, `WeightsRefusedError`, and `OSError` where the folder
    cannot be written. Quantized weights, which nothing else computes, raise `WeightsRefusedError` without OpenVINO.
    """
    if is_quantized(path):
        require_weights(path, sha256)
        return _open_quantized(path, cores=cores)
    model, facts = read_fp32(path, sha256, cache_dir=cache_dir)
    return OpenVinoNetwork(model, facts, cores=cores, from_graph=is_onnx(path))


def read_fp32(path: Path, sha256: str, *, cache_dir: Path) -> tuple[ov.Model, NetworkFacts]:
    """OpenVINO's own network of weights of torch or ONNX, not compiled. Raises what `open_openvino` raises."""
    openvino = _openvino()
    require_weights(path, sha256)
    if is_onnx(path):
        facts = inspect_onnx(path)
        return openvino.Core().read_model(path), facts
    recipe = Recipe(sha256, "openvino", "fp32", _versions(openvino))
    folder, facts = converted(recipe, cache_dir, lambda fresh: _convert(path, sha256, fresh))
    return openvino.Core().read_model(folder / MODEL_FILE), facts


def read_int8(graph: bytes, constants: bytes) -> ov.Model:
    """A quantized network, not compiled. Raises `ImportError`.

    From memory: what was checked is what is read, whatever happens to its file meanwhile.
    """
    model: ov.Model = _openvino().Core().read_model(model=graph, weights=constants)
    return model


def _open_quantized(path: Path, *, cores: int) -> OpenVinoNetwork:
    manifest, graph, constants = read_quantized(path)
    try:
        model = read_int8(graph, constants)
    except ImportError:
        raise WeightsRefusedError(
            f"{path.name} is quantized and runs in OpenVINO only, which is not installed here: install it, or go back "
            "to a version that is not quantized.",
            reason="no_openvino",
        ) from None
    bounds = Bounds(path, model, len(constants))
    # Before it is compiled: that computes what is constant.
    bounds.require(*WARM_PX)
    return OpenVinoNetwork(model, manifest.facts, cores=cores, precision=PRECISION, from_graph=True, bounds=bounds)


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
    _infer(request, np.zeros((1, 3, *WARM_PX), np.float32))


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
