"""How busy an installation is at this moment: questions cheap enough to be asked every few seconds."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, text
from sqlmodel import col, select

from core.jobs.jobs import OPEN_IMAGE
from core.jobs.tables import JobImage
from core.ledger.tables import Hold
from core.services.application import Application


@dataclass(frozen=True, slots=True)
class Load:
    """What waits in the database, of all processes together; `held_mt` in milli-tokens."""

    open_images: int
    open_holds: int
    held_mt: int


def get_load(app: Application) -> Load:
    """Count what is open, by indexes: it costs what is open now, not what there ever was."""
    # SQLite takes the partial index of the open holds only for its very words.
    holds = select(func.count(), func.coalesce(func.sum(col(Hold.amount_mt)), 0)).where(text("status = 'held'"))
    images = select(func.count()).select_from(JobImage).where(col(JobImage.status).in_(OPEN_IMAGE))
    with app.db.read() as session:
        open_holds, held_mt = session.exec(holds).one()
        return Load(session.exec(images).one(), open_holds, int(held_mt))
