"""The migration of second factors, up, down and up again, on each kind of database."""

from __future__ import annotations

from sqlalchemy import inspect

from core.db import Database
from tests.core.pricing.test_discount_migration import migrate

TABLES = {"second_factor", "recovery_code", "sign_in_step"}


def test_up_and_down(empty_database_url: str) -> None:
    """The three tables come, go without a trace, and come again."""
    db = Database(empty_database_url)
    found = []
    for revision in ("0020", "-0017", "head"):
        migrate(db, revision)
        found.append(TABLES & set(inspect(db.engine).get_table_names()))
    db.close()
    assert found == [TABLES, set(), TABLES]
