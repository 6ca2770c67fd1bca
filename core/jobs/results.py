"""Stored results, and the images that were answered from them. Every function runs in the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import bindparam, func
from sqlalchemy import select as sa_select
from sqlmodel import Session, col, select

from core.db import table_of
from core.jobs.tables import Job, JobImage, Result


def find_results(session: Session, account_id: str, charge_keys: Collection[str]) -> set[str]:
    """Which charge keys have a stored result for this account."""
    found: set[str] = set()
    keys = list(charge_keys)
    for start in range(0, len(keys), 500):
        values = {"b_account": account_id, "b_keys": keys[start : start + 500]}
        found.update(session.connection().execute(_FIND_RESULTS, values).scalars())
    return found


def get_result(session: Session, account_id: str, charge_key: str) -> Result | None:
    """The stored result of a charge key, or None."""
    return session.exec(select(Result).where(Result.account_id == account_id, Result.charge_key == charge_key)).first()


def get_results(session: Session, account_id: str, charge_keys: Collection[str]) -> dict[str, Result]:
    """The stored results of some charge keys, by key."""
    found: dict[str, Result] = {}
    keys = list(charge_keys)
    for start in range(0, len(keys), 500):
        some = select(Result).where(
            Result.account_id == account_id, col(Result.charge_key).in_(keys[start : start + 500])
        )
        found.update((result.charge_key, result) for result in session.exec(some).all())
    return found


def find_result(session: Session, account_id: str, result_id: str) -> Result | None:
    """A stored result by its id, if it is this account's."""
    return session.exec(select(Result).where(Result.id == result_id, Result.account_id == account_id)).first()


def find_image_of_result(session: Session, result: Result) -> JobImage | None:
    """The image that a result was computed for, which was charged."""
    return session.exec(
        select(JobImage)
        .join(Job, col(Job.id) == col(JobImage.job_id))
        .where(
            JobImage.charge_key == result.charge_key,
            JobImage.status == "charged",
            Job.account_id == result.account_id,
        )
        .limit(1)
    ).first()


def list_free_repeats(session: Session, account_id: str, charge_key: str, *, limit: int) -> Sequence[JobImage]:
    """The images of an account that were answered free from the stored result of a piece of work, newest first."""
    return session.exec(
        select(JobImage)
        .join(Job, col(Job.id) == col(JobImage.job_id))
        .where(Job.account_id == account_id, JobImage.charge_key == charge_key, JobImage.status == "free")
        .order_by(col(JobImage.finished_at).desc(), col(JobImage.id))
        .limit(limit)
    ).all()


def count_free_repeats(session: Session, account_id: str, charge_key: str) -> int:
    """How many images `list_free_repeats` would give without a limit."""
    return session.exec(
        select(func.count())
        .select_from(JobImage)
        .join(Job, col(Job.id) == col(JobImage.job_id))
        .where(Job.account_id == account_id, JobImage.charge_key == charge_key, JobImage.status == "free")
    ).one()


# Prepared: every quote asks it.
_result = table_of(Result)
_FIND_RESULTS = sa_select(_result.c.charge_key).where(
    _result.c.account_id == bindparam("b_account"), _result.c.charge_key.in_(bindparam("b_keys", expanding=True))
)
