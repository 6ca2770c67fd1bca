"""Who may do what in an account: owners decide, members spend, viewers look."""

from __future__ import annotations

from core.errors import RoleNeededError
from core.identity.tables import User

# Each may do what those before it may.
ROLES = ("viewer", "member", "owner")


def require_role(user: User, minimum: str) -> None:
    """Raise `RoleNeededError` for a user whose role in the account is below `viewer` < `member` < `owner`."""
    role = "owner" if user.role == "operator" else user.role
    if ROLES.index(role) < ROLES.index(minimum):
        raise RoleNeededError(needed=minimum, role=role)
