"""Admin, Customers: who they are, what they have and may spend, and their charges."""

from __future__ import annotations

import uuid

import streamlit as st

from core.money import format_tokens
from core.services import account_view, admin, corrections, payments
from core.services.admin import Customer
from core.services.application import current
from ui.correction_dialogs import adjust_dialog, freeze_dialog, refund_dialog
from ui.facts import show_facts
from ui.format import plain, show_amount, table_time, tokens
from ui.i18n import _
from ui.messages import role_words
from ui.payments import payment_facts
from ui.plans import plan_button, plan_dialog, plan_words
from ui.second_factor import reset_button
from ui.session import require_operator
from ui.transactions import kind_words

CUSTOMERS_MAX = 200
CHARGES_PER_PAGE = 50
MOVEMENTS_SHOWN = 20


def show_customers() -> None:
    """Everybody with his balance; the chosen one with his caps, his charges and the actions."""
    if done := st.session_state.pop("correction_done", None):
        st.success(done, icon=":material/check_circle:")
    search = st.text_input(_("Find by address"), key="customer_search", icon=":material/search:", width=360)
    found = admin.list_customers(current(), require_operator(), search=search, limit=CUSTOMERS_MAX + 1)
    customers = found[:CUSTOMERS_MAX]
    if not customers:
        st.info(_("Nobody's address contains this: look for a shorter part of it."))
        return
    event = st.dataframe(
        [
            {
                _("E-mail"): customer.user.email,
                _("Role"): _("operator") if customer.user.is_operator else role_words(customer.user.role),
                _("Settled balance"): format_tokens(customer.account.posted_mt),
                _("Held"): format_tokens(customer.account.held_mt),
                _("Caps"): _caps(customer),
                _("Plan"): plan_words(customer.account.plan),
                _("State"): _state(customer),
                _("Since"): table_time(customer.user.created_at),
                _("Last sign-in"): table_time(customer.user.last_sign_in_at) if customer.user.last_sign_in_at else "",
                _("Demonstration"): customer.account.is_demo,
            }
            for customer in customers
        ],
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        # A selection is a list of row numbers: it must not outlive the list that it was made on.
        key=f"customers_{hash(tuple(customer.user.id for customer in customers))}",
    )
    if len(found) > CUSTOMERS_MAX:
        st.caption(_("The first {n} are shown: search to find the others.").format(n=CUSTOMERS_MAX))
    if len(customers) == 1 and not search:
        st.caption(_("Nobody but you has signed up yet."))
    if not event.selection.rows:
        st.caption(_("Select a customer to refund, adjust the balance, change the plan or freeze the account."))
        return
    _show_customer(customers[event.selection.rows[0]])


def _state(customer: Customer) -> str:
    if customer.account.closed_at is not None:
        return _("deleted")
    return _("frozen") if customer.account.status == "frozen" else _("active")


def _caps(customer: Customer) -> str:
    account = customer.account
    caps = [
        words.format(amount=format_tokens(cap_mt))
        for words, cap_mt in ((_("{amount} a day"), account.day_cap_mt), (_("{amount} a month"), account.month_cap_mt))
        if cap_mt is not None
    ]
    return " · ".join(caps)


def _show_customer(customer: Customer) -> None:
    account = customer.account
    is_frozen = account.status == "frozen"
    st.subheader(plain(customer.user.email))
    st.caption(f"{_('Account')} `{account.id}` · {_('Plan')}: {plan_words(account.plan)}")
    spending = admin.get_customer_spending(current(), require_operator(), account.id)
    available, held, today, month = st.columns(4)
    show_amount(available, _("Available"), account.posted_mt - account.held_mt)
    show_amount(held, _("Held"), account.held_mt)
    today.metric(_("Spent today"), tokens(spending.day_spent_mt), **_cap_below(spending.day_cap_mt))
    month.metric(_("Spent this month"), tokens(spending.month_spent_mt), **_cap_below(spending.month_cap_mt))
    is_closed = account.closed_at is not None
    if is_closed:
        st.info(
            _("Its owner deleted this account: only its books are left, and it stays frozen."),
            icon=":material/person_off:",
        )
    elif is_frozen:
        st.warning(_("This account is frozen: it cannot spend. Money still comes in."), icon=":material/ac_unit:")
    with st.container(horizontal=True):
        # The key of a request is made when its dialog opens: whatever is clicked twice in there is done once.
        if st.button(_("Adjust the balance"), icon=":material/tune:"):
            st.dialog(_("Adjust the balance"))(adjust_dialog)(customer, uuid.uuid4().hex)
        planning = plan_button(customer)
        if st.button(planning, icon=":material/star:"):
            st.dialog(planning)(plan_dialog)(customer, uuid.uuid4().hex)
        freezing = _("Let it spend again") if is_frozen else _("Freeze the account")
        if not is_closed and st.button(freezing, icon=":material/lock_open:" if is_frozen else ":material/ac_unit:"):
            st.dialog(freezing)(freeze_dialog)(customer, uuid.uuid4().hex)
        reset_button(customer.user)
    _show_charges(customer)
    _show_movements(customer)


