"""Which back end is the fastest here: measured on one picture, and taken only if it finds what torch finds."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import WeightsRefusedError
from core.inference.backends.choose import ON_PROCESSORS, count_cores, open_backend
from core.inference.backends.network import Arrays, Network
from core.inference.backends.tolerance import difference, make_patchwork
from core.inference.registry import ModelVersion

ROUNDS_MAX = 5
# A few measurements beside other work are off by as much: within it the order of preference decides, not chance.
AS_FAST = 1.1
SECONDS_MAX = 6.0
SIDE_PX = 640


@dataclass(frozen=True, slots=True)
class Measured:
    """One back end on one picture of 640 × 640, in milliseconds for an image; `problem` says why it was not taken.

    `ms` is with all its streams at work, `ms_alone` that of one call while nothing else runs.
    """

    backend: str
    precision: str = ""
    streams: int = 0
    ms: float | None = None
    ms_alone: float | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What was measured, and the back end that is taken."""

    chosen: str
    device: str
    cores: int
    measured: tuple[Measured, ...]

    @property
    def preferred(self) -> tuple[str, ...]:
        """What to try on a processor before torch, the fastest first; none that was not taken."""
        if self.chosen == "torch":
            return ()
        times = {result.backend: result.ms for result in self.measured if result.ms is not None}
        others = sorted((name for name in times if name not in ("torch", self.chosen)), key=lambda name: times[name])
        return self.chosen, *others


@dataclass(slots=True)
class _Candidate:
    network: Network
    problem: str | None = None
    alone: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)


def choose_backend(
    version: ModelVersion,
    *,
    device: torch.device,
    cache_dir: Path,
    candidates: Sequence[str] = ON_PROCESSORS,
) -> ProbeReport:
    """Measure torch and the candidates with one model, in turns, for some seconds. Raises `WeightsRefusedError`.

    Off the processor there is torch alone. A candidate that cannot be opened, fails, or differs from torch is reported
    with its problem and not taken.
    """
    cores = count_cores()
    opened: list[_Candidate] = []
    missing: list[Measured] = []
    for name in ("torch", *(candidates if device.type == "cpu" else ())):
        try:
            opened.append(_Candidate(open_backend(name, version, device=device, cache_dir=cache_dir, cores=cores)))
        except Exception as error:
            # Whatever a package raises, or that it is not there: the others are measured.
            if name == "torch" or isinstance(error, WeightsRefusedError):
                raise
            missing.append(Measured(name, problem=f"{type(error).__name__}: {error}"))
    try:
        _compare(opened)
        _measure([candidate for candidate in opened if candidate.problem is None])
    finally:
        for candidate in opened:
            candidate.network.close()
    measured = [_result(candidate) for candidate in opened]
    return ProbeReport(_fastest(measured, candidates), device.type, cores, (*measured, *missing))


def _compare(opened: Sequence[_Candidate]) -> None:
    """Warms each on the picture, and notes who differs from torch, which is the first."""
    batch = make_patchwork(SIDE_PX, SIDE_PX)
    reference: Arrays = []
    for index, candidate in enumerate(opened):
        try:
            found = candidate.network.forward(batch)
        except Exception as error:
            # Whatever a back end raises on a picture that torch computes: it is not taken.
            if index == 0:
                raise
            candidate.problem = f"{type(error).__name__}: {error}"
            continue
        if index == 0:
            reference = found
        else:
            candidate.problem = difference(reference, found, candidate.network.facts)


def _measure(candidates: Sequence[_Candidate]) -> None:
    """In turns, so that what else the machine does falls on all of them; the best of each counts."""
    batch = np.full((1, 3, SIDE_PX, SIDE_PX), 0.447, np.float32)
    ends = time.monotonic() + SECONDS_MAX
    for _ in range(ROUNDS_MAX):
        for candidate in candidates:
            candidate.alone.append(_time_ms(candidate.network, batch, 1))
            if candidate.network.streams > 1:
                candidate.busy.append(_time_ms(candidate.network, batch, candidate.network.streams))
        if time.monotonic() > ends:
            return


def _fastest(measured: Sequence[Measured], preferred: Sequence[str]) -> str:
    """The one with the shortest time; of those that are as fast as it, the first of the preferred."""
    times = {result.backend: result.ms for result in measured if result.ms is not None}
    enough = min(times.values()) * AS_FAST
    return next(name for name in (*preferred, *times) if times.get(name, math.inf) <= enough)


def _time_ms(network: Network, batch: NDArray[np.float32], callers: int) -> float:
    """Milliseconds for an image, of two images for each of so many callers at once (of one, of one caller)."""
    images = 2 * callers if callers > 1 else 1
    with ThreadPoolExecutor(callers) as pool:
        started = time.perf_counter()
        list(pool.map(lambda _: network.forward(batch), range(images)))
        return (time.perf_counter() - started) / images * 1000


def _result(candidate: _Candidate) -> Measured:
    network = candidate.network
    times = candidate.busy or candidate.alone
    return Measured(
        network.backend,
        network.precision,
        network.streams,
        ms=round(min(times), 1) if times else None,
        ms_alone=round(min(candidate.alone), 1) if times else None,
        problem=candidate.problem,
    )
