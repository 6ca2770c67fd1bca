"""Advice is made of ordinary runs: quoted, held together, charged once; and it says what their results say."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlmodel import func, select

from core import errors
from core.db import new_row
from core.identity.tables import User
from core.inference.detections import Detections
from core.inference.images import Pixels
from core.inference.replicas import Replica
from core.jobs.blobs import hash_bytes
from core.jobs.jobs import Progress
from core.jobs.tables import Advice, Job
from core.pricing.book import adopt_book, current_prices
from core.services import account_view, limits, receipts
from core.services.advice_verdict import AdviceView, Answer, Measured, compare_advice, judge
from core.services.advisor import (
    AdvicePlan,
    cancel_advice,
    choose_sample,
    find_open_advice,
    get_advice,
    list_advices,
    list_alternatives,
    list_cheaper,
    plan_advice,
    start_advice,
    suggest,
)
from core.services.application import Application
from core.services.budget import Combination
from core.services.job_runner import JobRunner
from core.services.metered_detection import find_obstacle, submit_quote
from core.services.quotes import PreparedImage, prepare_image, quote_batch, quote_lines
from tests.conftest import OpenApp
from tests.core.services.helpers import MODEL, balance, change, pictures
from tests.other_weights import make_other_weights

StartRunner = Callable[[Application], JobRunner]
LARGE, SMALL = "yolov8s", "yolov8n"
REFERENCE = Combination(LARGE, "YOLOv8s", 640, None)
OTHERS = [Combination(SMALL, "YOLOv8n", 640, None), Combination(SMALL, "YOLOv8n", 320, None)]


@pytest.fixture(scope="session")
def two_models(weights_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where two models of the catalogue have weights that find people, each a little differently."""
    folder = tmp_path_factory.mktemp("two_models")
    shutil.copy(weights_dir / f"{MODEL}.pt", folder)
    for seed, name in enumerate((LARGE, SMALL)):
        make_other_weights(folder / f"{MODEL}.pt", folder / f"{name}.pt", seed=seed)
    return folder


@pytest.fixture
def app(open_app: OpenApp, two_models: Path, database_url: str) -> Application:
    """An application with both models on each kind of database."""
    return open_app(weights_dir=two_models, database_url=database_url)


@pytest.fixture
def ann(app: Application, sign_up: Callable[..., User]) -> User:
    """A customer with 20.000 tokens."""
    return sign_up(app)


def prepared(app: Application, files: dict[str, bytes]) -> list[PreparedImage]:
    """The pictures of files."""
    return [prepare_image(app, name, data) for name, data in files.items()]


def plan(app: Application, user: User, files: dict[str, bytes]) -> AdvicePlan:
    """The usual plan for these files."""
    return plan_advice(app, user, prepared(app, files), REFERENCE, OTHERS)


def start(app: Application, user: User, planned: AdvicePlan, files: dict[str, bytes]) -> str:
    """Start a plan with its files."""
    return start_advice(
        app, user, [quote.id for quote in planned.quotes], {hash_bytes(data): data for data in files.values()}
    )


def finish(app: Application, user: User, advice_id: str) -> AdviceView:
    """The advice when it is finished."""
    deadline = time.monotonic() + 60
    while not (view := get_advice(app, user, advice_id)).is_finished:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return view


def count_jobs(app: Application) -> int:
    """How many runs are stored."""
    with app.db.read() as session:
        return session.exec(select(func.count()).select_from(Job)).one()


# The runs ------------------------------------------------------------------------------------------


