"""Steps that the service tests share: quote, submit, wait, look at the balance."""

from __future__ import annotations

import time
from collections.abc import Mapping

import cv2
import numpy as np
from sqlalchemy import text

from core.identity.tables import User
from core.inference.images import encode_png
from core.jobs.blobs import hash_bytes
from core.jobs.tables import Job
from core.ledger.verify import verify_ledger
from core.pricing.tables import Quote
from core.services import account_view
from core.services.account_view import JobView
from core.services.application import Application
from core.services.metered_detection import submit_quote
from core.services.quotes import prepare_image, quote_batch

MODEL = "yolov8s-fall"


def quote(app: Application, user: User, files: Mapping[str, bytes], img_size: int = 320) -> Quote:
    """A stored quote for named files."""
    images = [prepare_image(app, name, data) for name, data in files.items()]
    return quote_batch(app, user, images, model=MODEL, img_size=img_size)


def submit(app: Application, user: User, quoted: Quote, files: Mapping[str, bytes]) -> Job:
    """Submit the quote with its files."""
    return submit_quote(app, user, quoted.id, {hash_bytes(data): data for data in files.values()})


def run(app: Application, user: User, files: Mapping[str, bytes], img_size: int = 320) -> JobView:
    """Quote, submit and wait; a runner must be working."""
    return wait(app, user, submit(app, user, quote(app, user, files, img_size), files))


def wait(app: Application, user: User, job: Job, timeout_s: float = 60) -> JobView:
    """The job when it is finished."""
    deadline = time.monotonic() + timeout_s
    while (view := account_view.get_job(app, user, job.id)).job.status != "finished":
        assert time.monotonic() < deadline, view.progress
        time.sleep(0.02)
    return view


def balance(app: Application, user: User) -> tuple[int, int]:
    """Posted and held in milli-tokens; the whole ledger must verify whenever somebody looks."""
    with app.db.read() as session:
        outcome = verify_ledger(session)
    assert outcome.ok, outcome.problems
    now = account_view.get_balance(app, user)
    return now.posted_mt, now.held_mt


def statuses(view: JobView) -> list[str]:
    """Image outcomes in order."""
    return [image.status for image in view.images]


def pictures(count: int, seed: int = 1, side: int = 64) -> dict[str, bytes]:
    """Different small PNG pictures; 0.250 tokens each at 320."""
    draw = np.random.default_rng(seed)
    small = draw.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return {f"{n}.png": encode_png(cv2.resize(small[n], (side, side))) for n in range(count)}


def change(app: Application, statement: str, **values: object) -> None:
    """Raw SQL."""
    with app.db.write() as session:
        session.connection().execute(text(statement), values)


def lapse(app: Application) -> None:
    """Let every lease run out, as if its runner had been lost an hour ago."""
    past = "2001-01-01 00:00:00.000000"
    change(app, "UPDATE hold SET expires_at = :past WHERE status = 'held'", past=past)
    change(app, "UPDATE job SET lease_expires_at = :past WHERE status <> 'finished'", past=past)
