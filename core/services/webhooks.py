"""Telling a program that its job is done, or that the balance is low: signed messages, tried again until they are
received or given up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import datetime

from core.db import utcnow
from core.errors import KeyMayNotError, WebhookUrlRefusedError
from core.fetch.webhook_signing import new_secret, sign
from core.identity.audit_log import record_event
from core.identity.callers import ApiCaller, Caller
from core.jobs import deliveries
from core.jobs.tables import WebhookDelivery
from core.ledger import spending
from core.ledger.tables import LowBalanceAlert
from core.services.application import Application
from core.services.run_report import RunReport, report_finished_run
from core.services.team import require_now, require_role

log = logging.getLogger("visionmeter")

# One of them serves only accounts that answer well and soon: however many hang, the others' messages are sent.
SENDERS = 4
POLL_S = 1.0

MakeBody = Callable[[WebhookDelivery, RunReport | LowBalanceAlert], bytes]


def get_secret(app: Application, caller: Caller) -> str:
    """What the account's webhooks are signed with; made when it is asked for first.

    Members may read it, and keys that manage keys. Raises `RoleNeededError` or `KeyMayNotError`.
    """
    with app.db.write() as session:
        if not isinstance(caller, ApiCaller):
            require_now(session, caller, "member")
        elif not caller.key.manages_keys:
            raise KeyMayNotError("This API key does not manage keys: use one that does, or the page API keys.")
        record_event(
            session,
            actor=caller.id,
            action="webhook.read_secret",
            subject=caller.account_id,
            account_id=caller.account_id,
        )
        return deliveries.get_or_make_secret(session, caller.account_id, new_secret())


def list_deliveries(
    app: Application,
    caller: Caller,
    *,
    status: str | None = None,
    limit: int,
    before: tuple[datetime, str] | None = None,
) -> Sequence[WebhookDelivery]:
    """The account's newest messages, of one of `deliveries.STATUSES` or all.

    `before` (time, id) goes on where a page ended.
    """
    with app.db.read() as session:
        return deliveries.list_deliveries(session, caller.account_id, status=status, limit=limit, before=before)


def get_delivery(app: Application, caller: Caller, delivery_id: str) -> WebhookDelivery:
    """A message of the account. Raises `DeliveryNotFoundError`."""
    with app.db.read() as session:
        return deliveries.get_delivery(session, caller.account_id, delivery_id)


def resend(app: Application, caller: Caller, delivery_id: str) -> WebhookDelivery:
    """Send a message again that was delivered or given up: at once, under its id, with all its attempts before it.

    One that is still on its way stays as it is. Members may, and keys, which start jobs too. Raises
    `DeliveryNotFoundError` or `RoleNeededError`.
    """
    with app.db.write() as session:
        if isinstance(caller, ApiCaller):
            require_role(caller, "member")
        else:
            require_now(session, caller, "member")
        if deliveries.reopen_delivery(session, caller.account_id, delivery_id):
            record_event(
                session, actor=caller.id, action="webhook.resend", subject=delivery_id, account_id=caller.account_id
            )
        return deliveries.get_delivery(session, caller.account_id, delivery_id)


def deliver_next(app: Application, make_body: MakeBody, *, prompt_only: bool = False) -> str | None:
    """One attempt at the next message that is due: `delivered`, `retried` or `given_up`; None when nothing is due.

    `prompt_only` leaves out accounts whose last attempt failed or was slow.
    """
    with app.db.read() as session:
        if not deliveries.has_claimable_delivery(session, utcnow(), prompt_only=prompt_only):
            return None
    with app.db.write() as session:
        attempt = deliveries.claim_delivery(session, utcnow(), prompt_only=prompt_only)
        if attempt is None:
            return None
        delivery = attempt.delivery
        secret = deliveries.get_or_make_secret(session, delivery.account_id, new_secret())
    status, refused = None, False
    try:
        body = make_body(delivery, _find_subject(app, delivery))
        headers = {"Content-Type": "application/json", **sign(secret, delivery.id, utcnow(), body)}
        status = app.fetcher.post(delivery.url, body, headers)
    except WebhookUrlRefusedError:
        refused = True
    finally:
        # Also where it could not be made or sent: the account must not wait until its turn runs out.
        with app.db.write() as session:
            outcome = deliveries.end_attempt(session, attempt, status, refused=refused)
    log.info("webhook %s of %s: %s, status %s", delivery.id, delivery.job_id or "balance", outcome, status)
    return outcome


def _find_subject(app: Application, delivery: WebhookDelivery) -> RunReport | LowBalanceAlert:
    if delivery.job_id is not None:
        return report_finished_run(app, delivery.job_id)
    assert delivery.alert_seq is not None  # a constraint
    with app.db.read() as session:
        return spending.get_alert(session, delivery.account_id, delivery.alert_seq)


class WebhookSender:
    """Threads that deliver what is due. Any number of processes may have one."""

    def __init__(self, app: Application, make_body: MakeBody, *, told: Callable[[str], None] | None = None) -> None:
        self._app = app
        self._make_body = make_body
        self._told = told
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(index == 0,), name=f"webhooks-{index}", daemon=True)
            for index in range(SENDERS)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self, *, timeout_s: float = 12.0) -> None:
        """Let the attempts in hand end; what they could not say is tried again later."""
        self._stopping.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout_s)

    def _work(self, prompt_only: bool) -> None:
        while not self._stopping.is_set():
            try:
                outcome = deliver_next(self._app, self._make_body, prompt_only=prompt_only)
            except Exception:
                # A database that is away, say: the message is due again after its pause.
                log.exception("a webhook could not be sent; it is tried again")
                self._stopping.wait(POLL_S)
                continue
            if outcome is None:
                self._stopping.wait(POLL_S)
            elif self._told is not None:
                self._told(outcome)
