"""One writer and shared commits on SQLite: who is told what, when, and in which order."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from sqlmodel import Session

from core import group_commit
from core.config import ROOT
from core.db import Database
from core.group_commit import GROUP_MEMBERS_MAX, GroupCommitError, GroupWriter

THREADS = 16
PATIENCE_S = 60


class Bench:
    """A table of names, and a writer that can be kept busy until everybody waits."""

    def __init__(self, db: Database, threads: ThreadPoolExecutor) -> None:
        self.db, self.threads = db, threads
        self.commits = 0
        assert isinstance(db._group_writer, GroupWriter)
        self.writer = db._group_writer
        with db.write() as session:
            session.connection().execute(text("CREATE TABLE note (name TEXT)"))
        event.listen(db.engine, "commit", self._count)

    def _count(self, _connection: object) -> None:
        self.commits += 1

    def write(self, name: str) -> None:
        """One transaction."""
        with self.db.write() as session:
            add(session, name)

    def stored(self) -> list[str]:
        """What is in the database, in the order in which it came."""
        with self.db.read() as session:
            return [row[0] for row in session.connection().execute(text("SELECT name FROM note ORDER BY rowid"))]

    def behind_each_other(self, *works: Callable[[], None]) -> list[Future[None]]:
        """Let the works queue up, in this order, behind a transaction that does nothing; they form one group."""
        futures = []
        with self.db.write() as session:
            add(session, "first")
            for number, work in enumerate(works, start=1):
                futures.append(self.threads.submit(work))
                self.wait_for_queue(number)
        return futures

    def wait_for_queue(self, length: int) -> None:
        """Until so many wait for their turn."""
        until = time.monotonic() + PATIENCE_S
        while len(self.writer._waiting) != length:
            assert time.monotonic() < until, "nobody queues up"
            time.sleep(0.001)


def add(session: Session, name: str) -> None:
    """A row."""
    session.connection().execute(text("INSERT INTO note VALUES (:name)"), {"name": name})


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """An empty table in a new SQLite file, and threads."""
    db = Database(f"sqlite:///{tmp_path / 'x.db'}")
    with ThreadPoolExecutor(GROUP_MEMBERS_MAX + THREADS) as threads:
        yield Bench(db, threads)
    db.close()


def test_all_who_wait_share_one_commit(bench: Bench) -> None:
    """16 transactions behind another one: seventeen stored, one COMMIT, and nobody returned before it."""
    returned_before: list[int] = []
    futures: list[Future[None]] = []
    event.listen(bench.db.engine, "commit", lambda _: returned_before.append(sum(one.done() for one in futures)))
    with bench.db.write() as session:
        add(session, "first")
        for number in range(THREADS):
            futures.append(bench.threads.submit(bench.write, f"{number}"))
            bench.wait_for_queue(number + 1)
    for future in futures:
        future.result(PATIENCE_S)
    assert bench.commits == 1
    assert returned_before == [0]
    assert bench.stored() == ["first", *map(str, range(THREADS))]


def test_sixteen_busy_threads_need_fewer_commits_than_transactions(bench: Bench) -> None:
    """320 transactions of 16 threads, arranged by nobody: all stored, by fewer commits."""

    def client(number: int) -> None:
        for index in range(20):
            bench.write(f"{number}-{index}")

    list(bench.threads.map(client, range(THREADS)))
    assert len(set(bench.stored())) == THREADS * 20
    assert 0 < bench.commits < THREADS * 20


def test_a_group_has_an_end(bench: Bench) -> None:
    """One more than a group takes: two commits, so that nobody waits for an endless group."""
    works = [lambda number=number: bench.write(f"{number}") for number in range(GROUP_MEMBERS_MAX)]
    for future in bench.behind_each_other(*works):
        future.result(PATIENCE_S)
    assert bench.commits == 2
    assert len(bench.stored()) == GROUP_MEMBERS_MAX + 1


def test_a_failing_member_takes_nobody_along(bench: Bench) -> None:
    """The fourth of eight raises after its insert: its row is gone, seven are stored, in one commit."""

    def fail() -> None:
        with bench.db.write() as session:
            add(session, "3")
            raise RuntimeError("afterwards")

    works: list[Callable[[], None]] = [lambda number=number: bench.write(f"{number}") for number in range(8)]
    works[3] = fail
    futures = bench.behind_each_other(*works)
    with pytest.raises(RuntimeError, match="afterwards"):
        futures[3].result(PATIENCE_S)
    for future in (*futures[:3], *futures[4:]):
        future.result(PATIENCE_S)
    assert bench.stored() == ["first", "0", "1", "2", "4", "5", "6", "7"]
    assert bench.commits == 1


def test_a_failing_first_member_leaves_the_turn_to_the_others(bench: Bench) -> None:
    """The one that began the group raises: nothing of it is stored, the others are."""
    futures: list[Future[None]] = []
    with pytest.raises(RuntimeError, match="afterwards"), bench.db.write() as session:  # noqa: PT012  # the block is the test
        add(session, "first")
        futures.append(bench.threads.submit(bench.write, "a"))
        bench.wait_for_queue(1)
        raise RuntimeError("afterwards")
    futures[0].result(PATIENCE_S)
    assert bench.stored() == ["a"]


def test_a_failing_commit_is_told_to_every_member(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """COMMIT fails once, on a full disk, say: all five hear it, nothing is stored, the next transaction works."""
    with monkeypatch.context() as patch:

        def fail(_connection: object) -> None:
            raise OperationalError("COMMIT", None, sqlite3.OperationalError("database or disk is full"))

        patch.setattr(bench.db.engine.dialect, "do_commit", fail)
        futures: list[Future[None]] = []
        with pytest.raises(GroupCommitError), bench.db.write() as session:  # noqa: PT012  # the block is the test
            add(session, "first")
            for number in range(4):
                futures.append(bench.threads.submit(bench.write, f"{number}"))
                bench.wait_for_queue(number + 1)
            futures.append(bench.threads.submit(bench.write, "last"))
            bench.wait_for_queue(5)
        for future in futures:
            with pytest.raises(GroupCommitError, match="try again"):
                future.result(PATIENCE_S)
    assert bench.stored() == []
    bench.write("later")
    assert bench.stored() == ["later"]


def test_a_transaction_that_sqlite_gave_up_is_told_to_every_member(bench: Bench) -> None:
    """SQLite rolls everything back under the third of five: its savepoint is gone, and no one believes to be stored."""

    def lose() -> None:
        with bench.db.write() as session:
            add(session, "lost")
            # What SQLite does by itself after some errors, such as a full disk.
            driver = session.connection().connection.dbapi_connection
            assert driver is not None
            driver.execute("ROLLBACK")

    works: list[Callable[[], None]] = [lambda number=number: bench.write(f"{number}") for number in range(2)]
    futures: list[Future[None]] = []
    with pytest.raises(GroupCommitError), bench.db.write() as session:  # noqa: PT012  # the block is the test
        add(session, "first")
        for number, work in enumerate([*works, lose], start=1):
            futures.append(bench.threads.submit(work))
            bench.wait_for_queue(number)
    for future in futures[:2]:
        with pytest.raises(GroupCommitError):
            future.result(PATIENCE_S)
    with pytest.raises(OperationalError):
        futures[2].result(PATIENCE_S)
    assert bench.stored() == []
    bench.write("later")
    assert bench.stored() == ["later"]


def test_first_come_first_served(bench: Bench) -> None:
    """Thirty that queue up one after the other are served in this order."""
    names = [f"{number}" for number in range(30)]
    for future in bench.behind_each_other(*(lambda name=name: bench.write(name) for name in names)):
        future.result(PATIENCE_S)
    assert bench.stored() == ["first", *names]


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also where the tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# Not in a worker of a parallel run, which a Ctrl-C may end.
@pytest.mark.alone
@pytest.mark.usefixtures("ctrl_c")
def test_interrupted_in_the_queue(bench: Bench) -> None:
    """Ctrl-C while waiting: out of the queue, nothing stored of it, and those before and behind go on."""
    holding, interrupted = threading.Event(), threading.Event()

    def hold() -> None:
        with bench.db.write() as session:
            add(session, "before")
            holding.set()
            assert interrupted.wait(PATIENCE_S)

    def press() -> None:
        bench.wait_for_queue(1)
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)

    before = bench.threads.submit(hold)
    assert holding.wait(PATIENCE_S)
    bench.threads.submit(press)
    with pytest.raises(KeyboardInterrupt):
        bench.write("interrupted")
    bench.wait_for_queue(0)
    behind = bench.threads.submit(bench.write, "behind")
    bench.wait_for_queue(1)
    interrupted.set()
    for future in (before, behind):
        future.result(PATIENCE_S)
    bench.write("later")
    assert bench.stored() == ["before", "behind", "later"]


class InterruptedAtTheTurn(threading.Event):
    """Ctrl-C strikes in the very moment in which the turn comes."""

    def wait(self, timeout: float | None = None) -> bool:
        super().wait(timeout)
        raise KeyboardInterrupt


@pytest.mark.parametrize("behind", [0, 1])
def test_interrupted_when_the_turn_comes(bench: Bench, monkeypatch: pytest.MonkeyPatch, behind: int) -> None:
    """The turn that was handed over just then goes on to the next, and the group that it came from is committed."""

    def be_interrupted() -> None:
        with pytest.raises(KeyboardInterrupt):
            bench.write("interrupted")

    with bench.db.write() as session:
        add(session, "before")
        with monkeypatch.context() as patch:
            patch.setattr(group_commit, "threading", SimpleNamespace(Event=InterruptedAtTheTurn))
            futures = [bench.threads.submit(be_interrupted)]
            bench.wait_for_queue(1)
        for number in range(behind):
            futures.append(bench.threads.submit(bench.write, f"behind {number}"))
            bench.wait_for_queue(2 + number)
    for future in futures:
        future.result(PATIENCE_S)
    bench.write("later")
    assert bench.stored() == ["before", *(f"behind {number}" for number in range(behind)), "later"]


WRITER = """
import sys, time
from pathlib import Path
from sqlalchemy import text
from core.db import Database

