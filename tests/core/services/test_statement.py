"""A month's statement adds up, chains with its neighbours and shows one account only, whatever clocks did."""

from __future__ import annotations

import csv
import io
import random
import tracemalloc
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import event, insert, text

from core.db import Database, table_of, utcnow
from core.errors import LedgerInconsistentError
from core.identity.tables import User
from core.ledger import corrections, ledger
from core.ledger.tables import Entry
from core.money import to_millitokens
from core.services import opening_balance, statement
from core.services.application import Application
from core.services.statement import build_statement, month_bounds, statement_csv, statement_months
from tests.conftest import OpenApp

SHANGHAI, NEW_YORK = ZoneInfo("Asia/Shanghai"), ZoneInfo("America/New_York")
MICROSECOND = timedelta(microseconds=1)
SEED = 31_12_23


@pytest.fixture
def app(open_app: OpenApp, database_url: str) -> Application:
    """An application on each kind of database where new accounts are empty."""
    return open_app(database_url=database_url, welcome_tokens=Decimal(0))


@pytest.fixture
def user(app: Application, sign_up: Callable[..., User]) -> User:
    """Somebody whose account has no entry yet."""
    return sign_up(app)


# What an entry changes, and when: (created_at, kind, posted_change_mt, memo).
Change = tuple[datetime, str, int, str]


def book(
    db: Database,
    account_id: str,
    changes: Sequence[Change],
    *,
    first_seq: int = 1,
    posted_mt: int = 0,
    actor: str = "somebody",
) -> int:
    """Write entries in this order, whatever their times; gives the posted balance after the last."""
    rows = []
    for seq, (created_at, kind, change_mt, memo) in enumerate(changes, start=first_seq):
        posted_mt += change_mt
        rows.append(
            {
                "account_id": account_id,
                "seq": seq,
                "kind": kind,
                "debit_account": "a",
                "credit_account": "b",
                "amount_mt": abs(change_mt),
                "posted_change_mt": change_mt,
                "held_change_mt": 0,
                "posted_after_mt": posted_mt,
                "held_after_mt": 0,
                "actor": actor,
                "memo": memo,
                "created_at": created_at,
            }
        )
    with db.write() as session:
        session.connection().execute(insert(table_of(Entry)), rows)
    return posted_mt


def read_csv(app: Application, user: User, year: int, month: int, zone: tzinfo) -> list[dict[str, str]]:
    """The month's CSV, read back."""
    return list(csv.DictReader(io.StringIO("".join(statement_csv(app, user, year, month, zone=zone)))))


def millitokens(cell: str) -> int:
    """A cell in tokens as milli-tokens."""
    return to_millitokens(Decimal(cell))


def check_month(
    app: Application, user: User, year: int, month: int, zone: tzinfo, changes: Sequence[Change]
) -> tuple[int, int]:
    """Statement and CSV of a month against a plain sum over all changes; gives opening and closing balance."""
    start, end = month_bounds(year, month, zone)
    opening_mt = sum(change_mt for at, _kind, change_mt, _memo in changes if at < start)
    inside = [change for change in changes if start <= change[0] < end and change[2]]
    made = build_statement(app, user, year, month, zone=zone)
    assert made.opening_mt == opening_mt
    assert made.closing_mt == opening_mt + sum(change_mt for _at, _kind, change_mt, _memo in inside)
    balance_mt = opening_mt
    for line in made.lines:
        balance_mt += line.amount_mt
        assert line.balance_mt == balance_mt
        assert start <= datetime(line.day.year, line.day.month, line.day.day, tzinfo=zone) < end
        assert line.at is None or line.at.date() == line.day
    assert balance_mt == made.closing_mt
    assert [line.day for line in made.lines] == sorted(line.day for line in made.lines)
    assert sum(line.count for line in made.lines) == len(inside)
    assert {total.kind: (total.count, total.amount_mt) for total in made.totals} == {
        kind: (
            sum(1 for change in inside if change[1] == kind),
            sum(change[2] for change in inside if change[1] == kind),
        )
        for kind in {change[1] for change in inside}
    }
    rows = read_csv(app, user, year, month, zone)
    assert (rows[0]["type"], rows[-1]["type"]) == ("opening", "closing")
    assert (millitokens(rows[0]["balance_after"]), millitokens(rows[-1]["balance_after"])) == (
        made.opening_mt,
        made.closing_mt,
    )
    balance_mt = made.opening_mt
    for row in rows[1:-1]:
        balance_mt += millitokens(row["tokens"])
        assert millitokens(row["balance_after"]) == balance_mt
    assert balance_mt == made.closing_mt
    assert len(rows) - 2 == len(inside)
    times = [row["time_utc"] for row in rows]
    assert times == sorted(times)
    return made.opening_mt, made.closing_mt


