"""How long each stage of a request took, so that the next improvement is visible."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Stages:
    """Milliseconds by stage: `fetch`, `decode`, `hold`, `wait`, `model`, `capture`, … For one request in one thread."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._ms: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Count the time of the block, also when it fails."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, (time.perf_counter() - began) * 1000)

    def add(self, stage: str, ms: float) -> None:
        """Count a time that was measured elsewhere."""
        self._ms[stage] = self._ms.get(stage, 0.0) + ms

    def so_far(self) -> Mapping[str, float]:
        """The stages in order, and the `total` since the beginning."""
        return {**self._ms, "total": (time.perf_counter() - self._began) * 1000}
