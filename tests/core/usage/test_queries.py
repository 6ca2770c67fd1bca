"""The numbers behind the charts: periods, days of a time zone, outcomes, CSV; all from the roll-up but the last."""

from __future__ import annotations

import csv
import io
import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy.exc import IntegrityError
from sqlmodel import select

from core.db import Database
from core.ledger import ledger
from core.usage import export, queries
from core.usage.records import add_record
from core.usage.tables import OUTCOMES, UsageRecord, UsageSlot

SHANGHAI = ZoneInfo("Asia/Shanghai")
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
# Half and quarter hours, clocks that change by an hour, and by half of one.
ZONES = ("UTC", "Asia/Shanghai", "Asia/Kolkata", "Asia/Kathmandu", "America/New_York", "Australia/Lord_Howe")
# Moments of 2026 at which one of them changes its clocks.
CHANGES = (
    datetime(2026, 3, 8, 7, tzinfo=UTC),
    datetime(2026, 11, 1, 6, tzinfo=UTC),
    datetime(2026, 4, 4, 15, tzinfo=UTC),
    datetime(2026, 10, 3, 15, 30, tzinfo=UTC),
)
SEED = 20_260_308


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
        for one in (
            record(mine, NOON),
            record(mine, NOON + timedelta(hours=5), mt=2500, model="yolov8l"),
            record(mine, NOON + timedelta(days=1), "failed"),
            record(mine, NOON + timedelta(days=1), "free"),
            record(mine, NOON + timedelta(days=1), "interrupted"),
            record(mine, NOON + timedelta(days=2)),
            record(other, NOON, model="yolov8x"),
        ):
            add_record(session, one)
    return mine


def test_period_is_half_open_and_own(db: Database, account_id: str) -> None:
    """The start belongs to a period, the end does not, and nobody sees another's images."""

    def amounts(end: datetime, models: Collection[str] | None = None) -> list[int]:
        return [
            one.amount_mt
            for one in queries.sum_days(session, account_id, NOON, end, UTC, which=queries.Selection(models))
        ]

    with db.read() as session:
        found = queries.sum_days(session, account_id, NOON, NOON + timedelta(days=2), UTC)
        assert amounts(NOON + timedelta(days=2)) == [2500, 1000, 0]
        assert amounts(NOON + timedelta(days=2, minutes=15)) == [2500, 1000, 0, 1000]
        assert amounts(NOON + timedelta(days=9), ["yolov8l"]) == [2500]
        assert amounts(NOON + timedelta(days=9), []) == []
        assert amounts(NOON) == []
        assert queries.used_models(session, account_id) == ["yolov8l", "yolov8s"]
        assert queries.used_models(session, "nobody") == []
    assert queries.sum_up(found) == queries.Totals(amount_mt=3500, images=5, charged=2, free=1, failed=2)
    assert queries.sum_up([]) == queries.Totals(0, 0, 0, 0, 0)


def test_days_are_those_of_the_reader(db: Database, account_id: str) -> None:
    """17:00 UTC is the next day in Shanghai."""
    with db.read() as session:
        in_utc, in_shanghai = (
            queries.sum_days(session, account_id, NOON, NOON + timedelta(hours=6), zone) for zone in (UTC, SHANGHAI)
        )
    assert [(day.day, day.group, day.amount_mt, day.images) for day in in_utc] == [
        (date(2026, 3, 10), "yolov8l", 2500, 1),
        (date(2026, 3, 10), "yolov8s", 1000, 1),
    ]
    assert [(day.day, day.group) for day in in_shanghai] == [
        (date(2026, 3, 10), "yolov8s"),
        (date(2026, 3, 11), "yolov8l"),
    ]