# What stands in it ---------------------------------------------------------------------------------


def test_a_month_through_the_ledger(app: Application, user: User) -> None:
    """Top-up, charges, what was given back, refund and adjustment, as the ledger itself writes them."""
    account_id, noon = user.account_id, datetime(2026, 5, 4, 12, tzinfo=UTC)
    with app.db.write() as session:
        ledger.post_top_up(session, account_id, 10_000, source="house:v", actor="ann", memo="vou_1", at=noon)
        holds = [
            ledger.place_hold(session, account_id, 1000, charge_key=key, lease_s=60, actor="ann", at=noon)
            for key in "abc"
        ]
        ledger.capture_hold(session, holds[0].id, 1000, actor="ann", memo="job_1", at=noon + timedelta(hours=1))
        ledger.capture_hold(session, holds[1].id, 400, actor="ann", memo="job_1", at=noon + timedelta(hours=2))
        ledger.release_hold(session, holds[2].id, actor="ann", at=noon + timedelta(hours=2))
        corrections.refund_capture(
            session, holds[0].id, 1000, reason="wrong boxes", actor="op", at=noon + timedelta(hours=3)
        )
        corrections.post_adjustment(
            session, account_id, -50, reason="counted twice", actor="op", at=noon + timedelta(days=2)
        )
        corrections.set_frozen(session, account_id, frozen=True, reason="no words", actor="op")
    made = build_statement(app, user, 2026, 5, zone=UTC)
    assert [
        (line.day.day, line.at and line.at.hour, line.kind, line.count, line.amount_mt, line.balance_mt)
        for line in made.lines
    ] == [
        (4, 12, "top_up", 1, 10_000, 10_000),
        (4, 15, "refund", 1, 1000, 11_000),
        (4, None, "capture", 2, -1400, 9600),
        (6, 12, "adjustment", 1, -50, 9550),
    ]
    assert [(line.reference, line.reason) for line in made.lines] == [
        ("vou_1", ""),
        (holds[0].id, "wrong boxes"),
        ("", ""),
        ("", "counted twice"),
    ]
    assert [(total.kind, total.count, total.amount_mt) for total in made.totals] == [
        ("top_up", 1, 10_000),
        ("capture", 2, -1400),
        ("refund", 1, 1000),
        ("adjustment", 1, -50),
    ]
    assert (made.opening_mt, made.closing_mt, made.account_id, made.is_running) == (0, 9550, account_id, False)
    assert [
        (row["seq"], row["time_utc"], row["type"], row["tokens"], row["balance_after"], row["reference"], row["reason"])
        for row in read_csv(app, user, 2026, 5, UTC)
    ] == [
        ("", "2026-05-01T00:00:00+00:00", "opening", "", "0.000", "", ""),
        ("1", "2026-05-04T12:00:00+00:00", "top_up", "10.000", "10.000", "vou_1", ""),
        ("5", "2026-05-04T13:00:00+00:00", "capture", "-1.000", "9.000", holds[0].id, "job_1"),
        ("6", "2026-05-04T14:00:00+00:00", "capture", "-0.400", "8.600", holds[1].id, "job_1"),
        ("8", "2026-05-04T15:00:00+00:00", "refund", "1.000", "9.600", holds[0].id, "wrong boxes"),
        ("9", "2026-05-06T12:00:00+00:00", "adjustment", "-0.050", "9.550", "", "counted twice"),
        ("", "2026-06-01T00:00:00+00:00", "closing", "", "9.550", "", ""),
    ]


