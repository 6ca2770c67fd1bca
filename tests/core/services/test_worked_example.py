"""The worked example, from signing up to a restart, with the balance asserted at every step."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from core.identity.tables import User
from core.ledger.verify import verify_ledger
from core.services import account_view, receipts, sign_in, top_up
from core.services.application import Application
from core.services.job_runner import JobRunner
from tests.conftest import PASSWORD, OpenApp
from tests.core.services.helpers import MODEL, balance, quote, statuses, submit, wait


def test_worked_example(
    open_app: OpenApp,
    database_url: str,
    weights_dir: Path,
    tmp_path: Path,
    photo_bytes: dict[str, bytes],
    sign_up: Callable[..., User],
) -> None:
    """Sign up 20.000 → redeem 100 → quote 1.350 → run → 118.650 → failing run, nothing taken → restart, the same."""
    own_weights = tmp_path / "weights"
    shutil.copytree(weights_dir, own_weights)
    app = open_app(database_url=database_url, weights_dir=own_weights)

    operator = sign_up(app, "operator@example.com")
    ann = sign_up(app, "ann@example.com")
    assert balance(app, ann) == (20_000, 0)

    (voucher,) = top_up.make_vouchers(app, operator, count=1, amount_mt=100_000)
    assert top_up.redeem_voucher(app, ann, voucher.code, idempotency_key="one") == 100_000
    assert balance(app, ann) == (120_000, 0)

    quoted = quote(app, ann, photo_bytes, 640)
    assert [(line["input_height"], line["input_width"], line["amount_mt"]) for line in quoted.lines] == [
        (640, 480, 750),
        (384, 640, 600),
    ]
    assert quoted.total_mt == 1350
    assert balance(app, ann) == (120_000, 0)

    job = submit(app, ann, quoted, photo_bytes)
    assert balance(app, ann) == (120_000, 1350)

    runner = JobRunner(app)
    runner.start()
    view = wait(app, ann, job)
    assert statuses(view) == ["charged", "charged"]
    assert balance(app, ann) == (118_650, 0)
    people = [account_view.get_detections(app, ann, image.charge_key) for image in view.images]
    assert [len(found.filter(confidence_min=0.5)) for found in people if found] == [4, 2]
    for image in view.images:
        receipt = receipts.find_receipt(app, ann, image.hold_id or "")
        assert receipt is not None
        assert receipt.agrees
        assert receipt.receipt.amount_mt == image.amount_mt
    runner.stop()

    # The failing run: the weights break after the price was shown and the amount held.
    quoted = quote(app, ann, photo_bytes, 320)
    job = submit(app, ann, quoted, photo_bytes)
    assert quoted.total_mt > 0
    assert balance(app, ann) == (118_650, quoted.total_mt)
    (own_weights / f"{MODEL}.pt").write_bytes(b"broken")
    runner = JobRunner(app)
    runner.start()
    view = wait(app, ann, job)
    runner.stop()
    assert statuses(view) == ["failed", "failed"]
    assert {image.error_code for image in view.images} == {"weights_refused"}
    assert view.progress.given_back_mt == quoted.total_mt
    assert balance(app, ann) == (118_650, 0)

    app.db.close()
    reopened: Application = open_app(database_url=database_url, weights_dir=own_weights)
    assert balance(reopened, ann) == (118_650, 0)
    assert balance(reopened, operator) == (20_000, 0)
    with reopened.db.read() as session:
        outcome = verify_ledger(session)
    assert (outcome.ok, outcome.ledger_sum_mt) == (True, 0)
    assert [entry.kind for entry in account_view.list_transactions(reopened, ann)][::-1] == [
        "top_up", "top_up", "hold", "hold", "capture", "capture", "hold", "hold", "release", "release",
    ]  # fmt: skip
    again = sign_in.open_session(reopened, sign_in.sign_in(reopened, "Ann@Example.com ", PASSWORD))
    user = sign_in.signed_in_user(reopened, again)
    assert user is not None
    assert user.id == ann.id
