"""Years of work, written in bulk: consistent ledgers of any length, with or without the runs that made them.

Every entry follows from the one before as if `core.ledger` had posted it, so `verify_ledger` accepts the whole; but the
rows go in by COPY or executemany, and indexes in the order of time are made at the end: minutes where the ledger itself
would take hours. Ids and digests are random, as they are in life: neighbours in time are no neighbours in an index.
"""

from __future__ import annotations

import json
import random
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text, update
from sqlmodel import col

from core.db import Database
from core.identity.tables import User
from core.ledger.posting import reserved, settled
from core.ledger.tables import Account
from core.slots import slot_of
from core.usage.latency import lower_bound_ms
from core.usage.tables import OUTCOMES

SEED = 20_261_124
TOP_UP_MT = 10**7
LOW_BALANCE_MT = 2 * 10**6
IMAGES_PER_JOB_MAX = 19
JOBS_PER_CHUNK = 500
SQLITE_CACHE_KIB = 4 * 2**20
IMAGE_STEP = timedelta(milliseconds=137)
MODELS, MODEL_SHARES = ("yolov8s-fall", "yolov8n", "yolov8l"), (52, 33, 15)
# Who asks: the owner of the account, and his API keys.
KEYS = 7
# Means of the log-normal times that the model takes, in ms; what images show, and how often.
MODEL_MS = {"yolov8s-fall": 90, "yolov8n": 40, "yolov8l": 400}
CLASSES, CLASS_SHARES = (({"Normal": 2}, {"Normal": 1, "Fall": 1}, {"person": 3, "car": 2}, {}), (60, 20, 15, 5))
HOUSE = "house:revenue"
DETECTIONS = (
    '[{"class": 0, "name": "Normal", "confidence": 0.91, "box": {"x1": 10.0, "y1": 20.0, "x2": 110.0, "y2": 220.0}}]'
)
# Of a hundred images, how many end how; of a hundred charged ones, one is refunded.
_OUTCOMES, _OUTCOME_SHARES = ("charged", "free", "failed", "cancelled", "interrupted"), (88, 7, 3, 1, 1)
_REFUNDED_SHARE = 0.01

