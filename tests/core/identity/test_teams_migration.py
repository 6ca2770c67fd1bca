"""The migration that brings teams keeps what older installations have stored, in both directions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import inspect, text
from sqlalchemy.exc import IntegrityError

from core.config import ROOT
from core.db import Database

MOMENT = "2026-11-23 12:00:00"
LATER = "2099-01-01 00:00:00"


def _user(number: int, role: str) -> dict[str, Any]:
    return {"id": f"user_{number}", "account_id": f"acct_{number}", "email": f"u{number}@example.com",
            "password_digest": f"digest {number}", "role": role, "language": "zh_CN", "created_at": MOMENT,
            "last_sign_in_at": MOMENT if number == 1 else None}  # fmt: skip


# What an installation without teams holds: an operator who ran one image and holds another, and a customer.
OLD_ROWS: list[tuple[str, dict[str, Any]]] = [
    *(
        (
            "account",
            {"id": f"acct_{number}", "name": "Ann", "posted_mt": 9000, "held_mt": 500, "version": 4,
             "status": "active", "is_demo": False, "created_at": MOMENT},
        )
        for number in (1, 2)
    ),
    ("user_", _user(1, "operator")),
    ("user_", _user(2, "owner")),
    ("user_session", {"digest": "s1", "user_id": "user_1", "created_at": MOMENT, "expires_at": LATER}),
    ("user_session", {"digest": "s2", "user_id": "user_2", "created_at": MOMENT, "expires_at": LATER}),
    ("sign_in_ticket", {"digest": "t1", "user_id": "user_1", "expires_at": LATER}),
    *(
        (
            "hold",
            {"id": hold_id, "account_id": "acct_1", "amount_mt": 500, "captured_mt": captured_mt, "status": status,
             "charge_key": hold_id, "expires_at": LATER, "created_at": MOMENT,
             "ended_at": MOMENT if captured_mt else None},
        )
        for hold_id, captured_mt, status in (("hold_1", 500, "captured"), ("hold_2", 0, "held"))
    ),
    *(
        (
            "entry",
            {"account_id": "acct_1", "seq": seq, "kind": kind, "debit_account": "a", "credit_account": "b",
             "amount_mt": 500, "posted_change_mt": 0, "held_change_mt": 0, "posted_after_mt": 9000,
             "held_after_mt": 500, "hold_id": hold_id, "actor": "user_1", "memo": "", "created_at": MOMENT},
        )
        for seq, kind, hold_id in (
            (1, "top_up", None), (2, "hold", "hold_1"), (3, "capture", "hold_1"), (4, "hold", "hold_2")
        )
    ),
]  # fmt: skip
KEPT_TABLES = ("account", "hold", "entry", "user_session", "sign_in_ticket")


@pytest.fixture
def old_db(empty_database_url: str) -> Iterator[Database]:
    """A database as it was before there were teams, with the rows of an operator and a customer."""
    database = Database(empty_database_url)
    migrate(database, "0001")
    insert(database, OLD_ROWS)
    yield database
    database.close()


def migrate(database: Database, revision: str) -> None:
    """Bring a database up or, with a minus sign before it, down to a revision."""
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    config.attributes["url"] = database.url
    (command.downgrade if revision.startswith("-") else command.upgrade)(config, revision.removeprefix("-"))


def insert(database: Database, rows: list[tuple[str, dict[str, Any]]]) -> None:
    """Store rows as they are."""
    with database.write() as session:
        for table, values in rows:
            names, places = ", ".join(values), ", ".join(f":{name}" for name in values)
            session.connection().execute(text(f"INSERT INTO {table} ({names}) VALUES ({places})"), values)


def rows(database: Database, table: str) -> list[dict[str, Any]]:
    """Everything in a table."""
    with database.read() as session:
        found = session.connection().execute(text(f"SELECT * FROM {table}")).mappings().all()
    return sorted((dict(row) for row in found), key=str)


def schema(database: Database) -> dict[str, Any]:
    """Columns, keys, checks and indexes of the table of users and of those that refer to it."""
    inspector = inspect(database.engine)

    def named(things: Any) -> list[Any]:
        return sorted((dict(thing) for thing in things), key=str)

    return {
        table: {
            "columns": {column["name"]: (str(column["type"]), column["nullable"], column["default"])
                        for column in inspector.get_columns(table)},
            "primary": inspector.get_pk_constraint(table)["constrained_columns"],
            "foreign": [(key["constrained_columns"], key["referred_table"])
                        for key in named(inspector.get_foreign_keys(table))],
            "unique": [key["column_names"] for key in named(inspector.get_unique_constraints(table))],
            "checks": [check["name"] for check in named(inspector.get_check_constraints(table))],
            "indexes": [(index["name"], index["unique"]) for index in named(inspector.get_indexes(table))],
        }
        for table in ("user_", "user_session", "sign_in_ticket")
    }  # fmt: skip


def roles(database: Database) -> dict[str, tuple[str, bool]]:
    """Role and whether he runs the service, by user id."""
    return {row["id"]: (row["role"], bool(row["is_operator"])) for row in rows(database, "user_")}


def test_upgrade_keeps_everything(old_db: Database) -> None:
    """The operator is an owner who runs the service, the customer an owner; every other stored fact is unchanged."""
    users = rows(old_db, "user_")
    kept = {table: rows(old_db, table) for table in KEPT_TABLES}
    assert all(kept.values())
    migrate(old_db, "0002")
    assert roles(old_db) == {"user_1": ("owner", True), "user_2": ("owner", False)}
    assert {table: rows(old_db, table) for table in KEPT_TABLES} == kept
    new = {"is_operator", "disabled_at", "role"}
    assert [{name: value for name, value in row.items() if name not in new} for row in rows(old_db, "user_")] == [
        {name: value for name, value in row.items() if name != "role"} for row in users
    ]
    assert all(row["disabled_at"] is None for row in rows(old_db, "user_"))


def test_upgraded_tables_are_guarded(old_db: Database) -> None:
    """After the upgrade sessions still need their user, and roles, operators and addresses are checked."""
    migrate(old_db, "0002")
    user = {**_user(3, "member"), "account_id": "acct_1", "is_operator": False, "disabled_at": None}
    for table, values in (
        ("user_session", {"digest": "s3", "user_id": "user_9", "created_at": MOMENT, "expires_at": LATER}),
        ("user_", {**user, "account_id": "acct_9"}),
        ("user_", {**user, "role": "operator"}),
        ("user_", {**user, "is_operator": True, "disabled_at": MOMENT}),
        ("user_", {**user, "email": "u1@example.com"}),
    ):
        with pytest.raises(IntegrityError):
            insert(old_db, [(table, values)])
    insert(
        old_db,
        [("user_", {**user, "email": "u1@example.com", "disabled_at": MOMENT}), ("user_", {**user, "id": "user_4"})],
    )
    assert len(rows(old_db, "user_")) == 4


def test_down_and_up_again(old_db: Database) -> None:
    """The way back makes the old tables again with the old rows; forward, they come back as they were."""
    old_schema = schema(old_db)
    before = {table: rows(old_db, table) for table in ("user_", *KEPT_TABLES)}
    migrate(old_db, "0002")
    new_schema = schema(old_db)
    assert new_schema != old_schema
    migrate(old_db, "-0001")
    assert schema(old_db) == old_schema
    assert {table: rows(old_db, table) for table in before} == before
    assert "invitation" not in inspect(old_db.engine).get_table_names()
    migrate(old_db, "0002")
    assert schema(old_db) == new_schema
    assert roles(old_db) == {"user_1": ("owner", True), "user_2": ("owner", False)}


def test_the_way_back_lets_nobody_spend_who_may_not(old_db: Database) -> None:
    """Going back, members become owners, while viewers and removed users go with their sessions and invitations."""
    migrate(old_db, "0002")
    team = [
        (10, "member", None), (11, "viewer", None), (12, "member", MOMENT), (13, "owner", MOMENT)
    ]  # fmt: skip
    for number, role, disabled_at in team:
        user = {**_user(number, role), "account_id": "acct_1", "is_operator": False, "disabled_at": disabled_at}
        session = {"digest": f"s{number}", "user_id": user["id"], "created_at": MOMENT, "expires_at": LATER}
        ticket = {"digest": f"t{number}", "user_id": user["id"], "expires_at": LATER}
        insert(old_db, [("user_", user), ("user_session", session), ("sign_in_ticket", ticket)])
    # Removed from one team and back in another: the address stands twice.
    insert(old_db, [("user_", {**_user(14, "member"), "account_id": "acct_2", "email": "u12@example.com",
                               "is_operator": False})])  # fmt: skip
    insert(old_db, [("invitation", {"id": "inv", "account_id": "acct_1", "email": "x@example.com", "role": "member",
                                    "digest": "d", "invited_by": "user_13", "created_at": MOMENT,
                                    "expires_at": LATER})])  # fmt: skip
    with old_db.write() as session:
        session.connection().execute(text("UPDATE user_ SET role = 'viewer' WHERE id = 'user_1'"))
    migrate(old_db, "-0001")
    assert {row["id"]: row["role"] for row in rows(old_db, "user_")} == {
        "user_1": "operator", "user_2": "owner", "user_10": "owner", "user_14": "owner"
    }  # fmt: skip
    assert {row["digest"] for row in rows(old_db, "user_session")} == {"s1", "s2", "s10"}
    assert {row["digest"] for row in rows(old_db, "sign_in_ticket")} == {"t1", "t10"}


@pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
def test_a_migration_that_breaks_references_is_undone(old_db: Database) -> None:
    """On SQLite, where foreign keys are off meanwhile, rows that refer to nothing stop the upgrade, all of it."""
    with old_db.engine.connect() as connection:
        driver = connection.connection.dbapi_connection
        assert driver is not None
        driver.execute("PRAGMA foreign_keys=OFF")
        driver.execute("DELETE FROM user_ WHERE id = 'user_2'")
        connection.invalidate()
    before = schema(old_db)
    with pytest.raises(RuntimeError, match=r"user_session \(no such user_\)"):
        migrate(old_db, "0002")
    assert schema(old_db) == before
    with old_db.read() as session:
        assert session.connection().execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "0001"
    insert(old_db, [("user_", _user(2, "owner"))])
    migrate(old_db, "0002")
    assert roles(old_db)["user_2"] == ("owner", False)
