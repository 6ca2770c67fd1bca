"""torch networks compiled for input shapes that come often, while the plain network serves.

A compiled package (AOTInductor) knows one batch size and one shape. It is made in a process of its own, which takes a
minute of a core and the memory of a second network, and is kept on disk. It serves only if it gives here what the
plain network gives, and gives it sooner.
"""

from __future__ import annotations

import hashlib
import logging
import platform
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.inference.backends.choose import name_device
from core.inference.backends.converted import Recipe, converted
from core.inference.backends.network import Arrays, NetworkFacts
from core.inference.backends.tolerance import difference, make_patchwork
from core.inference.child_process import ROOT, last_words

log = logging.getLogger("visionmeter")

PACKAGE_FILE = "network.pt2"
# A shape that came so often is worth a minute of a core.
SEEN_MIN = 50
COMPILE_TIMEOUT_S = 900.0
ROUNDS = 5
# Of the plain network's time; what gains less is not worth a second copy of the weights.
GAIN_MAX = 0.95
# How far any number of any output may be off, of the greatest of that output: boxes and confidences are held closer.
SPREAD_MAX = 0.02

Shape = tuple[int, int, int]  # images, height, width

# One compilation at a time in a process, whatever the models.
_turn = threading.Lock()


@dataclass(frozen=True, slots=True)
class Source:
    """What is compiled, for which device, and where packages are kept."""

    path: Path
    sha256: str
    facts: NetworkFacts
    device: torch.device
    precision: str
    cache_dir: Path

    def recipe(self, shape: Shape) -> Recipe:
        """What names the package of a shape."""
        # What is compiled for a processor runs on no other: an instruction that it lacks would end the process.
        computer = platform.machine() + (_processor() if self.device.type == "cpu" else "")
        versions = {
            "torch": str(torch.__version__),
            "device": name_device(self.device),
            "computer": computer,
            "recipe": "1",
        }
        form = f"torch-{self.device.type}-{'x'.join(map(str, shape))}"
        return Recipe(self.sha256, form, self.precision, versions)


