"""The banner on every page when the balance fell below what the owner set; once for each crossing."""

from __future__ import annotations

import streamlit as st

from core.identity.tables import User
from core.services import limits
from core.services.application import current
from ui.format import tokens, tokens_and_money
from ui.i18n import _
from ui.navigation import go_to
from ui.session import may, require_user


def show_low_balance(user: User) -> None:
    """Say that the balance is low until somebody tops up or dismisses it."""
    alert = limits.find_low_balance(current(), user)
    if alert is None:
        return
    with st.container(key="low_balance", border=True, horizontal=True, vertical_alignment="center"):
        st.markdown(
            ":orange[:material/notification_important:] "
            + _("The balance fell below {threshold}: {balance} left.").format(
                threshold=tokens(alert.threshold_mt), balance=tokens_and_money(alert.posted_mt)
            ),
            width="stretch",
        )
        if may(user, "member"):
            if st.button(_("Top up"), type="primary", key="low_balance_top_up"):
                go_to("top_up")
            st.button(_("Dismiss"), key="low_balance_dismiss", on_click=_dismiss)


def _dismiss() -> None:
    limits.dismiss_alerts(current(), require_user())
