"""Quote → hold → run → capture or give back, in every way that it can go."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlmodel import select

from core import errors
from core.identity.tables import User
from core.jobs.tables import JobImage, Result
from core.jobs.turns import Turns
from core.ledger.tables import Hold
from core.pricing.tables import Receipt
from core.services import account_view, receipts
from core.services.application import Application
from core.services.job_runner import JobRunner, cancel_job, sweep
from core.services.metered_detection import submit_quote
from core.services.quotes import prepare_image, quote_batch, quote_lines
from core.usage.tables import UsageRecord
from tests.conftest import OpenApp
from tests.core.services.helpers import (
    MODEL,
    balance,
    change,
    lapse,
    pictures,
    quote,
    run,
    statuses,
    submit,
    wait,
)

StartRunner = Callable[[Application], JobRunner]


@pytest.fixture
def ann(app: Application, sign_up: Callable[..., User]) -> User:
    """A customer with 20.000 tokens."""
    return sign_up(app)


def outcomes(app: Application) -> list[str]:
    """The outcomes of all usage records, oldest first."""
    with app.db.read() as session:
        return list(session.exec(select(UsageRecord.outcome).order_by(UsageRecord.created_at)).all())


def stored(app: Application, table: type) -> int:
    """How many rows a table has."""
    with app.db.read() as session:
        return len(session.exec(select(table)).all())


def blob_path(app: Application, user: User, file_sha256: str) -> Path:
    """Where an uploaded file lies."""
    return app.blobs.root / user.account_id / file_sha256[:2] / file_sha256


# Quotes --------------------------------------------------------------------------------------------


def test_a_quote_takes_nothing_and_names_its_price_version(app: Application, ann: User) -> None:
    """A preview holds nothing; its lines add up and carry all numbers of the formula."""
    quoted = quote(app, ann, pictures(3), 640)
    lines = quote_lines(quoted)
    assert [line.amount_mt for line in lines] == [1000] * 3
    assert quoted.total_mt == 3000
    assert {(line.input_height, line.input_width, line.beta) for line in lines} == {(640, 640, "1.0")}
    assert quoted.price_version == account_view.get_prices(app).version
    assert balance(app, ann) == (20_000, 0)


def test_limits_of_a_batch(open_app: OpenApp, sign_up: Callable[..., User]) -> None:
    """One image above the batch's limit, an odd size, an unknown and a missing model are refused by name."""
    app = open_app(batch_images_max=2)
    ann = sign_up(app)
    images = [prepare_image(app, name, data) for name, data in pictures(3).items()]
    assert quote_batch(app, ann, images[:2], model=MODEL, img_size=320).total_mt == 500
    for batch, model, img_size, error in (
        (images, MODEL, 320, errors.TooManyImagesError),
        (images[:1], MODEL, 321, errors.InvalidImageSizeError),
        (images[:1], MODEL, 352, errors.InvalidImageSizeError),
        (images[:1], "yolov99", 320, errors.ModelNotFoundError),
        (images[:1], "yolov8x", 320, errors.ModelNotReadyError),
    ):
        with pytest.raises(error):
            quote_batch(app, ann, batch, model=model, img_size=img_size)


def test_bad_files_leave_the_others(app: Application, ann: User, start_runner: StartRunner) -> None:
    """In a batch of good and bad files the bad ones are refused one by one and the good ones are served."""
    files = {
        "a.png": pictures(1)["0.png"],
        "empty.jpg": b"",
        "letter.jpg": b"Dear sir",
        "mislabelled.jpg": pictures(2)["1.png"],
    }
    good, refused = {}, {}
    for name, data in files.items():
        try:
            prepare_image(app, name, data)
            good[name] = data
        except errors.ImageRefusedError as error:
            refused[name] = error.code
    assert refused == {"empty.jpg": "image_empty", "letter.jpg": "image_unsupported"}
    start_runner(app)
    assert statuses(run(app, ann, good)) == ["charged", "charged"]
    assert balance(app, ann) == (19_500, 0)


def test_quote_of_another_account(app: Application, ann: User, sign_up: Callable[..., User]) -> None:
    """Nobody can run, or learn of, somebody else's quote and job."""
    bob = sign_up(app, "bob@example.com")
    files = pictures(1)
    quoted = quote(app, ann, files)
    with pytest.raises(errors.QuoteNotFoundError):
        submit(app, bob, quoted, files)
    job = submit(app, ann, quoted, files)
    with pytest.raises(errors.JobNotFoundError):
        account_view.get_job(app, bob, job.id)
    with pytest.raises(errors.JobNotFoundError):
        cancel_job(app, bob, job.id)
    assert balance(app, bob) == (20_000, 0)
    assert balance(app, ann) == (20_000, 250)


