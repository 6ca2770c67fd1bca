"""Calls one method of either client over a transport of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import httpx
from visionmeter_client import AsyncVisionMeter, VisionMeter

HOST = "https://vision.example.com"
KEY = "vm_" + "k3yOfTheTest" * 3 + "abcd"
KINDS = ["sync", "async"]
JOB = {
    "id": "job_1",
    "status": "running",
    "quote_id": "quote_1",
    "model": "yolov8s-fall",
    "model_version": "5f6f620d0fa5",
    "img_size": 640,
    "created_at": "2026-01-01T00:00:00Z",
    "finished_at": None,
    "images": {"total": 2, "done": 1, "charged": 1, "free": 0, "failed": 0, "cancelled": 0, "interrupted": 0},
    "usage": {
        "quoted_tokens": 1.2,
        "tokens": 0.6,
        "held_tokens": 0.6,
        "returned_tokens": 0,
        "remaining_tokens": 18.8,
    },
}
FINISHED = {**JOB, "status": "finished"}
DETECTION = {
    "id": "res_1",
    "job_id": "job_1",
    "model": "yolov8s-fall",
    "model_version": "5f6f620d0fa5",
    "img_size": 640,
    "image": {"name": "bus.jpg", "width": 810, "height": 1080, "sha256": "ab", "unknown": 1},
    "predictions": [
        {"class": 0, "name": "Normal", "confidence": 0.91, "box": {"x1": 1, "y1": 2.5, "x2": 3.0, "y2": 4.0}}
    ],
    "usage": {
        "tokens": 0.1,
        "remaining_tokens": 20,
        "held_tokens": 0.0,
        "cached": False,
        "receipt_id": None,
        "quote_id": "quote_1",
        "price_version": "1",
        "times_ms": {"model": 12.5, "total": 20},
    },
    "a_field_of_tomorrow": [1, 2, 3],
}
Handler = Callable[[httpx.Request], httpx.Response]


def call(kind: str, handler: Handler, method: str, *arguments: Any, retries_max: int = 4, **named: Any) -> Any:
    """What a method gives, or raises; every request goes to the handler."""
    transport = httpx.MockTransport(handler)
    if kind == "sync":
        with VisionMeter(HOST, KEY, retries_max=retries_max, transport=transport) as client:
            given = getattr(client, method)(*arguments, **named)
            return list(given) if method == "iter_events" else given

    async def call_it() -> Any:
        async with AsyncVisionMeter(HOST, KEY, retries_max=retries_max, transport=transport) as client:
            given = getattr(client, method)(*arguments, **named)
            return [job async for job in given] if method == "iter_events" else await given

    return anyio.run(call_it)