def test_a_whole_advice(app: Application, ann: User, start_runner: StartRunner, photo_bytes: dict[str, bytes]) -> None:
    """Priced by ordinary quotes, charged by ordinary receipts, compared from stored results, and free the next time."""
    start_runner(app)
    planned = plan(app, ann, photo_bytes)
    asked = [
        quote_batch(app, ann, prepared(app, photo_bytes), model=one.model, img_size=one.img_size).total_mt
        for one in (REFERENCE, *OTHERS)
    ]
    assert asked == [1350, 945, 245]
    assert ([quote.total_mt for quote in planned.quotes], planned.total_mt) == (asked, sum(asked))
    assert balance(app, ann) == (20_000, 0), "a plan holds nothing"
    view = finish(app, ann, start(app, ann, planned, photo_bytes))
    assert balance(app, ann) == (20_000 - sum(asked), 0)
    for run in view.runs:
        for image in run.images:
            receipt = receipts.find_receipt(app, ann, image.hold_id or "")
            assert receipt is not None
            assert receipt.agrees
    near, far = compare_advice(view, confidence_min=0.25)
    assert (near.pictures, near.saving_percent, far.saving_percent) == (2, Decimal("30.0"), Decimal("81.8"))
    assert (
        near.objects
        == far.objects
        == sum(len(one.filter(confidence_min=0.25)) for one in view.reference.found.values())
    )
    assert near.found > far.found / 2
    for compared in (near, far):
        assert compared.found + sum(compared.missed.values()) == compared.objects
        other = sum(len(one.filter(confidence_min=0.25)) for one in compared.measured.found.values())
        assert compared.found + compared.extra == other
    assert compare_advice(view, confidence_min=0.05)[0].objects > near.objects
    assert plan(app, ann, photo_bytes).total_mt == 0
    again = finish(app, ann, start(app, ann, plan(app, ann, photo_bytes), photo_bytes))
    assert balance(app, ann) == (20_000 - sum(asked), 0)
    assert [one.found for one in compare_advice(again, confidence_min=0.25)] == [near.found, far.found]


def test_the_same_model_at_the_same_size_loses_nothing(
    app: Application, ann: User, start_runner: StartRunner, photo_bytes: dict[str, bytes]
) -> None:
    """Control: what is compared with itself finds everything and nothing else."""
    start_runner(app)
    planned = plan_advice(app, ann, prepared(app, photo_bytes), REFERENCE, [REFERENCE])
    (itself,) = compare_advice(finish(app, ann, start(app, ann, planned, photo_bytes)), confidence_min=0.25)
    assert (itself.found, itself.extra, dict(itself.missed)) == (itself.objects, 0, {})
    assert itself.objects >= 4
    assert balance(app, ann) == (20_000 - planned.quotes[0].total_mt, 0), "the same work is paid once"


def test_all_runs_or_none(app: Application, ann: User) -> None:
    """Too little for all of them: one number is named, nothing is held, no run and no picture is left."""
    files = pictures(3)
    planned = plan(app, ann, files)
    change(app, "UPDATE account SET held_mt = posted_mt - :left", left=planned.total_mt - 1)
    found = find_obstacle(app, ann, *planned.quotes)
    assert isinstance(found, errors.InsufficientTokensError)
    assert found.missing_mt == 1
    with pytest.raises(errors.InsufficientTokensError) as caught:
        start(app, ann, planned, files)
    assert caught.value.missing_mt == 1
    assert count_jobs(app) == 0
    assert not app.blobs.path(ann.account_id, hash_bytes(files["0.png"])).exists()
    change(app, "UPDATE account SET held_mt = 0")
    assert balance(app, ann) == (20_000, 0)


def test_caps_and_frozen_accounts_stop_an_advice(app: Application, ann: User) -> None:
    """The caps hold for all runs together; who is frozen starts none."""
    files = pictures(2)
    planned = plan(app, ann, files)
    limits.set_limits(app, ann, day_cap_mt=planned.total_mt - 1, month_cap_mt=None, alert_below_mt=None)
    assert isinstance(find_obstacle(app, ann, *planned.quotes), errors.SpendingCapError)
    with pytest.raises(errors.SpendingCapError):
        start(app, ann, planned, files)
    limits.set_limits(app, ann, day_cap_mt=None, month_cap_mt=None, alert_below_mt=None)
    change(app, "UPDATE account SET status = 'frozen'")
    assert isinstance(find_obstacle(app, ann, *planned.quotes), errors.AccountNotActiveError)
    with pytest.raises(errors.AccountNotActiveError):
        start(app, ann, planned, files)
    change(app, "UPDATE account SET status = 'active'")
    assert (count_jobs(app), balance(app, ann)) == (0, (20_000, 0))


