"""The numbers behind the charts: periods, days of a time zone, outcomes, CSV."""

from __future__ import annotations

import csv
import io
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from core.db import Database
from core.ledger import ledger
from core.usage import queries
from core.usage.tables import UsageRecord

SHANGHAI = ZoneInfo("Asia/Shanghai")
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


def record(
    account_id: str, at: datetime, outcome: str = "charged", model: str = "yolov8s", mt: int = 1000
) -> UsageRecord:
    """One image."""
    return UsageRecord(
        account_id=account_id, actor="ann", model=model, model_version="v", img_size=640, input_height=640,
        input_width=640, amount_mt=mt if outcome == "charged" else 0, outcome=outcome, class_counts={"Normal": 2},
        created_at=at,
    )  # fmt: skip


@pytest.fixture
def account_id(db: Database) -> str:
    """An account with six records in three days, and somebody else with one."""
    with db.write() as session:
        mine, other = (ledger.open_account(session, name).id for name in ("Ann", "Bob"))
        session.add_all(
            [
                record(mine, NOON),
                record(mine, NOON + timedelta(hours=5), mt=2500, model="yolov8l"),
                record(mine, NOON + timedelta(days=1), "failed"),
                record(mine, NOON + timedelta(days=1), "free"),
                record(mine, NOON + timedelta(days=1), "interrupted"),
                record(mine, NOON + timedelta(days=2)),
                record(other, NOON),
            ]
        )
    return mine


def test_period_is_half_open_and_own(db: Database, account_id: str) -> None:
    """The start belongs to a period, the end does not, and nobody sees another's records."""
    with db.read() as session:
        found = queries.list_records(session, account_id, NOON, NOON + timedelta(days=2))
        assert len(found) == 5
        assert len(queries.list_records(session, account_id, NOON, NOON + timedelta(days=2, microseconds=1))) == 6
        only = queries.list_records(session, account_id, NOON, NOON + timedelta(days=9), models=["yolov8l"])
        assert [one.amount_mt for one in only] == [2500]
        assert queries.list_records(session, account_id, NOON, NOON + timedelta(days=9), models=[]) == []
        assert queries.used_models(session, account_id) == ["yolov8l", "yolov8s"]
    totals = queries.sum_up(found)
    assert totals == queries.Totals(amount_mt=3500, images=5, charged=2, free=1, failed=2)


def test_days_are_those_of_the_reader(db: Database, account_id: str) -> None:
    """17:00 UTC is the next day in Shanghai."""
    with db.read() as session:
        found = queries.list_records(session, account_id, NOON, NOON + timedelta(hours=6))
    in_utc, in_shanghai = queries.by_day(found, UTC), queries.by_day(found, SHANGHAI)
    assert [(day.day, day.model, day.amount_mt) for day in in_utc] == [
        (date(2026, 3, 10), "yolov8l", 2500),
        (date(2026, 3, 10), "yolov8s", 1000),
    ]
    assert [(day.day, day.model) for day in in_shanghai] == [
        (date(2026, 3, 10), "yolov8s"),
        (date(2026, 3, 11), "yolov8l"),
    ]


def test_empty_days_are_listed() -> None:
    """Every day of a period, also over a month's end, and the one before it."""
    start, end = datetime(2026, 2, 27, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)
    assert queries.days_of(start, end, UTC) == [date(2026, 2, 27), date(2026, 2, 28), date(2026, 3, 1)]
    assert queries.previous_period(start, end) == (datetime(2026, 2, 24, tzinfo=UTC), start)


def test_csv_is_the_records(db: Database, account_id: str) -> None:
    """One line a record with exact tokens; without records still the header."""
    with db.read() as session:
        found = queries.list_records(session, account_id, NOON, NOON + timedelta(days=9))
    rows = list(csv.DictReader(io.StringIO(queries.to_csv(found))))
    assert [row["tokens"] for row in rows] == ["1.000", "2.500", "0.000", "0.000", "0.000", "1.000"]
    assert rows[0]["time_utc"] == "2026-03-10T12:00:00+00:00"
    assert rows[0]["classes"] == "Normal 2"
    assert queries.to_csv([]).splitlines()[0] == queries.to_csv(found).splitlines()[0]


def test_outcomes(db: Database, account_id: str) -> None:
    """Images by outcome, most frequent first."""
    with db.read() as session:
        found = queries.list_records(session, account_id, NOON, NOON + timedelta(days=9))
    assert next(iter(queries.by_outcome(found).items())) == ("charged", 3)
    assert sum(queries.by_outcome(found).values()) == 6
