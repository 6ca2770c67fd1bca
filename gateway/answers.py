"""From what the core gives to what programs get."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from core.inference.detections import Detections
from core.jobs.tables import WebhookDelivery
from core.ledger.tables import LowBalanceAlert
from core.money import from_millitokens
from core.pricing.tables import Quote
from core.services.api_keys import KeyView
from core.services.detect import Detected
from core.services.quotes import quote_lines
from core.services.run_report import ImageOutcome, RunReport, StoredResult
from core.services.usage_report import CallerReport
from core.usage.queries import Totals


def tokens(amount_mt: int) -> float:
    """Milli-tokens as a JSON number of tokens; three decimals survive it exactly."""
    return float(from_millitokens(amount_mt))


def time(moment: datetime | None) -> str | None:
    """A moment as text, in UTC: always with milliseconds and `Z`, as in receipts."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def wanted(detections: Detections, confidence: float, classes: Sequence[str] | None) -> Detections:
    """Those that a request asks for."""
    return detections.filter(confidence_min=confidence, classes=classes)


def detect_answer(outcome: Detected, detections: Detections, times_ms: Mapping[str, float]) -> dict[str, Any]:
    """The answer for one picture."""
    job, image = outcome.job, outcome.image
    return {
        "id": outcome.result_id,
        "job_id": job.id,
        "model": job.model,
        "model_version": job.model_version,
        "img_size": job.img_size,
        "tile_px": job.tile_px,
        "tiles_failed": outcome.tiles_failed,
        "image": _image(image.name, image.width, image.height, image.image_sha256),
        "predictions": detections.to_json(),
        "usage": {
            "tokens": tokens(outcome.amount_mt),
            "remaining_tokens": tokens(outcome.balance.available_mt),
            "held_tokens": tokens(outcome.balance.held_mt),
            "cached": outcome.receipt_id is None,
            "receipt_id": outcome.receipt_id,
            "quote_id": job.quote_id,
            "price_version": outcome.price_version,
            "times_ms": {stage: round(ms, 2) for stage, ms in times_ms.items()},
        },
    }


def detect_headers(outcome: Detected, times_ms: Mapping[str, float]) -> dict[str, str]:
    """Price, balance and times, for those who read no body."""
    headers = {
        "X-Tokens-Charged": str(from_millitokens(outcome.amount_mt)),
        "X-Tokens-Remaining": str(from_millitokens(outcome.balance.available_mt)),
        "X-Tokens-Held": str(from_millitokens(outcome.balance.held_mt)),
        "X-Result-Id": outcome.result_id,
        "Server-Timing": ", ".join(f"{stage};dur={ms:.1f}" for stage, ms in times_ms.items()),
    }
    if outcome.receipt_id is not None:
        headers["X-Receipt-Id"] = outcome.receipt_id
    if outcome.replayed:
        headers["Idempotent-Replayed"] = "true"
    return headers


def result_answer(stored: StoredResult, detections: Detections) -> dict[str, Any]:
    """A stored result."""
    result, image = stored.result, stored.image
    return {
        "id": result.id,
        "job_id": image.job_id,
        "model": result.model,
        "model_version": result.model_version,
        "img_size": result.img_size,
        "tile_px": result.tile_px,
        "tiles_failed": result.tiles_failed,
        "image": _image(image.name, image.width, image.height, image.image_sha256),
        "predictions": detections.to_json(),
        "created_at": time(result.created_at),
    }


def quote_answer(quote: Quote) -> dict[str, Any]:
    """A quote with its lines."""
    return {
        "id": quote.id,
        "tokens": tokens(quote.total_mt),
        "list_tokens": tokens(quote.list_mt),
        "discount_percent": float(quote.discount_percent),
        "price_version": quote.price_version,
        "model": quote.model,
        "model_version": quote.model_version,
        "img_size": quote.img_size,
        "tile_px": quote.tile_px,
        "created_at": time(quote.created_at),
        "expires_at": time(quote.expires_at),
        "images": [
            {
                "name": line.name,
                "width": line.width,
                "height": line.height,
                "input_width": line.input_width,
                "input_height": line.input_height,
                "tiles": line.tiles,
                "tile_input_width": line.tile_input_width,
                "tile_input_height": line.tile_input_height,
                "list_tokens": tokens(line.list_mt),
                "tokens": tokens(line.amount_mt),
                "free_reason": line.free_reason,
            }
            for line in quote_lines(quote)
        ],
    }