def test_an_empty_account(app: Application, user: User) -> None:
    """Without an entry a statement has two zeros and no line, and its CSV an opening and a closing line."""
    made = build_statement(app, user, 2026, 5, zone=SHANGHAI)
    assert (made.opening_mt, made.closing_mt, made.lines, made.totals) == (0, 0, (), ())
    assert [row["balance_after"] for row in read_csv(app, user, 2026, 5, SHANGHAI)] == ["0.000", "0.000"]


def test_months_without_entries_keep_the_balance(app: Application, user: User) -> None:
    """After the last entry, and between two of them, opening and closing are the balance of then."""
    book(app.db, user.account_id, [(datetime(2025, month, 9, tzinfo=UTC), "top_up", 7, "") for month in (1, 6)])
    balances = [build_statement(app, user, 2025, month, zone=UTC) for month in (1, 3, 6, 9)]
    assert [(made.opening_mt, made.closing_mt) for made in balances] == [(0, 7), (7, 7), (7, 14), (14, 14)]


def test_only_the_own_account(app: Application, user: User, sign_up: Callable[..., User]) -> None:
    """Two accounts with entries in the same month: each statement and each CSV has only its own."""
    other = sign_up(app, "bob@example.com")
    at = datetime(2026, 5, 5, tzinfo=UTC)
    book(app.db, user.account_id, [(at, "top_up", 1000, "for Ann")])
    book(app.db, other.account_id, [(at, "top_up", 70_000, "for Bob"), (at, "adjustment", -3, "Bob's")])
    assert build_statement(app, user, 2026, 5, zone=UTC).closing_mt == 1000
    assert build_statement(app, other, 2026, 5, zone=UTC).closing_mt == 69_997
    assert "Bob" not in "".join(statement_csv(app, user, 2026, 5, zone=UTC))
    assert "Ann" not in "".join(statement_csv(app, other, 2026, 5, zone=UTC))


def test_words_of_people_are_no_formulas(app: Application, user: User) -> None:
    """Actor, reference and reason that begin like formulas are neutralised in the CSV; amounts stay numbers."""
    at = datetime(2026, 5, 5, tzinfo=UTC)
    book(app.db, user.account_id, [(at, "top_up", 9, "@SUM(A1)"), (at, "adjustment", -5, '=HYPERLINK("http://x","y")')])
    book(app.db, user.account_id, [(at, "refund", 1, "\t-2")], first_seq=3, posted_mt=4, actor="+cmd")
    rows = read_csv(app, user, 2026, 5, UTC)[1:-1]
    assert [(row["actor"], row["reference"], row["reason"], row["tokens"]) for row in rows] == [
        ("somebody", "'@SUM(A1)", "", "0.009"),
        ("somebody", "", '\'=HYPERLINK("http://x","y")', "-0.005"),
        ("'+cmd", "", "'\t-2", "0.001"),
    ]


