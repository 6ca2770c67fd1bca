"""What runs remember of their pictures, taken away piece by piece. Every function runs in the caller's transaction."""

from __future__ import annotations

from sqlalchemy import delete, update
from sqlmodel import Session, col, select

from core.db import change_some
from core.jobs.tables import Job, JobImage, Result, WebhookDelivery, WebhookSecret, WebhookTurn


def remove_results(session: Session, account_id: str, *, limit: int) -> int:
    """Remove some of an account's stored results; gives how many."""
    some = select(Result.id).where(Result.account_id == account_id).limit(limit)
    removed = session.execute(delete(Result).where(col(Result.id).in_(some)).returning(col(Result.id)))
    return len(removed.all())


def forget_file_names(session: Session, account_id: str, *, limit: int) -> int:
    """Take the names of some of an account's pictures from its runs; gives how many."""
    some = (
        select(JobImage.id)
        .join(Job, col(Job.id) == col(JobImage.job_id))
        .where(Job.account_id == account_id, JobImage.name != "")
        .limit(limit)
    )
    return change_some(session, JobImage, some, name="")


def remove_webhooks(session: Session, account_id: str) -> None:
    """Remove the messages of an account with their addresses, and the secret that they were signed with."""
    session.execute(delete(WebhookDelivery).where(col(WebhookDelivery.account_id) == account_id))
    session.execute(delete(WebhookTurn).where(col(WebhookTurn.account_id) == account_id))
    session.execute(delete(WebhookSecret).where(col(WebhookSecret.account_id) == account_id))
    named = col(Job.webhook_url).is_not(None)
    session.execute(update(Job).where(col(Job.account_id) == account_id, named).values(webhook_url=None))
