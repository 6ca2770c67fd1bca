"""The sections of a page as tabs. Only the open one is computed, and the address names it."""

from collections.abc import Callable, Mapping

import streamlit as st

_PARAMETER = "section"


def show_sections(sections: Mapping[str, tuple[str, Callable[[], None]]], *, key: str) -> None:
    """A tab for each section: its title, and what shows it. A reload, a link and another language open the same one.

    `sections` is by the names in the address (`?section=…`); the first is open where it names none.
    """
    titles = {name: title for name, (title, _show) in sections.items()}
    asked_for = st.query_params.get(_PARAMETER, "")
    if st.session_state.get(key) not in titles.values():
        st.session_state[key] = titles.get(asked_for, next(iter(titles.values())))
    tabs = st.tabs(list(titles.values()), key=key, on_change="rerun")
    for (name, (_title, show)), tab in zip(sections.items(), tabs, strict=True):
        if not tab.open:
            continue
        if name != next(iter(sections)):
            st.query_params[_PARAMETER] = name
        elif asked_for:
            del st.query_params[_PARAMETER]
        with tab:
            show()
