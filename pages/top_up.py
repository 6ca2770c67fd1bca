"""Top up: buy tokens, redeem a voucher; below, every movement of the balance with its receipt."""

import uuid

import streamlit as st

from core.errors import VisionMeterError
from core.services import account_view, payments, top_up
from core.services.application import current
from ui.auto_top_up import show_auto_top_up
from ui.buy_tokens import show_buy_tokens
from ui.format import show_amount, tokens_and_money
from ui.help import help_link
from ui.i18n import _
from ui.messages import explain
from ui.payments import show_ended_payments, show_open_payments, show_owed, show_return
from ui.session import may, require_user
from ui.transactions import show_transactions

user = require_user()
app = current()
is_member = may(user, "member")
ways = payments.list_money_providers(app)


def show_voucher() -> None:
    if credited_mt := st.session_state.pop("credited_mt", None):
        st.success(
            _("Credited: {amount}. Your balance is now {balance}.").format(
                amount=tokens_and_money(credited_mt), balance=tokens_and_money(balance.available_mt)
            ),
            icon=":material/check_circle:",
        )
    st.subheader(_("Redeem a voucher"))
    with st.form("voucher", clear_on_submit=False):
        code = st.text_input(
            _("Voucher code"),
            placeholder="ABCD-EFGH-JKMN-PQRS",
            max_chars=40,
            key="voucher_code",
            disabled=not is_member,
        )
        submitted = st.form_submit_button(_("Redeem"), type="secondary" if ways else "primary", disabled=not is_member)
    st.caption(_("Vouchers come from the operator of this installation."))
    if not submitted and st.session_state.pop("voucher_redeemed", False):
        del st.session_state["voucher_request"]
    # One key for one form as it stands on the page: a double click sends the same request twice.
    request = st.session_state.setdefault("voucher_request", uuid.uuid4().hex)
    if submitted and code.strip():
        try:
            st.session_state["credited_mt"] = top_up.redeem_voucher(app, user, code, idempotency_key=request)
        except VisionMeterError as error:
            st.error(explain(error))
        else:
            st.session_state["voucher_redeemed"] = True
            st.rerun()


st.title(_("Top up"))
show_return()
show_owed(user)
balance = account_view.get_balance(app, user)
left, middle, right = st.columns(3)
show_amount(left, _("Available"), balance.available_mt)
show_amount(middle, _("Held for runs"), balance.held_mt)
right.metric(_("Price of a token"), f"{app.settings.currency_symbol}{app.settings.price_per_token}")
if not is_member:
    st.caption(_("You may look at this account and not top it up: ask its owner for the role of a member."))
found = payments.list_payments(app, user)
show_open_payments(found, is_member=is_member)
if ways:
    st.subheader(_("Buy tokens"))
    show_buy_tokens(balance, ways, is_member=is_member)
show_auto_top_up(user, ways)
show_ended_payments(found)
show_voucher()
help_link("start", _("How to get tokens"))

st.subheader(_("Transactions"))
show_transactions(user)
