"""Discounts for batches: every edge of every tier, no total that falls, and data that are checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from sqlalchemy import text

from core.db import Database, utcnow
from core.errors import ConfigError, NoRateError
from core.ledger import ledger
from core.pricing.book import (
    DEFAULT_BOOK,
    BatchPrice,
    Prices,
    adopt_book,
    current_prices,
    get_prices,
    quote_agrees,
    read_book,
    recompute_quote,
    recompute_receipt,
)
from core.pricing.discounts import BatchDiscount, NextTier, read_discounts, spread, write_discounts
from core.pricing.tables import PriceBook, Quote, Receipt

SEED = 20_303
# Seeded and without a store of examples: every run of a property tries the same batches.
PROPERTY = settings(max_examples=400, deadline=None, database=None)

TINY = (1, 1)
Shapes = list[tuple[int, int]]


def tiers(*pairs: tuple[int, str]) -> tuple[BatchDiscount, ...]:
    """Tiers from pairs of images and percent."""
    return tuple(BatchDiscount(images_min, Decimal(percent)) for images_min, percent in pairs)


def prices_with(*pairs: tuple[int, str], beta: str = "1.0") -> Prices:
    """A book of one model with these tiers."""
    return Prices("test", Decimal("1.0"), Decimal("0.010"), {"m": Decimal(beta)}, tiers(*pairs))


def price(prices: Prices, shapes: Sequence[tuple[int, int]], charged: Sequence[bool] | None = None) -> BatchPrice:
    """The price of a batch of model `m` at 640, everything charged unless said."""
    return prices.price_batch(shapes, 640, "m", charged=charged or [True] * len(shapes))


# The published tiers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "percent", "total_mt", "next_tier"),
    [
        (0, "0", 0, (10, "5")),
        (1, "0", 1_000, (9, "5")),
        (9, "0", 9_000, (1, "5")),
        (10, "5", 9_500, (40, "10")),
        (11, "5", 10_450, (39, "10")),
        (48, "5", 45_600, (2, "10")),
        (49, "5", 46_550, (1, "10")),
        (50, "10", 46_550, (50, "15")),  # 45.000 by the percent alone
        (51, "10", 46_550, (49, "15")),  # 45.900
        (52, "10", 46_800, (48, "15")),
        (99, "10", 89_100, (1, "15")),
        (100, "15", 89_100, None),  # 85.000
        (101, "15", 89_100, None),
        (104, "15", 89_100, None),  # 88.400
        (105, "15", 89_250, None),
        (200, "15", 170_000, None),
    ],
)
def test_edges_of_the_published_tiers(
    images: int, percent: str, total_mt: int, next_tier: tuple[int, str] | None
) -> None:
    """Below, at and above each tier of the default book, images of 1.000 cost what is worked out here."""
    batch = read_book().price_batch([(640, 640)] * images, 640, "yolov8s", charged=[True] * images)
    assert (batch.discount_percent, batch.total_mt) == (Decimal(percent), total_mt)
    assert (batch.list_mt, batch.images_charged) == (images * 1000, images)
    assert batch.next_tier == (None if next_tier is None else NextTier(next_tier[0], Decimal(next_tier[1])))
    assert sum(line.amount_mt for line in batch.lines) == total_mt


def test_one_image_costs_what_price_image_says() -> None:
    """A batch of one and the price of one image are the same number for every published model."""
    prices = read_book()
    for model in prices.betas:
        plan, amount_mt = prices.price_image(1080, 1920, 640, model)
        batch = prices.price_batch([(1080, 1920)], 640, model, charged=[True])
        assert [(line.plan, line.list_mt, line.amount_mt, line.floor_mt) for line in batch.lines] == [
            (plan, amount_mt, amount_mt, 0)
        ]


def test_padding_with_a_tiny_picture_saves_nothing() -> None:
    """49 large pictures and one of 1 × 1 cost what the 49 cost, and the large ones bear the floor."""
    prices = read_book()
    large = prices.price_batch([(960, 960)] * 49, 960, "yolov8l", charged=[True] * 49)
    padded = prices.price_batch([(960, 960)] * 49 + [TINY], 960, "yolov8l", charged=[True] * 50)
    # 49 · 5.625 · 0.95 rounds each to 5.344; by the tenth percent alone the padded batch would cost 248.097.
    assert large.total_mt == 49 * 5_344 == 261_856
    assert padded.total_mt == 261_856
    assert padded.discount_percent == 10
    assert (padded.lines[-1].amount_mt, padded.lines[-1].floor_mt) == (10, 0)
    assert {line.amount_mt for line in padded.lines[:-1]} == {5_343, 5_344}


def test_free_images_neither_cost_nor_count() -> None:
    """Nine charged images among free ones get no discount, and ten do; a free line keeps its list price."""
    prices = read_book()
    nine = prices.price_batch([(640, 640)] * 60, 640, "yolov8s", charged=[True] * 9 + [False] * 51)
    ten = prices.price_batch([(640, 640)] * 60, 640, "yolov8s", charged=[False] * 50 + [True] * 10)
    assert (nine.total_mt, nine.list_mt, nine.discount_percent, nine.images_charged) == (9_000, 9_000, 0, 9)
    assert (ten.total_mt, ten.list_mt, ten.discount_percent, ten.images_charged) == (9_500, 10_000, 5, 10)
    assert [line.amount_mt for line in ten.lines] == [0] * 50 + [950] * 10
    assert {line.list_mt for line in ten.lines} == {1_000}


def test_the_discount_is_taken_from_the_exact_price_and_rounded_once() -> None:
    """1.0005 less 5 % is 0.950475, so 0.950; from the rounded list price of 1.001 it would be 0.951."""
    batch = price(prices_with((2, "5"), beta="1.0005"), [(640, 640)] * 3)
    assert [(line.list_mt, line.amount_mt) for line in batch.lines] == [(1_001, 950)] * 3


def test_no_discount_goes_below_the_minimum() -> None:
    """A picture at the minimum keeps it at every percent."""
    batch = price(prices_with((2, "99.9")), [TINY] * 5)
    assert [line.amount_mt for line in batch.lines] == [10] * 5
    assert batch.total_mt == batch.list_mt == 50


def test_a_batch_needs_a_rate_and_one_flag_an_image() -> None:
    """A model without a rate, and lists of unequal length, are refused before anything is priced."""
    with pytest.raises(NoRateError):
        read_book().price_batch([TINY], 640, "yolov99", charged=[True])
    for charged in ([True], [True] * 3):
        with pytest.raises(ValueError, match="argument"):
            read_book().price_batch([TINY] * 2, 640, "yolov8s", charged=charged)


# Properties ----------------------------------------------------------------------------------------


@st.composite
def some_tiers(draw: st.DrawFn) -> tuple[BatchDiscount, ...]:
    """Up to four rising tiers that batches of a few images reach."""
    count = draw(st.integers(0, 4))
    images = sorted(draw(st.lists(st.integers(2, 14), min_size=count, max_size=count, unique=True)))
    percents = sorted(draw(st.lists(st.integers(1, 9_999), min_size=count, max_size=count, unique=True)))
    return tuple(BatchDiscount(n, Decimal(p).scaleb(-2)) for n, p in zip(images, percents, strict=True))


some_shape = st.one_of(
    st.sampled_from([TINY, (640, 640), (1080, 1920), (640, 40), (33, 33)]),
    st.tuples(st.integers(1, 2000), st.integers(1, 2000)),
)
some_batch = st.lists(some_shape, max_size=20)
some_prices = st.builds(
    lambda discounts, beta: Prices("test", Decimal("1.0"), Decimal("0.010"), {"m": beta}, discounts),
    some_tiers(),
    st.sampled_from([Decimal("0.7"), Decimal("1.0"), Decimal("2.5"), Decimal("1.0005"), Decimal("0.013")]),
)


def add_one(shapes: Shapes, shape: tuple[int, int], place: int) -> Shapes:
    """The batch with one more image somewhere in it."""
    place %= len(shapes) + 1
    return [*shapes[:place], shape, *shapes[place:]]


@seed(SEED)
@PROPERTY
@given(some_prices, some_batch, some_shape, st.integers(0, 20))
def test_one_more_image_never_costs_less(prices: Prices, shapes: Shapes, shape: tuple[int, int], place: int) -> None:
    """Adding any image anywhere lowers no total, and so removing one raises none."""
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when the test fails
    assert price(prices, add_one(shapes, shape, place)).total_mt >= price(prices, shapes).total_mt


@seed(SEED)
@PROPERTY
@given(some_prices, st.lists(st.tuples(some_shape, st.booleans()), max_size=25))
def test_fewer_images_never_cost_more(prices: Prices, marked: list[tuple[tuple[int, int], bool]]) -> None:
    """Any part of a batch costs at most what the batch costs."""
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when the test fails
    whole = price(prices, [shape for shape, _ in marked])
    part = price(prices, [shape for shape, kept in marked if kept])
    assert part.total_mt <= whole.total_mt


@seed(SEED)
@PROPERTY
@given(some_prices, some_batch, st.integers(1, 15))
def test_padding_never_saves(prices: Prices, shapes: Shapes, padding: int) -> None:
    """However many pictures of 1 × 1 are added to reach a tier, the total does not fall."""
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when the test fails
    assert price(prices, shapes + [TINY] * padding).total_mt >= price(prices, shapes).total_mt


@seed(SEED)
@PROPERTY
@given(some_prices, st.lists(st.tuples(some_shape, st.booleans()), min_size=1, max_size=25), st.integers(0, 24))
def test_an_image_that_becomes_free_never_raises_the_total(
    prices: Prices, marked: list[tuple[tuple[int, int], bool]], place: int
) -> None:
    """A picture that turns out to be processed already makes no batch dearer."""
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when the test fails
    shapes, charged = [shape for shape, _ in marked], [pays for _, pays in marked]
    fewer = list(charged)
    fewer[place % len(fewer)] = False
    assert price(prices, shapes, fewer).total_mt <= price(prices, shapes, charged).total_mt


@seed(SEED)
@PROPERTY
@given(some_prices, st.lists(st.tuples(some_shape, st.booleans()), max_size=25))
def test_every_line_is_between_the_minimum_and_its_list_price(
    prices: Prices, marked: list[tuple[tuple[int, int], bool]]
) -> None:
    """No unit is below the minimum, no line above its list price, a free line is 0, and the sums are sums."""
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when the test fails
    batch = price(prices, [shape for shape, _ in marked], [pays for _, pays in marked])
    for line, (_, pays) in zip(batch.lines, marked, strict=True):
        assert line.floor_mt >= 0
        if pays:
            assert 10 <= line.amount_mt - line.floor_mt <= line.amount_mt <= line.list_mt
        else:
            assert (line.amount_mt, line.floor_mt) == (0, 0)
    assert batch.total_mt == sum(line.amount_mt for line in batch.lines)
    assert batch.list_mt == sum(line.list_mt for line, (_, pays) in zip(batch.lines, marked, strict=True) if pays)


@seed(SEED)
@PROPERTY
@given(some_prices, some_batch, st.randoms(use_true_random=False))
def test_the_order_of_the_images_does_not_matter(prices: Prices, shapes: Shapes, draw: Any) -> None:
    """Shuffled, a batch has the same total and the same amounts for each kind of image."""
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when the test fails
    shuffled = list(shapes)
    draw.shuffle(shuffled)
    one, other = price(prices, shapes), price(prices, shuffled)
    assert one.total_mt == other.total_mt
    assert sorted((line.list_mt, line.amount_mt) for line in one.lines) == sorted(
        (line.list_mt, line.amount_mt) for line in other.lines
    )


@seed(SEED)
@PROPERTY
@given(st.lists(st.integers(0, 10_000), max_size=30), st.data())
def test_spread_gives_everything_and_nobody_too_much(weights: list[int], data: st.DataObject) -> None:
    """The parts sum to the amount, none is above its weight, and each is within one of its exact share."""
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when the test fails
    total = sum(weights)
    amount = data.draw(st.integers(0, total))
    parts = spread(amount, weights)
    assert sum(parts) == amount
    for part, weight in zip(parts, weights, strict=True):
        assert 0 <= part <= weight
        assert abs(part * total - amount * weight) < max(1, total)


@pytest.mark.parametrize(("amount", "weights"), [(1, []), (-1, [5]), (6, [2, 3]), (1, [3, -1])])
def test_spread_refuses_what_does_not_fit(amount: int, weights: list[int]) -> None:
    """More than the weights hold, less than nothing, or a negative weight is an error."""
    with pytest.raises(ValueError, match="spread"):
        spread(amount, weights)


# Data ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"images_min": 10, "percent": "5"}, "list of tiers"),
        (None, "list of tiers"),
        (["5"], "tier 1: a tier has images_min and percent"),
        ([{"images_min": 10}], "tier 1: a tier has images_min and percent"),
        ([{"images_min": 10, "percent": "5", "model": "x"}], "tier 1: a tier has"),
        ([{"images_min": 10, "percent": 5}], "tier 1: percent is text"),
        ([{"images_min": 10, "percent": 0.5}], "tier 1: percent is text"),
        ([{"images_min": 10, "percent": "five"}], "tier 1: percent is a number"),
        ([{"images_min": 10, "percent": "NaN"}], "tier 1: percent is more than 0"),
        ([{"images_min": 10, "percent": "sNaN"}], "tier 1: percent is more than 0"),
        ([{"images_min": 10, "percent": "Infinity"}], "tier 1: percent is more than 0"),
        ([{"images_min": 10, "percent": "0"}], "tier 1: percent is more than 0"),
        ([{"images_min": 10, "percent": "-5"}], "tier 1: percent is more than 0"),
        ([{"images_min": 10, "percent": "100"}], "tier 1: percent is more than 0"),
        ([{"images_min": 10, "percent": "1." + "1" * 39}], "at most 40 characters"),
        ([{"images_min": 1, "percent": "5"}], "tier 1: images_min is a whole number"),
        ([{"images_min": 10.0, "percent": "5"}], "tier 1: images_min is a whole number"),
        ([{"images_min": "10", "percent": "5"}], "tier 1: images_min is a whole number"),
        ([{"images_min": True, "percent": "5"}], "tier 1: images_min is a whole number"),
        (
            [{"images_min": 10, "percent": "5"}, {"images_min": 10, "percent": "6"}],
            "tier 2: images_min is above the 10",
        ),
        ([{"images_min": 10, "percent": "5"}, {"images_min": 9, "percent": "6"}], "tier 2: images_min is above the 10"),
        ([{"images_min": 10, "percent": "5"}, {"images_min": 20, "percent": "5.0"}], "tier 2: percent is above the 5"),
        ([{"images_min": 10, "percent": "5"}, {"images_min": 20, "percent": "4"}], "tier 2: percent is above the 5"),
    ],
)
def test_wrong_tiers_are_refused_by_name(data: object, said: str) -> None:
    """Tiers that do not rise, floats and anything else raise ConfigError, which names the tier."""
    with pytest.raises(ConfigError, match=said):
        read_discounts(data)


def test_a_wrong_book_is_refused_when_it_is_read_and_when_it_is_made(tmp_path: Path) -> None:
    """Neither a file nor code gets a falling tier as far as the database."""
    data = json.loads(DEFAULT_BOOK.read_text(encoding="utf-8"))
    data["batch_discounts"][2]["percent"] = "9"
    path = tmp_path / "book.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ConfigError, match="tier 3: percent is above the 10"):
        read_book(path)
    with pytest.raises(ConfigError, match="tier 2: images_min is above the 10"):
        prices_with((10, "5"), (10, "6"))


def test_a_book_without_discounts_has_none(tmp_path: Path) -> None:
    """A price book from before there were discounts is read and gives none."""
    data = json.loads(DEFAULT_BOOK.read_text(encoding="utf-8"))
    del data["batch_discounts"]
    path = tmp_path / "book.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    batch = read_book(path).price_batch([(640, 640)] * 200, 640, "yolov8s", charged=[True] * 200)
    assert (batch.total_mt, batch.discount_percent, batch.next_tier) == (200_000, 0, None)


def test_the_default_book_has_the_published_tiers() -> None:
    """10, 50 and 100 images, 5, 10 and 15 percent; written again they are the file's own text."""
    discounts = read_book().discounts
    assert discounts == tiers((10, "5"), (50, "10"), (100, "15"))
    assert write_discounts(discounts) == json.loads(DEFAULT_BOOK.read_text(encoding="utf-8"))["batch_discounts"]


