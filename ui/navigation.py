"""The pages of the portal, in the order of the menu."""

from __future__ import annotations

import streamlit as st

from core.config import ROOT
from ui.i18n import N_, _

TITLES = {
    "detect": N_("Detect"),
    "top_up": N_("Top up"),
    "receipts": N_("Receipts"),
    "usage": N_("Usage"),
    "savings": N_("Savings"),
    "api_keys": N_("API keys"),
    "account": N_("Account"),
    "help": N_("Help"),
    "admin": N_("Admin"),
}
ICONS = {
    "detect": ":material/center_focus_strong:",
    "top_up": ":material/account_balance_wallet:",
    "receipts": ":material/receipt_long:",
    "usage": ":material/monitoring:",
    "savings": ":material/savings:",
    "api_keys": ":material/key:",
    "account": ":material/manage_accounts:",
    "help": ":material/help:",
    "admin": ":material/tune:",
}


def find_page(name: str, *, is_operator: bool = False) -> st.Page:
    """A page by its name. Admin is only in the menu of the operator, and guards itself."""
    return st.Page(
        ROOT / "pages" / f"{name}.py",
        title=_(TITLES[name]),
        icon=ICONS[name],
        default=name == "detect",
        visibility="hidden" if name == "admin" and not is_operator else "visible",
    )


def list_pages(*, is_operator: bool) -> list[st.Page]:
    """Everybody's list is the same, so that any address opens after signing in."""
    return [find_page(name, is_operator=is_operator) for name in TITLES]


def forget_on_arrival(*keys: str) -> None:
    """Drop what another visit to this page left in the session."""
    if st.session_state.get("page_arrived"):
        for key in keys:
            st.session_state.pop(key, None)


def go_to(name: str) -> None:
    """Leave this run and open another page."""
    st.switch_page(find_page(name))
