"""The VIP plan: who may give it, what it changes in the queues, and what comes back when its promise is not kept."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import inspect, text
from sqlalchemy.exc import IntegrityError
from sqlmodel import select

from core import errors
from core.config import ROOT
from core.db import Database
from core.identity.tables import User
from core.inference.backends.choose import count_cores
from core.inference.images import Pixels
from core.inference.replicas import Replica
from core.jobs.tables import Job, Result
from core.ledger.tables import Entry
from core.plans import Plan
from core.pricing.receipts import ReceiptFilter
from core.services import account_view, audit_trail, detect, plans, receipts, run_image
from core.services.application import Application
from core.services.job_runner import JobRunner
from core.services.receipt_document import make_document
from core.services.stages import Stages
from tests.conftest import OpenApp
from tests.core.services.helpers import MODEL, balance, change, pictures, quote, statuses, submit, wait

StartRunner = Callable[[Application], JobRunner]
# What the engine computes at a time, and what more of the runner's threads have put into its queue.
STREAMS, WAITING = count_cores(), 4


@pytest.fixture
def olga(any_app: Application, sign_up: Callable[..., User]) -> User:
    """The operator."""
    return sign_up(any_app, "olga@example.com")


@pytest.fixture
def ann(any_app: Application, olga: User, sign_up: Callable[..., User]) -> User:
    """A customer with 20.000 tokens, an owner of her account."""
    return sign_up(any_app, "ann@example.com")


def plan_of(app: Application, user: User) -> str:
    """The plan of the user's account."""
    return account_view.get_account(app, user).plan


# Who gives it ---------------------------------------------------------------------------------------


def test_the_operator_gives_the_plan_with_a_reason(any_app: Application, olga: User, ann: User) -> None:
    """It is stored, and each change stands once in the audit log with who, whom and why."""
    assert plan_of(any_app, ann) == "standard"
    assert plans.set_plan(any_app, olga, ann.account_id, Plan.VIP, reason=" signed a contract ")
    assert not plans.set_plan(any_app, olga, ann.account_id, Plan.VIP, reason="again")
    assert plan_of(any_app, ann) == "vip"
    assert plan_of(any_app, olga) == "standard"
    assert plans.set_plan(any_app, olga, ann.account_id, Plan.STANDARD, reason="it ended")
    lines = audit_trail.list_trail(any_app, olga, account_id=ann.account_id)
    assert [(line.actor, line.event.subject, line.event.details) for line in lines if "plan" in line.event.action] == [
        ("olga@example.com", ann.account_id, {"plan": "standard", "reason": "it ended"}),
        ("olga@example.com", ann.account_id, {"plan": "vip", "reason": "signed a contract"}),
    ]


@pytest.mark.parametrize("role", ["owner", "member", "viewer"])
def test_nobody_else_gives_it(any_app: Application, ann: User, role: str) -> None:
    """No role in an account makes it a VIP, not even its own."""
    ann.role = role
    with pytest.raises(errors.NotAllowedError):
        plans.set_plan(any_app, ann, ann.account_id, Plan.VIP, reason="please")
    assert plan_of(any_app, ann) == "standard"


def test_a_plan_needs_a_reason_and_an_account(any_app: Application, olga: User, ann: User) -> None:
    """Without either nothing is changed and nothing stands in the audit log."""
    with pytest.raises(errors.ReasonMissingError):
        plans.set_plan(any_app, olga, ann.account_id, Plan.VIP, reason=" ")
    with pytest.raises(errors.AccountNotActiveError):
        plans.set_plan(any_app, olga, "acct_nobody", Plan.VIP, reason="who?")
    assert plan_of(any_app, ann) == "standard"
    assert not [line for line in audit_trail.list_trail(any_app, olga) if line.event.action == "account.plan"]


@pytest.mark.parametrize("table", ["account", "job"])
def test_the_database_knows_the_plans(any_app: Application, ann: User, table: str) -> None:
    """No other word gets into the rows."""
    files = pictures(1)
    submit(any_app, ann, quote(any_app, ann, files), files)
    with pytest.raises(IntegrityError):
        change(any_app, f"UPDATE {table} SET plan = 'gold'")  # a name of this test


