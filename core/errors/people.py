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


class TooManyFromHereError(VisionMeterError):
    """Too many sign-ins or sign-ups from one network address; come back after `retry_after_s`."""

    code = "too_many_from_here"


class SignUpClosedError(VisionMeterError):
    """New accounts are by the operator's invitation, or there are none; `policy` is `invitation` or `closed`."""

    code = "sign_up_closed"


class OidcRefusedError(VisionMeterError):
    """A sign-in at the identity provider came to nothing. `reason` says why, in one word of a closed list."""

    code = "oidc_refused"


class SignInTicketError(VisionMeterError):
    """The single-use ticket is unknown, used or expired."""

    code = "bad_ticket"


class SecondFactorNeededError(VisionMeterError):
    """The password was right, and a code is asked for before there is a session; `step` is the secret to go on with."""

    code = "second_factor_needed"

    def __init__(self, step: str) -> None:
        super().__init__("Enter the code that your authenticator app shows, or a recovery code.")
        # No detail: those are written to logs and answers.
        self.step = step


class SignInStepError(VisionMeterError):
    """The sign-in that waits for a code is unknown, used, expired, or had too many wrong codes."""

    code = "sign_in_step_ended"


class BadCodeError(VisionMeterError):
    """The code of a second factor is wrong or was used; which one is not said."""

    code = "bad_code"


class SecondFactorLockedError(VisionMeterError):
    """So many wrong codes came in a row that only a recovery code is taken."""

    code = "second_factor_locked"


class SecondFactorStateError(VisionMeterError):
    """The second factor was turned on or off meanwhile; nothing was changed."""

    code = "second_factor_state"


class SeedKeyError(VisionMeterError):
    """The key that second factors are encrypted with is not there, or not the one they were encrypted with."""

    code = "second_factor_key"


class EmailLinkError(VisionMeterError):
    """The link of a mail is unknown, expired, replaced by a newer one, or was used: then `was_used` is true."""

    code = "bad_email_link"


class MailFirstError(VisionMeterError):
    """An account begins with a mail to its address here, which this request did not ask for."""

    code = "mail_first"


class TooManyMailsError(VisionMeterError):
    """So many mails of this kind went to this user in the last hour that he gets no other one now."""

    code = "too_many_mails"


class TooManyInvitationsError(VisionMeterError):
    """The account invited so many within an hour that it invites no other one before `retry_after_s`."""

    code = "too_many_invitations"


class SessionNotFoundError(VisionMeterError):
    """The user has no such sign-in, or it ended."""

    code = "session_not_found"


class InvalidTimeZoneError(VisionMeterError):
    """There is no such time zone; nothing was changed."""

    code = "invalid_time_zone"


class InvalidBillingError(VisionMeterError):
    """Billing details that have no room on an invoice."""

    code = "invalid_billing"


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


class TeamNotEmptyError(VisionMeterError):
    """Others belong to the account, so it cannot be deleted; nothing was changed. `members` is their number."""

    code = "team_not_empty"


class LastOwnerError(VisionMeterError):
    """An account keeps at least one owner; nothing was changed."""

    code = "last_owner"


class LastOperatorError(VisionMeterError):
    """An installation keeps at least one operator; nothing was changed."""

    code = "last_operator"
