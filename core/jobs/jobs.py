"""Creating, claiming, finishing and listing jobs. Every function runs in the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, bindparam, func, or_, update
from sqlalchemy import select as sa_select
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from core.db import table_of, utcnow
from core.errors import JobNotFoundError
from core.jobs.deliveries import add_delivery
from core.jobs.tables import AdviceJob, Job, JobImage
from core.jobs.turns import ALL_PLANS, Turns

OPEN_IMAGE = ("queued", "running")
OPEN_JOB = ("queued", "running")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is. `given_back_mt` and `charged_mt` in milli-tokens; `counts` by image status."""

    total: int
    counts: Mapping[str, int]
    charged_mt: int
    quoted_mt: int
    held_mt: int

    @property
    def done(self) -> int:
        """Images with a final outcome."""
        return self.total - sum(self.counts.get(status, 0) for status in OPEN_IMAGE)

    @property
    def given_back_mt(self) -> int:
        """Quoted, held, and then neither charged nor held any more."""
        return self.quoted_mt - self.charged_mt - self.held_mt


def get_job(session: Session, account_id: str, job_id: str) -> Job:
    """A job of this account; `JobNotFoundError` for anybody else's."""
    job = session.exec(select(Job).where(Job.id == job_id, Job.account_id == account_id)).first()
    if job is None:
        raise JobNotFoundError("There is no such run in your account.", job_id=job_id)
    return job


def list_jobs(
    session: Session,
    account_id: str,
    *,
    limit: int = 20,
    before: tuple[datetime, str] | None = None,
    with_advice: bool = True,
) -> Sequence[Job]:
    """The account's jobs, newest first; `before` (time, id) goes on where a page ended.

    Those that were started for an advice can be left out.
    """
    query = select(Job).where(Job.account_id == account_id)
    if not with_advice:
        query = query.where(~select(AdviceJob.job_id).where(AdviceJob.job_id == Job.id).exists())
    if before is not None:
        moment, job_id = before
        query = query.where(
            col(Job.created_at) <= moment,
            or_(col(Job.created_at) < moment, and_(col(Job.created_at) == moment, col(Job.id) < job_id)),
        )
    return session.exec(query.order_by(col(Job.created_at).desc(), col(Job.id).desc()).limit(limit)).all()


def list_images(session: Session, job_id: str) -> Sequence[JobImage]:
    """A job's images in order."""
    return session.exec(select(JobImage).where(JobImage.job_id == job_id).order_by(col(JobImage.position))).all()


def list_images_of(session: Session, job_ids: Collection[str], image_sha256s: Collection[str]) -> Sequence[JobImage]:
    """The images of some jobs that have these pixels."""
    return session.exec(
        select(JobImage).where(col(JobImage.job_id).in_(job_ids), col(JobImage.image_sha256).in_(image_sha256s))
    ).all()


def find_image(session: Session, hold_id: str) -> JobImage | None:
    """The image that a hold was placed for."""
    return session.exec(select(JobImage).where(JobImage.hold_id == hold_id)).first()


def get_progress(session: Session, job_id: str) -> Progress:
    """Counts and amounts of a job in one query."""
    rows = session.exec(
        select(
            JobImage.status,
            func.count(),
            func.coalesce(func.sum(JobImage.amount_mt), 0),
            func.coalesce(func.sum(JobImage.returned_mt), 0),
        )
        .where(JobImage.job_id == job_id)
        .group_by(JobImage.status)
    ).all()
    amounts = {status: int(amount) for status, _count, amount, _returned in rows}
    return Progress(
        total=sum(count for _status, count, _amount, _returned in rows),
        counts={status: count for status, count, _amount, _returned in rows},
        charged_mt=amounts.get("charged", 0),
        # An image that turned out to be done already costs nothing, whatever was quoted for it.
        quoted_mt=sum(amounts.values()) + sum(int(returned) for _status, _count, _amount, returned in rows),
        held_mt=sum(amounts.get(status, 0) for status in OPEN_IMAGE),
    )


def adopt_queued_jobs(session: Session, runner: str, *, lease_s: int) -> None:
    """Take responsibility for all queued jobs that nobody works on; what another runner takes just now is his."""
    free = select(Job.id).where(Job.status == "queued", col(Job.runner).is_(None)).with_for_update(skip_locked=True)
    session.execute(
        update(Job)
        .where(col(Job.id).in_(free))
        .values(runner=runner, status="running", lease_expires_at=utcnow() + timedelta(seconds=lease_s))
    )


