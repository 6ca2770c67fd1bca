"""The people of an account: who belongs to it in which role, who is invited, and what an owner may change."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlencode, urlsplit

import streamlit as st

from core.errors import VisionMeterError
from core.identity.tables import Invitation, User
from core.services import team
from core.services.application import Application, current
from ui.format import local_time, plain
from ui.i18n import _
from ui.messages import explain, role_words
from ui.session import may, require_user


def show_team(app: Application, user: User) -> None:
    """Members for everybody; invitations and changes for owners."""
    is_owner = may(user, "owner")
    if notice := st.session_state.pop("team_notice", None):
        st.success(notice, icon=":material/check_circle:")
    members = team.list_members(app, user)
    for member in members:
        _show_member(member, user, is_owner=is_owner)
    if not is_owner:
        st.caption(_("Only an owner of the account invites people and changes roles."))
        return
    if len(members) == 1:
        st.info(
            _("Only you belong to this account. Invite a colleague below: you share its balance, runs and receipts."),
            icon=":material/group_add:",
        )
    st.subheader(_("Invite"))
    _show_invite(app)
    _show_invitations(app, user)


def role_meaning(role: str) -> str:
    """What a role may do, in a few words."""
    words = {
        "owner": _("owner — spends, sets limits, invites people"),
        "member": _("member — runs pictures and tops up"),
        "viewer": _("viewer — looks at everything, spends nothing"),
    }
    return words[role]


def _show_member(member: User, user: User, *, is_owner: bool) -> None:
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        with st.container(gap=None):
            st.text(f"{member.email} · {_('you')}" if member.id == user.id else member.email)
            seen = (
                _("last sign-in {time}").format(time=local_time(member.last_sign_in_at))
                if member.last_sign_in_at
                else _("never signed in")
            )
            st.caption(f"{role_words(member.role)} · {seen}")
        if is_owner and st.button(_("Change"), key=f"change_{member.id}", icon=":material/edit:"):
            _ask(member)


def _ask(member: User) -> None:
    st.dialog(_("Role and access"), icon=":material/badge:")(_show_choices)(member)


def _show_choices(member: User) -> None:
    st.text(member.email)
    roles = list(reversed(team.ROLES))
    role = st.radio(
        _("Role"), roles, index=roles.index(member.role), format_func=role_meaning, key=f"new_role_{member.id}"
    )
    is_self = member.id == require_user().id
    if is_self and role != "owner":
        st.warning(_("You will no longer be an owner: another owner must give the role back to you."))
    if st.button(_("Save role"), type="primary", key="save_role"):
        _change(
            lambda: team.set_member_role(current(), require_user(), member.id, role),
            _("{email} has the role “{role}” now.").format(email=plain(member.email), role=role_words(role)),
        )
    st.divider()
    st.caption(
        _(
            "Whoever is removed is signed out at once and sees nothing of this account any more. Runs and receipts "
            "stay, with the address on them."
        )
    )
    sure = st.checkbox(_("Yes, end this person's access"), key=f"sure_{member.id}")
    if st.button(_("Remove"), disabled=not sure, key="confirm_removal", icon=":material/person_remove:"):
        _change(
            lambda: team.remove_member(current(), require_user(), member.id),
            _("{email} was removed.").format(email=plain(member.email)),
        )


def _change(change: Callable[[], None], notice: str) -> None:
    try:
        change()
    except VisionMeterError as error:
        st.error(explain(error))
    else:
        _done(notice)


def _done(notice: str) -> None:
    st.session_state["team_notice"] = notice
    st.rerun()


def _show_invite(app: Application) -> None:
    with st.form("invite", border=False):
        left, right = st.columns(2)
        email = left.text_input(_("E-mail"), type="email", max_chars=254, key="invite_email")
        role = right.selectbox(_("Role"), list(team.ROLES), index=1, format_func=role_meaning, key="invite_role")
        if st.form_submit_button(_("Make an invitation"), type="primary", icon=":material/mail:"):
            try:
                code = team.invite_member(app, require_user(), email or "", role)
            except VisionMeterError as error:
                st.session_state.pop("invitation_made", None)
                st.error(explain(error))
            else:
                st.session_state["invitation_made"] = ((email or "").strip(), invitation_link(code))
    if made := st.session_state.pop("invitation_made", None):
        with st.container(border=True, key="invitation_made"):
            st.markdown(
                _(
                    "Send this link to **{email}** yourself. It is shown only now, works once, and for seven days."
                ).format(email=plain(made[0]))
            )
            st.code(made[1], language=None, wrap_lines=True)


def invitation_link(code: str) -> str:
    """The sign-in page's address with the code, on the host by which the reader reached us."""
    address = urlsplit(st.context.url or "")
    origin = f"{address.scheme}://{address.netloc}" if address.netloc else ""
    return f"{origin}/?{urlencode({'invite': code})}"


def _show_invitations(app: Application, user: User) -> None:
    pending = team.list_invitations(app, user)
    st.subheader(_("Open invitations"))
    if not pending:
        st.caption(_("None: whoever was invited has joined, or the invitation ended."))
    for invitation in pending:
        _show_invitation(app, invitation)


def _show_invitation(app: Application, invitation: Invitation) -> None:
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        with st.container(gap=None):
            st.text(invitation.email)
            until = _("until {time}").format(time=local_time(invitation.expires_at))
            st.caption(f"{role_words(invitation.role)} · {until}")
        if st.button(_("Withdraw"), key=f"revoke_{invitation.id}", icon=":material/block:"):
            _change(
                lambda: team.revoke_invitation(app, require_user(), invitation.id),
                _("The invitation of {email} was withdrawn.").format(email=plain(invitation.email)),
            )
