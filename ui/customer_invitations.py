"""Admin, Customers: inviting a new customer, where accounts are by the operator's invitation, or begin with a mail."""

from __future__ import annotations

import streamlit as st

from core.errors import VisionMeterError
from core.services import customer_invitations
from core.services.application import current
from ui.format import local_time, plain
from ui.i18n import _
from ui.messages import explain
from ui.navigation import forget_on_arrival
from ui.session import require_operator
from ui.team import invitation_link


def show_customer_invitations() -> None:
    """Who may open an account here; the form for an invitation where one is of use, and those that are open."""
    policy = current().settings.sign_up
    if policy == "open":
        st.caption(_("Anybody may open an account. `VISIONMETER_SIGN_UP` changes that."))
        if current().smtp is None:
            return
        st.caption(_("An invitation lets in whom no mail reaches: you send its link yourself."))
    if policy == "closed":
        st.caption(_("Nobody can open a new account. `VISIONMETER_SIGN_UP` changes that."))
        return
    if notice := st.session_state.pop("customer_invitation_notice", None):
        st.success(notice, icon=":material/check_circle:")
    with st.form("invite_customer", border=False):
        email = st.text_input(
            _("E-mail of a new customer"), type="email", max_chars=254, key="customer_invite_email", width=360
        )
        if st.form_submit_button(_("Make an invitation"), icon=":material/mail:"):
            _invite(email or "")
    forget_on_arrival("customer_invitation_made")
    if made := st.session_state.get("customer_invitation_made"):
        with st.container(border=True, key="customer_invitation_made"):
            st.markdown(
                _(
                    "Send this link to **{email}** yourself. It is shown until you leave this page, works once, and "
                    "for seven days."
                ).format(email=plain(made[0]))
            )
            st.code(made[1], language=None, wrap_lines=True)
    for invitation in customer_invitations.list_invitations(current(), require_operator()):
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            until = _("until {time}").format(time=local_time(invitation.expires_at))
            st.text(f"{invitation.email} · {until}")
            if st.button(_("Withdraw"), key=f"withdraw_{invitation.id}", icon=":material/block:"):
                _withdraw(invitation.id, invitation.email)


def _invite(email: str) -> None:
    try:
        code = customer_invitations.invite_customer(current(), require_operator(), email)
    except VisionMeterError as error:
        st.error(explain(error))
        return
    st.session_state["customer_invitation_made"] = (email.strip(), invitation_link(code))


def _withdraw(invitation_id: str, email: str) -> None:
    try:
        customer_invitations.revoke_invitation(current(), require_operator(), invitation_id)
    except VisionMeterError as error:
        st.error(explain(error))
        return
    st.session_state.pop("customer_invitation_made", None)
    st.session_state["customer_invitation_notice"] = _("The invitation of {email} was withdrawn.").format(
        email=plain(email)
    )
    st.rerun()
