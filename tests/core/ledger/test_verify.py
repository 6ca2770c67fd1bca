"""The ledger's check finds what was tampered with and names it, and never reports a ledger that is in order."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session

from core.db import Database, table_of, utcnow
from core.errors import ChargeKeyTakenError, HoldEndedError, InsufficientTokensError, InvalidAmountError
from core.ledger import corrections, ledger, verify
from core.ledger.posting import reserved
from core.ledger.seal import SEALED_COLUMNS
from core.ledger.tables import Entry
from core.ledger.verify import _Replay, verify_ledger
from core.services import audit
from tests.conftest import migrated_database
from tests.core.ledger.helpers import expire_everything
from tests.core.ledger.tampering import Attacker, History, write_history

SEED = 90_210
FUZZ_EDITS = 400


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def tampered_db(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One database of each kind for the module; each test's changes are rolled back."""
    with migrated_database(request.param, tmp_path_factory.mktemp("ledger")) as url:
        database = Database(url)
        database.migrate()
        yield database
        database.close()


@pytest.fixture(scope="module")
def history(tampered_db: Database) -> History:
    """Two accounts with one of everything, sealed but for the last two entries."""
    return write_history(tampered_db)


@pytest.fixture
def attacker(tampered_db: Database, history: History) -> Iterator[Attacker]:
    """Somebody who may change anything in the database."""
    with tampered_db.engine.connect().execution_options(vm_write=True) as connection:
        yield Attacker(connection, history)
        connection.rollback()


@pytest.fixture
def account_id(db: Database) -> str:
    """An account with 9.000 tokens of 10.000, after one charge, and 1.000 held."""
    with db.write() as session:
        account = ledger.open_account(session, "Ann")
        ledger.post_top_up(session, account.id, 10_000, source="house:test", actor="test")
        hold = ledger.place_hold(session, account.id, 1000, charge_key="a", lease_s=60, actor="test")
        ledger.capture_hold(session, hold.id, 1000, actor="test")
        ledger.place_hold(session, account.id, 1000, charge_key="b", lease_s=60, actor="test")
    return account.id


# In order -----------------------------------------------------------------------------------------


def test_an_untouched_ledger_is_in_order(attacker: Attacker, history: History) -> None:
    """One of everything, two entries unsealed, with and without heads: no problem, sum zero."""
    for heads in ((), history.heads, history.early, history.heads + history.early):
        outcome = attacker.verify(heads=heads)
        assert (outcome.ok, outcome.problems, outcome.ledger_sum_mt) == (True, (), 0)
        assert (outcome.accounts, outcome.entries, outcome.unsealed) == (2, History.ENTRIES + 4, 2)
    own = attacker.verify(history.ann, heads=history.heads)
    assert (own.ok, own.accounts, own.entries, own.unsealed) == (True, 1, History.ENTRIES, 2)


def test_an_empty_ledger_is_in_order(db: Database) -> None:
    """No account, and an account without entries, are nothing to report."""
    with db.read() as session:
        assert verify_ledger(session).ok
    with db.write() as session:
        account_id = ledger.open_account(session, "Ann").id
    with db.read() as session:
        assert verify_ledger(session).ok
        assert verify_ledger(session, account_id).ok


# A sealed entry is changed ------------------------------------------------------------------------

EDITS = {
    "account_id": "account_id = :bob",
    "seq": "seq = 99",
    "kind": "kind = 'bonus'",
    "debit_account": "debit_account = 'house:elsewhere'",
    "credit_account": "credit_account = 'house:elsewhere'",
    "amount_mt": "amount_mt = amount_mt + 1",
    "posted_change_mt": "posted_change_mt = posted_change_mt + 1",
    "held_change_mt": "held_change_mt = held_change_mt + 1",
    "posted_after_mt": "posted_after_mt = posted_after_mt + 1",
    "held_after_mt": "held_after_mt = held_after_mt + 1",
    "hold_id": "hold_id = NULL",
    "actor": "actor = 'somebody else'",
    "memo": "memo = memo || ' '",
    "created_at": "created_at = :later",
}


def test_the_chain_covers_every_column() -> None:
    """A column that is added to the entries must be sealed; only the row's own number is not, and is not edited."""
    assert {column.name for column in table_of(Entry).columns} - set(SEALED_COLUMNS) == {"id"}
    assert set(EDITS) == set(SEALED_COLUMNS)


@pytest.mark.parametrize("seq", [5, 9, 17])
@pytest.mark.parametrize("column", EDITS)
def test_an_edited_entry_is_named(attacker: Attacker, history: History, column: str, seq: int) -> None:
    """Whatever column of a sealed entry is edited, the check names that entry."""
    later = "2031-01-01 00:00:00.000000" if attacker.is_sqlite else "2031-01-01 00:00:00+00"
    attacker.change(f"UPDATE entry SET {EDITS[column]} WHERE account_id = :ann AND seq = {seq}", later=later)
    found = {(problem.code, problem.account_id, problem.seq) for problem in attacker.verify().problems}
    expected = {("gap" if column in ("seq", "account_id") else "seal", history.ann, seq)}
    if column == "account_id":
        # Bob has four entries: now one follows on them whose balance is none of his, or that leaves a gap.
        expected.add(("balance" if seq == 5 else "gap", history.bob, 5))
    assert found == expected


