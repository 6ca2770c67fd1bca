"""What this process has in hand: its runner's name, the images that callers wait for, and a bell for new work."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime


class Hands:
    """Shared by the runner and by whoever runs an image in the thread of its request. Thread-safe.

    `runner` is the name under which this process renews leases; None while nothing would renew one.
    """

    def __init__(self) -> None:
        self.runner: str | None = None
        self._carried: dict[str, datetime] = {}
        self._tiled: Counter[str] = Counter()
        self._mutex = threading.Lock()
        self._bell = threading.Condition()

    @contextmanager
    def hold_tiled(self, account_id: str, at_once_max: int) -> Iterator[bool]:
        """While the block runs, an account has one more picture in tiles in hand; False when it has so many."""
        with self._mutex:
            allowed = self._tiled[account_id] < at_once_max
            self._tiled[account_id] += allowed
        try:
            yield allowed
        finally:
            with self._mutex:
                self._tiled[account_id] -= allowed
                if not self._tiled[account_id]:
                    del self._tiled[account_id]

    @contextmanager
    def carry(self, image_id: str, until: datetime) -> Iterator[None]:
        """While the block runs, the image is in hand and not given back as lost; after `until` it is stuck."""
        self._carried[image_id] = until
        try:
            yield
        finally:
            self._carried.pop(image_id, None)

    def carried(self) -> dict[str, datetime]:
        """The images in hand, and until when they may be."""
        return dict(self._carried)

    def ring(self) -> None:
        """There is new work: whoever waits looks for it now."""
        with self._bell:
            self._bell.notify_all()

    def wait(self, timeout_s: float) -> None:
        """Until somebody rings, at most so long."""
        with self._bell:
            self._bell.wait(timeout_s)
