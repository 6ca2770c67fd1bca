"""Whose image a runner takes next: VIPs first, but not for ever, and accounts in turns."""

from __future__ import annotations

import threading
from collections.abc import Collection

from core.plans import Plan

ALL_PLANS = tuple(Plan)
# An account with runs under one plan.
Waiting = tuple[str, str]


class Turns:
    """What one runner has served. After `vip_run_max` images of VIPs in a row one of the others goes. Thread-safe."""

    def __init__(self, vip_run_max: int) -> None:
        self._vip_run_max = vip_run_max
        # When each account was served last, by a number that rises.
        self._served: dict[str, int] = {}
        self._count = 0
        self._vips_in_a_row = 0
        self._lock = threading.Lock()

    def order(self, waiting: Collection[Waiting]) -> list[Waiting]:
        """Accounts with their plans, the next one first: of a plan the one that was served longest ago."""
        with self._lock:
            first = Plan.STANDARD if self._vips_in_a_row >= self._vip_run_max else Plan.VIP
            return sorted(waiting, key=lambda one: (one[1] != first, self._served.get(one[0], 0), one[0]))

    def note(self, account_id: str, plan: str) -> None:
        """An image of this account goes now."""
        with self._lock:
            self._count += 1
            self._served[account_id] = self._count
            self._vips_in_a_row = self._vips_in_a_row + 1 if plan == Plan.VIP else 0
