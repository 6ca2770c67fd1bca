"""Transactions, types and migrations."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import StatementError
from sqlmodel import SQLModel

from core.db import Database, insert_if_absent, utcnow
from core.ledger import ledger
from core.ledger.tables import Account


def test_migrations_make_exactly_the_tables_of_the_code(db: Database) -> None:
    """Nothing is in the models that the migrations do not make, and the other way round."""
    with db.engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), SQLModel.metadata)
    assert differences == []


def test_migrating_again_does_nothing(db: Database) -> None:
    """A second start on the same database keeps what is there."""
    with db.write() as session:
        account_id = ledger.open_account(session, "Ann").id
    db.migrate()
    with db.read() as session:
        assert session.get(Account, account_id) is not None


def test_sqlite_is_durable_and_checked(tmp_path: Path) -> None:
    """WAL, full synchronisation and foreign keys are on for every connection."""
    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    database.migrate()
    with database.read() as session:
        found = [
            session.connection().execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    database.close()
    assert found == ["wal", 2, 1]


def test_times_come_back_aware_and_in_utc(db: Database) -> None:
    """A time with an offset is stored as the same moment; a naive one is refused."""
    moment = datetime(2026, 3, 1, 8, 0, tzinfo=timezone(timedelta(hours=8)))
    with db.write() as session:
        account_id = ledger.open_account(session, "Ann").id
        session.get_one(Account, account_id).created_at = moment
    with db.read() as session:
        stored = session.get_one(Account, account_id).created_at
    assert stored == moment
    assert stored.tzinfo is UTC
    with pytest.raises((StatementError, ValueError), match="naive"), db.write() as session:
        session.get_one(Account, account_id).created_at = datetime(2026, 3, 1)


def test_a_reader_sees_no_half_transaction(db: Database) -> None:
    """What a writer has not committed is invisible to a reader, and visible afterwards."""
    written, looked = threading.Event(), threading.Event()

    def write() -> None:
        with db.write() as session:
            ledger.open_account(session, "Ann")
            written.set()
            looked.wait(10)

    writer = threading.Thread(target=write)
    writer.start()
    assert written.wait(10)
    with db.read() as session:
        before = session.connection().execute(text("SELECT count(*) FROM account")).scalar_one()
    looked.set()
    writer.join()
    with db.read() as session:
        after = session.connection().execute(text("SELECT count(*) FROM account")).scalar_one()
    assert (before, after) == (0, 1)


def test_insert_if_absent(db: Database) -> None:
    """The first insert gives its value, the second gives None and changes nothing."""
    values = {
        "id": "acct_1", "name": "Ann", "posted_mt": 0, "held_mt": 0, "version": 0, "status": "active",
        "is_demo": False, "created_at": utcnow(),
    }  # fmt: skip
    with db.write() as session:
        assert insert_if_absent(session, Account, values, returning="id") == "acct_1"
        assert insert_if_absent(session, Account, {**values, "name": "Bob"}, returning="id") is None
    with db.read() as session:
        assert session.get_one(Account, "acct_1").name == "Ann"
