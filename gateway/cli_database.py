"""What the operator's commands share: the configured database, files that are whole, and how a command gives up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import typer
from sqlalchemy import inspect
from sqlalchemy.exc import SQLAlchemyError

from core.config import load_settings
from core.db import Database, why
from core.errors import VisionMeterError

NOT_CHECKED = 2
TABLES = {"account", "entry", "hold", "seal"}


@contextmanager
def open_database() -> Iterator[Database]:
    """The configured database, which must be there and hold a ledger; anything else ends the command."""
    try:
        db = Database(load_settings().sqlalchemy_url)
        try:
            _require_ledger(db)
            yield db
        finally:
            db.close()
    except VisionMeterError as error:
        fail(error.message)
    except SQLAlchemyError as error:
        fail(f"The database cannot be read: {why(error)}")
    except ImportError as error:
        fail(f"The driver of this database is not installed ({error.name}): see deploy/README.md, The database.")


def _require_ledger(db: Database) -> None:
    if db.engine.dialect.name == "sqlite":
        path = db.engine.url.database or ""
        # SQLite would make an empty database of any name that is mistyped.
        if not Path(path).is_file():
            fail(f"There is no database {path}: name it with VISIONMETER_DATABASE_URL or VISIONMETER_DATA_DIR.")
    with db.read() as session:
        missing = TABLES.difference(inspect(session.connection()).get_table_names())
    if missing:
        fail("This database has no ledger of this version: start VisionMeter once, which brings it up to date.")


def write_atomically(path: Path, text: str) -> None:
    """Write beside the file and move over it: whoever reads sees the old text or the new, also after a crash."""
    target = path.resolve()  # a link stays a link
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        try:
            with beside.open("x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}.")


def fail(sentence: str) -> NoReturn:
    """End the command with a sentence on the error stream."""
    typer.echo(sentence, err=True)
    raise typer.Exit(NOT_CHECKED)
