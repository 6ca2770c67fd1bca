"""The demo customer: believable, booked through the ledger, and never anybody else's account."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlmodel import col, select

from core.db import Database
from core.errors import BadCredentialsError, EmailTakenError
from core.identity import users
from core.jobs.tables import Job, Result
from core.ledger.ledger import open_account
from core.ledger.tables import Account, Entry, Hold
from core.ledger.verify import verify_ledger
from core.pricing.tables import Receipt
from core.services import demo
from core.usage.tables import UsageRecord

NOW = datetime(2026, 11, 20, 15, 30, tzinfo=UTC)


def test_a_month_of_history_that_the_ledger_verifies(db: Database) -> None:
    """Entries, holds, usage and balance tell one story, all of it before now and marked as demo data."""
    made = demo.fill(db, now=NOW)

    assert made.is_new
    assert made.verification.ok, made.verification.problems
    with db.read() as session:
        assert verify_ledger(session).ok
        account = session.exec(select(Account)).one()
        entries = session.exec(select(Entry).order_by(col(Entry.seq))).all()
        records = session.exec(select(UsageRecord).order_by(col(UsageRecord.created_at))).all()
        assert session.exec(select(Hold).where(Hold.status == "held")).all() == []
    assert account.is_demo
    assert account.held_mt == 0
    top_ups_mt = sum(entry.amount_mt for entry in entries if entry.kind == "top_up")
    spent_mt = sum(record.amount_mt for record in records)
    assert account.posted_mt == made.available_mt == top_ups_mt - spent_mt
    assert made.spent_mt == spent_mt
    assert {entry.memo for entry in entries} == {"demo"}
    assert {entry.debit_account for entry in entries if entry.kind == "top_up"} == {"house:demo"}
    times = [entry.created_at for entry in entries]
    assert times == sorted(times)
    assert NOW - timedelta(days=31) <= times[0]
    assert times[-1] < NOW
    assert {record.outcome for record in records} == {"charged", "free", "failed", "cancelled"}
    assert len({record.model for record in records}) == 3
    assert len({record.created_at.date() for record in records}) >= 28


def test_weekends_are_quieter(db: Database) -> None:
    """The shape of the week shows in the number of images a day."""
    demo.fill(db, now=NOW, days=14)

    with db.read() as session:
        days = [record.created_at.weekday() for record in session.exec(select(UsageRecord)).all()]
    weekend = sum(day >= 5 for day in days) / 2
    weekdays = sum(day < 5 for day in days) / 5
    assert weekend < weekdays / 2


def test_nothing_that_was_not_run_is_invented(db: Database) -> None:
    """No job, result or receipt: those stand for work that was really done."""
    demo.fill(db, now=NOW, days=7)

    with db.read() as session:
        assert session.exec(select(Job)).all() == []
        assert session.exec(select(Result)).all() == []
        assert session.exec(select(Receipt)).all() == []


def test_a_second_run_changes_the_password_only(db: Database) -> None:
    """The history is not doubled; the old password no longer fits, the new one does."""
    first = demo.fill(db, now=NOW, days=7)

    second = demo.fill(db, now=NOW + timedelta(days=1), days=7)

    assert not second.is_new
    assert (second.images, second.spent_mt, second.available_mt) == (
        first.images,
        first.spent_mt,
        first.available_mt,
    )
    with db.read() as session:
        user = users.find_user(session, demo.EMAIL)
    assert user is not None
    assert user.role == "owner"
    with pytest.raises(BadCredentialsError):
        users.check_credentials(user, first.password)
    assert users.check_credentials(user, second.password).id == user.id


def test_the_same_seed_gives_the_same_amounts(db: Database, tmp_path: object) -> None:
    """Two installations filled at the same moment look the same."""
    other = Database(f"sqlite:///{tmp_path}/other.db")
    other.migrate()

    here, there = demo.fill(db, now=NOW, days=7), demo.fill(other, now=NOW, days=7)

    other.close()
    assert (here.images, here.spent_mt) == (there.images, there.spent_mt)


def test_somebody_elses_account_is_left_alone(db: Database) -> None:
    """Whoever really has the demo's address keeps his password."""
    with db.write() as session:
        account = open_account(session, "A person")
        users.add_user(session, account_id=account.id, email=demo.EMAIL, password_digest="his own", role="owner")

    with pytest.raises(EmailTakenError):
        demo.fill(db, now=NOW, days=7)

    with db.read() as session:
        user = users.find_user(session, demo.EMAIL)
    assert user is not None
    assert user.password_digest == "his own"
