"""Top up, Payments: those that are open with how to pay them, and those that ended."""

from __future__ import annotations

import html
from collections.abc import Sequence

import streamlit as st

from core.errors import PaymentNotFoundError, VisionMeterError
from core.identity.tables import User
from core.ledger.tables import Entry
from core.money import format_tokens
from core.payments.stripe_checkout import STRIPE
from core.payments.stripe_saved import SAVED_CARD
from core.payments.tables import Payment
from core.services import invoices, payments
from core.services.application import current
from ui.facts import show_facts
from ui.format import local_time, paid, percent, plain, table_time, tokens
from ui.i18n import _
from ui.invoices import show_invoices
from ui.messages import explain
from ui.payment_words import state_words, way_words
from ui.session import require_user

POLL_S = 3.0
# As the primary buttons beside it look.
_BUTTON = "display:inline-block; padding:0.4rem 0.75rem; border-radius:0.5rem; " + (
    "background:#0b6b62; color:#fff; text-decoration:none"
)


def show_open_payments(found: Sequence[Payment], *, is_member: bool) -> None:
    """Those that wait for their money, as cards that say how to pay."""
    pending = [payment for payment in found if payment.state == "pending"]
    if pending:
        st.subheader(_("Open payments"))
    for payment in pending:
        _show_pending(payment, is_member=is_member)
    if cards := frozenset(payment.id for payment in pending if payment.provider in (STRIPE, SAVED_CARD)):
        st.fragment(_watch, run_every=POLL_S)(cards)


def _watch(card_ids: frozenset[str]) -> None:
    """Look whether one of these has ended; the page as a whole is drawn again only then."""
    found = payments.list_payments(current(), require_user())
    ended = [payment for payment in found if payment.id in card_ids and payment.state != "pending"]
    if ended:
        st.session_state["card_news"] = _news(ended[0])
        st.rerun()


def show_ended_payments(found: Sequence[Payment]) -> None:
    """The others as a table; nothing where there are none."""
    if ended := [payment for payment in found if payment.state != "pending"]:
        with st.expander(_("Earlier payments"), icon=":material/history:"):
            _show_ended(ended)


def _show_pending(payment: Payment, *, is_member: bool) -> None:
    how = payments.get_instructions(current(), payment)
    with st.container(border=True, key=f"payment_{payment.id}"):
        st.markdown(
            f"**{paid(payment.amount_minor, payment.currency)}** {way_words(payment.provider)} · "
            f":orange-badge[{state_words(payment)}]"
        )
        st.caption(
            _(
                "Credits {amount} when it arrives. Opened {time}, given up after {until}; what comes later is credited "
                "too."
            ).format(amount=_bought(payment), time=local_time(payment.created_at), until=local_time(payment.expires_at))
        )
        if payment.provider == SAVED_CARD:
            st.info(_("The saved card is being charged: there is nothing to do."))
            return
        if how is None:
            st.info(_("This way to pay is not offered any more: cancel it, or ask the operator if you have paid."))
        else:
            if how.text:
                st.text(how.text)
            if how.reference:
                st.caption(_("Write this reference on the transfer, so that it is found:"))
                st.code(how.reference, language=None)
            if how.url:
                _show_way_out(how.url)
            elif payment.provider == STRIPE:
                _show_unprepared(payment, is_member=is_member)
        if st.button(_("Cancel this payment"), key=f"cancel_{payment.id}", disabled=not is_member):
            try:
                ended = payments.cancel_payment(current(), require_user(), payment.id)
            except VisionMeterError as error:
                st.error(explain(error))
            else:
                if ended.state == "paid":
                    st.session_state["card_news"] = _news(ended)
                st.rerun()


def show_return() -> None:
    """What became of a card payment whose customer comes back from Stripe's page."""
    came_back, payment_id = st.query_params.pop("card", ""), st.query_params.pop("payment", "")
    if came_back and payment_id:
        try:
            payment = payments.check_payment(current(), require_user(), payment_id)
        except VisionMeterError as error:
            st.session_state["card_news"] = ("warning", explain(error))
        else:
            st.session_state["card_news"] = _news(payment)
        # The balance beside the page was drawn before Stripe was asked.
        st.rerun()
    kind, words = st.session_state.pop("card_news", ("", ""))
    if kind == "success":
        st.success(words, icon=":material/check_circle:")
    elif kind == "info":
        st.info(words)
    elif kind == "warning":
        st.warning(words)


