"""What an operator and a customer see: customers and charges in few queries, transactions by type and period."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import event

from core import errors
from core.identity.tables import User
from core.ledger import ledger
from core.pricing.book import adopt_book, current_prices
from core.pricing.refund_rules import LateRule
from core.services import account_view, admin, corrections, team
from core.services.application import Application

DAY = datetime(2026, 3, 10, 12, tzinfo=UTC)


@pytest.fixture
def ann(any_app: Application, sign_up: Callable[..., User]) -> User:
    """The operator."""
    return sign_up(any_app)


@pytest.fixture
def bob(any_app: Application, ann: User, sign_up: Callable[..., User]) -> User:
    """A customer."""
    return sign_up(any_app, "bob@example.com")


@contextmanager
def count_statements(app: Application) -> Iterator[list[str]]:
    """The statements that are executed inside."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        seen.append(statement)

    event.listen(app.db.engine, "before_cursor_execute", note)
    yield seen
    event.remove(app.db.engine, "before_cursor_execute", note)


def charge(app: Application, user: User, key: str, amount_mt: int = 1000, at: datetime | None = None) -> str:
    """One captured hold."""
    with app.db.write() as session:
        hold = ledger.place_hold(session, user.account_id, amount_mt, charge_key=key, lease_s=60, actor=user.id, at=at)
        ledger.capture_hold(session, hold.id, amount_mt, actor=user.id, at=at)
    return hold.id


def test_customers_are_searched_and_limited_in_one_query(any_app: Application, ann: User, sign_up) -> None:
    """However many customers there are, the list is one query; a search takes its text literally."""
    for number in range(5):
        sign_up(any_app, f"customer_{number}@example.com")
    sign_up(any_app, "customerx9@example.com")
    with count_statements(any_app) as few:
        found = admin.list_customers(any_app, ann, limit=3)
    assert [customer.user.email for customer in found] == [
        "ann@example.com",
        "customer_0@example.com",
        "customer_1@example.com",
    ]
    assert all(customer.account.id == customer.user.account_id for customer in found)
    with count_statements(any_app) as many:
        assert len(admin.list_customers(any_app, ann)) == 7
    assert len(few) == len(many)
    assert len(admin.list_customers(any_app, ann, search=" Customer_")) == 5
    assert admin.list_customers(any_app, ann, search="%") == []


def test_customers_and_charges_are_for_the_operator(any_app: Application, bob: User) -> None:
    """Nobody else sees them."""
    for question in (
        lambda: admin.list_customers(any_app, bob),
        lambda: admin.get_customer_spending(any_app, bob, bob.account_id),
        lambda: admin.list_price_versions(any_app, bob),
        lambda: corrections.list_charges(any_app, bob, bob.account_id),
        lambda: corrections.list_movements(any_app, bob, bob.account_id),
    ):
        with pytest.raises(errors.NotAllowedError):
            question()


def test_what_a_dispute_is_about(any_app: Application, ann: User, bob: User) -> None:
    """Top-ups, refunds and corrections, newest first and without the charges between, each with who did it and why."""
    hold_id = charge(any_app, bob, "work")
    corrections.refund_charge(any_app, ann, hold_id, 300, reason="blurred", idempotency_key="k")
    charge(any_app, bob, "more work")
    corrections.adjust_balance(any_app, ann, bob.account_id, -50, reason="typo", idempotency_key="l")
    found = corrections.list_movements(any_app, ann, bob.account_id)
    assert [(one.entry.kind, one.entry.posted_change_mt, one.actor, one.entry.hold_id) for one in found] == [
        ("adjustment", -50, ann.email, None),
        ("refund", 300, ann.email, hold_id),
        ("top_up", 20_000, bob.email, None),
    ]
    assert [account_view.split_memo(one.entry)[1] for one in found] == ["typo", "blurred", ""]
    assert corrections.list_movements(any_app, ann, bob.account_id, limit=1) == found[:1]


def test_the_csv_names_who_acted(any_app: Application, ann: User, bob: User) -> None:
    """His own address, and `operator` for whoever is not of his account; nobody's id."""
    corrections.adjust_balance(any_app, ann, bob.account_id, 50, reason="gift", idempotency_key="l")
    text = account_view.transactions_csv(
        account_view.list_transactions(any_app, bob), actors=team.actor_names(any_app, bob.account_id)
    )
    assert [row["actor"] for row in csv.DictReader(io.StringIO(text))] == ["operator", bob.email]
    assert "user_" not in text


