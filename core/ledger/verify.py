"""Replaying the entries: does every balance follow from them, are they the entries that were sealed?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import Select, and_, func, select
from sqlmodel import Session

from core.db import table_of
from core.ledger.posting import reserved, settled
from core.ledger.seal import Head, chain_digest, entry_columns, first_digest
from core.ledger.tables import Account, Entry, Seal
from core.ledger.verify_holds import HoldTotals, find_wrong_holds, first_hold_without_end, load_hold_totals
from core.money import format_tokens

ROWS_PER_FETCH = 5000
PROBLEMS_MAX = 100
SEQ_MAX = 2**63 - 1
KINDS = frozenset(
    {"top_up", "bonus", "hold", "capture", "release", "expire", "refund", "adjustment", "freeze", "unfreeze"}
)
# What can be wrong, in stable words.
PROBLEM_CODES = frozenset(
    {
        "account_missing",  # entries, holds, seals or a head of an account that is not there
        "gap",  # an entry is missing, or its number is
        "seal",  # an entry is not the one that was sealed
        "seal_gap",  # a seal is missing
        "head",  # the chain is not the one that an exported head belongs to
        "truncated",  # entries that were sealed, or that a head covers, are not there
        "balance",  # a balance after an entry does not follow from the one before
        "postings",  # debit and credit of an entry do not give its balance
        "stored_balance",  # the account's own row differs from its last entry
        "status",  # the account is frozen or active, and its last such entry says otherwise
        "hold",  # a hold differs from its entry
        "holds_held",  # the sums of the holds differ from those of the entries
        "holds_captured",
        "holds_refunded",
        "holds_count",  # there are more or fewer holds than entries that placed one
    }
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `code` is one of `PROBLEM_CODES`; `seq` is the account's first wrong entry, or None."""

    code: str
    account_id: str
    seq: int | None
    message: str


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome of a replay. `problems` is empty when everything agrees; amounts in milli-tokens.

    There is at most one problem for an account, its first, and at most `PROBLEMS_MAX` in all. `ledger_sum_mt` adds up
    what all accounts have, the house's included, as the entries' debits and credits tell it for the house and the
    stored balances for the customers: zero when nothing came from nowhere. `unsealed` counts the entries that no seal
    covers yet, the newest.
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
    """What an account's own row says, and how far its seals go."""

    posted_mt: int
    held_mt: int
    version: int
    status: str
    sealed_seq: int = 0


# The digests that exported heads give for an account's entries; more than one for an entry contradict each other.
_Heads = Mapping[int, set[str]]


