"""What a budget is enough for equals what quotes ask, and nothing is taken to say so."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlmodel import func, select

from core.geometry import IMG_SIZES_PX
from core.identity.tables import User
from core.pricing.tables import Quote
from core.services import limits
from core.services.application import Application
from core.services.budget import Offer, fit_batch, fit_typical, get_spendable
from core.services.job_runner import JobRunner
from core.services.quotes import PreparedImage, prepare_image, quote_batch
from tests.conftest import OpenApp
from tests.core.services.helpers import MODEL, balance, pictures, run
from tests.core.services.test_tiled_runs import wide
from tests.other_weights import make_other_weights

BUDGET_MT = 3_000


@pytest.fixture
def two_models(open_app: OpenApp, weights_dir: Path, tmp_path: Path) -> Application:
    """An application with the embedded model, and with yolov8n's name on weights that differ from it."""
    folder = tmp_path / "weights"
    shutil.copytree(weights_dir, folder)
    make_other_weights(folder / f"{MODEL}.pt", folder / "yolov8n.pt", seed=3)
    return open_app(weights_dir=folder)


@pytest.fixture
def ann(two_models: Application, sign_up: Callable[..., User]) -> User:
    """A customer with 20.000 tokens."""
    return sign_up(two_models)


def prepared(app: Application, files: dict[str, bytes]) -> list[PreparedImage]:
    """The pictures of files."""
    return [prepare_image(app, name, data) for name, data in files.items()]


def count_quotes(app: Application) -> int:
    """How many quotes are stored."""
    with app.db.read() as session:
        return session.exec(select(func.count()).select_from(Quote)).one()


def by_combination(offers: list[Offer]) -> dict[tuple[str, int, int | None], Offer]:
    """Offers by model, size and tiles."""
    return {(one.combination.model, one.combination.img_size, one.combination.tile_px): one for one in offers}


def test_every_total_is_that_of_a_real_quote(
    two_models: Application, ann: User, start_runner: Callable[[Application], JobRunner]
) -> None:
    """Twelve pictures, two of them the same, one processed at one size, in tiles too: all offers equal their quotes."""
    app = two_models
    start_runner(app)
    files = {**pictures(9), "wide.png": wide(3), "again.png": next(iter(pictures(1).values())), "w2.png": wide(4)}
    run(app, ann, {"0.png": files["0.png"]})
    images, before = prepared(app, files), count_quotes(app)
    offers = fit_batch(app, ann, images, task="detect", budget_mt=BUDGET_MT, with_tiles=True)
    assert (count_quotes(app), balance(app, ann)) == (before, (19_750, 0)), "it stores nothing and holds nothing"
    found = by_combination(offers)
    assert {(model, size, None) for model in (MODEL, "yolov8n") for size in IMG_SIZES_PX} <= set(found)
    assert {key[2] for key in found} == {None, 256, 320, 416, 512, 640, 960}, "no picture is larger than 1280"
    for (model, img_size, tile_px), offer in found.items():
        quoted = quote_batch(app, ann, images, model=model, img_size=img_size, tile_px=tile_px)
        assert (offer.total_mt, offer.discount_percent) == (quoted.total_mt, quoted.discount_percent)
        assert offer.remaining_mt == BUDGET_MT - quoted.total_mt
    assert found[(MODEL, 320, None)].images_charged == 10
    assert found["yolov8n", 320, None].images_charged == 11


def test_what_computes_most_comes_first_and_what_lacks_least_next(two_models: Application, ann: User) -> None:
    """Those that fit fall by work; after them the nearest that does not fit says by how much."""
    images = prepared(two_models, pictures(3))
    offers = fit_batch(two_models, ann, images, task="detect", budget_mt=BUDGET_MT, with_tiles=False)
    assert [(o.combination.model, o.combination.img_size, o.remaining_mt) for o in offers[:3]] == [
        (MODEL, 640, 0),
        ("yolov8n", 640, 900),
        (MODEL, 512, 1080),
    ]
    assert [(o.combination.model, o.combination.img_size, o.remaining_mt) for o in offers if not o.fits][:2] == [
        ("yolov8n", 768, -24),
        (MODEL, 768, -1320),
    ]
    assert offers[0].mean_mt == 1_000


@pytest.mark.parametrize("count", [1, 9, 10, 30, 31, 75])
def test_typical_images_cost_what_quotes_of_such_images_cost(
    open_app: OpenApp, sign_up: Callable[..., User], count: int
) -> None:
    """Also when they need several batches, of which the last is not full."""
    app = open_app(batch_images_max=30)
    ann = sign_up(app)
    images = [PreparedImage(f"{n}.png", "0", f"picture {n}", 720, 1280) for n in range(count)]
    offers = fit_typical(app, ann, count, 720, 1280, task="detect", budget_mt=BUDGET_MT, with_tiles=True)
    assert len({(o.combination.img_size, o.combination.tile_px) for o in offers}) == len(offers)
    for offer in offers:
        one = offer.combination
        quoted_mt = sum(
            quote_batch(
                app, ann, images[start : start + 30], model=one.model, img_size=one.img_size, tile_px=one.tile_px
            ).total_mt
            for start in range(0, count, 30)
        )
        assert (offer.total_mt, offer.images_charged) == (quoted_mt, count)


def test_no_images_are_refused(app: Application, sign_up: Callable[..., User]) -> None:
    """A number of images is at least one."""
    with pytest.raises(ValueError, match="from 1 to"):
        fit_typical(app, sign_up(app), 0, 720, 1280, task="detect", budget_mt=1, with_tiles=False)


def test_models_of_another_task_and_pictures_of_too_many_tiles_are_left_out(two_models: Application, ann: User) -> None:
    """No model for masks is installed; of 5000 × 4000 pixels the smallest tiles are more than a picture may have."""
    assert fit_typical(two_models, ann, 1, 640, 640, task="segment", budget_mt=1, with_tiles=True) == []
    offers = fit_typical(two_models, ann, 1, 4000, 5000, task="detect", budget_mt=1, with_tiles=True)
    assert {one.combination.tile_px for one in offers} == {None, 320, 416, 512, 640, 960, 1280}


def test_caps_bound_what_can_be_spent(app: Application, sign_up: Callable[..., User]) -> None:
    """The balance, or what is left of the narrowest cap."""
    ann = sign_up(app)
    assert (get_spendable(app, ann).amount_mt, get_spendable(app, ann).is_capped) == (20_000, False)
    limits.set_limits(app, ann, day_cap_mt=5_000, month_cap_mt=4_000, alert_below_mt=None)
    assert (get_spendable(app, ann).amount_mt, get_spendable(app, ann).is_capped) == (4_000, True)
