"""Every operation that moves money, failed before and after each of its statements and around its commit.

After any of these failures the effect is there whole or not at all, and asking again with the same key brings
exactly one effect and one answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import event, func
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import col, select

from core.db import new_id
from core.errors import HoldEndedError
from core.identity.tables import User
from core.inference.engine import Engine
from core.inference.images import decode_image
from core.jobs import jobs
from core.jobs.blobs import hash_bytes
from core.jobs.tables import Job, JobImage, Result
from core.ledger import ledger
from core.ledger.tables import Entry, Hold
from core.ledger.verify import verify_ledger
from core.pricing.tables import Receipt
from core.services import audit, corrections, run_image, top_up
from core.services.application import Application
from core.services.job_runner import sweep
from core.services.metered_detection import detect_params, submit_quote
from core.usage.tables import OUTCOMES, UsageRecord, UsageSlot
from tests.core.services.helpers import change, pictures, quote

WELCOME_MT = 20_000
FILES = pictures(2, seed=11)
Act = Callable[[], Any]


class FaultError(Exception):
    """Raised where a power cut, a lost connection or a killed process would have struck."""


class Faults:
    """Counts the statements and commits of the database, and strikes at one of them."""

    def __init__(self, app: Application) -> None:
        self.app = app
        self.statements = self.commits = 0
        self.strike: tuple[str, int] | None = None

    @contextmanager
    def watching(self, strike: tuple[str, int] | None = None) -> Iterator[None]:
        """Strike at (`before`/`after`/`before commit`/`after commit`, number); None only counts."""
        self.statements = self.commits = 0
        self.strike = strike
        engine = self.app.db.engine
        do_commit = engine.dialect.do_commit

        def commit(connection: Any) -> None:
            self.commits += 1
            self._hit("before commit", self.commits)
            do_commit(connection)
            self._hit("after commit", self.commits)

        event.listen(engine, "before_cursor_execute", self._before)
        event.listen(engine, "after_cursor_execute", self._after)
        engine.dialect.do_commit = commit  # type: ignore[method-assign]
        try:
            yield
        finally:
            del engine.dialect.do_commit
            event.remove(engine, "before_cursor_execute", self._before)
            event.remove(engine, "after_cursor_execute", self._after)

    def _before(self, *_: Any) -> None:
        self.statements += 1
        self._hit("before", self.statements)

    def _after(self, *_: Any) -> None:
        self._hit("after", self.statements)

    def _hit(self, when: str, number: int) -> None:
        if self.strike == (when, number):
            self.strike = None
            raise FaultError(f"{when} {number}")


@dataclass
class Bench:
    """An application, an operator and a fresh customer for each attempt."""

    app: Application
    engine: Engine
    operator: User

    def customer(self) -> User:
        """A member of a new account with 20.000 tokens."""
        with self.app.db.write() as session:
            account = ledger.open_account(session, "Ann")
            user = User(account_id=account.id, email=f"{new_id('ann')}@example.com", password_digest="-")
            session.add(user)
            session.flush()
            ledger.post_top_up(session, account.id, WELCOME_MT, source="house:test", actor=user.id)
        return user

    def charge(self, user: User) -> str:
        """A captured hold of 1.000."""
        with self.app.db.write() as session:
            hold = ledger.place_hold(session, user.account_id, 1000, charge_key="x", lease_s=60, actor=user.id)
            ledger.capture_hold(session, hold.id, 1000, actor=user.id)
        return hold.id

    def state(self, user: User) -> tuple[Any, ...]:
        """Everything that an operation may leave behind for this account; the ledger must be in order."""
        account_id = user.account_id
        with self.app.db.read() as session:
            outcome = verify_ledger(session, account_id)
            assert outcome.ok, outcome.problems
            balance = ledger.get_balance(session, account_id)
            kinds = session.exec(
                select(Entry.kind).where(Entry.account_id == account_id).order_by(col(Entry.seq))
            ).all()
            holds = session.exec(select(Hold.status).where(Hold.account_id == account_id)).all()
            counts = [
                session.exec(select(func.count()).select_from(table).where(table.account_id == account_id)).one()
                for table in (Job, Result, Receipt, UsageRecord)
            ]
            slots = session.exec(select(UsageSlot).where(UsageSlot.account_id == account_id)).all()
            images = session.exec(
                select(JobImage.status).join(Job, col(Job.id) == JobImage.job_id).where(Job.account_id == account_id)
            ).all()
        counted = sum(getattr(slot, outcome) for slot in slots for outcome in OUTCOMES)
        assert counted == counts[-1], "the slots count other records than there are"
        return balance.posted_mt, balance.held_mt, tuple(kinds), tuple(sorted(holds)), *counts, tuple(sorted(images))


def redeem(bench: Bench, user: User) -> Act:
    """A voucher of 5.000."""
    (voucher,) = top_up.make_vouchers(bench.app, bench.operator, count=1, amount_mt=5000)
    return lambda: top_up.redeem_voucher(bench.app, user, voucher.code, idempotency_key="key")


def refund(bench: Bench, user: User) -> Act:
    """All of a charge."""
    hold_id = bench.charge(user)
    return lambda: corrections.refund_charge(bench.app, bench.operator, hold_id, reason="why", idempotency_key="key")


def adjust(bench: Bench, user: User) -> Act:
    """300 taken."""
    return lambda: corrections.adjust_balance(
        bench.app, bench.operator, user.account_id, -300, reason="why", idempotency_key="key"
    )


def run_quote(bench: Bench, user: User) -> Act:
    """Two pictures held in one transaction, with their job."""
    quoted = quote(bench.app, user, FILES)
    files = {hash_bytes(data): data for data in FILES.values()}
    return lambda: submit_quote(bench.app, user, quoted.id, files, idempotency_key="key").id


def capture_with_result(bench: Bench, user: User) -> Act:
    """Entry, result, receipt, usage and its hour, and the job's end, as the runner writes them."""
    app = bench.app
    one = dict(list(FILES.items())[:1])
    quoted = quote(app, user, one)
    job = submit_quote(app, user, quoted.id, {hash_bytes(data): data for data in one.values()})
    with app.db.read() as session:
        (image,) = jobs.list_images(session, job.id)
    pixels = decode_image(next(iter(one.values())), bytes_max=10**7, pixels_max=10**8).pixels
    inference = bench.engine.submit(pixels, app.registry.resolve(job.model), detect_params(job.img_size)).result(60)

    def act() -> str:
        try:
            with app.db.write() as session:
                run_image._capture(session, job, image, inference)
        except HoldEndedError:
            pass
        return image.id

    return act


