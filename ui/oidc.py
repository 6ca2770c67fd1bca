"""Signing in with the identity provider: its button, why it came to nothing, and what is linked."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from urllib.parse import urlencode, urlsplit

import streamlit as st

from core.errors import OidcRefusedError, VisionMeterError
from core.identity.tables import User
from core.services import oidc_sign_in, second_factor
from core.services.application import Application, current
from ui.format import plain
from ui.i18n import _, language
from ui.messages import explain
from ui.secret_inputs import code_input
from ui.session import require_user
from ui.session_component import open_address

FAILED = "sign_in_failed"

_REASONS: dict[str, Callable[[], str]] = {
    "state": lambda: _("This sign-in was used already, took too long, or began in another browser: begin again."),
    "provider": lambda: _(
        "The identity provider cannot be reached at present: try again in a minute, or tell the operator."
    ),
    "denied": lambda: _("The identity provider did not let you in: try again, or ask whoever runs it."),
    "token": lambda: _("The identity provider's answer could not be verified, so you were not signed in: try again."),
    "email": lambda: _(
        "The identity provider has not verified your e-mail address, and without that nobody is signed in: verify it "
        "there and try again."
    ),
    "password": lambda: _(
        "There is an account with your e-mail address and a password: sign in with it below. Then you can link the "
        "identity provider under Account → Security."
    ),
    "another": lambda: _(
        "Your e-mail address belongs to an account here that somebody else at the identity provider signs in to: ask "
        "the operator."
    ),
    "other": lambda: _(
        "Whoever is signed in at the identity provider has another e-mail address than you have here, or an account of "
        "his own: nothing was linked."
    ),
    "code": lambda: _("A second factor is on: enter one of its codes when you link the identity provider."),
    "only": lambda: _("You have no password: without the identity provider you could not sign in any more."),
    "invitation": lambda: _(
        "This invitation cannot be used: sign in with the address that was invited, or ask for another invitation."
    ),
    "uninvited": lambda: _(
        "New accounts are by invitation here: ask the operator of this service for one, and open the link that you are "
        "given."
    ),
    "closed": lambda: _("No new accounts are opened here. A colleague who has an account can invite you into it."),
    "too_many": lambda: _("Too many attempts from your network: wait some minutes and try again."),
}


def oidc_words(reason: str) -> str:
    """Why nobody was signed in; the address of the page may hold anything."""
    return _REASONS.get(reason, _REASONS["token"])()


def show_oidc(app: Application, invitation: str | None) -> None:
    """Why the last try came to nothing, and the button, above the form. Nothing where no provider is configured."""
    if not oidc_sign_in.is_offered(app):
        return
    _show_failure()
    label = _("Sign in with {name}").format(name=plain(app.settings.oidc_name))
    if st.button(label, icon=":material/badge:", width="stretch", key="sign_in_oidc"):
        asked = {name: value for name, value in st.query_params.items() if name not in (FAILED, "invite")}
        page = urlsplit(st.context.url or "/").path or "/"
        _leave(page=f"{page}?{urlencode(asked)}" if asked else page, invite=invitation or "")
    st.caption(_("Or with an e-mail address and a password:"))


def show_linked(app: Application, user: User, token: str) -> None:
    """What of the provider signs in as this user, and linking it; nothing where there is neither.

    `token` is that of the page's own session.
    """
    issuer = app.settings.oidc_issuer
    identities = oidc_sign_in.list_identities(app, user)
    if not (identities or issuer):
        return
    st.subheader(_("Identity provider"))
    _show_failure()
    for one in identities:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.text(_("You sign in through {issuer}.").format(issuer=one.issuer))
            if user.password_digest and st.button(_("Unlink"), icon=":material/link_off:", key=f"unlink {one.issuer}"):
                _unlink(one.issuer, token)
    if not user.password_digest:
        st.caption(_("You have no password here: the identity provider looks after how you sign in."))
    if issuer and all(one.issuer != issuer for one in identities):
        st.caption(_("Link it, and you can sign in with it, too. It must know you by the address you have here."))
        label = _("Link {name}").format(name=plain(app.settings.oidc_name))
        if second_factor.get_state(app, user) is not None:
            _link_with_code(user, label)
        elif st.button(label, icon=":material/link:", key="link_oidc"):
            _leave(page="/account?section=security", link="1")


def _link_with_code(user: User, label: str) -> None:
    st.caption(own_factor_words())
    with st.form("link_oidc_with_code", clear_on_submit=True, border=False):
        code = code_input(key="link_oidc_code")
        submitted = st.form_submit_button(label, icon=":material/link:")
    if not submitted:
        return
    try:
        permit = oidc_sign_in.permit_link(current(), user, code)
    except VisionMeterError as error:
        st.error(explain(error))
        return
    _leave(page="/account?section=security", link=permit)


def own_factor_words() -> str:
    """Whose second factor is asked for."""
    return _(
        "Signing in through the identity provider asks for its own second factor, if it has one, and not for the one "
        "here."
    )


def _show_failure() -> None:
    if reason := st.query_params.get(FAILED):
        st.error(oidc_words(reason))


def _leave(**asked: str) -> None:
    open_address(f"/session/oidc?{urlencode({'language': language(), **asked})}", nonce=uuid.uuid4().hex)


def _unlink(issuer: str, token: str) -> None:
    try:
        oidc_sign_in.unlink(current(), require_user(), issuer, token)
    except OidcRefusedError as error:
        st.error(oidc_words(error.details["reason"]))
    else:
        st.session_state["security_notice"] = _(
            "Unlinked: sign in with your password. Every other sign-in of yours ended."
        )
        st.rerun()
