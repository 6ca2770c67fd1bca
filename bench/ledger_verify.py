"""What checking the ledger costs: entries a second of `verify_ledger` against only reading the same rows.

Builds a consistent ledger of several accounts (top-ups, holds, captures, releases, refunds), seals it as the keeper
does, and replays it in a process of its own, so that the peak of memory is the check's. The baseline fetches the same
rows with the same query through the bare driver and looks at nothing, in the same process, in turns.

    python bench/ledger_verify.py [--entries 1000000] [--accounts 8] [--rounds 3]

PostgreSQL runs in a throw-away cluster, or wherever `--postgres-url` says; without either only SQLite is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import postgres
from bench.history import SEED, Plan, write_history
from core.db import Database, utcnow
from core.ledger.verify import entry_query, verify_ledger
from core.services.audit import seal

YEAR = timedelta(days=365)


def read_only(db: Database) -> float:
    """Seconds to fetch what the check reads, by its own query, through the bare driver."""
    query = entry_query(db.engine.dialect.name, None).compile(db.engine, compile_kwargs={"literal_binds": True})
    connection = db.engine.raw_connection()
    try:
        # PostgreSQL would otherwise send all rows at once.
        cursor = connection.cursor(name="bench") if db.engine.dialect.name == "postgresql" else connection.cursor()
        started = time.perf_counter()
        cursor.execute(str(query))
        while cursor.fetchmany(5000):
            pass
        return time.perf_counter() - started
    finally:
        connection.close()


def check(db: Database) -> tuple[float, float]:
    """Seconds of a check of the whole ledger, and those of them that this process had a processor."""
    started, started_cpu = time.perf_counter(), time.process_time()
    with db.read() as session:
        outcome = verify_ledger(session)
    if not outcome.ok or outcome.unsealed:
        raise SystemExit(f"the ledger of the benchmark is not in order: {outcome}")
    return time.perf_counter() - started, time.process_time() - started_cpu


def measure(url: str, rounds: int) -> None:
    """The part that runs in a process of its own: seconds of each round and the peak of memory, as JSON."""
    db = Database(url)
    before_mib = peak_mib()
    figures: dict[str, Any] = {"reads": [], "checks": [], "cpu": []}
    for _ in range(rounds):
        figures["reads"].append(read_only(db))
        check_s, cpu_s = check(db)
        figures["checks"].append(check_s)
        figures["cpu"].append(cpu_s)
    db.close()
    json.dump({**figures, "grew_mib": peak_mib() - before_mib}, sys.stdout)


def peak_mib() -> float:
    """The most memory that this process had so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage would count the parent's memory, which the child had until it became this program.
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@contextmanager
def databases(postgres_url: str | None) -> Iterator[list[tuple[str, str]]]:
    """Names and URLs of the empty databases to measure on."""
    with tempfile.TemporaryDirectory(prefix="visionmeter-bench-") as folder:
        found = [("SQLite", f"sqlite:///{folder}/ledger.db")]
        with postgres.durable_server(postgres_url, None) as url:
            if url is None:
                print("PostgreSQL: not measured, no initdb here and no --postgres-url")
                yield found
                return
            database = f"bench_{secrets.token_hex(6)}"
            found.append(("PostgreSQL", postgres.add_database(url, database)))
            try:
                yield found
            finally:
                postgres.drop_database(url, database)


def main() -> None:
    """Build, seal, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--accounts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--postgres-url", help="a superuser's URL to make a database on; else a throw-away cluster")
    parser.add_argument("--measure", metavar="URL", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.rounds)
        return
    print(
        f"{arguments.entries:,} entries of {arguments.accounts} accounts, {arguments.rounds} rounds in turns, Python "
        f"{platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start, seed {SEED}"
    )
    with databases(arguments.postgres_url) as found:
        for name, url in found:
            db = Database(url)
            db.migrate()
            end, share = utcnow(), 1 / arguments.accounts
            plan = Plan(arguments.entries, arguments.accounts, share, end - YEAR, end, with_runs=False)
            write_history(db, plan)
            started = time.perf_counter()
            sealed = seal(db)
            seal_s = time.perf_counter() - started
            db.close()
            child = subprocess.run(
                [sys.executable, __file__, "--measure", url, "--rounds", str(arguments.rounds)],
                stdout=subprocess.PIPE,
                check=True,
            )
            figures = json.loads(child.stdout)
            report(name, sealed, seal_s, figures)


def report(name: str, entries: int, seal_s: float, figures: dict[str, Any]) -> None:
    """Print one database's figures."""
    reads, checks = figures["reads"], figures["checks"]
    ratios = [check_s / read_s for check_s, read_s in zip(checks, reads, strict=True)]
    check_s, read_s, cpu_s = statistics.median(checks), statistics.median(reads), statistics.median(figures["cpu"])
    print(f"{name}, load {os.getloadavg()[0]:.1f} at the end")
    print(f"  only reading the rows  {entries / read_s:10,.0f} entries a second  {read_s:6.1f} s")
    print(
        f"  verify_ledger          {entries / check_s:10,.0f} entries a second  {check_s:6.1f} s, {cpu_s:.1f} s of CPU"
    )
    print(
        f"  ratio                  {statistics.median(ratios):10.2f} × the time"
        f"   (rounds {min(ratios):.2f} to {max(ratios):.2f})"
    )
    print(f"  sealing, once          {entries / seal_s:10,.0f} entries a second  {seal_s:6.1f} s")
    print(f"  memory at its peak     {figures['grew_mib']:10.1f} MiB above that before the first round")


if __name__ == "__main__":
    main()
