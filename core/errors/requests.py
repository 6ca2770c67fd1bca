"""Failures that only a program meets: API keys, rate limits, addresses that it wants to have called."""

from __future__ import annotations

from core.errors.base import VisionMeterError


class InvalidRequestError(VisionMeterError):
    """A body or a parameter that cannot be read; nothing was held. `errors` names each field."""

    code = "invalid_request"


class RequestTooLargeError(VisionMeterError):
    """The body has more bytes than one request may have."""

    code = "request_too_large"


class RequestTooSlowError(VisionMeterError):
    """The body did not come in time; nothing was held. Send it again, over a faster line or in smaller parts."""

    code = "request_too_slow"


class UnsupportedBodyError(VisionMeterError):
    """The content type of the body is none that the operation reads."""

    code = "unsupported_body"


class RateLimitedError(VisionMeterError):
    """Too many requests, images or runs at once; nothing was held. Come back after `retry_after_s`.

    `limit` is the name of what was reached, such as `requests_per_s`, and `limit_max` how much of it there is.
    """

    code = "rate_limited"

    def __init__(self, message: str, *, limit: str, limit_max: int, retry_after_s: int) -> None:
        super().__init__(message, limit=limit, limit_max=limit_max, retry_after_s=retry_after_s)
        self.retry_after_s = retry_after_s


class TooManyStoredPicturesError(VisionMeterError):
    """The pictures of the account's unrun quotes take all the room that they may take; nothing was stored.

    `stored_bytes` of `stored_bytes_max` are in use, and the oldest go at `free_at`, if there are any.
    """

    code = "too_many_stored_pictures"


class ImageUrlRefusedError(VisionMeterError):
    """An address that is not called: another scheme, credentials in it, a machine that is not on the public net."""

    code = "image_url_refused"


class ImageUrlFailedError(VisionMeterError):
    """The address was called and gave nothing in time: no such host, an error status, too slow, a loop."""

    code = "image_url_failed"


class WebhookUrlRefusedError(VisionMeterError):
    """An address that no webhook is sent to; nothing was started or stored."""

    code = "webhook_url_refused"


class DeliveryNotFoundError(VisionMeterError):
    """The account has no such webhook message."""

    code = "delivery_not_found"


class ResultNotFoundError(VisionMeterError):
    """There is no such stored result for this account."""

    code = "result_not_found"


class ApiKeyNotFoundError(VisionMeterError):
    """The account has no such API key."""

    code = "key_not_found"


class InvalidApiKeySettingError(VisionMeterError):
    """A name, model, network, cap or date that an API key cannot have; nothing was changed. `field` names it."""

    code = "invalid_key_setting"


class TooManyApiKeysError(VisionMeterError):
    """The account has as many usable API keys as it may have."""

    code = "too_many_keys"


class KeyModelNotAllowedError(VisionMeterError):
    """The API key is limited to other models; nothing was held."""

    code = "key_model_not_allowed"


class KeyNetworkNotAllowedError(VisionMeterError):
    """The API key is limited to other networks than the caller's."""

    code = "key_network_not_allowed"


class KeyMayNotError(VisionMeterError):
    """The API key is not one that manages keys."""

    code = "key_may_not"
