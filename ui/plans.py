"""The plan of an account in words, and the operator's dialog that changes it."""

from __future__ import annotations

import streamlit as st

from core.plans import Plan
from core.pricing.refund_rules import LateRule
from core.services import plans
from core.services.admin import Customer
from core.services.application import current
from ui.correction_dialogs import Proposal, confirm, propose, reason_input
from ui.format import percent, plain
from ui.i18n import _
from ui.session import require_operator


def plan_words(plan: str) -> str:
    """A plan, in words."""
    words = {Plan.STANDARD.value: _("standard"), Plan.VIP.value: _("VIP")}
    return words.get(plan, plan)


def late_words(rule: LateRule) -> str:
    """A rule of the price list for late results, short: `VIP, 10 s + 10 s: 50 %`."""
    seconds = f"{rule.after_s} s" + (f" + {rule.each_s} s" if rule.each_s else "")
    return f"{'' if rule.plan is None else f'{plan_words(rule.plan)}, '}{seconds}: {percent(rule.percent)}"


def plan_facts(plan: str) -> str:
    """What the customer has of his plan, as Markdown."""
    if plan != Plan.VIP:
        return plan_words(plan)
    promises = [promise_words(rule) for rule in plans.list_promises(current(), plan)]
    return " ".join([f"**{plan_words(plan)}**:", _("your pictures go before those of other customers."), *promises])


def promise_words(rule: LateRule) -> str:
    """A promise of the price list, in sentences."""
    promise = _("A picture that is not done {seconds} s after its run was started gives back {percent} of its charge.")
    words = promise.format(seconds=rule.after_s, percent=percent(rule.percent))
    if not rule.each_s:
        return words
    return f"{words} {_('Each picture before it in the run allows {seconds} s more.').format(seconds=rule.each_s)}"


def plan_button(customer: Customer) -> str:
    """What the button says that changes this customer's plan."""
    return _("Back to the standard plan") if customer.account.plan == Plan.VIP else _("Make it a VIP")


def plan_dialog(customer: Customer, request: str) -> None:
    """Make an account a VIP, or take it back to the standard plan."""
    plan = Plan.STANDARD if customer.account.plan == Plan.VIP else Plan.VIP
    proposal: Proposal | None = st.session_state.get(f"proposal_{request}")
    if proposal is None:
        with st.form(f"form_{request}", border=False):
            st.markdown(_explain(plan))
            reason = reason_input(_("Reason, for the audit log"))
            if st.form_submit_button(_("Continue"), type="primary"):
                propose(request, None, reason)
        return
    question = _("Make {customer} a VIP?") if plan == Plan.VIP else _("Take {customer} back to the standard plan?")
    confirm(
        request,
        proposal,
        question.format(customer=plain(customer.user.email)),
        label=plan_button(customer),
        act=lambda: _changed(customer, plan, proposal),
    )


def _explain(plan: Plan) -> str:
    if plan == Plan.STANDARD:
        return _("Runs started from now on take turns with everybody's. What was promised to those under way holds.")
    promises = [promise_words(rule) for rule in plans.list_promises(current(), plan)]
    return " ".join([_("Pictures of runs started from now on go before those of other customers."), *promises])


def _changed(customer: Customer, plan: Plan, proposal: Proposal) -> str:
    plans.set_plan(current(), require_operator(), customer.account.id, plan, reason=proposal.reason)
    words = _("{customer} is a VIP now.") if plan == Plan.VIP else _("{customer} has the standard plan now.")
    return words.format(customer=plain(customer.user.email))
