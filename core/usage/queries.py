"""What the Usage page shows, read from the roll-ups. Periods are half-open: start ≤ t < end, aware datetimes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, tzinfo
from typing import Any, Literal

from sqlalchemy import ColumnElement, func, select
from sqlmodel import Session, col

from core.slots import SLOTS_A_DAY, Span, day_of, find_spans, slot_of, slots_between
from core.usage.tables import OUTCOMES, UsageCallerSlot, UsageSlot

_SUMMED = (*OUTCOMES, "amount_mt")
By = Literal["model", "actor"]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which images are meant: of these models, of these API keys and people (by id), with these outcomes.

    None means all of them, an empty collection none. `all_models` and `all_actors` are what `used_models` and
    `used_actors` answered, by whoever asked before: then nothing looks for them again.
    """

    models: Collection[str] | None = None
    actors: Collection[str] | None = None
    outcomes: Collection[str] | None = None
    all_models: Collection[str] | None = field(default=None, compare=False)
    all_actors: Collection[str] | None = field(default=None, compare=False)

    def has_outcome(self, outcome: str) -> bool:
        """Whether images that ended so are meant."""
        return self.outcomes is None or outcome in self.outcomes

    def count(self, counts: Mapping[str, int]) -> Counter[str]:
        """Images by outcome without those that are not meant."""
        return Counter({name: count for name, count in counts.items() if self.has_outcome(name)})


EVERYTHING = Selection()


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over a period; `amount_mt` in milli-tokens, the rest in images."""

    amount_mt: int
    images: int
    charged: int
    free: int
    failed: int


@dataclass(frozen=True, slots=True)
class DayUsage:
    """One model, or one caller by id, on one day of the reader's zone; `outcomes` says how many images ended how."""

    day: date
    group: str
    amount_mt: int
    outcomes: Mapping[str, int]

    @property
    def images(self) -> int:
        """Images, whatever their outcome."""
        return sum(self.outcomes.values())


@dataclass(frozen=True, slots=True)
class CallerUsage:
    """One API key or person, by id, over a period."""

    actor: str
    totals: Totals


def sum_days(
    session: Session,
    account_id: str,
    start: datetime,
    end: datetime,
    zone: tzinfo,
    *,
    which: Selection = EVERYTHING,
    by: By = "model",
) -> list[DayUsage]:
    """Tokens and images by day (of `zone`) and model or caller.

    Summed in the database from quarters of an hour. Raises `ValueError` when the period begins or ends within one.
    """
    # What tells no callers apart reads the shorter roll-up.
    table: Any = UsageSlot if by == "model" and which.actors is None else UsageCallerSlot
    group, where = getattr(table, by), narrow(session, account_id, table, which)
    amounts: Counter[tuple[date, str]] = Counter()
    outcomes: dict[tuple[date, str], Counter[str]] = {}
    summed = [getattr(table, name) for name in _SUMMED]
    spans = find_spans(start, end, zone)
    for day, (name,), (*counts, amount_mt) in sum_by_day(session, table, where, [group], summed, spans):
        found = which.count(dict(zip(OUTCOMES, counts, strict=True)))
        if not found.total():
            continue
        key = day, name
        amounts[key] += amount_mt if which.has_outcome("charged") else 0
        outcomes.setdefault(key, Counter()).update(found)
    return [DayUsage(day, name, amounts[day, name], outcomes[day, name]) for day, name in sorted(outcomes)]


def sum_callers(
    session: Session, account_id: str, start: datetime, end: datetime, *, which: Selection = EVERYTHING
) -> list[CallerUsage]:
    """Tokens and images by who asked; who used most comes first.

    Raises `ValueError` when the period begins or ends within a quarter of an hour.
    """
    first, last = slots_between(start, end)
    rows = session.execute(
        select(col(UsageCallerSlot.actor), *(func.sum(getattr(UsageCallerSlot, name)) for name in _SUMMED))
        .where(
            *narrow(session, account_id, UsageCallerSlot, which),
            col(UsageCallerSlot.slot) >= first,
            col(UsageCallerSlot.slot) < last,
        )
        .group_by(col(UsageCallerSlot.actor))
    )
    found = []
    for actor, *counts, amount_mt in rows:
        images = which.count(dict(zip(OUTCOMES, map(int, counts), strict=True)))
        if images.total():
            charged_mt = int(amount_mt) if which.has_outcome("charged") else 0
            found.append(CallerUsage(actor, _totals(charged_mt, images)))
    return sorted(found, key=lambda one: (-one.totals.amount_mt, -one.totals.images, one.actor))


