"""Processes killed and servers stopped in mid-traffic: what was answered is stored, what was not can be asked again.

An immediate stop ends PostgreSQL as a crash does. Neither it nor a SIGKILL takes the operating system's cache along:
tried here is that nobody is answered before the commit and that every start finds its way back, not the disk.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError
from sqlmodel import col, func, select

from bench import postgres
from core.db import Database
from core.errors import VisionMeterError
from core.ledger import ledger
from core.ledger.tables import Account, Entry, Idempotency
from core.ledger.verify import verify_ledger
from tests.core.ledger.processes import context
from tests.core.ledger.traffic import (
    LEASE_S,
    SWEEP_INTERVAL_S,
    Journal,
    Operation,
    Record,
    perform,
    serve,
    sweep,
)

SEED = 20_261_126
KILLS, STOPS = 20, 10
ACCOUNTS, CLIENTS = 2, 4
# After every fifth kill nobody comes back before all leases ran out.
KILLS_UNTIL_QUIET = 5
PATIENCE_S = 60
# What a busy machine may take for a sweep, beyond the lease and the interval.
SLACK_S = 2.0
# Until the first answer after a server came back.
RECOVERY_S_MAX = 10.0
# What the ledger may refuse in this traffic; a conflict of keys, say, it may not.
REFUSALS = {"hold_ended", "insufficient_tokens", "refund_too_large"}
OWN_MEMOS = {"", "lease ran out"}


class Process:
    """Traffic from several clients and a keeper, in a process of its own."""

    def __init__(self, url: str, folder: Path, account_ids: list[str], name: str, *, hasty: bool = False) -> None:
        self.journal = Journal(folder / f"{name}.jsonl")
        until, self._until = context.Pipe(duplex=False)
        arguments = (url, self.journal.path, account_ids, name, SEED + int(name), CLIENTS, until, hasty)
        self._process = context.Process(target=serve, args=arguments, daemon=True)
        self._process.start()
        until.close()

    def wait_for_answers(self, count: int) -> None:
        """Until so many operations were answered in all."""
        deadline = time.monotonic() + PATIENCE_S
        while self.journal.count_answers() < count:
            assert time.monotonic() < deadline, self.journal.read()
            assert self._process.is_alive(), self.journal.read()
            time.sleep(0.005)

    def kill(self) -> None:
        """SIGKILL: no handler, no `finally`, nothing is tidied up."""
        self._process.kill()
        self._process.join()

    def stop(self) -> None:
        """Let the clients finish what they have in hand."""
        self._until.close()
        self._process.join(PATIENCE_S)
        assert self._process.exitcode == 0

    def read(self) -> Record:
        """What it wrote down."""
        return self.journal.read()

    def close(self) -> None:
        """End it, whatever happened."""
        self._process.kill()
        self.journal.close()


def open_accounts(db: Database) -> list[str]:
    """Accounts with something in them."""
    with db.write() as session:
        account_ids = [ledger.open_account(session, "Ann").id for _ in range(ACCOUNTS)]
        for account_id in account_ids:
            ledger.post_top_up(session, account_id, 100_000, source="house:test", actor="test")
    return account_ids


def require_each_once(db: Database, answered: Record) -> dict[str, int]:
    """What was answered is stored, with that answer, once; what was refused is not; gives the entries by memo.

    Of an operation in hand there is all or nothing.
    """
    with db.read() as session:
        counted = dict(session.exec(select(Entry.memo, func.count()).group_by(col(Entry.memo))).all())
        stored = dict(session.exec(select(Idempotency.key, Idempotency.response)).all())
        outcome = verify_ledger(session)
    assert outcome.ok, outcome.problems
    assert not answered.crashes
    for key, answer in answered.answers.items():
        assert stored.get(key) == answer, f"{answered.asked[key]} was answered {answer}"
        assert counted.get(key) == answered.asked[key].entries, answered.asked[key]
    for key, code in answered.refused.items():
        assert code in REFUSALS, answered.asked[key]
        assert key not in stored, answered.asked[key]
        assert key not in counted, answered.asked[key]
    for asked in answered.in_hand:
        assert counted.get(asked.key, 0) == (asked.entries if asked.key in stored else 0), asked
    assert None not in stored.values()
    return counted


def ask_again(db: Database, asked: Operation, record: Record) -> None:
    """The client's retry: one answer, however often; into the record."""
    try:
        answer, repeated = perform(db, asked)
    except VisionMeterError as refusal:
        record.refused[asked.key] = refusal.code
        return
    assert perform(db, asked) == (answer, True)
    record.answers[asked.key] = answer
    record.repeated |= {asked.key} if repeated else set()


def held_mt(db: Database) -> int:
    """What all accounts hold."""
    with db.read() as session:
        return session.exec(select(func.sum(Account.held_mt))).one()


