"""What a customer sees of his account: balance, transactions, runs with their results."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from core.identity.tables import User
from core.inference.detections import Detections
from core.jobs import jobs
from core.jobs.jobs import Progress
from core.jobs.tables import Job, JobImage
from core.ledger import ledger
from core.ledger.ledger import Balance
from core.ledger.tables import Account, Entry
from core.money import from_millitokens
from core.pricing.book import Prices, current_prices, find_receipt, recompute_receipt
from core.pricing.tables import Receipt
from core.services.application import Application


@dataclass(frozen=True, slots=True)
class JobView:
    """A run with everything its page shows."""

    job: Job
    progress: Progress
    images: Sequence[JobImage]


@dataclass(frozen=True, slots=True)
class ReceiptView:
    """A receipt and what it comes to when it is computed afresh (milli-tokens)."""

    receipt: Receipt
    recomputed_mt: int

    @property
    def agrees(self) -> bool:
        """Whether the charge equals its recomputation."""
        return self.recomputed_mt == self.receipt.amount_mt


def get_balance(app: Application, user: User) -> Balance:
    """The account's balance in milli-tokens."""
    with app.db.read() as session:
        return ledger.get_balance(session, user.account_id)


def get_account(app: Application, user: User) -> Account:
    """The account row itself (name, demo mark)."""
    with app.db.read() as session:
        return session.get_one(Account, user.account_id)


def get_prices(app: Application) -> Prices:
    """The price book in force."""
    with app.db.read() as session:
        return current_prices(session)


def list_transactions(
    app: Application,
    user: User,
    *,
    kinds: Collection[str] | None = None,
    before_seq: int | None = None,
    limit: int = 5000,
) -> Sequence[Entry]:
    """The account's entries, newest first, of some kinds or of all; `before_seq` goes on where a page ended."""
    with app.db.read() as session:
        return ledger.list_entries(session, user.account_id, kinds=kinds, before_seq=before_seq, limit=limit)


def transactions_csv(entries: Iterable[Entry]) -> str:
    """Entries as CSV; times in UTC, amounts in tokens with three decimals."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["seq", "time_utc", "type", "tokens", "held_change", "balance_after", "held_after", "reference"])
    for entry in entries:
        writer.writerow(
            [
                entry.seq,
                entry.created_at.isoformat(timespec="seconds"),
                entry.kind,
                from_millitokens(entry.posted_change_mt),
                from_millitokens(entry.held_change_mt),
                from_millitokens(entry.posted_after_mt),
                from_millitokens(entry.held_after_mt),
                entry.hold_id or entry.memo,
            ]
        )
    return buffer.getvalue()


def get_receipt(app: Application, user: User, hold_id: str) -> ReceiptView | None:
    """The receipt of a captured hold with its recomputation, or None when there is none in this account."""
    with app.db.read() as session:
        receipt = find_receipt(session, user.account_id, hold_id)
    return None if receipt is None else ReceiptView(receipt, recompute_receipt(receipt))


def list_jobs(app: Application, user: User, *, limit: int = 20) -> list[tuple[Job, Progress]]:
    """The newest runs with their progress."""
    with app.db.read() as session:
        return [
            (job, jobs.get_progress(session, job.id)) for job in jobs.list_jobs(session, user.account_id, limit=limit)
        ]


def get_job(app: Application, user: User, job_id: str) -> JobView:
    """One run. Raises `JobNotFoundError` for a run of another account."""
    with app.db.read() as session:
        job = jobs.get_job(session, user.account_id, job_id)
        return JobView(job, jobs.get_progress(session, job_id), jobs.list_images(session, job_id))


def get_detections(app: Application, user: User, charge_key: str) -> Detections | None:
    """The stored detections of a piece of work, down to confidence 0.05; None when there are none."""
    with app.db.read() as session:
        result = jobs.get_result(session, user.account_id, charge_key)
    return None if result is None else Detections.from_json(result.detections)


def get_file(app: Application, user: User, image: JobImage) -> bytes:
    """The uploaded bytes of one of the account's images."""
    return app.blobs.get(user.account_id, image.file_sha256)


def count_open_images(app: Application, user: User) -> int:
    """How many images of the account wait or run now."""
    with app.db.read() as session:
        return jobs.count_open_images(session, user.account_id)
