"""The page of whoever is not signed in: signing in, and opening an account."""

from __future__ import annotations

import streamlit as st

from core.errors import SecondFactorNeededError, VisionMeterError
from core.services import second_factor, sign_in, sign_up_by_mail
from core.services.application import current
from ui.format import plain
from ui.i18n import _, language
from ui.mail_links import show_forgotten
from ui.messages import explain
from ui.navigation import find_page
from ui.oidc import FAILED, show_oidc
from ui.secret_inputs import code_input
from ui.session import language_switch
from ui.session_component import carry_ticket, clear_cookie


def show_sign_in() -> None:
    """The sign-in page. After signing in, the address that was asked for opens."""
    if nonce := st.session_state.get("cookie_to_clear"):
        clear_cookie(nonce)
    if ticket := st.session_state.get("ticket"):
        if carry_ticket(ticket):
            del st.session_state["ticket"]
            st.error(_("This sign-in took too long: sign in again."))
        else:
            st.info(_("Signing you in …"))
            return
    _left, middle, _right = st.columns([1, 1.6, 1])
    with middle:
        language_switch(None, key="sign_in_language")
        if step := st.session_state.get("sign_in_step"):
            _ask_for_code(step)
            return
        if ended := st.session_state.pop("sign_in_ended", None):
            st.error(ended)
        if farewell := st.session_state.get("farewell"):
            st.success(farewell, icon=":material/waving_hand:")
        st.title(_("Detection by the pixel"))
        st.markdown(
            _(
                "See the exact price of your photographs before anything runs, get the detections drawn, and pay "
                "only for the pixels that were computed."
            )
        )
        st.page_link(find_page("help"), label=_("How it works and what it costs"), icon=":material/help:")
        invitation = st.query_params.get("invite")
        show_oidc(current(), invitation)
        titles = [_("Sign in"), _("Create account")]
        existing, new = st.tabs(titles, default=titles[1] if invitation else None)
        with existing, st.form("sign_in"):
            email = st.text_input(_("E-mail"), autocomplete="email", key="sign_in_email")
            password = st.text_input(
                _("Password"), type="password", autocomplete="current-password", key="sign_in_password"
            )
            if st.form_submit_button(_("Sign in"), type="primary", width="stretch"):
                _try_sign_in(email, password)
        with existing:
            show_forgotten()
        with new:
            _show_sign_up(invitation)


def _show_sign_up(invitation: str | None) -> None:
    policy = sign_in.sign_up_policy(current())
    if policy != "open" and not invitation:
        st.info(
            _(
                "New accounts are by invitation here: ask the operator of this service for one, and open the link "
                "that you are given."
            )
            if policy == "invitation"
            else _("No new accounts are opened here. A colleague who has an account can invite you into it."),
            icon=":material/mail:",
        )
        return
    if not invitation and sign_up_by_mail.is_needed(current()):
        _show_sign_up_by_mail()
        return
    with st.form("sign_up"):
        email = st.text_input(_("E-mail"), autocomplete="email", key="sign_up_email")
        password = st.text_input(
            _("Password"),
            type="password",
            autocomplete="new-password",
            key="sign_up_password",
            help=_("At least 10 characters."),
        )
        welcome = current().settings.welcome_tokens
        if invitation:
            st.caption(_("You were invited to an account: use the address that the invitation is for."))
        elif welcome:
            words = (
                _("{amount} tokens are given to every new account.")
                if current().smtp is None
                else _("{amount} tokens are given to every new account, once its address is confirmed by a mail.")
            )
            st.caption(words.format(amount=f"{welcome:,.3f}"))
        words = _("Join the account") if invitation else _("Create account")
        if st.form_submit_button(words, type="primary", width="stretch"):
            _try_sign_up(email, password, invitation)


def _show_sign_up_by_mail() -> None:
    with st.form("sign_up"):
        email = st.text_input(_("E-mail"), autocomplete="email", key="sign_up_email")
        words = _("You get a mail with a link, and choose your password behind it.")
        if welcome := current().settings.welcome_tokens:
            words += " " + _("{amount} tokens are given to every new account.").format(amount=f"{welcome:,.3f}")
        st.caption(words)
        submitted = st.form_submit_button(_("Create account"), type="primary", width="stretch")
    if not submitted:
        return
    try:
        sign_up_by_mail.request_mail(current(), email, language=language(), address=st.context.ip_address)
    except VisionMeterError as error:
        st.error(explain(error))
        return
    st.success(
        _(
            "A mail is on its way to {email}: open the link in it, on any device, to go on. Nothing there after some "
            "minutes? Look where unwanted mail is kept, and whether the address is right."
        ).format(email=f"**{plain(email.strip())}**"),
        icon=":material/mail:",
    )


def _ask_for_code(step: str) -> None:
    st.title(_("Enter your code"))
    with st.form("sign_in_code", border=False):
        code = code_input(key="sign_in_code_text", placeholder="123 456")
        submitted = st.form_submit_button(_("Sign in"), type="primary", width="stretch")
    if submitted:
        _try_code(step, code)
    st.caption(
        _(
            "Lost your phone? Each recovery code lets you in once. Without one, ask the operator of this service: your "
            "second factor can be removed for you."
        )
    )
    if st.button(_("Sign in as somebody else"), icon=":material/arrow_back:", key="sign_in_again"):
        del st.session_state["sign_in_step"]
        st.rerun()


def _try_code(step: str, code: str) -> None:
    try:
        st.session_state["ticket"] = second_factor.sign_in(current(), step, code, address=st.context.ip_address)
    except VisionMeterError as error:
        if error.code != "sign_in_step_ended":
            st.error(explain(error))
            return
        st.session_state["sign_in_ended"] = explain(error)
    del st.session_state["sign_in_step"]
    st.rerun()


def _try_sign_in(email: str, password: str) -> None:
    try:
        st.session_state["ticket"] = sign_in.sign_in(current(), email, password, address=st.context.ip_address)
    except SecondFactorNeededError as needed:
        # Kept on the server, for this tab alone: no browser ever sees it.
        st.session_state["sign_in_step"] = needed.step
    except VisionMeterError as error:
        st.error(explain(error))
        return
    st.query_params.pop(FAILED, None)
    st.rerun()


def _try_sign_up(email: str, password: str, invitation: str | None) -> None:
    try:
        st.session_state["ticket"] = sign_in.sign_up(
            current(), email, password, language=language(), invitation=invitation, address=st.context.ip_address
        )
    except VisionMeterError as error:
        st.error(explain(error))
        return
    if invitation:
        del st.query_params["invite"]
    st.query_params.pop(FAILED, None)
    st.rerun()
