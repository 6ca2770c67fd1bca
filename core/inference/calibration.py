"""What a forward pass takes on this device, for every model and network input of a grid. It knows no prices.

Passes go through the replicas that serve, one at a time, with all that the device has. Models and shapes take turns in
an order that is drawn anew in each round, so that what else the machine does falls on all of them alike.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from core.geometry import network_input
from core.inference.backends.choose import count_cores, name_device
from core.inference.cost_fit import Floats
from core.inference.images import Pixels
from core.inference.registry import ModelVersion
from core.inference.replicas import Replica
from core.inference.weights import load_network

# Height to width: square, a photograph upright, a frame of a film.
ASPECTS = ((1, 1), (4, 3), (9, 16))
REFERENCE_SIDE_PX = 640
GFLOPS_SIDE_PX = 640
# One pass of a small input is over before a clock tells it from noise.
TURN_S = 0.2
PASSES_MAX = 20
PACKAGES = ("openvino", "onnxruntime", "torch", "ultralytics", "numpy")

# `wall` is what passes on the clock on the wall; `processor` is what the cores of this process spent, which other
# programs on the machine hardly change. On a GPU the second says nothing.
Clock = Literal["wall", "processor"]


@dataclass(frozen=True, slots=True)
class Subject:
    """A loaded model to measure. `untrained`: its weights are random (`core.inference.untrained`)."""

    replica: Replica
    untrained: bool
    gflops: float | None  # of one 640 × 640 input; None where it cannot be counted

    @property
    def name(self) -> str:
        """The model's name."""
        return self.replica.version.model.name


@dataclass(frozen=True, slots=True)
class Cell:
    """One model at one network input: milliseconds of a pass by either clock, one number a round."""

    model: str
    height: int
    width: int
    wall_ms: tuple[float, ...]
    processor_ms: tuple[float, ...]

    @property
    def megapixels(self) -> float:
        """Of the network input."""
        return self.height * self.width / 1e6

    def times(self, clock: Clock) -> tuple[float, ...]:
        """Milliseconds by one clock, one number a round."""
        return self.wall_ms if clock == "wall" else self.processor_ms

    def ms(self, clock: Clock) -> float:
        """The median of the rounds."""
        return statistics.median(self.times(clock))


def make_shapes(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """The network inputs `(height, width)` of every size in every aspect, smallest first, 640 × 640 always among them.

    Raises `ValueError` for a size that is no positive multiple of the stride.
    """
    shapes = {(REFERENCE_SIDE_PX, REFERENCE_SIDE_PX)}
    for size in sizes:
        for height, width in ASPECTS:
            # Large enough that rounding changes no aspect.
            found = network_input(height * 1000, width * 1000, size)
            shapes.add((found.height, found.width))
    return sorted(shapes, key=lambda shape: (shape[0] * shape[1], shape))


def count_gflops(version: ModelVersion) -> float | None:
    """Billions of floating-point operations for one 640 × 640 image, by Ultralytics' counter; None if it counts none.

    It counts in checkpoints of torch alone. Raises `WeightsRefusedError`.
    """
    if version.path.suffix != ".pt":
        return None
    from ultralytics.utils.torch_utils import get_flops

    network, _ = load_network(version.path, version.sha256, torch.device("cpu"))
    return float(get_flops(network, GFLOPS_SIDE_PX)) or None  # type: ignore[no-untyped-call]  # it has no types


def measure(
    subjects: Sequence[Subject],
    shapes: Sequence[tuple[int, int]],
    *,
    rounds: int,
    seed: int,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Cell]:
    """So many rounds of every model at every `(height, width)`; `tell` hears of each round that is done."""
    picture = np.random.default_rng(seed).integers(0, 256, (*np.max(shapes, axis=0), 3), dtype=np.uint8)
    inputs = {(height, width): np.ascontiguousarray(picture[:height, :width]) for height, width in shapes}
    pairs = [(subject, shape) for subject in subjects for shape in shapes]
    for subject, shape in pairs:
        # A back end prepares itself for a shape at its first pass.
        subject.replica.forward([inputs[shape]])
    tell(f"warm: {len(pairs)} cells")
    order = random.Random(seed)  # noqa: S311  # an order of measurements, no secret
    wall: dict[tuple[str, tuple[int, int]], list[float]] = {(subject.name, shape): [] for subject, shape in pairs}
    processor: dict[tuple[str, tuple[int, int]], list[float]] = {key: [] for key in wall}
    for number in range(rounds):
        for subject, shape in order.sample(pairs, len(pairs)):
            wall_ms, processor_ms = _take_turn(subject.replica, inputs[shape])
            wall[subject.name, shape].append(wall_ms)
            processor[subject.name, shape].append(processor_ms)
        tell(f"round {number + 1} of {rounds}: load {load_now():.1f}")
    return [Cell(name, *shape, tuple(times), tuple(processor[name, shape])) for (name, shape), times in wall.items()]


def times_of(cells: Sequence[Cell], clock: Clock) -> tuple[dict[str, Floats], Floats]:
    """`(shapes, rounds)` milliseconds of each model, and the `(shapes,)` megapixels that they share."""
    models = dict.fromkeys(cell.model for cell in cells)
    ms = {model: np.array([cell.times(clock) for cell in cells if cell.model == model]) for model in models}
    first = next(iter(models))
    return ms, np.array([cell.megapixels for cell in cells if cell.model == first])


def load_now() -> float:
    """The load of the machine over the last minute: programs that want a core."""
    return os.getloadavg()[0]


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What a measurement holds for, as JSON: device, processor, cores, and the versions of what computes."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "device": name_device(device),
        "processor": _processor_name(),
        "cores": count_cores(),
        "versions": versions,
    }


def _take_turn(replica: Replica, padded: Pixels) -> tuple[float, float]:
    """The medians of as many passes as a turn has room for, at least one: wall and processor milliseconds."""
    wall, processor = [], []
    ends = time.perf_counter() + TURN_S
    while True:
        processor_before, before = time.process_time(), time.perf_counter()
        replica.forward([padded])
        after = time.perf_counter()
        processor.append((time.process_time() - processor_before) * 1000)
        wall.append((after - before) * 1000)
        if after >= ends or len(wall) == PASSES_MAX:
            # To what the table keeps: whoever has it can work out everything again.
            return round(statistics.median(wall), 3), round(statistics.median(processor), 3)


def _processor_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
