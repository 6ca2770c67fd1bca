"""Which run or which advice Detect shows: in the address, so that a link shows it again, and in the session."""

from __future__ import annotations

import streamlit as st

_KEYS = {"run": "job_id", "advice": "advice_id"}


def open_run(job_id: str) -> None:
    """Show a run, and no advice."""
    _open("run", job_id)


def open_advice(advice_id: str) -> None:
    """Show an advice, and no run."""
    _open("advice", advice_id)


def opened_run() -> str | None:
    """The run to show: that of the address, else what this tab showed last."""
    return _opened("run")


def opened_advice() -> str | None:
    """The advice to show."""
    return _opened("advice")


def _open(kind: str, identifier: str) -> None:
    for one, key in _KEYS.items():
        if one == kind:
            st.session_state[key] = st.query_params[one] = identifier
        else:
            st.session_state.pop(key, None)
            st.query_params.pop(one, None)
    st.query_params.pop("compare", None)


def _opened(kind: str) -> str | None:
    named = {one for one in _KEYS if one in st.query_params}
    # An address that names the one does not mean what was shown before of the other.
    return st.query_params.get(kind) or (None if named else st.session_state.get(_KEYS[kind]))