def test_eight_clicks_start_it_once(app: Application, ann: User) -> None:
    """At the same moment: one advice, three runs, held once."""
    files = pictures(2)
    planned = plan(app, ann, files)
    with ThreadPoolExecutor(8) as clicks:
        found = set(clicks.map(lambda _n: start(app, ann, planned, files), range(8)))
    assert len(found) == 1
    assert count_jobs(app) == 3
    assert balance(app, ann) == (20_000, planned.total_mt)


def test_expired_quotes_run_only_when_they_did_not_grow(app: Application, ann: User) -> None:
    """A dearer sum is asked for first; a cheaper or equal one runs."""
    files = pictures(2)
    planned = plan(app, ann, files)
    change(app, "UPDATE quote SET expires_at = '2001-01-01 00:00:00.000000'")
    for version, beta in (("9999-1", "1.1"), ("9999-2", "1.0")):
        with app.db.write() as session:
            prices = current_prices(session)
            adopt_book(session, replace(prices, version=version, betas={**prices.betas, LARGE: Decimal(beta)}))
        if beta == "1.1":
            with pytest.raises(errors.QuoteGrewError) as caught:
                start(app, ann, planned, files)
            assert caught.value.details["previous_mt"] == planned.total_mt
            assert balance(app, ann) == (20_000, 0)
    advice_id = start(app, ann, planned, files)
    assert start(app, ann, planned, files) == advice_id
    assert balance(app, ann) == (20_000, planned.total_mt)


def test_a_run_of_its_quote_before_is_taken_into_the_advice(app: Application, ann: User) -> None:
    """A quote runs once, whoever starts it: it is not held for a second time."""
    files = pictures(2)
    planned = plan(app, ann, files)
    job = submit_quote(app, ann, planned.quotes[1].id, {hash_bytes(data): data for data in files.values()})
    view = get_advice(app, ann, start(app, ann, planned, files))
    assert view.others[0].job.id == job.id
    assert balance(app, ann) == (20_000, planned.total_mt)


def test_what_failed_is_given_back_and_not_compared(
    app: Application, ann: User, start_runner: StartRunner, photo_bytes: dict[str, bytes]
) -> None:
    """One picture fails in one run: the comparison rests on the other, and only what gave a result was charged."""
    start_runner(app)
    planned = plan(app, ann, photo_bytes)
    with failing_on((320, 192)):
        view = finish(app, ann, start(app, ann, planned, photo_bytes))
    near, far = compare_advice(view, confidence_min=0.25)
    assert (near.pictures, far.pictures, view.pictures) == (2, 1, 2)
    failed_mt = quote_lines(planned.quotes[2])[1].amount_mt
    assert balance(app, ann) == (20_000 - planned.total_mt + failed_mt, 0)
    assert far.measured.progress.given_back_mt == failed_mt


def test_an_advice_is_its_accounts_and_outlives_the_process(
    app: Application, open_app: OpenApp, two_models: Path, ann: User, sign_up: Callable[..., User], database_url: str
) -> None:
    """Nobody else sees it or starts his quotes; another process on the same database does see it."""
    files = pictures(2)
    planned = plan(app, ann, files)
    bob = sign_up(app, "bob@example.com")
    with pytest.raises(errors.QuoteNotFoundError):
        start(app, bob, planned, files)
    advice_id = start(app, ann, planned, files)
    with pytest.raises(errors.JobNotFoundError):
        get_advice(app, bob, advice_id)
    assert list_advices(app, bob, limit=5) == []
    other = open_app(weights_dir=two_models, database_url=database_url)
    (line,) = list_advices(other, ann, limit=5)
    assert (line.advice.id, line.runs, line.pictures) == (advice_id, 3, 2)
    assert (find_open_advice(other, ann), find_open_advice(other, bob)) == (advice_id, None)
    assert [run.combination for run in get_advice(other, ann, advice_id).runs] == [REFERENCE, *OTHERS]
    assert account_view.list_jobs(app, ann) == [], "its runs are shown together, by it"


