"""What the links of mails open: an account, an address confirmed, a new password; and asking for the latter.

A link does nothing by being opened: programs that look into mails open them, too.
"""

from __future__ import annotations

import streamlit as st

from core.errors import VisionMeterError
from core.services import confirmation, password_reset, sign_up_by_mail
from core.services.application import current
from ui.format import plain, tokens
from ui.i18n import _, language
from ui.messages import explain
from ui.secret_inputs import are_same, new_password_inputs
from ui.session import current_user, language_switch
from ui.session_component import carry_ticket

_TITLES = {
    "sign_up": lambda: _("Open your account"),
    "confirm": lambda: _("Confirm your address"),
    "reset": lambda: _("Choose a new password"),
}


def find_link() -> tuple[str, str] | None:
    """The purpose and the secret of the link that was opened in this tab, taken out of its address; None without."""
    for purpose in _TITLES:
        if secret := st.query_params.get(purpose):
            # Nobody shall read it over a shoulder, or copy it with the address.
            del st.query_params[purpose]
            st.session_state["mail_link"] = (purpose, secret)
    return st.session_state.get("mail_link")


def show_link(purpose: str, secret: str) -> None:
    """The page of a link, whoever is signed in."""
    _left, middle, _right = st.columns([1, 1.6, 1])
    with middle:
        language_switch(None, key="mail_link_language")
        st.title(_TITLES[purpose]())
        if ticket := st.session_state.get("mail_link_opening", {}).get("ticket"):
            _enter(ticket)
            return
        if done := st.session_state.get("mail_link_done"):
            st.success(done, icon=":material/check_circle:")
            st.button(_("Go on"), type="primary", on_click=_leave, key="mail_link_go_on")
            return
        try:
            if purpose == "sign_up":
                _show_open_account(secret)
            elif purpose == "confirm":
                _show_confirm(secret)
            else:
                _show_new_password(secret)
        except VisionMeterError as error:
            if purpose == "sign_up" and error.code == "bad_email_link" and error.details["was_used"]:
                st.success(_("Your account is open: sign in."), icon=":material/check_circle:")
            else:
                st.error(explain(error))
            if error.code in ("bad_email_link", "email_taken", "sign_up_closed"):
                st.button(_("Go on"), on_click=_leave, key="mail_link_go_on")


def _show_open_account(secret: str) -> None:
    email = sign_up_by_mail.look_at_link(current(), secret)
    st.markdown(_("Your account at this service, with the address {email}.").format(email=f"**{plain(email)}**"))
    if (present := current_user()) is not None:
        st.info(
            _("You are signed in as {email}; this opens another account and signs you in to it.").format(
                email=plain(present.email)
            ),
            icon=":material/info:",
        )
    with st.form("open_account", border=False):
        password, again = new_password_inputs(key="open_account_password")
        submitted = st.form_submit_button(_("Create account"), type="primary", width="stretch")
    if not submitted or not are_same(password, again):
        return
    # Whoever presses twice ends this run where it next writes to the session: nothing may be between the account, which
    # the link opens once, and its ticket.
    opening = st.session_state.setdefault("mail_link_opening", {})
    opening["ticket"] = sign_up_by_mail.open_account(
        current(), secret, password, language=language(), address=st.context.ip_address
    ).ticket
    st.rerun()


def _enter(ticket: str) -> None:
    """Sign the owner of a new account in, whoever was signed in here; the page is loaded anew."""
    if not carry_ticket(ticket):
        st.info(_("Signing you in …"))
        return
    st.success(_("Your account is open: sign in with its password."), icon=":material/check_circle:")
    st.button(_("Go on"), type="primary", on_click=_leave, key="mail_link_go_on")


def _show_confirm(secret: str) -> None:
    email = confirmation.look_at_link(current(), secret)
    st.markdown(_("The mail went to {email}.").format(email=f"**{plain(email)}**"))
    if not st.button(_("This address is mine"), type="primary", width="stretch", key="confirm_address"):
        return
    confirmed = confirmation.confirm(current(), secret)
    words = _("{email} is confirmed.").format(email=plain(confirmed.email))
    if confirmed.welcome_mt:
        words += " " + _("{amount} were added to the balance.").format(amount=tokens(confirmed.welcome_mt))
    _done(words)


def _show_new_password(secret: str) -> None:
    email = password_reset.look_at_link(current(), secret)
    st.markdown(_("For the account of {email}.").format(email=f"**{plain(email)}**"))
    with st.form("reset_password", border=False):
        new, again = new_password_inputs(key="reset_new")
        submitted = st.form_submit_button(_("Change the password"), type="primary", width="stretch")
    st.caption(
        _(
            "Every sign-in ends, and you sign in with the new password. API keys go on working, unless your address "
            "was never confirmed."
        )
    )
    if not submitted or not are_same(new, again):
        return
    ended = password_reset.set_password(current(), secret, new, address=st.context.ip_address)
    words = _("The password was changed. Sign in with the new one.")
    if ended is not None and not ended.of_account:
        words += " " + _(
            "Your address had never been confirmed. So that nobody else who used it gets in, these ended: the API keys "
            "({keys}) and open invitations ({invitations}) made with it, a second factor, and sign-in through an "
            "identity provider. Look under Team at who else belongs to the account."
        ).format(keys=ended.api_keys, invitations=ended.invitations)
    elif ended is not None:
        words += " " + _(
            "Your address had never been confirmed. So that nobody else who used it gets in, these ended: API keys "
            "({keys}), open invitations ({invitations}), other members ({members}), and a second factor. The address "
            "that low balances are told to was removed, and the webhooks have another secret."
        ).format(keys=ended.api_keys, invitations=ended.invitations, members=ended.members)
    _done(words)


def _done(words: str) -> None:
    st.session_state["mail_link_done"] = words
    st.rerun()


def _leave() -> None:
    for name in ("mail_link", "mail_link_done", "mail_link_opening", "forgotten"):
        st.session_state.pop(name, None)


def show_forgotten() -> None:
    """Below the form for signing in: what to do without the password."""
    if current().smtp is None:
        st.caption(_("Forgotten your password? The operator of this service gives you a link to choose another."))
        return
    if "forgotten" in st.query_params:
        # The link of the mail to whoever asked for a second account.
        del st.query_params["forgotten"]
        st.session_state["forgotten"] = True
    if not st.session_state.get("forgotten"):
        if st.button(_("Forgotten your password?"), type="tertiary", key="forgotten_open"):
            st.session_state["forgotten"] = True
            st.rerun()
        return
    with st.form("forgotten_password"):
        email = st.text_input(_("E-mail of the account"), autocomplete="email", key="forgotten_email")
        submitted = st.form_submit_button(_("Mail me a link"), width="stretch")
    if not submitted:
        return
    try:
        password_reset.request_reset(current(), email, address=st.context.ip_address)
    except VisionMeterError as error:
        st.error(explain(error))
        return
    st.success(
        _(
            "If somebody signs in with this address, a mail with a link is on its way to it. Nothing there after some "
            "minutes? Look where unwanted mail is kept, and whether this is the address of your account."
        ),
        icon=":material/mail:",
    )
