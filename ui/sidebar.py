"""The sidebar of every page: live balance, language, sign-out."""

from __future__ import annotations

import streamlit as st

from core.identity.tables import User
from core.services import account_view
from core.services.application import current
from ui.format import money, tokens
from ui.i18n import _
from ui.session import language_switch, require_user, sign_out

REFRESH_S = 1.0


def show_sidebar(user: User) -> None:
    """Draw the sidebar; the balance follows a run while it lasts."""
    busy = account_view.count_open_images(current(), user) > 0
    with st.sidebar:
        st.fragment(_show_balance, run_every=REFRESH_S if busy else None)()
        st.space("small")
        language_switch(user, key="sidebar_language")
        st.text(user.email)
        st.button(_("Sign out"), icon=":material/logout:", on_click=sign_out, width="stretch")


def _show_balance() -> None:
    balance = account_view.get_balance(current(), require_user())
    with st.container(key="balance"):
        st.metric(_("Available"), tokens(balance.available_mt))
        held = _("Held: {amount}").format(amount=tokens(balance.held_mt)) if balance.held_mt else ""
        st.caption(f"{money(balance.available_mt)}{' · ' + held if held else ''}")


def show_demo_banner(user: User) -> None:
    """Say plainly that an account holds invented data."""
    if account_view.get_account(current(), user).is_demo:
        st.warning(
            _("Demonstration account: its history was generated and nobody was charged."), icon=":material/science:"
        )