def test_a_run_keeps_the_plan_that_it_was_started_under(any_app: Application, olga: User, ann: User) -> None:
    """What was promised then holds: a later change is for later runs."""
    first, second = pictures(1, seed=1), pictures(1, seed=2)
    plans.set_plan(any_app, olga, ann.account_id, Plan.VIP, reason="contract")
    as_vip = submit(any_app, ann, quote(any_app, ann, first), first)
    plans.set_plan(any_app, olga, ann.account_id, Plan.STANDARD, reason="it ended")
    as_standard = submit(any_app, ann, quote(any_app, ann, second), second)
    assert (as_vip.plan, as_standard.plan) == ("vip", "standard")
    with any_app.db.read() as session:
        assert [session.get_one(Job, job.id).plan for job in (as_vip, as_standard)] == ["vip", "standard"]


def test_the_migration_goes_up_and_down(db: Database, account_id: str) -> None:
    """Everybody has the standard plan after it, and nothing else is lost when it is taken back."""
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    config.attributes["url"] = db.url
    for _ in range(2):
        command.downgrade(config, "0007")
        names = {column["name"] for table in ("account", "job") for column in inspect(db.engine).get_columns(table)}
        assert "plan" not in names
        command.upgrade(config, "head")
    with db.read() as session:
        row = session.connection().execute(text("SELECT posted_mt, plan FROM account")).one()
    assert tuple(row) == (10_000, "standard")


# Whose turn it is -----------------------------------------------------------------------------------


@contextmanager
def held_passes() -> Iterator[tuple[list[int], threading.Event]]:
    """The widths of the network inputs in the order in which their passes began; none gets on before the event."""
    began: list[int] = []
    gate, forward, lock = threading.Event(), Replica.forward, threading.Lock()

    def wait_and_run(self: Replica, padded: list[Pixels]) -> Any:
        with lock:
            began.append(padded[0].shape[1])
        assert gate.wait(60)
        return forward(self, padded)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Replica, "forward", wait_and_run)
        try:
            yield began, gate
        finally:
            gate.set()


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that other threads bring about."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("way", ["program", "portal"])
def test_a_vip_waits_for_the_passes_that_run_at_most(
    open_app: OpenApp, sign_up: Callable[..., User], start_runner: StartRunner, way: str
) -> None:
    """Forty pictures of another customer wait, in the engine and before it: the VIP's pass is the very next.

    Where there is an express stream, on two cores and more, it begins while all the others are held.
    """
    app = open_app(runner_threads=STREAMS + WAITING)
    olga, ann, bob = (sign_up(app, f"{name}@example.com") for name in ("olga", "ann", "bob"))
    plans.set_plan(app, olga, ann.account_id, Plan.VIP, reason="contract")
    many, one = pictures(40), pictures(1, seed=5)
    with ThreadPoolExecutor(1) as pool, held_passes() as (began, gate):
        large = submit(app, bob, quote(app, bob, many), many)
        start_runner(app)
        until(lambda: (len(began), app.engine.queue_depth) == (STREAMS, WAITING))
        if way == "portal":
            small = submit(app, ann, quote(app, ann, one, img_size=640), one)
            answer = pool.submit(lambda: wait(app, ann, small).progress.charged_mt)
        else:
            picture = {"name": "0.png", "model": MODEL, "img_size": 640}
            answer = pool.submit(lambda: detect.detect(app, ann, one["0.png"], **picture, stages=Stages()).amount_mt)
        until(lambda: 640 in began if STREAMS > 1 else app.engine.queue_depth == WAITING + 1)
        gate.set()
        assert answer.result(60) == 1000
    assert began.index(640) <= STREAMS
    assert statuses(wait(app, bob, large)) == ["charged"] * 40


def test_a_standard_customer_waits_his_turn(
    open_app: OpenApp, sign_up: Callable[..., User], start_runner: StartRunner
) -> None:
    """The control of the test above: without the plan the picture gets to the engine after those before it."""
    app = open_app(runner_threads=STREAMS + WAITING)
    ann, bob = (sign_up(app, f"{name}@example.com") for name in ("ann", "bob"))
    many, one = pictures(40), pictures(1, seed=5)
    with held_passes() as (began, gate):
        submit(app, bob, quote(app, bob, many), many)
        start_runner(app)
        until(lambda: (len(began), app.engine.queue_depth) == (STREAMS, WAITING))
        small = submit(app, ann, quote(app, ann, one, img_size=640), one)
        time.sleep(0.3)
        gate.set()
        wait(app, ann, small)
    assert began.index(640) > STREAMS


