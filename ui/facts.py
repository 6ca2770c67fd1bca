"""Facts as a reader looks them up: a label above its value, which may be long."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st


def show_facts(facts: Mapping[str, str]) -> None:
    """Labels (plain) and values (Markdown) in two columns, one on a phone; fingerprints wrap."""
    entries = [f":small[:gray[{label}]]  \n{value}" for label, value in facts.items()]
    middle = -(-len(entries) // 2)
    with st.container(border=True):
        left, right = st.columns(2)
        left.markdown("\n\n".join(entries[:middle]))
        right.markdown("\n\n".join(entries[middle:]))
