"""Many threads spending one account; and a naive deduction that the same harness convicts."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from core.db import Database
from core.errors import ChargeKeyTakenError, InsufficientTokensError
from core.ledger import ledger
from core.ledger.verify import verify_ledger

THREADS = 16
ATTEMPTS = 640
AFFORDABLE = 200
PRICE_MT = 1000

Spend = Callable[[Database, str, str], bool]


def spend_through_the_ledger(db: Database, account_id: str, key: str) -> bool:
    """Hold and capture, as a run does."""
    try:
        with db.write() as session:
            hold = ledger.place_hold(session, account_id, PRICE_MT, charge_key=key, lease_s=60, actor="test")
    except InsufficientTokensError:
        return False
    with db.write() as session:
        ledger.capture_hold(session, hold.id, PRICE_MT, actor="test")
    return True


def spend_naively(db: Database, account_id: str, _key: str) -> bool:
    """What must not be done: read the balance, decide, then write the difference."""
    with db.read() as session:
        posted_mt = ledger.get_balance(session, account_id).posted_mt
    if posted_mt < PRICE_MT:
        return False
    time.sleep(0.001)  # whatever a program does between looking and writing
    with db.write() as session:
        session.connection().execute(
            text("UPDATE account SET posted_mt = :left WHERE id = :id"),
            {"left": posted_mt - PRICE_MT, "id": account_id},
        )
    return True


def race(db: Database, spend: Spend) -> tuple[int, int, str]:
    """640 attempts by 16 threads on an account for 200; how many succeeded, what is left, whose it is."""
    with db.write() as session:
        account_id = ledger.open_account(session, "Ann").id
        ledger.post_top_up(session, account_id, AFFORDABLE * PRICE_MT, source="house:test", actor="test")
    barrier = threading.Barrier(THREADS)

    def client(number: int) -> int:
        barrier.wait()
        return sum(spend(db, account_id, f"{number}-{index}") for index in range(ATTEMPTS // THREADS))

    with ThreadPoolExecutor(THREADS) as clients:
        successes = sum(clients.map(client, range(THREADS)))
    with db.read() as session:
        return successes, ledger.get_balance(session, account_id).posted_mt, account_id


def test_exactly_what_is_affordable_succeeds(db: Database) -> None:
    """16 threads, 640 attempts, money for 200: exactly 200 succeed, nothing is left, nothing is held."""
    successes, posted_mt, account_id = race(db, spend_through_the_ledger)
    assert (successes, posted_mt) == (AFFORDABLE, 0)
    with db.read() as session:
        assert ledger.get_balance(session, account_id).held_mt == 0
        outcome = verify_ledger(session)
    assert outcome.ok, outcome.problems
    assert outcome.entries == 1 + 2 * AFFORDABLE


def test_negative_control_naive_deduction_oversells(db: Database) -> None:
    """The same harness convicts read-then-write: more succeed than were paid for, and the check says so."""
    successes, posted_mt, _account_id = race(db, spend_naively)
    assert successes > AFFORDABLE
    assert successes * PRICE_MT > AFFORDABLE * PRICE_MT - posted_mt
    with db.read() as session:
        assert not verify_ledger(session).ok


def test_same_work_is_held_once(db: Database) -> None:
    """16 threads that hold the same charge key at once: one hold."""
    with db.write() as session:
        account_id = ledger.open_account(session, "Ann").id
        ledger.post_top_up(session, account_id, 100_000, source="house:test", actor="test")
    barrier = threading.Barrier(THREADS)

    def client(_number: int) -> bool:
        barrier.wait()
        try:
            with db.write() as session:
                ledger.place_hold(session, account_id, PRICE_MT, charge_key="same", lease_s=60, actor="test")
        except ChargeKeyTakenError:
            return False
        return True

    with ThreadPoolExecutor(THREADS) as clients:
        assert sum(clients.map(client, range(THREADS))) == 1
    with db.read() as session:
        assert ledger.get_balance(session, account_id).held_mt == PRICE_MT


def test_a_hold_ends_once_under_a_race(db: Database) -> None:
    """Capture and release racing on each of 30 holds: each ends exactly once and the sum is right."""
    with db.write() as session:
        account_id = ledger.open_account(session, "Ann").id
        ledger.post_top_up(session, account_id, 30_000, source="house:test", actor="test")
        hold_ids = [
            ledger.place_hold(session, account_id, 1000, charge_key=f"{n}", lease_s=60, actor="test").id
            for n in range(30)
        ]
    barrier = threading.Barrier(2)

    def end_all(end: Callable[..., object]) -> int:
        barrier.wait()
        ended = 0
        for hold_id in hold_ids:
            try:
                with db.write() as session:
                    end(session, hold_id)
                ended += 1
            except ledger.HoldEndedError:
                pass
        return ended

    with ThreadPoolExecutor(2) as threads:
        captured, released = threads.map(
            end_all,
            [
                lambda s, h: ledger.capture_hold(s, h, 1000, actor="test"),
                lambda s, h: ledger.release_hold(s, h, actor="test"),
            ],
        )
    assert captured + released == 30
    with db.read() as session:
        balance = ledger.get_balance(session, account_id)
        assert (balance.posted_mt, balance.held_mt) == (30_000 - captured * 1000, 0)
        assert verify_ledger(session).ok


def test_batches_in_any_order_do_not_deadlock(db: Database) -> None:
    """Batches of the same pictures in different orders, and captures beside them, all come to an end."""
    seed = 5
    print(f"seed {seed}")  # noqa: T201  # pytest shows it when the test fails
    with db.write() as session:
        account_id = ledger.open_account(session, "Ann").id
        ledger.post_top_up(session, account_id, 10_000_000, source="house:test", actor="test")
    keys = [f"picture-{n}" for n in range(12)]

    def client(number: int) -> None:
        draw = random.Random(seed * 100 + number)
        for _ in range(15):
            held = []
            with db.write() as session:
                for key in draw.sample(keys, len(keys)):
                    try:
                        held.append(
                            ledger.place_hold(session, account_id, 10, charge_key=key, lease_s=60, actor="test").id
                        )
                    except ChargeKeyTakenError:
                        pass
            for hold_id in held:
                with db.write() as session:
                    ledger.release_hold(session, hold_id, actor="test")

    with ThreadPoolExecutor(6) as clients:
        for done in [clients.submit(client, number) for number in range(6)]:
            done.result(timeout=120)
    with db.read() as session:
        assert ledger.get_balance(session, account_id).held_mt == 0
        assert verify_ledger(session).ok


@pytest.mark.soak
def test_exactly_what_is_affordable_succeeds_twenty_times(db: Database) -> None:
    """The same race twenty times over: no interleaving sells more than there is."""
    for _round in range(20):
        successes, posted_mt, _account_id = race(db, spend_through_the_ledger)
        assert (successes, posted_mt) == (AFFORDABLE, 0)
