"""Every expected failure: a class with a stable `code` and a message that says what to do next.

The gateway maps codes to HTTP statuses in one table, the portal maps them to words in one table. The
keyword arguments an error was made with are kept in `details`, so that both tables can fill in numbers.
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


# Money ---------------------------------------------------------------------------------------------


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


class ChargeKeyTakenError(VisionMeterError):
    """The same work is already held or captured for this account; `status` says which."""

    code = "charge_key_taken"


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


class QuoteMismatchError(VisionMeterError):
    """The images sent are not the images that were quoted."""

    code = "quote_mismatch"


class NoRateError(VisionMeterError):
    """The price book has no rate for this model."""

    code = "no_rate"


# Vouchers ------------------------------------------------------------------------------------------


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


# Images --------------------------------------------------------------------------------------------


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


# Models and the engine -----------------------------------------------------------------------------


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


# People --------------------------------------------------------------------------------------------


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


class NotAllowedError(VisionMeterError):
    """The user's role does not permit this."""

    code = "not_allowed"


class JobNotFoundError(VisionMeterError):
    """There is no such job for this account."""

    code = "job_not_found"


class ConfigError(VisionMeterError):
    """A setting is wrong; the message names it and says what is accepted."""

    code = "config"
