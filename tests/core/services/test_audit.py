"""Proving the ledger: who may check what, and heads that are exported, read back and extended."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from sqlalchemy import text

from core.config import ROOT
from core.db import Database
from core.errors import AccountNotActiveError, InvalidHeadError, NotAllowedError
from core.identity.tables import User
from core.ledger import ledger
from core.ledger.seal import Head
from core.services import audit
from tests.core.ledger.tampering import allow_changes

if TYPE_CHECKING:
    from core.services.application import Application


@pytest.fixture
def app(db: Database) -> Application:
    """What the audit needs of an application: its database."""
    return cast("Application", SimpleNamespace(db=db))


@pytest.fixture
def ann(db: Database) -> User:
    """A customer with two entries."""
    return _customer(db, "Ann", entries=2)


@pytest.fixture
def bob(db: Database) -> User:
    """Another customer, with one entry."""
    return _customer(db, "Bob", entries=1)


def _customer(db: Database, name: str, *, entries: int, is_operator: bool = False) -> User:
    with db.write() as session:
        account_id = ledger.open_account(session, name).id
        for _ in range(entries):
            ledger.post_top_up(session, account_id, 1000, source="house:test", actor="test")
    return cast(User, SimpleNamespace(id=f"user_{name}", account_id=account_id, is_operator=is_operator))


@pytest.fixture
def operator(db: Database) -> User:
    """The operator, whose own account is empty."""
    return _customer(db, "Olga", entries=0, is_operator=True)


def forge(db: Database, account_id: str, statement: str) -> None:
    """Change the database behind the ledger's back."""
    with db.write() as session:
        allow_changes(session.connection())
        session.connection().execute(text(statement), {"account": account_id})


def cut_off(db: Database, account_id: str) -> None:
    """Take the account's second entry away, without a trace in the database."""
    forge(db, account_id, "DELETE FROM entry WHERE account_id = :account AND seq = 2")
    with db.write() as session:
        connection = session.connection()
        connection.execute(text("DELETE FROM seal WHERE account_id = :account AND seq = 2"), {"account": account_id})
        connection.execute(
            text("UPDATE account SET posted_mt = 1000, version = 1 WHERE id = :account"), {"account": account_id}
        )


# Who may check what -------------------------------------------------------------------------------


def test_only_the_operator_checks_everybody(app: Application, ann: User, bob: User, operator: User) -> None:
    """A customer is refused the check and the heads of all accounts; the operator gets both."""
    with pytest.raises(NotAllowedError):
        audit.check_ledger(app, ann)
    with pytest.raises(NotAllowedError):
        audit.export_heads(app, bob)
    check = audit.check_ledger(app, operator)
    assert (check.ok, check.accounts, check.entries) == (True, 3, 3)
    heads = audit.read_heads(audit.export_heads(app, operator))
    assert {(head.account_id, head.seq) for head in heads} == {(ann.account_id, 2), (bob.account_id, 1)}


def test_a_customer_checks_his_own(app: Application, db: Database, ann: User, bob: User) -> None:
    """His check sees his entries only, and what is wrong in another account is nothing of his."""
    forge(db, bob.account_id, "UPDATE account SET posted_mt = posted_mt + 1 WHERE id = :account")
    check = audit.verify_balance(app, ann)
    assert (check.ok, check.accounts, check.entries) == (True, 1, 2)
    assert [problem.account_id for problem in audit.verify_balance(app, bob).problems] == [bob.account_id]


def test_a_kept_head_convicts_what_was_cut_off(app: Application, db: Database, ann: User, operator: User) -> None:
    """A customer's own file and the operator's both find what the database alone does not show."""
    own, everybody = audit.export_own_head(app, ann), audit.export_heads(app, operator)
    cut_off(db, ann.account_id)
    assert audit.check_ledger(app, operator).ok
    for text_ in (own, everybody):
        (problem,) = audit.check_ledger(app, operator, heads=audit.read_heads(text_)).problems
        assert (problem.code, problem.account_id, problem.seq) == ("truncated", ann.account_id, 2)
        (problem,) = audit.verify_balance(app, ann, heads=audit.read_heads(text_)).problems
        assert (problem.code, problem.seq) == ("truncated", 2)


