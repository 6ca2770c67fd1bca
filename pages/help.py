"""Help: the first run, prices, money back, the API, and questions. The one page that needs no sign-in."""

import streamlit as st

from ui.help import show_help
from ui.i18n import _

st.title(_("Help"))
show_help()