def test_stored_tiers_come_back_exactly(db: Database) -> None:
    """Percents lie in the database as text and come out as the decimals they were."""
    with db.write() as session:
        adopt_book(session, prices_with((3, "7.25"), (4, "33.333")))
        stored = session.connection().execute(text("SELECT CAST(batch_discounts AS TEXT) FROM price_book")).scalar_one()
    assert '"7.25"' in stored
    with db.read() as session:
        assert current_prices(session).discounts == tiers((3, "7.25"), (4, "33.333"))


def test_an_existing_installation_gets_the_discounts_as_a_new_version(db: Database) -> None:
    """The version from before stays without discounts for its quotes; the default book is in force after it."""
    book = read_book()
    with db.write() as session:
        adopt_book(session, Prices("2026-11-1", book.alpha, book.minimum, book.betas))
    with db.write() as session:
        adopt_book(session, book)
    with db.read() as session:
        assert current_prices(session) == book
        assert book.version != "2026-11-1"
        assert get_prices(session, "2026-11-1").discounts == ()


# Recomputing ---------------------------------------------------------------------------------------


def make_quote(prices: Prices, shapes: Shapes, charged: Sequence[bool], img_size: int = 640) -> Quote:
    """A quote as it is stored for a batch."""
    batch = prices.price_batch(shapes, img_size, "m", charged=charged)
    return Quote(
        account_id="acct",
        price_version=prices.version,
        model="m",
        model_version="v",
        img_size=img_size,
        total_mt=batch.total_mt,
        list_mt=batch.list_mt,
        discount_percent=batch.discount_percent,
        lines=[
            {
                "height": height,
                "width": width,
                "free_reason": None if pays else "processed",
                "list_mt": line.list_mt,
                "amount_mt": line.amount_mt,
                "floor_mt": line.floor_mt,
            }
            for (height, width), pays, line in zip(shapes, charged, batch.lines, strict=True)
        ],
        expires_at=utcnow(),
    )


