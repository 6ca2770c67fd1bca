"""Inviting new customers, each to an account of his own: where sign-up is by invitation, or for whom no mail
reaches."""

from __future__ import annotations

from collections.abc import Sequence

from core.db import one_at_a_time
from core.errors import HasAccountError
from core.identity import invitations, users
from core.identity.audit_log import record_event
from core.identity.tables import Invitation, User
from core.services.application import Application
from core.services.top_up import require_operator


def invite_customer(app: Application, operator: User, email: str) -> str:
    """Let an address open an account, with its welcome tokens; gives the code for `sign_up`, which is stored nowhere.

    The code is good for one sign-up within seven days; an earlier one of the same address ends. Raises
    `NotAllowedError`, `InvalidEmailError` or `HasAccountError`.
    """
    require_operator(operator)
    email = users.normalise_email(email)
    with app.db.write() as session:
        one_at_a_time(session, "invite_customer")
        if users.find_user(session, email) is not None:
            raise HasAccountError("This address signs in to an account already: invite another address.")
        record_event(session, actor=operator.id, action="customer.invite", subject="")
        return invitations.issue_invitation(session, account_id=None, email=email, role="owner", invited_by=operator.id)


def list_invitations(app: Application, operator: User) -> Sequence[Invitation]:
    """New customers' invitations that can still be accepted, newest first. Raises `NotAllowedError`."""
    require_operator(operator)
    with app.db.read() as session:
        return invitations.list_invitations(session, None)


def revoke_invitation(app: Application, operator: User, invitation_id: str) -> None:
    """Withdraw a new customer's invitation. Raises `NotAllowedError` or `InvitationNotFoundError`."""
    require_operator(operator)
    with app.db.write() as session:
        invitations.revoke_invitation(session, None, invitation_id)
        record_event(session, actor=operator.id, action="customer.withdraw_invitation", subject=invitation_id)
