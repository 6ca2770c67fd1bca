"""Any sequence of moves, crashes and retries leaves the ledger where a plain model in memory says it must be.

`VISIONMETER_TEST_SEED` repeats a run; without it every run tries other sequences and prints its seed. With
`VISIONMETER_TEST_SHRINK=0` a failing sequence is told as it was found, at once.
"""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, note, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import bindparam, event, select
from sqlmodel import Session, col
from sqlmodel import select as select_rows

from core.db import Database, table_of
from core.errors import ChargeKeyTakenError, VisionMeterError
from core.ledger import corrections, ledger, spending
from core.ledger.idempotency import begin_idempotent, complete_idempotent
from core.ledger.seal import get_head, list_heads, seal_entries, unsealed_accounts
from core.ledger.tables import Account, Budget, Entry, Hold, LowBalanceAlert
from core.ledger.verify import verify_ledger
from tests.core.ledger import model as plain
from tests.core.ledger.model import Model, Refused, chain_of

EXAMPLES = int(os.environ.get("VISIONMETER_TEST_EXAMPLES", "200"))
SHRINK = os.environ.get("VISIONMETER_TEST_SHRINK", "1") != "0"
STEPS = 50
START = datetime(2026, 10, 29, 22, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)
BEFORE_COMMIT, AFTER_COMMIT = "before commit", "after commit"
# What every full run comes by; a rule that no longer reaches its case would go unnoticed otherwise.
MEANT_TO_HAPPEN = {
    "top_up", "place", "submit", "capture", "late capture", "release", "expire", "renew", "refund", "adjust", "freeze",
    "seal", "alert", "crash before commit", "crash after commit", "retry", "same answer", "new month",
    "account_not_active", "charge_key_taken", "hold_ended", "idempotency_conflict", "insufficient_tokens",
    "invalid_amount", "reason_missing", "refund_too_large", "spending_cap of account", "spending_cap of key",
}  # fmt: skip

names = st.sampled_from(["ann", "ann", "bob"])
works = st.sampled_from(["a", "b", "c", "d", "e", "f", "g", "h"])
keys = st.sampled_from(["key 1", "key 2", "key 3"])
prices = st.sampled_from([1, 999, 1000, 2500]) | st.integers(1, 6000)
amounts = st.sampled_from([500, 10_000]) | st.integers(1, 20_000)
hardly_amounts = st.sampled_from([0, -1, 10**15 + 1])
reasons = st.sampled_from(["blurred", "blurred", "blurred", " wrong model ", " \n"])
leases = st.sampled_from([60, 600, 600, 7200]).map(lambda lease_s: timedelta(seconds=lease_s))
caps = st.none() | st.none() | st.sampled_from([10_000, 1000, 0]) | st.integers(0, 40_000)
picks = st.integers(0, 255)
# Mostly today; also what a node says whose clock is a day or a month behind, and the ledger's own default.
day_shifts = st.sampled_from([0, 0, 0, 0, -1, -30, None])
crashes = st.sampled_from([None, None, None, None, BEFORE_COMMIT, AFTER_COMMIT])
dies = st.sampled_from([False, False, False, False, False, False, False, True])

_account, _budget, _hold = table_of(Account), table_of(Budget), table_of(Hold)
_alert = table_of(LowBalanceAlert)


class Crash(Exception):
    """The process dies here."""


