"""Account, Security, Second factor: on with an app's first code, recovery codes, off again."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import segno
import streamlit as st

from core.errors import VisionMeterError
from core.identity.tables import User
from core.services import oidc_sign_in, second_factor
from core.services.application import Application, current
from core.services.second_factor import Enrolment, State
from ui.format import local_time, plain
from ui.i18n import _, ngettext
from ui.messages import explain
from ui.oidc import own_factor_words
from ui.secret_inputs import code_input
from ui.session import require_operator, require_user

# Of ten: then it is time for new ones.
FEW_CODES = 3
QR_SCALE_PX = 5


def show_second_factor(app: Application, user: User, token: str) -> None:
    """Whether it is on, and what can be done about it; `token` is that of the page's own session."""
    if codes := st.session_state.get("recovery_codes"):
        _show_codes(codes, token)
        return
    state = second_factor.get_state(app, user)
    if state is not None:
        st.session_state.pop("enrolment", None)
        _show_on(state)
    elif enrolment := st.session_state.get("enrolment"):
        _show_enrolment(enrolment, token)
    else:
        _show_off()
    st.caption(_("It is asked for at every sign-in with your password. API keys work without it, as before."))
    if oidc_sign_in.is_offered(app):
        st.caption(own_factor_words())


def _show_off() -> None:
    st.markdown(
        _(
            "With a second factor nobody signs in with your password alone: a code is asked for, too, which an "
            "authenticator app on your phone shows."
        )
    )
    with st.form("second_factor_begin", clear_on_submit=True, border=False):
        password = st.text_input(
            _("Password"), type="password", autocomplete="current-password", key="second_factor_password"
        )
        submitted = st.form_submit_button(_("Set up a second factor"), icon=":material/phonelink_lock:")
    if not submitted:
        return
    try:
        st.session_state["enrolment"] = second_factor.begin(current(), require_user(), password)
    except VisionMeterError as error:
        st.error(_explain(error))
        return
    st.rerun()


def _show_enrolment(enrolment: Enrolment, token: str) -> None:
    st.markdown(_("**1.** Scan this with an authenticator app, such as Aegis, Google or Microsoft Authenticator."))
    _show_qr(enrolment.uri)
    st.caption(_("No camera? Type this key into the app instead:"))
    st.code(enrolment.seed, language=None, wrap_lines=True)
    st.markdown(_("**2.** Enter the code that the app shows now."))
    with st.form("second_factor_turn_on", border=False):
        code = st.text_input(
            _("Code of six digits"), autocomplete="one-time-code", max_chars=40, key="second_factor_first_code"
        )
        submitted = st.form_submit_button(_("Turn it on"), type="primary", icon=":material/check:")
    if st.button(_("Cancel"), key="second_factor_cancel"):
        del st.session_state["enrolment"]
        st.rerun()
    if not submitted:
        return
    try:
        codes = second_factor.turn_on(current(), require_user(), token, enrolment, code)
    except VisionMeterError as error:
        if error.code == "second_factor_state":
            del st.session_state["enrolment"]
        st.error(explain(error))
        return
    del st.session_state["enrolment"]
    st.session_state["recovery_codes"] = codes
    st.session_state["recovery_codes_are_first"] = True
    st.rerun()


def _show_qr(uri: str) -> None:
    # Dark on light, with its margin, also in the dark theme: else some cameras do not find it.
    picture = segno.make(uri, error="m", micro=False).png_data_uri(scale=QR_SCALE_PX, border=4, light="#fff")
    alt = escape(_("QR code for your authenticator app; the key below says the same in letters"), quote=True)
    st.html(
        f'<img src="{picture}" alt="{alt}" style="max-width: 100%; border-radius: 8px; image-rendering: pixelated">'
    )


