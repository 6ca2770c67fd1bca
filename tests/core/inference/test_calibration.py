"""Passes of real networks are measured, each at every shape in every round."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.errors import ModelNotReadyError
from core.inference.backends.torch_network import open_torch
from core.inference.calibration import Subject, count_gflops, make_shapes, measure, times_of
from core.inference.registry import ModelVersion, Registry
from core.inference.replicas import Replica
from core.inference.untrained import build_untrained


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    """A yolov8n with random weights."""
    folder = tmp_path_factory.mktemp("untrained")
    return build_untrained(Registry(folder).get("yolov8n"), folder)


def test_shapes() -> None:
    """Every size square, upright and wide, as the engine letterboxes them, and the reference in any case."""
    assert make_shapes([320]) == [(192, 320), (320, 256), (320, 320), (640, 640)]
    assert (384, 640) in make_shapes([640])
    assert len(make_shapes([640, 640])) == 3


def test_measured(replica: Replica, untrained: ModelVersion) -> None:
    """Two models, three shapes, two rounds: each cell has its times, and forty times the pixels take longer."""
    cpu = torch.device("cpu")
    small = Replica(untrained, open_torch(untrained.path, untrained.sha256, device=cpu, cores=2))
    subjects = [Subject(replica, False, 28.6), Subject(small, True, 8.7)]
    shapes = [(32, 32), (64, 96), (192, 320)]
    told: list[str] = []
    cells = measure(subjects, shapes, rounds=2, seed=1, tell=told.append)
    assert [(cell.model, cell.height, cell.width) for cell in cells] == [
        (model, *shape) for model in ("yolov8s-fall", "yolov8n") for shape in shapes
    ]
    assert all(len(times) == 2 and min(times) > 0 for cell in cells for times in (cell.wall_ms, cell.processor_ms))
    assert min(cells[2].processor_ms) > min(cells[0].processor_ms)
    assert len(told) == 3
    ms, megapixels = times_of(cells, "processor")
    assert ms["yolov8n"].shape == (3, 2)
    assert list(megapixels) == pytest.approx([0.001024, 0.006144, 0.06144])
    assert ms["yolov8n"][1, 0] == cells[4].processor_ms[0]


def test_gflops(version: ModelVersion, untrained: ModelVersion) -> None:
    """What Ultralytics publishes: 28.6 for a yolov8s with 80 classes (with two a little less), 8.7 for a yolov8n.

    Of weights that are none of torch's it counts nothing.
    """
    assert count_gflops(version) == pytest.approx(28.4, abs=0.3)
    assert count_gflops(untrained) == pytest.approx(8.7, abs=0.1)
    for suffix in (".onnx", ".openvino"):
        assert count_gflops(replace(version, path=version.path.with_suffix(suffix))) is None


def test_untrained_models_are_of_their_architecture(untrained: ModelVersion, tmp_path: Path) -> None:
    """80 classes, its own digest, the same weights each time; nobody else's random numbers are touched."""
    network = open_torch(untrained.path, untrained.sha256, device=torch.device("cpu"), cores=1)
    assert len(network.names) == 80
    assert untrained.sha256 == hashlib.sha256(untrained.path.read_bytes()).hexdigest() == untrained.model.sha256
    torch.manual_seed(3)
    state = torch.get_rng_state()
    again = build_untrained(Registry(tmp_path).get("yolov8n"), tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    weights = [
        torch.load(path, weights_only=False)["model"].state_dict()["model.0.conv.weight"]
        for path in (untrained.path, again.path)
    ]
    assert torch.equal(*weights)


def test_no_architecture(tmp_path: Path) -> None:
    """A model of our own without its weights cannot be built: a sentence that names the file."""
    with pytest.raises(ModelNotReadyError, match=r"put yolov8s-fall\.pt into"):
        build_untrained(Registry(tmp_path).get("yolov8s-fall"), tmp_path)
