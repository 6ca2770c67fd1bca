"""Signatures of webhooks, by Standard Webhooks 1.0.0 (github.com/standard-webhooks/standard-webhooks, spec/).

The scheme is one HMAC; its Python package takes neither the time of a check nor bytes that are no UTF-8.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from datetime import datetime

SECRET_PREFIX = "whsec_"  # noqa: S105  # no secret: what every secret begins with, by the specification
# The specification asks for 24 to 64 bytes.
SECRET_BYTES = 32
_SECONDS = re.compile("[0-9]{1,12}")


def new_secret() -> str:
    """A fresh signing secret, `whsec_` and base64."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode("ascii")


def sign(secret: str, message_id: str, timestamp: datetime, body: bytes) -> dict[str, str]:
    """The three headers of one attempt; `timestamp` is that of the attempt, `message_id` stays the same in retries."""
    if timestamp.tzinfo is None:
        raise ValueError("a time without its zone cannot be signed")
    if "." in message_id:
        raise ValueError("a full stop in the message's id could be read as the end of it")
    seconds = str(int(timestamp.timestamp()))
    return {
        "webhook-id": message_id,
        "webhook-timestamp": seconds,
        "webhook-signature": f"v1,{_signature(secret, message_id, seconds, body)}",
    }


def verify(secret: str, headers: Mapping[str, str], body: bytes, *, now: datetime, tolerance_s: int = 300) -> bool:
    """What a receiver checks: one `v1` signature fits, and the attempt is within `tolerance_s` seconds of `now`.

    A receiver also refuses a `webhook-id` that it has seen, which only it can know.
    """
    given = {name.lower(): value for name, value in headers.items()}
    message_id, seconds = given.get("webhook-id", ""), given.get("webhook-timestamp", "")
    if not message_id or not _SECONDS.fullmatch(seconds):
        return False
    right = f"v1,{_signature(secret, message_id, seconds, body)}".encode()
    fits = [hmac.compare_digest(right, one.encode()) for one in given.get("webhook-signature", "").split(" ")]
    return any(fits) and abs(now.timestamp() - int(seconds)) <= tolerance_s


def _signature(secret: str, message_id: str, seconds: str, body: bytes) -> str:
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError("the signing secret is not whsec_ and base64") from None
    if not key:
        raise ValueError("the signing secret is empty")
    signed = f"{message_id}.{seconds}.".encode() + body
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode("ascii")
