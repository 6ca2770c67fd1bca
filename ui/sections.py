"""The sections of a page as tabs. What nobody has opened is not computed, and the address names what is open."""

from collections.abc import Callable, Mapping

import streamlit as st

from ui.navigation import forget_on_arrival

_PARAMETER = "section"


def show_sections(sections: Mapping[str, tuple[str, Callable[[], None]]], *, key: str) -> None:
    """A tab for each section: its title, and what shows it.

    `sections` is by the names in the address (`?section=…`); the first is open where it names none. A reload, a link,
    the browser's way back and another language open what they name. A section that was opened is computed in every run
    until the page is left: what was typed and selected in it stays, as if all of them were.
    """
    titles = {name: title for name, (title, _show) in sections.items()}
    first = next(iter(titles))
    asked_for = st.query_params.get(_PARAMETER, first)
    last, opened = f"{key}_last", f"{key}_opened"
    forget_on_arrival(key, last, opened)
    shown = st.session_state.get(last)
    clicked = next((name for name, title in titles.items() if title == st.session_state.get(key)), shown)
    # The address has moved by itself, or the words have: not where a tab was clicked, whose address is still to come.
    if clicked == shown and (asked_for != shown or st.session_state.get(key) != titles[shown]):
        st.session_state[key] = titles.get(asked_for, titles[first])
    tabs = dict(zip(titles, st.tabs(list(titles.values()), key=key, on_change="rerun"), strict=True))
    chosen = next(name for name, tab in tabs.items() if tab.open)
    if chosen != asked_for:
        st.query_params.from_dict({} if chosen == first else {_PARAMETER: chosen})
    st.session_state[last] = chosen
    was_opened: set[str] = st.session_state.setdefault(opened, set())
    was_opened.add(chosen)
    for name, (_title, show) in sections.items():
        if name in was_opened:
            with tabs[name]:
                show()
