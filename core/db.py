"""The database: one SQLAlchemy engine, read and write transactions, migrations.

SQLite runs in WAL mode with `synchronous=FULL`; a writer begins with `BEGIN IMMEDIATE`, so it never reads
what it cannot then change, and the writers of one process take turns and share commits (`core.group_commit`).
The same code runs on PostgreSQL. Nothing here commits by itself: `Database.write()` is the unit of work, and
the services own it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import Any, TypeVar, cast

from sqlalchemy import (
    DateTime,
    Dialect,
    Insert,
    Select,
    String,
    Table,
    TypeDecorator,
    create_engine,
    event,
    func,
    select,
    update,
)
from sqlalchemy import insert as sa_insert
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import ArgumentError, InvalidatePoolError, SQLAlchemyError
from sqlalchemy.orm import class_mapper
from sqlmodel import Session, SQLModel

from core.config import ROOT
from core.errors import ConfigError
from core.group_commit import GroupWriter

# Well below the shortest useful lease: a writer that waits longer would find its holds given back.
BUSY_TIMEOUT_MS = 10_000
# PostgreSQL connections of one process, two times over in a rush.
POOL_SIZE = 16
# A connection that was in use less than this long ago is not asked first whether it is still there.
UNASKED_IDLE_S = 1.0

Row = TypeVar("Row", bound=SQLModel)


def utcnow() -> datetime:
    """Now, aware, in UTC."""
    return datetime.now(UTC)


def new_id(prefix: str) -> str:
    """A fresh identifier such as `hold_3f9c…` with 96 random bits."""
    return f"{prefix}_{secrets.token_hex(12)}"


class UTCDateTime(TypeDecorator[datetime]):
    """An aware datetime, stored in UTC (naive on SQLite, `timestamptz` on PostgreSQL)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime cannot be stored")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class DecimalText(TypeDecorator[Decimal]):
    """A `Decimal` kept as text, exact on every database."""

    impl = String(40)
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> str | None:
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


