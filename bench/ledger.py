"""What an operation of the ledger costs against a bare `UPDATE` and `COMMIT`, and what many clients wait for it.

Both write to the same disk with the same settings: SQLite in WAL mode with synchronous=FULL, PostgreSQL with fsync and
synchronous_commit on. The bare statement, through the driver alone, is the least that a balance in a database costs;
a hold also inserts its own row and a ledger entry, checks caps, and goes through SQLAlchemy. With many clients the
baseline on SQLite is the same ledger without group commit: writers take turns and each commits for himself.

    python bench/ledger.py [--rounds 9] [--commits 200] [--clients 16] [--postgres-url URL]

PostgreSQL runs in a throw-away cluster on the same disk, or wherever the URL says; without either only SQLite is
measured. `--folder` names another disk than that of temporary files.
"""

from __future__ import annotations

import argparse
import os
import platform
import secrets
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psycopg
from sqlmodel import Session

from bench import postgres
from core.db import Database
from core.ledger import ledger

P99_MS_TARGET = 200
WARM_UP_COMMITS = 100
BALANCE_MT = 10**12
BARE_UPDATE = "UPDATE bare SET held = held + 1 WHERE id = 1 AND posted - held >= 1"
BARE_TABLE = (
    "CREATE TABLE bare (id INTEGER PRIMARY KEY, posted BIGINT NOT NULL, held BIGINT NOT NULL)",
    f"INSERT INTO bare VALUES (1, {BALANCE_MT}, 0)",
)


class SingleCommitDatabase(Database):
    """The same SQLite without group commit: the writers of the process take turns on a lock, one commit each."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._turn = threading.Lock()

    @contextmanager
    def write(self) -> Iterator[Session]:
        with (
            self._turn,
            self.engine.connect().execution_options(vm_write=True) as connection,
            Session(connection, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session


@dataclass
class Clients:
    """What many clients saw: operations a second of each round, and every operation's milliseconds."""

    rates: list[float] = field(default_factory=list)
    waits_ms: list[float] = field(default_factory=list)


# One thread ---------------------------------------------------------------------------------------


def bare_sqlite(path: Path) -> Callable[[int], None]:
    """Makes commits of one bare UPDATE through sqlite3."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    for statement in BARE_TABLE:
        connection.execute(statement)

    def run(commits: int) -> None:
        for _ in range(commits):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(BARE_UPDATE)
            connection.execute("COMMIT")

    return run


def bare_postgres(url: str) -> Callable[[int], None]:
    """The same through psycopg."""
    connection = psycopg.connect(url.replace("+psycopg", "", 1))
    for statement in BARE_TABLE:
        connection.execute(statement)
    connection.commit()

    def run(commits: int) -> None:
        for _ in range(commits):
            connection.execute(BARE_UPDATE)
            connection.commit()

    return run


def place(db: Database, account_id: str) -> str:
    """One hold in a transaction of its own; gives its id."""
    key = secrets.token_hex(32)
    with db.write() as session:
        return ledger.place_hold(session, account_id, 600, charge_key=key, lease_s=600, actor="bench").id


def capture(db: Database, hold_id: str) -> None:
    """Its end, in a transaction of its own."""
    with db.write() as session:
        ledger.capture_hold(session, hold_id, 600, actor="bench")


def timed(run: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def open_account(db: Database) -> str:
    """An account with more than the benchmark takes."""
    with db.write() as session:
        account_id = ledger.open_account(session, "bench").id
        ledger.post_top_up(session, account_id, BALANCE_MT, source="house:bench", actor="bench")
    return account_id


def measure_one_thread(name: str, db: Database, bare: Callable[[int], None], rounds: int, commits: int) -> None:
    """Bare commits, holds, and holds with their captures, in turns; prints rates and ratios."""
    account_id = open_account(db)

    def both(pairs: int) -> None:
        for _ in range(pairs):
            capture(db, place(db, account_id))

    bare(WARM_UP_COMMITS)
    both(WARM_UP_COMMITS)
    rates: dict[str, list[float]] = {"bare": [], "hold": [], "both": []}
    for _ in range(rounds):
        rates["bare"].append(commits / timed(lambda: bare(commits)))
        rates["hold"].append(commits / timed(lambda: [place(db, account_id) for _ in range(commits)]))
        rates["both"].append(commits / timed(lambda: both(commits // 2)))
    print(f"{name}, one thread, {rounds} rounds of {commits} commits in turns")
    print(f"  bare UPDATE + COMMIT         {statistics.median(rates['bare']):8,.0f} a second")
    for key, words in (("hold", "hold"), ("both", "hold, then capture")):
        ratio = spread([rate / plain for rate, plain in zip(rates[key], rates["bare"], strict=True)])
        print(f"  {words:<20}         {statistics.median(rates[key]):8,.0f} a second   ratio {ratio}")


# Many clients -------------------------------------------------------------------------------------


def run_clients(db: Database, account_ids: Sequence[str], commits: int, seen: Clients) -> None:
    """One client a thread and account; each holds and captures, one commit each, as fast as it can."""
    start = threading.Barrier(len(account_ids) + 1)
    waits_ms: list[list[float]] = [[] for _ in account_ids]
    failures: list[BaseException] = []

    def work(account_id: str, waits: list[float]) -> None:
        start.wait()
        try:
            for _ in range(commits // 2):
                began = time.perf_counter()
                hold_id = place(db, account_id)
                held = time.perf_counter()
                capture(db, hold_id)
                waits += [(held - began) * 1e3, (time.perf_counter() - held) * 1e3]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(account_ids, waits_ms, strict=True)]
    for thread in threads:
        thread.start()
    start.wait()
    seconds = timed(lambda: [thread.join() for thread in threads])
    if failures:
        raise failures[0]
    seen.rates.append(sum(map(len, waits_ms)) / seconds)
    seen.waits_ms += [wait for waits in waits_ms for wait in waits]


def measure_clients(name: str, cases: dict[str, tuple[Database, Sequence[str]]], rounds: int, commits: int) -> None:
    """Each case in turns; prints what clients waited, and the rate of the first case against the others'."""
    seen = {words: Clients() for words in cases}
    for _ in range(rounds):
        for words, (db, account_ids) in cases.items():
            run_clients(db, account_ids, commits, seen[words])
    clients = len(next(iter(cases.values()))[1])
    print(f"{name}, {clients} clients, {rounds} rounds of {commits} commits each in turns, every operation timed")
    first = next(iter(seen.values()))
    for words, case in seen.items():
        cuts = statistics.quantiles(case.waits_ms, n=100, method="inclusive")
        print(
            f"  {words:<28} {statistics.median(case.rates):8,.0f} a second   p50 {cuts[49]:6.1f} ms   "
            f"p99 {cuts[98]:6.1f} ms   max {max(case.waits_ms):7.1f} ms"
        )
        if case is not first:
            gains = [one / other for one, other in zip(first.rates, case.rates, strict=True)]
            print(f"  {'':<28} {'':8}            {next(iter(seen))}: {spread(gains)} × this")


