"""The migration that lets receipts say that a square was seen goes back only where none says so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from core.db import Database
from core.pricing.book import recompute_receipt
from core.pricing.tables import Receipt
from tests.core.pricing.test_discount_migration import columns, migrate, store_old_rows


@pytest.fixture
def database(empty_database_url: str) -> Iterator[Database]:
    """A database of today with an old receipt of a picture that was letterboxed."""
    database = Database(empty_database_url)
    store_old_rows(database)
    migrate(database, "head")
    yield database
    database.close()


def test_down_and_up_without_squares(database: Database) -> None:
    """Where every picture was letterboxed nothing is lost: the receipt agrees before and after."""
    migrate(database, "-0021")
    assert "square" not in columns(database, "receipt")
    migrate(database, "head")
    with database.read() as session:
        receipt = session.get_one(Receipt, "rcpt")
    assert not receipt.square
    assert recompute_receipt(receipt) == receipt.amount_mt


def test_receipts_of_squares_are_not_forgotten(database: Database) -> None:
    """One such receipt, and going back is refused in a sentence; it agrees with its charge as before."""
    with database.write() as session:
        # A wide picture: letterboxed it would cost 600.
        session.connection().execute(text("UPDATE receipt SET square = true, image_height = 360"))
    with pytest.raises(RuntimeError, match=r"receipts for classes of whole pictures \(1\).* nothing was changed"):
        migrate(database, "-0021")
    with database.read() as session:
        receipt = session.get_one(Receipt, "rcpt")
    assert receipt.square
    assert recompute_receipt(receipt) == receipt.amount_mt == 1000
