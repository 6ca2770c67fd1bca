"""A consistent copy of the database while others write, and a new database made of one.

SQLite copies itself by its online backup; PostgreSQL by its own programs `pg_dump` and `pg_restore`, on a snapshot that
others can look at too.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import inspect, text
from sqlmodel import Session

from core.config import ROOT
from core.db import Database
from core.errors import BackupError

PROGRAM_TIMEOUT_S = 24 * 3600


@contextmanager
def copied(db: Database, path: Path) -> Iterator[Session]:
    """Write a copy of the database to a file; inside, a session that sees exactly what is in the copy.

    Raises `BackupError` when PostgreSQL's programs are missing or fail.
    """
    if db.engine.dialect.name == "sqlite":
        _copy_sqlite(Path(db.engine.url.database or ""), path)
        copy = Database(f"sqlite:///{path}")
        try:
            with copy.read() as session:
                yield session
        finally:
            copy.close()
            # What reading it left beside it; the copy is whole without.
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
        return
    with db.read() as session:
        snapshot = session.execute(text("SELECT pg_export_snapshot()")).scalar_one()
        schema = session.execute(text("SELECT current_schema()")).scalar_one()
        _run_program(
            db,
            ["pg_dump", "--format=custom", f"--snapshot={snapshot}", f"--schema={schema}", f"--file={path}"],
        )
        yield session


def require_empty(db: Database) -> None:
    """Raise `BackupError` unless the database is there and has no tables, or is a SQLite file that is not there."""
    if db.engine.dialect.name == "sqlite":
        if Path(db.engine.url.database or "").exists():
            raise BackupError(f"There is a database {db.engine.url.database} already: restore to another place.")
        return
    with db.read() as session:
        if inspect(session.connection()).get_table_names():
            raise BackupError("This database has tables already: restore into an empty one.")


def fill(db: Database, path: Path) -> None:
    """Make an empty database what a copy says. Raises `BackupError`; PostgreSQL's is then as empty as before."""
    if db.engine.dialect.name == "sqlite":
        target = Path(db.engine.url.database or "")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _copy_sqlite(path, target)
        except BaseException:
            # It was not there before, and in the way of a second try.
            for suffix in ("", "-wal", "-shm", "-journal"):
                target.with_name(target.name + suffix).unlink(missing_ok=True)
            raise
        return
    with db.read() as session:
        schema = session.execute(text("SELECT current_schema()")).scalar_one()
    _run_program(
        db,
        ["pg_restore", "--exit-on-error", "--single-transaction", "--no-owner", "--no-acl", f"--schema={schema}"],
        path,
    )


def newest_revision() -> str:
    """The version of the schema that this version of the program makes."""
    return max(path.name.partition("_")[0] for path in (ROOT / "migrations" / "versions").glob("[0-9]*.py"))


def find_revision(session: Session) -> str | None:
    """The version of the schema, as Alembic knows it."""
    from alembic.runtime.migration import MigrationContext  # a start that migrates nothing does without

    return MigrationContext.configure(session.connection()).get_current_revision()


def _copy_sqlite(source: Path, target: Path) -> None:
    try:
        with (
            closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)) as opened,
            closing(sqlite3.connect(target)) as copy,
        ):
            # In one step, and so of one moment; in WAL mode whoever writes is not stopped by it.
            opened.backup(copy, pages=-1)
            if copy.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise BackupError(f"The database {source} is damaged: restore the last back-up that is whole.")
    except (sqlite3.Error, OSError) as error:
        raise BackupError(f"The database cannot be copied: {error}.") from None


def _run_program(db: Database, command: Sequence[str], *files: Path) -> None:
    from psycopg.conninfo import make_conninfo  # not needed where the database is SQLite

    program = shutil.which(command[0])
    if program is None:
        raise BackupError(
            f"{command[0]} is not installed: install PostgreSQL's client programs, of the server's version or newer."
        )
    _arguments, connection = db.engine.dialect.create_connect_args(db.engine.url)
    # The password is not for the list of processes that everybody on the machine can read.
    environment = {**os.environ, "PGPASSWORD": connection.pop("password", "") or os.environ.get("PGPASSWORD", "")}
    address = make_conninfo("", **{name: value for name, value in connection.items() if isinstance(value, str | int)})
    outcome = subprocess.run(  # noqa: S603  # PostgreSQL's own programs, with the operator's own settings
        [program, *command[1:], f"--dbname={address}", *map(str, files)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PROGRAM_TIMEOUT_S,
    )
    if outcome.returncode:
        reason = outcome.stderr.strip().splitlines()
        raise BackupError(f"{command[0]} failed: {reason[0] if reason else f'exit code {outcome.returncode}'}")