def _cap_below(cap_mt: int | None) -> dict[str, str]:
    """A cap as the small line under a metric."""
    text = _("no cap") if cap_mt is None else _("cap {amount}").format(amount=format_tokens(cap_mt))
    return {"delta": text, "delta_color": "off", "delta_arrow": "off"}


def _show_movements(customer: Customer) -> None:
    """Top-ups, refunds and corrections, with the charge or the payment behind each."""
    account_id = customer.account.id
    found = corrections.list_movements(current(), require_operator(), account_id, limit=MOVEMENTS_SHOWN + 1)
    shown = found[:MOVEMENTS_SHOWN]
    if not shown:
        return
    st.markdown(f"**{_('Top-ups, refunds and corrections')}**")
    memos = [account_view.split_memo(entry) for entry, _actor in shown]
    event = st.dataframe(
        {
            _("Time"): [table_time(entry.created_at) for entry, _actor in shown],
            _("Type"): [kind_words(entry.kind) for entry, _actor in shown],
            _("Tokens"): [format_tokens(entry.posted_change_mt, signed=True) for entry, _actor in shown],
            _("Settled after"): [format_tokens(entry.posted_after_mt) for entry, _actor in shown],
            _("By"): [actor for _entry, actor in shown],
            _("Reason"): [reason for _reference, reason in memos],
            _("Reference"): [reference for reference, _reason in memos],
        },
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        key=f"movements_{account_id}_{shown[0].entry.seq}",
    )
    if len(found) > MOVEMENTS_SHOWN:
        st.caption(_("The newest {n} are shown.").format(n=MOVEMENTS_SHOWN))
    for row in event.selection.rows:
        entry = shown[row].entry
        if entry.hold_id:
            st.button(
                _("Show the charge that was refunded"),
                icon=":material/receipt_long:",
                key="movement_charge",
                on_click=st.session_state.__setitem__,
                args=(f"charge_reference_{account_id}", entry.hold_id),
            )
        elif entry.kind in ("top_up", "bonus") and (
            paid := payments.find_by_reference(current(), require_operator(), entry.memo)
        ):
            show_facts({_("Customer"): plain(paid.email), **payment_facts(paid.payment)})


def _show_charges(customer: Customer) -> None:
    st.markdown(f"**{_('Charges')}**")
    reference = st.text_input(
        _("Receipt or reference"),
        key=f"charge_reference_{customer.account.id}",
        placeholder="rcpt_… / hold_…",
        width=360,
    ).strip()
    trail: list[int] = st.session_state.setdefault(f"charges_{customer.account.id}_{reference}", [])
    found = corrections.list_charges(
        current(),
        require_operator(),
        customer.account.id,
        reference=reference,
        before_seq=trail[-1] if trail else None,
        limit=CHARGES_PER_PAGE + 1,
    )
    charges = found[:CHARGES_PER_PAGE]
    if not charges:
        st.info(_("No charge of this account has this number.") if reference else _("Nothing was charged here yet."))
        return
    event = st.dataframe(
        [
            {
                _("Time"): table_time(charge.charged_at),
                _("Picture"): charge.image_name,
                _("Model"): charge.model,
                _("Charged"): format_tokens(charge.amount_mt),
                _("Refunded"): format_tokens(charge.refunded_mt) if charge.refunded_mt else "",
                _("Left to refund"): format_tokens(charge.left_mt),
                _("Reference"): charge.hold_id,
            }
            for charge in charges
        ],
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        # A refund makes another table: nothing is selected in it that was chosen for the refund before.
        key=f"charges_{customer.account.id}_{charges[0].seq}_{len(charges)}_{sum(c.refunded_mt for c in charges)}",
    )
    with st.container(horizontal=True):
        chosen = charges[event.selection.rows[0]] if event.selection.rows else None
        can_refund = chosen is not None and chosen.left_mt > 0
        pressed = st.button(_("Refund this charge"), icon=":material/undo:", disabled=not can_refund)
        if pressed and chosen is not None:
            st.dialog(_("Refund this charge"))(refund_dialog)(customer, chosen, uuid.uuid4().hex)
        if trail or len(found) > CHARGES_PER_PAGE:
            if st.button(_("Newer"), icon=":material/chevron_left:", disabled=not trail, key="charges_newer"):
                trail.pop()
                st.rerun()
            is_last = len(found) <= CHARGES_PER_PAGE
            if st.button(_("Older"), icon=":material/chevron_right:", disabled=is_last, key="charges_older"):
                trail.append(charges[-1].seq)
                st.rerun()
    if chosen is None:
        st.caption(_("Select a charge to refund it."))
    elif not can_refund:
        st.caption(_("All of this charge was refunded."))
