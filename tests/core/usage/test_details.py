"""Hours, times, classes and what went back: every chart says what the records say, for any selection."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from core.db import Database
from core.ledger import ledger
from core.usage import details, queries
from core.usage.latency import lower_bound_ms, summarise
from core.usage.queries import Selection
from core.usage.records import add_record
from core.usage.tables import UsageRecord
from tests.core.usage.test_queries import SEED, ZONES, draw_records

SELECTIONS = (
    Selection(),
    Selection(models=["yolov8n", "yolov8l"]),
    Selection(actors=["key_1"], outcomes=["charged", "failed"]),
    Selection(["yolov8s"], ["key_2", "user_1"], ["free", "cancelled"]),
    Selection(actors=["nobody"]),
)


@pytest.fixture
def drawn(db: Database) -> list[UsageRecord]:
    """Random images of the first of two accounts, with times and classes, and with money given back."""
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when the test fails
    draw = random.Random(SEED)
    with db.write() as session:
        accounts = [ledger.open_account(session, name).id for name in ("Ann", "Bob")]
        records = draw_records(draw, accounts)
        for one in records:
            one.actor = draw.choice(("key_1", "key_2", "user_1"))
            if one.outcome == "charged":
                one.wait_ms, one.model_ms = draw.choice(((None, None), (draw.randint(0, 90), draw.randint(1, 4000))))
                one.class_counts = draw.choice(({}, {"Normal": draw.randint(1, 9)}, {"Normal": 1, "Fall": 2}))
                one.given_back_mt = draw.choice((0, 0, 250))
            else:
                one.class_counts, one.given_back_mt = {}, draw.choice((0, None, 700))
            add_record(session, one)
    return [one for one in records if one.account_id == accounts[0]]


@pytest.mark.parametrize("which", SELECTIONS, ids=str)
def test_details_say_what_the_records_say(db: Database, drawn: list[UsageRecord], which: Selection) -> None:
    """In zones with odd offsets and changing clocks: hours, histograms, classes, amounts, and days by caller."""
    account_id = drawn[0].account_id
    for zone in map(ZoneInfo, ZONES):
        start, end = (datetime.combine(day, time.min, zone) for day in (date(2026, 2, 3), date(2026, 11, 20)))
        meant = [
            one
            for one in drawn
            if start <= one.created_at < end
            and (which.models is None or one.model in which.models)
            and (which.actors is None or one.actor in which.actors)
            and which.has_outcome(one.outcome)
        ]
        local = {one.id: one.created_at.astimezone(zone) for one in meant}
        hours = Counter((local[one.id].weekday(), local[one.id].hour) for one in meant)
        times: dict[date, Counter[int]] = {}
        classes, back, by_actor = Counter[str](), Counter[tuple[date, str, str]](), Counter[tuple[date, str]]()
        for one in meant:
            day = local[one.id].date()
            if one.latency_ms is not None:
                times.setdefault(day, Counter())[lower_bound_ms(one.latency_ms)] += 1
            classes.update(one.class_counts)
            if one.given_back_mt:
                back[day, one.model, one.actor] += one.given_back_mt
            by_actor[day, one.actor] += 1
        with db.read() as session:
            period = session, account_id, start, end
            assert details.count_hours(*period, zone, which=which) == hours
            assert details.sum_latencies(*period, zone, which=which) == {
                day: summarise(times[day]) for day in sorted(times)
            }
            assert details.count_classes(*period, which=which) == classes
            assert {tuple(key): mt for *key, mt in details.sum_given_back(*period, zone, which=which)} == back
            days = queries.sum_days(*period, zone, which=which, by="actor")
        assert {(one.day, one.group): one.images for one in days} == by_actor
        assert queries.sum_up(days).amount_mt == sum(one.amount_mt for one in meant)


def test_percentiles_are_within_their_promise() -> None:
    """Of times between a millisecond and hours, p50 and p95 are within 6.7 % of the exact ones."""
    draw = random.Random(SEED)
    for _ in range(200):
        times = sorted(int(draw.lognormvariate(draw.uniform(0, 14), 1)) for _ in range(draw.randint(1, 300)))
        found = summarise(Counter(map(lower_bound_ms, times)))
        assert found is not None
        assert found.images == len(times)
        for percent, said in ((50, found.p50_ms), (95, found.p95_ms)):
            exact = times[-(-len(times) * percent // 100) - 1]
            assert abs(said - exact) <= max(0.5, exact / 15)
    assert summarise({}) is None


def test_a_period_within_a_quarter_is_refused(db: Database, drawn: list[UsageRecord]) -> None:
    """Sums that would be nearly right are not given."""
    start = datetime(2026, 3, 1, 0, 1, tzinfo=UTC)
    with db.read() as session, pytest.raises(ValueError, match="quarter"):
        details.count_classes(session, drawn[0].account_id, start, start + timedelta(days=1))