MIXED: Shapes = [(640, 640), (1080, 1920), TINY, (640, 640), (500, 40)]


def test_a_quote_is_recomputed_from_its_images() -> None:
    """An honest quote agrees, one that only the lines know to be wrong does not."""
    prices = prices_with((3, "10"), (4, "40"))
    quote = make_quote(prices, MIXED, [True, True, True, True, False])
    assert quote_agrees(prices, quote)
    assert recompute_quote(prices, quote).total_mt == quote.total_mt
    assert sum(line["floor_mt"] for line in quote.lines) > 0
    # A milli-token of the floor moved from one image to another leaves every sum as it was.
    for position, change_mt in ((0, -1), (1, 1)):
        line = quote.lines[position]
        changed = {key: line[key] + change_mt for key in ("amount_mt", "floor_mt")}
        quote.lines[position] = {**line, **changed}
    assert not quote_agrees(prices, quote)


@pytest.mark.parametrize(
    ("field", "value"), [("total_mt", 1), ("list_mt", 1), ("discount_percent", Decimal("41")), ("img_size", 320)]
)
def test_a_quote_with_one_wrong_number_does_not_agree(field: str, value: object) -> None:
    """Total, list price, percent and size are each looked at."""
    prices = prices_with((3, "10"), (4, "40"))
    quote = make_quote(prices, MIXED, [True] * 5)
    setattr(quote, field, value)
    assert not quote_agrees(prices, quote)