def draw_records(draw: random.Random, account_ids: Sequence[str]) -> list[UsageRecord]:
    """Images of 2026, half of them within hours of a change of clocks, many right on a quarter of an hour or beside."""
    records = []
    for _ in range(500):
        if draw.random() < 0.5:
            at = draw.choice(CHANGES) + timedelta(seconds=draw.randint(-40 * 3600, 40 * 3600))
        else:
            at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=draw.randrange(365 * 86_400))
        if draw.random() < 0.5:
            at -= timedelta(seconds=at.timestamp() % 900)
            at += timedelta(microseconds=draw.choice((-1, 0, 1)))
        outcome = draw.choice(OUTCOMES)
        model = draw.choice(("yolov8n", "yolov8s", "yolov8l"))
        records.append(record(draw.choice(account_ids), at, outcome, model, mt=draw.randint(10, 9999)))
    return records


def sum_in_python(
    records: Iterable[UsageRecord], start: datetime, end: datetime, zone: ZoneInfo, models: Collection[str]
) -> list[tuple[Any, ...]]:
    """Day, model, amount and outcomes, straight from the records."""
    amounts: Counter[tuple[date, str]] = Counter()
    outcomes: dict[tuple[date, str], Counter[str]] = {}
    for one in records:
        if start <= one.created_at < end and one.model in models:
            key = one.created_at.astimezone(zone).date(), one.model
            amounts[key] += one.amount_mt
            outcomes.setdefault(key, Counter())[one.outcome] += 1
    return [(*key, amounts[key], outcomes[key]) for key in sorted(outcomes)]


def test_the_roll_up_says_what_the_records_say(db: Database) -> None:
    """Random images in random periods of zones with odd offsets and changing clocks: every sum, to the image."""
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when the test fails
    draw = random.Random(SEED)
    with db.write() as session:
        mine, other = (ledger.open_account(session, name).id for name in ("Ann", "Bob"))
        drawn = draw_records(draw, (mine, other))
        for one in drawn:
            add_record(session, one)
    own = [one for one in drawn if one.account_id == mine]
    every = sorted({one.model for one in own})
    compared = 0
    with db.read() as session:
        for zone in map(ZoneInfo, ZONES):
            for number in range(25):
                length, last_start = (400, 1) if number == 0 else (draw.randint(1, 60), 365)
                first = date(2025, 12, 20) + timedelta(days=draw.randrange(last_start))
                start = datetime.combine(first, time.min, tzinfo=zone)
                end = datetime.combine(first + timedelta(days=length), time.min, tzinfo=zone)
                models = draw.choice((None, every[:1], every[1:], every))
                for period in ((start, end), queries.previous_period(start, end)):
                    found = queries.sum_days(session, mine, *period, zone, which=queries.Selection(models))
                    expected = sum_in_python(own, *period, zone, models or every)
                    assert [(day.day, day.group, day.amount_mt, day.outcomes) for day in found] == expected, (
                        f"{zone} {period} {models}"
                    )
                    assert {day.day for day in found} <= set(queries.days_of(*period, zone))
                    assert queries.sum_up(found).images == sum(day.images for day in found)
                    compared += len(found)
    assert compared > 2000


def test_usage_by_caller_says_what_the_records_say(db: Database) -> None:
    """Random images of five callers, two accounts and three models: every sum of every caller, in order."""
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when the test fails
    draw = random.Random(SEED)
    with db.write() as session:
        mine, other = (ledger.open_account(session, name).id for name in ("Ann", "Bob"))
        drawn = draw_records(draw, (mine, other))
        for one in drawn:
            one.actor = draw.choice(("key_1", "key_2", "key_3", "user_1", "user_2"))
            add_record(session, one)
    with db.read() as session:
        for number in range(40):
            start = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=15 * draw.randrange(300 * 96))
            end = start + timedelta(minutes=15 * draw.randint(1, 100 * 96))
            models = draw.choice((None, ["yolov8n"], ["yolov8s", "yolov8l"])) if number else []
            expected: dict[str, Counter[str]] = {}
            for one in drawn:
                if (
                    one.account_id == mine
                    and start <= one.created_at < end
                    and one.model in (models or ("yolov8n", "yolov8s", "yolov8l"))
                ):
                    sums = expected.setdefault(one.actor, Counter())
                    sums.update({one.outcome: 1, "images": 1, "mt": one.amount_mt})
            if number == 0:
                expected = {}
            found = queries.sum_callers(session, mine, start, end, which=queries.Selection(models))
            assert {one.actor: one.totals for one in found} == {
                actor: queries.Totals(
                    sums["mt"], sums["images"], sums["charged"], sums["free"],
                    sums["images"] - sums["charged"] - sums["free"],
                )
                for actor, sums in expected.items()
            }  # fmt: skip
            assert [one.totals.amount_mt for one in found] == sorted(
                (one.totals.amount_mt for one in found), reverse=True
            )
        assert queries.used_actors(session, mine) == ["key_1", "key_2", "key_3", "user_1", "user_2"]
        with pytest.raises(ValueError, match="quarter"):
            queries.sum_callers(session, mine, NOON + timedelta(minutes=1), NOON + timedelta(days=1))