def test_cancelling_gives_all_back(app: Application, ann: User, sign_up: Callable[..., User]) -> None:
    """What has not started costs nothing; nobody else cancels it."""
    files = pictures(2)
    planned = plan(app, ann, files)
    advice_id = start(app, ann, planned, files)
    with pytest.raises(errors.JobNotFoundError):
        cancel_advice(app, sign_up(app, "bob@example.com"), advice_id)
    assert cancel_advice(app, ann, advice_id) == planned.total_mt
    assert balance(app, ann) == (20_000, 0)
    assert get_advice(app, ann, advice_id).is_finished
    assert find_open_advice(app, ann) is None


def test_other_pictures_than_planned(app: Application, ann: User) -> None:
    """A missing file, or quotes of different pictures: nothing is held."""
    files = pictures(2)
    planned = plan(app, ann, files)
    with pytest.raises(errors.QuoteMismatchError):
        start(app, ann, planned, pictures(2, seed=7))
    strange = plan(app, ann, pictures(2, seed=7)).quotes[0]
    with pytest.raises(errors.QuoteMismatchError):
        start(app, ann, AdvicePlan((*planned.quotes, strange)), files)
    assert (count_jobs(app), balance(app, ann)) == (0, (20_000, 0))


@contextmanager
def failing_on(shape: tuple[int, int]) -> Iterator[None]:
    """The network raises for inputs of one shape, `(width, height)`, while the block lasts."""
    forward = Replica.forward

    def fail_or_run(self: Replica, padded: list[Pixels]) -> Any:
        if any(one.shape[:2] == shape[::-1] for one in padded):
            raise RuntimeError("an illegal memory access was encountered")
        return forward(self, padded)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Replica, "forward", fail_or_run)
        yield


# What is compared ----------------------------------------------------------------------------------


def test_alternatives_find_the_same_classes(app: Application, ann: User) -> None:
    """Models of other classes are no alternative; without pictures larger than a tile there are no tiles."""
    images = prepared(app, pictures(2))
    alternatives = list_alternatives(app, ann, images, model=LARGE, tile_px=640)
    assert {one.combination.model for one in alternatives} == {LARGE, SMALL}
    assert {one.combination.tile_px for one in alternatives} == {None}
    assert [one.work_mt for one in alternatives] == sorted((one.work_mt for one in alternatives), reverse=True)
    assert {one.combination.model for one in list_alternatives(app, ann, images, model=MODEL, tile_px=None)} == {MODEL}
    cheaper = list_cheaper(alternatives, REFERENCE)
    assert all(one.work_mt < 2_000 for one in cheaper)
    suggested = suggest(alternatives, REFERENCE)
    assert suggested[0] == Combination(SMALL, "YOLOv8n", 640, None)
    assert len(suggested) == len(set(suggested)) == 5
    smallest = alternatives[-1].combination
    assert suggest(alternatives, smallest) == []


def test_tiles_are_alternatives_where_a_picture_is_larger(
    app: Application, ann: User, photo_bytes: dict[str, bytes]
) -> None:
    """With a tile size chosen, each size is offered with it and without."""
    alternatives = list_alternatives(app, ann, prepared(app, photo_bytes), model=MODEL, tile_px=512)
    assert {one.combination.tile_px for one in alternatives} == {None, 512}