class CompiledShapes:
    """The packages of one network; thread-safe. `find` never waits: what is not there yet is made in the background."""

    def __init__(
        self,
        source: Source,
        plain: Any,
        forward_by: Callable[[Any, NDArray[np.float32]], Arrays],
        *,
        shapes_max: int,
        seen_min: int = SEEN_MIN,
        gain_max: float = GAIN_MAX,
    ) -> None:
        self._source = source
        self._plain = plain
        self._forward_by = forward_by
        self._shapes_max = shapes_max
        self._seen_min = seen_min
        self._gain_max = gain_max
        self._seen: Counter[Shape] = Counter()
        self._begun: set[Shape] = set()
        self._packages: dict[Shape, Any] = {}
        self._child: subprocess.Popen[str] | None = None
        self._closed = False
        self._mutex = threading.Lock()

    @property
    def shapes(self) -> list[Shape]:
        """Those that are served by a package now."""
        with self._mutex:
            return sorted(self._packages)

    def find(self, shape: Shape) -> Any | None:
        """The package of a shape, counting that it was asked for; None while the plain network serves it."""
        with self._mutex:
            package = self._packages.get(shape)
            if package is not None or self._closed:
                return package
            self._seen[shape] += 1
            if self._seen[shape] < self._seen_min or shape in self._begun or len(self._begun) >= self._shapes_max:
                return None
            self._begun.add(shape)
        threading.Thread(target=self._make, args=(shape,), name="engine-compile", daemon=True).start()
        return None

    def give_up(self, shape: Shape, error: Exception) -> None:
        """A package failed while it served: the plain network takes its shape for good."""
        with self._mutex:
            self._packages.pop(shape, None)
        log.warning("the compiled %s for %s is given up", self._source.path.name, _words(shape), exc_info=error)

    def close(self) -> None:
        """Give the packages back, and break off a compilation."""
        with self._mutex:
            self._closed = True
            self._packages.clear()
            # Whoever waits for his turn holds no weights.
            self._plain, self._forward_by = None, _is_closed
            if self._child is not None:
                self._child.kill()

    def _make(self, shape: Shape) -> None:
        name = _words(shape)
        try:
            with _turn:
                if self._closed:
                    return
                recipe = self._source.recipe(shape)
                folder, _facts = converted(recipe, self._source.cache_dir, lambda fresh: self._compile(shape, fresh))
                package = _load(folder / PACKAGE_FILE, self._source.device)
                problem = self._compare(shape, package)
        except Exception as error:
            # No compiler, no memory, a network that cannot be compiled: the plain one goes on.
            if not self._closed:
                log.warning("torch did not compile %s for %s: %s", self._source.path.name, name, error)
            return
        if problem is not None:
            log.info("the compiled %s for %s is not taken: %s", self._source.path.name, name, problem)
            return
        with self._mutex:
            if not self._closed:
                self._packages[shape] = package
        log.info("%s is compiled for %s", self._source.path.name, name)

    def _compile(self, shape: Shape, folder: Path) -> NetworkFacts:
        source = self._source
        arguments = [source.path.absolute(), source.sha256, source.device, *shape, folder / PACKAGE_FILE]
        with self._mutex:
            if self._closed:
                raise RuntimeError("the network was closed")
            self._child = subprocess.Popen(  # noqa: S603  # our own interpreter and module; the paths are arguments
                [sys.executable, "-m", "core.inference.backends.compile_shape", *map(str, arguments)],
                cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
            )  # fmt: skip
            child = self._child
        try:
            _out, said = child.communicate(timeout=COMPILE_TIMEOUT_S)
        finally:
            child.kill()
            child.wait()
            with self._mutex:
                self._child = None
        if child.returncode != 0:
            raise RuntimeError(last_words(said, child.returncode)[:300])
        return source.facts

    def _compare(self, shape: Shape, package: Any) -> str | None:
        """Why the package is not taken, or None. Between its passes the plain network serves."""
        images, height, width = shape
        one = make_patchwork(height, width)
        # Another picture in each place, so that one that takes its neighbour's is seen.
        batch = np.concatenate([np.roll(one, 32 * number, axis=3) for number in range(images)])
        expected, found = self._forward_by(self._plain, batch), self._forward_by(package, batch)
        for number in range(images):
            problem = difference(
                [output[number : number + 1] for output in expected],
                [output[number : number + 1] for output in found],
                self._source.facts,
            )
            if problem is not None:
                return problem
            if any(
                np.abs(left[number] - right[number]).max() > SPREAD_MAX * np.abs(left[number]).max()
                for left, right in zip(expected, found, strict=True)
            ):
                return "it gives other masks, points or angles"
            own, other = (np.abs(found[0][number] - expected[0][whose]).sum() for whose in (number, number - 1))
            if own > other:
                return "it takes one picture of a batch for another"
        plain_ms, package_ms = [], []
        for _ in range(ROUNDS):
            plain_ms.append(self._time_ms(self._plain, batch))
            package_ms.append(self._time_ms(package, batch))
        # The least: what waits behind a customer's pass is no property of a network.
        plain, compiled = min(plain_ms), min(package_ms)
        if compiled > plain * self._gain_max:
            return f"it takes {compiled:.1f} ms, and the plain network {plain:.1f} ms"
        return None

    def _time_ms(self, network: Any, batch: NDArray[np.float32]) -> float:
        started = time.perf_counter()
        self._forward_by(network, batch)
        return (time.perf_counter() - started) * 1000


def _is_closed(_network: Any, _batch: NDArray[np.float32]) -> Arrays:
    raise RuntimeError("the network was closed")


@cache
def _processor() -> str:
    """Which instructions the processor has, as a digest of what Linux says; its name elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest()[:16]


def _words(shape: Shape) -> str:
    return "{} × {} × {}".format(*shape)


def _load(path: Path, device: torch.device) -> Any:
    from torch._inductor import aoti_load_package

    return aoti_load_package(str(path), device_index=device.index or 0 if device.type == "cuda" else -1)
