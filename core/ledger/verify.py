"""Replaying the entries: does every balance follow from them, are they the entries that were sealed?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from sqlalchemy import and_, case, func, select
from sqlmodel import Session

from core.ledger.posting import reserved, settled, table_of
from core.ledger.seal import ENTRY_COLUMNS, Head, chain_digest, first_digest
from core.ledger.tables import Account, Entry, Hold, Seal
from core.money import format_tokens

ROWS_PER_FETCH = 5000
PROBLEMS_MAX = 100


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `code` is stable; `seq` is the account's first wrong entry, where one can be named."""

    code: str
    account_id: str
    seq: int | None
    message: str


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome of a replay. `problems` is empty when everything agrees; amounts in milli-tokens.

    `ledger_sum_mt` adds up what all accounts have, the house's included, as the entries' debits and credits tell
    it for the house and the stored balances for the customers: zero when nothing came from nowhere. `unsealed` counts
    the newest entries, which no seal covers yet.
    """

    accounts: int
    entries: int
    unsealed: int
    ledger_sum_mt: int
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing disagrees."""
        return not self.problems and self.ledger_sum_mt == 0


@dataclass(slots=True)
class _Stored:
    """What the tables beside the entries say of an account."""

    posted_mt: int
    held_mt: int
    version: int
    open_mt: int = 0
    captured_mt: int = 0
    refunded_mt: int = 0
    sealed_seq: int = 0


@dataclass(slots=True)
class _Replay:
    """The state of an account after some of its entries; `entries` counts all of them."""

    entries: int = 0
    seq: int = 0
    posted_mt: int = 0
    held_mt: int = 0
    captured_mt: int = 0
    refunded_mt: int = 0
    digest: str = ""
    sealed: int = 0
    sums: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))


def verify_ledger(session: Session, account_id: str | None = None, *, heads: Iterable[Head] = ()) -> Verification:
    """Replay one account's entries, or everybody's, in one pass with flat memory.

    Checked: `seq` has no gap; each balance follows from the one before; every entry is the one that was sealed; the
    stored account equals its last entry; held, captured and refunded amounts equal those of the holds; debits and
    credits reproduce each balance; the sum over all accounts is zero; the chain still contains every given head, so
    that nothing was cut off or rewritten since it was exported.
    """
    stored = _load_stored(session, account_id)
    expected: dict[str, dict[int, str]] = defaultdict(dict)
    for head in heads:
        if account_id is None or head.account_id == account_id:
            expected[head.account_id][head.seq] = head.digest
    problems: list[Problem] = []
    house_mt = entries = unsealed = 0
    replayed: set[str] = set()
    for key, rows in groupby(_entry_rows(session, account_id), key=lambda row: str(row[0])):
        replayed.add(key)
        replay = _Replay(digest=first_digest(key))
        problem = _replay_account(key, rows, replay, expected.get(key, {}))
        entries += replay.entries
        unsealed += max(0, replay.seq - replay.sealed)
        house_mt += sum(amount for name, amount in replay.sums.items() if name.startswith("house:"))
        if problem is None:
            problem = _compare_account(key, stored.get(key), replay, expected.get(key, {}))
        if problem is not None:
            problems.append(problem)
    for key, account in stored.items():
        if key not in replayed:
            problem = _compare_account(key, account, _Replay(), expected.get(key, {}))
            if problem is not None:
                problems.append(problem)
    problems += [
        Problem("account_missing", key, None, f"{key}: the account of an exported head is not there")
        for key in expected
        if key not in stored
    ]
    posted_mt = sum(account.posted_mt for account in stored.values())
    return Verification(len(stored), entries, unsealed, posted_mt + house_mt, tuple(problems[:PROBLEMS_MAX]))


def _replay_account(account_id: str, rows: Iterator[Any], replay: _Replay, heads: Mapping[int, str]) -> Problem | None:
    """The first problem of an account. After the first wrong entry the rest proves nothing; it is only counted."""
    problem = None
    for row in rows:
        replay.entries += 1
        if problem is None:
            problem = _check_seal(account_id, row, replay, heads) or _check_balance(account_id, row, replay)
    return problem


def _check_seal(account_id: str, row: Any, replay: _Replay, heads: Mapping[int, str]) -> Problem | None:
    *entry, sealed_digest = row
    seq = entry[1]
    missing = replay.seq + 1
    if seq != missing:
        return Problem("gap", account_id, missing, f"{account_id}: entry {missing} is missing, {seq} follows instead")
    replay.seq = seq
    replay.digest = chain_digest(replay.digest, entry)
    if sealed_digest is not None:
        if sealed_digest != replay.digest:
            return Problem("seal", account_id, seq, f"{account_id}: entry {seq} is not the one that was sealed")
        if replay.sealed != seq - 1:
            return Problem("seal_gap", account_id, seq - 1, f"{account_id}: the seal of entry {seq - 1} is missing")
        replay.sealed = seq
    if heads.get(seq, replay.digest) != replay.digest:
        return Problem("head", account_id, seq, f"{account_id}: entry {seq} or an earlier one is not that of the head")
    return None


