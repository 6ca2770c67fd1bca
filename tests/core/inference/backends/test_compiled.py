"""Networks of torch that are compiled for a shape: in the background, kept on disk, taken only if they are right."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from core.inference.backends import compiled
from core.inference.backends.compiled import PACKAGE_FILE, CompiledShapes, Source
from core.inference.backends.network import Arrays
from core.inference.backends.torch_network import TorchNetwork, open_torch
from core.inference.images import DecodedImage
from core.inference.pipeline import DetectParams, letterbox, to_batch
from core.inference.registry import ModelVersion
from core.inference.replicas import Replica
from core.inference.weights import hash_file
from tests.core.inference.backends.test_tasks import weights_of

CPU = torch.device("cpu")
SHAPE = (2, 96, 160)
PATIENCE_S = 300
# A network of three layers in Ultralytics' own form: compiled within seconds.
TINY = """
nc: 7
scale: n
scales: {n: [1.0, 1.0, 1024]}
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
head:
  - [-1, 1, Classify, [nc]]
"""

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler: install g++")


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def idle() -> bool:
    """Whether no shape is being compiled."""
    return not any(thread.name == "engine-compile" for thread in threading.enumerate())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A yolov8n whose outputs depend on the picture, in a folder where packages may lie beside it."""
    return weights_of("yolov8n", tmp_path_factory.mktemp("compiled"))


def open_small(path: Path, *, gain_max: float = 1000.0, shapes_max: int = 1) -> TorchNetwork:
    sha256 = hash_file(path)
    network = open_torch(path, sha256, device=CPU, cores=2)
    source = Source(path, sha256, network.facts, CPU, "fp32", path.parent / "packages")
    network.compiled = CompiledShapes(
        source, network._network, network.forward_by, shapes_max=shapes_max, seen_min=3, gain_max=gain_max
    )
    return network


def batches(count: int, shape: tuple[int, int, int] = SHAPE) -> list[NDArray[np.float32]]:
    draw = np.random.default_rng(5)
    return [draw.random((shape[0], 3, *shape[1:]), dtype=np.float32) for _ in range(count)]