def job_answer(
    report: RunReport, *, with_results: bool, confidence: float = 0.25, classes: Sequence[str] | None = None
) -> dict[str, Any]:
    """A job, and the outcomes of its pictures."""
    job, progress = report.job, report.progress
    counts = ("charged", "free", "failed", "cancelled", "interrupted")
    answer: dict[str, Any] = {
        "id": job.id,
        "status": job.status,
        "quote_id": job.quote_id,
        "model": job.model,
        "model_version": job.model_version,
        "img_size": job.img_size,
        "tile_px": job.tile_px,
        "created_at": time(job.created_at),
        "finished_at": time(job.finished_at),
        "images": {
            "total": progress.total,
            "done": progress.done,
            **{status: progress.counts.get(status, 0) for status in counts},
        },
        "usage": {
            "quoted_tokens": tokens(report.quote.total_mt),
            "tokens": tokens(progress.charged_mt),
            "held_tokens": tokens(progress.held_mt),
            "returned_tokens": tokens(progress.given_back_mt),
            "remaining_tokens": tokens(report.balance.available_mt),
        },
    }
    if with_results:
        answer["results"] = [_image_result(outcome, confidence, classes) for outcome in report.outcomes]
    return answer


def webhook_body(delivery: WebhookDelivery, subject: RunReport | LowBalanceAlert) -> bytes:
    """The message that tells of a finished job, the same bytes at every attempt but for the balance; or of a low
    balance, as it was."""
    if isinstance(subject, LowBalanceAlert):
        data: dict[str, Any] = {
            "account_id": subject.account_id,
            "threshold_tokens": tokens(subject.threshold_mt),
            "balance_tokens": tokens(subject.posted_after_mt),
            "fell_at": time(subject.created_at),
        }
    else:
        data = job_answer(subject, with_results=True)
    message = {"type": delivery_type(delivery), "timestamp": time(delivery.created_at), "data": data}
    return json.dumps(message, separators=(",", ":")).encode()


def delivery_type(delivery: WebhookDelivery) -> str:
    """What a message tells of."""
    return "balance.low" if delivery.job_id is None else "job.finished"


def delivery_answer(delivery: WebhookDelivery) -> dict[str, Any]:
    """A webhook message, and how far it is."""
    return {
        "id": delivery.id,
        "type": delivery_type(delivery),
        "job_id": delivery.job_id,
        "url": delivery.url,
        "status": delivery.status,
        "attempts": delivery.attempts,
        "last_status": delivery.last_status,
        "next_attempt_at": time(delivery.next_attempt_at) if delivery.status == "pending" else None,
        "delivered_at": time(delivery.delivered_at),
        "given_up_at": time(delivery.given_up_at),
        "created_at": time(delivery.created_at),
    }


def usage_answer(totals: Totals) -> dict[str, Any]:
    """Sums of usage."""
    return {
        "tokens": tokens(totals.amount_mt),
        "images": totals.images,
        "charged": totals.charged,
        "free": totals.free,
        "failed": totals.failed,
    }


def caller_answer(report: CallerReport) -> dict[str, Any]:
    """What one API key or person used."""
    return {
        "id": report.actor,
        "kind": "api_key" if report.prefix else "person",
        "name": report.name,
        "prefix": report.prefix,
        "email": report.email,
        **usage_answer(report.totals),
    }


def key_answer(view: KeyView, secret: str | None = None) -> dict[str, Any]:
    """An API key; the secret only once."""
    key = view.key
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "state": view.state,
        "models": key.models,
        "networks": key.networks,
        "day_cap_tokens": None if view.day_cap_mt is None else tokens(view.day_cap_mt),
        "month_cap_tokens": None if view.month_cap_mt is None else tokens(view.month_cap_mt),
        "day_tokens": tokens(view.day_spent_mt),
        "month_tokens": tokens(view.month_spent_mt),
        "manages_keys": key.manages_keys,
        "created_at": time(key.created_at),
        "expires_at": time(key.expires_at),
        "last_used_at": time(key.last_used_at),
        "replaced_by": key.replaced_by,
        **({"secret": secret} if secret is not None else {}),
    }


def _image(name: str, width: int, height: int, sha256: str) -> dict[str, Any]:
    return {"name": name, "width": width, "height": height, "sha256": sha256}


def _image_result(outcome: ImageOutcome, confidence: float, classes: Sequence[str] | None) -> dict[str, Any]:
    image = outcome.image
    found = [] if outcome.detections is None else wanted(outcome.detections, confidence, classes).to_json()
    return {
        "position": image.position,
        "name": image.name,
        "image": _image(image.name, image.width, image.height, image.image_sha256),
        "status": image.status,
        "error": image.error_code,
        "tiles_failed": outcome.tiles_failed,
        "id": outcome.result_id,
        "predictions": found,
        "usage": {
            "tokens": tokens(image.amount_mt if image.status == "charged" else 0),
            "cached": image.status == "free",
            "receipt_id": outcome.receipt_id,
        },
    }
