"""The portal's main script: language, sign-in, navigation, sidebar. Served by `app.py`."""

import streamlit as st

from core.config import ROOT
from ui.low_balance import show_low_balance
from ui.navigation import pages
from ui.session import current_user, show_sign_in, show_unused_invitation, start_language
from ui.sidebar import show_demo_banner, show_sidebar

ASSETS = ROOT / "assets"

st.set_page_config(page_title="VisionMeter", page_icon=str(ASSETS / "icon.png"), layout="wide")
user = current_user()
start_language(user)
st.logo(str(ASSETS / "wordmark.svg"), icon_image=str(ASSETS / "icon.svg"), size="large")
page = st.navigation(
    list(pages(operator=user is not None and user.is_operator).values()),
    position="sidebar" if user else "hidden",
)
if user is None:
    # No page runs: whatever address was asked for stays in the bar and opens after signing in.
    show_sign_in()
else:
    show_sidebar(user)
    show_demo_banner(user)
    show_low_balance(user)
    show_unused_invitation(user)
    st.session_state["page_arrived"] = st.session_state.get("page_shown") != page.url_path
    st.session_state["page_shown"] = page.url_path
    page.run()
