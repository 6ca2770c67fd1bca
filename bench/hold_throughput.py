"""What a hold costs: holds per second through core.ledger against a bare UPDATE + COMMIT, on SQLite.

Both write to the same disk with the same settings (WAL, synchronous=FULL), one thread, one commit each, in
turns. The bare statement is the least that any balance in a database costs; a hold also inserts its own row and
a ledger entry, and goes through SQLAlchemy.

    python bench/hold_throughput.py [--rounds 9] [--commits 200]
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from core.db import Database
from core.ledger import ledger


def bare_updates(connection: sqlite3.Connection, commits: int) -> float:
    """Commits per second of one UPDATE each."""
    started = time.perf_counter()
    for _ in range(commits):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE balance SET held = held + 1 WHERE id = 1 AND posted - held >= 1")
        connection.execute("COMMIT")
    return commits / (time.perf_counter() - started)


def holds(db: Database, account_id: str, commits: int, prefix: str) -> float:
    """Holds per second, each in a transaction of its own."""
    started = time.perf_counter()
    for number in range(commits):
        with db.write() as session:
            ledger.place_hold(session, account_id, 1, charge_key=f"{prefix}-{number}", lease_s=600, actor="bench")
    return commits / (time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--commits", type=int, default=200, help="commits of each kind in a round")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="visionmeter-bench-") as folder:
        bare = sqlite3.connect(f"{folder}/bare.db", isolation_level=None)
        bare.execute("PRAGMA journal_mode=WAL")
        bare.execute("PRAGMA synchronous=FULL")
        bare.execute("CREATE TABLE balance (id INTEGER PRIMARY KEY, posted INTEGER, held INTEGER)")
        bare.execute("INSERT INTO balance VALUES (1, 1000000000, 0)")
        db = Database(f"sqlite:///{folder}/ledger.db")
        db.migrate()
        with db.write() as session:
            account_id = ledger.open_account(session, "bench").id
            ledger.post_top_up(session, account_id, 10**9, source="house:bench", actor="bench")
        bare_updates(bare, 50)
        holds(db, account_id, 50, "warm")
        bare_rates, hold_rates = [], []
        for number in range(arguments.rounds):
            bare_rates.append(bare_updates(bare, arguments.commits))
            hold_rates.append(holds(db, account_id, arguments.commits, str(number)))
        bare.close()
        db.close()
    ratios = [hold / plain for hold, plain in zip(hold_rates, bare_rates, strict=True)]
    print(
        f"one thread, {arguments.rounds} rounds of {arguments.commits} commits in turns, SQLite "
        f"{sqlite3.sqlite_version} WAL synchronous=FULL, {os.cpu_count()} cores"
    )
    print(f"  bare UPDATE + COMMIT   {statistics.median(bare_rates):8,.0f} a second")
    print(f"  place_hold             {statistics.median(hold_rates):8,.0f} a second")
    print(
        f"  ratio                  {statistics.median(ratios):8.2f}   (rounds {min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
