"""The audit log: deeds are written with whoever did them, nothing of it changes, and only an operator reads it."""

from __future__ import annotations

import csv
import io

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from core.errors import NotAllowedError
from core.logs import request_facts
from core.services import api_keys, audit_trail, corrections, limits, team, top_up
from core.services.api_key_settings import KeySettings
from core.services.application import Application


def test_deeds_name_their_actor_and_request(any_app: Application, sign_up) -> None:
    """Each deed stands there once with actor, subject and the request it was done in; a retry adds nothing."""
    operator = sign_up(any_app)
    customer = sign_up(any_app, "bea@example.com")
    with request_facts({"request_id": "req_test"}):
        key = api_keys.create_key(any_app, customer, KeySettings(name="camera", manages_keys=True)).key
    api_keys.rotate_key(any_app, customer, key.id)
    api_keys.revoke_key(any_app, customer, key.id)
    api_keys.revoke_key(any_app, customer, key.id)
    limits.set_limits(any_app, customer, day_cap_mt=1000, month_cap_mt=None, alert_below_mt=None)
    voucher = top_up.make_vouchers(any_app, operator, count=1, amount_mt=5000)[0]
    for _attempt in range(2):
        top_up.redeem_voucher(any_app, customer, voucher.code, idempotency_key="once")
        corrections.adjust_balance(
            any_app, operator, customer.account_id, 10, reason="a present", idempotency_key="once"
        )
    corrections.freeze_account(any_app, operator, customer.account_id, frozen=True, reason="test")
    team.invite_member(any_app, operator, "cy@example.com", "member")

    lines = audit_trail.list_trail(any_app, operator)
    assert [line.event.action for line in reversed(lines)] == [
        *("user.sign_up", "user.sign_up", "key.create", "key.rotate", "key.revoke", "limits.set", "voucher.make"),
        *("voucher.redeem", "balance.adjust", "account.freeze", "team.invite"),
    ]
    made = next(line for line in lines if line.event.action == "key.create")
    assert (made.actor, made.event.subject, made.event.request_id) == ("bea@example.com", key.id, "req_test")
    assert made.event.account_id == customer.account_id
    assert {line.event.request_id for line in lines if line is not made} == {None}
    own = audit_trail.list_trail(any_app, operator, account_id=customer.account_id)
    assert {line.event.account_id for line in own} == {customer.account_id}
    rows = list(csv.DictReader(io.StringIO(audit_trail.trail_csv(lines))))
    assert [row["action"] for row in rows] == [line.event.action for line in lines]
    assert "cy@example.com" not in audit_trail.trail_csv(lines), "an address that was invited is no business of the log"


def test_pages_go_on_where_they_ended(any_app: Application, sign_up) -> None:
    """Page by page, every event comes once."""
    operator = sign_up(any_app)
    for number in range(7):
        limits.set_limits(any_app, operator, day_cap_mt=number, month_cap_mt=None, alert_below_mt=None)
    seen, before = [], None
    while page := audit_trail.list_trail(any_app, operator, before=before, limit=3):
        seen += [line.event.id for line in page]
        before = (page[-1].event.created_at, page[-1].event.id)
    assert len(seen) == len(set(seen)) == 8


def test_only_the_operator_reads_it(any_app: Application, sign_up) -> None:
    """A customer is refused."""
    sign_up(any_app)
    with pytest.raises(NotAllowedError):
        audit_trail.list_trail(any_app, sign_up(any_app, "bea@example.com"))


@pytest.mark.parametrize("statement", ["UPDATE audit_event SET actor = 'nobody'", "DELETE FROM audit_event"])
def test_nothing_of_it_changes(any_app: Application, sign_up, statement: str) -> None:
    """The database refuses to change or remove an event."""
    sign_up(any_app)
    with pytest.raises(DatabaseError), any_app.db.write() as session:
        session.connection().execute(text(statement))
