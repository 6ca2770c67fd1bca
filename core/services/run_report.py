"""A run with the outcome of each of its images, and stored results by their own id: what programs read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlmodel import Session

from core.errors import ResultNotFoundError
from core.identity.callers import Caller
from core.inference.detections import Detections
from core.jobs import jobs
from core.jobs.jobs import Progress
from core.jobs.results import find_image_of_result, find_result, get_results
from core.jobs.tables import Job, JobImage, Result
from core.ledger import ledger
from core.ledger.ledger import Balance
from core.pricing import receipts
from core.pricing.tables import Quote
from core.services.application import Application


@dataclass(frozen=True, slots=True)
class ImageOutcome:
    """One image of a run; `result` and `detections` are there when it is charged or free."""

    image: JobImage
    result_id: str | None
    detections: Detections | None
    tiles_failed: int
    receipt_id: str | None


@dataclass(frozen=True, slots=True)
class RunReport:
    """A run, how far it is, its outcomes (empty unless asked for), and the account's balance now."""

    job: Job
    quote: Quote
    progress: Progress
    balance: Balance
    outcomes: Sequence[ImageOutcome]


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A result by its id with the image that it was charged for."""

    result: Result
    image: JobImage
    detections: Detections


def report_run(app: Application, caller: Caller, job_id: str, *, with_outcomes: bool = False) -> RunReport:
    """A run of the account. Raises `JobNotFoundError`."""
    with app.db.read() as session:
        job = jobs.get_job(session, caller.account_id, job_id)
        return _report(session, job, with_outcomes=with_outcomes)


def get_run(app: Application, caller: Caller, job_id: str) -> Job:
    """Whether a run is finished and no more, for who looks often. Raises `JobNotFoundError`."""
    with app.db.read() as session:
        return jobs.get_job(session, caller.account_id, job_id)


def report_finished_run(app: Application, job_id: str) -> RunReport:
    """A run with its outcomes, whoever's it is: for the message that tells of its end."""
    with app.db.read() as session:
        return _report(session, session.get_one(Job, job_id), with_outcomes=True)


def list_runs(
    app: Application, caller: Caller, *, limit: int, before: tuple[datetime, str] | None = None
) -> list[RunReport]:
    """The account's newest runs without their outcomes; `before` (time, id) goes on where a page ended."""
    with app.db.read() as session:
        found = jobs.list_jobs(session, caller.account_id, limit=limit, before=before)
        return [_report(session, job, with_outcomes=False) for job in found]


def get_stored_result(app: Application, caller: Caller, result_id: str) -> StoredResult:
    """A stored result of the account, free as often as it is read. Raises `ResultNotFoundError`."""
    with app.db.read() as session:
        result = find_result(session, caller.account_id, result_id)
        image = None if result is None else find_image_of_result(session, result)
    if result is None or image is None:
        raise ResultNotFoundError("There is no such result in your account.", result_id=result_id[:80])
    return StoredResult(result, image, Detections.from_json(result.detections))


def _report(session: Session, job: Job, *, with_outcomes: bool) -> RunReport:
    outcomes: list[ImageOutcome] = []
    if with_outcomes:
        images = jobs.list_images(session, job.id)
        results = get_results(session, job.account_id, {image.charge_key for image in images if image.is_answered})
        hold_ids = {image.hold_id for image in images if image.hold_id and image.status == "charged"}
        receipt_ids = receipts.receipt_ids(session, hold_ids)
        outcomes = [_outcome(image, results, receipt_ids) for image in images]
    return RunReport(
        job=job,
        quote=session.get_one(Quote, job.quote_id),
        progress=jobs.get_progress(session, job.id),
        balance=ledger.get_balance(session, job.account_id),
        outcomes=outcomes,
    )


def _outcome(image: JobImage, results: Mapping[str, Result], receipt_ids: Mapping[str, str]) -> ImageOutcome:
    result = results.get(image.charge_key) if image.is_answered else None
    return ImageOutcome(
        image=image,
        result_id=None if result is None else result.id,
        detections=None if result is None else Detections.from_json(result.detections),
        tiles_failed=0 if result is None else result.tiles_failed,
        receipt_id=receipt_ids.get(image.hold_id or ""),
    )
