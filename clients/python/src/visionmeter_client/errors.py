"""What can go wrong, as exceptions: an answer that is an error, or no answer at all."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any


class VisionMeterError(Exception):
    """Whatever this package raises on purpose, except `ValueError` and `TypeError` for wrong arguments."""


class UnexpectedAnswerError(VisionMeterError):
    """The answer is not of the shape that this version of the client knows."""


class UnreachableError(VisionMeterError):
    """There was no answer: the host cannot be reached, or it took too long. What was sent may have been done."""


class WebhookError(VisionMeterError):
    """What came in is no webhook that the holder of this secret sent just now: answer 400 and do nothing."""


class ApiError(VisionMeterError):
    """An answer that is an error (RFC 9457). `code` is stable, `detail` tells what to do, `facts` holds the rest."""

    def __init__(
        self,
        *,
        status: int,
        code: str,
        detail: str,
        request_id: str | None = None,
        facts: Mapping[str, Any] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{detail} ({code}{f', request {request_id}' if request_id else ''})")
        self.status = status
        self.code = code
        self.detail = detail
        self.request_id = request_id
        self.facts = dict(facts or {})
        # How long the server asks to wait before the next try, in seconds.
        self.retry_after_s = retry_after_s


class AuthenticationError(ApiError):
    """401: the key is missing, unknown, revoked or expired."""


class InsufficientTokensError(ApiError):
    """402: the balance is short. `required` and `available` are tokens; `top_up_url` is where to get more."""

    @property
    def required(self) -> Decimal | None:
        return _tokens(self.facts.get("required"))

    @property
    def available(self) -> Decimal | None:
        return _tokens(self.facts.get("available"))

    @property
    def top_up_url(self) -> str | None:
        url = self.facts.get("top_up_url")
        return url if isinstance(url, str) else None


class NotFoundError(ApiError):
    """404: there is no such quote, job, result, receipt or model."""


class InvalidRequestError(ApiError):
    """400, 413, 415 or 422: the request or its image cannot be served as it is."""


class RateLimitedError(ApiError):
    """429: too many requests. `retry_after_s` says when the next one has a chance."""


class ServiceUnavailableError(ApiError):
    """503: the queue is full, or the model is not ready. Nothing was held and nothing taken."""


def _tokens(value: object) -> Decimal | None:
    return Decimal(value) if isinstance(value, int | Decimal) else None
