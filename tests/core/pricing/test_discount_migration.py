"""The migration that brings the discounts keeps what older installations have stored, in both directions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import inspect, text

from core.config import ROOT
from core.db import Database
from core.pricing.book import get_prices, quote_agrees, recompute_receipt
from core.pricing.tables import Quote, Receipt

MOMENT = "2026-11-23 12:00:00"
LINE = {"height": 640, "width": 640, "free_reason": None, "list_mt": 1000, "amount_mt": 1000}
COLUMNS = {
    "price_book": {"batch_discounts"},
    "quote": {"list_mt", "discount_percent"},
    "receipt": {"discount_percent", "floor_mt", "batch_images", "entry_seq"},
}
# What an installation without discounts holds: one account that ran two images, one of them charged so far.
OLD_ROWS: list[tuple[str, dict[str, Any]]] = [
    (
        "account",
        {"id": "acct", "name": "Ann", "posted_mt": 9000, "held_mt": 0, "version": 3, "status": "active",
         "is_demo": False, "created_at": MOMENT},
    ),
    ("price_book", {"version": "old", "alpha": "1.0", "minimum": "0.010", "note": "", "created_at": MOMENT}),
    ("rate", {"price_version": "old", "model": "m", "beta": "1.0"}),
    (
        "quote",
        {"id": "quote", "account_id": "acct", "price_version": "old", "model": "m", "model_version": "v",
         "img_size": 640, "total_mt": 2000, "lines": json.dumps([LINE, LINE]), "created_at": MOMENT,
         "expires_at": MOMENT},
    ),
    (
        "hold",
        {"id": "hold", "account_id": "acct", "amount_mt": 1000, "captured_mt": 1000, "status": "captured",
         "charge_key": "k", "expires_at": MOMENT, "created_at": MOMENT, "ended_at": MOMENT},
    ),
    *(
        (
            "entry",
            {"account_id": "acct", "seq": seq, "kind": kind, "debit_account": "a", "credit_account": "b",
             "amount_mt": amount_mt, "posted_change_mt": 0, "held_change_mt": 0, "posted_after_mt": 9000,
             "held_after_mt": 0, "hold_id": hold_id, "actor": "test", "memo": "", "created_at": MOMENT},
        )
        for seq, kind, amount_mt, hold_id in [
            (1, "top_up", 9000, None), (2, "hold", 1000, "hold"), (3, "capture", 1000, "hold")
        ]
    ),
    (
        "receipt",
        {"id": "rcpt", "account_id": "acct", "hold_id": "hold", "quote_id": "quote", "price_version": "old",
         "image_name": "a.png", "image_sha256": "a", "image_height": 640, "image_width": 640, "input_height": 640,
         "input_width": 640, "img_size": 640, "model": "m", "model_version": "v", "alpha": "1.0", "beta": "1.0",
         "minimum": "0.010", "amount_mt": 1000, "created_at": MOMENT},
    ),
]  # fmt: skip


@pytest.fixture
def old_db(empty_database_url: str) -> Iterator[Database]:
    """A database as it was before the discounts, with the rows of a customer."""
    database = Database(empty_database_url)
    store_old_rows(database)
    yield database
    database.close()


def store_old_rows(database: Database) -> None:
    """Bring an empty database up to what was before the discounts, and store the customer's rows."""
    migrate(database, "0002")
    with database.write() as session:
        for table, values in OLD_ROWS:
            names = ", ".join(values)
            places = ", ".join(f":{name}" for name in values)
            session.connection().execute(text(f"INSERT INTO {table} ({names}) VALUES ({places})"), values)


def migrate(database: Database, revision: str) -> None:
    """Bring a database up or down to a revision."""
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    config.attributes["url"] = database.url
    (command.downgrade if revision.startswith("-") else command.upgrade)(config, revision.removeprefix("-"))


def columns(database: Database, table: str) -> set[str]:
    """The names of a table's columns as they are in the database."""
    return {column["name"] for column in inspect(database.engine).get_columns(table)}


def test_old_rows_go_on_working(old_db: Database) -> None:
    """An old quote costs its list price, an old receipt recomputes and knows its entry, an old book has no tiers."""
    migrate(old_db, "head")
    with old_db.read() as session:
        quote, receipt = session.get_one(Quote, "quote"), session.get_one(Receipt, "rcpt")
        prices = get_prices(session, "old")
    assert (quote.list_mt, quote.total_mt, quote.discount_percent) == (2000, 2000, 0)
    assert quote_agrees(prices, quote)
    assert (receipt.discount_percent, receipt.floor_mt, receipt.batch_images, receipt.entry_seq) == (0, 0, 1, 3)
    assert recompute_receipt(receipt) == receipt.amount_mt == 1000
    assert prices.discounts == ()


def test_down_and_up_again(old_db: Database) -> None:
    """Going back takes exactly the new columns away and no row; going forward brings them back."""
    before = {table: columns(old_db, table) for table in COLUMNS}
    migrate(old_db, "0003")
    assert {table: columns(old_db, table) - before[table] for table in COLUMNS} == COLUMNS
    migrate(old_db, "-0002")
    assert {table: columns(old_db, table) for table in COLUMNS} == before
    migrate(old_db, "head")
    with old_db.read() as session:
        assert session.get_one(Quote, "quote").list_mt == 2000
        assert session.get_one(Receipt, "rcpt").entry_seq == 3


def test_the_list_price_is_guarded_for_old_rows_too(old_db: Database) -> None:
    """After the migration no statement can put a quote's total above its list price."""
    migrate(old_db, "head")
    with pytest.raises(Exception, match=r"(?i)check constraint"), old_db.write() as session:
        session.connection().execute(text("UPDATE quote SET total_mt = 2001"))
