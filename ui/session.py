"""Who is looking at this page. Every page begins with `require_user()`, and so does every fragment that spends."""

from __future__ import annotations

import uuid
from typing import Literal

import streamlit as st

from core.config import SESSION_COOKIE
from core.errors import RoleNeededError
from core.identity.tables import User
from core.services import profile, sign_in
from core.services.application import current
from core.services.team import require_role
from ui.format import plain
from ui.i18n import LANGUAGE_COOKIE, LANGUAGES, _, guess_language, language
from ui.navigation import find_page
from ui.session_component import remember_language

# The choices that are made from words of ours, by their keys.
WORDED_CHOICES = ("model", "tile_px", "usage_outcome", "invite_role")


def current_user() -> User | None:
    """The signed-in user, resolved afresh from the cookie; None when nobody is."""
    return sign_in.signed_in_user(current(), st.context.cookies.get(SESSION_COOKIE))


def forget_another(user: User | None) -> None:
    """Forget what this tab held for somebody else: one that lost its connection comes back with whatever cookie the
    browser has by now."""
    if user is None:
        return
    if st.session_state.get("user_seen", user.id) != user.id:
        st.session_state.clear()
    st.session_state["user_seen"] = user.id


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
    choose_language(user, key=key, label_visibility="collapsed")
    remember_language(LANGUAGE_COOKIE, language())


def choose_language(
    user: User | None, *, key: str, label_visibility: Literal["visible", "collapsed"] = "visible"
) -> None:
    """The choice alone: the browser is told once a page, beside the switch of the sidebar."""

    def change() -> None:
        chosen = st.session_state[key]
        if chosen not in LANGUAGES:
            return
        st.session_state["language"] = chosen
        _word_anew()
        if user is not None:
            profile.set_language(current(), user, chosen)

    st.session_state[key] = language()
    st.segmented_control(
        "Language · 语言",
        list(LANGUAGES),
        format_func=LANGUAGES.__getitem__,
        key=key,
        on_change=change,
        label_visibility=label_visibility,
    )


def _word_anew() -> None:
    """Choose again what is chosen: a browser keeps the words of a choice until it is told to choose."""
    for key in WORDED_CHOICES:
        if key in st.session_state:
            st.session_state[key] = st.session_state[key]


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


def show_way_in() -> None:
    """Above a page that needs no sign-in: the language, and the way to the sign-in page."""
    with st.container(horizontal=True, vertical_alignment="center"):
        language_switch(None, key="sign_in_language")
        st.page_link(find_page("detect"), label=_("Sign in"), icon=":material/login:")
