"""How the ledger grows: the same operation, and what the pages ask, on ledgers of very different length.

One thread holds and captures, each in a commit of its own, on the account that did nine tenths of a year's work; the
ledgers take turns within each round, so the smallest is the baseline of the same moment. Then every question that a
page or the keeper asks is asked of each, in turns too. The histories are built by `bench/history.py`, with everything
that the work leaves behind: quotes (without their lines), jobs and their images, results, receipts, usage.

    python bench/ledger_growth.py [--entries 10,100000,1000000] [--rounds 9] [--commits 200] [--asks 15]

Ten million entries take 25 GB of disk at a time and half an hour: `--entries 10,100000,10000000 --folder DISK`.
PostgreSQL runs in a throw-away cluster; without its programs only SQLite is measured.
"""

from __future__ import annotations

import argparse
import gc
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sqlalchemy import make_url, text
from sqlmodel import select

from bench import postgres
from bench.history import COLUMNS, SEED, Plan, write_history
from bench.ledger import WARM_UP_COMMITS, capture, describe_machine, place, spread, timed
from bench.questions import SEARCH, questions
from core.config import Settings
from core.db import Database, utcnow
from core.identity.tables import User
from core.ledger import ledger
from core.ledger.verify import verify_ledger
from core.pricing.book import adopt_book, current_prices, read_book
from core.services import audit, roll_ups
from core.services.application import Application

TARGET_MS = 100
ACCOUNTS, FIRST_SHARE = 10, 0.9
# Longer ones are not checked here: `bench/ledger_verify.py` measures what that takes.
CHECKED_ENTRIES_MAX = 100_000
TOP_UP_MT = 10**9
# What a server of a few gigabytes would be given. While the history is written, nothing has to survive a crash.
SERVER = {"shared_buffers": "1GB", "max_wal_size": "8GB"}
CARELESS = {"fsync": "off", "synchronous_commit": "off"}


@dataclass(frozen=True, slots=True)
class Ledger:
    """A built ledger that is measured; `user` is the owner of the account that did most of its work."""

    entries: int
    app: Application
    user: User


# Building -----------------------------------------------------------------------------------------


def build(url: str, entries: int) -> None:
    """A year's history of that many entries, up to a minute ago, summed as the keeper would have; says what it is."""
    db = Database(url)
    db.migrate()
    with db.write() as session:
        adopt_book(session, read_book(), note="")
    with db.read() as session:
        version = current_prices(session).version
    end = utcnow() - timedelta(minutes=1)
    plan = Plan(entries, ACCOUNTS, FIRST_SHARE, end - timedelta(days=365), end, with_runs=True, price_version=version)
    built_s = timed(lambda: write_history(db, plan))
    summed_s = timed(lambda: roll_ups.roll_up(db))
    checked = check(db) if entries <= CHECKED_ENTRIES_MAX else "not checked"
    with db.read() as session:
        counts = {table: session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() for table in COLUMNS}
    rows = ", ".join(f"{count:,} {table}" for table, count in counts.items())
    print(f"  {entries:>12,} entries built in {built_s:.0f} s, summed in {summed_s:.1f} s, {checked}")
    print(f"  {'':>12} {size_gib(db):.2f} GiB: {rows}", flush=True)
    db.close()


def check(db: Database) -> str:
    """Seal and verify the whole; ends the benchmark when anything is wrong."""
    audit.seal(db)
    with db.read() as session:
        outcome = verify_ledger(session)
    if not outcome.ok or outcome.unsealed:
        raise SystemExit(f"the ledger of the benchmark is not in order: {outcome}")
    return f"sealed, verified with its {outcome.accounts} accounts"


def size_gib(db: Database) -> float:
    """What a database takes on the disk."""
    with db.read() as session:
        if db.engine.dialect.name == "postgresql":
            return int(session.execute(text("SELECT pg_database_size(current_database())")).scalar_one()) / 2**30
        pages, page_bytes = (
            session.execute(text(f"PRAGMA {name}")).scalar_one() for name in ("page_count", "page_size")
        )
        return int(pages) * int(page_bytes) / 2**30


def open_ledger(url: str, entries: int) -> Ledger:
    """A built ledger, seen by an operator who owns the account that did most of its work."""
    db = Database(url)
    app = Application(Settings(_env_file=None), db, *(SimpleNamespace() for _part in range(5)))
    with db.read() as session:
        user = session.exec(select(User).where(User.email == "0@bench.example")).one()
    user.is_operator = True
    return Ledger(entries, app, user)


# Measuring ----------------------------------------------------------------------------------------


def measure(name: str, ledgers: Sequence[Ledger], arguments: argparse.Namespace) -> None:
    """Operations, then questions; closes the ledgers."""
    # As the application does when it has started: what the builder left behind is not collected during a question.
    gc.collect()
    gc.freeze()
    try:
        measure_operations(name, ledgers, arguments.rounds, arguments.commits)
        measure_questions(name, ledgers, arguments.asks)
    finally:
        gc.unfreeze()
        for built in ledgers:
            built.app.db.close()


