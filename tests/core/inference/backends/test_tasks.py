"""Every task's outputs come through every back end: masks, key points, oriented boxes, classes, heads without NMS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ultralytics.models import YOLO

from core.inference.backends.head import NotConvertibleError, load_flat
from core.inference.backends.onnx_network import open_onnx
from core.inference.backends.openvino_network import open_openvino
from core.inference.backends.tolerance import difference
from core.inference.backends.torch_network import TorchNetwork, open_torch
from core.inference.registry import ModelVersion
from core.inference.weights import hash_file

CPU = torch.device("cpu")
ATOL = 5e-4
# The shapes at 96 × 160: 315 candidates of three strides.
CASES = [
    ("yolov8n-seg", "segment", [(1, 116, 315), (1, 32, 24, 40)]),
    ("yolov8n-pose", "pose", [(1, 56, 315)]),
    ("yolov8n-obb", "obb", [(1, 85, 315)]),
    ("yolov8n-cls", "classify", [(1, 1000)]),
    ("yolo11n", "detect", [(1, 84, 315)]),
    ("yolo26n", "detect", [(1, 84, 315)]),
]


def weights_of(name: str, folder: Path, *, end2end: bool = False) -> Path:
    """A weights file of an architecture with random weights whose outputs depend on the picture."""
    torch.manual_seed(4)
    yolo = YOLO(f"{name}.yaml")
    for module in yolo.model.modules():
        if isinstance(module, torch.nn.Conv2d):
            # Ultralytics' own start is so small that every picture gives the same.
            torch.nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=50)
    if end2end:
        yolo.model.end2end = True
    path = folder / f"{Path(name).name}.pt"
    yolo.save(path)
    return path


@pytest.mark.parametrize(("name", "task", "shapes"), CASES, ids=[case[0] for case in CASES])
def test_outputs_of_every_task(tmp_path: Path, name: str, task: str, shapes: list[tuple[int, ...]]) -> None:
    """All outputs, in one order and of the same values, at shapes that no trace has seen."""
    path = weights_of(name, tmp_path)
    sha256 = hash_file(path)
    reference = open_torch(path, sha256, device=CPU, cores=2)
    assert reference.facts.task == task
    assert not reference.facts.end2end
    rng = np.random.default_rng(9)
    batches = [rng.random((1, 3, 96, 160), dtype=np.float32), rng.random((1, 3, 224, 192), dtype=np.float32)]
    expected = [reference.forward(batch) for batch in batches]
    assert [output.shape for output in expected[0]] == shapes
    other = reference.forward(np.zeros_like(batches[0]))[0]
    assert np.abs(other - expected[0][0]).max() > 10 * ATOL
    for network in (
        open_openvino(path, sha256, cache_dir=tmp_path / "converted", cores=2),
        open_onnx(path, sha256, cache_dir=tmp_path / "converted", cores=2),
    ):
        assert network.facts == reference.facts
        for batch, outputs in zip(batches, expected, strict=True):
            found = network.forward(batch)
            assert [output.shape for output in found] == [output.shape for output in outputs]
            assert difference(outputs, found, network.facts) is None
            for left, right in zip(outputs, found, strict=True):
                np.testing.assert_allclose(right, left, rtol=1e-3, atol=ATOL)
        network.close()


def test_a_head_that_ranks_by_itself_runs_in_torch(tmp_path: Path) -> None:
    """End-to-end heads give 300 rows, or as many as there are candidates; converted they would fail at the latter."""
    path = weights_of("yolo26n", tmp_path, end2end=True)
    sha256 = hash_file(path)
    network = open_torch(path, sha256, device=CPU, cores=2)
    assert network.facts.end2end
    for shape, rows in (((96, 160), 300), ((64, 64), 84)):
        assert network.forward(np.zeros((1, 3, *shape), np.float32))[0].shape == (1, rows, 6)
    for open_converted in (open_openvino, open_onnx):
        with pytest.raises(NotConvertibleError):
            open_converted(path, sha256, cache_dir=tmp_path / "converted", cores=2)


def test_half_precision_keeps_boxes_apart(version: ModelVersion) -> None:
    """In float16 at 1280 pixels, where halves of one are lost, boxes are decoded in float32: within 1 px."""
    network, facts = load_flat(version.path, version.sha256, CPU, form="torchscript")
    whole = open_torch(version.path, version.sha256, device=CPU, cores=2)
    half = TorchNetwork(network, facts, device=CPU, half=True, cores=2)
    assert half.precision == "fp16"
    batch = np.random.default_rng(2).random((1, 3, 64, 1280), dtype=np.float32)
    expected, found = whole.forward(batch)[0], half.forward(batch)[0]
    assert found.dtype == np.float32
    # Multiples of a whole or half pixel only, if it had been decoded in half precision.
    far = found[0, 0][found[0, 0] > 1024]
    assert len(np.unique(far % 1)) > 10
    np.testing.assert_allclose(found[0, 4:], expected[0, 4:], atol=0.01)
    assert np.percentile(np.abs(found[0, :4] - expected[0, :4]), 99) < 1
