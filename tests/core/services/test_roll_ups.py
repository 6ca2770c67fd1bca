"""Sums of entries behind the commit: exact whether the keeper is on time, late or away, and each entry once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import func, text, update
from sqlmodel import col, select

from core.config import Settings
from core.db import Database
from core.identity.tables import User
from core.ledger import ledger, roll_up
from core.ledger.roll_up import KindSum, behind_accounts, roll_up_entries, sum_by_day
from core.ledger.tables import Account, Entry, EntrySlot, RollUp
from core.services import roll_ups
from core.services.application import Application
from core.services.statement import build_statement
from tests.core.services.test_statement import Change, book

KINDS = ("top_up", "hold", "capture", "release", "refund", "adjustment")
ZONES = ("UTC", "Asia/Kolkata", "Asia/Kathmandu", "America/New_York", "Australia/Lord_Howe")
SEED = 20_260_404


def open_accounts(db: Database, count: int) -> list[str]:
    """Accounts with nothing in them."""
    with db.write() as session:
        return [ledger.open_account(session, "Ann").id for _ in range(count)]


def draw_changes(draw: random.Random, count: int) -> list[Change]:
    """Entries of 2026, many of them around New York's and Lord Howe's changes of clocks and on quarters of an hour."""
    changes: list[Change] = []
    for _ in range(count):
        at = draw.choice((datetime(2026, 3, 8, 7, tzinfo=UTC), datetime(2026, 4, 4, 15, tzinfo=UTC)))
        at += timedelta(seconds=draw.choice((900 * draw.randint(-200, 200), draw.randint(-9_000_000, 9_000_000))))
        at += timedelta(microseconds=draw.choice((-1, 0, 1, 499_999)))
        kind = draw.choice(KINDS)
        change_mt = 0 if kind in ("hold", "release") else draw.randint(1, 999) * (-1 if kind == "capture" else 1)
        changes.append((at, kind, change_mt, ""))
    return changes


def write(db: Database, account_id: str, changes: Sequence[Change], written: Sequence[Change]) -> None:
    """Continue an account's entries, from a million milli-tokens on, and its version, as the ledger does."""
    book(db, account_id, changes, first_seq=len(written) + 1, posted_mt=10**6 + sum(change[2] for change in written))
    with db.write() as session:
        version = len(written) + len(changes)
        session.execute(update(Account).where(col(Account.id) == account_id).values(version=version))


def sum_in_python(
    changes: Sequence[Change], start: datetime, end: datetime, zone: ZoneInfo
) -> dict[date, list[KindSum]]:
    """The sums straight from the entries."""
    entries: Counter[tuple[date, str]] = Counter()
    posting: Counter[tuple[date, str]] = Counter()
    posted_mt: Counter[tuple[date, str]] = Counter()
    for at, kind, change_mt, _memo in changes:
        if start <= at < end:
            key = at.astimezone(zone).date(), kind
            entries[key] += 1
            posting[key] += change_mt != 0
            posted_mt[key] += change_mt
    days: dict[date, list[KindSum]] = {}
    for day, kind in sorted(entries):
        key = day, kind
        days.setdefault(day, []).append(KindSum(kind, entries[key], posting[key], posted_mt[key]))
    return days