def test_a_microsecond_counts(attacker: Attacker, history: History) -> None:
    """The smallest change of the time is found too."""
    if attacker.is_sqlite:
        digit = "CASE substr(created_at, -1) WHEN '0' THEN '1' ELSE '0' END"
        attacker.change(
            f"UPDATE entry SET created_at = substr(created_at, 1, 25) || {digit} WHERE account_id = :ann AND seq = 9"
        )
    else:
        attacker.change(
            "UPDATE entry SET created_at = created_at + interval '1 microsecond' WHERE account_id = :ann AND seq = 9"
        )
    assert attacker.first_problem() == ("seal", history.ann, 9)


def test_contents_of_two_entries_are_swapped(attacker: Attacker, history: History) -> None:
    """Two entries that trade their places are found at the first of the two."""
    for old, new in ((11, -1), (12, 11), (-1, 12)):
        attacker.change(f"UPDATE entry SET seq = {new} WHERE account_id = :ann AND seq = {old}")
    assert attacker.first_problem() == ("seal", history.ann, 11)


@pytest.mark.parametrize("column", ["actor", "memo"])
def test_who_and_why_are_swapped(attacker: Attacker, history: History, column: str) -> None:
    """Two entries whose actor or memo trade places, so that nothing is lost, are found at the first of the two."""
    select = text(f"SELECT {column} FROM entry WHERE account_id = :ann AND seq IN (1, 13) ORDER BY seq")
    first, second = attacker.connection.execute(select, {"ann": history.ann}).scalars()
    attacker.change(f"UPDATE entry SET {column} = :value WHERE account_id = :ann AND seq = 1", value=second)
    attacker.change(f"UPDATE entry SET {column} = :value WHERE account_id = :ann AND seq = 13", value=first)
    assert attacker.first_problem() == ("seal", history.ann, 1)


def test_only_the_first_wrong_entry_of_each_account_is_named(attacker: Attacker, history: History) -> None:
    """Three edits in two accounts make two problems."""
    attacker.change("UPDATE entry SET memo = 'x' WHERE account_id = :ann AND seq IN (12, 6)")
    attacker.change("UPDATE entry SET memo = 'x' WHERE account_id = :bob AND seq = 2")
    named = sorted((problem.account_id, problem.seq) for problem in attacker.verify().problems)
    assert named == sorted([(history.ann, 6), (history.bob, 2)])
    assert attacker.first_problem(history.bob) == ("seal", history.bob, 2)
    assert attacker.verify().entries == History.ENTRIES + 4


# An entry that is not sealed yet ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "seq", "code"),
    [
        ("posted_change_mt = posted_change_mt + 1", 19, "balance"),
        ("held_change_mt = held_change_mt + 1", 18, "balance"),
        ("posted_after_mt = posted_after_mt + 1", 19, "balance"),
        ("held_after_mt = held_after_mt + 1", 18, "balance"),
        ("amount_mt = amount_mt + 1", 18, "postings"),
        ("amount_mt = amount_mt - 1", 19, "postings"),
        ("debit_account = 'house:elsewhere'", 18, "postings"),
        ("debit_account = 'nobody'", 18, "postings"),
        ("credit_account = 'nobody'", 19, "postings"),
        ("kind = 'top_up'", 18, "holds_count"),
        ("kind = 'release'", 19, "hold"),
        ("hold_id = NULL", 19, "hold"),
        ("hold_id = (SELECT hold_id FROM entry WHERE account_id = :bob AND seq = 4)", 18, "hold"),
    ],
)
def test_an_edit_before_the_seal_is_named(attacker: Attacker, history: History, edit: str, seq: int, code: str) -> None:
    """What moves money is found by the replay alone, before any seal."""
    attacker.change(f"UPDATE entry SET {edit} WHERE account_id = :ann AND seq = {seq}")
    found_code, account_id, found_seq = attacker.first_problem()
    assert (found_code, account_id) == (code, history.ann)
    assert found_seq == (None if code == "holds_count" else seq)


@pytest.mark.parametrize(("who", "status"), [("ann", "frozen"), ("bob", "frozen")])
def test_a_status_that_no_entry_tells_of_is_named(attacker: Attacker, history: History, who: str, status: str) -> None:
    """Somebody froze an account behind the ledger's back, whether or not it was ever frozen in the open."""
    account_id = getattr(history, who)
    attacker.run(f"UPDATE account SET status = '{status}' WHERE id = '{account_id}'")
    assert attacker.first_problem() == ("status", account_id, None)


def test_swapped_before_the_seal(attacker: Attacker, history: History) -> None:
    """Two unsealed entries that trade places give a balance that does not follow."""
    for old, new in ((18, -1), (19, 18), (-1, 19)):
        attacker.change(f"UPDATE entry SET seq = {new} WHERE account_id = :ann AND seq = {old}")
    assert attacker.first_problem() == ("balance", history.ann, 18)


