"""From an answer that is no success to the exception that it stands for: the one table of statuses."""

from __future__ import annotations

from typing import Any

import httpx

from visionmeter_client._reading import load_json
from visionmeter_client.errors import (
    ApiError,
    AuthenticationError,
    InsufficientTokensError,
    InvalidRequestError,
    NotFoundError,
    RateLimitedError,
    ServiceUnavailableError,
    UnexpectedAnswerError,
    UnreachableError,
)

ERRORS: dict[int, type[ApiError]] = {
    400: InvalidRequestError,
    401: AuthenticationError,
    402: InsufficientTokensError,
    404: NotFoundError,
    413: InvalidRequestError,
    415: InvalidRequestError,
    422: InvalidRequestError,
    429: RateLimitedError,
    503: ServiceUnavailableError,
}


def error_of(response: httpx.Response) -> ApiError:
    """The error that an answer other than a 2xx stands for. Its body must have been read."""
    problem = _problem(response)
    code, detail, request_id = (problem.pop(name, None) for name in ("code", "detail", "request_id"))
    title = problem.pop("title", None)
    return ERRORS.get(response.status_code, ApiError)(
        status=response.status_code,
        code=code if isinstance(code, str) else f"http_{response.status_code}",
        detail=str(detail or title or _describe(response)),
        request_id=request_id if isinstance(request_id, str) else response.headers.get("X-Request-Id"),
        facts={name: value for name, value in problem.items() if name != "status"},
        retry_after_s=_retry_after_s(response),
    )


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        problem = load_json(response.content)
    except UnexpectedAnswerError:
        return {}
    return problem if isinstance(problem, dict) else {}


def _describe(response: httpx.Response) -> str:
    if response.has_redirect_location:
        # The key would travel along, so redirects are not followed.
        return f"The server sends this request on to {response.headers['Location']}: give its real address as the host."
    return f"The server answered {response.status_code} {response.reason_phrase}".strip() + "."


def _retry_after_s(response: httpx.Response) -> float | None:
    try:
        seconds = float(response.headers.get("Retry-After", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def unreachable(host: str, error: httpx.RequestError) -> UnreachableError:
    """The error that a missing answer stands for."""
    if isinstance(error, httpx.TimeoutException):
        return UnreachableError(f"{host} did not answer in time.")
    return UnreachableError(f"{host} cannot be reached: {str(error) or type(error).__name__}.")
