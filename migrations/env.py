"""Alembic's entry point: runs the migrations on the URL it is given, or on the configured database."""

from __future__ import annotations

from pathlib import Path

from alembic import context
from sqlmodel import SQLModel

import core.identity.tables
import core.jobs.tables
import core.ledger.tables
import core.mail.tables
import core.payments.auto_tables
import core.payments.card_tables
import core.payments.invoice_tables
import core.payments.tables
import core.pricing.tables
import core.usage.tables  # noqa: F401  # importing a module of tables registers them in the metadata
from core.config import settings
from core.db import Database

url = context.config.attributes.get("url") or settings().sqlalchemy_url
database = Database(url)
if database.engine.dialect.name == "sqlite" and database.engine.url.database:
    # SQLite makes its file, but not the folder it lies in.
    Path(database.engine.url.database).parent.mkdir(parents=True, exist_ok=True)
applied: list[str] = []
with database.engine.connect().execution_options(vm_write=True) as connection:
    if connection.dialect.name == "sqlite":
        # A migration that makes a table anew drops one that others refer to. Inside a transaction this does nothing,
        # so it goes to the driver before there is one.
        connection.connection.dbapi_connection.execute("PRAGMA foreign_keys=OFF")
    context.configure(
        connection=connection,
        target_metadata=SQLModel.metadata,
        render_as_batch=True,
        # Both databases undo what a failed migration did to their tables; Alembic assumes that SQLite does not.
        transactional_ddl=True,
        on_version_apply=lambda step, **_kwargs: applied.append(step.up_revision_id),
    )
    with context.begin_transaction():
        context.run_migrations()
        if applied and connection.dialect.name == "sqlite":
            broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchmany(5)
            if broken:
                named = ", ".join(f"row {rowid} of {table} (no such {parent})" for table, rowid, parent, _key in broken)
                raise RuntimeError(f"Nothing was migrated: rows refer to rows that are not there: {named}.")
database.close()
