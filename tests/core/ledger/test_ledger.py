"""Hold, capture, release, expire; and the constraints that guard when the code does not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session

from core.db import Database, utcnow
from core.errors import (
    AccountNotActiveError,
    ChargeKeyTakenError,
    HoldEndedError,
    InsufficientTokensError,
    InvalidAmountError,
)
from core.ledger import corrections, ledger
from core.ledger.tables import Entry, Hold
from core.ledger.verify import verify_ledger
from tests.core.ledger.helpers import expire_everything

LATER = timedelta(hours=1)


def hold(db: Database, account_id: str, amount_mt: int, key: str = "k") -> str:
    """A committed hold's id."""
    with db.write() as session:
        return ledger.place_hold(session, account_id, amount_mt, charge_key=key, lease_s=60, actor="test").id


def balance(db: Database, account_id: str) -> tuple[int, int]:
    """Posted and held; the ledger must verify whenever somebody looks."""
    with db.read() as session:
        outcome = verify_ledger(session)
        assert outcome.ok, outcome.problems
        now = ledger.get_balance(session, account_id)
    assert now.available_mt == now.posted_mt - now.held_mt
    return now.posted_mt, now.held_mt


def get_hold(db: Database, hold_id: str) -> Hold:
    """A hold as it is stored."""
    with db.read() as session:
        return session.get_one(Hold, hold_id)


def capture(session: Session, hold_id: str) -> Entry:
    """Capture 1.000."""
    return ledger.capture_hold(session, hold_id, 1000, actor="test")


def release(session: Session, hold_id: str) -> Entry:
    """Release all."""
    return ledger.release_hold(session, hold_id, actor="test")


def expire(session: Session, hold_id: str) -> Entry:
    """Let the lease of every hold run out."""
    entries = expire_everything(session, now=utcnow() + LATER)
    if not entries:
        raise HoldEndedError("nothing was due", hold_id=hold_id)
    (entry,) = entries
    assert entry.hold_id == hold_id
    return entry


def test_capture_takes_the_amount(db: Database, account_id: str) -> None:
    """10.000 → hold 3.000 → capture 3.000 → 7.000, nothing held."""
    hold_id = hold(db, account_id, 3000)
    assert balance(db, account_id) == (10_000, 3000)
    with db.write() as session:
        entry = ledger.capture_hold(session, hold_id, 3000, actor="test")
    assert balance(db, account_id) == (7000, 0)
    assert (entry.kind, entry.posted_change_mt, entry.held_change_mt) == ("capture", -3000, -3000)
    stored = get_hold(db, hold_id)
    assert (stored.status, stored.captured_mt) == ("captured", 3000)
    assert stored.ended_at is not None


def test_partial_capture_gives_the_rest_back(db: Database, account_id: str) -> None:
    """10.000 → hold 3.000 → capture 1.200 → 8.800 in one entry, nothing held."""
    hold_id = hold(db, account_id, 3000)
    with db.write() as session:
        entry = ledger.capture_hold(session, hold_id, 1200, actor="test")
    assert (entry.amount_mt, entry.held_change_mt) == (1200, -3000)
    assert balance(db, account_id) == (8800, 0)


def test_release_gives_all_back(db: Database, account_id: str) -> None:
    """10.000 → hold 3.000 → release → 10.000."""
    hold_id = hold(db, account_id, 3000)
    with db.write() as session:
        release(session, hold_id)
    assert balance(db, account_id) == (10_000, 0)
    assert get_hold(db, hold_id).status == "released"


def test_expiry_gives_all_back_when_due_and_not_before(db: Database, account_id: str) -> None:
    """A sweep within the lease does nothing; after it the hold is back, once."""
    hold_id = hold(db, account_id, 3000)
    with db.write() as session:
        assert not ledger.due_accounts(session, utcnow())
        assert expire_everything(session) == []
    assert balance(db, account_id) == (10_000, 3000)
    with db.write() as session:
        assert ledger.due_accounts(session, utcnow() + LATER)
        expire(session, hold_id)
        assert expire_everything(session, now=utcnow() + LATER) == []
    assert balance(db, account_id) == (10_000, 0)
    assert get_hold(db, hold_id).status == "expired"


@pytest.mark.parametrize("second", [capture, release, expire])
@pytest.mark.parametrize("first", [capture, release, expire])
def test_a_hold_ends_once(
    db: Database,
    account_id: str,
    first: Callable[[Session, str], Entry],
    second: Callable[[Session, str], Entry],
) -> None:
    """Whatever ended a hold, every second ending raises HoldEndedError and moves nothing."""
    hold_id = hold(db, account_id, 1000)
    with db.write() as session:
        first(session, hold_id)
    before = balance(db, account_id)
    with pytest.raises(HoldEndedError), db.write() as session:
        second(session, hold_id)
    assert balance(db, account_id) == before