# Entries are deleted or inserted ------------------------------------------------------------------


@pytest.mark.parametrize("seq", [1, 8, 17])
def test_a_deleted_entry_is_named(attacker: Attacker, history: History, seq: int) -> None:
    """An entry that is missing at the beginning, in the middle or at the last seal."""
    attacker.change(f"DELETE FROM entry WHERE account_id = :ann AND seq = {seq}")
    assert attacker.first_problem() == ("gap", history.ann, seq)


@pytest.mark.parametrize("seq", [1, 8, 17])
def test_a_deleted_entry_is_named_after_the_gap_was_closed(attacker: Attacker, history: History, seq: int) -> None:
    """Renumbering what follows does not hide it: the next entry is not the one that was sealed there."""
    attacker.change(f"DELETE FROM entry WHERE account_id = :ann AND seq = {seq}")
    attacker.shift(history.ann, seq + 1, by=-1)
    attacker.change("UPDATE account SET version = version - 1 WHERE id = :ann")
    assert attacker.first_problem() == ("seal", history.ann, seq)


def test_all_entries_are_deleted(attacker: Attacker, history: History) -> None:
    """An account whose seals are all that is left."""
    attacker.change("DELETE FROM entry WHERE account_id = :ann")
    assert attacker.first_problem() == ("truncated", history.ann, 1)


def test_an_entry_inserted_at_the_end_is_named(attacker: Attacker, history: History) -> None:
    """An entry that the account's row does not count."""
    posted_mt, held_mt = attacker.balance_after(history.ann, 19)
    attacker.insert_entry(history.ann, seq=20, posted_after_mt=posted_mt + 7000, held_after_mt=held_mt)
    assert attacker.first_problem() == ("stored_balance", history.ann, 20)


def test_an_entry_inserted_before_the_first_is_named(attacker: Attacker, history: History) -> None:
    """Numbers below 1 are no place to hide."""
    attacker.insert_entry(history.ann, seq=0, posted_after_mt=7000, held_after_mt=0)
    assert attacker.first_problem() == ("gap", history.ann, 0)


@pytest.mark.parametrize("tampered_db", ["postgresql"], indirect=True)  # SQLite drops no constraint of a table
def test_a_second_entry_of_a_number_is_named(attacker: Attacker, history: History) -> None:
    """Where the unique key was dropped, the number that is there twice is named."""
    attacker.connection.execute(text("ALTER TABLE entry DROP CONSTRAINT uq_entry_seq"))
    attacker.insert_entry(history.ann, seq=11, posted_after_mt=0, held_after_mt=0)
    code, account_id, seq = attacker.first_problem()
    assert (account_id, seq) == (history.ann, 11)
    assert code in ("gap", "seal")  # whichever of the two is read first


@pytest.mark.parametrize("seq", [1, 8, 17])
def test_a_consistent_entry_in_the_middle_is_named(attacker: Attacker, history: History, seq: int) -> None:
    """A top-up that was slipped in, with everything after it renumbered and every balance adapted."""
    posted_mt, held_mt = attacker.balance_after(history.ann, seq - 1) if seq > 1 else (0, 0)
    attacker.shift(history.ann, seq, by=1)
    attacker.change(
        f"UPDATE entry SET posted_after_mt = posted_after_mt + 7000 WHERE account_id = :ann AND seq > {seq}"
    )
    attacker.insert_entry(history.ann, seq=seq, posted_after_mt=posted_mt + 7000, held_after_mt=held_mt)
    attacker.change("UPDATE account SET posted_mt = posted_mt + 7000, version = version + 1 WHERE id = :ann")
    assert attacker.first_problem() == ("seal", history.ann, seq)


def test_a_forged_charge_at_the_end_has_no_hold(attacker: Attacker, history: History) -> None:
    """A charge that is consistent with the balance, but that no hold tells of."""
    posted_mt, held_mt = attacker.balance_after(history.ann, 19)
    attacker.insert_entry(
        history.ann,
        seq=20,
        kind="capture",
        debit_account=reserved(history.ann),
        credit_account="house:revenue",
        amount_mt=700,
        posted_change_mt=-700,
        held_change_mt=-700,
        posted_after_mt=posted_mt - 700,
        held_after_mt=held_mt - 700,
    )
    attacker.change(
        "UPDATE account SET posted_mt = posted_mt - 700, held_mt = held_mt - 700, version = 20 WHERE id = :ann"
    )
    assert attacker.first_problem() == ("hold", history.ann, 20)


def test_what_no_chain_can_tell(attacker: Attacker, history: History) -> None:
    """The limit: an entry appended as the application would, account included, is news and no change of the past."""
    posted_mt, held_mt = attacker.balance_after(history.ann, 19)
    attacker.insert_entry(history.ann, seq=20, posted_after_mt=posted_mt + 7000, held_after_mt=held_mt)
    attacker.change("UPDATE account SET posted_mt = posted_mt + 7000, version = 20 WHERE id = :ann")
    assert attacker.verify(heads=history.heads).ok


