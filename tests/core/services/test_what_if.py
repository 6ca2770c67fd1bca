"""Prices that might be: real charges reproduced to the milli-token, and priced under other lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

import numpy as np
import pytest
from sqlmodel import func, select

from core import errors
from core.db import utcnow
from core.identity.tables import User
from core.inference.detections import Detections
from core.inference.engine import Inference
from core.inference.images import encode_png
from core.jobs import jobs
from core.jobs.blobs import hash_bytes
from core.pricing.book import Prices, current_prices
from core.pricing.discounts import BatchDiscount
from core.pricing.tables import Receipt
from core.services import run_image
from core.services.application import Application
from core.services.metered_detection import submit_quote
from core.services.quotes import prepare_image, quote_batch
from core.services.what_if import WhatIf, price_anew
from tests.core.services.helpers import MODEL, balance

CENT = Decimal("0.01")


@pytest.fixture
def operator(any_app: Application, sign_up: Callable[..., User]) -> User:
    """The operator."""
    return sign_up(any_app, "operator@example.com")


@pytest.fixture
def ann(any_app: Application, operator: User, sign_up: Callable[..., User]) -> User:
    """A customer."""
    return sign_up(any_app)


def charge(
    app: Application,
    user: User,
    shapes: Sequence[tuple[int, int]],
    *,
    img_size: int = 320,
    tile_px: int | None = None,
    tiles_failed: int = 0,
) -> list[int]:
    """One batch of pictures of these (height, width), charged as a run charges them, with answers of no model."""
    draw = np.random.default_rng(7)
    files = {
        f"{number}.png": encode_png(np.full((*shape, 3), draw.integers(0, 256, 3), dtype=np.uint8))
        for number, shape in enumerate(shapes)
    }
    images = [prepare_image(app, name, data) for name, data in files.items()]
    quoted = quote_batch(app, user, images, model=MODEL, img_size=img_size, tile_px=tile_px)
    job = submit_quote(app, user, quoted.id, {hash_bytes(data): data for data in files.values()})
    with app.db.read() as session:
        waiting = jobs.list_images(session, job.id)
    charged = []
    for image in waiting:
        line = quoted.lines[image.position]
        answer = Inference(
            Detections.from_json([]), (line["input_height"], line["input_width"]), 1.0, 1.0, tiles_failed=tiles_failed
        )
        with app.db.write() as session:
            charged.append(run_image._capture(session, job, image, answer).amount_mt)
    return charged


def ask(app: Application, operator: User, prices: Prices, price_per_token: Decimal = CENT) -> WhatIf:
    """All of today's charges under these prices."""
    now = utcnow()
    return price_anew(app, operator, prices, price_per_token, now - timedelta(hours=1), now + timedelta(hours=1))


def prices_of(app: Application) -> Prices:
    """The list in force."""
    with app.db.read() as session:
        return current_prices(session)


def test_nothing_changed_is_what_was_charged(any_app: Application, operator: User, ann: User) -> None:
    """Single pictures, discounts, a batch on its floor, one of mixed sizes, tiles and failed tiles: all exact."""
    app = any_app
    charged = [
        *charge(app, ann, [(64, 64)], img_size=640),
        *charge(app, ann, [(10, 10)]),
        *charge(app, ann, [(64, 48)] * 12),
        *charge(app, ann, [(64, 20)] * 50),
        *charge(app, operator, [(64, 32)] * 48 + [(12, 12), (13, 13), (14, 14)]),
        *charge(app, operator, [(400, 300)], tile_px=256),
        *charge(app, ann, [(300, 400)], tile_px=256, tiles_failed=1),
    ]
    with app.db.read() as session:
        floors_mt = session.exec(select(func.sum(Receipt.floor_mt))).one()
        stored_mt = session.exec(select(func.sum(Receipt.amount_mt))).one()
    assert floors_mt > 0, "no batch was on its floor, so nothing is proven of it"
    outcome = ask(app, operator, prices_of(app))
    assert outcome.total.before_mt == outcome.total.after_mt == sum(charged) == stored_mt
    assert (outcome.total.images, outcome.total.increase, outcome.total.percent) == (len(charged), 0, 0)
    assert (outcome.accounts, outcome.accounts_paying_more, outcome.largest) == (2, 0, None)
    assert outcome.versions == (prices_of(app).version,)
    assert {name: sums.before_mt for name, sums in outcome.models.items()} == {MODEL: sum(charged)}


def test_other_discounts_are_priced_as_the_list_would(any_app: Application, operator: User, ann: User) -> None:
    """Batches of like pictures under other tiers, β, α and price: to the milli-token what a quote would say."""
    app, batches = any_app, {1: (64, 64), 9: (64, 40), 20: (64, 30), 30: (64, 24)}
    for count, shape in batches.items():
        charge(app, ann, [shape] * count)
    prices = replace(
        prices_of(app),
        alpha=Decimal("1.3"),
        betas={**prices_of(app).betas, MODEL: Decimal("0.77")},
        discounts=(BatchDiscount(5, Decimal("7.5")), BatchDiscount(20, Decimal("33"))),
    )
    expected_mt = sum(
        prices.price_batch([shape] * count, 320, MODEL, charged=[True] * count).total_mt
        for count, shape in batches.items()
    )
    outcome = ask(app, operator, prices, Decimal("0.02"))
    assert outcome.total.after_mt == expected_mt != outcome.total.before_mt
    assert outcome.total.after == Decimal(expected_mt) / 1000 * Decimal("0.02")


def test_who_pays_more(any_app: Application, operator: User, ann: User, sign_up: Callable[..., User]) -> None:
    """Dearer tokens are more money for all at the same tokens; whoever pays most more is named; nothing is written."""
    app = any_app
    charge(app, ann, [(64, 64)] * 3)
    charge(app, operator, [(64, 64)])
    before = [balance(app, user) for user in (ann, operator)]
    same_tokens = ask(app, operator, prices_of(app), Decimal("0.012"))
    assert same_tokens.total.after_mt == same_tokens.total.before_mt == 1000
    assert (same_tokens.total.percent, same_tokens.accounts_paying_more) == (20, 2)
    assert same_tokens.largest is not None
    assert (same_tokens.largest[0], same_tokens.largest[1].increase) == (ann.email, Decimal("0.0015"))
    cheaper = ask(app, operator, replace(prices_of(app), alpha=Decimal("0.5")))
    assert (cheaper.total.after_mt, cheaper.accounts_paying_more, cheaper.largest) == (500, 0, None)
    assert [balance(app, user) for user in (ann, operator)] == before


def test_a_period_without_charges(any_app: Application, operator: User) -> None:
    """Nothing was charged: nothing changes, and there is no percentage of it."""
    outcome = ask(any_app, operator, prices_of(any_app))
    assert (outcome.total.images, outcome.total.percent, outcome.models, outcome.accounts) == (0, None, {}, 0)


def test_only_the_period(any_app: Application, operator: User, ann: User) -> None:
    """The first moment belongs to a period, the one after it does not."""
    charge(any_app, ann, [(64, 64)])
    with any_app.db.read() as session:
        at: datetime = session.exec(select(Receipt.created_at)).one()
    prices = prices_of(any_app)
    later = at + timedelta(microseconds=1)
    assert price_anew(any_app, operator, prices, CENT, at, later).total.images == 1
    assert price_anew(any_app, operator, prices, CENT, at - timedelta(hours=1), at).total.images == 0


def test_for_the_operator(any_app: Application, ann: User) -> None:
    """Nobody else learns what all customers pay."""
    with pytest.raises(errors.NotAllowedError):
        ask(any_app, ann, prices_of(any_app))