def test_other_files_than_quoted(app: Application, ann: User) -> None:
    """A missing file, and other bytes under a quoted file's name, are refused and nothing is held."""
    files = pictures(2)
    quoted = quote(app, ann, files)
    hashes = [line.file_sha256 for line in quote_lines(quoted)]
    with pytest.raises(errors.QuoteMismatchError):
        submit_quote(app, ann, quoted.id, {hashes[0]: files["0.png"]})
    with pytest.raises(errors.QuoteMismatchError):
        submit_quote(app, ann, quoted.id, {hashes[0]: files["0.png"], hashes[1]: files["0.png"]})
    assert balance(app, ann) == (20_000, 0)


def test_submitting_twice_gives_the_same_job(app: Application, ann: User) -> None:
    """Eight threads submitting one quote: one job, one hold an image."""
    files = pictures(2)
    quoted = quote(app, ann, files)
    barrier = threading.Barrier(8)

    def client(_number: int) -> str:
        barrier.wait()
        return submit(app, ann, quoted, files).id

    with ThreadPoolExecutor(8) as clients:
        assert len(set(clients.map(client, range(8)))) == 1
    assert stored(app, JobImage) == 2
    assert balance(app, ann) == (20_000, 500)


def test_insufficient_balance_holds_nothing(open_app: OpenApp, sign_up: Callable[..., User]) -> None:
    """A batch that costs more than there is holds nothing at all, not even its first images, and names the gap."""
    app = open_app(welcome_tokens="0.749")
    ann = sign_up(app)
    files = pictures(3)
    with pytest.raises(errors.InsufficientTokensError) as caught:
        submit(app, ann, quote(app, ann, files), files)
    assert (caught.value.required_mt, caught.value.available_mt, caught.value.missing_mt) == (750, 749, 1)
    assert stored(app, Hold) == stored(app, JobImage) == 0
    assert balance(app, ann) == (749, 0)
    two = dict(list(files.items())[:2])
    submit(app, ann, quote(app, ann, two), two)
    assert balance(app, ann) == (749, 500)


# Runs ----------------------------------------------------------------------------------------------


def test_same_work_is_not_paid_twice(app: Application, ann: User, start_runner: StartRunner) -> None:
    """The second preview of the same picture says free, also from another file format; another size is other work."""
    start_runner(app)
    files = pictures(1)
    first = run(app, ann, files)
    assert balance(app, ann) == (19_750, 0)
    again = quote(app, ann, files)
    assert (again.total_mt, quote_lines(again)[0].free_reason, quote_lines(again)[0].list_mt) == (0, "processed", 250)
    view = wait(app, ann, submit(app, ann, again, files))
    assert statuses(view) == ["free"]
    assert view.images[0].charge_key == first.images[0].charge_key
    assert balance(app, ann) == (19_750, 0)
    assert quote(app, ann, files, 640).total_mt == 1000
    assert outcomes(app) == ["charged", "free"]


def test_result_of_another_customer_is_not_free(
    app: Application, ann: User, sign_up: Callable[..., User], start_runner: StartRunner
) -> None:
    """Results belong to the account that paid for them."""
    start_runner(app)
    files = pictures(1)
    view = run(app, ann, files)
    bob = sign_up(app, "bob@example.com")
    assert quote(app, bob, files).total_mt == 250
    assert account_view.get_detections(app, bob, view.images[0].charge_key) is None
    assert receipts.find_receipt(app, bob, view.images[0].hold_id or "") is None


def test_duplicates_in_a_batch_cost_once(app: Application, ann: User, start_runner: StartRunner) -> None:
    """The same picture three times in a batch is charged once and answered three times."""
    start_runner(app)
    (data,) = pictures(1).values()
    files = {"a.png": data, "b.png": data, "c.png": data}
    quoted = quote(app, ann, files)
    assert [line.free_reason for line in quote_lines(quoted)] == [None, "duplicate", "duplicate"]
    view = wait(app, ann, submit(app, ann, quoted, files))
    assert statuses(view) == ["charged", "free", "free"]
    assert balance(app, ann) == (19_750, 0)