def _show_codes(codes: Sequence[str], token: str) -> None:
    is_first = st.session_state.get("recovery_codes_are_first", False)
    if is_first:
        st.success(_("The second factor is on."), icon=":material/check_circle:")
    st.markdown(
        _(
            "**Keep these recovery codes where your phone is not.** They are shown only now. Each of them lets you in "
            "once when the app is not at hand."
        )
    )
    text = "\n".join(codes)
    st.code(text, language=None)
    with st.container(horizontal=True):
        st.download_button(
            _("Download them"),
            data=f"VisionMeter\n\n{text}\n",
            file_name="visionmeter-recovery-codes.txt",
            mime="text/plain",
            icon=":material/download:",
            on_click="ignore",
            key="recovery_codes_file",
        )
        is_done = st.button(_("I have kept them"), type="primary", icon=":material/check:", key="recovery_codes_kept")
    if not is_done:
        return
    user = require_user()
    del st.session_state["recovery_codes"]
    if st.session_state.pop("recovery_codes_are_first", False):
        # The own session ends with all others: the portal carries the ticket to `/session`, and comes back here.
        st.session_state["ticket"] = second_factor.renew_session(current(), user, token)
        st.query_params["section"] = "security"
        st.query_params["second_factor"] = "on"
    st.rerun()


def _show_on(state: State) -> None:
    st.success(_("On since {time}.").format(time=local_time(state.turned_on_at)), icon=":material/verified_user:")
    left = ngettext("{n} recovery code is left.", "{n} recovery codes are left.", state.recovery_codes)
    if state.recovery_codes > FEW_CODES:
        st.markdown(left)
    else:
        st.warning(f"{left} {_('Make new ones before you need them.')}", icon=":material/warning:")
    with st.container(horizontal=True):
        renewing = _("New recovery codes")
        if st.button(renewing, icon=":material/autorenew:", key="second_factor_renew"):
            st.dialog(renewing)(_renew_dialog)()
        if st.button(_("Turn it off"), icon=":material/lock_open:", key="second_factor_off"):
            st.dialog(_("Turn the second factor off"))(_off_dialog)()


def _renew_dialog() -> None:
    st.markdown(_("The recovery codes that you have now are worth nothing afterwards."))
    asked = _ask(_("Make new recovery codes"))
    if asked is None:
        return
    try:
        codes = second_factor.renew_recovery_codes(current(), require_user(), *asked)
    except VisionMeterError as error:
        st.error(_explain(error))
        return
    st.session_state["recovery_codes"] = codes
    st.rerun()


def _off_dialog() -> None:
    st.markdown(_("Afterwards your password alone is enough to sign in."))
    asked = _ask(_("Turn it off"))
    if asked is None:
        return
    try:
        second_factor.turn_off(current(), require_user(), *asked)
    except VisionMeterError as error:
        st.error(_explain(error))
        return
    st.session_state["security_notice"] = _("The second factor is off.")
    st.rerun()


def reset_button(customer: User) -> None:
    """For the operator: the way out for a customer who lost phone and recovery codes."""
    words = _("Remove the second factor")
    if customer.id == require_operator().id or second_factor.get_state(current(), customer) is None:
        return
    if st.button(words, icon=":material/phonelink_erase:", key="second_factor_reset"):
        st.dialog(words)(_reset_dialog)(customer)


def _reset_dialog(customer: User) -> None:
    st.markdown(plain(customer.email))
    st.markdown(
        _(
            "Make sure that it is this customer who asks. The password alone is enough then, and every sign-in of this "
            "person ends."
        )
    )
    if not st.button(_("Remove the second factor"), type="primary", key="second_factor_reset_now"):
        return
    try:
        second_factor.reset(current(), require_operator(), customer.id)
    except VisionMeterError as error:
        st.error(explain(error))
        return
    st.session_state["correction_done"] = _(
        "The second factor was removed: {email} signs in with the password alone."
    ).format(email=plain(customer.email))
    st.rerun()


def _ask(words: str) -> tuple[str, str] | None:
    """Password and code, once they were sent."""
    with st.form("second_factor_proof", border=False):
        password = st.text_input(
            _("Password"), type="password", autocomplete="current-password", key="second_factor_proof_password"
        )
        code = code_input(key="second_factor_proof_code")
        submitted = st.form_submit_button(words, type="primary")
    return (password, code) if submitted else None


def _explain(error: VisionMeterError) -> str:
    if error.code == "bad_credentials":
        return _("The password is wrong. Nothing was changed.")
    return explain(error)
