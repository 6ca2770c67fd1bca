"""Account, Security: the password, and where one is signed in."""

from __future__ import annotations

import streamlit as st

from core.config import SESSION_COOKIE
from core.errors import VisionMeterError
from core.identity.tables import User
from core.services import profile
from core.services.application import Application, current
from core.services.profile import SignedIn
from ui.format import local_time
from ui.i18n import _, ngettext
from ui.messages import explain
from ui.session import require_user


def show_security(app: Application, user: User) -> None:
    """The open sessions, each with its end; then the form for another password."""
    if notice := st.session_state.pop("security_notice", None):
        st.success(notice, icon=":material/check_circle:")
    st.subheader(_("Where you are signed in"))
    signed_in = profile.list_sessions(app, user, _token())
    for one in signed_in:
        _show_session(one)
    if len(signed_in) > 1 and st.button(_("Sign out everywhere else"), icon=":material/logout:", key="end_others"):
        _end_others()
    st.caption(
        _(
            "Stored of a sign-in: its times, and the kind of browser and system. Neither the network address nor the "
            "place is stored. “Last seen” is exact to five minutes."
        )
    )
    st.subheader(_("Change the password"))
    _show_password()


def _token() -> str:
    return st.context.cookies.get(SESSION_COOKIE) or ""


def _show_session(one: SignedIn) -> None:
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        with st.container(gap=None):
            browser = one.browser or _("unknown browser")
            st.text(f"{browser} — {_('this browser')}" if one.is_current else browser)
            seen = _("last seen {time}").format(time=local_time(one.last_seen_at))
            since = _("signed in {time}").format(time=local_time(one.signed_in_at))
            st.caption(f"{since} · {seen}")
        if not one.is_current and st.button(_("Sign out there"), key=f"end_{one.id}", icon=":material/block:"):
            _end(one)


def _end(one: SignedIn) -> None:
    try:
        profile.revoke_session(current(), require_user(), one.id)
    except VisionMeterError as error:
        st.error(explain(error))
    else:
        _done(_("Signed out there: whoever sits at it must sign in again."))


def _end_others() -> None:
    ended = profile.revoke_other_sessions(current(), require_user(), _token())
    _done(ngettext("{n} other sign-in ended.", "{n} other sign-ins ended.", ended))


def _show_password() -> None:
    with st.form("change_password", clear_on_submit=True, border=False):
        present = st.text_input(
            _("Present password"), type="password", autocomplete="current-password", key="present_password"
        )
        new = st.text_input(
            _("New password"),
            type="password",
            autocomplete="new-password",
            key="new_password",
            help=_("At least 10 characters."),
        )
        again = st.text_input(
            _("New password again"), type="password", autocomplete="new-password", key="new_password_again"
        )
        submitted = st.form_submit_button(_("Change the password"), type="primary", icon=":material/password:")
    st.caption(
        _("You stay signed in here, and every other sign-in ends. API keys go on working: they have no password.")
    )
    if not submitted:
        return
    if new != again:
        st.error(_("The new password was typed differently the second time: type it again."))
        return
    try:
        ended = profile.change_password(current(), require_user(), _token(), present, new)
    except VisionMeterError as error:
        is_wrong = error.code == "bad_credentials"
        st.error(_("The present password is wrong. Nothing was changed.") if is_wrong else explain(error))
        return
    words = _("The password was changed.")
    if ended:
        words += " " + ngettext("{n} other sign-in ended.", "{n} other sign-ins ended.", ended)
    _done(words)


def _done(notice: str) -> None:
    st.session_state["security_notice"] = notice
    st.rerun()