def test_every_record_is_counted_once(db: Database) -> None:
    """Many records of one quarter of an hour are one row; a record whose transaction fails leaves no trace in it."""
    with db.write() as session:
        mine = ledger.open_account(session, "Ann").id
        for second in range(30):
            add_record(
                session, record(mine, NOON + timedelta(seconds=29 * second), "free" if second % 3 else "charged")
            )
    refused = record(mine, NOON)
    refused.model_version = None  # type: ignore[assignment]  # NOT NULL
    with pytest.raises(IntegrityError), db.write() as session:
        add_record(session, refused)
    with db.read() as session:
        (slot,) = session.exec(select(UsageSlot)).all()
    assert (slot.charged, slot.free, slot.failed, slot.amount_mt) == (10, 20, 0, 10_000)


def test_empty_days_are_listed() -> None:
    """Every day of a period, also over a month's end, and the one before it."""
    start, end = datetime(2026, 2, 27, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)
    assert queries.days_of(start, end, UTC) == [date(2026, 2, 27), date(2026, 2, 28), date(2026, 3, 1)]
    assert queries.previous_period(start, end) == (datetime(2026, 2, 24, tzinfo=UTC), start)


def test_the_period_before_is_of_whole_days_too() -> None:
    """The week after New York's clocks went forward follows a week of whole days, an hour longer."""
    new_york = ZoneInfo("America/New_York")
    start, end = datetime(2026, 3, 8, tzinfo=new_york), datetime(2026, 3, 15, tzinfo=new_york)
    assert queries.previous_period(start, end) == (datetime(2026, 3, 1, tzinfo=new_york), start)


def test_csv_is_the_records(db: Database, account_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line a record with exact tokens, in pieces; without records still the header."""
    monkeypatch.setattr(export, "ROWS_PER_PIECE", 2)
    with db.read() as session:
        names = {"ann": "=Ann"}
        pieces = list(
            export.records_csv(session, account_id, NOON, NOON + timedelta(days=2, microseconds=1), callers=names)
        )
        large = queries.Selection(["yolov8l"], ["ann"], ["charged"])
        only = list(export.records_csv(session, account_id, NOON, NOON + timedelta(days=9), callers=names, which=large))
        none = list(export.records_csv(session, account_id, NOON, NOON, callers=names))
    assert [piece.count("\n") for piece in pieces] == [1, 2, 2, 2]
    rows = list(csv.DictReader(io.StringIO("".join(pieces))))
    assert [row["tokens"] for row in rows] == ["1.000", "2.500", "0.000", "0.000", "0.000", "1.000"]
    assert rows[0]["time_utc"] == "2026-03-10T12:00:00+00:00"
    assert rows[0]["classes"] == "Normal 2"
    assert (rows[0]["caller"], rows[0]["caller_id"]) == ("'=Ann", "ann"), "no formula"
    assert [row["model"] for row in csv.DictReader(io.StringIO("".join(only)))] == ["yolov8l"]
    assert none == pieces[:1]


def test_outcomes(db: Database, account_id: str) -> None:
    """Images by outcome, most frequent first; what did not happen is not there."""
    with db.read() as session:
        found = queries.sum_days(session, account_id, NOON, NOON + timedelta(days=9), UTC)
    counts = queries.by_outcome(found)
    assert next(iter(counts.items())) == ("charged", 3)
    assert counts == {"charged": 3, "failed": 1, "free": 1, "interrupted": 1}
