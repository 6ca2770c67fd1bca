"""What nobody ran goes some time after its price ran out: the quote, and the pictures that waited with it.

Any number of processes may do this at any moment, without a lock, beside customers who quote and run the same
pictures:

- A picture of a run cannot be lost, as nothing is ever removed from where those lie (`core.jobs.blobs`). A run renames
  its pictures to there before its transaction commits, so no runner finds it before them.
- A picture of a quote cannot be lost to another quote's end: each has files of its own.
- A quote that may still be run is not touched, nor are its files: its row says when its price runs out, and that never
  changes. A folder without a row is one of a quote that is gone, for it gets its name when the row is committed.
- An expired quote may be run as a new one while this removes it. Its submitter has its row in hand, and renames its
  files: either all of them are there, and the run has them for good; or one is not, and it is refused with nothing
  held.
- A quote that a job or a receipt names is evidence. A job is made in the transaction that marks its quote as run, and
  only while the price is binding; the foreign keys would refuse even so.
- Files go first and rows after them, and each step may be repeated: whatever a crash leaves is found again.
"""

from __future__ import annotations

import logging
import time
from datetime import datetime, timedelta

from sqlalchemy import delete
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from core.db import utcnow
from core.jobs.tables import Job
from core.pricing.tables import Quote
from core.pricing.unrun import find_needed
from core.services.application import Application

log = logging.getLogger("visionmeter")

# The keeper has leases to renew, and writers wait for one another: little at once, and rather again.
ROUND_S_MAX = 0.25
ROWS_PER_TRANSACTION = 50
# Longer than any request, and any laptop's lid, is likely to last.
ABANDONED_AFTER = timedelta(days=1)


def remove_unrun_quotes(app: Application) -> bool:
    """Remove quotes that expired more than `quote_retention_s` ago unrun, and what a crash left half written.

    Ends after a moment even if there is more; gives whether there is.
    """
    now = utcnow()
    expired_before = now - timedelta(seconds=app.settings.quote_retention_s)
    ends_at = time.monotonic() + ROUND_S_MAX
    app.blobs.remove_abandoned(now - ABANDONED_AFTER)
    # What expired so long ago has been waiting for longer still; most of what is as old may go.
    old = app.blobs.list_kept(expired_before)
    for start in range(0, len(old), ROWS_PER_TRANSACTION):
        if time.monotonic() > ends_at:
            return True
        some = old[start : start + ROWS_PER_TRANSACTION]
        with app.db.read() as session:
            needed = find_needed(session, some, expired_before)
        for quote_id in set(some) - needed:
            app.blobs.forget(quote_id)
    removed = 0
    while time.monotonic() < ends_at:
        with app.db.read() as session:
            if session.exec(_removable(expired_before)).first() is None:
                break
        with app.db.write() as session:
            count = _remove(session, expired_before)
        removed += count
        if not count:
            break  # another process has them in hand
    else:
        return True
    if removed:
        log.info("removed %d quotes that nobody ran", removed)
    return False


def _removable(expired_before: datetime) -> SelectOfScalar[str]:
    named = select(Job.id).where(col(Job.quote_id) == col(Quote.id)).exists()
    return (
        select(Quote.id)
        .where(col(Quote.ran_at).is_(None), col(Quote.expires_at) <= expired_before, ~named)
        .order_by(col(Quote.expires_at))
        .limit(ROWS_PER_TRANSACTION)
    )


def _remove(session: Session, expired_before: datetime) -> int:
    # `skip locked`: two processes that remove the same rows would wait for one another, perhaps in a circle.
    some = _removable(expired_before).with_for_update(skip_locked=True, of=Quote)
    removed = session.connection().execute(delete(Quote).where(col(Quote.id).in_(some)).returning(col(Quote.id)))
    return len(removed.all())