# The end is cut off -------------------------------------------------------------------------------


def test_the_end_is_cut_off(attacker: Attacker, history: History) -> None:
    """The seals tell of entries that are not there."""
    attacker.change("DELETE FROM entry WHERE account_id = :ann AND seq >= 15")
    assert attacker.first_problem() == ("truncated", history.ann, 15)


def test_the_end_and_its_seals_are_cut_off(attacker: Attacker, history: History) -> None:
    """The account's row counts entries that are not there."""
    attacker.change("DELETE FROM entry WHERE account_id = :ann AND seq >= 15")
    attacker.change("DELETE FROM seal WHERE account_id = :ann AND seq >= 15")
    assert attacker.first_problem() == ("stored_balance", history.ann, 15)


def test_the_end_its_seals_and_the_balance_are_cut_off(attacker: Attacker, history: History) -> None:
    """The holds tell of charges that are not there."""
    cut_off(attacker, history, holds=False)
    assert attacker.first_problem() == ("holds_held", history.ann, None)


def test_a_consistent_end_is_found_through_the_head(attacker: Attacker, history: History) -> None:
    """Entries, seals, balance and holds agree: only a head that was exported before knows the first that is missing."""
    cut_off(attacker, history, holds=True)
    assert attacker.verify().ok
    assert attacker.verify(heads=history.early).ok
    assert attacker.first_problem(heads=history.heads) == ("truncated", history.ann, 15)
    assert attacker.first_problem(history.ann, history.heads) == ("truncated", history.ann, 15)
    assert attacker.verify(history.bob, history.heads).ok


def cut_off(attacker: Attacker, history: History, *, holds: bool) -> None:
    """Take entries 15 to 19 away, as if Ann's last two charges and her open hold had never been."""
    posted_mt, held_mt = attacker.balance_after(history.ann, 14)
    attacker.change("DELETE FROM entry WHERE account_id = :ann AND seq >= 15")
    attacker.change("DELETE FROM seal WHERE account_id = :ann AND seq >= 15")
    attacker.change(
        "UPDATE account SET posted_mt = :posted, held_mt = :held, version = 14 WHERE id = :ann",
        posted=posted_mt,
        held=held_mt,
    )
    if holds:
        attacker.change("DELETE FROM hold WHERE account_id = :ann AND amount_mt IN (700, 800, 900)")


# Seals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seq", [1, 8, 17])
def test_an_edited_seal_is_named(attacker: Attacker, history: History, seq: int) -> None:
    """A digest that is not the entry's."""
    attacker.change(f"UPDATE seal SET digest = :digest WHERE account_id = :ann AND seq = {seq}", digest="0" * 64)
    assert attacker.first_problem() == ("seal", history.ann, seq)


@pytest.mark.parametrize("seq", [1, 8])
def test_a_deleted_seal_is_named(attacker: Attacker, history: History, seq: int) -> None:
    """A seal that is missing between others."""
    attacker.change(f"DELETE FROM seal WHERE account_id = :ann AND seq = {seq}")
    assert attacker.first_problem() == ("seal_gap", history.ann, seq)


@pytest.mark.parametrize("first", [1, 9, 17])
def test_the_last_seals_are_found_through_the_head(attacker: Attacker, history: History, first: int) -> None:
    """Without its last seals a chain looks as if it had not been sealed yet; the head says that it was."""
    attacker.change(f"DELETE FROM seal WHERE account_id = :ann AND seq >= {first}")
    outcome = attacker.verify()
    assert (outcome.ok, outcome.unsealed) == (True, History.ENTRIES - first + 1)
    assert attacker.first_problem(heads=history.heads) == ("seal_gap", history.ann, first)


def test_a_seal_of_nothing_is_named(attacker: Attacker, history: History) -> None:
    """A seal for an entry that never was."""
    attacker.change("INSERT INTO seal VALUES (:ann, 20, :digest)", digest="0" * 64)
    assert attacker.first_problem() == ("truncated", history.ann, 20)


# Accounts and holds -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "seq"),
    [
        ("posted_mt = posted_mt + 1", None),
        ("posted_mt = posted_mt - 1", None),
        ("held_mt = held_mt + 1", None),
        ("held_mt = held_mt - 1", None),
        ("version = version + 1", 20),
        ("version = version - 2", 18),
    ],
)
def test_an_edited_balance_is_named(attacker: Attacker, history: History, edit: str, seq: int | None) -> None:
    """The account's row differs from its last entry; where it counts other entries, the first of them is named."""
    attacker.change(f"UPDATE account SET {edit} WHERE id = :ann")
    assert attacker.first_problem() == ("stored_balance", history.ann, seq)


