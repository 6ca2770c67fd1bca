"""Caps of a day and a month hold in the statement of the hold; the alert comes once for each crossing."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import pytest
from sqlmodel import Session

from core.db import Database
from core.errors import AccountNotActiveError, InvalidAmountError, SpendingCapError
from core.ledger import ledger, spending
from core.ledger.corrections import post_adjustment, refund_capture
from core.ledger.tables import Budget, Hold

DAY, NEXT_DAY, NEXT_MONTH = date(2026, 10, 30), date(2026, 10, 31), date(2026, 11, 1)


@pytest.fixture
def account_id(db: Database) -> str:
    """An account with 100.000 tokens."""
    with db.write() as session:
        account_id = ledger.open_account(session, "Ann").id
        ledger.post_top_up(session, account_id, 100_000, source="house:test", actor="test")
    return account_id


def cap(db: Database, account_id: str, *, day_mt: int | None = None, month_mt: int | None = None) -> None:
    """Set the account's caps."""
    with db.write() as session:
        spending.set_caps(session, account_id, day_cap_mt=day_mt, month_cap_mt=month_mt)


def hold(
    db: Database, account_id: str, amount_mt: int, key: str, day: date = DAY, budget_id: str | None = None
) -> Hold:
    """Place a hold that counts in a day."""
    with db.write() as session:
        return ledger.place_hold(
            session, account_id, amount_mt, charge_key=key, lease_s=60, actor="test", spend_day=day, budget_id=budget_id
        )


def spent(db: Database, account_id: str, day: date = DAY) -> tuple[int, int]:
    """What counts against the caps of a day and its month."""
    with db.read() as session:
        now = spending.get_spending(session, account_id, day)
    return now.day_spent_mt, now.month_spent_mt


def test_a_cap_is_exact(db: Database, account_id: str) -> None:
    """A day's cap of 5.000: 4.999 and 0.001 fit, not a milli-token more, and the error says what is left."""
    cap(db, account_id, day_mt=5000)
    hold(db, account_id, 4999, "a")
    hold(db, account_id, 1, "b")
    with pytest.raises(SpendingCapError) as caught:
        hold(db, account_id, 1, "c")
    assert caught.value.details == {
        "period": "day", "scope": "account", "cap_mt": 5000, "spent_mt": 5000, "left_mt": 0, "required_mt": 1,
    }  # fmt: skip
    with db.read() as session:
        assert ledger.get_balance(session, account_id).held_mt == 5000


def test_a_new_day_begins_at_zero_and_the_month_goes_on(db: Database, account_id: str) -> None:
    """3.000 a day and 5.000 a month: 3.000, then 2.000 of the next day, then a new month begins."""
    cap(db, account_id, day_mt=3000, month_mt=5000)
    hold(db, account_id, 3000, "a")
    hold(db, account_id, 2000, "b", NEXT_DAY)
    assert spent(db, account_id, NEXT_DAY) == (2000, 5000)
    with pytest.raises(SpendingCapError) as caught:
        hold(db, account_id, 1000, "c", NEXT_DAY)
    assert caught.value.details["period"] == "month"
    hold(db, account_id, 3000, "d", NEXT_MONTH)
    assert spent(db, account_id, NEXT_MONTH) == (3000, 3000)


@pytest.mark.parametrize("end", ["release", "expire", "capture less", "refund"])
def test_what_comes_back_can_be_spent_again(db: Database, account_id: str, end: str) -> None:
    """A release, an expiry, the rest of a capture and a refund leave the counters of their day."""
    cap(db, account_id, day_mt=4000)
    hold_id = hold(db, account_id, 4000, "a").id
    with db.write() as session:
        if end == "release":
            ledger.release_hold(session, hold_id, actor="test")
        elif end == "expire":
            session.get_one(Hold, hold_id).expires_at = session.get_one(Hold, hold_id).created_at
            session.flush()
            assert len(ledger.expire_holds(session, account_id)) == 1
        elif end == "capture less":
            ledger.capture_hold(session, hold_id, 1000, actor="test")
        else:
            ledger.capture_hold(session, hold_id, 4000, actor="test")
            refund_capture(session, hold_id, 3000, reason="blurred", actor="test")
    left = 4000 if end in ("release", "expire") else 3000
    assert spent(db, account_id) == (4000 - left, 4000 - left)
    hold(db, account_id, left, "b")
    with pytest.raises(SpendingCapError):
        hold(db, account_id, 1, "c")


def test_what_comes_back_late_counts_in_its_own_period(db: Database, account_id: str) -> None:
    """A hold of October that is released in November gives nothing to November's counters."""
    october = hold(db, account_id, 4000, "a").id
    hold(db, account_id, 1000, "b", NEXT_MONTH)
    with db.write() as session:
        ledger.release_hold(session, october, actor="test")
    assert spent(db, account_id, NEXT_MONTH) == (1000, 1000)


def test_a_release_on_the_next_day_counts_in_the_month(db: Database, account_id: str) -> None:
    """It leaves the new day's counter alone and is gone from the month's."""
    first = hold(db, account_id, 4000, "a").id
    hold(db, account_id, 1000, "b", NEXT_DAY)
    with db.write() as session:
        ledger.release_hold(session, first, actor="test")
    assert spent(db, account_id, NEXT_DAY) == (1000, 1000)


def test_a_node_whose_clock_is_behind_does_not_open_the_cap_again(db: Database, account_id: str) -> None:
    """A hold that says yesterday after one that said today still counts."""
    cap(db, account_id, day_mt=1000)
    hold(db, account_id, 1000, "a", NEXT_DAY)
    with pytest.raises(SpendingCapError):
        hold(db, account_id, 1000, "b", DAY)