# Alone: the child stands behind whatever else wants a core.
@needs_compiler
@pytest.mark.alone
@pytest.mark.parametrize(
    "name",
    ["tiny", *(pytest.param(f"yolov8n{task}", marks=pytest.mark.soak) for task in ("", "-seg", "-cls"))],
)
def test_a_shape_is_compiled_while_the_plain_network_serves(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers stay the same before, meanwhile and after; another process finds the package on disk."""
    if name == "tiny":
        (tmp_path / "tiny.yaml").write_text(TINY)
        name = str(tmp_path / "tiny")
    path = weights_of(name, tmp_path)
    # Compiled at the third picture, whether that gains anything or not.
    network = open_small(path)
    assert network.compiled is not None
    plain = open_torch(path, hash_file(path), device=CPU, cores=2)
    for batch in batches(6):
        expected = plain.forward(batch)
        for left, right in zip(network.forward(batch), expected, strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-3, atol=5e-4)
    assert network.compiled.shapes == []  # it takes longer than these
    wait_until(idle)
    assert network.compiled.shapes == [SHAPE]

    ran: list[Any] = []
    package = network.compiled._packages[SHAPE]
    monkeypatch.setitem(network.compiled._packages, SHAPE, lambda batch: ran.append(1) or package(batch))
    for batch in batches(3):
        for left, right in zip(network.forward(batch), plain.forward(batch), strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-3, atol=5e-4)
    assert len(ran) == 3
    # Another shape is the plain network's, and as only one may be compiled, stays so.
    for batch in batches(5, (1, 96, 160)):
        assert len(network.forward(batch)[0]) == 1
    assert len(ran) == 3
    assert network.compiled.shapes == [SHAPE]

    def refuse(*_arguments: Any) -> None:
        raise AssertionError("it was there")

    monkeypatch.setattr(CompiledShapes, "_compile", refuse)
    second = open_small(path)
    for batch in batches(3):
        second.forward(batch)
    wait_until(idle)
    assert second.compiled is not None
    assert second.compiled.shapes == [SHAPE]
    second.close()
    network.close()


def shapes_with(
    small: Path, package: Callable[[NDArray[np.float32]], Arrays], monkeypatch: pytest.MonkeyPatch, **options: float
) -> CompiledShapes:
    """What becomes of a package that computes so, in the place of a compiled one."""
    plain = open_torch(small, hash_file(small), device=CPU, cores=2)
    monkeypatch.setattr(compiled, "converted", lambda *_arguments: (Path("nowhere"), plain.facts))
    monkeypatch.setattr(compiled, "_load", lambda _path, _device: package)

    def forward_by(network: Any, batch: NDArray[np.float32]) -> Arrays:
        return plain.forward(batch) if network is None else package(batch)

    source = Source(small, "0" * 64, plain.facts, CPU, "fp32", small.parent)
    shapes = CompiledShapes(source, None, forward_by, shapes_max=4, seen_min=1, **options)
    assert shapes.find(SHAPE) is None
    wait_until(idle)
    return shapes


def test_what_computes_other_numbers_is_not_taken(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes a little off, the batch in another order, or an error: the plain network serves on."""
    plain = open_torch(small, hash_file(small), device=CPU, cores=2)

    def off(batch: NDArray[np.float32]) -> Arrays:
        return [output + np.float32(0.01) for output in plain.forward(batch)]

    def swapped(batch: NDArray[np.float32]) -> Arrays:
        return [output[::-1].copy() for output in plain.forward(batch)]

    def failing(_batch: NDArray[np.float32]) -> Arrays:
        raise RuntimeError("a kernel failed")

    for package in (off, swapped, failing):
        assert shapes_with(small, package, monkeypatch, gain_max=1000.0).shapes == []
    assert shapes_with(small, plain.forward, monkeypatch, gain_max=1000.0).shapes == [SHAPE]


def test_what_gains_nothing_is_not_taken(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As fast as the plain network, for it is the plain network, is no reason for a second copy of the weights."""
    plain = open_torch(small, hash_file(small), device=CPU, cores=2)

    def slow(batch: NDArray[np.float32]) -> Arrays:
        time.sleep(0.05)
        return plain.forward(batch)

    assert shapes_with(small, slow, monkeypatch).shapes == []


def test_what_fails_while_it_serves_is_given_up(small: Path) -> None:
    """The batch at which it failed is answered by the plain network, and so is every one after it."""
    network = open_small(small)
    assert network.compiled is not None
    asked: list[int] = []

    def failing(batch: torch.Tensor) -> list[torch.Tensor]:
        asked.append(len(batch))
        raise RuntimeError("CUDA error: a kernel failed")

    network.compiled._packages[SHAPE] = failing
    network.compiled._begun.add(SHAPE)
    plain = open_torch(small, hash_file(small), device=CPU, cores=2)
    for batch in batches(4):
        for left, right in zip(network.forward(batch), plain.forward(batch), strict=True):
            np.testing.assert_array_equal(left, right)
    assert asked == [2]
    assert network.compiled.shapes == []
    network.close()


def test_a_network_that_closes_breaks_its_compilation_off(small: Path, tmp_path: Path) -> None:
    """The child ends at once, nothing half made is left, and nothing is compiled any more."""
    network = open_small(small)
    assert network.compiled is not None
    network.compiled._source = Source(small, "1" * 64, network.facts, CPU, "fp32", tmp_path / "packages")
    for batch in batches(3):
        network.forward(batch)
    shapes = network.compiled
    wait_until(lambda: shapes._child is not None)
    child = shapes._child
    assert child is not None
    network.close()
    wait_until(idle)
    assert child.poll() is not None
    assert not list((tmp_path / "packages").glob(f"**/{PACKAGE_FILE}"))
    assert shapes.find(SHAPE) is None
    assert idle()


def test_the_device_makes_the_batch_to_the_last_bit(version: ModelVersion, bus: DecodedImage) -> None:
    """What `to_batch` makes on a core, torch makes of the bytes; and the engine's replica takes that way."""
    padded = [letterbox(bus.pixels, 160)[0], np.ascontiguousarray(letterbox(bus.pixels, 160)[0][:, ::-1])]
    network = open_torch(version.path, version.sha256, device=CPU, cores=2)
    made = network._to_batch(torch.from_numpy(np.stack(padded))).numpy()
    assert made.flags.c_contiguous
    np.testing.assert_array_equal(made, to_batch(padded))
    for left, right in zip(network.forward_pixels(padded), network.forward(to_batch(padded)), strict=True):
        np.testing.assert_array_equal(left, right)
    detections, _shape = Replica(version, network).run(bus.pixels, DetectParams(640))
    assert (detections.filter(confidence_min=0.5).class_id == 0).sum() == 4
