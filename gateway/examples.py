"""The examples of the OpenAPI document by the name of their shape. Tests send each, and compare each with an answer."""

from __future__ import annotations

from typing import Any

_MODEL = {"model": "yolov8s-fall", "model_version": "5f6f620d0fa5", "img_size": 640, "tile_px": None}
_PREDICTION = {
    "class": 0,
    "name": "Normal",
    "confidence": 0.6819,
    "box": {"x1": 46.4, "y1": 383.9, "x2": 215.8, "y2": 907.1},
}
_PICTURE = {
    "name": "bus.jpg",
    "width": 810,
    "height": 1080,
    "sha256": "903b7c7010fcdb200aad1e40607d16ae3a775e9898ee7613ae93c3d3508731a3",
}
_JOB: dict[str, Any] = {
    "id": "job_3471554a14c8df240c00a82b",
    "status": "finished",
    "quote_id": "quote_aeea9c3d9d429deb77d370dc",
    **_MODEL,
    "created_at": "2026-11-24T20:14:35.066Z",
    "finished_at": "2026-11-24T20:14:35.382Z",
    "images": {"total": 1, "done": 1, "charged": 1, "free": 0, "failed": 0, "cancelled": 0, "interrupted": 0},
    "usage": {
        "quoted_tokens": 0.75,
        "tokens": 0.75,
        "held_tokens": 0.0,
        "returned_tokens": 0.0,
        "remaining_tokens": 19.25,
    },
}
_KEY: dict[str, Any] = {
    "id": "key_5367e61ab2c8a882cb7d953c",
    "name": "gate camera",
    "prefix": "vm_0cZTBT9y",
    "state": "active",
    "models": ["yolov8s"],
    "networks": ["203.0.113.0/24"],
    "day_cap_tokens": 500.0,
    "month_cap_tokens": None,
    "day_tokens": 0.75,
    "month_tokens": 0.75,
    "manages_keys": False,
    "created_at": "2026-11-24T20:14:22.206Z",
    "expires_at": None,
    "last_used_at": "2026-11-24T20:14:22.259Z",
    "replaced_by": None,
}
_DELIVERY: dict[str, Any] = {
    "id": "msg_1f0c4e8a93d2b7651c0e9f48",
    "type": "job.finished",
    "job_id": "job_3471554a14c8df240c00a82b",
    "url": "https://example.com/visionmeter",
    "status": "pending",
    "attempts": 1,
    "last_status": 503,
    "next_attempt_at": "2026-11-24T20:14:40.391Z",
    "delivered_at": None,
    "given_up_at": None,
    "created_at": "2026-11-24T20:14:35.382Z",
}
_TOTALS = {"tokens": 0.75, "images": 2, "charged": 1, "free": 1, "failed": 0}

SENT: dict[str, Any] = {
    "DetectIn": {"image_url": "https://example.com/bus.jpg", "model": "yolov8l", "img_size": 960},
    "QuoteIn": {
        "images": [{"image_url": "https://example.com/bus.jpg"}, {"image_url": "https://example.com/gate.jpg"}],
        "model": "yolov8s",
        "img_size": 640,
    },
    "BatchIn": {
        "images": [{"image_url": "https://example.com/bus.jpg"}, {"image_url": "https://example.com/gate.jpg"}],
        "model": "yolov8s",
        "img_size": 640,
    },
    "JobIn": {
        "images": [{"image_url": "https://example.com/bus.jpg", "name": "north gate"}],
        "model": "yolov8s",
        "img_size": 640,
        "webhook_url": "https://example.com/visionmeter",
    },
    "KeyIn": {
        "name": "gate camera",
        "models": ["yolov8s"],
        "networks": ["203.0.113.0/24"],
        "day_cap_tokens": 500,
    },
    "RotateIn": {"grace_s": 3600},
}