@pytest.mark.parametrize(
    ("placed", "edit", "code", "seq"),
    [
        (15, "amount_mt = amount_mt + 1", "hold", 15),
        (15, "status = 'released'", "holds_held", 15),
        (15, "status = 'expired'", "holds_held", 15),
        (15, "status = 'captured'", "holds_held", 15),
        (15, "status = 'captured', captured_mt = amount_mt", "holds_held", 15),
        (2, "captured_mt = captured_mt - 1", "hold", 3),
        (4, "captured_mt = captured_mt + 1", "hold", 5),
        (4, "captured_mt = captured_mt + 1, amount_mt = amount_mt + 1", "hold", 4),
        (4, "refunded_mt = refunded_mt + 1", "hold", 6),
        (4, "refunded_mt = refunded_mt - 1", "hold", 6),
        (4, "refunded_mt = 0", "hold", 6),
        (2, "refunded_mt = 1", "hold", 3),
        (2, "status = 'held', captured_mt = 0", "hold", 3),
        (7, "status = 'expired'", "hold", 8),
        (7, "status = 'held'", "hold", 8),
        (9, "status = 'released'", "hold", 10),
        (9, "amount_mt = amount_mt * 2", "hold", 9),
        (16, "account_id = :bob", "hold", 16),
        (18, "captured_mt = captured_mt - 1", "hold", 19),
    ],
)
def test_an_edited_hold_is_named(
    attacker: Attacker, history: History, placed: int, edit: str, code: str, seq: int
) -> None:
    """Whatever amount or state of a hold is edited, the entry that tells otherwise is named."""
    attacker.change(f"UPDATE hold SET {edit} WHERE id = :hold", hold=attacker.hold_of(history.ann, placed))
    problems = {problem.account_id: problem for problem in attacker.verify().problems}
    assert (problems[history.ann].code, problems[history.ann].seq) == (code, seq)
    assert (history.bob in problems) == ("bob" in edit)


def test_edits_of_two_holds_that_make_up_for_each_other_are_named(attacker: Attacker, history: History) -> None:
    """The sums still agree, and each hold is compared with its own entries."""
    for placed, change in ((4, -1), (18, 1)):
        attacker.change(
            f"UPDATE hold SET amount_mt = amount_mt + 1, captured_mt = captured_mt + {change} WHERE id = :hold",
            hold=attacker.hold_of(history.ann, placed),
        )
    assert attacker.first_problem() == ("hold", history.ann, 4)


def test_a_forged_hold_is_found(attacker: Attacker, history: History) -> None:
    """A hold that no entry tells of: one that is open by its amount, one that has ended by the number of holds."""
    insert = (
        "INSERT INTO hold (id, charge_key, status, account_id, amount_mt, captured_mt, refunded_mt, expires_at, "
        "created_at) SELECT 'forged', 'forged', :status, account_id, amount_mt, 0, 0, expires_at, created_at "
        "FROM hold WHERE id = :hold"
    )
    hold = attacker.hold_of(history.ann, 15)
    attacker.change(insert, status="held", hold=hold)
    assert attacker.first_problem() == ("holds_held", history.ann, None)
    attacker.change("UPDATE hold SET status = 'released' WHERE id = 'forged'")
    assert attacker.first_problem() == ("holds_count", history.ann, None)


def test_a_deleted_hold_is_named(attacker: Attacker, history: History) -> None:
    """An entry whose hold is not there."""
    hold = attacker.hold_of(history.ann, 7)
    attacker.without_foreign_keys()
    attacker.change("DELETE FROM hold WHERE id = :hold", hold=hold)
    assert attacker.first_problem() == ("hold", history.ann, 7)


# Everything is made consistent --------------------------------------------------------------------


def rewrite(attacker: Attacker, history: History) -> None:
    """Ann never got 1.000 of her first top-up, and was always poorer: entries, account and seals agree on it."""
    attacker.change("UPDATE entry SET posted_after_mt = posted_after_mt - 1000 WHERE account_id = :ann")
    attacker.change(
        "UPDATE entry SET amount_mt = amount_mt - 1000, posted_change_mt = posted_change_mt - 1000 "
        "WHERE account_id = :ann AND seq = 1"
    )
    attacker.change("UPDATE account SET posted_mt = posted_mt - 1000 WHERE id = :ann")
    attacker.reseal(history.ann)


def test_a_rewritten_chain_is_found_through_the_head(attacker: Attacker, history: History) -> None:
    """With every seal made anew only the head disagrees; earlier heads say earlier where it began."""
    rewrite(attacker, history)
    assert attacker.verify().ok
    assert attacker.first_problem(heads=history.heads) == ("head", history.ann, 17)
    assert attacker.first_problem(heads=history.early + history.heads) == ("head", history.ann, 4)
    assert attacker.first_problem(history.ann, history.heads) == ("head", history.ann, 17)


def test_a_chain_rewritten_from_the_middle_keeps_its_early_heads(attacker: Attacker, history: History) -> None:
    """A memo of entry 9 was changed and sealed anew: the head at 4 still agrees, the one at 10 does not."""
    attacker.change("UPDATE entry SET memo = 'as if' WHERE account_id = :ann AND seq = 9")
    attacker.reseal(history.ann)
    assert attacker.verify(heads=history.early[:1]).ok
    assert attacker.first_problem(heads=history.early + history.heads) == ("head", history.ann, 10)


