"""Quantizing: a network in FP32 becomes one in INT8, by NNCF on pictures of the operator's.

NNCF is slow to import and needed for nothing else: an operator installs it when he quantizes (requirements-int8.txt).
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from core.errors import QuantizationRefusedError
from core.inference.backends.openvino_network import _openvino
from core.inference.quantized_file import CONSTANTS, GRAPH, clean_graph

if TYPE_CHECKING:
    import openvino as ov

T = TypeVar("T")


def require_nncf() -> None:
    """Raise `QuantizationRefusedError` where NNCF is not installed."""
    if importlib.util.find_spec("nncf") is None:
        raise QuantizationRefusedError(
            "Quantizing needs NNCF, which is not installed here: .venv/bin/uv pip install --python .venv/bin/python "
            "-r requirements-int8.txt -c constraints.txt"
        )


def quantize(
    model: ov.Model, samples: Sequence[T], load: Callable[[T], NDArray[np.float32]], *, named: Path
) -> tuple[bytes, bytes]:
    """The graph and the constants of the same network in INT8, calibrated with samples.

    `load` makes a network input `(1, 3, H, W)` of a sample. `named` is what errors call the network. What NNCF says of
    its progress goes to the standard error. Raises `QuantizationRefusedError` without NNCF, and `WeightsRefusedError`
    when what comes out is not served here.
    """
    require_nncf()
    openvino = _openvino()  # before NNCF, which would import it with its telemetry, and has the same for its own
    with contextlib.redirect_stdout(sys.stderr):
        import nncf

        nncf.set_log_level(logging.ERROR)
        quantized = nncf.quantize(
            model,
            nncf.Dataset(list(samples), load),
            # As Ultralytics' exporter: activations are not symmetric, and all samples count.
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(samples),
            ignored_scope=nncf.IgnoredScope(names=_find_decoding(model)),
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        openvino.save_model(quantized, folder / GRAPH, compress_to_fp16=False)
        constants = (folder / CONSTANTS).read_bytes()
        return clean_graph(named, (folder / GRAPH).read_bytes(), len(constants)), constants


def _find_decoding(model: Any) -> list[str]:
    """The operations after the head's convolutions, which make boxes and confidences of what these give.

    They stay in FP32, as with Ultralytics' exporter: 256 steps are too few for a coordinate. Operations carry the name
    of their module, in networks that were traced and in those that were read from ONNX; the head has the last sigmoid.
    """
    operations = model.get_ordered_ops()
    names = [operation.get_friendly_name() for operation in operations]
    sigmoids = [
        name for name, operation in zip(names, operations, strict=True) if operation.get_type_name() == "Sigmoid"
    ]
    if not sigmoids:
        raise QuantizationRefusedError("This network has no head that is known here: it stays in FP32.")
    traced, last = "/aten::", sigmoids[-1]
    head = last.split(traced)[0] if traced in last else last.rpartition("/")[0]
    inside = re.compile(rf"{re.escape(head)}(/(aten|prim)::.*|[./]dfl\b.*|/[^/]*)")
    return [name for name in names if name in sigmoids or inside.fullmatch(name)]
