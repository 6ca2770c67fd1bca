"""Quantizing with NNCF: without telemetry, on what OpenVINO reads; and what is measured as lost."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.config import ROOT
from core.errors import QuantizationRefusedError
from core.inference.backends.network import Arrays, Network
from core.inference.backends.openvino_network import open_openvino, read_fp32
from core.inference.images import DecodedImage
from core.inference.pipeline import DetectParams
from core.inference.quantization_loss import measure_loss
from core.inference.quantize import _find_decoding
from core.inference.registry import ModelVersion
from core.inference.replicas import Replica
from core.inference.weights import hash_file

QUANTIZE = """
import sys
from pathlib import Path
import numpy as np
from core.inference.quantize import quantize
from core.inference.backends.openvino_network import _openvino, read_int8
ov = _openvino()
import openvino.opset13 as ops
picture = ops.parameter([-1, 3, -1, -1], np.float32, name="images")
filters = np.random.default_rng(0).normal(size=(8, 3, 3, 3)).astype(np.float32)
seen = ops.convolution(picture, filters, [1, 1], [1, 1], [1, 1], [1, 1])
seen.set_friendly_name("/model.0/conv/Conv")
output = ops.sigmoid(seen)
output.set_friendly_name("/model.1/Sigmoid")
model = ov.Model([ops.result(output)], [picture], "small")
load = lambda seed: np.random.default_rng(seed).random((1, 3, 64, 64), np.float32)
graph, constants = quantize(model, range(4), load, named=Path("small"))
print(any("openvino_telemetry." in name for name in sys.modules), end=" ")
from nncf.telemetry import telemetry
from nncf.telemetry.wrapper import NNCFTelemetry
print(isinstance(telemetry, NNCFTelemetry), end=" ")
run = lambda one: list(ov.Core().compile_model(one, "CPU")([load(9)]).values())[0]
print(float(np.abs(run(read_int8(graph, constants)) - run(model)).max()) < 0.2, b"FakeQuantize" in graph)
"""


def test_no_telemetry_and_the_same_network() -> None:
    """Neither OpenVINO nor NNCF loads what sends, all progress goes to the error stream, and INT8 computes nearly the
    same."""
    done = subprocess.run(
        [sys.executable, "-c", QUANTIZE], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "False False True True\n"


@pytest.fixture(scope="module")
def fp32(version: ModelVersion, weights_dir: Path) -> Replica:
    """The embedded network in OpenVINO."""
    network = open_openvino(version.path, version.sha256, cache_dir=weights_dir / "converted", cores=1)
    return Replica(version, network)


def test_the_head_keeps_its_precision(version: ModelVersion, onnx_weights: Path, weights_dir: Path) -> None:
    """Of a network that was traced and of the same one read from ONNX, what makes boxes of the head's numbers is left
    out, and no convolution but the one that does."""
    for path in (version.path, onnx_weights):
        model, _ = read_fp32(path, hash_file(path), cache_dir=weights_dir / "converted")
        kinds = {operation.get_friendly_name(): operation.get_type_name() for operation in model.get_ordered_ops()}
        left_out = [kinds[name] for name in _find_decoding(model)]
        assert left_out.count("Convolution") == 1
        assert {"Sigmoid", "Softmax", "Concat", "Subtract"} <= set(left_out)
        assert len(left_out) < len(kinds) / 3


class Wrong:
    """A network whose confidences are lower than those of the one that it stands for, which finds less then."""

    def __init__(self, network: Network, factor: float) -> None:
        self.network, self.factor, self.facts = network, factor, network.facts

    def forward(self, batch: np.ndarray) -> Arrays:
        first, *others = self.network.forward(batch)
        return [np.concatenate((first[:, :4], first[:, 4:] * np.float32(self.factor)), axis=1), *others]


def test_what_is_lost(fp32: Replica, bus: DecodedImage, zidane: DecodedImage) -> None:
    """Nothing by the network itself; by one with three quarters of its confidences what falls below the threshold."""
    pictures, sizes = [bus.pixels, zidane.pixels] * 3, (320, 416)
    same = measure_loss(fp32, fp32, pictures, sizes)
    assert same.pictures == 6
    assert same.objects == same.found >= 10
    assert (same.besides, same.confidence_mean, same.confidence_most, same.iou_mean) == (0, 0, 0, 1)
    assert same.worst.found == same.worst.objects <= same.objects
    assert same.time_least <= same.time <= same.time_most

    less = measure_loss(fp32, replace(fp32, network=Wrong(fp32.network, 0.75)), pictures, sizes)
    kept = [
        found.filter(confidence_min=0.25 / 0.75)
        for pixels in pictures
        for size in sizes
        for found in [fp32.run(pixels, DetectParams(size))[0]]
    ]
    assert (less.objects, less.besides) == (same.objects, 0)
    assert less.found == sum(map(len, kept)) < less.objects
    assert less.confidence_most == pytest.approx(max(one.confidence.max() for one in kept) / 4, abs=1e-4)
    assert less.iou_mean == 1
    expected = Counter(
        int(one)
        for pixels in pictures
        for size in sizes
        for one in fp32.run(pixels, DetectParams(size))[0].filter(confidence_min=0.25).class_id
    )
    shares = {one: sum((found.class_id == one).sum() for found in kept) / count for one, count in expected.items()}
    assert less.worst.found / less.worst.objects == min(shares.values())
    assert less.worst.objects == expected[less.worst.class_id]


def test_too_little_to_measure(fp32: Replica, bus: DecodedImage) -> None:
    """Grey pictures, too few objects, and a network that finds none of them are refused with a sentence."""
    grey = np.full((320, 320, 3), 114, np.uint8)
    with pytest.raises(
        QuantizationRefusedError, match=r"^In the 2 pictures held out this model finds 0 objects at 320 pixels"
    ):
        measure_loss(fp32, fp32, [grey, grey], (320,))
    with pytest.raises(QuantizationRefusedError, match="at least 10 are needed"):
        measure_loss(fp32, fp32, [bus.pixels], (320,))
    # However often they are counted, they are no more.
    with pytest.raises(QuantizationRefusedError, match="at least 10 are needed at each size"):
        measure_loss(fp32, fp32, [bus.pixels], (320, 416, 512, 640))
    blind = replace(fp32, network=Wrong(fp32.network, 0))
    with pytest.raises(QuantizationRefusedError, match="INT8 finds none of the "):
        measure_loss(fp32, blind, [bus.pixels] * 4, (320, 416, 640))