def test_two_jobs_with_the_same_picture_make_one_charge(app: Application, ann: User, start_runner: StartRunner) -> None:
    """Both quoted before either ran, submitted at once: one charge, one result, both answered."""
    files = pictures(3)
    quotes = [quote(app, ann, files), quote(app, ann, files)]
    assert [quoted.total_mt for quoted in quotes] == [750, 750]
    with ThreadPoolExecutor(2) as clients:
        both = list(clients.map(lambda quoted: submit(app, ann, quoted, files), quotes))
    assert balance(app, ann) == (20_000, 750)
    start_runner(app)
    ended = sorted(statuses(wait(app, ann, job)) for job in both)
    assert ended == [["charged"] * 3, ["free"] * 3]
    assert stored(app, Result) == stored(app, Receipt) == 3
    assert balance(app, ann) == (19_250, 0)


def test_receipts_recompute(app: Application, ann: User, start_runner: StartRunner) -> None:
    """Every receipt comes to its charge when computed afresh, and one that was edited does not."""
    start_runner(app)
    view = run(app, ann, {**pictures(2), "1x1.png": pictures(1, seed=9, side=1)["0.png"]}, 416)
    found = [receipts.find_receipt(app, ann, image.hold_id or "") for image in view.images]
    assert [receipt.recomputed_mt for receipt in found if receipt] == [423, 423, 10]
    assert all(receipt is not None and receipt.agrees for receipt in found)
    change(app, "UPDATE receipt SET amount_mt = amount_mt + 1 WHERE image_name = '0.png'")
    edited = receipts.find_receipt(app, ann, view.images[0].hold_id or "")
    assert edited is not None
    assert not edited.agrees


def test_price_change_between_quote_and_run(app: Application, ann: User, start_runner: StartRunner) -> None:
    """A quote binds: a price book adopted after it changes nothing for it, and its receipt names the old version."""
    from decimal import Decimal

    from core.pricing.book import Prices, adopt_book

    files = pictures(1)
    quoted = quote(app, ann, files)
    with app.db.write() as session:
        adopt_book(session, Prices("2999-01-1", Decimal(9), Decimal("0.010"), {MODEL: Decimal(9)}))
    start_runner(app)
    view = wait(app, ann, submit(app, ann, quoted, files))
    receipt = receipts.find_receipt(app, ann, view.images[0].hold_id or "")
    assert receipt is not None
    assert receipt.agrees
    assert receipt.receipt.price_version == quoted.price_version != "2999-01-1"
    assert balance(app, ann) == (19_750, 0)


# Failures ------------------------------------------------------------------------------------------


def test_lost_file_fails_alone(app: Application, ann: User, start_runner: StartRunner) -> None:
    """A stored picture that vanished fails and is given back; the others of the batch are charged."""
    files = pictures(3)
    job = submit(app, ann, quote(app, ann, files), files)
    view = account_view.get_job(app, ann, job.id)
    blob_path(app, ann, view.images[1].file_sha256).unlink()
    start_runner(app)
    view = wait(app, ann, job)
    assert statuses(view) == ["charged", "failed", "charged"]
    assert view.images[1].error_code == "inference_failed"
    assert balance(app, ann) == (19_500, 0)
    assert (view.progress.charged_mt, view.progress.given_back_mt) == (500, 250)
    assert sorted(outcomes(app)) == ["charged", "charged", "failed"]


def test_duplicate_of_a_failed_picture_is_not_charged(app: Application, ann: User, start_runner: StartRunner) -> None:
    """When the paying image fails, its duplicate says so, nothing is taken, and a new run can pay for it."""
    (data,) = pictures(1).values()
    files = {"a.png": data, "b.png": data}
    job = submit(app, ann, quote(app, ann, files), files)
    blob_path(app, ann, account_view.get_job(app, ann, job.id).images[0].file_sha256).unlink()
    start_runner(app)
    view = wait(app, ann, job)
    assert [(image.status, image.error_code) for image in view.images] == [
        ("failed", "inference_failed"),
        ("failed", "first_attempt_failed"),
    ]
    assert balance(app, ann) == (20_000, 0)
    assert statuses(run(app, ann, files)) == ["charged", "free"]
    assert balance(app, ann) == (19_750, 0)


def test_stopped_engine_gives_back(open_app: OpenApp, sign_up: Callable[..., User], start_runner: StartRunner) -> None:
    """An engine that refuses every image: all holds are released and the rows say why."""
    app = open_app(own_engine=True)
    app.engine.stop()
    ann = sign_up(app)
    start_runner(app)
    view = run(app, ann, pictures(2))
    assert [(image.status, image.error_code) for image in view.images] == [("failed", "engine_stopped")] * 2
    assert balance(app, ann) == (20_000, 0)


