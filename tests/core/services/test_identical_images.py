"""A hundred clients of one customer with the same picture at the same moment: one charge, one result for all."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlmodel import select

from core.db import new_id
from core.identity.tables import User
from core.inference.images import DecodedImage
from core.jobs.tables import Job, Result
from core.ledger import ledger
from core.ledger.tables import Entry, Hold
from core.pricing.tables import Receipt
from core.services import account_view, metered_detection
from core.services.application import Application
from core.services.job_runner import JobRunner
from core.usage.tables import UsageRecord
from tests.conftest import OpenApp
from tests.core.services.helpers import MODEL, balance, quote, statuses, submit, wait

CLIENTS = 100
IMG_SIZE_PX = 320
PRICE_MT = 200  # 810 × 1080 runs as 256 × 320


def submit_at_once(app: Application, user: User, picture: bytes) -> list[Job]:
    """Every client gets a quote of its own, at the full price, and all submit theirs at the same moment."""
    ready = threading.Barrier(CLIENTS, timeout=120)
    files = {"bus.jpg": picture}

    def client(_number: int) -> Job:
        quoted = quote(app, user, files, IMG_SIZE_PX)
        ready.wait()
        assert quoted.total_mt == PRICE_MT
        return submit(app, user, quoted, files)

    with ThreadPoolExecutor(CLIENTS) as clients:
        return list(clients.map(client, range(CLIENTS)))


@pytest.mark.parametrize("runner_waits", [True, False], ids=["runner waits", "jobs wait"])
def test_a_hundred_identical_images_make_one_charge(
    open_app: OpenApp,
    database_url: str,
    sign_up: Callable[..., User],
    start_runner: Callable[[Application], JobRunner],
    photo_bytes: dict[str, bytes],
    bus: DecodedImage,
    runner_waits: bool,
) -> None:
    """With money for one: nobody is refused, one is charged, 99 are free, all get one result, nothing is held."""
    app = open_app(database_url=database_url, welcome_tokens="0.2")
    ann = sign_up(app)
    if runner_waits:
        start_runner(app)
    submitted = submit_at_once(app, ann, photo_bytes["bus.jpg"])
    if not runner_waits:
        assert balance(app, ann) == (PRICE_MT, PRICE_MT)
        start_runner(app)
    views = [wait(app, ann, job) for job in submitted]
    assert Counter(status for view in views for status in statuses(view)) == {"charged": 1, "free": CLIENTS - 1}
    assert balance(app, ann) == (0, 0)

    answers = [account_view.get_detections(app, ann, view.images[0].charge_key) for view in views]
    with app.db.read() as session:
        (result,) = session.exec(select(Result)).all()
        (hold,) = session.exec(select(Hold)).all()
        (receipt,) = session.exec(select(Receipt)).all()
        captured = session.exec(select(Entry.hold_id, Entry.amount_mt).where(Entry.kind == "capture")).all()
        used = Counter(session.exec(select(UsageRecord.outcome, UsageRecord.amount_mt)).all())
    assert captured == [(hold.id, PRICE_MT)]
    assert (hold.status, receipt.hold_id) == ("captured", hold.id)
    assert used == {("charged", PRICE_MT): 1, ("free", 0): CLIENTS - 1}
    assert all(answer is not None and answer.to_json() == result.detections for answer in answers)
    fresh = app.engine.submit(bus.pixels, app.registry.resolve(MODEL), metered_detection.detect_params(IMG_SIZE_PX))
    assert result.detections == fresh.result(60).detections.to_json() != []


def test_negative_control_without_the_charge_key_everybody_pays(
    open_app: OpenApp,
    database_url: str,
    sign_up: Callable[..., User],
    monkeypatch: pytest.MonkeyPatch,
    photo_bytes: dict[str, bytes],
) -> None:
    """Holds that do not say which work they pay for: the same harness finds a hundred of them."""
    app = open_app(database_url=database_url, welcome_tokens="100")
    ann = sign_up(app)
    place_hold = ledger.place_hold

    def place_naively(*arguments: Any, charge_key: str, **more: Any) -> Hold:
        return place_hold(*arguments, charge_key=new_id("work"), **more)

    monkeypatch.setattr(metered_detection.ledger, "place_hold", place_naively)
    submit_at_once(app, ann, photo_bytes["bus.jpg"])
    assert balance(app, ann)[1] == CLIENTS * PRICE_MT
