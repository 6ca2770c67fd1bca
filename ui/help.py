"""The help in the portal, and the way to it from wherever a customer wonders."""

from __future__ import annotations

import streamlit as st

from core.services import account_view
from core.services.application import current
from ui.code_samples import own_host
from ui.help_text import TOPICS, figures, read_topic, show_text
from ui.i18n import _, language
from ui.navigation import find_page

WIDTH_PX = 780


def help_link(topic: str, label: str) -> None:
    """A link to a topic of the help, such as `prices`."""
    st.page_link(find_page("help"), label=label, icon=":material/help:", query_params={"topic": topic})


def show_help() -> None:
    """A choice of topics, which the address names, and the one that is chosen."""
    words = {
        "start": _("First run"),
        "prices": _("Prices"),
        "money": _("Money back"),
        "api": "API",
        "faq": _("Questions"),
    }
    asked_for = st.query_params.get("topic")
    if "help_topic" not in st.session_state or st.session_state.get("help_address") != asked_for:
        st.session_state["help_topic"] = asked_for if asked_for in TOPICS else TOPICS[0]
    topic = st.segmented_control(
        _("Topic"), TOPICS, format_func=words.__getitem__, key="help_topic", required=True, label_visibility="collapsed"
    )
    st.query_params["topic"] = st.session_state["help_address"] = topic
    app = current()
    title, text = show_text(
        read_topic(topic, language()),
        figures(account_view.get_prices(app), app.settings),
        host=own_host(st.context.url),
    )
    with st.container(width=WIDTH_PX, key="help_text"):
        st.header(title)
        st.markdown(text)
