"""The published price table, β of every model, the minimum, and rounding."""

from __future__ import annotations

from decimal import Decimal

import pytest
from sqlmodel import select

from core.errors import NoRateError
from core.geometry import IMG_SIZES_PX
from core.money import to_millitokens
from core.pricing.book import Prices, adopt_book, current_prices, read_book
from core.pricing.formula import calculate_tokens, charge_tokens
from core.pricing.tables import PriceBook, Rate
from core.services.application import Application

BETAS = {"yolov8n": "0.7", "yolov8s": "1.0", "yolov8m": "1.8", "yolov8l": "2.5", "yolov8x": "4.0"}


@pytest.fixture
def prices(app: Application) -> Prices:
    """The prices as the database holds them."""
    with app.db.read() as session:
        return current_prices(session)


@pytest.mark.parametrize(
    ("width", "height", "img_size", "model", "input_hw", "price_mt"),
    [
        (640, 640, 640, "yolov8s", (640, 640), 1000),
        (960, 960, 960, "yolov8l", (960, 960), 5625),
        (1920, 1080, 640, "yolov8s", (384, 640), 600),
        (1080, 1920, 640, "yolov8s", (640, 384), 600),
        (810, 1080, 640, "yolov8s", (640, 480), 750),
        (1280, 720, 640, "yolov8s", (384, 640), 600),
        (640, 640, 640, "yolov8n", (640, 640), 700),
        (640, 640, 640, "yolov8m", (640, 640), 1800),
        (640, 640, 640, "yolov8l", (640, 640), 2500),
        (640, 640, 640, "yolov8x", (640, 640), 4000),
        (1280, 1280, 1280, "yolov8x", (1280, 1280), 16000),
        (320, 320, 640, "yolov8s", (640, 640), 1000),
        (10_000, 1, 640, "yolov8s", (32, 640), 50),
    ],
)
def test_published_prices(
    prices: Prices,
    width: int,
    height: int,
    img_size: int,
    model: str,
    input_hw: tuple[int, int],
    price_mt: int,
) -> None:
    """The stored price book gives the published price and network input of each example."""
    plan, amount_mt = prices.price_image(height, width, img_size, model)
    assert (plan.whole.height, plan.whole.width) == input_hw
    assert amount_mt == price_mt


def test_betas_of_the_stored_book(prices: Prices) -> None:
    """β of all five published models and α come out of the database exactly as published."""
    assert {model: str(prices.betas[model]) for model in BETAS} == BETAS
    assert prices.alpha == 1
    assert prices.minimum == Decimal("0.010")


@pytest.mark.parametrize("img_size", IMG_SIZES_PX)
@pytest.mark.parametrize("model", BETAS)
def test_one_pixel_costs_the_minimum(prices: Prices, model: str, img_size: int) -> None:
    """A 1 × 1 pixel image costs the smallest charge for every model at every size."""
    assert prices.price_image(1, 1, img_size, model)[1] == 10


def test_formula_with_one_pixel_gives_the_minimum() -> None:
    """H × W = 1 × 1 would round to zero and gives 0.010 instead."""
    tokens = calculate_tokens(1, 1, alpha=Decimal(1), beta=Decimal(4), minimum=Decimal("0.010"))
    assert tokens == Decimal("0.010")


@pytest.mark.parametrize(
    ("beta", "expected"),
    [
        ("0.0104", "0.010"),
        ("0.010499999999", "0.010"),
        ("0.0105", "0.011"),
        ("0.010500000001", "0.011"),
        ("0.0115", "0.012"),
        ("0.0125", "0.013"),
        ("1.0004999", "1.000"),
        ("1.0005", "1.001"),
        ("2.0015", "2.002"),
        ("0.0094", "0.010"),
        ("0.0100", "0.010"),
    ],
)
def test_rounding_half_up_at_the_edges(beta: str, expected: str) -> None:
    """At 640 × 640 the price is β itself: below, at and above a half milli-token it rounds half up."""
    tokens = calculate_tokens(640, 640, alpha=Decimal(1), beta=Decimal(beta), minimum=Decimal("0.010"))
    assert str(tokens) == expected