def test_a_cap_below_what_was_spent_stops_and_none_opens(db: Database, account_id: str) -> None:
    """Caps may be set at any time: earlier spending counts, and zero stops everything."""
    hold(db, account_id, 2000, "a")
    cap(db, account_id, day_mt=1000)
    with pytest.raises(SpendingCapError):
        hold(db, account_id, 1, "b")
    cap(db, account_id, month_mt=0)
    with pytest.raises(SpendingCapError):
        hold(db, account_id, 1, "c", NEXT_MONTH)
    cap(db, account_id)
    hold(db, account_id, 50_000, "d")


def test_caps_hold_under_concurrency(db: Database, account_id: str) -> None:
    """16 threads, 160 attempts of 1.000 with a cap of 20.000: exactly 20 succeed."""
    cap(db, account_id, day_mt=20_000)
    barrier = threading.Barrier(16)

    def client(number: int) -> int:
        barrier.wait()
        done = 0
        for index in range(10):
            try:
                hold(db, account_id, 1000, f"{number}-{index}")
                done += 1
            except SpendingCapError:
                pass
        return done

    with ThreadPoolExecutor(16) as clients:
        assert sum(clients.map(client, range(16))) == 20
    assert spent(db, account_id) == (20_000, 20_000)


def test_a_budget_counts_beside_its_account(db: Database, account_id: str) -> None:
    """A key's budget of 2.000 a day stops the key, not the account, and gets back what its holds give back."""
    with db.write() as session:
        budget = spending.open_budget(session, account_id, day_cap_mt=2000, month_cap_mt=None)
    first = hold(db, account_id, 2000, "a", budget_id=budget.id)
    with pytest.raises(SpendingCapError) as caught:
        hold(db, account_id, 1, "b", budget_id=budget.id)
    assert caught.value.details["scope"] == "key"
    hold(db, account_id, 1, "c")
    with db.write() as session:
        ledger.capture_hold(session, first.id, 500, actor="test")
    with db.read() as session:
        assert session.get_one(Budget, budget.id).day_spent_mt == 500
    assert spent(db, account_id) == (501, 501)
    hold(db, account_id, 1500, "d", budget_id=budget.id)


def test_a_budget_that_is_not_there_holds_nothing(db: Database, account_id: str) -> None:
    """A hold naming an unknown budget fails as a whole."""
    with pytest.raises(AccountNotActiveError):
        hold(db, account_id, 1, "a", budget_id="budget_gone")
    assert spent(db, account_id) == (0, 0)


@pytest.mark.parametrize("cap_mt", [-1, 10**16])
def test_impossible_caps_and_alerts_are_refused(db: Database, account_id: str, cap_mt: int) -> None:
    """Below zero or beyond all reason is an error, not a stored number."""
    with pytest.raises(InvalidAmountError):
        cap(db, account_id, day_mt=cap_mt)
    with pytest.raises(InvalidAmountError), db.write() as session:
        spending.set_alert(session, account_id, cap_mt)


def alerts(session: Session, account_id: str) -> list[int]:
    """The balances that open alerts tell, newest first."""
    return [alert.posted_after_mt for alert in spending.open_alerts(session, account_id)]


def test_alert_once_for_each_crossing(db: Database, account_id: str) -> None:
    """Falling below 50.000 warns once; staying below does not; a top-up and a second fall warn again."""
    with db.write() as session:
        spending.set_alert(session, account_id, 50_000)

    def spend(amount_mt: int, key: str) -> list[int]:
        held = hold(db, account_id, amount_mt, key)
        with db.write() as session:
            ledger.capture_hold(session, held.id, amount_mt, actor="test")
        with db.read() as session:
            return alerts(session, account_id)

    assert spend(50_000, "to the threshold") == []
    assert spend(1, "below") == [49_999]
    assert spend(9_999, "further below") == [49_999]
    with db.write() as session:
        spending.dismiss_alerts(session, account_id)
        assert alerts(session, account_id) == []
        ledger.post_top_up(session, account_id, 10_000, source="house:test", actor="test")
    assert spend(5_000, "below again") == [45_000]
    with db.write() as session:
        post_adjustment(session, account_id, 60_000, reason="gift", actor="op")
        post_adjustment(session, account_id, -60_000, reason="mistake", actor="op")
        assert alerts(session, account_id) == [45_000, 45_000]


def test_a_hold_alone_warns_nobody(db: Database, account_id: str) -> None:
    """What is only reserved may come back: the settled balance is what the alert looks at."""
    with db.write() as session:
        spending.set_alert(session, account_id, 50_000)
    hold(db, account_id, 90_000, "a")
    with db.read() as session:
        assert alerts(session, account_id) == []


def test_a_budget_of_another_account_takes_no_hold(db: Database, account_id: str) -> None:
    """Whoever knows the id of somebody's budget fills it with nothing, and passes his own cap by no such detour."""
    with db.write() as session:
        budget = spending.open_budget(session, account_id, day_cap_mt=2000, month_cap_mt=None)
        other_id = ledger.open_account(session, "Bob").id
        ledger.post_top_up(session, other_id, 100_000, source="house:test", actor="test")
    with pytest.raises(AccountNotActiveError):
        hold(db, other_id, 1000, "a", budget_id=budget.id)
    with db.read() as session:
        assert session.get_one(Budget, budget.id).day_spent_mt == 0
        assert ledger.get_balance(session, other_id).held_mt == 0