class Database:
    """Engine and transactions for one database URL."""

    def __init__(self, url: str) -> None:
        pool = {} if url.startswith("sqlite") else {"pool_size": POOL_SIZE}
        try:
            self.engine: Engine = create_engine(url, hide_parameters=True, max_overflow=POOL_SIZE, **pool)
        except ArgumentError:
            raise ConfigError("VISIONMETER_DATABASE_URL is no SQLAlchemy database URL.") from None
        self.url = url
        # SQLite reads one snapshot anyway; PostgreSQL must be asked to.
        snapshot = {} if self.engine.dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
        self._reader = self.engine.execution_options(**snapshot)
        self._group_writer = GroupWriter(self.engine) if self.engine.dialect.name == "sqlite" else None
        if self._group_writer is not None:
            event.listen(self.engine, "connect", _configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        else:
            _ping_after_idling(self.engine)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads; what it sees does not change under it."""
        with Session(self._reader, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that commits at the end of the block and rolls back on any exception."""
        if self._group_writer is not None:
            with self._group_writer.transaction() as session:
                yield session
            return
        with (
            self.engine.connect() as connection,
            Session(connection, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    def migrate(self) -> None:
        """Bring the schema to the newest version (Alembic); does nothing when it is there already."""
        from alembic import command
        from alembic.config import Config

        if self.engine.dialect.name == "sqlite" and self.engine.url.database:
            from pathlib import Path

            Path(self.engine.url.database).parent.mkdir(parents=True, exist_ok=True)
        config = Config()
        config.set_main_option("script_location", str(ROOT / "migrations"))
        config.attributes["url"] = self.url
        command.upgrade(config, "head")

    def close(self) -> None:
        """Close all pooled connections."""
        if self._group_writer is not None:
            self._group_writer.close()
        self.engine.dispose()


def _configure_sqlite(dbapi_connection: Any, _record: Any) -> None:
    # The driver must not begin transactions by itself: `_begin_sqlite` does, with the right kind of lock.
    dbapi_connection.isolation_level = None
    cursor = dbapi_connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    # Summing a million rows sorts them first: with a helper it takes two thirds of the time.
    cursor.execute("PRAGMA threads=2")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writing = connection.get_execution_options().get("vm_write", False)
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")
    except BaseException:
        # SQLAlchemy knows of no transaction yet, so it would put the connection back into the pool with one open.
        driver = connection.connection.dbapi_connection
        if driver is not None and driver.in_transaction:
            driver.rollback()
        raise


def _ping_after_idling(engine: Engine) -> None:
    """What `pool_pre_ping` does, but not before every transaction: under load that is a round trip in vain.

    A server that stops while a connection is busy fails its transaction either way, and nothing of it is stored.
    """

    @event.listens_for(engine, "checkin")
    def note_time(_connection: Any, record: Any) -> None:
        record.info["idle_since_s"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def ping(dbapi_connection: Any, record: Any, _proxy: Any) -> None:
        idle_since_s = record.info.get("idle_since_s")
        if idle_since_s is None or time.monotonic() - idle_since_s < UNASKED_IDLE_S:
            return
        try:
            engine.dialect.do_ping(dbapi_connection)
        except engine.dialect.loaded_dbapi.Error:
            raise InvalidatePoolError from None


def why(error: SQLAlchemyError) -> str:
    """The first line of what the database said, for somebody who can do something about it."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def change_some(session: Session, model: type[SQLModel], some: Select[Any], **values: Any) -> int:
    """Set columns in the rows whose ids a query gives; how many there were. Objects in the session do not follow."""
    table = table_of(model)
    changed = update(table).where(table.c.id.in_(some)).values(**values).returning(table.c.id)
    return len(session.connection().execute(changed).all())


def one_at_a_time(session: Session, name: str) -> None:
    """Let no other transaction that calls this with the same name go on before this one has ended.

    SQLite has one writer anyway; PostgreSQL takes an advisory lock.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.connection().execute(select(func.pg_advisory_xact_lock(func.hashtext(name))))


def table_of(model: type[SQLModel]) -> Table:
    """The table behind a model, for statements that need no objects."""
    table = model.__table__  # type: ignore[attr-defined]  # SQLModel does not declare it
    assert isinstance(table, Table)
    return table


def row_of(model: type[Row], values: Mapping[str, Any]) -> Row:
    """An object with these values, made as the ORM makes one of a row that it read.

    Validating and tracking each value costs as much as the statement that wrote them. `class_mapper` sets the models
    up where nothing did so before: a hold may be the first thing that a process does.
    """
    instance: Row = class_mapper(model).class_manager.new_instance()
    instance.__dict__.update(values)
    return instance


def new_row(model: type[Row], /, **values: Any) -> Row:
    """A new object with its defaults as `model(**values)` makes it, but for the checks: `row_of` says why."""
    defaults = {name: make() for name, make in _defaults(model).items() if name not in values}
    return row_of(model, {**defaults, **values})


def insert_row(session: Session, row: Row) -> Row:
    """Write a new object's row at once. The session does not follow the object.

    `session.add` and a flush cost several times as much, which counts for the rows that every image makes.
    """
    values = row.__dict__
    table = table_of(type(row))
    session.connection().execute(_insertion(table), {name: values[name] for name in values if name in table.c})
    return row


@cache
def _defaults(model: type[SQLModel]) -> dict[str, Callable[[], Any]]:
    def constant(value: Any) -> Callable[[], Any]:
        return lambda: value

    return {
        # A factory might be one that takes the other values: no table has such a one.
        name: cast(Callable[[], Any], field.default_factory or constant(field.default))
        for name, field in model.__pydantic_fields__.items()
        if not field.is_required()
    }


@cache
def _insertion(table: Table) -> Insert:
    return sa_insert(table).inline()


def insert_if_absent(
    session: Session, table: type[SQLModel], values: Mapping[str, Any], *, returning: str
) -> Any | None:
    """`INSERT … ON CONFLICT DO NOTHING RETURNING column`: the column's value, or None when a row was there.

    `RETURNING` rather than `rowcount`, which is −1 for psycopg here.
    """
    target = table_of(table)
    dialect = session.get_bind().dialect.name
    insert = (sqlite.insert if dialect == "sqlite" else postgresql.insert)(target)
    statement = insert.values(**values).on_conflict_do_nothing().returning(target.c[returning])
    row = session.connection().execute(statement).first()
    return None if row is None else row[0]
