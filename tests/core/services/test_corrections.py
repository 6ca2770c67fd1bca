"""One key of an operator's form, one refund or adjustment, the same answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from core.db import Database
from core.errors import IdempotencyConflictError
from core.identity.tables import User
from core.ledger import ledger
from core.services import account_view, corrections

if TYPE_CHECKING:
    from core.services.application import Application

OPERATOR = cast(User, SimpleNamespace(id="user_olga", is_operator=True))


@pytest.fixture
def app(db: Database) -> Application:
    """What corrections need of an application: its database."""
    return cast("Application", SimpleNamespace(db=db))


def charge(db: Database, account_id: str, key: str) -> str:
    """A captured hold of 1.000."""
    with db.write() as session:
        hold = ledger.place_hold(session, account_id, 1000, charge_key=key, lease_s=60, actor="test")
        ledger.capture_hold(session, hold.id, 1000, actor="test")
    return hold.id


def posted(db: Database, account_id: str) -> int:
    """The settled balance."""
    with db.read() as session:
        return ledger.get_balance(session, account_id).posted_mt


def test_a_refund_is_made_once_for_its_key(app: Application, account_id: str) -> None:
    """The form sent twice refunds once; another amount, charge or reason under its key is refused."""
    first, second = charge(app.db, account_id, "a"), charge(app.db, account_id, "b")

    def refund(hold_id: str, amount_mt: int | None, reason: str = "blurred") -> int:
        return corrections.refund_charge(app, OPERATOR, hold_id, amount_mt, reason=reason, idempotency_key="key")

    assert refund(first, 300) == refund(first, 300) == 300
    for request in ((first, 400), (first, None), (second, 300), (first, 300, "late")):
        with pytest.raises(IdempotencyConflictError):
            refund(*request)
    assert posted(app.db, account_id) == 8300


def test_an_adjustment_is_made_once_for_its_key(app: Application, account_id: str) -> None:
    """The form sent twice adjusts once; another amount or reason under its key is refused."""

    def adjust(amount_mt: int, reason: str = "sorry") -> int:
        return corrections.adjust_balance(app, OPERATOR, account_id, amount_mt, reason=reason, idempotency_key="key")

    assert adjust(-500) == adjust(-500) == 9500
    for request in ((500,), (-501,), (-500, "mistake")):
        with pytest.raises(IdempotencyConflictError):
            adjust(*request)
    assert posted(app.db, account_id) == 9500


def test_a_frozen_customer_is_told_why(app: Application, account_id: str) -> None:
    """The newest reason while the account is frozen, and none before and after."""
    ann = cast(User, SimpleNamespace(account_id=account_id))

    def freeze(frozen: bool, reason: str) -> str | None:
        corrections.freeze_account(app, OPERATOR, account_id, frozen=frozen, reason=reason)
        return account_view.find_freeze_reason(app, ann)

    assert account_view.find_freeze_reason(app, ann) is None
    assert freeze(True, "card stolen?") == "card stolen?"
    assert freeze(False, "he called") is None
    assert freeze(True, "stolen indeed") == "stolen indeed"
