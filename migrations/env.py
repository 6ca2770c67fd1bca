"""Alembic's entry point: runs the migrations on the URL it is given, or on the configured database."""

from __future__ import annotations

from pathlib import Path

from alembic import context
from sqlmodel import SQLModel

import core.identity.tables
import core.jobs.tables
import core.ledger.tables
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
with database.engine.connect().execution_options(vm_write=True) as connection:
    context.configure(connection=connection, target_metadata=SQLModel.metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
database.close()