# What comes back ------------------------------------------------------------------------------------


def test_worked_example_of_a_late_vip(any_app: Application, olga: User, ann: User, start_runner: StartRunner) -> None:
    """Three pictures of 0.250 tokens, promised within 10, 20 and 30 s, and all done 25 s after the run was started.

    | | tokens |
    |---|---|
    | charged | 3 × 0.250 |
    | given back: half of the first and of the second | 2 × 0.125 |
    | paid | 0.500 |
    """
    plans.set_plan(any_app, olga, ann.account_id, Plan.VIP, reason="contract")
    files = pictures(3)
    quoted = quote(any_app, ann, files)
    assert quoted.total_mt == 750
    job = submit(any_app, ann, quoted, files)
    assert balance(any_app, ann) == (20_000, 750)
    _start_earlier(any_app, job, seconds=25)
    start_runner(any_app)
    view = wait(any_app, ann, job)
    assert statuses(view) == ["charged"] * 3
    assert (view.progress.charged_mt, view.refunded_mt) == (750, 250)
    assert balance(any_app, ann) == (19_500, 0)
    with any_app.db.read() as session:
        refunds = session.exec(select(Entry).where(Entry.kind == "refund").order_by(Entry.seq)).all()
    promised_s = {image.hold_id: 10 * (image.position + 1) for image in view.images}
    for entry in refunds:
        assert (entry.amount_mt, entry.actor) == (125, "rule:late")
        start, promise = entry.memo.split(", ")
        assert re.fullmatch(r"late: 2\d s after the run was started", start)
        assert promise == f"promised within {promised_s[entry.hold_id]} s by the plan vip"
    assert sorted(promised_s[entry.hold_id] for entry in refunds) == [10, 20]
    page = receipts.list_receipts(any_app, ann, ReceiptFilter())
    documents = [make_document(receipts.get_receipt(any_app, ann, line.receipt.id)) for line in page.lines]
    assert sorted(document["net_mt"] for document in documents) == [125, 125, 250]
    assert {refund["reason"] for document in documents for refund in document["refunds"]} == {
        entry.memo for entry in refunds
    }


def test_no_charge_without_its_credit(
    any_app: Application, olga: User, ann: User, start_runner: StartRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are one transaction: where the credit cannot be written, nothing is charged and no result is stored."""

    def fail(*_arguments: Any, **_named: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(run_image, "refund_capture", fail)
    plans.set_plan(any_app, olga, ann.account_id, Plan.VIP, reason="contract")
    files = pictures(1)
    job = submit(any_app, ann, quote(any_app, ann, files), files)
    _start_earlier(any_app, job, seconds=25)
    start_runner(any_app)
    assert statuses(wait(any_app, ann, job)) == ["failed"]
    assert balance(any_app, ann) == (20_000, 0)
    with any_app.db.read() as session:
        assert not session.exec(select(Result)).all()


def test_what_is_promised_to_vips_is_not_promised_to_others(
    any_app: Application, olga: User, ann: User, start_runner: StartRunner
) -> None:
    """The same delay, the standard plan when the run was started: paid in full, whatever the plan is by then."""
    files = pictures(1)
    job = submit(any_app, ann, quote(any_app, ann, files), files)
    _start_earlier(any_app, job, seconds=25)
    plans.set_plan(any_app, olga, ann.account_id, Plan.VIP, reason="contract")
    start_runner(any_app)
    assert wait(any_app, ann, job).refunded_mt == 0
    assert balance(any_app, ann) == (19_750, 0)


def test_a_vip_in_time_pays_in_full(any_app: Application, olga: User, ann: User, start_runner: StartRunner) -> None:
    """No delay, no credit."""
    plans.set_plan(any_app, olga, ann.account_id, Plan.VIP, reason="contract")
    start_runner(any_app)
    files = pictures(2)
    assert wait(any_app, ann, submit(any_app, ann, quote(any_app, ann, files), files)).refunded_mt == 0
    assert balance(any_app, ann) == (19_500, 0)


def _start_earlier(app: Application, job: Job, *, seconds: int) -> None:
    """Let a run have been started so long ago."""
    with app.db.write() as session:
        stored = session.get_one(Job, job.id)
        stored.created_at -= timedelta(seconds=seconds)
        session.add(stored)
