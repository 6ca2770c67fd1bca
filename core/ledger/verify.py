"""Replaying the entries: does every stored balance follow from them, and does the whole ledger sum to zero?"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from sqlmodel import Session, col, select

from core.ledger.tables import Account, Entry, Hold


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome of a replay. `problems` is empty when everything agrees; amounts in milli-tokens."""

    accounts: int
    entries: int
    ledger_sum_mt: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing disagrees."""
        return not self.problems and self.ledger_sum_mt == 0


def verify_ledger(session: Session, account_id: str | None = None) -> Verification:
    """Replay one account's entries, or everybody's.

    Checked: `seq` has no gap; each balance follows from the one before; the stored account equals the last
    entry; held equals the open holds; every account's debits and credits reproduce its balance; the sum over
    all accounts, the house's included, is zero.
    """
    problems: list[str] = []
    sums: defaultdict[str, int] = defaultdict(int)
    accounts_query = select(Account).order_by(Account.id)
    if account_id is not None:
        accounts_query = accounts_query.where(Account.id == account_id)
    accounts = session.exec(accounts_query).all()
    count = 0
    for account in accounts:
        seq = posted_mt = held_mt = 0
        entries = session.exec(select(Entry).where(Entry.account_id == account.id).order_by(col(Entry.seq))).all()
        for entry in entries:
            count += 1
            seq += 1
            posted_mt += entry.posted_change_mt
            held_mt += entry.held_change_mt
            sums[entry.debit_account] -= entry.amount_mt
            sums[entry.credit_account] += entry.amount_mt
            if entry.kind == "capture":
                # The unspent rest of a hold leaves the held side in the same entry.
                rest_mt = -entry.held_change_mt - entry.amount_mt
                sums[entry.debit_account] -= rest_mt
                sums[f"account:{account.id}"] += rest_mt
            if entry.seq != seq:
                problems.append(f"{account.id}: entry {entry.seq} stands where {seq} should")
                break
            if (entry.posted_after_mt, entry.held_after_mt) != (posted_mt, held_mt):
                problems.append(f"{account.id}: balance after entry {seq} does not follow from the one before")
                break
        if (account.posted_mt, account.held_mt, account.version) != (posted_mt, held_mt, seq):
            problems.append(f"{account.id}: the stored balance is not that of its entries")
        open_mt = sum(
            session.exec(select(Hold.amount_mt).where(Hold.account_id == account.id, Hold.status == "held")).all()
        )
        if open_mt != held_mt:
            problems.append(f"{account.id}: {held_mt} held in entries, {open_mt} in open holds")
        if sums[f"account:{account.id}"] + sums[f"account:{account.id}:held"] != posted_mt:
            problems.append(f"{account.id}: debits and credits do not reproduce the balance")
    return Verification(len(accounts), count, sum(sums.values()), tuple(problems))
