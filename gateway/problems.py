"""Expected failures as RFC 9457 problem documents: the one table from error codes to HTTP statuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.routing import Match

from core.errors import VisionMeterError
from core.money import from_millitokens
from gateway import metrics

PROBLEM_JSON = "application/problem+json"

# What is not named here is a 400.
HTTP_STATUS = {
    "unauthorized": 401,
    "insufficient_tokens": 402,
    "not_allowed": 403,
    "account_not_active": 403,
    "role_needed": 403,
    "sign_up_closed": 403,
    "mail_first": 403,
    # A cap is a permission, not a balance: topping up does not help, so it is no 402.
    "spending_cap": 403,
    "key_may_not": 403,
    "key_model_not_allowed": 403,
    "key_network_not_allowed": 403,
    "account_busy": 409,
    "balance_changed": 409,
    "bad_email_link": 404,
    "bad_invitation": 404,
    "canary_not_found": 404,
    "delivery_not_found": 404,
    "invitation_not_found": 404,
    "key_not_found": 404,
    "member_not_found": 404,
    "model_not_found": 404,
    "job_not_found": 404,
    "payment_not_found": 404,
    "quote_not_found": 404,
    "receipt_not_found": 404,
    "result_not_found": 404,
    "session_not_found": 404,
    "calibration_refused": 409,
    "charge_key_taken": 409,
    "has_account": 409,
    "hold_ended": 409,
    "idempotency_conflict": 409,
    "last_operator": 409,
    "last_owner": 409,
    "model_name_taken": 409,
    "model_retired": 409,
    "payment_ended": 409,
    "quantization_refused": 409,
    "payment_not_offered": 409,
    "payment_under_way": 409,
    "no_saved_card": 409,
    "request_too_slow": 408,
    "quote_expired": 409,
    "quote_grew": 409,
    "quote_mismatch": 409,
    "refund_too_large": 409,
    "payments_open": 409,
    "second_factor_state": 409,
    "team_not_empty": 409,
    "too_many_keys": 409,
    "too_many_payments": 409,
    "too_many_stored_pictures": 409,
    "image_too_many_bytes": 413,
    "image_too_many_pixels": 413,
    "request_too_large": 413,
    "image_unsupported": 415,
    "unsupported_body": 415,
    "archive_refused": 422,
    "image_empty": 422,
    "image_broken": 422,
    "image_animated": 422,
    "image_url_failed": 422,
    "image_url_refused": 422,
    "too_many_images": 422,
    "invalid_img_size": 422,
    "format_not_applicable": 422,
    "invalid_tile_px": 422,
    "invalid_key_setting": 422,
    "invalid_model": 422,
    "invalid_request": 422,
    "invalid_role": 422,
    "invalid_head": 422,
    "invalid_time_zone": 422,
    "invalid_billing": 422,
    "reason_missing": 422,
    "webhook_url_refused": 422,
    "rate_limited": 429,
    "second_factor_locked": 429,
    "too_many_attempts": 429,
    "too_many_from_here": 429,
    "too_many_invitations": 429,
    "too_many_mails": 429,
    "inference_failed": 500,
    "ledger_inconsistent": 500,
    "card_payments_down": 503,
    "card_payments_refused": 503,
    "engine_busy": 503,
    "engine_stopped": 503,
    "model_not_ready": 503,
    "second_factor_key": 503,
    "weights_folder": 503,
    "weights_refused": 503,
    "disk_full": 507,
}
TITLES = {
    400: "Bad request",
    401: "Not signed in",
    402: "Not enough tokens",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    408: "Too slow",
    409: "Conflict",
    413: "Too large",
    415: "Unsupported type",
    422: "Cannot be processed",
    429: "Too many requests",
    500: "Internal error",
    503: "Not available now",
    507: "No room",
}
# pydantic's words for these are about its own insides.
_PLAIN = {"extra_forbidden": "there is no such field", "missing": "this field is needed"}
# When to come back, for those that know no better.
RETRY_AFTER_S = {"engine_busy": 2, "engine_stopped": 30, "model_not_ready": 300, "weights_refused": 300}
# Amounts as a program expects them: tokens under a plain name.
_AMOUNTS = {
    f"{name}_mt": name
    for name in (
        "required",
        "available",
        "missing",
        "cap",
        "spent",
        "left",
        "total",
        "previous",
        "amount",
        "refundable",
    )
}


def add_handlers(api: Starlette) -> None:
    """Answer every failure of an application with a problem document."""
    api.add_exception_handler(VisionMeterError, problem_response)
    api.add_exception_handler(RequestValidationError, _validation_response)
    api.add_exception_handler(HTTPException, _http_response)


async def problem_response(request: Request, error: Exception) -> JSONResponse:
    """An expected failure."""
    assert isinstance(error, VisionMeterError)
    facts = {_AMOUNTS.get(name, name): _tokens(name, value) for name, value in error.details.items()}
    if error.code == "insufficient_tokens":
        facts["top_up_url"] = f"{base_url(request)}/top_up"
    if error.code == "rate_limited":
        metrics.count_rate_limited()
    status = HTTP_STATUS.get(error.code, 400)
    return make_problem(request, status, error.code, error.message, facts)


async def _validation_response(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = describe_errors(error.errors())
    detail = "; ".join(f"{item['field']}: {item['message']}" for item in errors[:3])
    return make_problem(
        request, 422, "invalid_request", f"Some of the request cannot be read: {detail}.", {"errors": errors}
    )


async def _http_response(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 400:
        # FastAPI's word for a body that it could not even read as text.
        errors = [{"field": "body", "message": "a JSON object"}]
        return make_problem(
            request, 422, "invalid_request", "The body cannot be read: send JSON in UTF-8.", {"errors": errors}
        )
    code, detail = {
        404: ("not_found", "There is nothing at this address: look at the paths in /v1/openapi.json."),
        405: ("method_not_allowed", "This address does not take this method: look at it in /v1/openapi.json."),
    }.get(error.status_code, ("error", str(error.detail)))
    headers = {**(error.headers or {}), **({"Allow": _allowed(request)} if error.status_code == 405 else {})}
    return make_problem(request, error.status_code, code, detail, headers=headers)


def _allowed(request: Request) -> str:
    """The methods of an address: Starlette names those of one route, and an address may have several."""
    routes = request.scope["app"].routes
    return ", ".join(
        method
        for method in metrics.METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    )


def describe_errors(errors: Any) -> list[dict[str, str]]:
    """What pydantic found wrong, without what was sent: that may be a key or a picture."""
    return [
        {
            "field": ".".join(str(part) for part in item["loc"] if part not in ("body", "query"))[:200] or "body",
            # pydantic's words where they are a person's; its prefix of our own sentences is not.
            "message": _PLAIN.get(item.get("type"), str(item["msg"]).removeprefix("Value error, "))[:300],
        }
        for item in errors
    ]


def make_problem(
    request: HTTPConnection,
    status: int,
    code: str,
    detail: str,
    facts: Mapping[str, Any] | None = None,
    *,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A problem document with the headers that belong to its status."""
    facts = dict(facts or {})
    extra = dict(headers or {})
    if status == 401:
        extra["WWW-Authenticate"] = "Bearer"
    if status == 408:
        extra["Connection"] = "close"  # the rest of the body is not waited for
    if status in (429, 503):
        facts.setdefault("retry_after_s", RETRY_AFTER_S.get(code, 1))
        extra["Retry-After"] = str(facts["retry_after_s"])
    document = {
        "type": f"{base_url(request)}/v1/errors#{code}",
        "title": TITLES.get(status, "Error"),
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request.scope.get("state", {}).get("request_id"),
        **facts,
    }
    return JSONResponse(document, status_code=status, headers=extra, media_type=PROBLEM_JSON)


def base_url(request: HTTPConnection) -> str:
    """Scheme and host as the client called them; empty, which makes a relative address, when it named no host.

    Not taken apart, as `request.url` would be: a Host header may be no host at all, and is then a ValueError.
    """
    host = request.headers.get("host")
    return f"{request.scope.get('scheme', 'http')}://{host}" if host else ""


def _tokens(name: str, value: Any) -> Any:
    # JSON has one kind of number; three decimals of a token survive it exactly.
    return float(from_millitokens(value)) if name in _AMOUNTS else value
