"""Every expected failure: a class with a stable `code` and a message that says what to do next.

The gateway maps codes to HTTP statuses in one table, the portal to words. Keyword arguments are kept in `details`.
"""

from __future__ import annotations

from typing import Any

from core.money import format_tokens


class VisionMeterError(Exception):
    """An expected failure. `code` is stable, `details` holds JSON-serialisable facts."""

    code = "error"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class InsufficientTokensError(VisionMeterError):
    """The balance does not cover the amount; nothing was held.

    `required_mt`, `available_mt` and `missing_mt` are integers in milli-tokens.
    """

    code = "insufficient_tokens"

    def __init__(self, *, required_mt: int, available_mt: int) -> None:
        missing_mt = required_mt - available_mt
        super().__init__(
            f"This needs {format_tokens(required_mt)} tokens and {format_tokens(available_mt)} are "
            f"available: top up {format_tokens(missing_mt)} tokens and run it again.",
            required_mt=required_mt,
            available_mt=available_mt,
            missing_mt=missing_mt,
        )
        self.required_mt = required_mt
        self.available_mt = available_mt
        self.missing_mt = missing_mt


class AccountNotActiveError(VisionMeterError):
    """The account does not exist or is frozen; nothing moved."""

    code = "account_not_active"


class SpendingCapError(VisionMeterError):
    """The spending cap of a day or a month leaves too little; nothing was held.

    `period` is `day` or `month`, `scope` is `account` or `key`; amounts in milli-tokens.
    """

    code = "spending_cap"

    def __init__(self, *, period: str, scope: str, cap_mt: int, spent_mt: int, required_mt: int) -> None:
        left_mt = max(0, cap_mt - spent_mt)
        super().__init__(
            f"This needs {format_tokens(required_mt)} tokens, and the cap of {format_tokens(cap_mt)} a {period} leaves "
            f"{format_tokens(left_mt)}: run fewer images, wait for the next {period}, or let the owner raise the cap.",
            period=period,
            scope=scope,
            cap_mt=cap_mt,
            spent_mt=spent_mt,
            left_mt=left_mt,
            required_mt=required_mt,
        )


class RefundTooLargeError(VisionMeterError):
    """More was to be refunded than is left of a charge; nothing moved."""

    code = "refund_too_large"

    def __init__(self, *, amount_mt: int, refundable_mt: int) -> None:
        super().__init__(
            f"{format_tokens(amount_mt)} tokens are more than the {format_tokens(refundable_mt)} that are left of this "
            "charge: refund at most that.",
            amount_mt=amount_mt,
            refundable_mt=refundable_mt,
        )


class ReasonMissingError(VisionMeterError):
    """A correction without a reason; nothing moved."""

    code = "reason_missing"


class InvalidHeadError(VisionMeterError):
    """A file that is no exported head of the ledger."""

    code = "invalid_head"


class QuoteGrewError(VisionMeterError):
    """The quote expired and the same work costs more now; nothing was held. `quote_id` names the new quote."""

    code = "quote_grew"

    def __init__(self, *, quote_id: str, total_mt: int, previous_mt: int) -> None:
        super().__init__(
            f"The price went from {format_tokens(previous_mt)} to {format_tokens(total_mt)} tokens since the preview: "
            "look at it and run the new quote if you agree.",
            quote_id=quote_id,
            total_mt=total_mt,
            previous_mt=previous_mt,
        )


class ChargeKeyTakenError(VisionMeterError):
    """The same work is already held or captured for this account; `status` says which."""

    code = "charge_key_taken"


class LedgerInconsistentError(VisionMeterError):
    """An account's entries do not lead to its stored balances; `account_id` names it."""

    code = "ledger_inconsistent"


class HoldEndedError(VisionMeterError):
    """The hold was captured, released or expired before; a hold ends once."""

    code = "hold_ended"


class IdempotencyConflictError(VisionMeterError):
    """The idempotency key was used before for a different request."""

    code = "idempotency_conflict"

    def __init__(self, key: str) -> None:
        super().__init__(
            "This idempotency key was used for another request: send a new key for a new request.", key=key
        )


class QuoteExpiredError(VisionMeterError):
    """The quote is too old to run; nothing was held."""

    code = "quote_expired"


class QuoteNotFoundError(VisionMeterError):
    """There is no such quote for this account."""

    code = "quote_not_found"


class ReceiptNotFoundError(VisionMeterError):
    """There is no such receipt for this account."""

    code = "receipt_not_found"


class QuoteMismatchError(VisionMeterError):
    """The images sent are not the images that were quoted."""

    code = "quote_mismatch"


class NoRateError(VisionMeterError):
    """The price book has no rate for this model."""

    code = "no_rate"


class VoucherNotFoundError(VisionMeterError):
    """No voucher has this code."""

    code = "voucher_not_found"


class VoucherUsedError(VisionMeterError):
    """The voucher was redeemed before."""

    code = "voucher_used"


class VoucherExpiredError(VisionMeterError):
    """The voucher is past its date or was withdrawn."""

    code = "voucher_expired"


class InvalidAmountError(VisionMeterError):
    """An amount outside the allowed range."""

    code = "invalid_amount"


class ImageRefusedError(VisionMeterError):
    """An upload that cannot be served. `code` names the reason; nothing was held for it."""

    code = "image_refused"


class ImageEmptyError(ImageRefusedError):
    """Zero bytes."""

    code = "image_empty"


class ImageTooManyBytesError(ImageRefusedError):
    """The file is larger than the limit."""

    code = "image_too_many_bytes"


class ImageTooManyPixelsError(ImageRefusedError):
    """The header announces more pixels than the limit (a decompression bomb, or a very large picture)."""

    code = "image_too_many_pixels"


class ImageUnsupportedError(ImageRefusedError):
    """The bytes are no picture in a format that we decode, whatever the name says."""

    code = "image_unsupported"


class ImageBrokenError(ImageRefusedError):
    """The bytes begin like a picture but cannot be decoded to the end."""

    code = "image_broken"


class ImageAnimatedError(ImageRefusedError):
    """Several frames in one file."""

    code = "image_animated"


class TooManyImagesError(VisionMeterError):
    """More images in one batch than the limit."""

    code = "too_many_images"


class ModelNotFoundError(VisionMeterError):
    """No model has this name."""

    code = "model_not_found"


class ModelNotReadyError(VisionMeterError):
    """The model is known but its weights are not on this machine."""

    code = "model_not_ready"


class WeightsRefusedError(VisionMeterError):
    """The weights file is not the registered one, or names code outside the allow-list."""

    code = "weights_refused"


class InvalidImageSizeError(VisionMeterError):
    """`img_size` is not one that the engine serves."""

    code = "invalid_img_size"


class InferenceError(VisionMeterError):
    """The model failed on this image."""

    code = "inference_failed"


class EngineBusyError(VisionMeterError):
    """The engine's queue is full; nothing was held."""

    code = "engine_busy"


class EngineStoppedError(VisionMeterError):
    """The engine is shutting down."""

    code = "engine_stopped"


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


class JobNotFoundError(VisionMeterError):
    """There is no such job for this account."""

    code = "job_not_found"


class ConfigError(VisionMeterError):
    """A setting is wrong; the message names it and says what is accepted."""

    code = "config"
