"""Who is looking at this page. Every page begins with `require_user()`, and so does every fragment that spends."""

from __future__ import annotations

import uuid

import streamlit as st

from core.config import SESSION_COOKIE
from core.errors import RoleNeededError, VisionMeterError
from core.identity.tables import User
from core.services import profile, sign_in
from core.services.application import current
from core.services.team import require_role
from ui.format import plain
from ui.i18n import LANGUAGE_COOKIE, LANGUAGES, _, guess_language, language
from ui.messages import explain
from ui.session_component import carry_ticket, clear_cookie, remember_language


def current_user() -> User | None:
    """The signed-in user, resolved afresh from the cookie; None when nobody is."""
    return sign_in.signed_in_user(current(), st.context.cookies.get(SESSION_COOKIE))


def require_user() -> User:
    """The signed-in user; without one the run ends here and the sign-in page comes."""
    user = current_user()
    if user is None:
        st.rerun()
    return user


def require_operator() -> User:
    """The signed-in operator; for anybody else the page ends with a sentence."""
    user = require_user()
    if not user.is_operator:
        st.error(_("Only the operator of this installation may do this."), icon=":material/lock:")
        st.stop()
    return user


def may(user: User, minimum: str) -> bool:
    """Whether a role lets a user do what needs `viewer`, `member` or `owner`. Services guard, this hides buttons."""
    try:
        require_role(user, minimum)
    except RoleNeededError:
        return False
    return True


def start_language(user: User | None) -> None:
    """Choose the session's language once: the user's own, else the cookie's or the browser's.

    His time zone is looked at in each run: it may have been chosen in another browser meanwhile.
    """
    st.session_state["time_zone"] = user.time_zone if user else None
    owner = user.id if user else None
    if "language" not in st.session_state or st.session_state.get("language_owner") != owner:
        st.session_state["language"] = user.language if user else st.session_state.get("language", guess_language())
        st.session_state["language_owner"] = owner


def language_switch(user: User | None, *, key: str) -> None:
    """One click from one language to the other, remembered for the user and in this browser."""

    def change() -> None:
        chosen = st.session_state[key]
        if chosen not in LANGUAGES:
            return
        st.session_state["language"] = chosen
        if user is not None:
            profile.set_language(current(), user, chosen)

    st.session_state[key] = language()
    st.segmented_control(
        "Language · 语言",
        list(LANGUAGES),
        format_func=LANGUAGES.__getitem__,
        key=key,
        on_change=change,
        label_visibility="collapsed",
    )
    if st.context.cookies.get(LANGUAGE_COOKIE) != language():
        remember_language(LANGUAGE_COOKIE, language())


def sign_out() -> None:
    """End the session on the server and forget everything this tab held."""
    token = st.context.cookies.get(SESSION_COOKIE)
    if token:
        sign_in.sign_out(current(), token)
    spoken = language()
    st.session_state.clear()
    st.session_state["language"] = spoken
    st.session_state["cookie_to_clear"] = uuid.uuid4().hex


def show_unused_invitation(user: User) -> None:
    """Tell somebody who is signed in already why an invitation's link did nothing."""
    if "invite" in st.query_params:
        st.info(
            _(
                "You are signed in as {email}. An invitation is for somebody without an account: sign out to use it."
            ).format(email=plain(user.email)),
            icon=":material/mail:",
        )


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
        st.title(_("Detection by the pixel"))
        st.markdown(
            _(
                "See the exact price of your photographs before anything runs, get the detections drawn, and pay "
                "only for the pixels that were computed."
            )
        )
        invitation = st.query_params.get("invite")
        titles = [_("Sign in"), _("Create account")]
        existing, new = st.tabs(titles, default=titles[1] if invitation else None)
        with existing, st.form("sign_in"):
            email = st.text_input(_("E-mail"), autocomplete="email", key="sign_in_email")
            password = st.text_input(
                _("Password"), type="password", autocomplete="current-password", key="sign_in_password"
            )
            if st.form_submit_button(_("Sign in"), type="primary", width="stretch"):
                _try_sign_in(email, password)
        with new, st.form("sign_up"):
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
                st.caption(_("{amount} tokens are given to every new account.").format(amount=f"{welcome:,.3f}"))
            if st.form_submit_button(
                _("Join the account") if invitation else _("Create account"), type="primary", width="stretch"
            ):
                _try_sign_up(email, password, invitation)


def _try_sign_in(email: str, password: str) -> None:
    try:
        st.session_state["ticket"] = sign_in.sign_in(current(), email, password)
    except VisionMeterError as error:
        st.error(explain(error))
        return
    st.rerun()


def _try_sign_up(email: str, password: str, invitation: str | None) -> None:
    try:
        st.session_state["ticket"] = sign_in.sign_up(
            current(), email, password, language=language(), invitation=invitation
        )
    except VisionMeterError as error:
        st.error(explain(error))
        return
    if invitation:
        del st.query_params["invite"]
    st.rerun()
