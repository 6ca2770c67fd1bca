"""One picture in the thread of its request: whatever breaks off leaves no hold, and its key may run again."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core import errors
from core.errors import VisionMeterError
from core.identity.tables import User
from core.inference.engine import Engine
from core.inference.images import DecodedImage, encode_png
from core.jobs.blobs import BlobStore
from core.ledger.tables import Account
from core.services import detect as detection
from core.services import run_image
from core.services.application import Application
from core.services.detect import Detected
from core.services.job_runner import sweep
from core.services.mirror import publish_balance, read_balance
from core.services.stages import Stages
from tests.core.services.helpers import MODEL, balance, change, lapse, pictures, quote, run
from tests.redis_server import PATIENCE_S, running_redis

CLIENTS = 6


@pytest.fixture
def ann(any_app: Application, sign_up: Callable[..., User], start_runner: Callable[[Application], Any]) -> User:
    """A customer with 20.000 tokens."""
    start_runner(any_app)
    return sign_up(any_app)


def detect(app: Application, user: User, seed: int, key: str | None = None) -> Detected:
    """One small picture at 320: 0.250 tokens."""
    data = pictures(1, seed=seed)["0.png"]
    return detection.detect(
        app, user, data, name="a.png", model=MODEL, img_size=320, key=key, request={"seed": seed}, stages=Stages()
    )


def test_portal_and_programs_share_what_was_paid(any_app: Application, ann: User) -> None:
    """What a batch paid for is free here, and what was paid here is free in a batch, with the same detections."""
    run(any_app, ann, pictures(1, seed=1))
    free = detect(any_app, ann, 1)
    assert (free.amount_mt, free.receipt_id) == (0, None)
    paid = detect(any_app, ann, 2)
    assert (paid.amount_mt, paid.balance.posted_mt, paid.balance.held_mt) == (250, 19_500, 0)
    assert quote(any_app, ann, pictures(1, seed=2)).total_mt == 0
    assert balance(any_app, ann) == (19_500, 0)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_broken_off_at_the_charge(
    any_app: Application, ann: User, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """A crash between the model and the charge: the hold goes back at once, and a new attempt is charged once."""

    def breaks(*_arguments: object) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(run_image, "_capture", breaks)
        with pytest.raises((VisionMeterError, KeyboardInterrupt)):
            detect(any_app, ann, 3, key="broken")
    assert balance(any_app, ann) == (20_000, 0)
    assert detect(any_app, ann, 3, key="new").amount_mt == 250
    assert balance(any_app, ann) == (19_750, 0)


def test_a_lost_process_gives_back(any_app: Application, ann: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after its hold: the sweep gives it back when the lease is over, and the same key runs again."""

    def lost(*_arguments: object, **_named: object) -> Any:
        raise SystemExit  # nothing after the hold happens, as after SIGKILL

    with monkeypatch.context() as patch:
        patch.setattr(detection, "_carry_out", lost)
        with pytest.raises(SystemExit):
            detect(any_app, ann, 4, key="lost")
    runner, any_app.hands.runner = any_app.hands.runner, None
    change(any_app, "UPDATE job SET runner = 'gone'")
    lapse(any_app)
    sweep(any_app)
    any_app.hands.runner = runner
    assert balance(any_app, ann) == (20_000, 0)
    again = detect(any_app, ann, 4, key="lost")
    assert (again.amount_mt, again.replayed) == (250, False)
    assert detect(any_app, ann, 4, key="lost").replayed
    assert balance(any_app, ann) == (19_750, 0)


def test_a_full_disk_takes_nothing(any_app: Application, ann: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the picture cannot be stored the hold goes back and the model never ran."""

    def full(*_arguments: object) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(BlobStore, "put", full)
        with pytest.raises(errors.InferenceError):
            detect(any_app, ann, 5)
    assert balance(any_app, ann) == (20_000, 0)


def test_the_payer_fails_and_another_pays(any_app: Application, ann: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several ask for one picture and the one that was to pay fails: one of the others pays, once."""
    submit, failures = Engine.submit, iter([True])

    def fails_once(self: Engine, *arguments: Any, **options: Any) -> Any:
        if next(failures, False):
            raise errors.InferenceError("The model failed on this image.")
        return submit(self, *arguments, **options)

    monkeypatch.setattr(Engine, "submit", fails_once)

    def attempt(_number: int) -> int | str:
        try:
            return detect(any_app, ann, 6).amount_mt
        except VisionMeterError as error:
            return error.code

    with ThreadPoolExecutor(CLIENTS) as pool:
        outcomes = list(pool.map(attempt, range(CLIENTS)))
    assert sorted(map(str, outcomes)) == ["0"] * (CLIENTS - 2) + ["250", "inference_failed"]
    assert balance(any_app, ann) == (19_750, 0)


def test_nobody_to_renew_its_lease(any_app: Application, sign_up: Callable[..., User]) -> None:
    """Without a runner, at the start and at the end of a process, nothing is held: 'restarting'."""
    user = sign_up(any_app, "bob@example.com")
    any_app.hands.runner = None
    with pytest.raises(errors.EngineStoppedError):
        detect(any_app, user, 7)
    assert balance(any_app, user) == (20_000, 0)


def test_a_viewer_spends_nothing(any_app: Application, ann: User) -> None:
    """The role is asked before the picture is looked at."""
    ann.role = "viewer"
    with pytest.raises(errors.RoleNeededError):
        detect(any_app, ann, 8)
    assert balance(any_app, ann) == (20_000, 0)


def test_the_price_that_cannot_be_paid(
    open_app: Callable[..., Application],
    sign_up: Callable[..., User],
    start_runner: Callable[[Application], Any],
    class_weights: Path,
    tmp_path: Path,
    bus: DecodedImage,
) -> None:
    """Refused early, because Redis says so, a class of an upright picture names the square's price as its quote does.

    α · 320² / 640² · 0.25, to three decimals: 0.063 tokens; letterboxed it would be 0.050.
    """
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "yolov8n-cls.pt").symlink_to(class_weights)
    with running_redis() as server:
        app = open_app(redis_url=server.url, weights_dir=folder, welcome_tokens=Decimal("0.010"))
        start_runner(app)
        user = sign_up(app)
        with app.db.read() as session:
            account = session.get_one(Account, user.account_id)
            version, available_mt = account.version, account.posted_mt - account.held_mt
        deadline = time.monotonic() + PATIENCE_S
        while read_balance(app.redis, user.account_id) is None:
            assert time.monotonic() < deadline
            publish_balance(app.redis, user.account_id, version, available_mt)
        with pytest.raises(errors.InsufficientTokensError) as caught:
            detection.detect(
                app, user, encode_png(bus.pixels), name="bus.png", model="yolov8n-cls", img_size=320, stages=Stages()
            )
    assert (caught.value.required_mt, caught.value.available_mt) == (63, 10)