def test_time_out_gives_back(open_app: OpenApp, sign_up: Callable[..., User], start_runner: StartRunner) -> None:
    """An image that takes longer than allowed is given back, and no result is stored."""
    app = open_app(image_timeout_s=0.001)
    ann = sign_up(app)
    start_runner(app)
    view = run(app, ann, pictures(1))
    assert [(image.status, image.error_code) for image in view.images] == [("failed", "inference_failed")]
    assert stored(app, Result) == 0
    assert balance(app, ann) == (20_000, 0)


def test_swapped_quote_size_is_not_charged(app: Application, ann: User, start_runner: StartRunner) -> None:
    """When the network computed another H × W than was quoted, nothing is taken."""
    files = pictures(1)
    quoted = quote(app, ann, files)
    job = submit(app, ann, quoted, files)
    change(app, "UPDATE job SET img_size = 416")
    start_runner(app)
    view = wait(app, ann, job)
    assert [(image.status, image.error_code) for image in view.images] == [("failed", "inference_failed")]
    assert balance(app, ann) == (20_000, 0)
    assert stored(app, Result) == 0


def test_cancel_gives_back_what_has_not_started(app: Application, ann: User) -> None:
    """Cancelling before any image ran gives back everything at once, and a second cancel nothing."""
    files = pictures(4)
    job = submit(app, ann, quote(app, ann, files), files)
    assert balance(app, ann) == (20_000, 1000)
    assert cancel_job(app, ann, job.id) == 1000
    view = account_view.get_job(app, ann, job.id)
    assert (view.job.status, statuses(view)) == ("finished", ["cancelled"] * 4)
    assert balance(app, ann) == (20_000, 0)
    assert cancel_job(app, ann, job.id) == 0
    assert outcomes(app) == ["cancelled"] * 4


def test_cancel_in_the_middle(app: Application, ann: User, start_runner: StartRunner) -> None:
    """Cancelling a run under way: what was charged stays charged with its result, the rest is back, the sum exact."""
    files = pictures(40)
    job = submit(app, ann, quote(app, ann, files), files)
    start_runner(app)
    while account_view.get_job(app, ann, job.id).progress.counts.get("charged", 0) < 3:
        pass
    cancel_job(app, ann, job.id)
    view = wait(app, ann, job)
    ended = statuses(view)
    assert set(ended) == {"charged", "cancelled"}
    assert ended.count("cancelled") > 10
    assert balance(app, ann) == (20_000 - 238 * ended.count("charged"), 0)  # 0.250 less 5 %
    assert stored(app, Result) == ended.count("charged")


def test_sweeper_gives_back_a_lapsed_job(app: Application, ann: User, start_runner: StartRunner) -> None:
    """A job whose runner was lost is closed and given back by the sweep, not before its lease ran out, and once."""
    files = pictures(2)
    job = submit(app, ann, quote(app, ann, files), files)
    assert sweep(app) == 0
    assert balance(app, ann) == (20_000, 500)
    lapse(app)
    assert sweep(app) == 2
    assert sweep(app) == 0
    view = account_view.get_job(app, ann, job.id)
    assert (view.job.status, statuses(view)) == ("finished", ["interrupted"] * 2)
    assert balance(app, ann) == (20_000, 0)
    start_runner(app)
    assert statuses(run(app, ann, files)) == ["charged"] * 2
    assert balance(app, ann) == (19_500, 0)


def test_lease_lost_while_the_model_ran(app: Application, ann: User) -> None:
    """A hold that expired before its capture: no charge, no result, no receipt, and the image says interrupted."""
    from core.jobs import jobs
    from core.ledger import ledger
    from core.services.run_image import run_image

    files = pictures(1)
    submit(app, ann, quote(app, ann, files), files)
    with app.db.write() as session:
        jobs.adopt_queued_jobs(session, "me", lease_s=60)
        claimed = jobs.claim_image(session, "me", Turns(8))
    assert claimed is not None
    change(app, "UPDATE hold SET expires_at = '2001-01-01 00:00:00.000000'")
    with app.db.write() as session:
        assert len(ledger.expire_holds(session, ann.account_id)) == 1
    run_image(app, *claimed)
    assert outcomes(app) == ["interrupted"]
    assert stored(app, Result) == stored(app, Receipt) == 0
    assert balance(app, ann) == (20_000, 0)


def test_stopping_a_runner_gives_back_the_rest(app: Application, ann: User) -> None:
    """An orderly stop finishes the images in hand and gives back the others at once."""
    files = pictures(40)
    job = submit(app, ann, quote(app, ann, files), files)
    runner = JobRunner(app)
    runner.start()
    while account_view.get_job(app, ann, job.id).progress.counts.get("charged", 0) < 2:
        pass
    runner.stop()
    view = account_view.get_job(app, ann, job.id)
    ended = statuses(view)
    assert view.job.status == "finished"
    assert set(ended) == {"charged", "interrupted"}
    assert balance(app, ann) == (20_000 - 238 * ended.count("charged"), 0)  # 0.250 less 5 %


