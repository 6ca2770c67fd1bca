"""The HTTP gateway: health, models, and the route that turns a sign-in ticket into a cookie.

The metered operations for programs (`/v1/yolo/detect` and its company) will be mounted here too.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from core.errors import VisionMeterError
from core.services import account_view, admin
from core.services.application import current
from gateway import receipts

# The one table from error codes to HTTP statuses; what is not named here is a 400.
HTTP_STATUS = {
    "unauthorized": 401,
    "insufficient_tokens": 402,
    "not_allowed": 403,
    "account_not_active": 403,
    "role_needed": 403,
    "bad_invitation": 404,
    "invitation_not_found": 404,
    "member_not_found": 404,
    # A cap is a permission, not a balance: topping up does not help, so it is no 402.
    "spending_cap": 403,
    "key_may_not": 403,
    "key_model_not_allowed": 403,
    "key_network_not_allowed": 403,
    "key_not_found": 404,
    "result_not_found": 404,
    "model_not_found": 404,
    "job_not_found": 404,
    "quote_not_found": 404,
    "receipt_not_found": 404,
    "charge_key_taken": 409,
    "has_account": 409,
    "hold_ended": 409,
    "idempotency_conflict": 409,
    "last_operator": 409,
    "last_owner": 409,
    "quote_expired": 409,
    "quote_grew": 409,
    "quote_mismatch": 409,
    "refund_too_large": 409,
    "too_many_keys": 409,
    "image_too_many_bytes": 413,
    "request_too_large": 413,
    "image_too_many_pixels": 413,
    "image_unsupported": 415,
    "unsupported_body": 415,
    "image_empty": 422,
    "image_url_failed": 422,
    "image_url_refused": 422,
    "invalid_key_setting": 422,
    "invalid_request": 422,
    "webhook_url_refused": 422,
    "image_broken": 422,
    "image_animated": 422,
    "too_many_images": 422,
    "invalid_img_size": 422,
    "invalid_role": 422,
    "invalid_head": 422,
    "reason_missing": 422,
    "rate_limited": 429,
    "too_many_attempts": 429,
    "inference_failed": 500,
    "ledger_inconsistent": 500,
    "engine_busy": 503,
    "engine_stopped": 503,
    "model_not_ready": 503,
}


def create_api() -> FastAPI:
    """The FastAPI application, mounted at `/v1` beside the portal."""
    api = FastAPI(title="VisionMeter", version="1", docs_url=None, redoc_url=None)
    api.add_exception_handler(VisionMeterError, problem_response)
    api.include_router(receipts.router)

    @api.get("/healthz")
    def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @api.get("/readyz")
    def readyz() -> JSONResponse:
        """The database answers and a model can run; 503 with the reason otherwise."""
        app = current()
        problems = []
        try:
            with app.db.read() as session:
                session.connection().execute(text("SELECT 1"))
        except SQLAlchemyError:
            problems.append("database")
        ready = [view.model.name for view in admin.list_models(app) if view.version is not None]
        if not ready:
            problems.append("models")
        return JSONResponse(
            {
                "status": "ready" if not problems else "not ready",
                "problems": problems,
                "device": app.engine.device_name,
                "models": ready,
            },
            status_code=503 if problems else 200,
        )

    @api.get("/models")
    def models() -> list[dict[str, Any]]:
        """Known models, whether each can run here, and its rate β in the price book in force."""
        app = current()
        prices = account_view.get_prices(app)
        return [
            {
                "name": view.model.name,
                "title": view.model.title,
                "state": view.state.value,
                "version": view.version.version if view.version else None,
                "beta": str(prices.betas[view.model.name]) if view.model.name in prices.betas else None,
                "price_version": prices.version,
            }
            for view in admin.list_models(app)
        ]

    return api


async def problem_response(_request: Request, error: Exception) -> JSONResponse:
    """An expected failure as an RFC 9457 problem document."""
    assert isinstance(error, VisionMeterError)
    return JSONResponse(
        {
            "type": f"urn:visionmeter:{error.code}",
            "code": error.code,
            "title": error.message,
            **error.details,
        },
        status_code=HTTP_STATUS.get(error.code, 400),
        media_type="application/problem+json",
    )
