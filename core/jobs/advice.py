"""Which runs were started together to be compared. Every function runs in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import Session, col, select

from core.db import insert_row, new_row
from core.errors import JobNotFoundError
from core.jobs.jobs import OPEN_JOB
from core.jobs.tables import Advice, AdviceJob, Job


def add_advice(session: Session, account_id: str, job_ids: Sequence[str], *, actor: str) -> Advice:
    """Remember that these jobs belong together; the first one is the reference."""
    advice = insert_row(session, new_row(Advice, account_id=account_id, actor=actor))
    for position, job_id in enumerate(job_ids):
        insert_row(session, new_row(AdviceJob, advice_id=advice.id, position=position, job_id=job_id))
    return advice


def get_advice(session: Session, account_id: str, advice_id: str) -> Advice:
    """An advice of this account; `JobNotFoundError` for anybody else's."""
    advice = session.exec(select(Advice).where(Advice.id == advice_id, Advice.account_id == account_id)).first()
    if advice is None:
        raise JobNotFoundError("There is no such advice in your account.", advice_id=advice_id[:80])
    return advice


def list_advices(session: Session, account_id: str, *, limit: int) -> Sequence[Advice]:
    """The account's newest advices."""
    newest = select(Advice).where(Advice.account_id == account_id)
    return session.exec(newest.order_by(col(Advice.created_at).desc(), col(Advice.id).desc()).limit(limit)).all()


def list_advice_jobs(session: Session, advice_id: str) -> Sequence[Job]:
    """The jobs of an advice, the reference first."""
    return session.exec(
        select(Job)
        .join(AdviceJob, col(AdviceJob.job_id) == col(Job.id))
        .where(AdviceJob.advice_id == advice_id)
        .order_by(col(AdviceJob.position))
    ).all()


def find_open_advice(session: Session, account_id: str) -> str | None:
    """The account's newest advice of which a run is not finished."""
    return session.exec(
        select(Advice.id)
        .join(AdviceJob, col(AdviceJob.advice_id) == col(Advice.id))
        .join(Job, col(Job.id) == col(AdviceJob.job_id))
        .where(Advice.account_id == account_id, col(Job.status).in_(OPEN_JOB))
        .order_by(col(Advice.created_at).desc())
        .limit(1)
    ).first()
