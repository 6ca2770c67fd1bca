"""Top up: redeem a voucher; below, every movement of the balance with its receipt."""

import uuid

import pandas as pd
import streamlit as st

from core.errors import VisionMeterError
from core.ledger.tables import Entry
from core.money import format_tokens
from core.services import account_view, audit, top_up
from core.services.application import current
from ui.format import local_time, money, show_amount, tokens, tokens_and_money
from ui.i18n import _
from ui.messages import explain
from ui.receipt import show_receipt
from ui.session import require_user

user = require_user()
app = current()

st.title(_("Top up"))
balance = account_view.get_balance(app, user)
left, middle, right = st.columns(3)
show_amount(left, _("Available"), balance.available_mt)
show_amount(middle, _("Held for runs"), balance.held_mt)
right.metric(_("Price of a token"), f"{app.settings.currency_symbol}{app.settings.price_per_token}")

if credited_mt := st.session_state.pop("credited_mt", None):
    st.success(
        _("Credited: {amount}. Your balance is now {balance}.").format(
            amount=tokens_and_money(credited_mt), balance=tokens_and_money(balance.available_mt)
        ),
        icon=":material/check_circle:",
    )
st.subheader(_("Redeem a voucher"))
with st.form("voucher", clear_on_submit=False):
    code = st.text_input(_("Voucher code"), placeholder="ABCD-EFGH-JKMN-PQRS", max_chars=40, key="voucher_code")
    submitted = st.form_submit_button(_("Redeem"), type="primary")
st.caption(_("Vouchers come from the operator of this installation. Card payments are not offered here yet."))
if submitted and code.strip():
    try:
        st.session_state["credited_mt"] = top_up.redeem_voucher(app, user, code, idempotency_key=uuid.uuid4().hex)
    except VisionMeterError as error:
        st.error(explain(error))
    else:
        st.rerun()

st.subheader(_("Transactions"))
KINDS = {
    "top_up": _("top-up"),
    "hold": _("held"),
    "capture": _("charge"),
    "release": _("given back"),
    "expire": _("given back"),
}
VIEWS = {
    "settled": _("Top-ups and charges"),
    "top_up": _("Top-ups"),
    "capture": _("Charges"),
    "all": _("Everything, holds too"),
}
view = st.segmented_control(
    _("Show"), list(VIEWS), format_func=VIEWS.__getitem__, default="settled", required=True, key="transactions_view"
)
everything = account_view.list_transactions(app, user)


def wanted(entry: Entry) -> bool:
    return view == "all" or entry.kind == view or (view == "settled" and entry.posted_change_mt != 0)


entries = [entry for entry in everything if wanted(entry)]
if not entries:
    st.info(_("Nothing here yet: redeem a voucher above, then run your first picture on the Detect page."))
else:
    table = pd.DataFrame(
        {
            _("Time"): [local_time(entry.created_at) for entry in entries],
            _("Type"): [KINDS.get(entry.kind, entry.kind) for entry in entries],
            _("Tokens"): [format_tokens(entry.posted_change_mt, signed=True) for entry in entries],
            _("Worth"): [money(entry.posted_change_mt) for entry in entries],
            _("Balance after"): [format_tokens(entry.posted_after_mt) for entry in entries],
            _("Held after"): [format_tokens(entry.held_after_mt) for entry in entries],
            _("Reference"): [entry.hold_id or entry.memo for entry in entries],
        }
    )
    if view != "all":
        table = table.drop(columns=[_("Held after")])
    gain, loss = ("#57C99A", "#F08A80") if st.context.theme.type == "dark" else ("#0B7A4B", "#C0392B")
    colours = [
        f"color: {gain if entry.posted_change_mt > 0 else loss}" if entry.posted_change_mt else "" for entry in entries
    ]
    event = st.dataframe(
        table.style.apply(lambda _column: colours, subset=[_("Tokens")]) if len(entries) <= 2000 else table,
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        # Row numbers mean nothing in another list.
        key=f"transactions_{view}_{len(entries)}",
    )
    st.caption(_("Select a charge to see its receipt."))
    for row in event.selection.rows:
        if entries[row].hold_id:
            show_receipt(app, user, entries[row].hold_id)
    with st.container(horizontal=True):
        st.download_button(
            _("CSV of what is shown"),
            data=account_view.transactions_csv(entries),
            file_name="transactions.csv",
            mime="text/csv",
            icon=":material/download:",
            on_click="ignore",
        )
        if st.button(_("Verify my balance"), icon=":material/verified:"):
            check = audit.verify_balance(app, user)
            if check.ok:
                st.success(
                    _("All {count} entries replayed: they give exactly {balance}.").format(
                        count=f"{check.entries:,}", balance=tokens(balance.posted_mt)
                    )
                )
            else:
                st.error(
                    _("The entries do not give this balance. Tell the operator: {problem}").format(
                        problem="; ".join(problem.message for problem in check.problems)
                    )
                )
