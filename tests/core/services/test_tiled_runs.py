"""Runs in tiles: the price of the grid, one charge, and what failed given back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from sqlmodel import select

from core.db import utcnow
from core.errors import InvalidTileSizeError
from core.identity.tables import User
from core.inference.images import Pixels, encode_png
from core.inference.replicas import Replica
from core.jobs.tables import Job, JobImage
from core.pricing.book import quote_agrees
from core.pricing.tables import Quote
from core.services import account_view, receipts
from core.services.account_view import JobView
from core.services.application import Application
from core.services.job_runner import JobRunner
from core.services.quotes import prepare_image, quote_batch, quote_lines
from core.services.receipt_document import make_document
from core.services.run_image import in_hand_until, time_limit_s
from tests.conftest import OpenApp
from tests.core.services.helpers import MODEL, balance, change, statuses, submit, wait

StartRunner = Callable[[Application], JobRunner]
# 1024 × 512 pixels at 320 in tiles of 512: the whole as 320 × 160, three tiles as 320 × 320; 0.125 + 0.750 tokens.
PRICE_MT = 875
TILE_MT = 250
POISON = (7, 77, 177)


@pytest.fixture
def ann(app: Application, sign_up: Callable[..., User]) -> User:
    """A customer with 20.000 tokens."""
    return sign_up(app)


def wide(seed: int, *, poisoned: bool = False) -> bytes:
    """A picture of 1024 × 512 pixels; in the middle of its last tile what a network may not bear."""
    pixels = np.random.default_rng(seed).integers(0, 256, (512, 1024, 3), dtype=np.uint8)
    if poisoned:
        pixels[220:290, 740:800] = POISON
    return encode_png(pixels)


@contextmanager
def failing_on_poison() -> Iterator[None]:
    """The network raises for an input with poison in its middle while the block lasts."""
    forward = Replica.forward

    def fail_or_run(self: Replica, padded: list[Pixels]) -> Any:
        if any((one[one.shape[0] // 2, one.shape[1] // 2] == POISON).all() for one in padded):
            raise RuntimeError("an illegal memory access was encountered")
        return forward(self, padded)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Replica, "forward", fail_or_run)
        yield


def quote_tiled(app: Application, user: User, files: dict[str, bytes], tile_px: int | None = 512) -> Quote:
    """A stored quote in tiles."""
    images = [prepare_image(app, name, data) for name, data in files.items()]
    return quote_batch(app, user, images, model=MODEL, img_size=320, tile_px=tile_px)


def run_tiled(app: Application, user: User, files: dict[str, bytes]) -> JobView:
    """Quote, submit and wait."""
    return wait(app, user, submit(app, user, quote_tiled(app, user, files), files))


def test_the_quote_is_the_grid(app: Application, ann: User) -> None:
    """Its lines name the tiles; the price is that of all network inputs together, rounded once, and recomputes."""
    quoted = quote_tiled(app, ann, {"wide.png": wide(1)})
    (line,) = quote_lines(quoted)
    assert (line.input_width, line.input_height) == (320, 160)
    assert (line.tiles, line.tile_input_width, line.tile_input_height) == (3, 320, 320)
    assert (line.amount_mt, quoted.total_mt, quoted.tile_px) == (PRICE_MT, PRICE_MT, 512)
    assert quote_agrees(account_view.get_prices(app), quoted)


def test_a_run_in_tiles_is_charged_once(app: Application, ann: User, start_runner: StartRunner) -> None:
    """The quoted amount is taken, the receipt recomputes, and the same again is free; without tiles it is not."""
    start_runner(app)
    files = {"wide.png": wide(2)}
    view = run_tiled(app, ann, files)
    assert statuses(view) == ["charged"]
    assert balance(app, ann) == (20_000 - PRICE_MT, 0)
    receipt = receipts.find_receipt(app, ann, view.images[0].hold_id or "")
    assert receipt is not None
    assert receipt.agrees
    assert (receipt.receipt.tile_px, receipt.receipt.tiles, receipt.receipt.tiles_failed) == (512, 3, 0)
    document = json.loads(json.dumps(make_document(receipt)))
    assert document["tiles"]["count"] == 3
    assert document["recomputation"]["steps"][1] == {"step": "pixels", "pixels": 320 * 160 + 3 * 320 * 320}
    assert quote_tiled(app, ann, files).total_mt == 0
    assert quote_tiled(app, ann, files, tile_px=None).total_mt == 125


def test_failed_tiles_are_given_back(app: Application, ann: User, start_runner: StartRunner) -> None:
    """One of three tiles fails: its part of the hold goes back, and ledger, receipt, settlement and usage agree."""
    start_runner(app)
    files = {"wide.png": wide(3, poisoned=True), "fine.png": wide(4)}
    with failing_on_poison():
        view = run_tiled(app, ann, files)
    assert statuses(view) == ["charged", "charged"]
    poisoned, fine = view.images
    assert (poisoned.amount_mt, poisoned.returned_mt) == (PRICE_MT - TILE_MT, TILE_MT)
    assert (fine.amount_mt, fine.returned_mt) == (PRICE_MT, 0)
    assert balance(app, ann) == (20_000 - 2 * PRICE_MT + TILE_MT, 0)
    progress = view.progress
    assert (progress.quoted_mt, progress.charged_mt, progress.given_back_mt) == (
        2 * PRICE_MT,
        2 * PRICE_MT - TILE_MT,
        TILE_MT,
    )
    receipt = receipts.find_receipt(app, ann, poisoned.hold_id or "")
    assert receipt is not None
    assert receipt.agrees
    assert (receipt.receipt.tiles, receipt.receipt.tiles_failed) == (3, 1)
    assert receipt.recomputed_mt == PRICE_MT - TILE_MT


def test_a_discounted_run_with_failed_tiles(app: Application, ann: User, start_runner: StartRunner) -> None:
    """The discount of the batch stays for what is left of a picture, and no share of the floor is asked for it."""
    start_runner(app)
    files = {f"{n}.png": wide(10 + n, poisoned=n == 0) for n in range(10)}
    quoted = quote_tiled(app, ann, files)
    assert quoted.discount_percent > 0
    with failing_on_poison():
        view = wait(app, ann, submit(app, ann, quoted, files))
    poisoned = view.images[0]
    receipt = receipts.find_receipt(app, ann, poisoned.hold_id or "")
    assert receipt is not None
    assert receipt.agrees
    assert receipt.receipt.floor_mt == 0
    assert poisoned.amount_mt < PRICE_MT - TILE_MT
    assert view.progress.charged_mt + view.progress.given_back_mt == quoted.total_mt
    assert balance(app, ann) == (20_000 - view.progress.charged_mt, 0)


def test_a_picture_no_larger_than_a_tile_is_the_same_work(
    app: Application, ann: User, start_runner: StartRunner
) -> None:
    """It has no tiles, costs what it costs without, and is free where its result is there."""
    start_runner(app)
    files = {"wide.png": wide(5)}
    quoted = quote_tiled(app, ann, files, tile_px=1280)
    assert (quoted.total_mt, quote_lines(quoted)[0].tiles) == (125, 0)
    wait(app, ann, submit(app, ann, quoted, files))
    assert quote_tiled(app, ann, files, tile_px=None).total_mt == 0


def test_too_many_tiles_and_odd_sizes_are_refused(app: Application, ann: User) -> None:
    """A size that is not offered, and one of which a picture has more than four hundred: nothing is stored."""
    with pytest.raises(InvalidTileSizeError, match="tile_px is one of 256, 320"):
        quote_tiled(app, ann, {"wide.png": wide(6)}, tile_px=300)
    huge = encode_png(np.zeros((5000, 6000, 3), np.uint8))
    with pytest.raises(InvalidTileSizeError, match="has 750 tiles of 256 pixels"):
        quote_tiled(app, ann, {"huge.png": huge}, tile_px=256)


def test_what_is_late_and_what_is_stuck_in_tiles(
    open_app: OpenApp, sign_up: Callable[..., User], start_runner: StartRunner
) -> None:
    """Three tiles may take as much longer, for the promise to a VIP, for the engine and for the keeper."""
    app = open_app(image_timeout_s=40, hold_lease_s=30)
    ann = sign_up(app)
    change(app, "UPDATE account SET plan = 'vip' WHERE id = :id", id=ann.account_id)
    for started_s, refunded_mt in ((35, 0), (45, PRICE_MT // 2 + 1)):
        files = {"wide.png": wide(20 + started_s)}
        job = submit(app, ann, quote_tiled(app, ann, files), files)
        with app.db.write() as session:
            stored = session.get_one(Job, job.id)
            stored.created_at = utcnow() - timedelta(seconds=started_s)
            image = session.exec(select(JobImage).where(JobImage.job_id == job.id)).one()
            assert time_limit_s(app, stored, image) == 40 * 1.75
            left_s = (in_hand_until(app, stored, image) - utcnow()).total_seconds()
            assert left_s == pytest.approx(40 * 1.75 + 30, abs=5)
        runner = start_runner(app)
        view = wait(app, ann, job)
        runner.stop()
        # Promised within 10 s, and 10 s for each tile.
        assert (statuses(view), view.refunded_mt) == (["charged"], refunded_mt)


def test_an_expired_quote_is_renewed_with_its_tiles(app: Application, ann: User, start_runner: StartRunner) -> None:
    """Whoever runs an old quote gets the same work at the same price."""
    start_runner(app)
    files = {"wide.png": wide(7)}
    quoted = quote_tiled(app, ann, files)
    with app.db.write() as session:
        stored = session.get_one(Quote, quoted.id)
        stored.expires_at = stored.created_at
    view = wait(app, ann, submit(app, ann, quoted, files))
    assert (view.job.tile_px, view.images[0].amount_mt) == (512, PRICE_MT)
