"""What checking the ledger costs: entries a second of `verify_ledger` against only reading the same rows.

Builds a consistent ledger of several accounts (top-ups, holds, captures, releases, refunds), seals it as the keeper
does, and replays it in a process of its own, so that the peak of memory is the check's. The baseline fetches the same
rows with the same query through the bare driver and looks at nothing, in the same process, in turns.

    python bench/ledger_verify.py [--entries 1000000] [--accounts 8] [--rounds 3]

With VISIONMETER_BENCH_POSTGRES_URL (for example postgresql+psycopg://user@127.0.0.1:5432/postgres) also on PostgreSQL,
in a schema of its own that is dropped afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sqlalchemy import create_engine, insert, text

from core.db import Database
from core.ledger.posting import reserved, settled, table_of
from core.ledger.tables import Account, Entry, Hold
from core.ledger.verify import entry_query, verify_ledger
from core.services.audit import seal

SEED = 20_261_124
ROWS_PER_INSERT = 20_000
START = datetime(2026, 1, 1, tzinfo=UTC)


class Author:
    """Writes the history of one account, step by step, into the lists that are inserted."""

    def __init__(self, account_id: str, draw: random.Random) -> None:
        self.account = Account(id=account_id, name="bench", created_at=START)
        self.draw = draw

    def step(self, entries: list[dict[str, Any]], holds: list[dict[str, Any]]) -> None:
        """A hold and its end; now and then a top-up before it or a refund after it."""
        own, held = settled(self.account.id), reserved(self.account.id)
        if self.account.posted_mt < 10_000:
            entries.append(self._entry("top_up", "house:vouchers", own, 10**7, posted=10**7))
        amount_mt, hold_id = self.draw.randint(10, 9000), f"hold_{self.draw.getrandbits(96):024x}"
        entries.append(self._entry("hold", own, held, amount_mt, held=amount_mt, hold_id=hold_id))
        luck = self.draw.random()
        if luck < 0.05:
            status, captured_mt, refunded_mt = "released", 0, 0
            entries.append(self._entry("release", held, own, amount_mt, held=-amount_mt, hold_id=hold_id))
        else:
            status, captured_mt, refunded_mt = "captured", amount_mt, amount_mt if luck > 0.99 else 0
            house = "house:revenue"
            entries.append(
                self._entry("capture", held, house, amount_mt, posted=-amount_mt, held=-amount_mt, hold_id=hold_id)
            )
            if refunded_mt:
                entries.append(self._entry("refund", house, own, amount_mt, posted=amount_mt, hold_id=hold_id))
        hold = Hold(
            id=hold_id,
            account_id=self.account.id,
            amount_mt=amount_mt,
            captured_mt=captured_mt,
            refunded_mt=refunded_mt,
            status=status,
            charge_key=hold_id,
            expires_at=START,
            created_at=START,
            ended_at=START,
        )
        holds.append(hold.model_dump())

    def _entry(
        self,
        kind: str,
        debit: str,
        credit: str,
        amount_mt: int,
        *,
        posted: int = 0,
        held: int = 0,
        hold_id: str | None = None,
    ) -> dict[str, Any]:
        account = self.account
        account.version += 1
        account.posted_mt += posted
        account.held_mt += held
        return {
            "account_id": account.id,
            "seq": account.version,
            "kind": kind,
            "debit_account": debit,
            "credit_account": credit,
            "amount_mt": amount_mt,
            "posted_change_mt": posted,
            "held_change_mt": held,
            "posted_after_mt": account.posted_mt,
            "held_after_mt": account.held_mt,
            "hold_id": hold_id,
            "actor": "user_3f9c1d2e4b5a6978f0e1d2c3",
            "memo": "line-7-2026-03-04T05-06-07.jpg",
            "created_at": START + timedelta(milliseconds=137 * account.version),
        }


def build(db: Database, entries: int, accounts: int) -> None:
    """A consistent ledger of at least that many entries, unsealed; the accounts' entries lie mixed, as in life."""
    draw = random.Random(SEED)
    authors = [Author(f"acct_{draw.getrandbits(96):024x}", draw) for _ in range(accounts)]
    with db.write() as session:
        session.add_all([Account.model_validate(author.account.model_dump()) for author in authors])
    written = 0
    while written < entries:
        chunk: list[dict[str, Any]] = []
        holds: list[dict[str, Any]] = []
        while len(chunk) < min(ROWS_PER_INSERT, entries - written):
            draw.choice(authors).step(chunk, holds)
        with db.write() as session:
            session.connection().execute(insert(table_of(Hold)), holds)
            session.connection().execute(insert(table_of(Entry)), chunk)
        written += len(chunk)
    with db.write() as session:
        for author in authors:
            session.merge(author.account)


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
def databases() -> Iterator[list[tuple[str, str]]]:
    """Names and URLs of the empty databases to measure on."""
    with tempfile.TemporaryDirectory(prefix="visionmeter-bench-") as folder:
        found = [("SQLite", f"sqlite:///{folder}/ledger.db")]
        url = os.environ.get("VISIONMETER_BENCH_POSTGRES_URL", "")
        if not url:
            yield found
            return
        schema = f"bench_{secrets.token_hex(6)}"
        server = create_engine(url)
        with server.begin() as connection:
            connection.execute(text(f"CREATE SCHEMA {schema}"))
        found.append(("PostgreSQL", f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3D{schema}"))
        try:
            yield found
        finally:
            with server.begin() as connection:
                connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
            server.dispose()


def main() -> None:
    """Build, seal, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--accounts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", metavar="URL", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.rounds)
        return
    print(
        f"{arguments.entries:,} entries of {arguments.accounts} accounts, {arguments.rounds} rounds in turns, Python "
        f"{platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start, seed {SEED}"
    )
    with databases() as found:
        for name, url in found:
            db = Database(url)
            db.migrate()
            build(db, arguments.entries, arguments.accounts)
            if name == "PostgreSQL":
                with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                    connection.execute(text("VACUUM ANALYZE"))
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
