"""The plans that an account may have. `core.rates` limits what a key may send, which is the same under all of them."""

from __future__ import annotations

from enum import StrEnum


class Plan(StrEnum):
    """What an account is served as: a VIP goes before the others, and the price book may promise him more."""

    STANDARD = "standard"
    VIP = "vip"
