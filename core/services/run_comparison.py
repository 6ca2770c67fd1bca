"""Two finished runs of an account beside one another, picture by picture; costs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlmodel import Session

from core.identity.callers import Caller
from core.inference.detections import Detections
from core.jobs import jobs
from core.jobs.results import get_results
from core.jobs.tables import Job, JobImage
from core.services.application import Application

# Among so many of the newest runs others with the same pictures are looked for.
RUNS_SEARCHED = 100


@dataclass(frozen=True, slots=True)
class Comparable:
    """Another run, and how many pictures it has in common."""

    job: Job
    pictures: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture as one run saw it; `tiles_failed` of its tiles gave nothing."""

    image: JobImage
    detections: Detections
    tiles_failed: int


@dataclass(frozen=True, slots=True)
class Pair:
    """One picture as two runs saw it."""

    first: Seen
    second: Seen


@dataclass(frozen=True, slots=True)
class RunComparison:
    """Two runs and the pictures that both have a result of, in the order of the first."""

    first: Job
    second: Job
    pairs: Sequence[Pair]


def list_comparable(app: Application, user: Caller, job_id: str) -> list[Comparable]:
    """The account's other finished runs with a picture in common that they computed otherwise, newest first.

    Raises `JobNotFoundError`.
    """
    with app.db.read() as session:
        job = jobs.get_job(session, user.account_id, job_id)
        own = {image.image_sha256: image.charge_key for image in _answered(session, job)}
        others = {
            other.id: other
            for other in jobs.list_jobs(session, user.account_id, limit=RUNS_SEARCHED)
            if other.status == "finished" and other.id != job_id
        }
        shared = jobs.list_images_of(session, others.keys(), own.keys())
    # The same work is the same result: there would be nothing to see.
    counted: dict[str, set[str]] = {other_id: set() for other_id in others}
    for image in shared:
        if image.is_answered and image.charge_key != own[image.image_sha256]:
            counted[image.job_id].add(image.image_sha256)
    return [Comparable(others[other_id], len(found)) for other_id, found in counted.items() if found]


def compare_runs(app: Application, user: Caller, first_id: str, second_id: str) -> RunComparison:
    """Two runs of the account. Raises `JobNotFoundError`, also for a run of another account."""
    with app.db.read() as session:
        first, second = (jobs.get_job(session, user.account_id, job_id) for job_id in (first_id, second_id))
        before, after = _see(session, first), _see(session, second)
    return RunComparison(
        first, second, [Pair(seen, after[sha256]) for sha256, seen in before.items() if sha256 in after]
    )


def _answered(session: Session, job: Job) -> list[JobImage]:
    return [image for image in jobs.list_images(session, job.id) if image.is_answered]


def _see(session: Session, job: Job) -> dict[str, Seen]:
    """What a run saw, by the hash of the pixels; of a picture that it has twice the first."""
    images = _answered(session, job)
    results = get_results(session, job.account_id, {image.charge_key for image in images})
    seen: dict[str, Seen] = {}
    for image in images:
        result = results.get(image.charge_key)
        if result is not None and image.image_sha256 not in seen:
            seen[image.image_sha256] = Seen(image, Detections.from_json(result.detections), result.tiles_failed)
    return seen