# Heads --------------------------------------------------------------------------------------------


def test_exporting_seals_what_is_new(app: Application, db: Database, ann: User, bob: User) -> None:
    """The head covers the newest entry; exporting one's own touches nobody else's chain."""
    (head,) = audit.read_heads(audit.export_own_head(app, ann))
    assert (head.account_id, head.seq) == (ann.account_id, 2)
    assert audit.replay(db, ann.account_id).unsealed == 0
    assert audit.replay(db, bob.account_id).unsealed == 1
    assert audit.seal_account(app, bob.account_id) == 1
    assert audit.seal_ledger(app) == 0


def test_no_entries_no_head(app: Application, db: Database, operator: User) -> None:
    """An account without entries has a document without heads; one that is not there is an error."""
    assert audit.read_heads(audit.export_own_head(app, operator)) == []
    with pytest.raises(AccountNotActiveError):
        audit.collect_heads(db, "acct_none")


def test_heads_survive_the_way_through_a_file(db: Database, ann: User, bob: User) -> None:
    """What is read is what was written."""
    heads = audit.collect_heads(db)
    assert len(heads) == 2
    assert audit.read_heads(audit.write_heads(heads)) == heads
    assert json.loads(audit.write_heads(heads))["format"] == "visionmeter-ledger-head/1"


@pytest.mark.parametrize(
    "document",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '"text"',
        "[" * 100_000,
        '{"format": "visionmeter-ledger-head/2", "accounts": {}}',
        '{"format": "visionmeter-ledger-head/1"}',
        '{"format": "visionmeter-ledger-head/1", "accounts": []}',
        '{"format": "visionmeter-ledger-head/1", "accounts": {"acct_1": 7}}',
        '{"format": "visionmeter-ledger-head/1", "accounts": {"acct_1": {"seq": 7}}}',
        '{"format": "visionmeter-ledger-head/1", "accounts": {"acct_1": {"seq": "7", "digest": "x"}}}',
        '{"format": "visionmeter-ledger-head/1", "accounts": {"acct_1": {"seq": 0, "digest": "x"}}}',
        '{"format": "visionmeter-ledger-head/1", "accounts": {"acct_1": {"seq": true, "digest": "x"}}}',
        '{"format": "visionmeter-ledger-head/1", "accounts": {"acct_1": {"seq": 1.5, "digest": "x"}}}',
        '{"format": "visionmeter-ledger-head/1", "accounts": {"acct_1": {"seq": 1, "digest": null}}}',
    ],
)
def test_what_is_no_head_is_refused_in_words(document: str) -> None:
    """Anything but a document that `write_heads` wrote is one expected error."""
    with pytest.raises(InvalidHeadError, match="no exported head"):
        audit.read_heads(document)


def test_extending_heads(db: Database, ann: User) -> None:
    """New heads come together with whether the ledger still agrees with the kept ones."""
    kept = audit.collect_heads(db)
    with db.write() as session:
        ledger.post_top_up(session, ann.account_id, 1, source="house:test", actor="test")
    heads, outcome = audit.extend_heads(db, kept)
    assert [(head.seq, outcome.ok, outcome.unsealed) for head in heads] == [(3, True, 0)]
    forged = [Head(kept[0].account_id, kept[0].seq, "0" * 64)]
    heads, outcome = audit.extend_heads(db, forged, ann.account_id)
    assert [problem.code for problem in outcome.problems] == ["head"]


def test_the_audit_needs_no_torch() -> None:
    """What checks the ledger starts without the engine, streamlit and FastAPI."""
    heavy = ("torch", "torchvision", "ultralytics", "cv2", "numpy", "pandas", "streamlit", "fastapi")
    command = f"import sys, core.services.audit; print([name for name in {heavy!r} if name in sys.modules])"
    outcome = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == "[]"
