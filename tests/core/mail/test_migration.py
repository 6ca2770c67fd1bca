"""Migrations 0019 and 0023: what is there stays as it was, upwards and downwards."""

from __future__ import annotations

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import inspect, text
from sqlalchemy.exc import IntegrityError

from core.config import ROOT
from core.db import Database
from tests.core.jobs.messages import add_messages

NOW = "2026-11-01 00:00:00.000000"


def migrate(db: Database, revision: str, *, down: bool = False) -> None:
    """Bring a database to a revision."""
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    config.attributes["url"] = db.url
    (command.downgrade if down else command.upgrade)(config, revision)


def deliveries(db: Database) -> list[tuple[object, ...]]:
    """The messages that are about jobs."""
    with db.read() as session:
        rows = session.connection().execute(text("SELECT id, job_id, url, attempts FROM webhook_delivery ORDER BY id"))
        return [tuple(row) for row in rows]


def test_webhooks_and_alerts_survive(db: Database, account_id: str) -> None:
    """Messages about jobs are the same after going down and up; alerts of before count as told; indexes are back."""
    add_messages(db, account_id, "https://example.com/", count=2)
    kept = deliveries(db)
    with db.write() as session:
        for statement in (
            "INSERT INTO low_balance_alert (account_id, seq, threshold_mt, posted_after_mt, created_at) "
            "VALUES (:account, 1, 10, 5, :now)",
            "INSERT INTO webhook_delivery (id, account_id, alert_seq, url, attempts, next_attempt_at, created_at) "
            "VALUES ('m2', :account, 1, 'https://example.com', 0, :now, :now)",
        ):
            session.connection().execute(text(statement), {"now": NOW, "account": account_id})
    before = sorted(str(index["name"]) for index in inspect(db.engine).get_indexes("webhook_delivery"))
    migrate(db, "0017", down=True)
    assert deliveries(db) == kept  # a message about an alert has no place there
    assert "mail" not in inspect(db.engine).get_table_names()
    migrate(db, "head")
    assert sorted(str(index["name"]) for index in inspect(db.engine).get_indexes("webhook_delivery")) == before
    assert deliveries(db) == kept
    with db.read() as session:
        told = session.connection().execute(text("SELECT told_at = created_at FROM low_balance_alert")).scalar_one()
    assert told


def test_domains_are_spelled_alike(db: Database, account_id: str) -> None:
    """A domain in other letters becomes its ASCII form, in users and open invitations; nobody takes another's place."""
    migrate(db, "0018", down=True)
    before = {
        "u1": "ann@ｅxample.com",
        "u2": "Bob@例子.com",
        "u3": "cid@foo_bar.com",
        "u4": "ann@example.com",
        "u5": "eve@­例子.com",
        "u6": "eve@例子.com",
    }
    with db.write() as session:
        for user_id, email in before.items():
            row = {"id": user_id, "account": account_id, "email": email, "now": NOW}
            session.connection().execute(
                text(
                    "INSERT INTO user_ (id, account_id, email, password_digest, role, is_operator, language, "
                    "created_at) VALUES (:id, :account, :email, '', 'owner', false, 'en', :now)"
                ),
                row,
            )
        session.connection().execute(
            text(
                "INSERT INTO invitation (id, account_id, email, role, digest, invited_by, created_at, expires_at)"
                " VALUES ('i1', :account, 'fay@例子.com', 'viewer', 'x', 'u1', :now, :now)"
            ),
            {"account": account_id, "now": NOW},
        )
    migrate(db, "head")
    with db.read() as session:
        rows = session.connection().execute(text("SELECT id, email FROM user_ WHERE id LIKE 'u_' ORDER BY id"))
        after = {row[0]: row[1] for row in rows}
        invited = session.connection().execute(text("SELECT email FROM invitation")).scalar_one()
    moved = sorted(user_id for user_id in before if after[user_id] != before[user_id])
    assert moved in (["u2", "u5"], ["u2", "u6"])
    assert after["u2"] == "Bob@xn--fsqu00a.com"
    assert invited == "fay@xn--fsqu00a.com"


def test_mails_survive(db: Database) -> None:
    """Mails are the same after going down and up, but for those that the older version knows nothing of."""

    def put(kind: str) -> None:
        statement = (
            "INSERT INTO mail (id, kind, email, address_digest, facts, attempts, next_attempt_at, outcome, last_error, "
            "created_at) VALUES (:kind, :kind, 'ann@example.com', 'x', '{\"a\": 1}', 2, :now, '', 'why', :now)"
        )
        with db.write() as session:
            session.connection().execute(text(statement), {"kind": kind, "now": NOW})

    def mails() -> list[tuple[object, ...]]:
        with db.read() as session:
            rows = session.connection().execute(text("SELECT * FROM mail ORDER BY id"))
            return [tuple(row) for row in rows]

    for kind in ("confirm", "low_balance", "reset", "sign_up"):
        put(kind)
    kept = mails()[:3]
    indexes = sorted(str(index["name"]) for index in inspect(db.engine).get_indexes("mail"))
    migrate(db, "0022", down=True)
    assert mails() == kept
    assert "sign_up_link" not in inspect(db.engine).get_table_names()
    with pytest.raises(IntegrityError):
        put("sign_up")
    migrate(db, "head")
    assert mails() == kept
    assert sorted(str(index["name"]) for index in inspect(db.engine).get_indexes("mail")) == indexes
    put("sign_up")