class _Replay:
    """An account after some of its entries; amounts in milli-tokens."""

    __slots__ = (
        "_digest",
        "_heads",
        "_held_side",
        "_held_side_mt",
        "_own",
        "_own_mt",
        "account_id",
        "captured_mt",
        "entries",
        "held_mt",
        "holds",
        "house_mt",
        "posted_mt",
        "refunded_mt",
        "sealed_seq",
        "seq",
        "status",
        "unsealed",
    )

    def __init__(self, account_id: str, heads: _Heads) -> None:
        self.account_id = account_id
        self.status = "active"
        self.entries = self.seq = self.sealed_seq = self.unsealed = self.holds = 0
        self.posted_mt = self.held_mt = self.captured_mt = self.refunded_mt = self.house_mt = 0
        self._heads = heads
        self._digest = first_digest(account_id)
        self._own, self._held_side = settled(account_id), reserved(account_id)
        self._own_mt = self._held_side_mt = 0

    def problem(self, code: str, seq: int | None, text: str) -> Problem:
        """A problem of this account."""
        return Problem(code, self.account_id, seq, f"{self.account_id}: {text}")

    def replay(self, rows: Iterable[Any]) -> Problem | None:
        """The first wrong entry. What follows it proves nothing; it is only counted."""
        rows = iter(rows)
        for row in rows:
            self.entries += 1
            problem = self._check_chain(row) or self._check_balance(row)
            if problem is not None:
                for later in rows:
                    self.entries += 1
                    self.unsealed += later[-1] is None
                return problem
        return None

    def _check_chain(self, row: Sequence[Any]) -> Problem | None:
        seq, sealed_digest = row[1], row[-1]
        self.unsealed += sealed_digest is None
        expected = self.seq + 1
        if seq != expected:
            return self._explain_gap(seq, expected)
        self.seq = seq
        self._digest = chain_digest(self._digest, tuple(row[:-1]))
        if sealed_digest is not None:
            if sealed_digest != self._digest:
                return self.problem("seal", seq, f"entry {seq} is not the one that was sealed")
            if self.sealed_seq != seq - 1:
                missing = self.sealed_seq + 1
                return self.problem("seal_gap", missing, f"the seal of entry {missing} is missing")
            self.sealed_seq = seq
        elif not _has_types_of_entry(row):
            return self.problem("balance", seq, f"entry {seq} has a value of the wrong kind")
        if seq in self._heads and self._heads[seq] != {self._digest}:
            return self.problem("head", seq, f"entry {seq} or an earlier one is not the one that the head covers")
        return None

    def _explain_gap(self, seq: Any, expected: int) -> Problem:
        if type(seq) is int and seq < expected:
            return self.problem("gap", seq, f"entry {seq} is there twice, or counts from below 1")
        return self.problem("gap", expected, f"entry {expected} is missing, {seq} follows instead")

    def _check_balance(self, row: Sequence[Any]) -> Problem | None:
        _id, seq, kind, debit, credit, amount_mt, posted_change, held_change, posted_after, held_after, *_rest = row
        self.posted_mt += posted_change
        self.held_mt += held_change
        if posted_after != self.posted_mt or held_after != self.held_mt:
            return self.problem(
                "balance",
                seq,
                f"the balance after entry {seq} is {_shown(posted_after)} (held {_shown(held_after)}), the entries "
                f"give {_shown(self.posted_mt)} (held {_shown(self.held_mt)})",
            )
        if not 0 <= self.held_mt <= self.posted_mt:
            return self.problem("balance", seq, f"entry {seq} takes more than there was")
        if kind not in KINDS:
            return self.problem("postings", seq, f"entry {seq} is of a kind that the ledger does not know")
        if kind == "hold":
            self.holds += 1
        elif kind in ("freeze", "unfreeze"):
            self.status = "frozen" if kind == "freeze" else "active"
        elif kind == "capture":
            self.captured_mt += amount_mt
            # The unspent rest of a hold goes back to its owner in the same entry.
            rest_mt = -held_change - amount_mt
            self._held_side_mt -= rest_mt
            self._own_mt += rest_mt
        elif kind == "refund":
            self.refunded_mt += amount_mt
        agrees = self._move(debit, -amount_mt) and self._move(credit, amount_mt)
        if not agrees or self._held_side_mt != held_after or self._own_mt != posted_after - held_after:
            return self.problem("postings", seq, f"debit and credit of entry {seq} do not give its balance")
        return None

    def _move(self, side: str, change_mt: int) -> bool:
        """Count one side of an entry; False for a side that is neither this account's nor the house's."""
        if side == self._own:
            self._own_mt += change_mt
        elif side == self._held_side:
            self._held_side_mt += change_mt
        elif side.startswith("house:"):
            self.house_mt += change_mt
        else:
            return False
        return True


def verify_ledger(session: Session, account_id: str | None = None, *, heads: Iterable[Head] = ()) -> Verification:
    """Replay one account's entries, or everybody's, in one pass with flat memory.

    Checked: `seq` has no gap; each balance follows from the one before; every entry is the one that was sealed; debits
    and credits reproduce each balance; the stored account equals its last entry; each hold is as its entries tell it,
    and their sums agree; the sum over all accounts is zero; the chain still contains every given head, so that
    nothing was cut off or rewritten since it was exported. The session's transaction must see one snapshot
    (`Database.read`).
    """
    stored = _load_accounts(session, account_id)
    orphans = _load_sealed_seqs(session, account_id, stored)
    totals = load_hold_totals(session, account_id)
    wrong_holds = find_wrong_holds(session, account_id)
    expected: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for head in heads:
        if account_id is None or head.account_id == account_id:
            expected[head.account_id][head.seq].add(head.digest)
    problems: list[Problem] = []
    house_mt = entries = unsealed = 0
    # Accounts without any entry come last; nothing but a head may know of one that has no row.
    known = {*stored, *orphans, *totals, *expected}

    def finish(replay: _Replay, problem: Problem | None) -> None:
        key = replay.account_id
        known.discard(key)
        if problem is None:
            problem = _compare_account(replay, stored.get(key), expected.get(key, {}))
        if problem is None:
            problem = _compare_status(replay, stored.get(key))
        if problem is None and key in wrong_holds:
            seq = wrong_holds[key]
            problem = replay.problem("hold", seq, f"the hold of entry {seq} is not as this entry tells it")
        if problem is None:
            problem = _compare_holds(session, replay, totals.get(key, HoldTotals()))
        if problem is not None:
            problems.append(problem)

    rows = _entry_rows(session, account_id)
    for key, own_rows in groupby(rows, key=itemgetter(0)):
        replay = _Replay(str(key), expected.get(key, {}))
        problem = replay.replay(own_rows)
        entries += replay.entries
        unsealed += replay.unsealed
        house_mt += replay.house_mt
        finish(replay, problem)
    for key in sorted(known):
        finish(_Replay(key, {}), None)
    posted_mt = sum(account.posted_mt for account in stored.values() if type(account.posted_mt) is int)
    return Verification(len(stored), entries, unsealed, posted_mt + house_mt, tuple(problems[:PROBLEMS_MAX]))