def release(bench: Bench, user: User) -> Act:
    """A hold given back."""
    with bench.app.db.write() as session:
        hold = ledger.place_hold(session, user.account_id, 700, charge_key="r", lease_s=60, actor=user.id)

    def act() -> str:
        try:
            with bench.app.db.write() as session:
                ledger.release_hold(session, hold.id, actor=user.id)
        except HoldEndedError:
            pass
        return hold.id

    return act


def expire(bench: Bench, user: User) -> Act:
    """Two holds and a job whose leases ran out, found by the sweeper."""
    run_quote(bench, user)()
    past = "2001-01-01 00:00:00.000000"
    change(bench.app, "UPDATE hold SET expires_at = :past WHERE status = 'held'", past=past)
    change(bench.app, "UPDATE job SET lease_expires_at = :past WHERE status <> 'finished'", past=past)

    def act() -> None:
        sweep(bench.app)

    return act


def freeze(bench: Bench, user: User) -> Act:
    """An account frozen once."""

    def act() -> None:
        corrections.freeze_account(bench.app, bench.operator, user.account_id, frozen=True, reason="why")

    return act


def seal(bench: Bench, user: User) -> Act:
    """The chain behind the first entries."""

    def act() -> None:
        audit.seal_account(bench.app, user.account_id)

    return act


@pytest.fixture
def bench(any_app: Application, engine: Engine, sign_up: Callable[..., User]) -> Bench:
    """The application on each kind of database, with its operator."""
    return Bench(any_app, engine, sign_up(any_app, "operator@example.com"))


@pytest.mark.parametrize(
    "operation",
    [redeem, refund, adjust, run_quote, capture_with_result, release, expire, freeze, seal],
    ids=lambda operation: operation.__name__,
)
def test_exactly_one_effect_at_every_fault_point(bench: Bench, operation: Callable[[Bench, User], Act]) -> None:
    """Struck anywhere, then asked again twice: the state of an undisturbed run, and the same answer."""
    faults = Faults(bench.app)
    user = bench.customer()
    act = operation(bench, user)
    before = bench.state(user)
    with faults.watching():
        act()
    expected, statements, commits = bench.state(user), faults.statements, faults.commits
    assert statements >= 2
    assert commits >= 1
    points = [(when, n + 1) for n in range(statements) for when in ("before", "after")]
    points += [(when, n + 1) for n in range(commits) for when in ("before commit", "after commit")]
    struck = 0
    for point in points:
        user = bench.customer()
        act = operation(bench, user)
        with faults.watching(point):
            try:
                act()
            except (FaultError, SQLAlchemyError):
                struck += 1
        middle = bench.state(user)
        if commits == 1:
            assert middle == (expected if point[0] == "after commit" else before), point
        answer = act()
        assert bench.state(user) == expected, point
        assert act() == answer, point
        assert bench.state(user) == expected, point
    print(f"{operation.__name__}: {len(points)} fault points")  # noqa: T201  # pytest shows it when the test fails
    assert struck == len(points), "a fault was swallowed or never reached"
