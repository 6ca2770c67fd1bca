"""The migration that brings the roll-up counts what older installations have recorded, and can be taken back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import inspect, text
from sqlmodel import col, select

from core.config import ROOT
from core.db import Database
from core.jobs.tables import Job, JobImage
from core.ledger.tables import Hold
from core.pricing.book import adopt_published, current_prices
from core.pricing.tables import Quote
from core.slots import slot_of
from core.usage import queries
from core.usage.records import add_record
from core.usage.tables import (
    UsageCallerSlot,
    UsageClassSlot,
    UsageGivenBackSlot,
    UsageLatencySlot,
    UsageRecord,
    UsageSlot,
)

QUARTER = datetime(2026, 11, 23, 18, 15, tzinfo=UTC)
# Model, outcome, milli-tokens and time of what was recorded before there was a roll-up.
RECORDS = [
    ("yolov8n", "charged", 700, QUARTER - timedelta(microseconds=1)),
    ("yolov8n", "charged", 700, QUARTER),
    ("yolov8n", "charged", 1300, QUARTER + timedelta(minutes=14, seconds=59, microseconds=999_999)),
    ("yolov8n", "free", 0, QUARTER + timedelta(minutes=3)),
    ("yolov8n", "interrupted", 0, QUARTER + timedelta(minutes=3)),
    ("yolov8l", "failed", 0, QUARTER + timedelta(minutes=15)),
]


def migrate(database: Database, revision: str) -> None:
    """Bring a database up or, with a minus sign before it, down to a revision."""
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    config.attributes["url"] = database.url
    (command.downgrade if revision.startswith("-") else command.upgrade)(config, revision.removeprefix("-"))


def insert(database: Database, table: str, values: dict[str, Any]) -> None:
    """One row, as the database of that time takes it."""
    names, places = ", ".join(values), ", ".join(f":{name}" for name in values)
    with database.write() as session:
        session.connection().execute(text(f"INSERT INTO {table} ({names}) VALUES ({places})"), values)


@pytest.fixture
def old_db(empty_database_url: str) -> Iterator[Database]:
    """A database as it was before the roll-up, with one account and its records."""
    database = Database(empty_database_url)
    migrate(database, "0003")
    moment = QUARTER.strftime("%Y-%m-%d %H:%M:%S.%f")
    insert(
        database,
        "account",
        {"id": "acct", "name": "Ann", "posted_mt": 0, "held_mt": 0, "version": 0, "status": "active",
         "is_demo": False, "created_at": moment},
    )  # fmt: skip
    for number, (model, outcome, amount_mt, at) in enumerate(RECORDS):
        # As `core.db.UTCDateTime` stores it; PostgreSQL is told the zone, as its session may be in another.
        stored = at.strftime("%Y-%m-%d %H:%M:%S.%f") + ("" if empty_database_url.startswith("sqlite") else "+00")
        insert(
            database,
            "usage_record",
            {"id": f"use_{number}", "account_id": "acct", "actor": "ann", "model": model, "model_version": "v",
             "img_size": 640, "input_height": 640, "input_width": 640, "amount_mt": amount_mt, "outcome": outcome,
             "wait_ms": 3 if outcome == "charged" else None, "model_ms": 40 * number if outcome == "charged" else None,
             "class_counts": json.dumps({"Normal": 2, "数": number}), "created_at": stored},
        )  # fmt: skip
    yield database
    database.close()


def slots(database: Database) -> list[dict[str, Any]]:
    """The rows of the roll-up, which that by caller has as well."""
    with database.read() as session:
        rows = session.exec(select(UsageSlot).order_by(col(UsageSlot.model), col(UsageSlot.slot))).all()
        by_caller = session.exec(
            select(UsageCallerSlot).order_by(col(UsageCallerSlot.model), col(UsageCallerSlot.slot))
        ).all()
    counted = [row.model_dump() for row in rows]
    # All records are Ann's.
    assert [row.model_dump() for row in by_caller] == [{**row, "actor": "ann"} for row in counted]
    return counted


def details(database: Database) -> list[list[dict[str, Any]]]:
    """The rows of the roll-ups of times and classes."""
    with database.read() as session:
        return [
            sorted((row.model_dump() for row in session.exec(select(table)).all()), key=str)
            for table in (UsageLatencySlot, UsageClassSlot)
        ]


def test_old_times_and_classes_are_counted(old_db: Database) -> None:
    """Each record's time and classes are where writing it today would have put them."""
    migrate(old_db, "head")
    times, classes = counted = details(old_db)
    assert [row["from_ms"] for row in times] == [3, 40, 80], "3, 43 and 83 ms"
    assert {(row["class_name"], row["objects"]) for row in classes} >= {("Normal", 2), ("数", 5)}
    with old_db.write() as session:
        records = session.exec(select(UsageRecord)).all()
        for table in ("usage_latency_slot", "usage_class_slot"):
            session.connection().execute(text(f"DELETE FROM {table}"))
        for record in records:
            add_record(session, UsageRecord.model_validate({**record.model_dump(), "id": f"{record.id}_again"}))
    assert details(old_db) == counted


