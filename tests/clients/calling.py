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
    "model": "yolov8s-fall",
    "created_at": "2026-01-01T00:00:00Z",
    "images": {"total": 2, "done": 1},
    "usage": {"quoted_tokens": 1.2, "tokens": 0.6},
}
FINISHED = {**JOB, "status": "finished"}
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