COLUMNS: dict[str, tuple[str, ...]] = {
    "hold": (
        *("id", "account_id", "amount_mt", "captured_mt", "refunded_mt", "status", "charge_key", "expires_at"),
        *("created_at", "ended_at", "spend_day"),
    ),
    "entry": (
        *("account_id", "seq", "kind", "debit_account", "credit_account", "amount_mt", "posted_change_mt"),
        *("held_change_mt", "posted_after_mt", "held_after_mt", "hold_id", "actor", "memo", "created_at"),
    ),
    "quote": (
        *("id", "account_id", "price_version", "model", "model_version", "img_size", "total_mt", "list_mt"),
        *("discount_percent", "lines", "created_at", "expires_at", "ran_at"),
    ),
    "job": (
        *("id", "account_id", "quote_id", "actor", "model", "model_version", "img_size", "status", "runner"),
        *("lease_expires_at", "created_at", "finished_at"),
    ),
    "job_image": (
        *("id", "job_id", "position", "name", "file_sha256", "image_sha256", "height", "width", "charge_key"),
        *("amount_mt", "hold_id", "status", "error_code", "wait_ms", "model_ms", "started_at", "finished_at"),
    ),
    "result": (
        *("id", "account_id", "charge_key", "image_sha256", "model", "model_version", "img_size", "detections"),
        "created_at",
    ),
    "receipt": (
        *("id", "account_id", "hold_id", "quote_id", "price_version", "image_name", "image_sha256", "image_height"),
        *("image_width", "input_height", "input_width", "img_size", "model", "model_version", "alpha", "beta"),
        *("minimum", "discount_percent", "floor_mt", "batch_images", "entry_seq", "amount_mt", "created_at"),
    ),
    "usage_record": (
        *("id", "account_id", "job_id", "actor", "model", "model_version", "img_size", "input_height", "input_width"),
        *("amount_mt", "given_back_mt", "outcome", "error_code", "wait_ms", "model_ms", "class_counts", "created_at"),
    ),
    "usage_slot": ("account_id", "model", "slot", *OUTCOMES, "amount_mt"),
    "usage_caller_slot": ("account_id", "actor", "model", "slot", *OUTCOMES, "amount_mt"),
    "usage_given_back_slot": ("account_id", "actor", "model", "slot", "outcome", "amount_mt"),
    "usage_latency_slot": ("account_id", "actor", "model", "slot", "from_ms", "images"),
    "usage_class_slot": ("account_id", "actor", "model", "slot", "class_name", "objects"),
}
# Indexes whose keys are random are filled as in life. Made at the end, their pages would be packed, and each of the
# measured insertions would split one.
FILLED_INDEXES = (
    *("uq_hold_charge_key", "ix_entry_hold_id", "uq_entry_hold_end", "ix_job_image_charge_key", "ix_job_image_hold"),
)
DETAILS = ("usage_given_back_slot", "usage_latency_slot", "usage_class_slot")
Rows = dict[str, list[tuple[Any, ...]]]
Write = Callable[[str, Sequence[tuple[Any, ...]]], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write: at least `entries`, over `start` … `end`, in `accounts` accounts that share the work.

    The first has `first_share` of it and the others the rest in equal parts. `with_runs` adds what the entries come
    from: quotes (without lines), jobs with their images, results, receipts, usage and its roll-up, and the images that
    were free.
    """

    entries: int
    accounts: int
    first_share: float
    start: datetime
    end: datetime
    with_runs: bool
    price_version: str = ""
    seed: int = SEED


@dataclass(frozen=True, slots=True)
class _Job:
    id: str
    quote_id: str
    model: str
    actor: str
    began: str

    @property
    def version(self) -> str:
        return f"{self.model}-1"


class Author:
    """Writes one account's history, job by job."""

    def __init__(self, plan: Plan, draw: random.Random) -> None:
        self.account_id = f"acct_{draw.getrandbits(96):024x}"
        self.user_id = f"user_{draw.getrandbits(96):024x}"
        self.posted_mt = self.held_mt = self.version = 0
        self.actors = [self.user_id, *(f"key_{draw.getrandbits(96):024x}" for _ in range(KEYS))]
        self.slots: dict[tuple[str, str, int], list[int]] = defaultdict(lambda: [0] * (len(OUTCOMES) + 1))
        # The roll-ups of few images, by caller, model and slot, and by what ends their keys.
        self.details: dict[str, Counter[tuple[str, str, int, str | int]]] = {name: Counter() for name in DETAILS}
        self._plan, self._draw = plan, draw
        self._own, self._held = settled(self.account_id), reserved(self.account_id)

    def run_job(self, images: int, at: datetime, rows: Rows) -> None:
        """All holds of a job, then their ends one after the other; a top-up before it when little is left."""
        draw, began = self._draw, _text(at)
        if self.posted_mt < LOW_BALANCE_MT:
            self._post(rows, began, "top_up", "house:vouchers", self._own, TOP_UP_MT, posted_mt=TOP_UP_MT, memo="ABCD")
        outcomes = draw.choices(_OUTCOMES, _OUTCOME_SHARES, k=images)
        if not self._plan.with_runs:
            # A free image leaves no entry.
            outcomes = [outcome if outcome != "free" else "charged" for outcome in outcomes]
        (model,) = draw.choices(MODELS, MODEL_SHARES)
        job = _Job(
            f"job_{draw.getrandbits(96):024x}",
            f"quote_{draw.getrandbits(96):024x}",
            model,
            draw.choice(self.actors),
            began,
        )
        lines = [(outcome, draw.randint(300, 9000), f"{draw.getrandbits(256):064x}") for outcome in outcomes]
        hold_ids = [None if outcome == "free" else f"hold_{draw.getrandbits(96):024x}" for outcome in outcomes]
        for hold_id, (_outcome, amount_mt, _key) in zip(hold_ids, lines, strict=True):
            if hold_id is not None:
                self._post(
                    rows,
                    began,
                    "hold",
                    self._own,
                    self._held,
                    amount_mt,
                    held_mt=amount_mt,
                    hold_id=hold_id,
                    memo=job.id,
                )
        for position, (hold_id, line) in enumerate(zip(hold_ids, lines, strict=True)):
            ends_at = at + (position + 1) * IMAGE_STEP
            ended = _text(ends_at)
            if hold_id is not None:
                self._end_hold(rows, ended, job, hold_id, *line)
            if self._plan.with_runs:
                slot = slot_of(ends_at)
                self._tell(rows, ended, slot, job, position, hold_id, *line)
                sums = self.slots[job.actor, model, slot]
                sums[OUTCOMES.index(line[0])] += 1
                sums[-1] += line[1] if line[0] == "charged" else 0
        if self._plan.with_runs:
            total_mt = sum(amount_mt for outcome, amount_mt, _key in lines if outcome != "free")
            whose, what = (self.account_id, self.user_id), (model, job.version, 640)
            rows["quote"].append(
                (
                    job.quote_id,
                    whose[0],
                    self._plan.price_version,
                    *what,
                    total_mt,
                    total_mt,
                    "0",
                    "[]",
                    began,
                    began,
                    began,
                )
            )
            rows["job"].append(
                (job.id, whose[0], job.quote_id, job.actor, *what, "finished", "bench", began, began, ended)
            )

    def _end_hold(
        self, rows: Rows, ended: str, job: _Job, hold_id: str, outcome: str, amount_mt: int, key: str
    ) -> None:
        status, captured_mt, refunded_mt = "released", 0, 0
        if outcome == "charged":
            status, captured_mt = "captured", amount_mt
            changes = {"posted_mt": -amount_mt, "held_mt": -amount_mt}
            self._post(rows, ended, "capture", self._held, HOUSE, amount_mt, hold_id=hold_id, memo=job.id, **changes)
            if self._draw.random() < _REFUNDED_SHARE:
                refunded_mt = amount_mt
                self._post(
                    rows,
                    ended,
                    "refund",
                    HOUSE,
                    self._own,
                    amount_mt,
                    posted_mt=amount_mt,
                    hold_id=hold_id,
                    memo="late",
                )
        else:
            self._post(
                rows,
                ended,
                "release",
                self._held,
                self._own,
                amount_mt,
                held_mt=-amount_mt,
                hold_id=hold_id,
                memo=job.id,
            )
        amounts, times = (amount_mt, captured_mt, refunded_mt), (ended, job.began, ended, job.began[:10])
        rows["hold"].append((hold_id, self.account_id, *amounts, status, key, *times))

    def _post(
        self,
        rows: Rows,
        at: str,
        kind: str,
        debit: str,
        credit: str,
        amount_mt: int,
        *,
        posted_mt: int = 0,
        held_mt: int = 0,
        hold_id: str | None = None,
        memo: str,
    ) -> None:
        self.version += 1
        self.posted_mt += posted_mt
        self.held_mt += held_mt
        rows["entry"].append(
            (
                *(self.account_id, self.version, kind, debit, credit, amount_mt, posted_mt, held_mt),
                *(self.posted_mt, self.held_mt, hold_id, self.user_id, memo, at),
            )
        )

    def _tell(
        self,
        rows: Rows,
        ended: str,
        slot: int,
        job: _Job,
        position: int,
        hold_id: str | None,
        outcome: str,
        amount_mt: int,
        key: str,
    ) -> None:
        """What an image leaves beside its entries: the job's line, usage, and with a charge result and receipt."""
        draw, whose = self._draw, self.account_id
        name, digest = f"line-7-{ended[:10]}-{position:04}.jpg", f"{draw.getrandbits(256):064x}"
        what, where = (job.model, job.version, 640), (job.actor, job.model, slot)
        wait_ms, model_ms, classes, given_back_mt = None, None, dict[str, int](), 0
        if outcome == "charged":
            wait_ms, model_ms = (
                round(draw.expovariate(1 / 20)),
                round(MODEL_MS[job.model] * draw.lognormvariate(0, 0.2)),
            )
            (classes,) = draw.choices(CLASSES, CLASS_SHARES)
            self.details["usage_latency_slot"][*where, lower_bound_ms(wait_ms + model_ms)] += 1
            for class_name, objects in classes.items():
                self.details["usage_class_slot"][*where, class_name] += objects
        elif outcome != "free":
            given_back_mt = amount_mt
            self.details["usage_given_back_slot"][*where, outcome] += amount_mt
        rows["job_image"].append(
            (
                *(f"img_{draw.getrandbits(96):024x}", job.id, position, name, digest, digest, 640, 640, key),
                *(amount_mt if hold_id else 0, hold_id, outcome, None, wait_ms, model_ms, ended, ended),
            )
        )
        if outcome == "charged":
            rows["result"].append((f"res_{draw.getrandbits(96):024x}", whose, key, digest, *what, DETECTIONS, ended))
            rows["receipt"].append(
                (
                    *(f"rcpt_{draw.getrandbits(96):024x}", whose, hold_id, job.quote_id, self._plan.price_version),
                    *(name, digest, 640, 640, 640, 640, 640, job.model, job.version, "1.0", "1.0", "0.010", "0", 0, 1),
                    *(self.version, amount_mt, ended),
                )
            )
        charged_mt = amount_mt if outcome == "charged" else 0
        rows["usage_record"].append(
            (
                *(f"use_{draw.getrandbits(96):024x}", whose, job.id, job.actor, *what, 640, 640, charged_mt),
                *(given_back_mt, outcome, None, wait_ms, model_ms, json.dumps(classes), ended),
            )
        )


def write_history(db: Database, plan: Plan) -> list[Author]:
    """Write a plan into an empty, migrated database; gives the accounts' authors, the first of them first."""
    draw = random.Random(plan.seed)
    authors = [Author(plan, draw) for _ in range(plan.accounts)]
    first, others = authors[0], authors[1:] or authors
    with db.write() as session:
        session.add_all(Account(id=author.account_id, name="bench", created_at=plan.start) for author in authors)
        session.flush()
        session.add_all(
            User(
                id=author.user_id,
                account_id=author.account_id,
                email=f"{number}@bench.example",
                password_digest="-",
                role="owner",
                created_at=plan.start,
            )
            for number, author in enumerate(authors)
        )
    written, rows = 0, _no_rows()
    with bulk_writer(db) as write:
        while written < plan.entries:
            at = plan.start + (plan.end - plan.start) * (written / plan.entries)
            author = first if draw.random() < plan.first_share else draw.choice(others)
            before = author.version
            author.run_job(min(draw.randint(1, IMAGES_PER_JOB_MAX), -(-(plan.entries - written) // 2)), at, rows)
            written += author.version - before
            if len(rows["entry"]) > JOBS_PER_CHUNK * IMAGES_PER_JOB_MAX:
                _flush(write, rows)
                rows = _no_rows()
        for author in authors:
            by_model: dict[tuple[str, int], list[int]] = {}
            for (actor, model, slot), sums in sorted(author.slots.items()):
                rows["usage_caller_slot"].append((author.account_id, actor, model, slot, *sums))
                before = by_model.get((model, slot), [0] * len(sums))
                by_model[model, slot] = [one + more for one, more in zip(before, sums, strict=True)]
            rows["usage_slot"] += [(author.account_id, *key, *sums) for key, sums in sorted(by_model.items())]
            for table, counts in author.details.items():
                rows[table] += [(author.account_id, *key, count) for key, count in sorted(counts.items())]
        _flush(write, rows)
    with db.write() as session:
        for author in authors:
            session.execute(
                update(Account)
                .where(col(Account.id) == author.account_id)
                .values(posted_mt=author.posted_mt, held_mt=author.held_mt, version=author.version)
            )
    return authors


def _no_rows() -> Rows:
    return {table: [] for table in COLUMNS}


def _flush(write: Write, rows: Rows) -> None:
    for table, values in rows.items():
        if values:
            write(table, values)


def _text(moment: datetime) -> str:
    """A moment in UTC as SQLite keeps it and PostgreSQL reads it."""
    return moment.isoformat(" ", "microseconds")[:26]


# Into the database --------------------------------------------------------------------------------


@contextmanager
def bulk_writer(db: Database) -> Iterator[Write]:
    """Writes rows past constraints that they keep anyway; afterwards the indexes are made and statistics are there."""
    with (_sqlite_writer if db.engine.dialect.name == "sqlite" else _postgres_writer)(db) as write:
        yield write


@contextmanager
def _sqlite_writer(db: Database) -> Iterator[Write]:
    # Changing the kind of journal takes the only connection.
    db.engine.dispose()
    driver = sqlite3.connect(str(db.engine.url.database), isolation_level=None)
    # One transaction without a journal, whose pages stay in memory: random keys would write each of them many times.
    for pragma in (
        "journal_mode=OFF",
        "synchronous=OFF",
        "foreign_keys=OFF",
        f"cache_size=-{SQLITE_CACHE_KIB}",
        "threads=2",
    ):
        driver.execute(f"PRAGMA {pragma}")
    tables = ", ".join(f"'{table}'" for table in COLUMNS)
    indexes = driver.execute(
        f"SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql <> '' AND tbl_name IN ({tables})"
    ).fetchall()
    indexes = [(name, sql) for name, sql in indexes if name not in FILLED_INDEXES]
    for name, _sql in indexes:
        driver.execute(f"DROP INDEX {name}")
    driver.execute("BEGIN EXCLUSIVE")

    def write(table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        columns = COLUMNS[table]
        places = ", ".join("?" * len(columns))
        driver.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", rows)

    try:
        yield write
        driver.execute("COMMIT")
        for _name, sql in indexes:
            driver.execute(sql)
        driver.execute("PRAGMA journal_mode=WAL")
    finally:
        driver.close()


@contextmanager
def _postgres_writer(db: Database) -> Iterator[Write]:
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        driver: Any = connection.connection.driver_connection
        # As a superuser: no look at the row behind each foreign key.
        for setting in ("timezone = 'UTC'", "session_replication_role = replica", "maintenance_work_mem = '512MB'"):
            driver.execute(f"SET {setting}")
        tables = ", ".join(f"'{table}'::regclass" for table in COLUMNS)
        indexes = driver.execute(
            f"SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid IN ({tables})"
            " AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)"
        ).fetchall()
        indexes = [(name, definition) for name, definition in indexes if name not in FILLED_INDEXES]
        for name, _definition in indexes:
            driver.execute(f"DROP INDEX {name}")

        def write(table: str, rows: Sequence[tuple[Any, ...]]) -> None:
            with (
                driver.cursor() as cursor,
                cursor.copy(f"COPY {table} ({', '.join(COLUMNS[table])}) FROM STDIN") as copy,
            ):
                for row in rows:
                    copy.write_row(row)

        yield write
        for _name, definition in indexes:
            driver.execute(definition)
        connection.execute(text("VACUUM ANALYZE"))
        connection.invalidate()