def test_a_sample_is_spread_and_has_no_picture_twice() -> None:
    """Of ten pictures and a duplicate of each three are taken, from beginning, middle and end."""
    images = [PreparedImage(f"{n}.png", str(n), str(n // 2), 64, 64) for n in range(20)]
    assert [one.image_sha256 for one in choose_sample(images, 3)] == ["0", "3", "6"]
    assert len(choose_sample(images, 99)) == 10
    assert choose_sample([], 3) == []


@pytest.mark.parametrize("count", [0, 13])
def test_a_plan_has_some_others_and_not_too_many(app: Application, ann: User, count: int) -> None:
    """None or thirteen are refused."""
    with pytest.raises(ValueError, match="1 to 12 others"):
        plan_advice(app, ann, prepared(app, pictures(1)), REFERENCE, OTHERS[:1] * count)


# What is said --------------------------------------------------------------------------------------


def people(*places: int, classes: int = 0, confidence: float = 0.9) -> Detections:
    """Objects at some places, of a class."""
    return Detections(
        np.array([[10 * x, 0, 10 * x + 9, 9] for x in places], dtype=np.float32).reshape(-1, 4),
        np.full(len(places), confidence, dtype=np.float32),
        np.full(len(places), classes, dtype=np.int64),
        {0: "person", 1: "dog"},
    )


def measured(img_size: int, work_mt: int, *found: Detections | None) -> Measured:
    """A run that found this on the pictures 0, 1, …; None where it failed."""
    return Measured(
        Combination("yolov8n", "YOLOv8n", img_size, None),
        new_row(Job, account_id="a", quote_id="q", actor="u", model="m", model_version="v", img_size=img_size),
        Progress(len(found), {}, 0, 0, 0),
        [],
        work_mt,
        {str(number): one for number, one in enumerate(found) if one is not None},
    )


def verdict(reference: Measured, *others: Measured, confidence_min: float = 0.25):
    """What the advisor says of these runs."""
    view = AdviceView(new_row(Advice, account_id="a", actor="u"), reference, others)
    return judge(compare_advice(view, confidence_min=confidence_min))


def test_the_cheapest_that_loses_nothing_is_best() -> None:
    """Two lose nothing, and the cheaper one of them is named; a still cheaper one loses something."""
    told = verdict(
        measured(640, 1000, people(0, 1)),
        measured(512, 700, people(0, 1)),
        measured(416, 451, people(1, 0)),
        measured(320, 250, people(0)),
    )
    assert (told.answer, told.best.measured.combination.img_size) == (Answer.SAME, 416)
    assert told.best.saving_percent == Decimal("54.9"), "rounded down, never in our favour"


def test_the_one_that_agrees_most_is_named_where_all_lose() -> None:
    """Missing objects are counted by class; of two that agree alike the cheaper one is named."""
    reference = measured(640, 1000, people(0, 1, 2), people(5, classes=1))
    told = verdict(
        reference,
        measured(512, 700, people(0, 1), people()),
        measured(416, 450, people(0, 1), people(5, classes=1)),
        measured(320, 250, people(0, 2), people(5, classes=1)),
    )
    assert (told.answer, told.best.measured.combination.img_size) == (Answer.TRADE_OFF, 320)
    assert (told.best.found, told.best.objects, told.best.missed, told.best.extra) == (3, 4, {"person": 1}, 0)


def test_much_that_the_reference_does_not_have_is_no_success() -> None:
    """Boxes everywhere find every object; one extra in ten is let pass, more is not."""
    reference = measured(640, 1000, people(*range(10)))
    assert verdict(reference, measured(320, 250, people(*range(11)))).answer is Answer.SAME
    told = verdict(reference, measured(320, 250, people(*range(12))), measured(416, 450, people(*range(9))))
    assert (told.answer, told.best.measured.combination.img_size) == (Answer.TRADE_OFF, 416)


def test_a_reference_that_found_nothing_says_nothing() -> None:
    """Also when another one did find something; at a lower confidence the answer is another one."""
    reference, other = measured(640, 1000, people(0, confidence=0.1)), measured(320, 250, people(0))
    told = verdict(reference, other)
    assert (told.answer, told.best.extra) == (Answer.EMPTY, 1)
    assert verdict(reference, other, confidence_min=0.05).answer is Answer.SAME


def test_what_was_seen_on_fewer_pictures_is_not_the_best() -> None:
    """A run that failed on one picture is not named before one that was compared on both; without any, none is."""
    reference = measured(640, 1000, people(0), people(1))
    told = verdict(reference, measured(320, 250, people(0), None), measured(512, 700, people(0), people(1)))
    assert (told.answer, told.best.measured.combination.img_size, told.best.pictures) == (Answer.SAME, 512, 2)
    assert verdict(reference, measured(320, 250, None, None)) == (judge([]))
    assert judge([]).answer is Answer.UNKNOWN