def test_jobs_take_turns(open_app: OpenApp, sign_up: Callable[..., User], start_runner: StartRunner) -> None:
    """A single picture does not wait for the whole of a large batch that came before it."""
    app = open_app(runner_threads=1)
    ann, bob = sign_up(app, "ann@example.com"), sign_up(app, "bob@example.com")
    many, one = pictures(30), pictures(1, seed=5)
    large = submit(app, ann, quote(app, ann, many), many)
    small = submit(app, bob, quote(app, bob, one), one)
    start_runner(app)
    wait(app, bob, small)
    assert account_view.get_job(app, ann, large.id).progress.done < 10
    assert statuses(wait(app, ann, large)) == ["charged"] * 30


def test_accounts_take_turns(open_app: OpenApp, sign_up: Callable[..., User], start_runner: StartRunner) -> None:
    """Thirty jobs of one picture each are one customer: another's single picture does not wait for them."""
    app = open_app(runner_threads=1)
    ann, bob = sign_up(app, "ann@example.com"), sign_up(app, "bob@example.com")
    many, one = pictures(30), pictures(1, seed=5)
    alone = [{name: data} for name, data in many.items()]
    mine = [submit(app, ann, quote(app, ann, files), files) for files in alone]
    small = submit(app, bob, quote(app, bob, one), one)
    start_runner(app)
    wait(app, bob, small)
    assert sum(account_view.get_job(app, ann, job.id).progress.done for job in mine) < 10
    assert [statuses(wait(app, ann, job)) for job in mine] == [["charged"]] * 30


def test_two_runners_share_without_double_work(app: Application, ann: User, start_runner: StartRunner) -> None:
    """Two runners on one database: every image runs once and is charged once."""
    start_runner(app)
    start_runner(app)
    views = []
    for seed in range(3):
        files = pictures(5, seed=seed)
        views.append(wait(app, ann, submit(app, ann, quote(app, ann, files), files)))
    assert [statuses(view) for view in views] == [["charged"] * 5] * 3
    assert balance(app, ann) == (20_000 - 15 * 250, 0)
    assert stored(app, UsageRecord) == stored(app, Result) == 15


def test_a_job_that_waits_longer_than_its_lease_is_served(
    open_app: OpenApp, sign_up: Callable[..., User], start_runner: StartRunner
) -> None:
    """While the only runner thread waits for a busy engine, a second job is not given up when its lease passes."""
    app = open_app(own_engine=True, runner_threads=1, hold_lease_s=5)
    ann = sign_up(app)
    start_runner(app)  # the engine is not started yet, so the first image waits in its queue
    first = pictures(1, seed=1)
    one = submit(app, ann, quote(app, ann, first), first)
    while account_view.get_job(app, ann, one.id).progress.counts.get("running", 0) == 0:
        pass
    second = pictures(1, seed=2)
    two = submit(app, ann, quote(app, ann, second), second)
    threading.Event().wait(7)
    app.engine.start()
    try:
        assert statuses(wait(app, ann, one)) == ["charged"]
        assert statuses(wait(app, ann, two)) == ["charged"]
    finally:
        app.engine.stop()


def test_a_late_result_gives_back_what_the_price_book_promises(
    app: Application, ann: User, start_runner: StartRunner
) -> None:
    """250 charged and half of it refunded by the rule, in one step, with the reason; one in time pays in full."""
    from dataclasses import replace
    from decimal import Decimal

    from core.ledger.tables import Entry
    from core.pricing.book import adopt_book, current_prices
    from core.pricing.refund_rules import LateRule

    with app.db.write() as session:
        adopt_book(session, replace(current_prices(session), version="9999", late_rules=(LateRule(60, Decimal(50)),)))
    late, in_time = pictures(1, seed=1), pictures(1, seed=2)
    job = submit(app, ann, quote(app, ann, late), late)
    change(app, "UPDATE job SET created_at = '2026-01-01 00:00:00.000000'")
    start_runner(app)
    wait(app, ann, job)
    run(app, ann, in_time)
    assert balance(app, ann) == (20_000 - 125 - 250, 0)
    with app.db.read() as session:
        (refund,) = session.exec(select(Entry).where(Entry.kind == "refund")).all()
    assert (refund.amount_mt, refund.actor) == (125, "rule:late")
    assert refund.memo.startswith("late: ")