def test_capture_of_more_than_held_is_refused(db: Database, account_id: str) -> None:
    """One milli-token above the hold is refused; the hold stays and can be captured in full."""
    hold_id = hold(db, account_id, 1000)
    with pytest.raises(InvalidAmountError), db.write() as session:
        ledger.capture_hold(session, hold_id, 1001, actor="test")
    assert balance(db, account_id) == (10_000, 1000)
    with db.write() as session:
        ledger.capture_hold(session, hold_id, 1000, actor="test")
    assert balance(db, account_id) == (9000, 0)


@pytest.mark.parametrize("amount_mt", [0, -1])
def test_nothing_or_less_is_no_amount(db: Database, account_id: str, amount_mt: int) -> None:
    """Zero and negative amounts are refused by every move."""
    hold_id = hold(db, account_id, 1000)
    for move in (
        lambda s: ledger.post_top_up(s, account_id, amount_mt, source="house:test", actor="test"),
        lambda s: ledger.place_hold(s, account_id, amount_mt, charge_key="x", lease_s=60, actor="test"),
        lambda s: ledger.capture_hold(s, hold_id, amount_mt, actor="test"),
    ):
        with pytest.raises(InvalidAmountError), db.write() as session:
            move(session)
    assert balance(db, account_id) == (10_000, 1000)


def test_insufficient_says_how_much_is_missing(db: Database, account_id: str) -> None:
    """The available balance can be held to the last milli-token; one more is refused with the three numbers."""
    hold(db, account_id, 4000, "first")
    with pytest.raises(InsufficientTokensError) as caught:
        hold(db, account_id, 6001, "second")
    error = caught.value
    assert (error.required_mt, error.available_mt, error.missing_mt) == (6001, 6000, 1)
    assert "0.001" in error.message
    assert balance(db, account_id) == (10_000, 4000)
    hold(db, account_id, 6000, "second")
    assert balance(db, account_id) == (10_000, 10_000)


def test_charge_key_is_unique_while_held_or_captured(db: Database, account_id: str) -> None:
    """The same work cannot be held twice, nor again after it was paid; another account is another matter."""
    hold_id = hold(db, account_id, 1000, "work")
    with pytest.raises(ChargeKeyTakenError):
        hold(db, account_id, 1000, "work")
    with db.write() as session:
        capture(session, hold_id)
    with pytest.raises(ChargeKeyTakenError):
        hold(db, account_id, 1000, "work")
    with db.write() as session:
        other = ledger.open_account(session, "Bob")
        ledger.post_top_up(session, other.id, 1000, source="house:test", actor="test")
    hold(db, other.id, 1000, "work")
    assert balance(db, account_id) == (9000, 0)


@pytest.mark.parametrize("end", [release, expire])
def test_charge_key_is_free_again_after_giving_back(
    db: Database, account_id: str, end: Callable[[Session, str], Entry]
) -> None:
    """Work that was not paid for can be tried again under the same key."""
    hold_id = hold(db, account_id, 1000, "work")
    with db.write() as session:
        end(session, hold_id)
    assert hold(db, account_id, 1000, "work") != hold_id


def test_taken_key_lets_the_transaction_go_on(db: Database, account_id: str) -> None:
    """After ChargeKeyTakenError the same transaction can still hold other work."""
    hold(db, account_id, 1000, "a")
    with db.write() as session:
        with pytest.raises(ChargeKeyTakenError):
            ledger.place_hold(session, account_id, 1000, charge_key="a", lease_s=60, actor="test")
        ledger.place_hold(session, account_id, 500, charge_key="b", lease_s=60, actor="test")
    assert balance(db, account_id) == (10_000, 1500)


def test_renewed_hold_is_not_swept(db: Database, account_id: str) -> None:
    """A renewal moves the lease of open holds and leaves ended ones alone."""
    open_id, ended_id = hold(db, account_id, 1000, "open"), hold(db, account_id, 1000, "ended")
    with db.write() as session:
        release(session, ended_id)
    ended = get_hold(db, ended_id)
    with db.write() as session:
        ledger.renew_holds(session, [open_id, ended_id], lease_s=7200)
    with db.write() as session:
        assert expire_everything(session, now=utcnow() + LATER) == []
        assert ledger.expire_holds(session, account_id, now=utcnow() + LATER) == []
    assert get_hold(db, ended_id) == ended
    assert balance(db, account_id) == (10_000, 1000)