class LedgerMachine(RuleBasedStateMachine):
    """Two new accounts in a database of many, the clock that the ledger sees, and the model beside them."""

    def __init__(self, db: Database, clock: dict[str, datetime], seen: Counter[str]) -> None:
        super().__init__()
        self.db, self.clock, self.seen = db, clock, seen
        self.clock["now"] = START
        self.model = Model()
        self.hold_ids: dict[int, str] = {}
        self.budget_ids: list[str] = []
        self.budgets_of: dict[str, list[int]] = {"ann": [], "bob": []}
        self.quotes: list[tuple[str, tuple[tuple[str, int], ...]]] = []
        self.unanswered: list[Callable[[], None]] = []
        self.in_order = True

    @property
    def now(self) -> datetime:
        """The time that the ledger sees."""
        return self.clock["now"]

    @initialize(amount=st.sampled_from([20_000, 100_000, 500]), below=st.sampled_from([19_999, 15_000, None]))
    def open_accounts(self, amount: int, below: int | None) -> None:
        """Two accounts, one of them with nothing."""
        with self.db.write() as session:
            for name in ("ann", "bob"):
                self.model.accounts[name] = plain.Account(ledger.open_account(session, name).id)
        self.top_up("ann", amount, False)
        with self.db.write() as session:
            spending.set_alert(session, self.id_of("ann"), below)
        self.model.set_alert("ann", below)

    # Money comes in

    @rule(name=names, amount=amounts, dies=dies)
    def top_up(self, name: str, amount: int, dies: bool) -> None:
        """A voucher, say."""
        self.perform(
            "top_up",
            lambda: self.model.top_up(name, amount, "house:test", self.now),
            lambda session: self.post_top_up(session, name, amount),
            dies=dies,
        )

    @rule(name=names, key=keys, amount=st.sampled_from([3000, 9000]), crash=crashes)
    def top_up_once(self, name: str, key: str, amount: int, crash: str | None) -> None:
        """A payment that the payer's program may announce any number of times."""
        self.perform_once(
            name, "top_up", key, {"amount": amount},
            lambda: self.answer(self.model.top_up(name, amount, "house:test", self.now)),
            lambda session: self.post_top_up(session, name, amount),
            crash,
        )  # fmt: skip

    @rule(name=names, amount=amounts | amounts.map(lambda amount: -amount) | hardly_amounts, reason=reasons, dies=dies)
    def adjust(self, name: str, amount: int, reason: str, dies: bool) -> None:
        """An operator gives or takes."""
        self.perform(
            "adjust",
            lambda: self.model.adjust(name, amount, reason, self.now),
            lambda session: corrections.post_adjustment(
                session, self.id_of(name), amount, reason=reason, actor="op", at=self.now
            ),
            dies=dies,
        )

    # Holds

    @rule(name=names, work=works, amount=prices)
    def charge(self, name: str, work: str, amount: int) -> None:
        """A run from beginning to end."""
        placed = len(self.model.holds)
        self.place(name, work, amount, timedelta(seconds=600), 0, 0, False)
        if len(self.model.holds) > placed:
            self.capture(self.pick_of(self.model.holds[-1]), "all", False)

    @rule(name=names, work=works, amount=prices, budget=picks, share=st.sampled_from(["half", "rest"]))
    def charge_and_refund(self, name: str, work: str, amount: int, budget: int, share: str) -> None:
        """A run whose result was no good."""
        placed = len(self.model.holds)
        self.place(name, work, amount, timedelta(seconds=60), -(budget % 2), budget, False)
        if len(self.model.holds) > placed:
            self.capture(self.pick_of(self.model.holds[-1]), "half" if amount > 1000 else "all", False)
            self.refund(1, share, "blurred", False)

    @rule(name=names, work=works, amount=prices, budget=picks)
    def place_for_a_key(self, name: str, work: str, amount: int, budget: int) -> None:
        """A hold of a program, out of its key's budget when there is one."""
        if not self.budgets_of[name]:
            self.open_budget(name, 5000, None)
        self.place(name, work, amount, timedelta(seconds=600), 0, 2 + budget % 2, False)

    @rule(
        name=names, work=works, amount=prices | prices | prices | hardly_amounts,
        lease=leases, shift=day_shifts, budget=picks, dies=dies,
    )  # fmt: skip
    def place(
        self, name: str, work: str, amount: int, lease: timedelta, shift: int | None, budget: int, dies: bool
    ) -> None:
        """One hold, sometimes out of a key's budget."""
        day, number = self.day(shift), self.pick_budget(name, budget)
        done = self.perform(
            "place",
            lambda: self.model.place(name, work, amount, lease, self.now, day, number),
            lambda session: self.place_hold(session, name, work, amount, lease, day, number),
            dies=dies,
        )
        if done is not None:
            self.hold_ids[done[0].number] = done[1].id

    @rule(name=names, work=works, more=st.sampled_from([1, 1, 1, 0]))
    def place_what_is_left(self, name: str, work: str, more: int) -> None:
        """What is available can be held to the last milli-token, and not one more, whatever others hold."""
        self.place(name, work, self.model.available(name) + more, timedelta(seconds=60), 0, 0, False)

    @rule(
        name=names, lines=st.dictionaries(works, prices, min_size=1, max_size=4), lease=leases,
        again=picks, budget=picks, crash=crashes,
    )  # fmt: skip
    def submit(
        self, name: str, lines: dict[str, int], lease: timedelta, again: int, budget: int, crash: str | None
    ) -> None:
        """All of a quote is held, or nothing; what is paid for already costs nothing; twice gives the same job."""
        self.quotes.append((name, tuple(lines.items())))
        index = again % len(self.quotes) if again % 4 == 0 else len(self.quotes) - 1
        name, prices_of_works = self.quotes[index]
        day, number = self.now.date(), self.pick_budget(name, budget)

        def expect() -> dict[str, list[int]]:
            required = sum(amount for work, amount in prices_of_works if work not in self.model.taken_keys(name))
            self.model.check_available(name, required)
            if required:
                self.model.accounts[name].spending.check(day, required, "account")
            held = []
            for work, amount in prices_of_works:
                try:
                    held.append(self.model.place(name, work, amount, lease, self.now, day, number).number)
                except Refused as refused:
                    if refused.code != "charge_key_taken":
                        raise
            return {"holds": held}

        def act(session: Session) -> dict[str, list[str]]:
            taken = ledger.find_taken_keys(session, self.id_of(name), [work for work, _amount in prices_of_works])
            required = sum(amount for work, amount in prices_of_works if work not in taken)
            ledger.require_available(session, self.id_of(name), required)
            spending.require_within_caps(session, self.id_of(name), required, day)
            held = []
            for work, amount in prices_of_works:
                try:
                    held.append(self.place_hold(session, name, work, amount, lease, day, number).id)
                except ChargeKeyTakenError:
                    pass
            return {"holds": held}

        self.perform_once(
            name, "submit", f"quote {index}", {"quote": index}, lambda: self.model.all_or_nothing(expect), act, crash
        )

    @precondition(lambda self: self.model.holds)
    @rule(pick=picks, share=st.sampled_from(["all", "all", "half", "too much", "nothing"]), dies=dies)
    def capture(self, pick: int, share: str, dies: bool) -> None:
        """All of it, some of it, more than it; of any hold, mostly of an open one."""
        hold = self.pick_hold(pick, "held")
        amount = {"all": hold.amount, "half": hold.amount // 2, "too much": hold.amount + 1, "nothing": 0}[share]
        what = "late capture" if hold.expires_at <= self.now and hold.state == "held" else "capture"
        self.perform(
            what,
            lambda: self.model.capture(self.model.holds[hold.number], amount, self.now),
            lambda session: ledger.capture_hold(session, self.id_of(hold), amount, actor="test", at=self.now),
            dies=dies,
        )

    @precondition(lambda self: self.model.any_open())
    @rule(pick=picks)
    def capture_when_the_lease_is_over(self, pick: int) -> None:
        """The machine slept while the model ran; nobody swept meanwhile."""
        hold = self.pick_hold(4 * pick + 1, "held")
        self.clock["now"] = max(self.now, hold.expires_at)
        self.capture(self.pick_of(hold), "all", False)

    @precondition(lambda self: self.model.holds)
    @rule(pick=picks, dies=dies)
    def release(self, pick: int, dies: bool) -> None:
        """The run failed."""
        hold = self.pick_hold(pick, "held")
        self.perform(
            "release",
            lambda: self.model.give_back(self.model.holds[hold.number], self.now),
            lambda session: ledger.release_hold(session, self.id_of(hold), actor="test", at=self.now),
            dies=dies,
        )

    @precondition(lambda self: self.model.holds)
    @rule(pick_list=st.lists(picks, min_size=1, max_size=3), lease=leases)
    def renew(self, pick_list: list[int], lease: timedelta) -> None:
        """The runner is alive; it also names holds that have ended."""
        holds = [self.pick_hold(pick, "held") for pick in pick_list]
        self.perform(
            "renew",
            lambda: self.model.renew([self.model.holds[hold.number] for hold in holds], lease, self.now),
            lambda session: ledger.renew_holds(
                session, [self.id_of(hold) for hold in holds], lease_s=int(lease.total_seconds())
            ),
        )

    @rule(limit=st.sampled_from([500, 500, 1]), dies=dies)
    def sweep(self, limit: int, dies: bool) -> None:
        """What is due goes back, the longest overdue first; nothing else does."""
        with self.db.read() as session:
            listed = set(ledger.due_accounts(session, self.now))
        for name, account in self.model.accounts.items():
            due = self.model.due(name, self.now)
            assert (account.id in listed) == bool(due)

            def act(session: Session, account_id: str = account.id) -> list[str]:
                entries = ledger.expire_holds(session, account_id, now=self.now, limit=limit)
                return [str(entry.hold_id) for entry in entries]

            if dies:
                self.crash(act)
                continue
            self.in_order = False
            with self.db.write() as session:
                swept = act(session)
            assert len(swept) == min(limit, len(due))
            assert [self.model.holds[self.number_of(hold_id)].expires_at for hold_id in swept] == sorted(
                hold.expires_at for hold in due
            )[: len(swept)]
            for hold_id in swept:
                self.model.give_back(self.model.holds[self.number_of(hold_id)], self.now, expired=True)
                self.seen["expire"] += 1

    @precondition(lambda self: self.model.any_open())
    @rule(pick=picks, early=st.booleans())
    def sweep_around_the_end_of_a_lease(self, pick: int, early: bool) -> None:
        """A microsecond before its end a hold stays, at its end it goes."""
        hold = self.pick_hold(4 * pick + 1, "held")
        self.clock["now"] = max(self.now, hold.expires_at - MOMENT if early else hold.expires_at)
        self.sweep(500, False)

    @rule(
        by=st.sampled_from([timedelta(seconds=1), timedelta(minutes=5), timedelta(hours=3), timedelta(days=1), "month"])
    )
    def time_passes(self, by: timedelta | str) -> None:
        """Leases run out, days and months end."""
        before = self.now
        if isinstance(by, timedelta):
            self.clock["now"] += by
        else:
            self.clock["now"] = (before.replace(day=1) + timedelta(days=32)).replace(day=1)
        self.seen["new month"] += before.month != self.now.month

    # Corrections

    @precondition(lambda self: self.model.holds)
    @rule(
        pick=picks,
        share=st.sampled_from(["half", "half", "rest", "too much"]),
        reason=reasons,
        dies=dies,
    )
    def refund(self, pick: int, share: str, reason: str, dies: bool) -> None:
        """Some of a charge, the rest of it, more than is left, of what was never charged, without a reason."""
        hold = self.pick_hold(pick, "captured")
        amount = self.share(hold, share)
        self.perform(
            "refund",
            lambda: self.model.refund(self.model.holds[hold.number], amount, reason, self.now),
            lambda session: self.post_refund(session, hold, amount, reason),
            dies=dies,
        )

    @precondition(lambda self: self.model.holds)
    @rule(pick=picks, key=keys, amount=st.sampled_from([1, 400]), reason=reasons, crash=crashes)
    def refund_once(self, pick: int, key: str, amount: int, reason: str, crash: str | None) -> None:
        """An operator whose browser sends the form twice."""
        hold = self.pick_hold(pick, "captured")
        self.perform_once(
            hold.account, "refund", key, {"hold": hold.number, "amount": amount, "reason": reason},
            lambda: self.answer(self.model.refund(self.model.holds[hold.number], amount, reason, self.now)),
            lambda session: self.answer(self.post_refund(session, hold, amount, reason)),
            crash,
        )  # fmt: skip

    @rule(name=names, frozen=st.sampled_from([False, True, False]), reason=reasons)
    def freeze(self, name: str, frozen: bool, reason: str) -> None:
        """An operator stops an account, and lets it go on."""
        done = self.perform(
            "freeze",
            lambda: self.model.freeze(name, frozen=frozen, reason=reason, now=self.now),
            lambda session: corrections.set_frozen(session, self.id_of(name), frozen=frozen, reason=reason, actor="op"),
        )
        assert done is None or (done[0] is None) == (done[1] is None)

    # Caps, budgets, alerts

    @rule(name=names, day_cap=caps | st.just(-1), month_cap=caps)
    def set_caps(self, name: str, day_cap: int | None, month_cap: int | None) -> None:
        """Set, changed, removed; what was spent before counts."""
        self.perform(
            "set caps",
            lambda: self.model.set_caps(name, day_cap, month_cap),
            lambda session: spending.set_caps(session, self.id_of(name), day_cap_mt=day_cap, month_cap_mt=month_cap),
        )

    @rule(name=names, day_cap=caps, month_cap=caps)
    def open_budget(self, name: str, day_cap: int | None, month_cap: int | None) -> None:
        """At most two for an account."""
        if len(self.budgets_of[name]) == 2:
            return
        with self.db.write() as session:
            budget = spending.open_budget(session, self.id_of(name), day_cap_mt=day_cap, month_cap_mt=month_cap)
        self.budgets_of[name].append(len(self.budget_ids))
        self.budget_ids.append(budget.id)
        self.model.budgets.append(plain.Spending(day_cap, month_cap))

    @rule(name=names, below=st.sampled_from([500, 1, -1, 200, 5000, None]), dismissed=st.booleans())
    def set_alert(self, name: str, below: int | None, dismissed: bool) -> None:
        """Somewhat below the balance of now, or just above it: what is low already warns of nothing.

        Alerts that were seen are dismissed; the next crossing warns again.
        """
        if dismissed:
            with self.db.write() as session:
                spending.dismiss_alerts(session, self.id_of(name))
            self.model.accounts[name].alerts_dismissed = len(self.model.accounts[name].alerts)
        if below:
            below = self.model.posted(name) - below
        self.perform(
            "set alert",
            lambda: self.model.set_alert(name, below),
            lambda session: spending.set_alert(session, self.id_of(name), below),
        )

    # The chain

    @rule(name=names, limit=st.sampled_from([1, 5, 2000]))
    def seal(self, name: str, limit: int) -> None:
        """Some of the new entries."""
        account = self.model.accounts[name]
        fresh = min(limit, len(account.entries) - account.sealed)
        done = self.perform("seal", lambda: None, lambda session: seal_entries(session, account.id, limit=limit))
        assert done is not None
        assert done[1] == fresh
        account.sealed += fresh

    # Crashes

    @precondition(lambda self: self.unanswered)
    @rule(pick=picks)
    def retry(self, pick: int) -> None:
        """Whoever got no answer asks again, with the same key."""
        self.seen["retry"] += 1
        self.unanswered.pop(pick % len(self.unanswered))()

    # What people look at

    @rule(name=names, shift=st.sampled_from([0, -1, 1]), pick=picks)
    def look(self, name: str, shift: int, pick: int) -> None:
        """Balance, spending, what is left of a charge, taken keys and alerts, as the services read them."""
        account, day = self.model.accounts[name], self.now.date() + timedelta(days=shift)
        hold = self.pick_hold(pick, "captured") if self.model.holds else None
        with self.db.read() as session:
            balance = ledger.get_balance(session, account.id)
            spent = spending.get_spending(session, account.id, day)
            taken = ledger.find_taken_keys(session, account.id, ["a", "b", "c", "h"])
            alerts = spending.open_alerts(session, account.id)
            left = None if hold is None else corrections.refundable_mt(session, self.id_of(hold))
        assert balance.available_mt == self.model.available(name)
        assert (spent.day_spent_mt, spent.month_spent_mt) == account.spending.on(day)
        assert (spent.day_cap_mt, spent.month_cap_mt) == (account.spending.day_cap, account.spending.month_cap)
        assert taken == self.model.taken_keys(name) & {"a", "b", "c", "h"}
        assert [alert.seq for alert in reversed(alerts)] == [a[0] for a in account.alerts[account.alerts_dismissed :]]
        assert hold is None or left == hold.captured - hold.refunded

    # After every step, and at the end

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        """Balances, spending, holds, budgets and alerts of both accounts."""
        accounts = self.model.accounts
        if not accounts:
            return
        ids = [account.id for account in accounts.values()]
        with self.db.read() as session:
            connection = session.connection()
            stored = {row[0]: tuple(row[1:]) for row in connection.execute(_ACCOUNTS, {"ids": ids})}
            holds = {row[0]: tuple(row[1:]) for row in connection.execute(_HOLDS, {"ids": ids})}
            budgets = {row[0]: tuple(row[1:]) for row in connection.execute(_BUDGETS, {"ids": ids})}
            alerts = [tuple(row) for row in connection.execute(_ALERTS, {"ids": ids})]
        for name, account in accounts.items():
            assert stored[account.id] == (
                self.model.posted(name),
                self.model.held(name),
                len(account.entries),
                "frozen" if account.frozen else "active",
                *counted(account.spending),
            ), name
        assert holds == {
            self.hold_ids[hold.number]: (hold.state, hold.captured, hold.refunded, hold.expires_at)
            for hold in self.model.holds
        }
        assert budgets == {
            budget_id: counted(budget) for budget_id, budget in zip(self.budget_ids, self.model.budgets, strict=True)
        }
        assert sorted(alerts) == sorted(
            (account.id, *alert) for account in accounts.values() for alert in account.alerts
        )
        self.in_order = True

    def teardown(self) -> None:
        """The entries are those of the model, the chain is that of the format, and the check finds nothing."""
        if not self.in_order or not self.model.accounts:
            return
        house: Counter[str] = Counter()
        for account in self.model.accounts.values():
            with self.db.read() as session:
                entries = session.exec(
                    select_rows(Entry).where(Entry.account_id == account.id).order_by(col(Entry.seq))
                ).all()
                assert account.sealed == get_head(session, account.id).seq
                assert (account.id in unsealed_accounts(session, limit=10_000)) == (len(entries) > account.sealed)
            assert [told(entry) for entry in entries] == [self.expected(entry) for entry in account.entries]
            assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
            for entry in entries:
                house[entry.debit_account] -= entry.amount_mt
                house[entry.credit_account] += entry.amount_mt
            self.seen["alert"] += len(account.alerts)
            self.seal_all(account)
        assert {name: amount for name, amount in house.items() if name.startswith("house:")} == self.model.house()
        assert sum(house.values()) == 0

    def seal_all(self, account: plain.Account) -> None:
        """Finish the chain, compare its end with the model's, and verify against it."""
        with self.db.write() as session:
            seal_entries(session, account.id)
        chain = chain_of(account, self.hold_ids)
        with self.db.read() as session:
            head = get_head(session, account.id)
            outcome = verify_ledger(session, account.id, heads=[head] if head.seq else [])
        assert head.seq == len(chain)
        assert not chain or head.digest == chain[-1]
        assert outcome.ok, outcome.problems
        assert outcome.unsealed == 0

    # Steps

    def perform(
        self, what: str, expect: Callable[[], Any], act: Callable[[Session], Any], *, dies: bool = False
    ) -> tuple[Any, Any] | None:
        """One transaction, in the model and in the ledger: what both gave, or None when both refused alike."""
        if dies:
            self.crash(act)
            return None
        self.in_order = False
        try:
            expected = expect()
        except Refused as refused:
            self.refuse(what, refused, act)
            return None
        with self.db.write() as session:
            real = act(session)
        note(f"{what}: {expected!r}")
        self.seen[what] += 1
        return expected, real

    def refuse(self, what: str, refused: Refused, act: Callable[[Session], Any]) -> None:
        """The ledger refuses with the same code and the same facts."""
        note(f"{what}: {refused!r}")
        self.seen[f"{refused.code} of {refused.facts['scope']}" if "scope" in refused.facts else refused.code] += 1
        with pytest.raises(VisionMeterError) as caught, self.db.write() as session:
            act(session)
        assert caught.value.code == refused.code
        assert refused.facts.items() <= caught.value.details.items()

    def perform_once(
        self,
        name: str,
        operation: str,
        key: str,
        request: dict[str, Any],
        expect: Callable[[], dict[str, Any]],
        act: Callable[[Session], dict[str, Any]],
        crash: str | None,
    ) -> None:
        """The same under an idempotency key; after a crash the caller will ask again."""
        account_id = self.id_of(name)

        def act_once(session: Session) -> dict[str, Any]:
            answer = begin_idempotent(session, account_id, operation, key, request)
            if answer is None:
                answer = act(session)
                complete_idempotent(session, account_id, operation, key, answer)
            return answer

        def ask(crash: str | None = None) -> None:
            if crash is not None:
                self.seen[f"crash {crash}"] += 1
                self.unanswered.append(ask)
            if crash == BEFORE_COMMIT:
                self.crash(act_once)
                return
            repeated = (operation, key) in self.model.accounts[name].answers
            done = self.perform(operation, lambda: self.model.once(name, operation, key, request, expect), act_once)
            if done is not None:
                self.seen["same answer"] += repeated
                self.compare_answers(*done)

        ask(crash)

    def compare_answers(self, expected: dict[str, Any], real: dict[str, Any]) -> None:
        """The model calls a hold by its number; a new one gets its real name here."""
        if "holds" in expected:
            for number, hold_id in zip(expected["holds"], real["holds"], strict=True):
                assert self.hold_ids.setdefault(number, hold_id) == hold_id
        else:
            assert real == expected

    def crash(self, act: Callable[[Session], Any]) -> None:
        """The process dies after the work and before the commit: nothing is stored."""
        self.in_order = False
        with suppress(Crash), self.db.write() as session:
            with suppress(VisionMeterError):
                act(session)
            raise Crash

    # The ledger's calls

    def post_top_up(self, session: Session, name: str, amount: int) -> dict[str, int]:
        """A top-up's answer."""
        return self.answer(
            ledger.post_top_up(session, self.id_of(name), amount, source="house:test", actor="test", at=self.now)
        )

    def place_hold(
        self,
        session: Session,
        name: str,
        work: str,
        amount: int,
        lease: timedelta,
        day: date | None,
        budget: int | None,
    ) -> Hold:
        """A hold."""
        return ledger.place_hold(
            session, self.id_of(name), amount, charge_key=work, lease_s=int(lease.total_seconds()), actor="test",
            at=self.now, spend_day=day, budget_id=None if budget is None else self.budget_ids[budget],
        )  # fmt: skip

    def post_refund(self, session: Session, hold: plain.Hold, amount: int, reason: str) -> Entry:
        """A refund."""
        return corrections.refund_capture(session, self.id_of(hold), amount, reason=reason, actor="op", at=self.now)

    # Choosing

    def pick_hold(self, pick: int, state: str) -> plain.Hold:
        """A hold, three times of four one in this state where there is one."""
        wanted = [hold for hold in self.model.holds if hold.state == state]
        holds = wanted if wanted and pick % 4 else self.model.holds
        return holds[-1 - pick // 4 % len(holds)]

    def pick_of(self, hold: plain.Hold) -> int:
        """The pick that gives an open hold."""
        open_holds = [one for one in self.model.holds if one.state == "held"]
        return 4 * (len(open_holds) - 1 - open_holds.index(hold)) + 1

    def pick_budget(self, name: str, pick: int) -> int | None:
        """One of the account's budgets, or none."""
        return [None, None, *self.budgets_of[name]][pick % (2 + len(self.budgets_of[name]))]

    def share(self, hold: plain.Hold, share: str) -> int:
        """Milli-tokens of what is left of a charge; of what was never charged, one."""
        left = hold.captured - hold.refunded
        return {"half": max(1, left // 2), "rest": max(1, left), "too much": left + 1}[share]

    def day(self, shift: int | None) -> date | None:
        """The day that a hold says it counts in."""
        return None if shift is None else self.now.date() + timedelta(days=shift)

    def id_of(self, what: str | plain.Hold) -> str:
        """The real name of an account or a hold."""
        return self.model.accounts[what].id if isinstance(what, str) else self.hold_ids[what.number]

    def number_of(self, hold_id: str) -> int:
        """The model's number of a hold."""
        return next(number for number, one in self.hold_ids.items() if one == hold_id)

    def answer(self, entry: Entry | plain.Entry) -> dict[str, int]:
        """What a caller is told of an entry."""
        if isinstance(entry, Entry):
            return {"amount": entry.amount_mt, "posted_after": entry.posted_after_mt}
        return {"amount": entry.amount, "posted_after": entry.posted_after}

    def expected(self, entry: plain.Entry) -> tuple[Any, ...]:
        """An entry of the model as `told` gives the stored one."""
        hold_id = None if entry.hold is None else self.hold_ids[entry.hold]
        return (
            entry.kind, entry.debit, entry.credit, entry.amount, entry.posted_change, entry.held_change,
            entry.posted_after, entry.held_after, hold_id, entry.actor, entry.memo, entry.at,
        )  # fmt: skip


def told(entry: Entry) -> tuple[Any, ...]:
    """All that a stored entry says."""
    return (
        entry.kind, entry.debit_account, entry.credit_account, entry.amount_mt, entry.posted_change_mt,
        entry.held_change_mt, entry.posted_after_mt, entry.held_after_mt, entry.hold_id, entry.actor, entry.memo,
        entry.created_at,
    )  # fmt: skip


def counted(spent: plain.Spending) -> tuple[date | None, int, int]:
    """The newest day and what counts on it and in its month."""
    newest = spent.newest
    return (None, 0, 0) if newest is None else (newest, *spent.on(newest))


def _of_accounts(columns: Sequence[Any], account_id: Any) -> Any:
    return select(*columns).where(account_id.in_(_IDS))


_IDS = bindparam("ids", expanding=True)
_ACCOUNTS = _of_accounts(
    [
        _account.c[name]
        for name in (
            "id", "posted_mt", "held_mt", "version", "status", "spend_day", "day_spent_mt", "month_spent_mt",
        )
    ],
    _account.c.id,
)  # fmt: skip
_HOLDS = _of_accounts(
    [_hold.c[name] for name in ("id", "status", "captured_mt", "refunded_mt", "expires_at")], _hold.c.account_id
)
_BUDGETS = _of_accounts(
    [_budget.c[name] for name in ("id", "spend_day", "day_spent_mt", "month_spent_mt")], _budget.c.account_id
)
_ALERTS = _of_accounts(
    [_alert.c[name] for name in ("account_id", "seq", "threshold_mt", "posted_after_mt")], _alert.c.account_id
)


@pytest.mark.timeout(900)  # a failing sequence is made short first, for up to five minutes
def test_any_history_agrees_with_the_model(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 sequences of 50 steps: after each of them balances, spending, holds and alerts are the model's."""
    number = int(os.environ.get("VISIONMETER_TEST_SEED") or secrets.randbits(32))
    print(f"seed {number}: VISIONMETER_TEST_SEED={number} repeats this run")  # noqa: T201  # pytest shows it on failure
    clock: dict[str, datetime] = {"now": START}
    seen: Counter[str] = Counter()
    if db.engine.dialect.name == "sqlite":
        # No power fails here, and 6,000 times `fsync` would be most of the time.
        event.listen(db.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
    for module in ("ledger", "posting"):
        monkeypatch.setattr(f"core.ledger.{module}.utcnow", lambda: clock["now"])

    @seed(number)
    def machine() -> LedgerMachine:
        return LedgerMachine(db, clock, seen)

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            print_blob=True,
            phases=(Phase.generate, Phase.shrink) if SHRINK else (Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(sorted(seen.items()))  # noqa: T201  # where the sequences went
    if EXAMPLES >= 200:
        assert set(seen) >= MEANT_TO_HAPPEN
    with db.read() as session:
        outcome = verify_ledger(session, heads=list_heads(session))
    assert outcome.ok, outcome.problems
    assert outcome.unsealed == 0
