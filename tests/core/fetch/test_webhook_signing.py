"""Signatures of webhooks are those of Standard Webhooks."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta, timezone

import pytest

from core.fetch.webhook_signing import new_secret, sign, verify

# The example that the specification's own libraries are tested with.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
SENT_AT = datetime.fromtimestamp(1_614_265_330, UTC)
BODY = b'{"test": 2432232314}'
HEADERS = {
    "webhook-id": MESSAGE_ID,
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}


def test_the_published_example() -> None:
    """The three headers of the published example come out, and are believed."""
    assert sign(SECRET, MESSAGE_ID, SENT_AT, BODY) == HEADERS
    assert verify(SECRET, HEADERS, BODY, now=SENT_AT)


def test_other_time_zones_and_parts_of_seconds() -> None:
    """The same moment in another zone, or within the same second, signs the same."""
    there = SENT_AT.astimezone(timezone(timedelta(hours=8)))
    assert sign(SECRET, MESSAGE_ID, there + timedelta(milliseconds=999), BODY) == HEADERS


@pytest.mark.parametrize(
    ("changes", "body"),
    [
        ({}, b'{"test": 2432232315}'),
        ({}, b'{"test":2432232314}'),
        ({"webhook-id": "msg_other"}, BODY),
        ({"webhook-timestamp": "1614265331"}, BODY),
        ({"webhook-timestamp": "1614265330.0"}, BODY),
        ({"webhook-timestamp": "９"}, BODY),
        ({"webhook-timestamp": "9" * 5000}, BODY),
        ({"webhook-timestamp": ""}, BODY),
        ({"webhook-signature": ""}, BODY),
        ({"webhook-signature": "v1,"}, BODY),
        ({"webhook-signature": "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="}, BODY),
        ({"webhook-signature": "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="}, BODY),
        ({"webhook-signature": "v1,é"}, BODY),
    ],
)
def test_what_was_changed_is_not_believed(changes: dict[str, str], body: bytes) -> None:
    """One changed byte of body, id, time or signature, and the message is nobody's."""
    assert not verify(SECRET, {**HEADERS, **changes}, body, now=SENT_AT)


@pytest.mark.parametrize("name", list(HEADERS))
def test_a_missing_header(name: str) -> None:
    """Without any one of the three headers nothing is believed."""
    assert not verify(SECRET, {key: value for key, value in HEADERS.items() if key != name}, BODY, now=SENT_AT)


def test_one_of_several_signatures_is_enough() -> None:
    """While a secret is changed, messages carry two signatures; header names may be written in any case."""
    headers = {name.title(): value for name, value in HEADERS.items()}
    headers["Webhook-Signature"] = f"v1,AAAA v1a,BBBB {HEADERS['webhook-signature']}"
    assert verify(SECRET, headers, BODY, now=SENT_AT)


def test_the_tolerance_at_its_limits() -> None:
    """Five minutes early or late are believed, one second more is not: what is replayed later is refused."""
    for seconds, believed in ((-301, False), (-300, True), (300, True), (301, False)):
        assert verify(SECRET, HEADERS, BODY, now=SENT_AT + timedelta(seconds=seconds)) is believed


def test_new_secrets() -> None:
    """A secret is 32 random bytes, never the same twice, and signs what only it verifies."""
    one, other = new_secret(), new_secret()
    assert one != other
    assert len(base64.b64decode(one.removeprefix("whsec_"), validate=True)) == 32
    headers = sign(one, "msg_1", SENT_AT, b"\xff\x00")
    assert verify(one, headers, b"\xff\x00", now=SENT_AT)
    assert not verify(other, headers, b"\xff\x00", now=SENT_AT)


def test_what_cannot_be_signed() -> None:
    """A time without a zone, an id that could be read as two parts, a secret that is none: the caller's errors."""
    with pytest.raises(ValueError, match="zone"):
        sign(SECRET, MESSAGE_ID, SENT_AT.replace(tzinfo=None), BODY)
    with pytest.raises(ValueError, match="full stop"):
        sign(SECRET, "msg.1", SENT_AT, BODY)
    for secret in ("", "whsec_", "whsec_!!"):
        with pytest.raises(ValueError, match="secret"):
            sign(secret, MESSAGE_ID, SENT_AT, BODY)
