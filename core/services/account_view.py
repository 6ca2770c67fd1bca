"""What a customer sees of his account: balance, transactions, runs with their results."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from core.csv_text import plain_cell, to_csv
from core.identity.callers import Caller
from core.inference.detections import Detections
from core.jobs import jobs
from core.jobs.jobs import Progress
from core.jobs.results import get_result
from core.jobs.tables import Job, JobImage
from core.ledger import corrections, ledger
from core.ledger.ledger import Balance
from core.ledger.tables import Account, Entry
from core.money import from_millitokens
from core.pricing.book import Prices, current_prices
from core.services.application import Application

# Who acts in an account and does not belong to it.
OPERATOR = "operator"
# What somebody did to an account with a reason, rather than what its work made.
WITH_REASON = frozenset({"refund", "adjustment", "freeze", "unfreeze"})
_COLUMNS = (
    *("seq", "time_utc", "type", "tokens", "held_change", "balance_after", "held_after"),
    *("reference", "actor", "reason"),
)


@dataclass(frozen=True, slots=True)
class JobView:
    """A run with everything its page shows; `refunded_mt` of what was charged was given back later."""

    job: Job
    progress: Progress
    images: Sequence[JobImage]
    refunded_mt: int


def get_balance(app: Application, user: Caller) -> Balance:
    """The account's balance in milli-tokens."""
    with app.db.read() as session:
        return ledger.get_balance(session, user.account_id)


def get_account(app: Application, user: Caller) -> Account:
    """The account row itself (name, demo mark)."""
    with app.db.read() as session:
        return session.get_one(Account, user.account_id)


def find_freeze_reason(app: Application, user: Caller) -> str | None:
    """Why the account cannot spend, in the words of whoever froze it; None while it can."""
    with app.db.read() as session:
        if session.get_one(Account, user.account_id).status != "frozen":
            return None
        newest = ledger.list_entries(session, user.account_id, kinds={"freeze"}, limit=1)
        return newest[0].memo if newest else ""


def get_prices(app: Application) -> Prices:
    """The price book in force."""
    with app.db.read() as session:
        return current_prices(session)


def list_transactions(
    app: Application,
    user: Caller,
    *,
    kinds: Collection[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    before_seq: int | None = None,
    limit: int = 5000,
) -> Sequence[Entry]:
    """The account's entries, newest first, of some kinds or of all, from `since` on and before `until`.

    `before_seq` goes on where a page ended.
    """
    with app.db.read() as session:
        return ledger.list_entries(
            session, user.account_id, kinds=kinds, since=since, until=until, before_seq=before_seq, limit=limit
        )


def find_refunded(app: Application, user: Caller, entries: Iterable[Entry]) -> dict[str, int]:
    """The holds of these entries whose charge was refunded, and by how many milli-tokens in all."""
    hold_ids = {entry.hold_id for entry in entries if entry.hold_id}
    with app.db.read() as session:
        return corrections.find_refunded(session, user.account_id, hold_ids)


def split_memo(entry: Entry) -> tuple[str, str]:
    """What an entry refers to, and the reason that was given for it."""
    if entry.kind in WITH_REASON:
        return entry.hold_id or "", entry.memo
    return entry.hold_id or entry.memo, ""


def name_actor(actor: str, actors: Mapping[str, str]) -> str:
    """Who stands in an entry: somebody of the account by his address, a key by its name, or `operator`.

    `actors` gives the names of the account's own people and keys; whatever is no person's id (`system`, `rule:late`)
    stays as it is.
    """
    if actor in actors:
        return actors[actor]
    return OPERATOR if actor.startswith("user_") else actor


def transactions_csv(entries: Iterable[Entry], *, actors: Mapping[str, str]) -> str:
    """Entries as CSV; times in UTC, amounts in tokens with three decimals. `actors` gives names to ids."""
    rows: list[Sequence[object]] = [_COLUMNS]
    for entry in entries:
        reference, reason = split_memo(entry)
        rows.append(
            [
                entry.seq,
                entry.created_at.isoformat(timespec="seconds"),
                entry.kind,
                from_millitokens(entry.posted_change_mt),
                from_millitokens(entry.held_change_mt),
                from_millitokens(entry.posted_after_mt),
                from_millitokens(entry.held_after_mt),
                plain_cell(reference),
                plain_cell(name_actor(entry.actor, actors)),
                plain_cell(reason),
            ]
        )
    return to_csv(rows)


def list_jobs(app: Application, user: Caller, *, limit: int = 20) -> list[tuple[Job, Progress]]:
    """The newest runs with their progress; those of an advice are shown together by it."""
    with app.db.read() as session:
        return [
            (job, jobs.get_progress(session, job.id))
            for job in jobs.list_jobs(session, user.account_id, limit=limit, with_advice=False)
        ]


def get_job(app: Application, user: Caller, job_id: str) -> JobView:
    """One run. Raises `JobNotFoundError` for a run of another account."""
    with app.db.read() as session:
        job = jobs.get_job(session, user.account_id, job_id)
        images = jobs.list_images(session, job_id)
        hold_ids = {image.hold_id for image in images if image.hold_id and image.status == "charged"}
        refunded = corrections.find_refunded(session, user.account_id, hold_ids)
        return JobView(job, jobs.get_progress(session, job_id), images, sum(refunded.values()))


def get_detections(app: Application, user: Caller, charge_key: str) -> Detections | None:
    """The stored detections of a piece of work, down to confidence 0.05; None when there are none."""
    with app.db.read() as session:
        result = get_result(session, user.account_id, charge_key)
    return None if result is None else Detections.from_json(result.detections)


def get_file(app: Application, user: Caller, image: JobImage) -> bytes:
    """The uploaded bytes of one of the account's images."""
    return app.blobs.get(user.account_id, image.file_sha256)


def count_open_images(app: Application, user: Caller) -> int:
    """How many images of the account wait or run now."""
    with app.db.read() as session:
        return jobs.count_open_images(session, user.account_id)
