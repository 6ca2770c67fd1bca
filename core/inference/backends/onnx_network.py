"""ONNX Runtime: a fall-back on CPUs, in FP32.

Weights of torch are exported once and kept on disk; ONNX files are taken as they are.
"""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.inference.backends.converted import Recipe, converted
from core.inference.backends.head import load_flat
from core.inference.backends.network import Arrays, NetworkFacts, compute_each
from core.inference.memory import return_freed
from core.inference.onnx_file import INPUT, inspect_onnx, is_onnx
from core.inference.weights import require_weights

if TYPE_CHECKING:
    import onnxruntime

MODEL_FILE = "model.onnx"
OPSET = 17
TRACE_SHAPE = (1, 3, 320, 256)


class OnnxNetwork:
    """A network in ONNX Runtime. One session serves calls at once; they share its threads.

    `from_graph`: an operator gave its graph, and so it meets one picture at a time (`compute_each`).
    """

    backend = "onnxruntime"
    precision = "fp32"

    def __init__(self, model_file: Path, facts: NetworkFacts, *, cores: int, from_graph: bool = False) -> None:
        import onnxruntime

        self.facts = facts
        self._from_graph = from_graph
        self.streams = cores
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cores
        # Threads that spin between calls take the cores from decoding and from other models.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # What a call took goes back when it is done; the arena would keep the most that any shape ever took.
        options.enable_cpu_mem_arena = False
        # Windows only; elsewhere there is none.
        onnxruntime.disable_telemetry_events()
        self._session: onnxruntime.InferenceSession = onnxruntime.InferenceSession(
            str(model_file), options, providers=["CPUExecutionProvider"]
        )

    @property
    def names(self) -> Mapping[int, str]:
        """Class ids and their names."""
        return self.facts.names

    def forward(self, batch: NDArray[np.float32]) -> Arrays:
        """See `Network.forward`."""
        return compute_each(self._forward, batch) if self._from_graph else self._forward(batch)

    def _forward(self, batch: NDArray[np.float32]) -> Arrays:
        outputs: Arrays = self._session.run(None, {INPUT: batch})
        return outputs

    def close(self) -> None:
        """Give back its memory."""
        del self._session
        return_freed()


def open_onnx(path: Path, sha256: str, *, cache_dir: Path, cores: int) -> OnnxNetwork:
    """The network of a weights file, exported if it is no ONNX file and not in `cache_dir` yet.

    Raises `ImportError` without ONNX Runtime, `NotConvertibleError`, `WeightsRefusedError`, and `OSError` where the
    folder cannot be written.
    """
    import onnxruntime

    require_weights(path, sha256)
    if is_onnx(path):
        return OnnxNetwork(path, inspect_onnx(path), cores=cores, from_graph=True)
    versions = {
        "onnxruntime": str(onnxruntime.__version__),
        "onnx": importlib.metadata.version("onnx"),
        "torch": str(torch.__version__),
        "ultralytics": importlib.metadata.version("ultralytics"),
        "recipe": "1",
    }
    recipe = Recipe(sha256, "onnx", "fp32", versions)
    folder, facts = converted(recipe, cache_dir, lambda fresh: _convert(path, sha256, fresh))
    return OnnxNetwork(folder / MODEL_FILE, facts, cores=cores)


def _convert(path: Path, sha256: str, folder: Path) -> NetworkFacts:
    network, facts = load_flat(path, sha256, torch.device("cpu"), form="onnx")
    example = torch.zeros(TRACE_SHAPE)
    with torch.no_grad():
        outputs = [f"output{index}" for index in range(len(network(example)))]
    # Batch and sides are open. Of the outputs the shapes are left out: the runtime finds them.
    open_axes: dict[str, Any] = {INPUT: {0: "batch", 2: "height", 3: "width"}}
    for output in outputs:
        open_axes[output] = {0: "batch"}
    with warnings.catch_warnings(), torch.no_grad():
        # As Ultralytics: the older exporter, which needs no further package. The tracer notes each Python number.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (example,),
            str(folder / MODEL_FILE),
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=outputs,
            dynamic_axes=open_axes,
            dynamo=False,
        )
    return facts