def test_many_corrections_are_summed_by_day(app: Application, user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """More single lines than fit are summed by day and kind; credits first, so that no balance goes below zero."""
    monkeypatch.setattr(statement, "SINGLE_LINES_MAX", 3)
    changes: list[Change] = [
        (datetime(2026, 5, day, hour, tzinfo=UTC), kind, change_mt, "")
        for day in (1, 2)
        for hour, kind, change_mt in ((1, "top_up", 500), (2, "capture", -500), (3, "refund", 9), (4, "adjustment", -1))
    ]
    book(app.db, user.account_id, changes)
    made = build_statement(app, user, 2026, 5, zone=UTC)
    assert [(line.day.day, line.at is None, line.kind, line.amount_mt, line.balance_mt) for line in made.lines] == [
        (1, False, "top_up", 500, 500),
        (1, False, "refund", 9, 509),
        (1, False, "adjustment", -1, 508),
        (1, True, "capture", -500, 8),
        (2, True, "top_up", 500, 508),
        (2, True, "refund", 9, 517),
        (2, True, "adjustment", -1, 516),
        (2, True, "capture", -500, 16),
    ]
    check_month(app, user, 2026, 5, UTC, changes)


def test_a_running_month_says_so(app: Application, user: User) -> None:
    """This month's statement is marked as running and has what was booked up to now."""
    book(app.db, user.account_id, [(utcnow() - MICROSECOND, "top_up", 12, "")])
    now = utcnow()
    made = build_statement(app, user, now.year, now.month, zone=UTC)
    assert (made.is_running, made.closing_mt) == (True, 12)


# Months and zones ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "month", "hours"),
    [(UTC, 3, 744), (SHANGHAI, 3, 744), (NEW_YORK, 3, 743), (NEW_YORK, 11, 721), (SHANGHAI, 2, 672)],
)
def test_bounds_of_months(zone: tzinfo, month: int, hours: int) -> None:
    """A month has as many hours as its zone's clocks count, also where summer time begins or ends in it."""
    start, end = month_bounds(2026, month, zone)
    assert end.astimezone(UTC) - start.astimezone(UTC) == timedelta(hours=hours)
    assert (start.day, start.hour, end.day, end.hour) == (1, 0, 1, 0)