@pytest.mark.parametrize("few", [20_000, 3], ids=["few-newer", "many-newer"])
def test_the_sums_are_exact_wherever_the_roll_up_stands(
    db: Database, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random entries, and random steps of the roll-up between them: the days of every zone are those of the entries."""
    monkeypatch.setattr(roll_up, "FEW_ENTRIES", few)
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when the test fails
    draw = random.Random(SEED)
    mine, other = open_accounts(db, 2)
    write(db, other, draw_changes(draw, 20), [])
    written: list[Change] = []
    compared = 0
    for _ in range(8):
        changes = draw_changes(draw, draw.randint(1, 60))
        write(db, mine, changes, written)
        written += changes
        with db.write() as session:
            roll_up_entries(session, mine, limit=draw.randint(1, 80))
        with db.read() as session:
            for zone in map(ZoneInfo, ZONES):
                first = date(2026, 1, 1) + timedelta(days=draw.randrange(120))
                start = datetime.combine(first, time.min, tzinfo=zone)
                end = datetime.combine(first + timedelta(days=draw.randint(1, 90)), time.min, tzinfo=zone)
                found = sum_by_day(session, mine, start, end, zone)
                assert found == sum_in_python(written, start, end, zone), f"{zone} {start} {end}"
                assert list(found) == sorted(found)
                compared += sum(map(len, found.values()))
    assert compared > 1000


def test_a_statement_is_the_same_before_and_after(db: Database) -> None:
    """Nothing, some or all of a month's entries in slots: the same lines, totals and balances."""
    (account_id,) = open_accounts(db, 1)
    draw = random.Random(SEED)
    at = datetime(2026, 5, 1, tzinfo=UTC)
    changes: list[Change] = [(at, "top_up", 10**6, "ABCD")]
    for _ in range(80):
        at += timedelta(seconds=draw.randint(1, 40_000))
        changes.append((at, "capture", -draw.randint(1, 999), "job"))
    book(db, account_id, changes)
    app = Application(Settings(_env_file=None), db, None, None, None, None, None)  # statements read the database only
    made = []
    for steps in (0, 30, 81):
        with db.write() as session:
            roll_up_entries(session, account_id, limit=max(steps, 1))
        statement = build_statement(app, User(account_id=account_id), 2026, 5, zone=ZoneInfo("Asia/Kolkata"))
        made.append(replace(statement, made_at=at))
    assert made[0] == made[1] == made[2]
    assert made[0].closing_mt == sum(change[2] for change in changes if change[0] < made[0].end)


def test_the_keeper_catches_up_with_everybody(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """All entries of all accounts, in as many transactions as it takes; then nobody is behind."""
    monkeypatch.setattr(roll_ups, "roll_up_entries", lambda session, key: roll_up_entries(session, key, limit=7))
    draw, accounts = random.Random(SEED), open_accounts(db, 3)
    for account_id in accounts[:2]:
        write(db, account_id, draw_changes(draw, 25), [])
    assert roll_ups.roll_up(db) == 50
    assert roll_ups.roll_up(db) == 0
    with db.read() as session:
        assert behind_accounts(session) == []
        assert session.exec(select(func.sum(EntrySlot.entries))).one() == 50
        assert {row.account_id: row.seq for row in session.exec(select(RollUp))} == dict.fromkeys(accounts[:2], 25)
    write(db, accounts[0], draw_changes(draw, 1), draw_changes(draw, 25))
    with db.read() as session:
        assert behind_accounts(session) == [accounts[0]]
        assert behind_accounts(session, after=accounts[0]) == []


def test_two_keepers_count_each_entry_once(db: Database) -> None:
    """Eight threads roll up the same account at the same time: one after the other continues."""
    (account_id,) = open_accounts(db, 1)
    changes = draw_changes(random.Random(SEED), 400)
    write(db, account_id, changes, [])

    def keep(_number: int) -> int:
        summed = 0
        while True:
            with db.write() as session:
                count = roll_up_entries(session, account_id, limit=9)
            if not count:
                return summed
            summed += count

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(keep, range(8))) == 400
    start, end = datetime(2025, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    with db.read() as session:
        assert sum_by_day(session, account_id, start, end, UTC) == sum_in_python(changes, start, end, ZoneInfo("UTC"))


def test_entries_that_tampering_left_hold_nobody_up(tmp_path: object) -> None:
    """SQLite takes any text for a time: such an entry counts in 1970, and those after it in their own slots."""
    db = Database(f"sqlite:///{tmp_path}/ledger.db")
    db.migrate()
    (account_id,) = open_accounts(db, 1)
    at = datetime(2026, 5, 5, 12, tzinfo=UTC)
    write(db, account_id, [(at, "top_up", 5, "")] * 3, [])
    with db.write() as session:
        session.connection().execute(text("DROP TRIGGER entry_no_update"))
        session.connection().execute(text("UPDATE entry SET created_at = 'yesterday' WHERE seq = 2"))
    assert roll_ups.roll_up(db) == 3
    with db.read() as session:
        slots = session.exec(select(EntrySlot.slot, EntrySlot.entries).order_by(col(EntrySlot.slot))).all()
        assert session.exec(select(func.count()).select_from(Entry)).one() == 3
    db.close()
    assert [tuple(row) for row in slots] == [(0, 1), (int(at.timestamp()) // 900, 2)]
