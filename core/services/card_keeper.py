"""The thread that asks Stripe for what no event told, charges kept cards where it is time, and collects debts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import islice

from sqlalchemy import text, update
from sqlmodel import col, select

from core.db import utcnow
from core.errors import CardPaymentsDownError, StripeRefusedError
from core.payments.card_tables import TO_CHECK, CardEvent, CardSession
from core.payments.stripe_checkout import StripeEvent
from core.payments.stripe_saved import SAVED_CARD
from core.payments.tables import Payment
from core.services import card_reversals, cards, kept_cards, saved_cards
from core.services.application import Application

log = logging.getLogger("visionmeter")

CHECK_PAUSE_S_MAX = 3600.0
# The slowest bank methods answer within two weeks. Who pays later is credited by the event, or when an operator asks.
CHECKED_FOR = timedelta(days=14)
CHECKS_AT_ONCE = 20
POLL_S = 5.0
# Long after Stripe has given an event up (three days), nobody sends it again; Stripe itself keeps it as long.
EVENT_KEPT = timedelta(days=30)
# Refunds and disputes are listed after so many times the pause before a payment's first check: an hour.
REVERSALS_EVERY = 60
# So far back beyond the last list: Stripe lists an event a moment after it dates it, and clocks differ.
OVERLAP = timedelta(hours=1)
EVENTS_AT_ONCE = 100


def check_due(app: Application) -> int:
    """Ask Stripe for the payments whose time has come, each by one process; gives how many were asked for.

    Each is asked for later and later, and two weeks after it was opened for the last time: if it is still under way
    then, the operator sees it. Raises `CardPaymentsDownError` after some that were not answered; they all come again.
    """
    now = utcnow()
    due = select(CardSession, Payment).join(Payment, col(Payment.id) == col(CardSession.payment_id))
    due = due.where(text(TO_CHECK), col(CardSession.next_check_at) <= now)
    with app.db.read() as session:
        rows = session.exec(due.order_by(col(CardSession.next_check_at)).limit(CHECKS_AT_ONCE)).all()
    asked, patience = 0, cards.Patience()
    for row, payment in rows:
        if not _claim(app, row, now, is_last=payment.created_at <= now - CHECKED_FOR):
            continue
        check = saved_cards.check if payment.provider == SAVED_CARD else cards.check_payment
        try:
            check(app, row.payment_id)
        except CardPaymentsDownError as error:
            patience.wear(error)
        asked += 1
    return asked


def _claim(app: Application, row: CardSession, now: datetime, *, is_last: bool) -> bool:
    claim = update(CardSession).where(
        col(CardSession.payment_id) == row.payment_id,
        text(TO_CHECK),
        col(CardSession.next_check_at) <= now,
        col(CardSession.checks) == row.checks,
    )
    if is_last:
        # Before the question, which may be the last thing that this process does; an answer takes it back.
        claim = claim.values(next_check_at=None, problem=cards.UNHEARD)
    else:
        pause_s = min(app.settings.stripe_check_after_s * 2 ** min(row.checks + 1, 20), CHECK_PAUSE_S_MAX)
        claim = claim.values(next_check_at=now + timedelta(seconds=pause_s))
    claim = claim.values(checks=row.checks + 1)
    with app.db.write() as session:
        is_ours = session.execute(claim.returning(col(CardSession.payment_id))).first() is not None
    if is_ours and is_last:
        log.error("payment %s: %s", row.payment_id, cards.UNHEARD)
    return is_ours


def hear_missed(app: Application, since: datetime) -> int:
    """Act on the refunds and disputes since then of which no event came; gives how many there were.

    Raises `CardPaymentsDownError` after some that Stripe did not explain; what was heard stays, the others come again.
    """
    events = cards.require_stripe(app).list_events(cards.REVERSAL_EVENTS, since)
    missed, patience = 0, cards.Patience()
    while some := list(islice(events, EVENTS_AT_ONCE)):
        for event in _unheard(app, some):
            try:
                missed += cards.receive_reversal(app, event)
            except StripeRefusedError:
                # It would refuse that again.
                log.error("event %s: Stripe does not tell of which payment it is", event.id)
            except CardPaymentsDownError as error:
                patience.wear(error)
    if patience.unanswered:
        raise CardPaymentsDownError("Stripe did not say of which payments some refunds or disputes are.")
    return missed


def _unheard(app: Application, events: Sequence[StripeEvent]) -> list[StripeEvent]:
    with app.db.read() as session:
        ids = [event.id for event in events]
        heard = set(session.exec(select(CardEvent.id).where(col(CardEvent.id).in_(ids))).all())
    return [event for event in events if event.id not in heard]


def collect_due(app: Application) -> None:
    """Take what accounts owe and have now: what a run held when the money went back may be free again."""
    with app.db.read() as session:
        account_ids = card_reversals.owing_accounts(session)
    for account_id in account_ids:
        with app.db.write() as session:
            card_reversals.collect_owed(session, account_id)


def forget_events(app: Application) -> None:
    """Remove the ids of events that nobody sends again."""
    old = col(CardEvent.received_at) < utcnow() - EVENT_KEPT
    with app.db.read() as session:
        found = session.exec(select(CardEvent.id).where(old).limit(1000)).all()
    if found:
        with app.db.write() as session:
            for event in session.exec(select(CardEvent).where(col(CardEvent.id).in_(found))).all():
                session.delete(event)


class CardKeeper:
    """The thread that charges kept cards and asks Stripe for what it did not hear; none where no cards are taken."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="card-keeper", daemon=True)
        self._is_on = cards.find_stripe(app) is not None
        # Up to where refunds and disputes are known; what Stripe keeps is listed once after each start.
        self._known_to = utcnow() - EVENT_KEPT
        self._list_at = utcnow()

    def start(self) -> None:
        """Begin, where cards are taken."""
        if self._is_on:
            self._thread.start()

    def stop(self, *, timeout_s: float = 20.0) -> None:
        """Finish the question that is being asked."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _keep(self) -> None:
        pause_s = usual_s = min(POLL_S, self._app.settings.stripe_check_after_s)
        while not self._stopping.wait(pause_s):
            # All of them, whatever one runs into: a payment that Stripe will not tell of must not hide a refund.
            failed = [step for step in self._steps() if not self._done(step)]
            pause_s = min(pause_s * 2, 60.0) if failed else usual_s

    def _steps(self) -> Sequence[Callable[[], object]]:
        app = self._app
        return (
            # Before Stripe is asked, which may be silent.
            lambda: collect_due(app),
            lambda: saved_cards.charge_due(app, self._stopping),
            self._check_all,
            lambda: kept_cards.remember_due(app),
            lambda: kept_cards.detach_due(app),
            self._list_reversals,
            lambda: forget_events(app),
        )

    def _done(self, step: Callable[[], object]) -> bool:
        if self._stopping.is_set():
            return False
        try:
            step()
        except CardPaymentsDownError:
            return False
        except Exception:
            # A database that is away for a moment must not end the thread.
            log.exception("the card keeper goes on after an error")
            return False
        return True

    def _check_all(self) -> None:
        while check_due(self._app) and not self._stopping.is_set():
            pass

    def _list_reversals(self) -> None:
        now = utcnow()
        if now < self._list_at:
            return
        # Also where Stripe refuses: a key that may not read events is no reason to ask all the time.
        self._list_at = now + timedelta(seconds=REVERSALS_EVERY * self._app.settings.stripe_check_after_s)
        if missed := hear_missed(self._app, self._known_to):
            log.warning("%s refunds and disputes were found by asking Stripe: look at the webhook", missed)
        self._known_to = now - OVERLAP
