"""The pages of the portal, in the order of the menu."""

from __future__ import annotations

import streamlit as st

from core.config import ROOT
from ui.i18n import _


def pages(*, operator: bool) -> dict[str, st.Page]:
    """All pages by name. Everybody's list is the same, so that any address opens after signing in; Admin is only
    shown to the operator, and guards itself."""
    return {
        "detect": _page("detect", _("Detect"), ":material/center_focus_strong:", default=True),
        "top_up": _page("top_up", _("Top up"), ":material/account_balance_wallet:"),
        "receipts": _page("receipts", _("Receipts"), ":material/receipt_long:"),
        "usage": _page("usage", _("Usage"), ":material/monitoring:"),
        "savings": _page("savings", _("Savings"), ":material/savings:"),
        "api_keys": _page("api_keys", _("API keys"), ":material/key:"),
        "account": _page("account", _("Account"), ":material/manage_accounts:"),
        "help": _page("help", _("Help"), ":material/help:"),
        "admin": _page("admin", _("Admin"), ":material/tune:", hidden=not operator),
    }


def go_to(name: str) -> None:
    """Leave this run and open another page."""
    st.switch_page(pages(operator=False)[name])


def _page(name: str, title: str, icon: str, *, default: bool = False, hidden: bool = False) -> st.Page:
    return st.Page(
        ROOT / "pages" / f"{name}.py",
        title=title,
        icon=icon,
        default=default,
        visibility="hidden" if hidden else "visible",
    )
