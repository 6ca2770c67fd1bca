"""Refunds, adjustments and freezes: bounded, with a reason, on the record."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.db import Database
from core.errors import (
    AccountNotActiveError,
    HoldEndedError,
    InsufficientTokensError,
    InvalidAmountError,
    ReasonMissingError,
    RefundTooLargeError,
)
from core.ledger import ledger
from core.ledger.corrections import post_adjustment, refund_capture, refundable_mt, set_frozen
from core.ledger.tables import Account
from core.ledger.verify import verify_ledger


def charge(db: Database, account_id: str, amount_mt: int, key: str = "picture") -> str:
    """A captured hold."""
    with db.write() as session:
        hold = ledger.place_hold(session, account_id, amount_mt, charge_key=key, lease_s=60, actor="test")
        ledger.capture_hold(session, hold.id, amount_mt, actor="test")
    return hold.id


def posted(db: Database, account_id: str) -> int:
    """The settled balance of a ledger that is in order."""
    with db.read() as session:
        outcome = verify_ledger(session)
        assert outcome.ok, outcome.problems
        return ledger.get_balance(session, account_id).posted_mt


def test_refunds_add_up_to_the_charge_at_most(db: Database, account_id: str) -> None:
    """3.000 charged: 1.000 back, 2.001 refused, 2.000 back, then nothing is left."""
    hold_id = charge(db, account_id, 3000)
    with db.write() as session:
        entry = refund_capture(session, hold_id, 1000, reason=" blurred ", actor="op")
    assert (entry.kind, entry.memo, entry.actor, entry.posted_change_mt) == ("refund", "blurred", "op", 1000)
    with pytest.raises(RefundTooLargeError) as caught, db.write() as session:
        refund_capture(session, hold_id, 2001, reason="again", actor="op")
    assert caught.value.details["refundable_mt"] == 2000
    assert posted(db, account_id) == 8000
    with db.write() as session:
        refund_capture(session, hold_id, 2000, reason="the rest", actor="op")
        assert refundable_mt(session, hold_id) == 0
    with pytest.raises(RefundTooLargeError), db.write() as session:
        refund_capture(session, hold_id, 1, reason="too much", actor="op")
    assert posted(db, account_id) == 10_000


def test_refunds_at_once_never_pass_the_charge(db: Database, account_id: str) -> None:
    """16 threads that refund 1.000 of 5.000 each: five succeed."""
    hold_id = charge(db, account_id, 5000)
    barrier = threading.Barrier(16)

    def client(_number: int) -> bool:
        barrier.wait()
        try:
            with db.write() as session:
                refund_capture(session, hold_id, 1000, reason="twice?", actor="op")
        except RefundTooLargeError:
            return False
        return True

    with ThreadPoolExecutor(16) as clients:
        assert sum(clients.map(client, range(16))) == 5
    assert posted(db, account_id) == 10_000


@pytest.mark.parametrize("end", ["held", "released", "unknown"])
def test_only_a_charge_can_be_refunded(db: Database, account_id: str, end: str) -> None:
    """Nothing was taken by an open or released hold, so nothing can be given back."""
    with db.write() as session:
        hold_id = ledger.place_hold(session, account_id, 1000, charge_key="a", lease_s=60, actor="test").id
        if end == "released":
            ledger.release_hold(session, hold_id, actor="test")
    with pytest.raises(HoldEndedError), db.write() as session:
        refund_capture(session, "hold_unknown" if end == "unknown" else hold_id, 1, reason="why", actor="op")
    assert posted(db, account_id) == 10_000


def test_a_refunded_charge_stays_paid_for(db: Database, account_id: str) -> None:
    """The result was delivered: the same work is not charged a second time after its refund."""
    hold_id = charge(db, account_id, 1000)
    with db.write() as session:
        refund_capture(session, hold_id, 1000, reason="goodwill", actor="op")
        assert ledger.find_taken_keys(session, account_id, ["picture", "other"]) == {"picture"}


def test_adjustments_never_touch_what_is_held(db: Database, account_id: str) -> None:
    """10.000 with 4.000 held: 6.000 can be taken, not 6.001; a credit always goes."""
    with db.write() as session:
        ledger.place_hold(session, account_id, 4000, charge_key="a", lease_s=60, actor="test")
    with pytest.raises(InsufficientTokensError), db.write() as session:
        post_adjustment(session, account_id, -6001, reason="mistake", actor="op")
    with db.write() as session:
        entry = post_adjustment(session, account_id, -6000, reason="mistake", actor="op")
    assert (entry.debit_account, entry.credit_account) == (f"account:{account_id}", "house:adjustments")
    with db.write() as session:
        post_adjustment(session, account_id, 500, reason="sorry", actor="op")
    assert posted(db, account_id) == 4500


@pytest.mark.parametrize("reason", ["", "  \n"])
def test_nothing_is_corrected_without_a_reason(db: Database, account_id: str, reason: str) -> None:
    """Refund, adjustment and freeze all ask why."""
    hold_id = charge(db, account_id, 1000)
    with pytest.raises(ReasonMissingError), db.write() as session:
        refund_capture(session, hold_id, 1, reason=reason, actor="op")
    with pytest.raises(ReasonMissingError), db.write() as session:
        post_adjustment(session, account_id, 1, reason=reason, actor="op")
    with pytest.raises(ReasonMissingError), db.write() as session:
        set_frozen(session, account_id, frozen=True, reason=reason, actor="op")
    assert posted(db, account_id) == 9000


@pytest.mark.parametrize("amount_mt", [0, 10**16, -(10**16)])
def test_impossible_amounts_are_refused(db: Database, account_id: str, amount_mt: int) -> None:
    """Zero and what no column could hold."""
    with pytest.raises(InvalidAmountError), db.write() as session:
        post_adjustment(session, account_id, amount_mt, reason="why", actor="op")


def test_freezing_is_an_entry_and_stops_spending(db: Database, account_id: str) -> None:
    """Frozen: no hold, open ones still end, money comes in; freezing again changes nothing; then it spends again."""
    with db.write() as session:
        open_id = ledger.place_hold(session, account_id, 1000, charge_key="open", lease_s=60, actor="test").id
        entry = set_frozen(session, account_id, frozen=True, reason="chargeback", actor="op")
    assert entry is not None
    assert (entry.kind, entry.amount_mt, entry.memo, entry.actor) == ("freeze", 0, "chargeback", "op")
    with pytest.raises(AccountNotActiveError), db.write() as session:
        ledger.place_hold(session, account_id, 1, charge_key="a", lease_s=60, actor="test")
    with db.write() as session:
        assert set_frozen(session, account_id, frozen=True, reason="again", actor="op") is None
        ledger.capture_hold(session, open_id, 1000, actor="test")
        refund_capture(session, open_id, 500, reason="half", actor="op")
        ledger.post_top_up(session, account_id, 500, source="house:test", actor="test")
        assert session.get_one(Account, account_id).status == "frozen"
        assert set_frozen(session, account_id, frozen=False, reason="paid", actor="op") is not None
        ledger.place_hold(session, account_id, 1, charge_key="a", lease_s=60, actor="test")
    assert posted(db, account_id) == 10_000


def test_an_account_that_is_not_there(db: Database) -> None:
    """Neither adjusted nor frozen, and said so."""
    with pytest.raises(AccountNotActiveError), db.write() as session:
        post_adjustment(session, "acct_gone", 1, reason="why", actor="op")
    with pytest.raises(AccountNotActiveError), db.write() as session:
        set_frozen(session, "acct_gone", frozen=True, reason="why", actor="op")
