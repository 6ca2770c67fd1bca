"""Failures of signing in, of teams and of what somebody may do."""

from __future__ import annotations

from core.errors.base import VisionMeterError


class InvalidEmailError(VisionMeterError):
    """The text is no e-mail address."""

    code = "invalid_email"


class EmailTakenError(VisionMeterError):
    """Another user signed up with this address."""

    code = "email_taken"


class WeakPasswordError(VisionMeterError):
    """The password is too short or too long."""

    code = "weak_password"


class BadCredentialsError(VisionMeterError):
    """The address or the password is wrong; which one is not said."""

    code = "bad_credentials"


class TooManyAttemptsError(VisionMeterError):
    """Too many failed sign-ins for this address in a short time."""

    code = "too_many_attempts"


class SignInTicketError(VisionMeterError):
    """The single-use ticket is unknown, used or expired."""

    code = "bad_ticket"


class SessionNotFoundError(VisionMeterError):
    """The user has no such sign-in, or it ended."""

    code = "session_not_found"


class InvalidTimeZoneError(VisionMeterError):
    """There is no such time zone; nothing was changed."""

    code = "invalid_time_zone"


class NotSignedInError(VisionMeterError):
    """The request carries no session, or one that ended."""

    code = "unauthorized"


class NotAllowedError(VisionMeterError):
    """The user's role does not permit this."""

    code = "not_allowed"


class RoleNeededError(VisionMeterError):
    """The user's role in his account does not permit this."""

    code = "role_needed"

    def __init__(self, *, needed: str, role: str) -> None:
        super().__init__(
            f"This needs the role {needed} in this account, and yours is {role}: ask an owner.",
            needed=needed,
            role=role,
        )


class InvalidRoleError(VisionMeterError):
    """There is no such role; nothing was changed."""

    code = "invalid_role"


class InvitationError(VisionMeterError):
    """The invitation is unknown, used, withdrawn, expired or another address's; which of these is not said."""

    code = "bad_invitation"


class InvitationNotFoundError(VisionMeterError):
    """The account has no such open invitation."""

    code = "invitation_not_found"


class HasAccountError(VisionMeterError):
    """The address to be invited signs in to an account already, and a person belongs to one."""

    code = "has_account"


class MemberNotFoundError(VisionMeterError):
    """Nobody with this id belongs to the account."""

    code = "member_not_found"


class LastOwnerError(VisionMeterError):
    """An account keeps at least one owner; nothing was changed."""

    code = "last_owner"


class LastOperatorError(VisionMeterError):
    """An installation keeps at least one operator; nothing was changed."""

    code = "last_operator"