def test_rounded_once_not_per_factor() -> None:
    """α · β is not rounded before the pixels are multiplied in."""
    # 1.0004 · 1.0004 · 4 = 4.00320064; rounding each factor first would give 4.000.
    tokens = calculate_tokens(1280, 1280, alpha=Decimal("1.0004"), beta=Decimal("1.0004"), minimum=Decimal("0.010"))
    assert tokens == Decimal("4.003")


@pytest.mark.parametrize(
    ("beta", "percent", "expected"),
    [
        # Forty digits: cut to Python's usual 28 before the rounding, they would be 0.0105 and round up.
        ("0.010499999999999999999999999999999999", "0", "0.010"),
        ("0.010500000000000000000000000000000001", "0", "0.011"),
        ("0.020999999999999999999999999999999999", "50", "0.010"),
        ("0.021000000000000000000000000000000000", "50", "0.011"),
    ],
)
def test_no_digit_is_lost_before_the_rounding(beta: str, percent: str, expected: str) -> None:
    """However many digits a rate has, the price is rounded once and not on the way."""
    tokens = calculate_tokens(
        640,
        640,
        alpha=Decimal("1.0"),
        beta=Decimal(beta),
        minimum=Decimal("0.001"),
        discount_percent=Decimal(percent),
    )
    assert str(tokens) == expected


@pytest.mark.parametrize("percent", ["-0.001", "100", "101"])
def test_a_senseless_discount_is_refused(percent: str) -> None:
    """A discount that raises a price, or leaves nothing of it, is an error."""
    with pytest.raises(ValueError, match="discount"):
        charge_tokens(Decimal(1), discount_percent=Decimal(percent), minimum=Decimal("0.010"))


@pytest.mark.parametrize(("height", "width", "beta"), [(0, 640, "1"), (640, 0, "1"), (640, 640, "0"), (1, 1, "-1")])
def test_senseless_input_is_refused(height: int, width: int, beta: str) -> None:
    """No pixels, or a rate of zero or less, is an error and not a free image."""
    with pytest.raises(ValueError, match=r"pixel|above zero"):
        calculate_tokens(height, width, alpha=Decimal(1), beta=Decimal(beta), minimum=Decimal("0.010"))


def test_prices_are_data(app: Application) -> None:
    """A version stored later is in force; the one before stays as it was."""
    with app.db.read() as session:
        before = current_prices(session)
    newer = Prices("2999-01-1", Decimal(2), Decimal("0.020"), {"yolov8s": Decimal("1.5")})
    with app.db.write() as session:
        adopt_book(session, newer)
    with app.db.read() as session:
        prices = current_prices(session)
        kept = session.get_one(PriceBook, before.version)
        rate = session.exec(
            select(Rate.beta).where(Rate.price_version == before.version, Rate.model == "yolov8s")
        ).one()
    assert prices.version == "2999-01-1"
    assert prices.price_image(640, 640, 640, "yolov8s")[1] == 3000
    assert prices.price_image(1, 1, 640, "yolov8s")[1] == 20
    assert (kept.alpha, kept.minimum, rate) == (before.alpha, before.minimum, Decimal("1.0"))


def test_adopting_a_version_again_changes_nothing(app: Application) -> None:
    """A version is immutable: storing other numbers under its name leaves the first ones."""
    book = read_book()
    with app.db.write() as session:
        adopt_book(session, Prices(book.version, Decimal(9), Decimal(9), {"yolov8s": Decimal(9)}))
    with app.db.read() as session:
        assert current_prices(session).price_image(640, 640, 640, "yolov8s")[1] == 1000


def test_no_rate_is_no_free_run(prices: Prices) -> None:
    """A model without a rate is refused by name."""
    with pytest.raises(NoRateError) as caught:
        prices.price_image(640, 640, 640, "yolov99")
    assert caught.value.details == {"model": "yolov99"}


def test_every_model_offered_has_a_rate(app: Application, prices: Prices) -> None:
    """Nothing in the catalogue lacks a price."""
    assert {model.name for model in app.registry.models()} <= set(prices.betas)


def test_every_price_is_on_the_grid(prices: Prices) -> None:
    """Every network input up to 1280 × 1280 costs a whole number of milli-tokens for every model."""
    for model, beta in prices.betas.items():
        for height in range(32, 1281, 32):
            tokens = calculate_tokens(height, 1280, alpha=prices.alpha, beta=beta, minimum=prices.minimum)
            assert to_millitokens(tokens) >= 10, model
