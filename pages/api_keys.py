"""API keys: what programs sign in with, what each may do and has spent, and calls that run as they stand."""

import streamlit as st

from core.services import api_keys
from core.services.application import current
from ui.api_key_dialogs import forget_secret, fresh_key
from ui.api_keys import show_actions, show_calls, show_fresh_key, show_keys
from ui.i18n import _
from ui.session import require_user

user = require_user()
app = current()
if st.session_state.get("page_arrived"):
    # Shown once: whoever left the page does not find the secret again.
    forget_secret()

st.title(_("API keys"))
st.caption(_("A program signs in with a key and spends from the balance of this account, at the same prices."))
views = api_keys.list_keys(app, user)
fresh = fresh_key()
if fresh:
    show_fresh_key(app, fresh)
show_actions(user, views)
show_keys(user, views)
if not fresh:
    st.subheader(_("Call the API"))
    show_calls(app)
