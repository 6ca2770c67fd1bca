"""Account, Security: where one is signed in, the second factor, the password."""

from __future__ import annotations

from datetime import timedelta

import streamlit as st

from core.config import SESSION_COOKIE
from core.db import utcnow
from core.errors import VisionMeterError
from core.identity.tables import User
from core.services import profile
from core.services.application import Application, current
from core.services.profile import SignedIn
from ui.format import local_time
from ui.i18n import _, ngettext
from ui.messages import explain
from ui.oidc import show_linked
from ui.second_factor import show_second_factor
from ui.secret_inputs import are_same, new_password_inputs
from ui.session import require_user

# Of a session that begins when the password or the second factor is changed.
JUST_NOW = timedelta(minutes=2)


def show_security(app: Application, user: User) -> None:
    """The open sessions, each with its end; the second factor; the form for another password."""
    signed_in = profile.list_sessions(app, user, _token())
    _show_notice(is_new=any(one.is_current and utcnow() - one.signed_in_at < JUST_NOW for one in signed_in))
    st.subheader(_("Where you are signed in"))
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
    show_linked(app, user, _token())
    if user.password_digest:
        st.subheader(_("Second factor"))
        show_second_factor(app, user, _token())
        st.subheader(_("Change the password"))
        _show_password()


def _show_notice(*, is_new: bool) -> None:
    """What was done. An address can be made up by others: what it says counts for a session that has just begun."""
    notice = st.session_state.pop("security_notice", None)
    # After the password was changed the page comes anew, with a new session: only its address went along.
    ended = st.query_params.pop("password_changed", "")
    factor = st.query_params.pop("second_factor", "")
    if is_new and ended.isdecimal() and len(ended) < 4:
        notice = _("The password was changed.")
        if int(ended):
            notice += " " + ngettext("{n} other sign-in ended.", "{n} other sign-ins ended.", int(ended))
    if is_new and factor == "on":
        notice = _("The second factor is on, and every other sign-in was ended.")
    if notice:
        st.success(notice, icon=":material/check_circle:")


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
        new, again = new_password_inputs(key="new_password")
        submitted = st.form_submit_button(_("Change the password"), type="primary", icon=":material/password:")
    st.caption(
        _("You stay signed in here, and every other sign-in ends. API keys go on working: they have no password.")
    )
    if not submitted or not are_same(new, again):
        return
    try:
        changed = profile.change_password(current(), require_user(), _token(), present, new)
    except VisionMeterError as error:
        is_wrong = error.code == "bad_credentials"
        st.error(_("The present password is wrong. Nothing was changed.") if is_wrong else explain(error))
        return
    # The own session ended, too: the portal carries the ticket to `/session`, as after signing in, and comes back here.
    st.session_state["ticket"] = changed.ticket
    st.query_params["section"] = "security"
    st.query_params["password_changed"] = str(min(changed.ended, 999))
    st.rerun()


def _done(notice: str) -> None:
    st.session_state["security_notice"] = notice
    st.rerun()
