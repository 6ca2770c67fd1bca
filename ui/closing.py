"""Account, Profile: deleting the account, or leaving one that others keep."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from core.errors import VisionMeterError
from core.identity.tables import User
from core.services import account_view, closing
from core.services.application import Application, current
from ui.format import tokens_and_money
from ui.i18n import _
from ui.messages import explain
from ui.session import require_user, sign_out


def show_closing(app: Application, user: User) -> None:
    """The button and what it would do; the deed itself is asked for in a dialog."""
    leaves = closing.can_leave(app, user)
    title = _("Leave this account") if leaves else _("Delete my account")
    st.subheader(title)
    st.caption(
        _(
            "You cannot sign in any more, and your address is forgotten. API keys that you made end. The account, its "
            "balance and its pictures stay with the others."
        )
        if leaves
        else _(
            "Your address, sign-ins, API keys, pictures and results are removed, and what is left of the balance is "
            "lost. It cannot be undone."
        )
    )
    if st.button(title, icon=":material/logout:" if leaves else ":material/delete_forever:", key="close_account"):
        st.dialog(title)(_leave if leaves else _delete)()


def _delete() -> None:
    app, user = current(), require_user()
    balance = account_view.get_balance(app, user)
    st.markdown(
        _(
            "**Removed at once:** your address and password, every sign-in, every API key, open invitations. "
            "**Removed within minutes:** pictures, results, names of files, webhooks and their secret.\n\n"
            "**Kept, as books must be, under numbers in place of your name:** transactions, receipts with the "
            "fingerprints of pictures, usage figures, and the log of who did what, which has the names of API keys."
        )
    )
    st.caption(_("Take your data along first: Export my data, above this button."))
    agreed = True
    if balance.available_mt:
        agreed = st.checkbox(
            _("I give up {amount}, which are left of my balance.").format(
                amount=tokens_and_money(balance.available_mt)
            ),
            # Another amount is another question.
            key=f"forfeit_{balance.available_mt}",
        )
    _ask_password(
        _("Delete my account for good"),
        is_ready=agreed,
        act=lambda password: closing.delete_account(app, user, password, forfeit_mt=balance.available_mt),
        done=_("Your account was deleted. Thank you for having been here."),
    )


def _leave() -> None:
    app, user = current(), require_user()
    st.markdown(_("What you did here stays in the account's books, under a number in place of your address."))
    _ask_password(
        _("Leave for good"),
        is_ready=True,
        act=lambda password: closing.leave_account(app, user, password),
        done=_("You left the account, and your address was forgotten."),
    )


def _ask_password(label: str, *, is_ready: bool, act: Callable[[str], None], done: str) -> None:
    # Who signs in at an identity provider has none.
    has_password = bool(require_user().password_digest)
    with st.form("close_account_form", border=False):
        if has_password:
            password = st.text_input(
                _("Password"), type="password", autocomplete="current-password", key="close_password"
            )
        else:
            password = st.text_input(_("Your e-mail address, to confirm"), autocomplete="off", key="close_email")
        # A button that is disabled until the box is ticked would not hear of the password in time.
        submitted = st.form_submit_button(label, type="primary", icon=":material/delete_forever:")
    if not submitted:
        return
    if not is_ready:
        st.error(_("Tick the box above first: what is left of the balance would be lost."))
        return
    try:
        act(password)
    except VisionMeterError as error:
        if error.code != "bad_credentials":
            st.error(explain(error))
        elif has_password:
            st.error(_("The password is wrong. Nothing was changed."))
        else:
            st.error(_("This is not the address that you sign in with. Nothing was changed."))
        return
    sign_out()
    st.session_state["farewell"] = done
    st.rerun()