def test_december_ends_with_the_year() -> None:
    """The month after December is January."""
    assert month_bounds(2026, 12, UTC)[1] == datetime(2027, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("month", [0, 13])
def test_no_such_month(app: Application, user: User, month: int) -> None:
    """A month that is none is a `ValueError`, from the CSV before its first piece."""
    with pytest.raises(ValueError, match="month"):
        build_statement(app, user, 2026, month, zone=UTC)
    with pytest.raises(ValueError, match="month"):
        next(statement_csv(app, user, 2026, month, zone=UTC))


def test_months_to_choose_from(app: Application, user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the month of the first entry, in the reader's zone, to this month, newest first."""
    monkeypatch.setattr(statement, "utcnow", lambda: datetime(2026, 2, 28, 20, tzinfo=UTC))
    assert statement_months(app, user, zone=UTC) == [(2026, 2)]
    book(app.db, user.account_id, [(datetime(2025, 11, 30, 20, tzinfo=UTC), "top_up", 1, "")])
    assert statement_months(app, user, zone=UTC) == [(2026, 2), (2026, 1), (2025, 12), (2025, 11)]
    assert statement_months(app, user, zone=SHANGHAI) == [(2026, 3), (2026, 2), (2026, 1), (2025, 12)]


@pytest.mark.parametrize(
    ("zone", "first_month"), [(SHANGHAI, 10), (NEW_YORK, 2), (NEW_YORK, 10)], ids=["shanghai", "march", "november"]
)
@pytest.mark.parametrize("jitter_s", [0, 5], ids=["in-order", "skewed-clocks"])
def test_random_months_add_up_and_chain(
    app: Application, user: User, zone: tzinfo, first_month: int, jitter_s: int
) -> None:
    """Seeded entries over three months, many at the very borders: sums agree and each closing is the next opening."""
    seed = SEED + first_month + jitter_s
    print(f"seed {seed}")  # noqa: T201  # pytest shows it when the test fails
    draw = random.Random(seed)
    months = [(2025, first_month), (2025, first_month + 1), (2025, first_month + 2)]
    first, last = month_bounds(*months[0], zone)[0], month_bounds(*months[2], zone)[1]
    span_s = (last - first).total_seconds()
    times = [first + timedelta(seconds=draw.uniform(-9e5, span_s + 9e5)) for _ in range(300)]
    for border in [*(month_bounds(*month, zone)[0].astimezone(UTC) for month in months), last.astimezone(UTC)]:
        times += [border, border - MICROSECOND, border + MICROSECOND]
        times += [border + timedelta(seconds=draw.uniform(-4, 4)) for _ in range(12)]
    # Each machine's clock is off by its own error when it writes what the ledger's order already decided.
    times.sort()
    times = [at + timedelta(seconds=draw.choice((-jitter_s, 0, jitter_s))) for at in times]
    kinds = ("top_up", "capture", "capture", "hold", "release", "refund", "adjustment")
    changes: list[Change] = [(times[0], "top_up", 10**9, "")]
    for at in times[1:]:
        kind = draw.choice(kinds)
        amount_mt = draw.randint(1, 10**5)
        change_mt = {"hold": 0, "release": 0, "capture": -amount_mt}.get(kind, amount_mt)
        changes.append((at, kind, change_mt if kind != "adjustment" else draw.choice((-1, 1)) * amount_mt, "why"))
    book(app.db, user.account_id, changes)
    balances = [check_month(app, user, *month, zone, changes) for month in months]
    assert [closing for _opening, closing in balances[:-1]] == [opening for opening, _closing in balances[1:]]
    assert any(one[0] > other[0] for one, other in pairwise(changes)) == (jitter_s > 0)


# Order and consistency -----------------------------------------------------------------------------

JUNE = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "offsets",
    [
        (-3, -2, -1, 0, 1, 2),
        (-3, 1, -1, 0, 2, 3),
        (-3, 0, -1, 1, -2, 2),
        (2, 1, 0, -1, -2, -3),
        (0, -1),
        (1, 2, 3),
        (-3, -2, -1),
        (-60 * 60 * 20, 60 * 60 * 3, -5),
    ],
    ids=str,
)
def test_stragglers_at_the_border(
    app: Application, user: User, offsets: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries numbered in one order and timed in another around midnight belong where their times say.

    It takes the entries near midnight only: nothing reads the account in full.
    """

    def refuse(*_arguments: object) -> None:
        raise AssertionError("the account was read in full")

    monkeypatch.setattr(opening_balance, "_require_whole_chain", refuse)
    changes: list[Change] = [
        (JUNE + timedelta(seconds=offset), "top_up", 10**number, "") for number, offset in enumerate(offsets)
    ]
    book(app.db, user.account_id, changes)
    _opening, of_may = check_month(app, user, 2026, 5, UTC, changes)
    of_june, _closing = check_month(app, user, 2026, 6, UTC, changes)
    assert of_may == of_june


@pytest.mark.parametrize("number", [1, 140, 180])
@pytest.mark.parametrize("days", [-100, -40, -2, 2, 40])
def test_a_clock_that_was_wrong_by_days(app: Application, user: User, days: int, number: int) -> None:
    """An entry far from its number is counted in the month of its time, and that month and the last add up."""
    changes: list[Change] = [(JUNE + timedelta(hours=12 * step), "top_up", 1000 + step, "") for step in range(-130, 50)]
    changes.insert(number, (JUNE + timedelta(days=days), "adjustment", 7, "odd one"))
    book(app.db, user.account_id, changes)
    odd = JUNE + timedelta(days=days)
    for year, month in {(odd.year, odd.month), (2026, 6)}:
        check_month(app, user, year, month, UTC, changes)


@pytest.mark.parametrize("month", [5, 6])
def test_a_balance_that_does_not_follow_is_refused(app: Application, user: User, month: int) -> None:
    """Where the stored balance leaves the sum of the entries there is no statement and no CSV, but a clear error."""
    account_id = user.account_id
    book(app.db, account_id, [(JUNE + timedelta(days=-9), "top_up", 1000, "")])
    book(app.db, account_id, [(datetime(2026, month, 8, tzinfo=UTC), "capture", -10, "")], first_seq=2, posted_mt=999)
    book(app.db, account_id, [(JUNE + timedelta(days=40), "capture", -10, "")], first_seq=3, posted_mt=989)
    refused = pytest.raises(LedgerInconsistentError, match="do not add up")
    with refused as error:
        build_statement(app, user, 2026, month, zone=UTC)
    assert error.value.details == {"account_id": account_id}
    with pytest.raises(LedgerInconsistentError):
        next(statement_csv(app, user, 2026, month, zone=UTC))


@pytest.mark.parametrize("at", [JUNE - timedelta(days=9), JUNE + timedelta(days=9)])
def test_a_missing_entry_is_refused(app: Application, user: User, at: datetime) -> None:
    """A gap in the numbers, as a deleted entry leaves it, is an inconsistent ledger even if balances agree."""
    book(app.db, user.account_id, [(JUNE - timedelta(days=20), "top_up", 1000, "")])
    book(app.db, user.account_id, [(at, "hold", 0, "")], first_seq=3, posted_mt=1000)
    with pytest.raises(LedgerInconsistentError):
        build_statement(app, user, at.year, at.month, zone=UTC)


def test_one_snapshot(app: Application, user: User) -> None:
    """Entries that are written while the CSV is read do not get into it, and it still adds up."""
    at = datetime(2026, 5, 5, tzinfo=UTC)
    changes: list[Change] = [(at + timedelta(seconds=n), "top_up", 1, "") for n in range(statement.ROWS_PER_FETCH * 3)]
    posted_mt = book(app.db, user.account_id, changes)
    pieces = statement_csv(app, user, 2026, 5, zone=UTC)
    begun = next(pieces)
    book(app.db, user.account_id, [(at, "top_up", 5, "late")], first_seq=len(changes) + 1, posted_mt=posted_mt)
    rows = list(csv.DictReader(io.StringIO(begun + "".join(pieces))))
    assert (len(rows) - 2, millitokens(rows[-1]["balance_after"])) == (len(changes), posted_mt)
    assert build_statement(app, user, 2026, 5, zone=UTC).closing_mt == posted_mt + 5


# Size ----------------------------------------------------------------------------------------------

ENTRIES = 60_000


def book_many(db: Database, account_id: str) -> None:
    """One top-up and charges through May 2026, written by the database itself."""
    numbers, at = {
        "sqlite": (
            "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :entries) SELECT i FROM n)",
            "strftime('%Y-%m-%d %H:%M:%f000', '2026-05-01', (i * 13) || ' seconds')",
        ),
        "postgresql": (
            "generate_series(1, :entries) AS n(i)",
            "timestamptz '2026-05-01 00:00:00+00' + i * interval '13 seconds'",
        ),
    }[db.engine.dialect.name]
    statement_text = (
        "INSERT INTO entry (account_id, seq, kind, debit_account, credit_account, amount_mt, posted_change_mt,"
        " held_change_mt, posted_after_mt, held_after_mt, actor, memo, created_at) "
        "SELECT :account_id, i, CASE WHEN i = 1 THEN 'top_up' ELSE 'capture' END, 'a', 'b', 1,"
        " CASE WHEN i = 1 THEN 1000000 ELSE -1 END, 0, 1000001 - i, 0, 'somebody', 'job_0123456789ab', "
        f"{at} FROM {numbers}"
    )
    with db.write() as session:
        session.connection().execute(text(statement_text), {"account_id": account_id, "entries": ENTRIES})


def peak_bytes(work: Callable[[], object]) -> int:
    """The most memory that Python held at once for some work."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_stays_flat(app: Application, user: User) -> None:
    """60,000 charges in a month: neither the statement nor its CSV ever has more than some thousands in memory."""
    book_many(app.db, user.account_id)
    drivers: set[str] = set()
    event.listen(
        app.db.engine,
        "before_cursor_execute",
        lambda _c, cursor, sql, *_rest: drivers.add(type(cursor).__name__) if "ORDER BY" in sql else None,
    )
    read = 0

    def drain() -> None:
        nonlocal read
        read = sum(piece.count("\n") for piece in statement_csv(app, user, 2026, 5, zone=UTC))

    build_statement(app, user, 2026, 4, zone=UTC)  # what is made once for all is not measured
    assert peak_bytes(lambda: build_statement(app, user, 2026, 5, zone=UTC)) < 4_000_000
    assert peak_bytes(drain) < 8_000_000
    assert read == ENTRIES + 3
    # PostgreSQL's client would hold the whole answer where tracemalloc does not look, unless the server keeps it.
    assert app.db.engine.dialect.name == "sqlite" or "ServerCursor" in drivers
    made = build_statement(app, user, 2026, 5, zone=UTC)
    assert (sum(line.count for line in made.lines), made.closing_mt) == (ENTRIES, 1_000_001 - ENTRIES)