def measure_operations(name: str, ledgers: Sequence[Ledger], rounds: int, commits: int) -> None:
    """Holds with their captures on each ledger in turns; prints the time of a pair and its ratio to the smallest."""

    def pairs(built: Ledger, count: int) -> None:
        for _ in range(count):
            capture(built.app.db, place(built.app.db, built.user.account_id))

    for built in ledgers:
        with built.app.db.write() as session:
            ledger.post_top_up(session, built.user.account_id, TOP_UP_MT, source="house:bench", actor="bench")
        pairs(built, WARM_UP_COMMITS)
    pair_ms: dict[int, list[float]] = {built.entries: [] for built in ledgers}
    for number in range(rounds):
        # Forth and back, as whoever comes after the largest finds the caches full of it.
        for built in ledgers if number % 2 == 0 else reversed(ledgers):
            started = time.perf_counter()
            pairs(built, commits // 2)
            pair_ms[built.entries].append((time.perf_counter() - started) * 1e3 / (commits // 2))
    print(
        f"{name}: hold, then capture, one thread, a commit each; {rounds} rounds of {commits} commits in turns "
        f"(each ledger ends {1 + 2 * WARM_UP_COMMITS + rounds * commits:,} entries longer than it was built)"
    )
    smallest = pair_ms[ledgers[0].entries]
    for entries, times in pair_ms.items():
        ratio = spread([one / least for one, least in zip(times, smallest, strict=True)])
        print(f"  {entries:>12,} entries   {statistics.median(times):7.3f} ms a pair   ratio {ratio}", flush=True)


def measure_questions(name: str, ledgers: Sequence[Ledger], asks: int) -> None:
    """Each question of each ledger in turns; prints median and maximum, and the slowest first time by itself.

    The first time is with cold caches: the database was just built, on PostgreSQL the server just started.
    """
    asked = {built.entries: questions(built.app, built.user) for built in ledgers}
    slowest = {entries: dict.fromkeys(("median", "single time", "first time"), (0.0, "")) for entries in asked}
    print(f"{name}: what pages and keeper ask, each {asks} times in turns after a first time; median and greatest, ms")
    print(f"  {'entries':<56}" + "".join(f"{entries:>20,}" for entries in asked))
    for question in next(iter(asked.values())):
        times_ms: dict[int, list[float]] = {entries: [] for entries in asked}
        for _ in range(1 + asks):
            for entries, ask in asked.items():
                times_ms[entries].append(timed(ask[question]) * 1e3)
        line = f"  {question:<56}"
        for entries, (first_ms, *later_ms) in times_ms.items():
            figures = {"median": statistics.median(later_ms), "single time": max(later_ms), "first time": first_ms}
            line += f"{figures['median']:10.1f}{figures['single time']:10.1f}"
            if question != SEARCH:
                slowest[entries] |= {of: max(slowest[entries][of], (ms, question)) for of, ms in figures.items()}
        print(line, flush=True)
    for entries, found in slowest.items():
        print(f"  {entries:,} entries, without the search:")
        for of, (most_ms, question) in found.items():
            verdict = "below" if most_ms < TARGET_MS else "NOT below"
            print(f"    slowest {of:<12} {most_ms:7.1f} ms, {verdict} {TARGET_MS} ms ({question})", flush=True)


# Databases ----------------------------------------------------------------------------------------


def measure_sqlite(folder: Path, arguments: argparse.Namespace) -> None:
    """Each size in a file of its own."""
    name = f"SQLite {sqlite3.sqlite_version} WAL synchronous=FULL"
    print(name)
    urls = {entries: f"sqlite:///{folder}/{entries}.db" for entries in arguments.entries}
    for entries, url in urls.items():
        build(url, entries)
    # What the builder left in the system's cache must not be written during a measured commit.
    os.sync()
    measure(name, [open_ledger(url, entries) for entries, url in urls.items()], arguments)


def measure_postgres(cluster: postgres.Cluster, arguments: argparse.Namespace) -> None:
    """Each size in a database of its own, built without care for crashes; then the server starts anew, with it."""
    cluster.start({**SERVER, **CARELESS})
    print("PostgreSQL")
    for entries in arguments.entries:
        build(postgres.add_database(cluster.url, f"growth_{entries}"), entries)
    cluster.stop()
    os.sync()
    cluster.start({**SERVER, **postgres.DURABLE})
    server = make_url(cluster.url)
    urls = {
        entries: server.set(database=f"growth_{entries}").render_as_string(hide_password=False)
        for entries in arguments.entries
    }
    name = " ".join([postgres.describe(cluster.url), *(f"{name}={value}" for name, value in SERVER.items())])
    measure(name, [open_ledger(url, entries) for entries, url in urls.items()], arguments)


def main() -> None:
    """Build, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--entries",
        type=lambda words: sorted(int(word) for word in words.split(",")),
        default="10,100000,1000000",
        help="lengths of the ledgers; the smallest is the baseline",
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--commits", type=int, default=200, help="commits on each ledger in a round")
    parser.add_argument("--asks", type=int, default=15, help="how often each question is asked of each ledger")
    parser.add_argument("--folder", type=Path, help="where to write; the folder of temporary files by default")
    parser.add_argument("--only", choices=("sqlite", "postgresql"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="visionmeter-bench-", dir=arguments.folder) as name:
        folder = Path(name)
        print(f"{describe_machine(folder)}, seed {SEED}; ratio: median (least to greatest of the rounds)")
        if arguments.only != "postgresql":
            measure_sqlite(folder, arguments)
    if arguments.only != "sqlite":
        with postgres.own_cluster(arguments.folder) as cluster:
            if cluster is None:
                print("PostgreSQL: not measured, no initdb here")
            else:
                measure_postgres(cluster, arguments)
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