def show_owed(user: User) -> None:
    """What the account owes for money that went back to a card; nothing where it owes nothing."""
    if owed_mt := payments.get_owed(current(), user):
        st.warning(
            _(
                "{amount} were spent before their money went back to the card: they are taken from the next top-up."
            ).format(amount=tokens(owed_mt)),
            icon=":material/undo:",
        )


def _news(payment: Payment) -> tuple[str, str]:
    if payment.state == "paid":
        return "success", _("Paid and credited: {amount}.").format(amount=tokens(payment.credited_mt))
    if payment.state == "pending":
        return "info", _("This payment is not paid yet: go on below, or wait for the bank's answer.")
    return "info", _("This payment has ended unpaid: nothing was charged.")


def _show_way_out(url: str) -> None:
    # Streamlit's link button opens a tab of its own, in which the customer would come back beside this one.
    address, words = html.escape(url, quote=True), html.escape(_("Go on to pay"))
    link = f'<a href="{address}" target="_self" rel="noreferrer" style="{_BUTTON}">{words}</a>'
    st.markdown(link, unsafe_allow_html=True)


def _show_unprepared(payment: Payment, *, is_member: bool) -> None:
    st.info(_("The page for cards did not answer, and nothing was charged."))
    if st.button(_("Ask again"), type="primary", key=f"prepare_{payment.id}", disabled=not is_member):
        try:
            payments.prepare_payment(current(), require_user(), payment.id)
        except VisionMeterError as error:
            st.error(explain(error))
        else:
            st.rerun()


def _show_ended(ended: Sequence[Payment]) -> None:
    columns = {
        _("Opened"): [table_time(payment.created_at) for payment in ended],
        _("Amount"): [paid(payment.amount_minor, payment.currency) for payment in ended],
        _("Tokens"): [format_tokens(payment.credited_mt) for payment in ended],
        _("State"): [state_words(payment) for payment in ended],
        _("Transaction"): [_transaction(payment) for payment in ended],
        _("Reference"): [payment.provider_reference for payment in ended],
    }
    if any(payment.reason for payment in ended):
        columns[_("Reason")] = [payment.reason for payment in ended]
    st.dataframe(columns, hide_index=True)
    show_invoices(invoices.list_invoices(current(), require_user()), key="invoices")


def show_payment_of(entry: Entry) -> None:
    """The payment behind a top-up or its bonus; welcome tokens and old vouchers have none."""
    try:
        payment = payments.find_payment(current(), require_user(), entry.memo)
    except PaymentNotFoundError:
        st.info(_("No money was paid for this top-up."))
        return
    show_facts(payment_facts(payment))
    show_invoices(invoices.list_of_payment(current(), require_user(), payment.id), key=f"invoices_{entry.seq}")


def payment_facts(payment: Payment) -> dict[str, str]:
    """All that a payment's own page would say."""
    money = paid(payment.amount_minor, payment.currency) if payment.amount_minor else ""
    facts = {
        _("Payment"): f"{money} {way_words(payment.provider)} · {state_words(payment)}".strip(),
        _("Tokens"): _bought(payment),
        _("Reference"): f"`{payment.provider_reference}` · `{payment.id}`",
        _("Opened"): local_time(payment.created_at),
    }
    if payment.paid_at:
        facts[_("Credited")] = f"{local_time(payment.paid_at)} · {_transaction(payment)}"
    if payment.reason:
        facts[_("Reason")] = plain(payment.reason)
    return facts


def _bought(payment: Payment) -> str:
    if not payment.bonus_mt:
        return tokens(payment.tokens_mt)
    return _("{amount} and {bonus} bonus ({percent})").format(
        amount=tokens(payment.tokens_mt), bonus=tokens(payment.bonus_mt), percent=percent(payment.bonus_percent)
    )


def _transaction(payment: Payment) -> str:
    return f"№ {payment.entry_seq}" if payment.entry_seq else ""