def test_heads_that_contradict_each_other_do_not_both_agree(attacker: Attacker, history: History) -> None:
    """Two heads of the same entry with different digests: one of them is not this ledger's, in either order."""
    false = replace(history.heads[0], digest="0" * 64)
    for heads in ((false, history.heads[0]), (history.heads[0], false)):
        assert attacker.first_problem(heads=heads) == ("head", false.account_id, false.seq)


def test_a_deleted_account_is_found_through_the_head(attacker: Attacker, history: History) -> None:
    """An account of which nothing is left is missed by the head alone."""
    for table in ("low_balance_alert", "seal", "entry", "hold"):
        attacker.run(f"DELETE FROM {table} WHERE account_id = :bob")
    attacker.change("DELETE FROM account WHERE id = :bob")
    assert attacker.verify().ok
    assert attacker.first_problem(heads=history.heads) == ("account_missing", history.bob, None)
    assert attacker.first_problem(history.bob, history.heads) == ("account_missing", history.bob, None)


@pytest.mark.parametrize("kept", ["entry", "hold", "seal"])
def test_what_is_left_of_a_deleted_account_is_found(attacker: Attacker, history: History, kept: str) -> None:
    """Entries, holds or seals without their account are reported."""
    attacker.without_foreign_keys()
    for table in {"entry", "hold", "seal"} - {kept}:
        attacker.change(f"DELETE FROM {table} WHERE account_id = :bob")
    attacker.change("DELETE FROM account WHERE id = :bob")
    assert attacker.first_problem() == ("account_missing", history.bob, None)


# Anything in any column ---------------------------------------------------------------------------


@pytest.mark.parametrize("tampered_db", ["sqlite"], indirect=True)  # PostgreSQL keeps the types of its columns
@pytest.mark.parametrize("value", ["'abc'", "x'00ff'", "1.5", "9e999", "9223372036854775807"])
@pytest.mark.parametrize(
    ("table", "column"),
    [
        *(("entry", column) for column in SEALED_COLUMNS if column.endswith("_mt")),
        ("entry", "kind"),
        ("entry", "debit_account"),
        ("account", "posted_mt"),
        ("account", "version"),
        ("hold", "amount_mt"),
        ("seal", "digest"),
        ("seal", "seq"),
    ],
)
def test_what_sqlite_lets_into_a_column_is_reported(attacker: Attacker, table: str, column: str, value: str) -> None:
    """Text, bytes, a fraction, infinity and the largest number are a problem of Ann's, and never an exception."""
    where = {
        "entry": "account_id = :ann AND seq = 19",
        "account": "id = :ann",
        "hold": "account_id = :ann AND status = 'held'",
        "seal": "account_id = :ann AND seq = 9",
    }[table]
    attacker.connection.execute(text("PRAGMA ignore_check_constraints = ON"))
    attacker.change(f"UPDATE {table} SET {column} = {value} WHERE {where}")
    assert [problem.account_id for problem in attacker.verify().problems] == [attacker.history.ann]


def test_random_edits_are_found(attacker: Attacker, history: History) -> None:
    """400 seeded edits of one random cell of the sealed history, one at a time: each is found, at its entry."""
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when the test fails
    draw = random.Random(SEED)
    entries = {
        (row["account_id"], row["seq"]): dict(row)
        for row in attacker.connection.execute(text("SELECT * FROM entry")).mappings()
        if row["seq"] <= (History.SEALED if row["account_id"] == history.ann else 4)
    }
    seals = [dict(row) for row in attacker.connection.execute(text("SELECT * FROM seal")).mappings()]
    edited: set[str] = set()
    refused = 0
    for number in range(FUZZ_EDITS):
        table = draw.choices(["entry", "seal"], [9, 1])[0]
        row = draw.choice(list(entries.values()) if table == "entry" else seals)
        column = draw.choice(SEALED_COLUMNS if table == "entry" else ["digest"])
        others = [other[column] for other in (entries.values() if table == "entry" else seals)]
        value = another_value(draw, row[column], others)
        savepoint = attacker.connection.begin_nested()
        try:
            attacker.change(
                f"UPDATE {table} SET {column} = :value WHERE account_id = :account AND seq = :seq",
                value=value,
                account=row["account_id"],
                seq=row["seq"],
            )
            what = f"edit {number}: {table}.{column} of {row['seq']} from {row[column]!r} to {value!r}"
            named = {(problem.account_id, problem.seq) for problem in attacker.verify().problems}
            first = min(row["seq"], value) if column == "seq" else row["seq"]
            assert (row["account_id"], first) in named, f"{what}: {named}"
            assert len(named) == (2 if column == "account_id" else 1), what
            edited.add(column)
        except DBAPIError:
            refused += 1  # a constraint does not let it in
        savepoint.rollback()
    assert edited == {*SEALED_COLUMNS, "digest"}
    assert refused < FUZZ_EDITS // 2
    assert attacker.verify(heads=history.heads).ok


