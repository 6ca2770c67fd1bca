"""So many pixels at a time: a picture of a few kB can decode to hundreds of MB, whoever sends it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class PixelGate:
    """Lets pictures through while they have at most `pixels_max` pixels together; the others wait, in order.

    A picture that is larger than that goes alone.
    """

    def __init__(self, pixels_max: int) -> None:
        self._pixels_max = pixels_max
        self._inside = 0
        self._next_ticket = 0
        self._serving = 0
        self._changed = threading.Condition()

    @contextmanager
    def pass_through(self, pixels: int) -> Iterator[None]:
        """Wait until there is room for so many pixels, and take it while the block runs."""
        with self._changed:
            ticket = self._next_ticket
            self._next_ticket += 1
            self._changed.wait_for(lambda: self._serving == ticket and self._has_room(pixels))
            self._serving += 1
            self._inside += pixels
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._inside -= pixels
                self._changed.notify_all()

    def _has_room(self, pixels: int) -> bool:
        return self._inside == 0 or self._inside + pixels <= self._pixels_max


# What requests have in memory decoded, beside what is being decoded: three bytes a pixel.
IN_FLIGHT = PixelGate(60_000_000)
# The same for the runner of jobs. It has a gate of its own, for a request may wait for what a job runs.
IN_JOBS = PixelGate(60_000_000)
