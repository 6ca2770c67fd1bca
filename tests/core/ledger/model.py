"""The rules of the ledger once more, in plain memory and in other words: what `test_stateful` compares it with.

Nothing of the ledger is imported. Balances and spending are not counters here but sums over the facts (every hold
that was ever placed, every amount that came in), worked out anew whenever somebody asks. Amounts in milli-tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

AMOUNT_MAX = 10**15


class Refused(Exception):
    """What the ledger must refuse: the error's code, and the facts that it must tell."""

    def __init__(self, code: str, **facts: Any) -> None:
        super().__init__(code, facts)
        self.code = code
        self.facts = facts


@dataclass(eq=False)
class Hold:
    """A reserved amount and what became of it. `day` is the day that it was asked to count in."""

    number: int
    account: str
    key: str
    amount: int
    day: date
    expires_at: datetime
    budget: int | None
    state: str = "held"
    captured: int = 0
    refunded: int = 0

    @property
    def spent(self) -> int:
        """What it counts as spending now."""
        return self.amount if self.state == "held" else self.captured - self.refunded


@dataclass
class Spending:
    """Caps, and every hold that counts here with the day that it counts in: its own, or a newer one seen before."""

    day_cap: int | None = None
    month_cap: int | None = None
    holds: list[tuple[Hold, date]] = field(default_factory=list)

    @property
    def newest(self) -> date | None:
        """The newest day of all."""
        return max((day for _hold, day in self.holds), default=None)

    def on(self, day: date) -> tuple[int, int]:
        """What counts on a day and in its month; a clock that is behind does not open an older day again.

        What comes back is given to the day and the month that the hold was asked to count in, or to nobody.
        """
        day = max(day, self.newest or day)
        day_spent = month_spent = 0
        for hold, counted_in in self.holds:
            if counted_in == day:
                day_spent += hold.spent if hold.day == day else hold.amount
            if month(counted_in) == month(day):
                month_spent += hold.spent if month(hold.day) == month(day) else hold.amount
        return day_spent, month_spent

    def check(self, day: date, amount: int, scope: str) -> None:
        """Refuse what passes a cap."""
        for period, cap, spent in zip(("day", "month"), (self.day_cap, self.month_cap), self.on(day), strict=True):
            if cap is not None and spent + amount > cap:
                left = max(0, cap - spent)
                raise Refused(
                    "spending_cap",
                    period=period, scope=scope, cap_mt=cap, spent_mt=spent, left_mt=left, required_mt=amount,
                )  # fmt: skip

    def count(self, hold: Hold) -> None:
        """Let a hold count here."""
        self.holds.append((hold, max(hold.day, self.newest or hold.day)))


@dataclass
class Entry:
    """What a line of the ledger must say."""

    kind: str
    debit: str
    credit: str
    amount: int
    posted_change: int
    held_change: int
    posted_after: int
    held_after: int
    hold: int | None
    actor: str
    memo: str
    at: datetime


@dataclass
class Account:
    """All facts about one account. `id` is the real one."""

    id: str
    money_in: int = 0
    frozen: bool = False
    spending: Spending = field(default_factory=Spending)
    alert_below: int | None = None
    alerts: list[tuple[int, int, int]] = field(default_factory=list)
    alerts_dismissed: int = 0
    entries: list[Entry] = field(default_factory=list)
    sealed: int = 0
    answers: dict[tuple[str, str], tuple[Any, Any]] = field(default_factory=dict)


def month(day: date) -> tuple[int, int]:
    """A day's month."""
    return day.year, day.month