url, name, start, count = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
db = Database(url)
Path(f"{start}.{name}").touch()
while not start.exists():
    time.sleep(0.001)
for _ in range(count):
    with db.write() as session:
        session.connection().execute(text("INSERT INTO note VALUES (:name)"), {"name": name})
"""


def test_two_processes_take_turns(bench: Bench, tmp_path: Path) -> None:
    """Two processes that write without a pause: no error, nothing lost, and neither waits until the other is done."""
    count = 300
    start = tmp_path / "start"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, bench.db.url, name, str(start), str(count)],
            cwd=ROOT, stderr=subprocess.PIPE, text=True,
        )
        for name in ("a", "b")
    ]  # fmt: skip
    until = time.monotonic() + PATIENCE_S
    while not all(Path(f"{start}.{name}").exists() for name in ("a", "b")):
        assert time.monotonic() < until, "the processes do not start"
        time.sleep(0.01)
    start.touch()
    for process in processes:
        _out, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, errors
        assert "locked" not in errors
    stored = bench.stored()
    assert sorted(stored) == ["a"] * count + ["b"] * count
    # Some 500 changes of 599 with the queue; a few dozen with the turn's lock alone, fewer than ten with SQLite's own.
    assert sum(one != other for one, other in pairwise(stored)) > count // 2
