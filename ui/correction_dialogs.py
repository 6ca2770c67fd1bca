"""What an operator does to an account: a form with a reason, then one sentence that says what happens, then the deed.

`request` is made when a dialog opens and names what is asked for: whatever is clicked twice in it is done once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from core.errors import InsufficientTokensError, RefundTooLargeError, VisionMeterError
from core.ledger.corrections import REASON_LENGTH_MAX
from core.money import format_tokens, parse_tokens
from core.services import corrections
from core.services.admin import Customer
from core.services.application import current
from core.services.corrections import Charge
from ui.format import local_time, plain, tokens, tokens_and_money
from ui.i18n import _
from ui.messages import explain, explain_code
from ui.session import require_operator


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a dialog's form asks for, before it is confirmed. `amount_mt` in milli-tokens."""

    amount_mt: int
    reason: str


def adjust_dialog(customer: Customer, request: str) -> None:
    """Add tokens to a balance or take some."""
    proposal: Proposal | None = st.session_state.get(f"proposal_{request}")
    if proposal is None:
        with st.form(f"form_{request}", border=False):
            st.markdown(plain(customer.user.email))
            amount = st.text_input(_("Tokens to add; with a minus, tokens to take"), placeholder="-5.000")
            reason = reason_input()
            if st.form_submit_button(_("Continue"), type="primary"):
                propose(request, amount, reason)
        return
    added = proposal.amount_mt > 0
    words = _("Add {amount} to the balance of {customer}?") if added else _("Take {amount} from {customer}?")
    confirm(
        request,
        proposal,
        words.format(amount=tokens_and_money(abs(proposal.amount_mt)), customer=plain(customer.user.email)),
        label=(_("Add {amount}") if added else _("Take {amount}")).format(amount=tokens(abs(proposal.amount_mt))),
        act=lambda: _adjusted(customer, proposal, request),
    )


def _adjusted(customer: Customer, proposal: Proposal, request: str) -> str:
    posted_mt = corrections.adjust_balance(
        current(),
        require_operator(),
        customer.account.id,
        proposal.amount_mt,
        reason=proposal.reason,
        idempotency_key=request,
    )
    return _("The balance of {customer} is now {amount}.").format(
        customer=plain(customer.user.email), amount=tokens(posted_mt)
    )


def refund_dialog(customer: Customer, charge: Charge, request: str) -> None:
    """Give back a charge or a part of it."""
    proposal: Proposal | None = st.session_state.get(f"proposal_{request}")
    if proposal is None:
        with st.form(f"form_{request}", border=False):
            st.markdown(
                _("{name}, charged {amount} on {time}. Left to refund: **{left}**").format(
                    name=plain(charge.image_name or charge.hold_id),
                    amount=tokens(charge.amount_mt),
                    time=local_time(charge.charged_at),
                    left=tokens(charge.left_mt),
                )
            )
            amount = st.text_input(_("Tokens to refund"), value=format_tokens(charge.left_mt))
            reason = reason_input()
            if st.form_submit_button(_("Continue"), type="primary"):
                propose(request, amount, reason, left_mt=charge.left_mt)
        return
    confirm(
        request,
        proposal,
        _("Refund {amount} to {customer}?").format(
            amount=tokens_and_money(proposal.amount_mt), customer=plain(customer.user.email)
        ),
        label=_("Refund {amount}").format(amount=tokens(proposal.amount_mt)),
        act=lambda: _refunded(customer, charge, proposal, request),
    )


def _refunded(customer: Customer, charge: Charge, proposal: Proposal, request: str) -> str:
    amount_mt = corrections.refund_charge(
        current(),
        require_operator(),
        charge.hold_id,
        proposal.amount_mt,
        reason=proposal.reason,
        idempotency_key=request,
    )
    return _("Refunded {amount} to {customer}.").format(amount=tokens(amount_mt), customer=plain(customer.user.email))


def freeze_dialog(customer: Customer, request: str) -> None:
    """Freeze an account, or let a frozen one spend again."""
    is_frozen = customer.account.status == "frozen"
    proposal: Proposal | None = st.session_state.get(f"proposal_{request}")
    if proposal is None:
        with st.form(f"form_{request}", border=False):
            st.markdown(
                _("Runs of this account can hold tokens again.")
                if is_frozen
                else _(
                    "New runs of this account are refused. What runs already ends as usual, and money still comes in."
                )
            )
            reason = reason_input()
            if st.form_submit_button(_("Continue"), type="primary"):
                propose(request, None, reason)
        return
    words = _("Let {customer} spend again?") if is_frozen else _("Freeze the account of {customer}?")
    confirm(
        request,
        proposal,
        words.format(customer=plain(customer.user.email)),
        label=_("Let it spend again") if is_frozen else _("Freeze the account"),
        act=lambda: _frozen(customer, proposal, frozen=not is_frozen),
    )


def _frozen(customer: Customer, proposal: Proposal, *, frozen: bool) -> str:
    corrections.freeze_account(
        current(), require_operator(), customer.account.id, frozen=frozen, reason=proposal.reason
    )
    words = _("The account of {customer} is frozen.") if frozen else _("The account of {customer} can spend again.")
    return words.format(customer=plain(customer.user.email))


def reason_input(label: str = "") -> str:
    """The field for the reason; the customer reads it unless a label says otherwise."""
    return st.text_area(label or _("Reason, which the customer reads"), max_chars=REASON_LENGTH_MAX, height=90)


def propose(request: str, amount: str | None, reason: str, *, left_mt: int | None = None) -> None:
    """Look at what was typed; when it can be done, go on to the question."""
    try:
        amount_mt = 0 if amount is None else parse_tokens(amount.strip().replace("−", "-").removeprefix("+"))
    except ValueError:
        st.error(_("Enter the tokens as a number with at most three decimals."))
        return
    if amount is not None and (amount_mt == 0 or (left_mt is not None and amount_mt < 0)):
        st.error(explain_code("invalid_amount"))
    elif left_mt is not None and amount_mt > left_mt:
        st.error(explain(RefundTooLargeError(amount_mt=amount_mt, refundable_mt=left_mt)))
    elif not reason.strip():
        st.error(explain_code("reason_missing"))
    else:
        st.session_state[f"proposal_{request}"] = Proposal(amount_mt, reason.strip())
        st.rerun(scope="fragment")


def confirm(request: str, proposal: Proposal, question: str, *, label: str, act: Callable[[], str]) -> None:
    """The question and its two answers. `act` does it and says what was done."""
    st.markdown(f"**{question}**")
    st.caption(f"{_('Reason')}: {plain(proposal.reason)}")
    with st.container(horizontal=True):
        confirmed = st.button(label, type="primary", key=f"confirm_{request}")
        back = st.button(_("Back"), key=f"back_{request}")
    if confirmed:
        try:
            st.session_state["correction_done"] = act()
        except InsufficientTokensError as error:
            st.error(
                _("At most {amount} can be taken: the rest is held or not there.").format(
                    amount=tokens(error.details["available_mt"])
                )
            )
        except VisionMeterError as error:
            st.error(explain(error))
        else:
            del st.session_state[f"proposal_{request}"]
            st.rerun()
    if back:
        del st.session_state[f"proposal_{request}"]
        st.rerun(scope="fragment")
