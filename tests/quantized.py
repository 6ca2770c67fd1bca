"""Small quantized networks that are made by hand, for tests that look into files and do not need one that finds."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from core.inference.quantized_file import CONSTANTS, GRAPH, Loss, Manifest, Worst, clean_graph, write_quantized

LOSS = Loss(
    pictures=5,
    sizes=(320, 640),
    confidence_min=0.25,
    objects=43,
    found=41,
    besides=1,
    confidence_mean=0.0123,
    confidence_most=0.0812,
    iou_mean=0.9712,
    time=0.36,
    time_least=0.31,
    time_most=0.44,
    worst=Worst(class_id=1, objects=4, found=3),
)
MANIFEST = Manifest(
    format=1,
    precision="int8",
    task="detect",
    names={0: "Normal", 1: "Fall"},
    weights_sha256="5f" * 32,
    openvino="2026.4.1",
    nncf="3.4.0",
    calibration_pictures=15,
    calibration_sha256="ab" * 32,
    loss=LOSS,
)


def make_small(path: Path, change: Callable[[Any], Any] = lambda output: output) -> Path:
    """A network of one quantized convolution with a manifest, as the program writes it; `change` adds to its output."""
    graph, constants = small_graph(change)
    write_quantized(path, MANIFEST, clean_graph(path, graph, len(constants)), constants)
    return path


def small_graph(change: Callable[[Any], Any] = lambda output: output) -> tuple[bytes, bytes]:
    """The same as OpenVINO saves it: graph and constants."""
    import openvino
    import openvino.opset13 as ops

    picture = ops.parameter([-1, 3, -1, -1], np.float32, name="images")
    ends = [np.array(end, np.float32) for end in (0, 1, 0, 1)]
    weights = ops.convert(ops.constant(np.arange(54, dtype=np.int8).reshape(2, 3, 3, 3)), "f32")
    filters = ops.multiply(weights, ops.constant(np.full((2, 1, 1, 1), 0.01, np.float32)))
    seen = ops.convolution(ops.fake_quantize(picture, *ends, 256), filters, [1, 1], [1, 1], [1, 1], [1, 1])
    model = openvino.Model([ops.result(change(ops.sigmoid(seen)))], [picture], "small")
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(model, Path(folder) / GRAPH, compress_to_fp16=False)
        return (Path(folder) / GRAPH).read_bytes(), (Path(folder) / CONSTANTS).read_bytes()


def parts_of(path: Path) -> dict[str, bytes]:
    """What is in a file, by name."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
