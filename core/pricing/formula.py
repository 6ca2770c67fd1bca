"""tokens = α · (H · W / 640²) · β(model), discounted by the batch's tier, rounded once.

`H × W` is the network input in pixels (`core.geometry.network_input`), so nobody pays for more than the model
computes. Source: the published price of VisionMeter, README *How prices work*.
"""

from __future__ import annotations

from decimal import Context, Decimal, Inexact, localcontext

from core.money import round_tokens

REFERENCE_PIXELS = 640 * 640
NO_DISCOUNT = Decimal(0)

# Both divisors have the prime factors 2 and 5 only, so a price always ends; digits that were cut off would be a
# rounding before the one rounding, hence an error.
_EXACT = Context(prec=250, traps=[Inexact])


def exact_tokens(pixels: int, *, alpha: Decimal, beta: Decimal) -> Decimal:
    """The unrounded price of one image in tokens, every digit of it.

    `pixels` are those of all its network inputs together (`core.tiles`). Raises `ValueError` for a number < 1 or a rate
    ≤ 0.
    """
    if pixels < 1:
        raise ValueError("a network input has at least one pixel")
    if alpha <= 0 or beta <= 0:
        raise ValueError("alpha and beta must be above zero")
    with localcontext(_EXACT):
        return alpha * beta * pixels / REFERENCE_PIXELS


def discount_tokens(exact: Decimal, discount_percent: Decimal) -> Decimal:
    """An exact price less its discount, in tokens, every digit of it.

    Raises `ValueError` for a discount outside 0 ≤ percent < 100.
    """
    if not 0 <= discount_percent < 100:
        raise ValueError("a discount is at least 0 and less than 100 percent")
    with localcontext(_EXACT):
        return exact * (100 - discount_percent) / 100


def charge_tokens(exact: Decimal, *, discount_percent: Decimal, minimum: Decimal) -> Decimal:
    """An exact price less its discount, in tokens: rounded half up once, never below `minimum`.

    Raises `ValueError` for a discount outside 0 ≤ percent < 100.
    """
    return max(round_tokens(discount_tokens(exact, discount_percent)), minimum)


def calculate_tokens(
    height_px: int,
    width_px: int,
    *,
    alpha: Decimal,
    beta: Decimal,
    minimum: Decimal,
    discount_percent: Decimal = NO_DISCOUNT,
) -> Decimal:
    """The price of one image in tokens: three decimals, rounded half up once, never below `minimum`.

    `height_px` and `width_px` are those of the network input. Raises `ValueError` for a side < 1, a rate ≤ 0 or a
    discount outside 0 ≤ percent < 100.
    """
    if height_px < 1 or width_px < 1:
        raise ValueError("a network input has at least one pixel")
    exact = exact_tokens(height_px * width_px, alpha=alpha, beta=beta)
    return charge_tokens(exact, discount_percent=discount_percent, minimum=minimum)
