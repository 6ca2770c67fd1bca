"""tokens = α · (H · W / 640²) · β(model), rounded once.

`H × W` is the network input in pixels (`core.geometry.network_input`), so nobody pays for more than the model
computes. Source: the published price of VisionMeter, README *How prices work*.
"""

from __future__ import annotations

from decimal import Decimal

from core.money import round_tokens

REFERENCE_PIXELS = 640 * 640


def calculate_tokens(height_px: int, width_px: int, *, alpha: Decimal, beta: Decimal, minimum: Decimal) -> Decimal:
    """The price of one image in tokens: three decimals, rounded half up once, never below `minimum`.

    `height_px` and `width_px` are those of the network input. Raises `ValueError` for a side < 1 or a rate ≤ 0.
    """
    if height_px < 1 or width_px < 1:
        raise ValueError("a network input has at least one pixel")
    if alpha <= 0 or beta <= 0:
        raise ValueError("alpha and beta must be above zero")
    exact = alpha * beta * height_px * width_px / REFERENCE_PIXELS
    return max(round_tokens(exact), minimum)
