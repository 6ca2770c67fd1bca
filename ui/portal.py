"""The portal's main script: language, sign-in, navigation, sidebar. Served by `app.py`."""

from pathlib import Path

import streamlit as st

from core.config import ROOT
from ui.i18n import _
from ui.session import current_user, show_sign_in, start_language
from ui.sidebar import show_demo_banner, show_sidebar

PAGES = ROOT / "pages"
ASSETS = ROOT / "assets"


def _page(file: str, title: str, icon: str, *, default: bool = False, hidden: bool = False) -> st.Page:
    return st.Page(
        Path(PAGES / file),
        title=title,
        icon=icon,
        default=default,
        visibility="hidden" if hidden else "visible",
    )


st.set_page_config(page_title="VisionMeter", page_icon=str(ASSETS / "icon.png"), layout="wide")
user = current_user()
start_language(user)
st.logo(str(ASSETS / "wordmark.svg"), icon_image=str(ASSETS / "icon.svg"), size="large")

page = st.navigation(
    [
        _page("detect.py", _("Detect"), ":material/center_focus_strong:", default=True),
        _page("top_up.py", _("Top up"), ":material/account_balance_wallet:"),
        _page("usage.py", _("Usage"), ":material/monitoring:"),
        _page("admin.py", _("Admin"), ":material/tune:", hidden=user is None or not user.is_operator),
    ],
    position="sidebar" if user else "hidden",
)
if user is None:
    # No page runs: whatever address was asked for stays in the bar and opens after signing in.
    show_sign_in()
else:
    show_sidebar(user)
    show_demo_banner(user)
    page.run()