def test_what_runs_gave_back_is_counted(old_db: Database) -> None:
    """What was held for images that were not charged, and what failed tiles gave back; not what was never held."""
    migrate(old_db, "head")
    ended = QUARTER + timedelta(minutes=1)
    with old_db.write() as session:
        adopt_published(session)
        prices = current_prices(session).version
        job = Job(id="job", account_id="acct", quote_id="quote", actor="key_1", model="yolov8n", model_version="v",
                  img_size=640, lease_expires_at=ended)  # fmt: skip
        session.add(Quote(id="quote", account_id="acct", price_version=prices, model="yolov8n", model_version="v",
                          img_size=640, total_mt=1, list_mt=1, lines=[], expires_at=ended))  # fmt: skip
        session.flush()
        session.add(job)
        session.flush()
        for number, (status, hold_id, amount_mt, returned_mt) in enumerate((
            ("failed", "hold_0", 700, 0), ("failed", "hold_1", 300, 0), ("failed", None, 0, 0),
            ("charged", "hold_3", 500, 50), ("charged", "hold_4", 500, 0), ("free", None, 0, 0),
            ("cancelled", "hold_6", 90, 0),
        )):  # fmt: skip
            if hold_id is not None:
                session.add(Hold(id=hold_id, account_id="acct", amount_mt=1, charge_key=hold_id, expires_at=ended,
                                 status="released"))  # fmt: skip
                session.flush()
            session.add(JobImage(job_id="job", position=number, name="n", file_sha256="f", image_sha256="i", height=1,
                                 width=1, charge_key=f"key_{number}", amount_mt=amount_mt, returned_mt=returned_mt,
                                 hold_id=hold_id, status=status, finished_at=ended))  # fmt: skip
    migrate(old_db, "-0009")
    migrate(old_db, "head")
    with old_db.read() as session:
        found = {
            (row.actor, row.model, row.slot, row.outcome): row.amount_mt
            for row in session.exec(select(UsageGivenBackSlot)).all()
        }
    key = ("key_1", "yolov8n", slot_of(QUARTER))
    assert found == {(*key, "failed"): 1000, (*key, "charged"): 50, (*key, "cancelled"): 90}


def test_old_records_are_counted(old_db: Database) -> None:
    """Each record is in the slot, and under the outcome, that writing it today would have put it."""
    migrate(old_db, "head")
    counted = slots(old_db)
    assert [(row["model"], row["slot"] - slot_of(QUARTER)) for row in counted] == [
        ("yolov8l", 1), ("yolov8n", -1), ("yolov8n", 0)
    ]  # fmt: skip
    assert counted[2] == {
        "account_id": "acct", "model": "yolov8n", "slot": slot_of(QUARTER), "charged": 2, "free": 1, "failed": 0,
        "cancelled": 0, "interrupted": 1, "amount_mt": 2000,
    }  # fmt: skip
    with old_db.write() as session:
        records = session.exec(select(UsageRecord)).all()
        session.connection().execute(text("DELETE FROM usage_slot"))
        session.connection().execute(text("DELETE FROM usage_caller_slot"))
        for record in records:
            copy = UsageRecord.model_validate({**record.model_dump(), "id": f"{record.id}_again"})
            add_record(session, copy)
    assert slots(old_db) == counted


def test_a_new_record_goes_on_top(old_db: Database) -> None:
    """What comes after the migration is added to the slots that it made, and the page's days show both."""
    migrate(old_db, "head")
    values = {"actor": "ann", "model_version": "v", "img_size": 640, "input_height": 640, "input_width": 640}
    with old_db.write() as session:
        at = QUARTER + timedelta(minutes=1)
        add_record(session, UsageRecord(account_id="acct", model="yolov8n", amount_mt=5, outcome="charged",
                                        created_at=at, **values))  # fmt: skip
        days = queries.sum_days(session, "acct", datetime(2026, 11, 23, tzinfo=UTC), datetime(2026, 11, 24, tzinfo=UTC),
                                UTC)  # fmt: skip
    assert [(day.group, day.images, day.amount_mt) for day in days] == [("yolov8l", 1, 0), ("yolov8n", 6, 2705)]


def test_down_and_up_again(old_db: Database) -> None:
    """The way back takes the roll-up away and no record; forward, it is counted again."""
    migrate(old_db, "head")
    counted = slots(old_db)
    migrate(old_db, "-0003")
    assert not {"usage_slot", "usage_caller_slot"} & set(inspect(old_db.engine).get_table_names())
    migrate(old_db, "head")
    assert slots(old_db) == counted