@dataclass
class Model:
    """A few accounts, their holds and budgets. A method that raises `Refused` has changed nothing."""

    accounts: dict[str, Account] = field(default_factory=dict)
    holds: list[Hold] = field(default_factory=list)
    budgets: list[Spending] = field(default_factory=list)

    # Looking

    def open_holds(self, name: str) -> list[Hold]:
        """The holds of an account that have not ended."""
        return [hold for hold in self.holds if hold.account == name and hold.state == "held"]

    def any_open(self) -> bool:
        """Whether any hold has not ended."""
        return any(hold.state == "held" for hold in self.holds)

    def posted(self, name: str) -> int:
        """What came in, less what was taken and not refunded."""
        taken = sum(hold.captured - hold.refunded for hold in self.holds if hold.account == name)
        return self.accounts[name].money_in - taken

    def held(self, name: str) -> int:
        """The sum of the open holds."""
        return sum(hold.amount for hold in self.open_holds(name))

    def available(self, name: str) -> int:
        """What can be held or taken."""
        return self.posted(name) - self.held(name)

    def taken_keys(self, name: str) -> set[str]:
        """The work that is being done or was paid for."""
        return {hold.key for hold in self.holds if hold.account == name and hold.state in ("held", "captured")}

    def due(self, name: str, now: datetime) -> list[Hold]:
        """The open holds whose lease has run out."""
        return [hold for hold in self.open_holds(name) if hold.expires_at <= now]

    def house(self) -> dict[str, int]:
        """What each house account has, from all entries."""
        sums: defaultdict[str, int] = defaultdict(int)
        for account in self.accounts.values():
            for entry in account.entries:
                sums[entry.debit] -= entry.amount
                sums[entry.credit] += entry.amount
        return {name: amount for name, amount in sums.items() if name.startswith("house:")}

    # Moving

    def top_up(self, name: str, amount: int, source: str, now: datetime) -> Entry:
        """Money comes in, also to a frozen account."""
        _require_amount(amount)
        account = self.accounts[name]
        return self._write(
            name, "top_up", source, f"account:{account.id}", amount, "test", "", None, now,
            lambda: _add(account, amount),
        )  # fmt: skip

    def adjust(self, name: str, amount: int, reason: str, now: datetime) -> Entry:
        """An operator gives or takes; taking leaves what is held alone, and a frozen account can be taken from."""
        _require_amount(abs(amount))
        _require_reason(reason)
        if -amount > self.available(name):
            raise Refused(
                "insufficient_tokens",
                required_mt=-amount, available_mt=self.available(name), missing_mt=-amount - self.available(name),
            )  # fmt: skip
        account = self.accounts[name]
        own, house = f"account:{account.id}", "house:adjustments"
        debit, credit = (house, own) if amount > 0 else (own, house)
        return self._write(
            name, "adjustment", debit, credit, abs(amount), "op", reason.strip(), None, now,
            lambda: _add(account, amount),
        )  # fmt: skip

    def place(
        self, name: str, key: str, amount: int, lease: timedelta, now: datetime, day: date | None, budget: int | None
    ) -> Hold:
        """Reserve. Without a day it counts in that of `now` in UTC."""
        _require_amount(amount)
        account = self.accounts[name]
        day = day or now.astimezone(UTC).date()
        if key in self.taken_keys(name):
            raise Refused("charge_key_taken", charge_key=key)
        if account.frozen:
            raise Refused("account_not_active")
        self.check_available(name, amount)
        account.spending.check(day, amount, "account")
        if budget is not None:
            self.budgets[budget].check(day, amount, "key")
        hold = Hold(len(self.holds), name, key, amount, day, now + lease, budget)

        def reserve() -> None:
            self.holds.append(hold)
            account.spending.count(hold)
            if budget is not None:
                self.budgets[budget].count(hold)

        own = f"account:{account.id}"
        self._write(name, "hold", own, f"{own}:held", amount, "test", "", hold.number, now, reserve)
        return hold

    def check_available(self, name: str, amount: int) -> None:
        """Refuse what the balance does not cover."""
        available = self.available(name)
        if available < amount:
            raise Refused(
                "insufficient_tokens", required_mt=amount, available_mt=available, missing_mt=amount - available
            )

    def capture(self, hold: Hold, amount: int, now: datetime) -> Entry:
        """Take up to what is held; however late, as long as nobody gave it back."""
        _require_amount(amount)
        self._require_held(hold)
        if amount > hold.amount:
            raise Refused("invalid_amount")
        own = f"account:{self.accounts[hold.account].id}"

        def take() -> None:
            hold.state, hold.captured = "captured", amount

        return self._write(
            hold.account, "capture", f"{own}:held", "house:revenue", amount, "test", "", hold.number, now, take
        )

    def give_back(self, hold: Hold, now: datetime, *, expired: bool = False) -> Entry:
        """Release, or let the lease have run out."""
        self._require_held(hold)
        own = f"account:{self.accounts[hold.account].id}"

        def end() -> None:
            hold.state = "expired" if expired else "released"

        kind, actor, memo = ("expire", "system", "lease ran out") if expired else ("release", "test", "")
        return self._write(hold.account, kind, f"{own}:held", own, hold.amount, actor, memo, hold.number, now, end)

    def renew(self, holds: Iterable[Hold], lease: timedelta, now: datetime) -> None:
        """A new lease for those that have not ended."""
        for hold in holds:
            if hold.state == "held":
                hold.expires_at = now + lease

    def refund(self, hold: Hold, amount: int, reason: str, now: datetime) -> Entry:
        """Some of a charge comes back, never more than was taken."""
        _require_amount(amount)
        _require_reason(reason)
        if hold.state != "captured":
            raise Refused("hold_ended")
        left = hold.captured - hold.refunded
        if amount > left:
            raise Refused("refund_too_large", amount_mt=amount, refundable_mt=left)

        def pay_back() -> None:
            hold.refunded += amount

        own = f"account:{self.accounts[hold.account].id}"
        return self._write(
            hold.account, "refund", "house:revenue", own, amount, "op", reason.strip(), hold.number, now, pay_back
        )

    def freeze(self, name: str, *, frozen: bool, reason: str, now: datetime) -> Entry | None:
        """Stop spending, or allow it again; nothing when it was so already."""
        _require_reason(reason)
        account = self.accounts[name]
        if account.frozen == frozen:
            return None
        account.frozen = frozen
        own, kind = f"account:{account.id}", "freeze" if frozen else "unfreeze"
        return self._write(name, kind, own, f"{own}:held", 0, "op", reason.strip(), None, now, lambda: None)

    def set_caps(self, name: str, day_cap: int | None, month_cap: int | None) -> None:
        """Set or remove caps."""
        for cap in (day_cap, month_cap):
            if cap is not None and not 0 <= cap <= AMOUNT_MAX:
                raise Refused("invalid_amount")
        spending = self.accounts[name].spending
        spending.day_cap, spending.month_cap = day_cap, month_cap

    def set_alert(self, name: str, below: int | None) -> None:
        """Warn below this."""
        if below is not None and not 0 < below <= AMOUNT_MAX:
            raise Refused("invalid_amount")
        self.accounts[name].alert_below = below

    # Once for each key

    def once(self, name: str, operation: str, key: str, request: Any, act: Callable[[], Any]) -> Any:
        """The answer of `act`, or the stored one of the first time. A refusal leaves the key free."""
        answers = self.accounts[name].answers
        if (operation, key) in answers:
            first, answer = answers[operation, key]
            if first != request:
                raise Refused("idempotency_conflict", key=key)
            return answer
        answer = act()
        answers[operation, key] = (request, answer)
        return answer

    def all_or_nothing(self, act: Callable[[], Any]) -> Any:
        """Several moves of one account that are undone together when one of them is refused."""
        saved = deepcopy(self)
        try:
            return act()
        except Refused:
            self.accounts, self.holds, self.budgets = saved.accounts, saved.holds, saved.budgets
            raise

    def _require_held(self, hold: Hold) -> None:
        if hold.state != "held":
            raise Refused("hold_ended")

    def _write(
        self,
        name: str,
        kind: str,
        debit: str,
        credit: str,
        amount: int,
        actor: str,
        memo: str,
        hold: int | None,
        now: datetime,
        change: Callable[[], None],
    ) -> Entry:
        """Do it, write what it did to the balances, and warn when the settled one fell below the threshold."""
        account = self.accounts[name]
        posted, held = self.posted(name), self.held(name)
        change()
        after = self.posted(name), self.held(name)
        entry = Entry(
            kind, debit, credit, amount, after[0] - posted, after[1] - held, *after, hold, actor, memo, now
        )  # fmt: skip
        account.entries.append(entry)
        below = account.alert_below
        if below is not None and posted >= below > after[0]:
            account.alerts.append((len(account.entries), below, after[0]))
        return entry


def chain_of(account: Account, hold_ids: dict[int, str]) -> list[str]:
    """The digests of an account's hash chain, from the format's description."""
    digest = hashlib.sha256(f"visionmeter ledger 1 {account.id}".encode()).hexdigest()
    chain = []
    for seq, entry in enumerate(account.entries, start=1):
        values = [
            account.id,
            seq,
            entry.kind,
            entry.debit,
            entry.credit,
            entry.amount,
            entry.posted_change,
            entry.held_change,
            entry.posted_after,
            entry.held_after,
            None if entry.hold is None else hold_ids[entry.hold],
            entry.actor,
            entry.memo,
            entry.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f+00:00"),
        ]
        line = json.dumps(values, separators=(",", ":"))
        digest = hashlib.sha256(f"{digest}\n{line}".encode()).hexdigest()
        chain.append(digest)
    return chain


def _add(account: Account, amount: int) -> None:
    account.money_in += amount


def _require_amount(amount: int) -> None:
    if not 0 < amount <= AMOUNT_MAX:
        raise Refused("invalid_amount")


def _require_reason(reason: str) -> None:
    if not reason.strip():
        raise Refused("reason_missing")