def sum_by_day(
    session: Session,
    table: Any,
    where: Sequence[ColumnElement[bool]],
    keys: Sequence[Any],
    summed: Sequence[Any],
    spans: Iterable[Span],
) -> Iterator[tuple[date, Sequence[Any], Sequence[int]]]:
    """Columns of a roll-up summed by day and by the key columns: the day, the keys, the sums.

    A day on which the clocks change lies in two spans, and comes twice.
    """
    for span in spans:
        number = (table.slot + span.shift) // SLOTS_A_DAY
        rows = session.execute(
            select(number, *keys, *map(func.sum, summed)).where(*where, *within(table, span)).group_by(number, *keys)
        )
        for day, *values in rows:
            # PostgreSQL sums BIGINT as NUMERIC.
            yield day_of(day), values[: len(keys)], [int(value) for value in values[len(keys) :]]


def within(table: Any, span: Span) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """The condition of a span's slots."""
    return table.slot >= span.start, table.slot < span.end


def narrow(session: Session, account_id: str, table: Any, which: Selection) -> list[ColumnElement[bool]]:
    """The conditions of an account's models and callers in a roll-up.

    Also where all are meant they are named, so that the key is used: it has them before the slot.
    """
    models = which.models if which.models is not None else which.all_models
    where = [
        table.account_id == account_id,
        table.model.in_(used_models(session, account_id) if models is None else models),
    ]
    if hasattr(table, "actor"):
        actors = which.actors if which.actors is not None else which.all_actors
        where.append(table.actor.in_(used_actors(session, account_id) if actors is None else actors))
    return where


def used_models(session: Session, account_id: str) -> list[str]:
    """The models an account has records of, by name; one look into the key for each, however many records there are."""
    return _step_through(session, col(UsageSlot.model), col(UsageSlot.account_id) == account_id)


def used_actors(session: Session, account_id: str) -> list[str]:
    """The ids of the keys and people that an account has records of; one look into the key for each."""
    return _step_through(session, col(UsageCallerSlot.actor), col(UsageCallerSlot.account_id) == account_id)


def count_since(session: Session, account_id: str, since: datetime, *, models: Collection[str]) -> tuple[int, int]:
    """Images of these models, and their milli-tokens, since a moment on a quarter of an hour; a few rows are read."""
    images: Any = sum(getattr(UsageSlot, outcome) for outcome in OUTCOMES)
    count, amount_mt = session.execute(
        select(func.sum(images), func.sum(col(UsageSlot.amount_mt))).where(
            col(UsageSlot.account_id) == account_id,
            col(UsageSlot.model).in_(models),
            col(UsageSlot.slot) >= slot_of(since),
        )
    ).one()
    return int(count or 0), int(amount_mt or 0)


def sum_up(days: Iterable[DayUsage]) -> Totals:
    """Sums of some days. `failed` counts everything that was given back."""
    days = list(days)
    return _totals(sum(item.amount_mt for item in days), by_outcome(days))


def by_outcome(days: Iterable[DayUsage]) -> dict[str, int]:
    """Images by outcome, most frequent first, without those that did not occur."""
    images: Counter[str] = Counter()
    for item in days:
        images.update(item.outcomes)
    return {outcome: count for outcome, count in images.most_common() if count}


def previous_period(start: datetime, end: datetime) -> tuple[datetime, datetime]:
    """The period of the same length that ends where this one starts; whole days of one zone stay whole days."""
    return start - (end - start), start


def days_of(start: datetime, end: datetime, zone: tzinfo) -> list[date]:
    """Every day of a period, so that a chart shows empty days as empty."""
    first = start.astimezone(zone).date()
    last = (end - timedelta(microseconds=1)).astimezone(zone).date()
    return [first + timedelta(days=offset) for offset in range((last - first).days + 1)]


def _totals(amount_mt: int, images: Mapping[str, int]) -> Totals:
    total, charged, free = sum(images.values()), images.get("charged", 0), images.get("free", 0)
    return Totals(amount_mt, total, charged, free, total - charged - free)


def _step_through(session: Session, column: Any, where: ColumnElement[bool]) -> list[str]:
    """The different values of a column behind `where` in a key, however many rows each has."""
    least = select(func.min(column)).where(where)
    values: list[str] = []
    value = session.execute(least).scalar()
    while value is not None:
        values.append(value)
        value = session.execute(least.where(column > value)).scalar()
    return sorted(values)
