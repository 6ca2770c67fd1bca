"""Admin, Ledger and load: the engine's queue, the check of everybody's entries, and the heads to keep elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

import streamlit as st

from core.errors import VisionMeterError
from core.ledger.seal import Head
from core.ledger.verify import Verification
from core.services import account_view, audit
from core.services.application import current
from ui.format import tokens
from ui.i18n import _, ngettext
from ui.messages import explain
from ui.navigation import forget_on_arrival
from ui.session import require_operator
from ui.uploader import file_uploader
from ui.verification import explain_problem

PROBLEMS_SHOWN = 20
HEAD_MB_MAX = 20


def show_ledger() -> None:
    """Load, check, heads."""
    app = current()
    operator = require_operator()
    left, middle, right = st.columns(3)
    left.metric(_("Device"), app.engine.device_name)
    middle.metric(_("Waiting for the engine"), app.engine.queue_depth)
    right.metric(_("Price list"), account_view.get_prices(app).version)
    st.caption(_("Replays every entry of every account and checks that all accounts, ours included, sum to zero."))
    forget_on_arrival("ledger_checked")
    if st.button(_("Check the ledger"), icon=":material/verified:", type="primary"):
        _check(())
    of_entries = st.container()
    st.subheader(_("Heads of the ledger"))
    st.caption(
        _(
            "A head covers every entry up to now. Keep it where nobody can change it together with the database: "
            "checked against it later, entries that were changed or cut off show."
        )
    )
    st.download_button(
        _("Export the heads"),
        data=lambda: audit.export_heads(app, operator),
        file_name="ledger-heads.json",
        mime="application/json",
        icon=":material/download:",
        on_click="ignore",
    )
    upload = file_uploader(_("Heads that were exported before"), type="json", key="heads_upload", limit_mb=HEAD_MB_MAX)
    if upload is not None and st.button(_("Check against these heads"), icon=":material/fact_check:"):
        try:
            heads = audit.read_heads(upload.getvalue().decode("utf-8", "replace"))
        except VisionMeterError as error:
            st.error(explain(error))
        else:
            _check(heads)
    # It stays until the next check: looking at another section meanwhile is no reason to replay everything again.
    if checked := st.session_state.get("ledger_checked"):
        check, count = checked
        with st.container() if count else of_entries:
            _show_check(check, count)


def _check(heads: Iterable[Head]) -> None:
    heads = list(heads)
    with st.spinner(_("Replaying the entries …")):
        check = audit.check_ledger(current(), require_operator(), heads=heads)
    st.session_state["ledger_checked"] = (check, len(heads))


def _show_check(check: Verification, heads: int) -> None:
    if check.ok:
        st.success(
            _("{accounts} accounts and {entries} entries agree; the sum is {sum}.").format(
                accounts=f"{check.accounts:,}", entries=f"{check.entries:,}", sum=tokens(check.ledger_sum_mt)
            )
        )
        if heads:
            st.success(
                ngettext("{n} account contains its exported head.", "{n} accounts contain their exported heads.", heads)
            )
    else:
        _show_problems(check)
    if check.ok and check.unsealed:
        st.caption(
            ngettext(
                "{n} newest entry is not sealed yet; that takes a few seconds.",
                "{n} newest entries are not sealed yet; that takes a few seconds.",
                check.unsealed,
            )
        )


def _show_problems(check: Verification) -> None:
    st.error(
        ngettext("The ledger disagrees in {n} account.", "The ledger disagrees in {n} accounts.", len(check.problems))
        if check.problems
        else _("All accounts together should sum to zero, and the sum is {sum}.").format(
            sum=tokens(check.ledger_sum_mt)
        ),
        icon=":material/report:",
    )
    st.caption(
        _("{accounts} accounts and {entries} entries were looked at.").format(
            accounts=f"{check.accounts:,}", entries=f"{check.entries:,}"
        )
    )
    if check.problems:
        st.dataframe(
            [
                {_("Account"): problem.account_id, _("Problem"): explain_problem(problem)}
                for problem in check.problems[:PROBLEMS_SHOWN]
            ],
            hide_index=True,
        )