def has_queued_jobs(session: Session) -> bool:
    """Whether `adopt_queued_jobs` would find anything."""
    queued = select(Job.id).where(Job.status == "queued", col(Job.runner).is_(None)).limit(1)
    return session.exec(queued).first() is not None


def has_work(session: Session, runner: str, plans: Collection[str] = ALL_PLANS) -> bool:
    """Whether `claim_image` may find something; a read that costs nothing when there is not."""
    return (
        session.exec(
            select(JobImage.id)
            .join(Job, col(Job.id) == col(JobImage.job_id))
            .where(
                JobImage.status == "queued",
                or_(
                    and_(col(Job.status) == "queued", col(Job.runner).is_(None)),
                    and_(col(Job.status) == "running", col(Job.runner) == runner),
                ),
                col(Job.plan).in_(plans),
                _can_start(),
            )
            .limit(1)
        ).first()
        is not None
    )


def running_jobs(session: Session, runner: str) -> Sequence[Job]:
    """The unfinished jobs of a runner."""
    return session.exec(select(Job).where(Job.runner == runner, Job.status == "running")).all()


def claim_image(
    session: Session, runner: str, turns: Turns, plans: Collection[str] = ALL_PLANS
) -> tuple[Job, JobImage] | None:
    """The next image of this runner's jobs under these plans, marked `running`; None when there is nothing to do.

    Accounts take turns, whether the others have a batch of a thousand or a thousand batches of one, and VIPs have the
    first one. Of an account's jobs, all first images come before all second ones. Whoever commits it notes the turn.
    """
    own = (Job.runner == runner, Job.status == "running")
    waiting = select(Job.account_id, Job.plan).where(*own, col(Job.plan).in_(plans)).distinct()
    for account_id, plan in turns.order(session.exec(waiting).all()):
        row = session.exec(
            select(Job, JobImage)
            .join(JobImage, col(JobImage.job_id) == col(Job.id))
            .where(*own, Job.account_id == account_id, Job.plan == plan, JobImage.status == "queued", _can_start())
            .order_by(col(JobImage.position), col(Job.created_at))
            .limit(1)
        ).first()
        if row is not None:
            break
    else:
        return None
    job, image = row
    claimed = session.execute(
        update(JobImage)
        .where(col(JobImage.id) == image.id, col(JobImage.status) == "queued")
        .values(status="running", started_at=utcnow())
        .returning(col(JobImage.id))
    ).first()
    return None if claimed is None else (job, image)


def end_image(
    session: Session,
    image_id: str,
    status: str,
    *,
    error_code: str | None = None,
    wait_ms: int | None = None,
    model_ms: int | None = None,
    returned_mt: int = 0,
) -> bool:
    """Give an open image its final outcome; False when it had one already. Finishes the job with its last.

    `returned_mt` of its amount were given back although it was charged, for tiles that failed.
    """
    connection = session.connection()
    if connection.dialect.name != "sqlite":
        # The job first: of two last images that end at once, the second must see the first. SQLite has one writer.
        connection.execute(_LOCK_JOB, {"b_image": image_id})
    outcome = {
        "b_image": image_id,
        "status": status,
        "error_code": error_code,
        "wait_ms": wait_ms,
        "model_ms": model_ms,
        "finished_at": utcnow(),
        "returned_mt": returned_mt,
    }
    row = connection.execute(_END_IMAGE, outcome).first()
    if row is None:
        return False
    finish_job_if_done(session, row[0])
    return True


def finish_job_if_done(session: Session, job_id: str) -> None:
    """Mark a job finished when none of its images is open, and let its webhook tell of it."""
    row = session.connection().execute(_FINISH_JOB, {"b_job": job_id, "finished_at": utcnow()}).first()
    if row is not None and row[1] is not None:
        add_delivery(session, row[0], row[1], job_id=job_id)


def open_images_of(session: Session, job_id: str, statuses: Collection[str] = OPEN_IMAGE) -> Sequence[JobImage]:
    """A job's images without a final outcome."""
    return session.exec(select(JobImage).where(JobImage.job_id == job_id, col(JobImage.status).in_(statuses))).all()


def renew_jobs(session: Session, runner: str, *, lease_s: int) -> list[str]:
    """Extend the leases of this runner's unfinished jobs; gives the ids of the holds they stand on.

    A job of which an image ends at this moment is passed over until the next time.
    """
    own = select(Job.id).where(Job.runner == runner, Job.status == "running").with_for_update(skip_locked=True)
    session.execute(
        update(Job).where(col(Job.id).in_(own)).values(lease_expires_at=utcnow() + timedelta(seconds=lease_s))
    )
    return [
        hold_id
        for hold_id in session.exec(
            select(JobImage.hold_id)
            .join(Job, col(Job.id) == col(JobImage.job_id))
            .where(Job.runner == runner, Job.status == "running", col(JobImage.status).in_(OPEN_IMAGE))
        ).all()
        if hold_id is not None
    ]


