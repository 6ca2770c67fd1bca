"""The portal's main script: language, sign-in, navigation, sidebar. Served by `app.py`."""

import streamlit as st

from core.config import ROOT
from ui.auto_top_up import show_auto_stopped
from ui.low_balance import show_low_balance
from ui.mail_links import find_link, show_link
from ui.media import watch_media
from ui.navigation import list_pages
from ui.session import current_user, forget_another, show_unused_invitation, show_way_in, start_language
from ui.sidebar import show_demo_banner, show_sidebar
from ui.sign_in import show_sign_in
from ui.unconfirmed import show_unconfirmed

ASSETS = ROOT / "assets"

st.set_page_config(page_title="VisionMeter", page_icon=str(ASSETS / "icon.png"), layout="wide")
st.html(ASSETS / "portal.css")
user = current_user()
forget_another(user)
watch_media(user.id if user else None)
start_language(user)
link = find_link()
st.logo(str(ASSETS / "wordmark.svg"), icon_image=str(ASSETS / "icon.svg"), size="large")
page = st.navigation(
    list_pages(is_operator=user is not None and user.is_operator),
    position="sidebar" if user and not link else "hidden",
)
if link is not None:
    show_link(*link)
elif user is None and page.url_path == "help":
    # The only page for everybody: it shows nothing of anybody.
    show_way_in()
    page.run()
elif user is None:
    # No page runs: whatever address was asked for stays in the bar and opens after signing in.
    show_sign_in()
else:
    show_sidebar(user)
    show_demo_banner(user)
    show_low_balance(user)
    show_unconfirmed(user)
    show_auto_stopped(user)
    show_unused_invitation(user)
    st.session_state["page_arrived"] = st.session_state.get("page_shown") != page.url_path
    st.session_state["page_shown"] = page.url_path
    page.run()
