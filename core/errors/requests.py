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
    """Too many requests, images or runs at once for the plan; nothing was held. Come back after `retry_after_s`."""

    code = "rate_limited"

    def __init__(self, message: str, *, limit: str, retry_after_s: int) -> None:
        super().__init__(message, limit=limit, retry_after_s=retry_after_s)
        self.retry_after_s = retry_after_s


class ImageUrlRefusedError(VisionMeterError):
    """An address that is not called: another scheme, credentials in it, a machine that is not on the public net."""

    code = "image_url_refused"


class ImageUrlFailedError(VisionMeterError):
    """The address was called and gave nothing in time: no such host, an error status, too slow, a loop."""

    code = "image_url_failed"


class WebhookUrlRefusedError(VisionMeterError):
    """An address that no webhook is sent to; the run was not started."""

    code = "webhook_url_refused"


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