def images_started_before(session: Session, runner: str, moment: datetime) -> list[tuple[Job, JobImage]]:
    """The images that a runner began before a moment and that have no outcome yet."""
    rows = session.exec(
        select(Job, JobImage)
        .join(JobImage, col(JobImage.job_id) == col(Job.id))
        .where(
            Job.runner == runner,
            Job.status == "running",
            JobImage.status == "running",
            col(JobImage.started_at) < moment,
        )
    ).all()
    return [(job, image) for job, image in rows]


def lapsed_jobs(session: Session, now: datetime) -> Sequence[Job]:
    """Unfinished jobs whose runner has not been heard of within its lease."""
    return session.exec(select(Job).where(col(Job.status).in_(OPEN_JOB), col(Job.lease_expires_at) <= now)).all()


def is_lapsed(session: Session, job_id: str, now: datetime) -> bool:
    """Whether a job is still unfinished and its lease still over."""
    lapsed = select(Job.id).where(Job.id == job_id, col(Job.status).in_(OPEN_JOB), col(Job.lease_expires_at) <= now)
    return session.exec(lapsed).first() is not None


def _can_start() -> ColumnElement[bool]:
    """An image without a hold of its own waits until the one that pays for the same work has ended."""
    paying, paying_job = aliased(JobImage), aliased(Job)
    under_way = (
        select(paying.id)
        .join(paying_job, col(paying_job.id) == col(paying.job_id))
        .where(
            paying.charge_key == JobImage.charge_key,
            paying_job.account_id == Job.account_id,
            col(paying.hold_id).is_not(None),
            col(paying.status).in_(OPEN_IMAGE),
        )
        .correlate(JobImage, Job)
        .exists()
    )
    return or_(col(JobImage.hold_id).is_not(None), ~under_way)


def is_paid_for_elsewhere(session: Session, account_id: str, charge_key: str) -> bool:
    """Whether an image of the account is under way that pays for this piece of work."""
    paying = (
        select(JobImage.id)
        .join(Job, col(Job.id) == col(JobImage.job_id))
        .where(
            JobImage.charge_key == charge_key,
            Job.account_id == account_id,
            col(JobImage.hold_id).is_not(None),
            col(JobImage.status).in_(OPEN_IMAGE),
        )
        .limit(1)
    )
    return session.exec(paying).first() is not None


def count_open_jobs(session: Session, account_id: str) -> int:
    """How many runs of an account are not finished."""
    return session.exec(
        select(func.count()).select_from(Job).where(col(Job.status).in_(OPEN_JOB), Job.account_id == account_id)
    ).one()


def count_open_images(session: Session, account_id: str) -> int:
    """How many images of an account wait or run now."""
    return session.exec(
        select(func.count())
        .select_from(JobImage)
        .join(Job, col(Job.id) == col(JobImage.job_id))
        .where(Job.account_id == account_id, col(JobImage.status).in_(OPEN_IMAGE))
    ).one()


# Prepared: to build the statements that every image takes would cost more than to execute them.
_job, _image = table_of(Job), table_of(JobImage)
_LOCK_JOB = (
    sa_select(_job.c.id)
    .where(_job.c.id == sa_select(_image.c.job_id).where(_image.c.id == bindparam("b_image")).scalar_subquery())
    .with_for_update()
)
_END_IMAGE = (
    update(_image)
    .where(_image.c.id == bindparam("b_image"), _image.c.status.in_(OPEN_IMAGE))
    .values(
        {
            name: bindparam(name)
            for name in ("status", "error_code", "wait_ms", "model_ms", "finished_at", "returned_mt")
        }
        | {"amount_mt": _image.c.amount_mt - bindparam("returned_mt")}
    )
    .returning(_image.c.job_id)
)
_FINISH_JOB = (
    update(_job)
    .where(
        _job.c.id == bindparam("b_job"),
        _job.c.status != "finished",
        ~sa_select(_image.c.id).where(_image.c.job_id == bindparam("b_job"), _image.c.status.in_(OPEN_IMAGE)).exists(),
    )
    .values(status="finished", finished_at=bindparam("finished_at"))
    .returning(_job.c.account_id, _job.c.webhook_url)
)