def test_a_renewal_reaches_every_hold(db: Database, account_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More holds than one statement takes are all renewed, the last ones too."""
    monkeypatch.setattr(ledger, "HOLDS_PER_STATEMENT_MAX", 2)
    hold_ids = [hold(db, account_id, 100, f"{number}") for number in range(5)]
    with db.write() as session:
        ledger.renew_holds(session, hold_ids, lease_s=7200)
    with db.write() as session:
        assert ledger.expire_holds(session, account_id, now=utcnow() + LATER) == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite's one writer lets nothing between
def test_a_lease_renewed_under_the_sweeper_stays(db: Database, account_id: str) -> None:
    """The runner renews after the sweeper has listed the hold and before it ends it: the hold stays."""
    hold_id = hold(db, account_id, 1000)
    renewed = []

    def renew(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("UPDATE hold SET status"):
            with db.write() as session:
                ledger.renew_holds(session, [hold_id], lease_s=7200)
            renewed.append(hold_id)

    with db.write() as session:
        event.listen(db.engine, "before_cursor_execute", renew)
        assert ledger.expire_holds(session, account_id, now=utcnow() + LATER) == []
    event.remove(db.engine, "before_cursor_execute", renew)
    assert renewed == [hold_id]
    assert balance(db, account_id) == (10_000, 1000)


def test_frozen_account_cannot_spend(db: Database, account_id: str) -> None:
    """A frozen account holds nothing new; what was held can end, and tokens can still arrive."""
    hold_id = hold(db, account_id, 1000, "before")
    with db.write() as session:
        corrections.set_frozen(session, account_id, frozen=True, reason="dispute", actor="operator")
    with pytest.raises(AccountNotActiveError):
        hold(db, account_id, 1000, "after")
    with db.write() as session:
        release(session, hold_id)
        ledger.post_top_up(session, account_id, 5, source="house:test", actor="test")
    assert balance(db, account_id) == (10_005, 0)


def test_unknown_account_and_hold(db: Database, account_id: str) -> None:
    """Moves on what does not exist are expected errors, and change nothing."""
    with pytest.raises(AccountNotActiveError), db.read() as session:
        ledger.get_balance(session, "acct_none")
    with pytest.raises(HoldEndedError), db.write() as session:
        release(session, "hold_none")
    with pytest.raises(HoldEndedError), db.write() as session:
        capture(session, "hold_none")
    assert balance(db, account_id) == (10_000, 0)


def test_a_failing_transaction_leaves_nothing(db: Database, account_id: str) -> None:
    """An exception after a hold in the same transaction takes hold and entry back with it."""
    with pytest.raises(RuntimeError, match="afterwards"), db.write() as session:  # noqa: PT012  # the block is the test
        ledger.place_hold(session, account_id, 1000, charge_key="k", lease_s=60, actor="test")
        raise RuntimeError("afterwards")
    assert balance(db, account_id) == (10_000, 0)
    assert hold(db, account_id, 1000, "k")


@pytest.mark.parametrize(
    "statement", ["UPDATE entry SET amount_mt = 1", "UPDATE entry SET memo = 'x' WHERE seq = 1", "DELETE FROM entry"]
)
def test_entries_are_append_only(db: Database, account_id: str, statement: str) -> None:
    """The database itself refuses to change or delete an entry."""
    with pytest.raises(DBAPIError, match="append-only"), db.write() as session:
        session.connection().execute(text(statement))
    assert balance(db, account_id) == (10_000, 0)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE account SET posted_mt = 999",
        "UPDATE account SET held_mt = -1",
        "UPDATE account SET held_mt = posted_mt + 1",
        "UPDATE account SET status = 'rich'",
        "UPDATE hold SET captured_mt = amount_mt + 1, status = 'captured'",
        "UPDATE hold SET captured_mt = 1",
        "UPDATE hold SET status = 'lost'",
        "UPDATE hold SET amount_mt = 0",
        "INSERT INTO hold (id, account_id, amount_mt, captured_mt, status, charge_key, expires_at, created_at) "
        "SELECT 'twin', account_id, amount_mt, captured_mt, status, charge_key, expires_at, created_at FROM hold",
    ],
)
def test_constraints_guard_without_the_code(db: Database, account_id: str, statement: str) -> None:
    """Raw SQL cannot bring posted below held, held below zero, or a hold into an impossible state."""
    hold(db, account_id, 1000)
    with pytest.raises(DBAPIError, match=r"(?i)check|unique"), db.write() as session:
        session.connection().execute(text(statement))
    assert balance(db, account_id) == (10_000, 1000)


def test_a_hold_has_one_ending_entry(db: Database, account_id: str) -> None:
    """A second ending entry for the same hold is refused by the database."""
    hold_id = hold(db, account_id, 1000)
    with db.write() as session:
        capture(session, hold_id)
    with pytest.raises(DBAPIError, match=r"(?i)unique"), db.write() as session:
        session.add(
            Entry(
                account_id=account_id, seq=99, kind="release", debit_account="a", credit_account="b", amount_mt=1,
                posted_change_mt=0, held_change_mt=0, posted_after_mt=9000, held_after_mt=0, hold_id=hold_id, actor="x",
            )
        )  # fmt: skip


def test_statement_lists_newest_first(db: Database, account_id: str) -> None:
    """Entries carry a gapless seq, the balances after each, and what moved from where to where."""
    hold_id = hold(db, account_id, 1000)
    with db.write() as session:
        capture(session, hold_id)
    with db.read() as session:
        entries = ledger.list_entries(session, account_id)
    assert [(e.seq, e.kind, e.posted_after_mt, e.held_after_mt) for e in entries] == [
        (3, "capture", 9000, 0),
        (2, "hold", 10_000, 1000),
        (1, "top_up", 10_000, 0),
    ]
    assert [(e.debit_account, e.credit_account) for e in entries] == [
        (f"account:{account_id}:held", ledger.HOUSE_REVENUE),
        (f"account:{account_id}", f"account:{account_id}:held"),
        ("house:test", f"account:{account_id}"),
    ]
