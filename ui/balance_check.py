"""Verify my balance: replay the account's own chain, keep its head, and check against one kept earlier."""

from __future__ import annotations

import streamlit as st

from core.errors import VisionMeterError
from core.identity.tables import User
from core.ledger.verify import Verification
from core.services import account_view, audit
from core.services.application import Application
from ui.facts import show_facts
from ui.format import tokens
from ui.i18n import _
from ui.messages import explain
from ui.uploader import file_uploader
from ui.verification import explain_problem

HEAD_BYTES_MAX = 1_000_000
# What a kept head may disagree with while the balance itself is right.
HEAD_CODES = {"head", "truncated"}


def show_balance_check(app: Application, user: User) -> None:
    """The check, its outcome, the head to keep, and the check against a head that was kept."""
    st.markdown(
        _(
            "Every movement of your balance is an entry, and each entry's seal covers all entries before it. The check "
            "replays them one by one: balances, holds, charges and seals must agree."
        )
    )
    kept = file_uploader(_("Check against a head I kept (optional)"), type="json", key="kept_head", limit_mb=1)
    if st.button(_("Verify my balance"), icon=":material/verified:", type="primary", key="verify_balance"):
        _verify(app, user, kept.getvalue() if kept else None)
    st.subheader(_("A head to keep"))
    st.markdown(
        _(
            "The head is the number of your newest entry and its seal. Keep it anywhere outside this service: as long "
            "as the chain still contains it, nothing before it was changed or cut off."
        )
    )
    (head,) = audit.read_heads(audit.export_own_head(app, user)) or [None]
    if head is None:
        st.caption(_("There is no entry yet."))
        return
    show_facts({_("Entry"): f"{head.seq:,}", _("Seal"): f"`{head.digest}`"})
    st.download_button(
        _("Download the head"),
        data=lambda: audit.export_own_head(app, user),
        file_name=f"visionmeter-head-{head.seq}.json",
        mime="application/json",
        icon=":material/download:",
        on_click="ignore",
    )


def _verify(app: Application, user: User, kept: bytes | None) -> None:
    heads = []
    if kept is not None:
        try:
            heads = [
                head
                for head in audit.read_heads(kept[:HEAD_BYTES_MAX].decode("utf-8", "replace"))
                if head.account_id == user.account_id
            ]
        except VisionMeterError as error:
            st.error(explain(error))
            return
        if not heads:
            st.error(_("This file holds no head of your account: choose the one that you downloaded here."))
            return
    with st.spinner(_("Replaying the entries …")):
        check = audit.verify_balance(app, user, heads=heads)
    if not check.ok:
        only_heads = bool(check.problems) and {problem.code for problem in check.problems} <= HEAD_CODES
        st.error(
            _("The head that you kept is not in your chain. Tell the operator what stands here:")
            if heads and only_heads
            else _("The entries do not give this balance. Tell the operator what stands here:")
        )
        for problem in check.problems:
            st.markdown(f"- {explain_problem(problem)}")
        if not check.problems:
            st.markdown("- " + _("What left your account and what the service took do not add up."))
        return
    _show_agreement(app, user, check)
    if heads:
        seq = max(head.seq for head in heads)
        st.success(
            _("The head that you kept is in the chain: entries 1 to {seq} are what they were.").format(seq=f"{seq:,}"),
            icon=":material/verified_user:",
        )


def _show_agreement(app: Application, user: User, check: Verification) -> None:
    posted_mt = account_view.get_balance(app, user).posted_mt
    st.success(
        _("All {count} entries replayed: they give exactly {balance}.").format(
            count=f"{check.entries:,}", balance=tokens(posted_mt)
        ),
        icon=":material/verified:",
    )
    st.caption(
        _("Sealed: {sealed} · not sealed yet: {unsealed}").format(
            sealed=f"{check.entries - check.unsealed:,}", unsealed=f"{check.unsealed:,}"
        )
    )
