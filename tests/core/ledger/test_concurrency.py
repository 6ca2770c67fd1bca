"""Many clients on one account, in threads and in processes; and naive versions that the same harness convicts."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event
from sqlmodel import col, func, select

from core.db import Database
from core.errors import ChargeKeyTakenError, InsufficientTokensError
from core.ledger import corrections, ledger
from core.ledger.tables import Entry
from core.ledger.verify import verify_ledger
from tests.core.ledger import clients
from tests.core.ledger.clients import CONFLICT, ENDS, OPERATIONS, PRICE_MT
from tests.core.ledger.racers import Racers

CLIENTS = 16
ATTEMPTS = 640
AFFORDABLE = 200
ROUNDS = 5
RACES = 200
SEED = 20_261_125


@pytest.fixture(params=[(1, 16), (4, 4)], ids=["16 threads", "4 processes"])
def racers(db: Database, request: pytest.FixtureRequest) -> Iterator[Racers]:
    """Sixteen clients: the threads of one process, or four threads in each of four processes."""
    processes, threads = request.param
    racers = Racers(db.url, processes=processes, threads=threads)
    yield racers
    racers.close()


def open_account(db: Database, amount_mt: int) -> str:
    """A new account with an amount in it."""
    with db.write() as session:
        account_id = ledger.open_account(session, "Ann").id
        ledger.post_top_up(session, account_id, amount_mt, source="house:test", actor="test")
    return account_id


def count_entries(db: Database, account_id: str) -> Counter[str]:
    """How many entries stand under each memo."""
    query = select(Entry.memo, func.count()).where(Entry.account_id == account_id).group_by(col(Entry.memo))
    with db.read() as session:
        return Counter(dict(session.exec(query).all()))


# One balance --------------------------------------------------------------------------------------


def sell_out(db: Database, racers: Racers) -> None:
    """640 attempts on an account for 200: exactly 200 succeed, nothing is left, nothing is held."""
    account_id = open_account(db, AFFORDABLE * PRICE_MT)
    assert sum(racers.race(clients.spend, account_id, ATTEMPTS // CLIENTS)) == AFFORDABLE
    with db.read() as session:
        balance = ledger.get_balance(session, account_id)
        outcome = verify_ledger(session, account_id)
    assert (balance.posted_mt, balance.held_mt) == (0, 0)
    assert outcome.ok, outcome.problems
    assert outcome.entries == 1 + 2 * AFFORDABLE


def test_exactly_what_is_affordable_succeeds_five_times(db: Database, racers: Racers) -> None:
    """Five times over, no interleaving sells more or less than there is; then the whole ledger verifies."""
    for _round in range(ROUNDS):
        sell_out(db, racers)
    with db.read() as session:
        assert verify_ledger(session).ok


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_exactly_what_is_affordable_succeeds_two_hundred_times(db: Database, racers: Racers) -> None:
    """The same, two hundred times over."""
    for _round in range(40 * ROUNDS):
        sell_out(db, racers)


def test_negative_control_naive_deduction_oversells(db: Database, racers: Racers) -> None:
    """The same harness convicts read-then-write: more succeed than were paid for, and the check says so."""
    account_id = open_account(db, AFFORDABLE * PRICE_MT)
    successes = sum(racers.race(clients.spend_naively, account_id, ATTEMPTS // CLIENTS))
    assert successes > AFFORDABLE
    with db.read() as session:
        left_mt = ledger.get_balance(session, account_id).posted_mt
        assert successes * PRICE_MT > AFFORDABLE * PRICE_MT - left_mt
        assert not verify_ledger(session).ok


def test_a_refusal_names_its_own_reason(db: Database) -> None:
    """Tokens that come in just after an adjustment found too few do not turn its refusal into one of a cap."""
    account_id = open_account(db, 1)

    def top_up() -> None:
        with db.write() as session:
            ledger.post_top_up(session, account_id, 1000, source="house:test", actor="test")

    late = threading.Thread(target=top_up)
    me = threading.get_ident()

    def come_in(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if threading.get_ident() == me and "UPDATE account" in statement:
            late.start()
            late.join(0.5)  # or it waits for the end of the refused transaction

    event.listen(db.engine, "after_cursor_execute", come_in)
    with pytest.raises(InsufficientTokensError), db.write() as session:
        corrections.post_adjustment(session, account_id, -100, reason="why", actor="test")
    event.remove(db.engine, "after_cursor_execute", come_in)
    late.join()
    with db.read() as session:
        assert ledger.get_balance(session, account_id).posted_mt == 1001


def test_a_hold_may_be_the_first_thing_that_a_process_does(db: Database) -> None:
    """A process in which nothing has touched the models yet places a hold and captures it."""
    racers = Racers(db.url, processes=1, threads=1)
    try:
        assert racers.race(clients.spend, open_account(db, PRICE_MT), 1) == [1]
    finally:
        racers.close()


# The same work ------------------------------------------------------------------------------------


def test_same_work_is_held_once(db: Database, racers: Racers) -> None:
    """Fifty pieces of work, each held by everybody at the same moment: one hold each."""
    account_id = open_account(db, 10**6)
    works = [f"work {number}" for number in range(50)]
    assert sum(racers.race(clients.hold_same_work, account_id, works)) == len(works)
    with db.read() as session:
        assert ledger.get_balance(session, account_id).held_mt == len(works) * PRICE_MT
        assert verify_ledger(session).ok


def test_negative_control_looking_before_holding_holds_twice(db: Database, racers: Racers) -> None:
    """Without the key that is unique, the same work is held more than once."""
    account_id = open_account(db, 10**6)
    works = [f"work {number}." for number in range(20)]
    assert sum(racers.race(clients.hold_same_work_naively, account_id, works)) > len(works)


# One idempotency key ------------------------------------------------------------------------------


def test_one_key_has_one_effect_and_one_answer(db: Database, racers: Racers) -> None:
    """200 races for one key: one entry each; all who asked the same hear the same; all others hear of a conflict."""
    account_id = open_account(db, 10**6)
    with db.write() as session:
        hold_id = ledger.place_hold(session, account_id, PRICE_MT, charge_key="x", lease_s=60, actor="test").id
        ledger.capture_hold(session, hold_id, PRICE_MT, actor="test")
    kinds = list(OPERATIONS)
    asked = [(kinds[race % len(kinds)], f"key {race}") for race in range(RACES)]
    answers = racers.race(clients.ask_with_same_keys, account_id, hold_id, asked)
    otherwise_won = 0
    for race in range(RACES):
        heard: dict[bool, set[int | str]] = {False: set(), True: set()}
        for number in range(CLIENTS):
            heard[clients.asks_otherwise(race, number)].add(answers[number][race])
        same, otherwise = heard[False], heard[True]
        if same == {CONFLICT}:
            same, otherwise = otherwise, same
            otherwise_won += 1
        assert len(same) == 1
        assert same != {CONFLICT}
        assert otherwise == ({CONFLICT} if race % 2 else set())
    counted = count_entries(db, account_id)
    assert all(counted[key] == 1 for _operation, key in asked)
    with db.read() as session:
        assert verify_ledger(session).ok
    print(f"{otherwise_won} of {RACES // 2} contested keys went to the fewer")  # noqa: T201  # pytest shows it when the test fails


def test_negative_control_looking_before_acting_doubles(db: Database, racers: Racers) -> None:
    """Without the row that is unique, one key has several effects."""
    account_id = open_account(db, 1)
    keys = [f"key {number}" for number in range(20)]
    racers.race(clients.ask_naively, account_id, keys)
    counted = count_entries(db, account_id)
    assert sum(counted[key] for key in keys) > len(keys)


# The end of a hold --------------------------------------------------------------------------------


def test_a_hold_ends_once_under_a_race(db: Database, racers: Racers) -> None:
    """Capture, release and the sweeper after each of 200 holds at once: one of them ends it, and the sum is right."""
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when the test fails
    with db.write() as session:
        account_ids = [ledger.open_account(session, "Ann").id for _ in range(RACES)]
        holds = []
        for account_id in account_ids:
            ledger.post_top_up(session, account_id, PRICE_MT, source="house:test", actor="test")
            # Due at once: the sweeper may have it as well as its owner.
            hold = ledger.place_hold(session, account_id, PRICE_MT, charge_key="x", lease_s=0, actor="test")
            holds.append((account_id, hold.id))
    won = racers.race(clients.end_holds, holds, SEED)
    winners = [[number for number in range(CLIENTS) if won[number][race]] for race in range(RACES)]
    assert [len(found) for found in winners] == [1] * RACES
    ended_by = [ENDS[number % len(ENDS)] for (number,) in winners]
    with db.read() as session:
        left = [ledger.get_balance(session, account_id) for account_id in account_ids]
        outcome = verify_ledger(session)
    assert [balance.posted_mt for balance in left] == [0 if end == "capture" else PRICE_MT for end in ended_by]
    assert not any(balance.held_mt for balance in left)
    assert outcome.ok, outcome.problems
    assert outcome.entries == 3 * RACES
    # Else it was no race.
    assert set(ended_by) == set(ENDS), Counter(ended_by)


def test_batches_in_any_order_do_not_deadlock(db: Database) -> None:
    """Batches of the same pictures in different orders, and captures beside them, all come to an end."""
    seed = 5
    print(f"seed {seed}")  # noqa: T201  # pytest shows it when the test fails
    account_id = open_account(db, 10_000_000)
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

    with ThreadPoolExecutor(6) as threads:
        for done in [threads.submit(client, number) for number in range(6)]:
            done.result(timeout=120)
    with db.read() as session:
        assert ledger.get_balance(session, account_id).held_mt == 0
        assert verify_ledger(session).ok
