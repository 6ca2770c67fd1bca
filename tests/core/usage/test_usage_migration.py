"""The migration that brings the roll-up counts what older installations have recorded, and can be taken back."""

from __future__ import annotations

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
from core.slots import slot_of
from core.usage import queries
from core.usage.records import add_record
from core.usage.tables import UsageCallerSlot, UsageRecord, UsageSlot

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
def old_db(database_url: str) -> Iterator[Database]:
    """A database as it was before the roll-up, with one account and its records."""
    database = Database(database_url)
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
        stored = at.strftime("%Y-%m-%d %H:%M:%S.%f") + ("" if database_url.startswith("sqlite") else "+00")
        insert(
            database,
            "usage_record",
            {"id": f"use_{number}", "account_id": "acct", "actor": "ann", "model": model, "model_version": "v",
             "img_size": 640, "input_height": 640, "input_width": 640, "amount_mt": amount_mt, "outcome": outcome,
             "class_counts": "{}", "created_at": stored},
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
