"""What is still to be done about an address that nobody has confirmed: on every page while tokens wait for it."""

from __future__ import annotations

import streamlit as st

from core.errors import VisionMeterError
from core.identity.tables import User
from core.services import confirmation
from core.services.application import current
from core.services.confirmation import Unconfirmed
from ui.format import plain, tokens
from ui.i18n import _
from ui.messages import explain
from ui.session import require_user


def show_unconfirmed(user: User) -> None:
    """On every page: that the welcome tokens wait, what became of the mail, and a button for another."""
    found = confirmation.find_unconfirmed(current(), user)
    if found is not None and found.welcome_mt:
        _show(user, found)


def show_unconfirmed_quietly(user: User) -> None:
    """In the profile: the same where nothing waits, and it is no news for every page."""
    found = confirmation.find_unconfirmed(current(), user)
    if found is not None and not found.welcome_mt:
        _show(user, found)


def _show(user: User, found: Unconfirmed) -> None:
    with st.container(key="unconfirmed", border=True, horizontal=True, vertical_alignment="center"):
        st.markdown(f":blue[:material/mail:] {_words(user, found)}", width="stretch")
        st.button(
            _("Send the mail") if found.mail == "none" else _("Send it again"),
            key="unconfirmed_send",
            on_click=_send_again,
        )
    if notice := st.session_state.pop("unconfirmed_notice", None):
        st.error(notice) if st.session_state.pop("unconfirmed_failed", False) else st.success(notice)


def _words(user: User, found: Unconfirmed) -> str:
    email = f"**{plain(user.email)}**"
    if found.mail == "given_up":
        words = _("The mail to {email} could not be delivered: is the address right, and does it take mail?")
    elif found.mail == "none":
        words = _("The address {email} is not confirmed: a mail with a link does it.")
    elif found.mail == "on its way":
        words = _("A mail is on its way to {email}: open its link, on any device, to confirm the address.")
    else:
        words = _("A mail was sent to {email}: open its link, on any device, to confirm the address.")
    if found.welcome_mt:
        words += " " + _("{amount} are given for it.").format(amount=tokens(found.welcome_mt))
    return words.format(email=email)


def _send_again() -> None:
    try:
        confirmation.ask_again(current(), require_user())
    except VisionMeterError as error:
        st.session_state["unconfirmed_notice"] = explain(error)
        st.session_state["unconfirmed_failed"] = True
    else:
        st.session_state["unconfirmed_notice"] = _("Another mail is on its way; the links of those before it end.")