def test_a_quote_from_before_discounts_agrees() -> None:
    """Lines without a floor, under a version without tiers, are in order."""
    prices = prices_with()
    quote = make_quote(prices, MIXED, [True] * 5)
    quote.lines = [{key: value for key, value in line.items() if key != "floor_mt"} for line in quote.lines]
    assert quote_agrees(prices, quote)


def make_receipt(**changes: Any) -> Receipt:
    """The receipt of a 640 × 640 image at β 1.0005 in a batch with 5 % and a floor of 0.007."""
    values: dict[str, Any] = {
        "image_height": 640,
        "image_width": 640,
        "input_height": 640,
        "input_width": 640,
        "img_size": 640,
        "alpha": Decimal("1.0"),
        "beta": Decimal("1.0005"),
        "minimum": Decimal("0.010"),
        "discount_percent": Decimal("5"),
        "floor_mt": 7,
        "amount_mt": 957,
    }
    return Receipt(**{**values, **changes})


def test_a_receipt_is_recomputed_with_its_discount_and_floor() -> None:
    """0.950475 rounds to 0.950, and 0.007 of the floor comes on top."""
    assert recompute_receipt(make_receipt()) == 957


@pytest.mark.parametrize(
    ("changes", "recomputed_mt"),
    [
        ({"discount_percent": Decimal("0"), "floor_mt": 0}, 1_001),
        ({"discount_percent": Decimal("50")}, 507),
        ({"floor_mt": 8}, 958),
        ({"image_height": 320}, 482),
        ({"minimum": Decimal("2.000")}, 2_007),
        ({"input_height": 32, "input_width": 32, "amount_mt": 1}, 957),
    ],
)
def test_a_receipt_says_what_its_numbers_come_to(changes: dict[str, Any], recomputed_mt: int) -> None:
    """Each number of the formula moves the result; the stored network input and amount do not."""
    assert recompute_receipt(make_receipt(**changes)) == recomputed_mt


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [("quote", "list_mt", "total_mt - 1"), ("receipt", "floor_mt", "-1"), ("receipt", "batch_images", "0")],
)
def test_the_database_refuses_senseless_discounts(db: Database, table: str, column: str, value: str) -> None:
    """A total above its list price, a negative floor and an empty batch break a constraint of the schema."""
    prices = prices_with((3, "10"), (4, "40"))
    with db.write() as session:
        account = ledger.open_account(session, "Ann")
        ledger.post_top_up(session, account.id, 10_000, source="house:test", actor="test")
        adopt_book(session, prices)
        quote = make_quote(prices, MIXED, [True] * 5)
        quote.account_id = account.id
        session.add(quote)
        session.flush()
        hold = ledger.place_hold(session, account.id, 957, charge_key="k", lease_s=60, actor="test")
        session.add(
            make_receipt(
                account_id=account.id,
                hold_id=hold.id,
                quote_id=quote.id,
                price_version="test",
                image_name="a",
                image_sha256="a",
                model="m",
                model_version="v",
            )
        )
    with pytest.raises(Exception, match=r"(?i)check constraint"), db.write() as session:
        session.connection().execute(text(f"UPDATE {table} SET {column} = {value}"))
    with db.read() as session:
        assert session.connection().execute(text(f"SELECT count(*) FROM {table}")).scalar_one() == 1


def test_a_book_stored_without_tiers_has_none(db: Database) -> None:
    """A price book that is stored without tiers has an empty list, not NULL."""
    with db.write() as session:
        session.add(PriceBook(version="bare", alpha=Decimal(1), minimum=Decimal("0.010")))
    with db.read() as session:
        assert get_prices(session, "bare").discounts == ()