def spread(ratios: Sequence[float]) -> str:
    """A median with the least and the greatest of the rounds."""
    return f"{statistics.median(ratios):.2f} (rounds {min(ratios):.2f} to {max(ratios):.2f})"


def fsync_ms(folder: Path) -> float:
    """Median milliseconds of an fsync after 4 KiB appended: what the disk makes of any commit."""
    block, times = os.urandom(4096), []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(100):
            file.write(block)
            times.append(timed(lambda: os.fsync(file.fileno())))
    return statistics.median(times) * 1e3


# Databases ----------------------------------------------------------------------------------------


def measure_sqlite(folder: Path, arguments: argparse.Namespace) -> None:
    """One thread, then many clients with and without group commit."""
    name = f"SQLite {sqlite3.sqlite_version} WAL synchronous=FULL"
    db = Database(f"sqlite:///{folder}/ledger.db")
    db.migrate()
    measure_one_thread(name, db, bare_sqlite(folder / "bare.db"), arguments.rounds, arguments.commits)
    single = SingleCommitDatabase(f"sqlite:///{folder}/single.db")
    single.migrate()
    cases = {
        words: (database, [open_account(database) for _ in range(arguments.clients)])
        for words, database in (("group commit", db), ("one commit each", single))
    }
    measure_clients(name, cases, arguments.client_rounds, arguments.client_commits)
    db.close()
    single.close()


def measure_postgres(url: str, arguments: argparse.Namespace) -> None:
    """The same; many clients with an account each, and all on one account, which takes them one by one."""
    name = postgres.describe(url)
    database = f"bench_{secrets.token_hex(6)}"
    db_url = postgres.add_database(url, database)
    try:
        db = Database(db_url)
        db.migrate()
        measure_one_thread(name, db, bare_postgres(db_url), arguments.rounds, arguments.commits)
        cases = {
            "an account each": (db, [open_account(db) for _ in range(arguments.clients)]),
            "all on one account": (db, [open_account(db)] * arguments.clients),
        }
        measure_clients(name, cases, arguments.client_rounds, arguments.client_commits)
        db.close()
    finally:
        postgres.drop_database(url, database)


def describe_machine(folder: Path) -> str:
    """What a figure depends on besides the code, for the first line of a benchmark that writes to a folder's disk."""
    return (
        f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start, "
        f"fsync of 4 KiB {fsync_ms(folder):.2f} ms"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--commits", type=int, default=200, help="commits of each kind in a round")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--client-rounds", type=int, default=5)
    parser.add_argument("--client-commits", type=int, default=60, help="commits of each client in a round")
    parser.add_argument("--folder", type=Path, help="where to write; the folder of temporary files by default")
    parser.add_argument("--postgres-url", help="a server to make a database on; else a throw-away cluster")
    parser.add_argument("--only", choices=("sqlite", "postgresql"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="visionmeter-bench-", dir=arguments.folder) as name:
        folder = Path(name)
        print(f"{describe_machine(folder)}; a ratio is a median (least to greatest of the rounds)")
        if arguments.only != "postgresql":
            measure_sqlite(folder, arguments)
    if arguments.only != "sqlite":
        with postgres.durable_server(arguments.postgres_url, arguments.folder) as url:
            if url is None:
                print("PostgreSQL: not measured, no initdb here and no --postgres-url")
            else:
                measure_postgres(url, arguments)
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