def test_charges_with_what_is_left_of_them(any_app: Application, ann: User, bob: User) -> None:
    """Newest first, page by page, in one query; a reference finds one; another account's charge is not found."""
    holds = [charge(any_app, bob, f"work {number}") for number in range(5)]
    corrections.refund_charge(any_app, ann, holds[4], 300, reason="twice", idempotency_key="k")
    with count_statements(any_app) as statements:
        first = corrections.list_charges(any_app, ann, bob.account_id, limit=2)
    assert len([statement for statement in statements if statement.startswith("SELECT")]) == 1
    assert [(item.hold_id, item.amount_mt, item.refunded_mt, item.left_mt) for item in first] == [
        (holds[4], 1000, 300, 700),
        (holds[3], 1000, 0, 1000),
    ]
    rest = corrections.list_charges(any_app, ann, bob.account_id, before_seq=first[-1].seq)
    assert [item.hold_id for item in rest] == holds[2::-1]
    (one,) = corrections.list_charges(any_app, ann, bob.account_id, reference=holds[1])
    assert one.hold_id == holds[1]
    assert corrections.list_charges(any_app, ann, ann.account_id, reference=holds[1]) == []
    assert corrections.list_charges(any_app, ann, bob.account_id, reference="hold_none") == []


def test_price_versions(any_app: Application, ann: User) -> None:
    """The one in force comes first, each with its own rates and discounts."""
    with any_app.db.write() as session:
        prices, rules = current_prices(session), (LateRule(600, Decimal(50)),)
        adopt_book(
            session,
            replace(prices, version="9999-1", betas={"yolov8n": Decimal(9)}, discounts=(), late_rules=rules),
            note="new",
        )
    first, *others = admin.list_price_versions(any_app, ann)
    assert (first.prices.version, first.note, first.prices.betas) == ("9999-1", "new", {"yolov8n": Decimal(9)})
    assert (first.prices.discounts, first.prices.late_rules) == ((), rules)
    assert others[-1].prices == prices


def test_transactions_by_type_and_period(any_app: Application, bob: User) -> None:
    """start ≤ t < end, by kind, and page by page: every entry of two adjacent periods is in exactly one of them."""
    for number in range(4):
        with any_app.db.write() as session:
            ledger.post_top_up(
                session,
                bob.account_id,
                1000 + number,
                source="house:vouchers",
                actor=bob.id,
                at=DAY + timedelta(days=365 * 30 + number),
            )
    start = DAY + timedelta(days=365 * 30)

    def amounts(**chosen) -> list[int]:
        return [entry.amount_mt for entry in account_view.list_transactions(any_app, bob, **chosen)]

    assert amounts(since=start, until=start + timedelta(days=2)) == [1001, 1000]
    assert amounts(since=start + timedelta(days=2)) == [1003, 1002]
    assert amounts(until=start) == [20_000]
    assert amounts(since=start + timedelta(days=4)) == []
    assert amounts(until=DAY - timedelta(days=9999)) == []
    assert amounts(kinds=("capture",), since=start) == []
    assert amounts(kinds=("top_up", "refund"), since=start, limit=3) == [1003, 1002, 1001]
    newest = account_view.list_transactions(any_app, bob, since=start, limit=2)
    assert amounts(since=start, before_seq=newest[-1].seq) == [1001, 1000]


def test_refunds_of_shown_charges_and_a_csv_without_formulas(any_app: Application, ann: User, bob: User) -> None:
    """A charge knows what was refunded of it; a reason that begins like a formula is no formula in the CSV."""
    hold_id = charge(any_app, bob, "work")
    corrections.refund_charge(any_app, ann, hold_id, 400, reason="=HYPERLINK(1)", idempotency_key="a")
    corrections.adjust_balance(any_app, ann, bob.account_id, -500, reason="@SUM", idempotency_key="b")
    entries = account_view.list_transactions(any_app, bob)
    assert account_view.find_refunded(any_app, bob, entries) == {hold_id: 400}
    assert account_view.find_refunded(any_app, ann, entries) == {}, "another account's are not told"
    rows = list(csv.DictReader(io.StringIO(account_view.transactions_csv(entries, actors={bob.id: "+bob@x"}))))
    assert [(row["type"], row["tokens"], row["reason"]) for row in rows[:2]] == [
        ("adjustment", "-0.500", "'@SUM"),
        ("refund", "0.400", "'=HYPERLINK(1)"),
    ]
    assert rows[1]["reference"] == rows[2]["reference"] == hold_id
    assert {row["actor"] for row in rows} == {"operator", "'+bob@x"}