def wait_until_nothing_is_held(db: Database, last_lease_at: float) -> float:
    """Sweep as a keeper does; gives the seconds since the last lease was given, which are few enough."""
    while held_mt(db):
        time.sleep(SWEEP_INTERVAL_S)
        sweep(db)
        assert time.monotonic() - last_lease_at < PATIENCE_S
    took_s = time.monotonic() - last_lease_at
    assert took_s <= LEASE_S + SWEEP_INTERVAL_S + SLACK_S
    return took_s


def kill_in_mid_traffic(url: str, folder: Path, kills: int, *, hasty: bool = False) -> None:
    """Start traffic, kill it, look, ask again what was in hand, and start the next."""
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when the test fails
    draw = random.Random(SEED)
    db = Database(url)
    db.migrate()
    account_ids = open_accounts(db)
    db.close()
    total, seen = Record(), Counter[str]()
    took_s: list[float] = []
    for number in range(kills):
        process = Process(url, folder, account_ids, str(number), hasty=hasty)
        try:
            process.wait_for_answers(draw.randint(1, 120))
            time.sleep(draw.random() * 0.01)
            process.kill()
        finally:
            process.close()
        lease_at = time.monotonic()
        life = process.read()
        assert not life.failures, "an error that no client should have seen"
        total.add(life)
        # The first to open the database after the kill, as a server that is started again.
        db = Database(url)
        require_each_once(db, total)
        in_hand = life.in_hand
        for asked in in_hand:
            ask_again(db, asked, total)
            lease_at = time.monotonic()
        assert total.in_hand == []
        if number % KILLS_UNTIL_QUIET == KILLS_UNTIL_QUIET - 1:
            seen += Counter(quiet_with_holds=held_mt(db) > 0)
            took_s.append(wait_until_nothing_is_held(db, lease_at))
        counted = require_each_once(db, total)
        assert counted.keys() <= total.asked.keys() | OWN_MEMOS
        seen += Counter(kills_in_hand=bool(in_hand), in_hand=len(in_hand))
        seen += Counter(stored_unanswered=sum(asked.key in total.repeated for asked in in_hand))
        db.close()
    kinds = Counter(total.asked[key].kind for key in total.answers)
    print(f"{kills} kills, {dict(seen)}, nothing held after {max(took_s):.2f} s at most, {dict(kinds)}")  # noqa: T201  # see above
    assert seen["kills_in_hand"] > kills // 2, "hardly anything was under way"
    assert seen["quiet_with_holds"] > 0
    assert len(kinds) == 7, "some operation was never answered"
    with Database(url).read() as session:
        outcome = verify_ledger(session)
    assert outcome.unsealed < outcome.entries // 2


def test_twenty_kills_in_mid_traffic(database_url: str, tmp_path: Path) -> None:
    """20 SIGKILLs: nothing answered is lost, what was in hand has one effect when asked again, all holds come back."""
    kill_in_mid_traffic(database_url, tmp_path, KILLS)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_five_hundred_kills_in_mid_traffic(database_url: str, tmp_path: Path) -> None:
    """The same, 500 times."""
    kill_in_mid_traffic(database_url, tmp_path, 25 * KILLS)


def test_a_kill_does_not_disturb_the_neighbour(database_url: str, tmp_path: Path) -> None:
    """10 SIGKILLs beside a process on the same accounts: that one meets no error and goes on."""
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when the test fails
    draw = random.Random(SEED)
    db = Database(database_url)
    db.migrate()
    account_ids = open_accounts(db)
    neighbour = Process(database_url, tmp_path, account_ids, "0")
    total = Record()
    try:
        for number in range(1, 11):
            victim = Process(database_url, tmp_path, account_ids, str(number))
            try:
                victim.wait_for_answers(draw.randint(1, 60))
                victim.kill()
            finally:
                victim.close()
            total.add(victim.read())
            require_each_once(db, total)
            for asked in total.in_hand:
                ask_again(db, asked, total)
            neighbour.wait_for_answers(neighbour.journal.count_answers() + 2 * CLIENTS)
        neighbour.stop()
    finally:
        neighbour.close()
    total.add(neighbour.read())
    assert not total.failures
    assert total.in_hand == []
    assert require_each_once(db, total).keys() <= total.asked.keys() | OWN_MEMOS
    wait_until_nothing_is_held(db, time.monotonic())
    require_each_once(db, total)
    db.close()


def test_negative_control_an_answer_before_the_commit_is_lost(database_url: str, tmp_path: Path) -> None:
    """The same harness convicts a program that answers first and commits then."""
    with pytest.raises(AssertionError, match="was answered"):
        kill_in_mid_traffic(database_url, tmp_path, KILLS, hasty=True)


