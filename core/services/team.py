"""Who may do what in an account: owners decide, members spend, viewers look. Who belongs to it, and who may join."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlmodel import Session

from core.db import one_at_a_time
from core.errors import (
    HasAccountError,
    InvalidRoleError,
    LastOperatorError,
    LastOwnerError,
    MemberNotFoundError,
    RoleNeededError,
)
from core.identity import api_keys, invitations, oidc_rows, second_factors, sessions, users
from core.identity.audit_log import record_event
from core.identity.callers import Caller
from core.identity.tables import Invitation, User
from core.services.application import Application

# Each may do what those before it may.
ROLES = ("viewer", "member", "owner")


def require_role(user: Caller, minimum: str) -> None:
    """Raise `RoleNeededError` for a user whose role in the account is below `viewer` < `member` < `owner`.

    Who was removed from the account has none.
    """
    role = user.role if user.disabled_at is None else "none"
    if role not in ROLES or ROLES.index(role) < ROLES.index(minimum):
        raise RoleNeededError(needed=minimum, role=role)


def list_members(app: Application, user: User) -> Sequence[User]:
    """Everybody who belongs to the account now, oldest first. Raises `RoleNeededError` for who does not any more."""
    with app.db.read() as session:
        require_now(session, user, "viewer")
        return users.list_members(session, user.account_id)


def list_invitations(app: Application, owner: User) -> Sequence[Invitation]:
    """The account's invitations that can still be accepted, newest first. Raises `RoleNeededError`."""
    with app.db.read() as session:
        _require_owner(session, owner)
        return invitations.list_invitations(session, owner.account_id)


def actor_names(app: Application, account_id: str) -> Mapping[str, str]:
    """Who acted in an account's entries, by id: the address of everybody who ever belonged to it, the name of a key."""
    with app.db.read() as session:
        return {**users.actor_names(session, account_id), **api_keys.key_names(session, account_id)}


def invite_member(app: Application, owner: User, email: str, role: str) -> str:
    """Let an address join the account in a role; gives the code for `sign_up`, which is stored nowhere.

    The code is good for one sign-up within seven days; an earlier invitation of the same address ends. Raises
    `RoleNeededError`, `InvalidEmailError`, `InvalidRoleError`, `HasAccountError`, or `TooManyInvitationsError` after
    twenty in an hour, before anything is looked up.
    """
    with app.db.read() as session:
        _require_owner(session, owner)
    email = users.normalise_email(email)
    _require_known_role(role)
    app.rates.hit_invitation(owner.account_id)
    with app.db.write() as session:
        _begin_change(session, owner)
        if users.find_user(session, email) is not None:
            raise HasAccountError(
                "This address signs in to an account already, and a person belongs to one account: "
                "invite another address."
            )
        _record(session, owner, "team.invite", "", role=role)
        return invitations.issue_invitation(
            session, account_id=owner.account_id, email=email, role=role, invited_by=owner.id
        )


def revoke_invitation(app: Application, owner: User, invitation_id: str) -> None:
    """Withdraw an open invitation. Raises `RoleNeededError` or `InvitationNotFoundError`."""
    with app.db.write() as session:
        _begin_change(session, owner)
        invitations.revoke_invitation(session, owner.account_id, invitation_id)
        _record(session, owner, "team.withdraw_invitation", invitation_id)


def set_member_role(app: Application, owner: User, user_id: str, role: str) -> None:
    """Give a member of the account another role; an owner may do so to himself while another owner remains.

    Raises `RoleNeededError`, `InvalidRoleError`, `MemberNotFoundError` or `LastOwnerError`.
    """
    with app.db.write() as session:
        _begin_change(session, owner)
        _require_known_role(role)
        member = _require_member(session, owner.account_id, user_id)
        if role != "owner":
            _require_another_owner(session, member)
            # What he invited as an owner must not outlive that: he knows the codes.
            invitations.revoke_invitations_by(session, member.id)
        if role == "viewer":
            # A key spends, which a viewer may not; he knows the secrets of those that he made.
            api_keys.revoke_keys_by(session, member.id)
        elif role != "owner":
            # Only owners make keys that manage keys.
            api_keys.revoke_keys_by(session, member.id, managing_only=True)
        users.set_role(session, member.id, role)
        _record(session, owner, "team.set_role", member.id, role=role)


def remove_member(app: Application, owner: User, user_id: str) -> None:
    """End somebody's access to the account at once, his sessions included; his past entries keep naming him.

    An owner may remove himself while another owner remains. Raises `RoleNeededError`, `MemberNotFoundError`,
    `LastOwnerError` or `LastOperatorError`.
    """
    with app.db.write() as session:
        _begin_change(session, owner)
        end_membership(session, owner.account_id, user_id)
        _record(session, owner, "team.remove", user_id)


def end_membership(session: Session, account_id: str, user_id: str) -> None:
    """Let somebody belong to an account no more, with all that he could act by.

    Raises `MemberNotFoundError`, `LastOwnerError` or `LastOperatorError`.
    """
    member = _require_member(session, account_id, user_id)
    _require_another_owner(session, member)
    require_another_operator(session, member)
    invitations.revoke_invitations_by(session, member.id)
    api_keys.revoke_keys_by(session, member.id)
    users.disable_user(session, member.id)
    sessions.revoke_all(session, member.id)
    second_factors.remove(session, member.id)
    oidc_rows.remove_of(session, member.id)


def require_another_operator(session: Session, user: User) -> None:
    """Raise `LastOperatorError` when this is the only operator of the installation."""
    if user.is_operator and users.count_operators(session) == 1:
        raise LastOperatorError("This is the only operator of the installation: he cannot be removed.")


def _begin_change(session: Session, owner: User) -> None:
    # One lock for all accounts: the last operator is counted across them, and teams change rarely.
    one_at_a_time(session, "team")
    _require_owner(session, owner)


def _require_owner(session: Session, owner: User) -> None:
    require_now(session, owner, "owner")


def require_now(session: Session, user: Caller, minimum: str) -> None:
    """`require_role` for a person as he is now, not as he was when his page was drawn.

    Another owner may have removed him since.
    """
    now = users.find_member(session, user.account_id, user.id)
    if now is None:
        raise RoleNeededError(needed=minimum, role="none")
    require_role(now, minimum)


def _record(session: Session, owner: User, action: str, subject: str, **details: str) -> None:
    record_event(session, actor=owner.id, action=action, subject=subject, account_id=owner.account_id, details=details)


def _require_member(session: Session, account_id: str, user_id: str) -> User:
    member = users.find_member(session, account_id, user_id)
    if member is None:
        raise MemberNotFoundError("Nobody with this id belongs to your account: load the page again.")
    return member


def _require_known_role(role: str) -> None:
    if role not in ROLES:
        raise InvalidRoleError(f"Choose one of the roles {', '.join(ROLES)}.")


def _require_another_owner(session: Session, member: User) -> None:
    if member.role == "owner" and not any(
        other.role == "owner" for other in users.list_members(session, member.account_id) if other.id != member.id
    ):
        raise LastOwnerError("This is the only owner of the account: make somebody else an owner first.")
