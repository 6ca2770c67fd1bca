"""Random quotes against prices that are worked out a second time, in fractions, from the published rules."""

from __future__ import annotations

import random
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from functools import cache
from math import floor

import pytest

from core.geometry import IMG_SIZES_PX, NetworkInput, network_input
from core.pricing.book import Prices, read_book
from core.pricing.discounts import BatchDiscount

SEED = 100_003
IMAGES_MAX = 220

Tiers = list[tuple[int, str]]


def oracle(
    pixels: list[int], charged: list[bool], tiers: Tiers, *, alpha: str, beta: str, minimum: str
) -> tuple[list[int], list[int], list[int], str]:
    """List prices, amounts and floors of all images in milli-tokens, and the percent; written from the rules.

    Shares no code with `core`: prices are fractions, and the floors look at sorted prices instead of images.
    """
    minimum_mt = int(Fraction(minimum) * 1000)
    rate = Fraction(alpha) * Fraction(beta) * 1000 / (640 * 640)

    @cache
    def unit(image_px: int, percent: str) -> int:
        exact_mt = rate * image_px * (1 - Fraction(percent) / 100)
        return max(floor(exact_mt + Fraction(1, 2)), minimum_mt)

    paying = [position for position, pays in enumerate(charged) if pays]
    percent, floor_total = "0", 0
    for images_min, tier_percent in tiers:
        if images_min > len(paying):
            break
        before = sorted((unit(pixels[position], percent) for position in paying), reverse=True)
        floor_total = max(floor_total, sum(before[: images_min - 1]))
        percent = tier_percent

    floors = [0] * len(pixels)
    missing = floor_total - sum(unit(pixels[position], percent) for position in paying)
    if missing > 0:
        room = {position: unit(pixels[position], "0") - unit(pixels[position], percent) for position in paying}
        so_far, given = 0, 0
        for position in sorted(paying, key=lambda position: (-pixels[position], position)):
            so_far += room[position]
            due = floor(Fraction(missing * so_far, sum(room.values())))
            floors[position], given = due - given, due
    lists = [unit(image_px, "0") for image_px in pixels]
    amounts = [
        unit(image_px, percent) + extra if pays else 0
        for image_px, pays, extra in zip(pixels, charged, floors, strict=True)
    ]
    return lists, amounts, floors, percent


def random_decimal(draw: random.Random, low: int, high: int, digits: int) -> str:
    """A number as text: an integer between `low` and `high` with the point moved `digits` to the left."""
    return str(Decimal(draw.randint(low, high)).scaleb(-digits))


def random_tiers(draw: random.Random) -> Tiers:
    """The published tiers, or up to five others; half of these begin within a few images."""
    if draw.random() < 0.3:
        return [(10, "5"), (50, "10"), (100, "15")]
    count = draw.randint(0, 5)
    images = sorted(draw.sample(range(2, draw.choice([12, 120])), count))
    digits = draw.choice([0, 1, 2, 5])
    percents = sorted(draw.sample(range(1, 100 * 10**digits), count))
    return [(n, str(Decimal(p).scaleb(-digits))) for n, p in zip(images, percents, strict=True)]


def random_count(draw: random.Random, tiers: Tiers) -> int:
    """How many images a quote has: mostly few, now and then many, often at the edge of a tier."""
    chance = draw.random()
    if tiers and chance < 0.3:
        edge = draw.choice(tiers if draw.random() < 0.1 else tiers[:1])[0]
        return max(1, edge + draw.randint(-1, 1))
    if chance < 0.94:
        return draw.randint(1, 12)
    return draw.randint(1, 60) if chance < 0.98 else draw.randint(1, IMAGES_MAX)


def random_shape(draw: random.Random) -> tuple[int, int]:
    """Height and width in pixels: a camera's, a tiny one, or any."""
    chance = draw.random()
    if chance < 0.4:
        return draw.choice([(640, 640), (1080, 1920), (3000, 4000), (720, 1280), (960, 960)])
    side = 40 if chance < 0.6 else 4000
    return draw.randint(1, side), draw.randint(1, side)


@pytest.mark.parametrize("quotes", [20_000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_random_quotes(quotes: int) -> None:
    """Every line and total is the oracle's, to the milli-token."""
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when the test fails
    draw = random.Random(SEED)
    shape_of = cache(network_input)
    published = list(read_book().betas.items())
    seen: Counter[str] = Counter()
    for number in range(quotes):
        tiers = random_tiers(draw)
        model, beta = draw.choice(published) if draw.random() < 0.5 else ("m", Decimal(0))
        beta_text = str(beta) if beta else random_decimal(draw, 1, 9_999_999, 6)
        alpha = "1.0" if draw.random() < 0.7 else random_decimal(draw, 1, 40_000, 4)
        minimum = "0.010" if draw.random() < 0.8 else draw.choice(["0.001", "0.125", "1.000"])
        prices = Prices(
            "test",
            Decimal(alpha),
            Decimal(minimum),
            {model: Decimal(beta_text)},
            tuple(BatchDiscount(images_min, Decimal(percent)) for images_min, percent in tiers),
        )
        img_size = draw.choice(IMG_SIZES_PX)
        kinds = [random_shape(draw) for _ in range(draw.randint(1, 4))]
        images = draw.choices(kinds, k=random_count(draw, tiers))
        free = draw.choice([0, 0, 0.2])
        charged = [draw.random() >= free for _ in images]
        shapes: list[NetworkInput] = [shape_of(height, width, img_size) for height, width in images]

        batch = prices.price_batch(images, img_size, model, charged=charged)

        lists, amounts, floors, percent = oracle(
            [shape.height * shape.width for shape in shapes],
            charged,
            tiers,
            alpha=alpha,
            beta=beta_text,
            minimum=minimum,
        )
        where = f"quote {number}"
        assert [line.plan.whole for line in batch.lines] == shapes, where
        assert [line.list_mt for line in batch.lines] == lists, where
        assert [line.amount_mt for line in batch.lines] == amounts, where
        assert [line.floor_mt for line in batch.lines] == floors, where
        assert batch.total_mt == sum(amounts), where
        assert batch.list_mt == sum(price for price, pays in zip(lists, charged, strict=True) if pays), where
        assert batch.discount_percent == Decimal(percent), where
        assert batch.images_charged == sum(charged), where
        lacking = [(n - sum(charged), Decimal(p)) for n, p in tiers if n > sum(charged)]
        assert batch.next_tier == (lacking[0] if lacking else None), where

        seen["lines"] += len(images)
        seen["free"] += len(images) - sum(charged)
        seen["discounted"] += batch.discount_percent > 0
        seen["floored"] += any(floors)
        seen["edges"] += any(sum(charged) == images_min + step for images_min, _ in tiers for step in (-1, 0, 1))
        seen["large"] += len(images) > 100
    print(dict(seen))  # noqa: T201  # what the seed reached
    assert all(seen[case] >= quotes // 200 for case in ("free", "discounted", "floored", "edges", "large")), seen
