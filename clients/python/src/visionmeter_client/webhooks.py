"""Webhooks that come in: checking that the server sent one just now (https://www.standardwebhooks.com)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from visionmeter_client._reading import load_json, read
from visionmeter_client.answers import Job, LowBalance
from visionmeter_client.errors import UnexpectedAnswerError, WebhookError

SECRET_PREFIX = "whsec_"  # noqa: S105  # no secret: what every secret begins with
SIGNATURE_PREFIX = "v1,"
TOLERANCE_S = 300


@dataclass(frozen=True, slots=True)
class Webhook:
    """What was told. The same `id` may come more than once: a receiver acts on it the first time only."""

    id: str
    type: str
    timestamp: datetime
    data: Job


@dataclass(frozen=True, slots=True)
class LowBalanceWebhook:
    """What was told of a low balance. The same `id` may come more than once."""

    id: str
    type: str
    timestamp: datetime
    data: LowBalance


def verify(secret: str, headers: Mapping[str, str], body: bytes | str, *, tolerance_s: float = TOLERANCE_S) -> Webhook:
    """Read a webhook about a finished job, given the account's signing secret and the body as it came, before any
    parsing.

    Raises `WebhookError` unless the body is signed with the secret and was sent within `tolerance_s` of now.
    """
    return read(Webhook, _verified(secret, headers, body, tolerance_s), "the webhook")


def verify_low_balance(
    secret: str, headers: Mapping[str, str], body: bytes | str, *, tolerance_s: float = TOLERANCE_S
) -> LowBalanceWebhook:
    """The same for one that came to the address of *Account → Limits*."""
    return read(LowBalanceWebhook, _verified(secret, headers, body, tolerance_s), "the webhook")


def _verified(secret: str, headers: Mapping[str, str], body: bytes | str, tolerance_s: float) -> dict[str, Any]:
    key = _key(secret)
    content = body.encode() if isinstance(body, str) else bytes(body)
    lowered = {name.lower(): value for name, value in headers.items()}
    try:
        message_id, timestamp, signatures = (lowered[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
        sent_at_s = int(timestamp)
    except (KeyError, ValueError):
        raise WebhookError(
            "This is no webhook: it has no webhook-id, webhook-timestamp and webhook-signature."
        ) from None
    if abs(time.time() - sent_at_s) > tolerance_s:
        raise WebhookError("This webhook is not of now: it is an old one sent again, or a clock is wrong.")
    signed = f"{message_id}.{timestamp}.".encode() + content
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest())
    matches = False
    # Several signatures, parted by spaces, while a secret is being changed. All are compared: time tells nothing.
    for signature in signatures.split(" "):
        given = signature.removeprefix(SIGNATURE_PREFIX).encode() if signature.startswith(SIGNATURE_PREFIX) else b""
        matches |= hmac.compare_digest(given, expected)
    if not matches:
        raise WebhookError("This webhook is not signed with this secret.")
    document = load_json(content)
    if not isinstance(document, dict):
        raise UnexpectedAnswerError("The webhook's body is no object.")
    return {**document, "id": message_id}


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.strip().removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ValueError("The signing secret is whsec_ and Base64: copy it again.")
    return key