# A server of our own -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[postgres.Cluster]:
    """A durable PostgreSQL server that may be stopped."""
    with postgres.own_cluster() as cluster:
        if cluster is None:
            pytest.skip("no PostgreSQL programs (initdb, pg_ctl) that may be started here")
        yield cluster


@pytest.fixture
def stoppable_db(cluster: postgres.Cluster) -> Iterator[Database]:
    """A migrated database on it."""
    cluster.start(postgres.DURABLE)
    db = Database(postgres.add_database(cluster.url, "crash"))
    db.migrate()
    yield db
    db.close()
    postgres.drop_database(cluster.url, "crash")
    cluster.stop()


def stop_in_mid_traffic(
    cluster: postgres.Cluster, db: Database, folder: Path, stops: int, settings: Mapping[str, str] = postgres.DURABLE
) -> None:
    """One process lives through all stops: its clients ask again with their keys, over the same pool."""
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when the test fails
    draw = random.Random(SEED)
    process = Process(db.url, folder, open_accounts(db), "0")
    recovery_s, stops_heard = [], 0
    try:
        for _ in range(stops):
            process.wait_for_answers(process.journal.count_answers() + draw.randint(1, 60))
            time.sleep(draw.random() * 0.01)
            failures = len(process.read().failures)
            cluster.stop("immediate")
            answered = process.read()
            cluster.start(settings)
            up_at = time.monotonic()
            # Whatever is asked meanwhile, all that was answered before the stop is there.
            fresh = Database(db.url)
            require_each_once(fresh, answered)
            fresh.close()
            process.wait_for_answers(len(answered.answers) + 1)
            recovery_s.append(time.monotonic() - up_at)
            stops_heard += len(process.read().failures) > failures
        process.wait_for_answers(process.journal.count_answers() + CLIENTS)
        process.stop()
    finally:
        process.close()
    lease_at = time.monotonic()
    total = process.read()
    assert total.in_hand == []
    counted = require_each_once(db, total)
    assert counted.keys() <= total.asked.keys() | OWN_MEMOS
    assert held_mt(db) > 0
    took_s = wait_until_nothing_is_held(db, lease_at)
    require_each_once(db, total)
    print(  # noqa: T201  # pytest shows it when the test fails
        f"{stops} stops, {len(total.answers)} answers, {len(total.failures)} failures, {len(total.repeated)} stored "
        f"unanswered, back after {max(recovery_s):.2f} s at most, nothing held after {took_s:.2f} s"
    )
    assert stops_heard == stops, "a stop that no client noticed"
    assert max(recovery_s) < RECOVERY_S_MAX


def test_ten_immediate_stops_of_postgresql(cluster: postgres.Cluster, stoppable_db: Database, tmp_path: Path) -> None:
    """10 crashes of the server: no answer is lost, each key has one effect, and the pool finds the server again."""
    stop_in_mid_traffic(cluster, stoppable_db, tmp_path, STOPS)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_immediate_stops_of_postgresql(
    cluster: postgres.Cluster, stoppable_db: Database, tmp_path: Path
) -> None:
    """The same, 100 times."""
    stop_in_mid_traffic(cluster, stoppable_db, tmp_path, 10 * STOPS)


def test_negative_control_a_server_that_answers_before_it_has_written_loses(
    cluster: postgres.Cluster, stoppable_db: Database, tmp_path: Path
) -> None:
    """The same harness convicts a server that does not wait for its log."""
    hasty = {"fsync": "on", "synchronous_commit": "off", "wal_writer_delay": "10s"}
    cluster.stop()
    cluster.start(hasty)
    with pytest.raises(AssertionError, match="was answered"):
        stop_in_mid_traffic(cluster, stoppable_db, tmp_path, STOPS, hasty)


@pytest.mark.parametrize(("unasked_idle_s", "failures"), [(0.0, 0), (600.0, 1)], ids=["idle", "busy"])
def test_a_pool_finds_the_server_again(
    cluster: postgres.Cluster,
    stoppable_db: Database,
    monkeypatch: pytest.MonkeyPatch,
    unasked_idle_s: float,
    failures: int,
) -> None:
    """Eight pooled connections and a new server: none that idled fails; of busy ones the first, and renews them all."""
    monkeypatch.setattr("core.db.UNASKED_IDLE_S", unasked_idle_s)
    with ExitStack() as open_at_once:
        for _ in range(8):
            open_at_once.enter_context(stoppable_db.read()).exec(select(Account)).all()
    cluster.stop("immediate")
    cluster.start(postgres.DURABLE)
    failed = 0
    for _ in range(8):
        try:
            open_accounts(stoppable_db)
        except OperationalError:
            failed += 1
    assert failed == failures
    with stoppable_db.read() as session:
        assert len(session.exec(select(Account)).all()) == (8 - failed) * ACCOUNTS
        assert verify_ledger(session).ok