def another_value(draw: random.Random, value: Any, others: list[Any]) -> Any:
    """A value of the same type that is not the same, close to it or another row's."""
    others = [other for other in others if other != value and other is not None]
    if others and draw.random() < 0.4:
        return draw.choice(others)
    if isinstance(value, int):
        return value + draw.choice([1, -1, 1000, -1000, draw.randint(1, 10**12), -2 * value or 7])
    if isinstance(value, str) and value[:2] == "20" and value[4] == "-":  # a time, as SQLite keeps it
        return value[:-1] + ("1" if value[-1] != "1" else "2")
    if isinstance(value, str):
        at = draw.randrange(len(value) + 1)
        grown = value[:at] + draw.choice("aZ0 é\n") + value[at:]
        return draw.choice([grown, value[1:], value.upper()]) if value.upper() != value else grown
    if value is None:
        return draw.choice(others)
    return value + timedelta(microseconds=draw.choice([1, -1, 10**6, 10**11]))


# While the ledger is used -------------------------------------------------------------------------


def test_a_used_ledger_is_never_reported(db: Database) -> None:
    """Four threads hold, capture, release and refund while two seal and two verify: nothing is ever reported."""
    with db.write() as session:
        account_ids = [ledger.open_account(session, name).id for name in ("Ann", "Bob")]
        for account_id in account_ids:
            ledger.post_top_up(session, account_id, 10**9, source="house:test", actor="test")
    done = threading.Event()
    outcomes: list[verify.Verification] = []

    def use(number: int) -> None:
        draw = random.Random(SEED + number)
        for step in range(40):
            account_id = draw.choice(account_ids)
            with db.write() as session:
                hold = ledger.place_hold(
                    session, account_id, draw.randint(2, 900), charge_key=f"{number}-{step}", lease_s=60, actor="test"
                )
            with db.write() as session:
                if draw.random() < 0.3:
                    ledger.release_hold(session, hold.id, actor="test")
                    continue
                ledger.capture_hold(session, hold.id, draw.randint(1, hold.amount_mt), actor="test")
            if draw.random() < 0.3:
                with db.write() as session:
                    corrections.refund_capture(session, hold.id, 1, reason="test", actor="test")

    def repeat(work: Callable[[], object]) -> None:
        while not done.is_set():
            work()

    def check() -> None:
        outcomes.append(audit.replay(db))

    def seal() -> None:
        audit.seal(db)

    with ThreadPoolExecutor(8) as threads:
        helpers = [threads.submit(repeat, work) for work in (check, check, seal, seal)]
        try:
            for user in [threads.submit(use, number) for number in range(4)]:
                user.result()
        finally:
            done.set()
        for helper in helpers:
            helper.result()
    audit.seal(db)
    check()
    assert [outcome.problems for outcome in outcomes if not outcome.ok] == []
    final = outcomes[-1]
    assert final.unsealed == 0
    # It was looked at in the middle of its making, and more than once.
    assert len({outcome.entries for outcome in outcomes if 2 < outcome.entries < final.entries}) > 1