ANSWERED: dict[str, Any] = {
    "DetectOut": {
        "id": "res_723b71d2a50d7969725b2d75",
        "job_id": "job_6a8b7bdd02685679bdcf6027",
        **_MODEL,
        "tiles_failed": 0,
        "image": _PICTURE,
        "predictions": [_PREDICTION],
        "usage": {
            "tokens": 0.75,
            "remaining_tokens": 19.25,
            "held_tokens": 0.0,
            "cached": False,
            "receipt_id": "rcpt_52fa3e40fbda9449adbdbb3b",
            "quote_id": "quote_25ebdc2844b94bb4940030c9",
            "price_version": "2026-11-2",
            "times_ms": {"decode": 9.84, "hold": 3.26, "wait": 0.07, "model": 138.32, "capture": 4.03, "total": 156.72},
        },
    },
    "ResultOut": {
        "id": "res_723b71d2a50d7969725b2d75",
        "job_id": "job_6a8b7bdd02685679bdcf6027",
        **_MODEL,
        "tiles_failed": 0,
        "image": _PICTURE,
        "predictions": [_PREDICTION],
        "created_at": "2026-11-24T20:14:33.704Z",
    },
    "CocoOut": {
        "images": [{"id": 1, "file_name": "bus.jpg", "width": 810, "height": 1080}],
        "categories": [{"id": 0, "name": "Normal"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 0,
                "bbox": [46.4, 383.9, 169.4, 523.2],
                "area": 88630.08,
                "iscrowd": 0,
                "score": 0.6819,
            }
        ],
    },
    "QuoteOut": {
        "id": "quote_a6296941a469311b0e40dece",
        "tokens": 0.75,
        "list_tokens": 0.75,
        "discount_percent": 0.0,
        "price_version": "2026-11-2",
        **_MODEL,
        "created_at": "2026-11-24T20:14:33.793Z",
        "expires_at": "2026-11-24T20:29:33.793Z",
        "images": [
            {
                "name": "bus.jpg",
                "width": 810,
                "height": 1080,
                "input_width": 480,
                "input_height": 640,
                "tiles": 0,
                "tile_input_width": 0,
                "tile_input_height": 0,
                "list_tokens": 0.75,
                "tokens": 0.75,
                "free_reason": None,
            }
        ],
    },
    "JobOut": {
        **_JOB,
        "results": [
            {
                "position": 0,
                "name": "bus.jpg",
                "image": _PICTURE,
                "status": "charged",
                "error": None,
                "tiles_failed": 0,
                "id": "res_c84844e0f7b5d38b11a16869",
                "predictions": [_PREDICTION],
                "usage": {"tokens": 0.75, "cached": False, "receipt_id": "rcpt_52fa3e40fbda9449adbdbb3b"},
            }
        ],
    },
    "JobList": {"jobs": [_JOB], "next": None},
    "BalanceOut": {
        "tokens": 19.25,
        "held_tokens": 0.0,
        "remaining_tokens": 19.25,
        "currency": "¥",
        "price_per_token": "0.01",
        "plan": "standard",
    },
    "UsageOut": {
        "start": "2026-10-25T20:15:00.000Z",
        "end": "2026-11-24T20:15:00.000Z",
        "time_zone": "UTC",
        "totals": _TOTALS,
        "days": [{"day": "2026-11-24", "model": "yolov8s-fall", "tokens": 0.75, "images": 2}],
    },
    "UsageByKeyOut": {
        "start": "2026-10-25T20:15:00.000Z",
        "end": "2026-11-24T20:15:00.000Z",
        "time_zone": "UTC",
        "totals": _TOTALS,
        "callers": [
            {
                "id": "key_5367e61ab2c8a882cb7d953c",
                "kind": "api_key",
                "name": "gate camera",
                "prefix": "vm_0cZTBT9y",
                "email": None,
                **_TOTALS,
            }
        ],
    },
    "ModelOut": {
        "name": "yolov8s-fall",
        "title": "YOLOv8s Fall",
        "task": "detect",
        "state": "ready",
        "version": "5f6f620d0fa5",
        "beta": "1.0",
        "price_version": "2026-11-2",
    },
    "KeyOut": _KEY,
    "KeyList": {"keys": [_KEY]},
    "WebhookSecretOut": {"secret": "whsec_bm8gcmVhbCBzZWNyZXQsIGp1c3QgYW4gZXhhbXBsZQ=="},
    "DeliveryOut": _DELIVERY,
    "DeliveryList": {"deliveries": [_DELIVERY], "next": None},
    "Problem": {
        "type": "https://example.com/v1/errors#insufficient_tokens",
        "title": "Not enough tokens",
        "status": 402,
        "detail": "This needs 5.625 tokens and 0.200 are available: top up 5.425 tokens and run it again.",
        "code": "insufficient_tokens",
        "request_id": "req_87c9edde661fac90d710ba8e",
        "required": 5.625,
        "available": 0.2,
        "missing": 5.425,
        "top_up_url": "https://example.com/top_up",
    },
}