def _check_balance(account_id: str, row: Any, replay: _Replay) -> Problem | None:
    _id, seq, kind, debit, credit, amount_mt, posted_change, held_change, posted_after, held_after, *_rest = row
    replay.posted_mt += posted_change
    replay.held_mt += held_change
    if (posted_after, held_after) != (replay.posted_mt, replay.held_mt):
        return Problem(
            "balance",
            account_id,
            seq,
            f"{account_id}: the balance after entry {seq} is {format_tokens(posted_after)} (held "
            f"{format_tokens(held_after)}), the entries give {format_tokens(replay.posted_mt)} (held "
            f"{format_tokens(replay.held_mt)})",
        )
    sums = replay.sums
    sums[debit] -= amount_mt
    sums[credit] += amount_mt
    if kind == "capture":
        replay.captured_mt += amount_mt
        # The unspent rest of a hold leaves the held side in the same entry.
        rest_mt = -held_change - amount_mt
        sums[debit] -= rest_mt
        sums[settled(account_id)] += rest_mt
    elif kind == "refund":
        replay.refunded_mt += amount_mt
    own = (sums[settled(account_id)], sums[reserved(account_id)])
    if own != (replay.posted_mt - replay.held_mt, replay.held_mt):
        return Problem(
            "postings", account_id, seq, f"{account_id}: debit and credit of entry {seq} do not give its balance"
        )
    return None


def _compare_account(
    account_id: str, stored: _Stored | None, replay: _Replay, heads: Mapping[int, str]
) -> Problem | None:
    def problem(code: str, text: str, seq: int | None = None) -> Problem:
        return Problem(code, account_id, seq, f"{account_id}: {text}")

    if stored is None:
        return problem("account_missing", "entries of an account that is not there")
    if stored.sealed_seq > replay.seq:
        return problem("truncated", f"entry {replay.seq + 1} was sealed and is not there", replay.seq + 1)
    if heads and max(heads) > replay.seq:
        return problem("truncated", f"entry {replay.seq + 1} is covered by a head and is not there", replay.seq + 1)
    if (stored.posted_mt, stored.held_mt, stored.version) != (replay.posted_mt, replay.held_mt, replay.seq):
        return problem(
            "stored_balance",
            f"the stored balance is {format_tokens(stored.posted_mt)} (held {format_tokens(stored.held_mt)}) after "
            f"{stored.version} entries, the entries give {format_tokens(replay.posted_mt)} (held "
            f"{format_tokens(replay.held_mt)}) after {replay.seq}",
        )
    for word, held, replayed in (
        ("held", stored.open_mt, replay.held_mt),
        ("captured", stored.captured_mt, replay.captured_mt),
        ("refunded", stored.refunded_mt, replay.refunded_mt),
    ):
        if held != replayed:
            return problem(
                f"holds_{word}", f"{format_tokens(held)} {word} in holds, {format_tokens(replayed)} in entries"
            )
    return None


_account, _entry, _hold, _seal = table_of(Account), table_of(Entry), table_of(Hold), table_of(Seal)


def _load_stored(session: Session, account_id: str | None) -> dict[str, _Stored]:
    connection = session.connection()
    accounts = select(_account.c.id, _account.c.posted_mt, _account.c.held_mt, _account.c.version)
    open_mt = case((_hold.c.status == "held", _hold.c.amount_mt), else_=0)
    holds = select(
        _hold.c.account_id, func.sum(open_mt), func.sum(_hold.c.captured_mt), func.sum(_hold.c.refunded_mt)
    ).group_by(_hold.c.account_id)
    seals = select(_seal.c.account_id, func.max(_seal.c.seq)).group_by(_seal.c.account_id)
    if account_id is not None:
        accounts = accounts.where(_account.c.id == account_id)
        holds = holds.where(_hold.c.account_id == account_id)
        seals = seals.where(_seal.c.account_id == account_id)
    stored = {row[0]: _Stored(*row[1:]) for row in connection.execute(accounts.order_by(_account.c.id))}
    for key, opened, captured, refunded in connection.execute(holds):
        if key in stored:
            stored[key].open_mt, stored[key].captured_mt, stored[key].refunded_mt = (
                int(opened),
                int(captured),
                int(refunded),
            )
    for key, seq in connection.execute(seals):
        if key in stored:
            stored[key].sealed_seq = seq
    return stored


def _entry_rows(session: Session, account_id: str | None) -> Iterator[Any]:
    query = (
        select(*ENTRY_COLUMNS, _seal.c.digest)
        .outerjoin(_seal, and_(_seal.c.account_id == _entry.c.account_id, _seal.c.seq == _entry.c.seq))
        .order_by(_entry.c.account_id, _entry.c.seq)
    )
    if account_id is not None:
        query = query.where(_entry.c.account_id == account_id)
    connection = session.connection()
    yield from connection.execute(query, execution_options={"stream_results": True, "yield_per": ROWS_PER_FETCH})