def test_a_check_reads_one_snapshot(db: Database, account_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A charge committed between what a check reads first and what it reads last is not in it at all."""
    load_hold_totals = verify.load_hold_totals

    def charge_meanwhile(session: Session, only: str | None) -> Any:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(charge).result()
        return load_hold_totals(session, only)

    def charge() -> None:
        with db.write() as session:
            hold = ledger.place_hold(session, account_id, 1000, charge_key="c", lease_s=60, actor="test")
            ledger.capture_hold(session, hold.id, 1000, actor="test")

    monkeypatch.setattr(verify, "load_hold_totals", charge_meanwhile)
    with db.read() as session:
        outcome = verify_ledger(session)
    assert (outcome.ok, outcome.entries) == (True, 4)
    monkeypatch.undo()
    with db.read() as session:
        assert verify_ledger(session).entries == 6


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite knows nothing but snapshots
def test_without_a_snapshot_a_used_ledger_would_be_reported(
    db: Database, account_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: where each statement sees what is committed by then, the same charge looks like tampering."""
    load_hold_totals = verify.load_hold_totals

    def charge_meanwhile(session: Session, only: str | None) -> Any:
        with db.write() as writer:
            ledger.place_hold(writer, account_id, 1000, charge_key="c", lease_s=60, actor="test")
        return load_hold_totals(session, only)

    monkeypatch.setattr(verify, "load_hold_totals", charge_meanwhile)
    with Session(db.engine) as session:
        assert [problem.code for problem in verify_ledger(session).problems] == ["stored_balance"]


# Histories ----------------------------------------------------------------------------------------


@dataclass
class Model:
    """The same rules in a few lines of memory."""

    posted_mt: int = 0
    open: dict[str, tuple[str, int]] = field(default_factory=dict)
    paid: set[str] = field(default_factory=set)
    revenue_mt: int = 0

    @property
    def held_mt(self) -> int:
        """Sum of the open holds."""
        return sum(amount for _key, amount in self.open.values())

    def may_hold(self, key: str, amount_mt: int) -> type[Exception] | None:
        """The error that a hold must raise, if any."""
        if key in self.paid or any(key == held for held, _ in self.open.values()):
            return ChargeKeyTakenError
        return InsufficientTokensError if self.posted_mt - self.held_mt < amount_mt else None


def test_random_histories_agree_with_a_plain_model(db: Database) -> None:
    """400 seeded random steps: same outcome, same balances, and a ledger in order after every one."""
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when the test fails
    draw = random.Random(SEED)
    with db.write() as session:
        account_ids = [ledger.open_account(session, name).id for name in ("Ann", "Bob")]
    models = {account_id: Model() for account_id in account_ids}
    ended: list[str] = []
    outcomes: set[str] = set()
    for step in range(400):
        account_id = draw.choice(account_ids)
        model = models[account_id]
        action = draw.choices(["top_up", "hold", "capture", "release", "expire", "again"], [2, 8, 5, 2, 1, 1])[0]
        expected: type[Exception] | None = None
        try:
            with db.write() as session:
                if action == "top_up":
                    amount_mt = draw.randint(1, 3000)
                    ledger.post_top_up(session, account_id, amount_mt, source="house:test", actor="test")
                    model.posted_mt += amount_mt
                elif action == "hold":
                    key, amount_mt = f"key-{draw.randint(0, 60)}", draw.randint(1, 900)
                    expected = model.may_hold(key, amount_mt)
                    hold = ledger.place_hold(session, account_id, amount_mt, charge_key=key, lease_s=60, actor="test")
                    assert expected is None
                    model.open[hold.id] = (key, amount_mt)
                elif action == "capture" and model.open:
                    hold_id = draw.choice(sorted(model.open))
                    key, held_mt = model.open[hold_id]
                    amount_mt = held_mt + 1 if draw.random() < 0.2 else draw.randint(1, held_mt)
                    expected = InvalidAmountError if amount_mt > held_mt else None
                    ledger.capture_hold(session, hold_id, amount_mt, actor="test")
                    assert expected is None
                    del model.open[hold_id]
                    model.posted_mt -= amount_mt
                    model.revenue_mt += amount_mt
                    model.paid.add(key)
                    ended.append(hold_id)
                elif action == "release" and model.open:
                    hold_id = draw.choice(sorted(model.open))
                    ledger.release_hold(session, hold_id, actor="test")
                    del model.open[hold_id]
                    ended.append(hold_id)
                elif action == "expire" and draw.random() < 0.3:
                    swept = expire_everything(session, now=utcnow() + timedelta(hours=1))
                    still_open = {hold_id for one in models.values() for hold_id in one.open}
                    assert {entry.hold_id for entry in swept} == still_open
                    for one in models.values():
                        ended.extend(one.open)
                        one.open.clear()
                elif action == "again" and ended:
                    expected = HoldEndedError
                    ledger.capture_hold(session, draw.choice(ended), 1, actor="test")
                    pytest.fail(f"step {step}: an ended hold was captured")
        except (ChargeKeyTakenError, InsufficientTokensError, InvalidAmountError, HoldEndedError) as error:
            assert type(error) is expected, f"step {step}: {action} raised {error!r}"  # noqa: PT017  # most steps raise nothing
        outcomes.add(expected.__name__ if expected else action)
        with db.read() as session:
            outcome = verify_ledger(session)
            assert outcome.ok, f"step {step} ({action}): {outcome.problems}"
            for one_id, one in models.items():
                stored = ledger.get_balance(session, one_id)
                assert (stored.posted_mt, stored.held_mt) == (one.posted_mt, one.held_mt), f"step {step} ({action})"
    # The history went everywhere it was meant to go.
    assert {"top_up", "hold", "capture", "release", "expire", "ChargeKeyTakenError", "InsufficientTokensError",
            "InvalidAmountError", "HoldEndedError"} <= outcomes  # fmt: skip
    with db.read() as session:
        revenue_mt = (
            session.connection()
            .execute(
                text("SELECT sum(amount_mt) FROM entry WHERE credit_account = :house"), {"house": ledger.HOUSE_REVENUE}
            )
            .scalar_one()
        )
    assert revenue_mt == sum(one.revenue_mt for one in models.values())


@pytest.mark.parametrize(
    ("kind", "debit", "credit", "amount_mt", "code"),
    [
        pytest.param("adjustment", "account:a", "house:adjustments", 500, "balance", id="below zero"),
        pytest.param("gift", "house:adjustments", "account:a", 500, "postings", id="unknown kind"),
        pytest.param("adjustment", "house:adjustments", "account:a", 500, None, id="control"),
    ],
)
def test_an_entry_that_adds_up_and_breaks_a_rule_is_named(
    kind: str, debit: str, credit: str, amount_mt: int, code: str | None
) -> None:
    """Where the constraints were dropped: a balance below zero, or a kind that the ledger never writes."""
    change_mt = amount_mt if credit == "account:a" else -amount_mt
    row = ("a", 1, kind, debit, credit, amount_mt, change_mt, 0, change_mt, 0, None, "x", "", "2026-03-04", None)
    problem = _Replay("a", {}).replay([row])
    assert (problem.code if problem else None) == code
