"""Fields for new passwords and for codes, inside a form."""

from __future__ import annotations

import streamlit as st

from ui.i18n import _


def new_password_inputs(*, key: str) -> tuple[str, str]:
    """A new password, and the same once more."""
    new = st.text_input(
        _("New password"), type="password", autocomplete="new-password", key=key, help=_("At least 10 characters.")
    )
    again = st.text_input(_("New password again"), type="password", autocomplete="new-password", key=f"{key}_again")
    return new, again


def are_same(new: str, again: str) -> bool:
    """Whether both say the same; where not, the page says so."""
    if new != again:
        st.error(_("The new password was typed differently the second time: type it again."))
    return new == again


def code_input(*, key: str, placeholder: str | None = None) -> str:
    """A code of an app, or a recovery code."""
    return st.text_input(
        _("Code of your authenticator app, or a recovery code"),
        autocomplete="one-time-code",
        max_chars=40,
        key=key,
        placeholder=placeholder,
    )