def entry_query(dialect: str, account_id: str | None) -> Select[Any]:
    """All entries by account and `seq`, each with the digest of its seal or NULL."""
    query = (
        select(*entry_columns(dialect), _seal.c.digest)
        .outerjoin(_seal, and_(_seal.c.account_id == _entry.c.account_id, _seal.c.seq == _entry.c.seq))
        .order_by(_entry.c.account_id, _entry.c.seq)
    )
    return query if account_id is None else query.where(_entry.c.account_id == account_id)


def _compare_account(replay: _Replay, stored: _Stored | None, heads: _Heads) -> Problem | None:
    if stored is None:
        return replay.problem("account_missing", None, "the account is not there")
    following = replay.seq + 1
    if stored.sealed_seq > replay.seq:
        return replay.problem("truncated", following, f"entry {following} was sealed and is not there")
    if heads and max(heads) > replay.seq:
        return replay.problem("truncated", following, f"entry {following} is covered by a head and is not there")
    if heads and max(heads) > replay.sealed_seq:
        missing = replay.sealed_seq + 1
        return replay.problem("seal_gap", missing, f"the seal of entry {missing} is covered by a head and is not there")
    if (stored.posted_mt, stored.held_mt, stored.version) != (replay.posted_mt, replay.held_mt, replay.seq):
        return replay.problem(
            "stored_balance",
            _first_beyond(stored.version, replay.seq),
            f"the stored balance is {_shown(stored.posted_mt)} (held {_shown(stored.held_mt)}) after {stored.version} "
            f"entries, the entries give {_shown(replay.posted_mt)} (held {_shown(replay.held_mt)}) after {replay.seq}",
        )
    return None


def _compare_status(replay: _Replay, stored: _Stored | None) -> Problem | None:
    if stored is not None and stored.status != replay.status:
        return replay.problem("status", None, f"the account is {stored.status}, its entries say {replay.status}")
    return None


def _first_beyond(version: int, seq: int) -> int | None:
    """The first entry that the account's row counts and that is not there, or that is there and was not counted."""
    return min(version, seq) + 1 if type(version) is int and version != seq else None


def _compare_holds(session: Session, replay: _Replay, totals: HoldTotals) -> Problem | None:
    for word, in_holds, in_entries in (
        ("held", totals.held_mt, replay.held_mt),
        ("captured", totals.captured_mt, replay.captured_mt),
        ("refunded", totals.refunded_mt, replay.refunded_mt),
    ):
        if in_holds != in_entries:
            return replay.problem(
                f"holds_{word}",
                first_hold_without_end(session, replay.account_id),
                f"{_shown(in_holds)} {word} in holds, {_shown(in_entries)} in entries",
            )
    if totals.holds != replay.holds:
        return replay.problem("holds_count", None, f"{totals.holds} holds, the entries tell of {replay.holds}")
    return None


def _has_types_of_entry(row: Sequence[Any]) -> bool:
    """Whether texts are texts and amounts whole numbers: SQLite takes anything in any column."""
    return all(type(value) is str for value in row[2:5]) and all(type(value) is int for value in row[5:10])


def _shown(value: Any) -> str:
    return format_tokens(value) if type(value) is int else repr(value)


_account, _entry, _seal = table_of(Account), table_of(Entry), table_of(Seal)


def _load_accounts(session: Session, account_id: str | None) -> dict[str, _Stored]:
    query = select(_account.c.id, _account.c.posted_mt, _account.c.held_mt, _account.c.version, _account.c.status)
    if account_id is not None:
        query = query.where(_account.c.id == account_id)
    return {row[0]: _Stored(*row[1:]) for row in session.connection().execute(query)}


def _load_sealed_seqs(session: Session, account_id: str | None, stored: Mapping[str, _Stored]) -> set[str]:
    """Note how far each account is sealed; gives the accounts that have seals and no row of their own."""
    query = select(_seal.c.account_id, func.max(_seal.c.seq)).group_by(_seal.c.account_id)
    if account_id is not None:
        query = query.where(_seal.c.account_id == account_id)
    orphans = set()
    for key, seq in session.connection().execute(query):
        if key in stored:
            stored[key].sealed_seq = seq if type(seq) is int else SEQ_MAX
        else:
            orphans.add(key)
    return orphans


def _entry_rows(session: Session, account_id: str | None) -> Iterator[Any]:
    connection = session.connection()
    query = entry_query(connection.dialect.name, account_id)
    yield from connection.execute(query, execution_options={"stream_results": True, "yield_per": ROWS_PER_FETCH})
