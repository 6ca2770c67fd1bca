"""The calculator: the published results come out of its presets, break-even is exact, and a cheaper GPU is said so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from core.identity.tables import User
from core.inference.registry import Registry
from core.pricing.book import read_book
from core.services import savings
from core.services.application import Application
from core.services.job_runner import JobRunner
from core.services.savings import FLAT_MONTH, PCB_FACTORY, SMART_CAMPUS, Comparison, Workload
from tests.core.services.helpers import pictures, run

PRICE_PER_TOKEN = Decimal("0.01")
# The models that are known without any weights.
REGISTRY = Registry(Path("no-weights"))


def month_of(workload: Workload, flat: Decimal = FLAT_MONTH) -> Comparison:
    """A workload's month under the published prices."""
    price_mt = savings.price_workload(read_book(), REGISTRY, workload)
    return Comparison(workload.images_day, price_mt, price_per_token=PRICE_PER_TOKEN, flat=flat)


def test_the_pcb_factory() -> None:
    """50,000 pictures a day at 1.000 token: ¥15,000 against ¥20,000, 25 % less."""
    month = month_of(PCB_FACTORY)
    assert (PCB_FACTORY.images_day, month.price_mt) == (50_000, 1000)
    assert (month.metered, month.flat, month.saving_percent) == (15_000, 20_000, 25)


def test_the_smart_campus() -> None:
    """50 cameras, crowded by day and nearly empty at night, at 0.600 tokens: 40 % less."""
    month = month_of(SMART_CAMPUS)
    assert (sum(part.hours for part in SMART_CAMPUS.hours), month.price_mt) == (24, 600)
    assert month.saving_percent.quantize(Decimal("0.1")) == 40


def test_a_model_that_sees_squares() -> None:
    """Classes of a wide picture cost a whole square, as a run of it would; a model unknown here is priced letterboxed.

    α · 640² / 640² · 0.25 = 0.250 tokens, and 640 × 384 of it for another model of the same β.
    """
    wide = replace(SMART_CAMPUS, model="yolov8n-cls")
    assert month_of(wide).price_mt == 250
    prices = replace(read_book(), betas={"elsewhere": Decimal("0.25")})
    assert savings.price_workload(prices, REGISTRY, replace(wide, model="elsewhere")) == 150


@pytest.mark.parametrize("workload", [PCB_FACTORY, SMART_CAMPUS])
def test_break_even_is_the_last_number_of_pictures_that_is_not_dearer(workload: Workload) -> None:
    """At the break-even nobody pays more here; with one picture a day more the GPU is cheaper, and that is said."""
    month = month_of(workload)

    def at(images_day: int) -> Comparison:
        return Comparison(images_day, month.price_mt, price_per_token=PRICE_PER_TOKEN, flat=FLAT_MONTH)

    assert at(month.break_even_images_day).saving_percent >= 0
    assert at(month.break_even_images_day + 1).saving_percent < 0


@pytest.mark.parametrize(
    ("images", "price_mt", "per_token", "flat"), [(-1, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, 0)]
)
def test_no_price_is_no_comparison(images: int, price_mt: int, per_token: int, flat: int) -> None:
    """Nothing is compared with nothing."""
    with pytest.raises(ValueError, match="above zero"):
        Comparison(images, Decimal(price_mt), price_per_token=Decimal(per_token), flat=Decimal(flat))


def test_own_usage(
    app: Application, sign_up: Callable[..., User], start_runner: Callable[[Application], JobRunner]
) -> None:
    """What was charged in thirty days over all pictures that were answered; nobody else's, and nothing for nothing."""
    ann, ben = sign_up(app), sign_up(app, email="ben@example.com")
    assert savings.find_own_usage(app, ann) is None
    start_runner(app)
    files = pictures(3)
    run(app, ann, files)
    run(app, ann, files)
    own = savings.find_own_usage(app, ann)
    assert own is not None
    assert (own.images_day, own.price_mt) == (1, Decimal(125))
    assert savings.find_own_usage(app, ben) is None
