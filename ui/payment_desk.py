"""Admin, Payments: money that is expected, and the operator's word that it came or did not."""

from __future__ import annotations

from datetime import UTC

import streamlit as st

from core.db import utcnow
from core.errors import VisionMeterError
from core.money import format_tokens
from core.payments.stripe_checkout import STRIPE
from core.payments.stripe_saved import SAVED_CARD
from core.payments.tables import Payment
from core.services import invoices, payments
from core.services.application import current
from core.services.payments import OpenPayment
from core.slots import period_of
from ui.correction_dialogs import reason_input
from ui.facts import show_facts
from ui.format import paid, plain, table_time, tokens
from ui.i18n import _
from ui.invoices import show_invoices
from ui.messages import explain
from ui.payment_words import state_words
from ui.payments import payment_facts
from ui.session import require_operator


def show_payment_desk() -> None:
    """What is pending; any payment by the reference on its transfer; Confirm and Reject."""
    if done := st.session_state.pop("payment_done", None):
        st.success(done, icon=":material/check_circle:")
    reference = st.text_input(
        _("Reference on the transfer"), key="payment_reference", placeholder="VM-7K3Q-9DHF", max_chars=64, width=360
    ).strip()
    if reference:
        found = payments.find_by_reference(current(), require_operator(), reference)
        if found is None:
            st.info(_("No payment has this reference: check it for a typing mistake, or look through those below."))
        else:
            _show_one(found)
            return
    _show_troubled()
    _show_issued()
    pending = payments.list_pending(current(), require_operator())
    if not pending:
        st.info(
            _("No payment is open: what customers open stands here until its money came.")
            if payments.list_money_providers(current())
            else _("Only vouchers are offered. For bank transfers, set VISIONMETER_BANK_TRANSFER to where it goes.")
        )
        return
    event = st.dataframe(
        [
            {
                _("Opened"): table_time(one.payment.created_at),
                _("Customer"): one.email,
                _("Amount"): paid(one.payment.amount_minor, one.payment.currency),
                _("Reference"): one.payment.provider_reference,
                _("Tokens"): format_tokens(one.payment.credited_mt),
                _("Given up after"): table_time(one.payment.expires_at),
            }
            for one in pending
        ],
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        # A selection is a list of row numbers: it must not outlive the list that it was made on.
        key=f"pending_{hash(tuple(one.payment.id for one in pending))}",
    )
    if event.selection.rows:
        _show_one(pending[event.selection.rows[0]])
    else:
        st.caption(_("Select a payment to confirm or reject it."))


def _show_one(found: OpenPayment) -> None:
    payment = found.payment
    show_facts({_("Customer"): plain(found.email), **payment_facts(payment)})
    show_invoices(invoices.list_for_operator(current(), require_operator(), payment.id), key=f"invoices_{payment.id}")
    if payment.state == "paid":
        return
    if payment.provider in (STRIPE, SAVED_CARD):
        _show_card(payment)
        return
    with st.container(horizontal=True):
        if st.button(_("The money is there"), type="primary", icon=":material/check:", key=f"confirm_{payment.id}"):
            st.dialog(_("The money is there"))(_confirm)(found)
        can_reject = payment.state != "cancelled"
        if can_reject and st.button(_("Reject"), icon=":material/block:", key=f"reject_{payment.id}"):
            st.dialog(_("Reject"))(_reject)(found)


def _show_card(payment: Payment) -> None:
    st.caption(_("Stripe says whether a card was charged; nobody confirms it by hand."))
    if st.button(_("Ask Stripe"), type="primary", icon=":material/sync:", key=f"ask_{payment.id}"):
        try:
            asked = payments.confirm_payment(current(), require_operator(), payment.id)
        except VisionMeterError as error:
            st.error(explain(error))
        else:
            st.session_state["payment_done"] = _("Stripe was asked: {state}.").format(state=state_words(asked))
            st.rerun()


def _show_troubled() -> None:
    """Card payments with money that did not fit, or tokens that were spent before their money went back."""
    troubled = payments.list_troubled(current(), require_operator())
    if not troubled:
        return
    st.warning(_("These card payments want a look: compare them with Stripe's dashboard."))
    st.dataframe(
        [
            {
                _("Opened"): table_time(one.found.payment.created_at),
                _("Customer"): one.found.email,
                _("Amount"): paid(one.found.payment.amount_minor, one.found.payment.currency),
                _("Taken back"): format_tokens(one.taken_mt),
                _("Owed"): format_tokens(one.owed_mt),
                _("Problem"): one.problem,
                _("Reference"): one.found.payment.id,
            }
            for one in troubled
        ],
        hide_index=True,
    )


def _show_issued() -> None:
    """Every invoice of a period, for the operator's books; nothing where none are issued."""
    if not invoices.are_issued(current()):
        return
    today = utcnow().date()
    with st.expander(_("Issued invoices"), icon=":material/receipt_long:"):
        chosen = st.date_input(_("From – to"), (today.replace(day=1), today), key="invoices_period", width=320)
        if len(chosen) != 2:
            st.info(_("Choose the last day too."))
            return
        since, until = period_of(*chosen, UTC)
        st.download_button(
            _("Invoices (CSV)"),
            data=lambda: invoices.issued_csv(current(), require_operator(), since, until),
            file_name=f"invoices-{chosen[0]}-{chosen[1]}.csv",
            mime="text/csv",
            icon=":material/download:",
            on_click="ignore",
        )


def _confirm(found: OpenPayment) -> None:
    payment = found.payment
    st.markdown(
        _("Did **{amount}** arrive with the reference `{reference}`?").format(
            amount=plain(paid(payment.amount_minor, payment.currency)), reference=payment.provider_reference
        )
    )
    st.caption(_("Credited to {customer}, once and for good.").format(customer=plain(found.email)))
    if st.button(
        _("Credit {amount}").format(amount=tokens(payment.credited_mt)), type="primary", key="confirm_payment"
    ):
        try:
            payments.confirm_payment(current(), require_operator(), payment.id)
        except VisionMeterError as error:
            st.error(explain(error))
        else:
            st.session_state["payment_done"] = _("Credited: {amount} to {customer}.").format(
                amount=tokens(payment.credited_mt), customer=plain(found.email)
            )
            st.rerun()


def _reject(found: OpenPayment) -> None:
    reason = reason_input()
    if st.button(_("Reject"), type="primary", key="reject_payment"):
        try:
            payments.reject_payment(current(), require_operator(), found.payment.id, reason=reason)
        except VisionMeterError as error:
            st.error(explain(error))
        else:
            st.session_state["payment_done"] = _("The payment of {customer} is rejected.").format(
                customer=plain(found.email)
            )
            st.rerun()
