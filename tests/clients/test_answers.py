"""What comes back: dataclasses with exact amounts, errors by status, and webhooks that are what they say."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from datetime import UTC, datetime
from decimal import Decimal

import httpx
import pytest
from visionmeter_client import (
    ApiError,
    AuthenticationError,
    Balance,
    DetectionResult,
    InsufficientTokensError,
    InvalidRequestError,
    Job,
    NotFoundError,
    RateLimitedError,
    ServiceUnavailableError,
    UnexpectedAnswerError,
    WebhookError,
    webhooks,
)
from visionmeter_client._problems import error_of
from visionmeter_client._reading import load_json, read

from tests.clients.calling import DETECTION, FINISHED


def test_a_detection_is_typed() -> None:
    """Amounts are exact decimals, boxes are floats, lists are tuples, and what is unknown is left out."""
    answer = read(DetectionResult, load_json(json.dumps(DETECTION)))
    (prediction,) = answer.predictions
    assert (prediction.class_id, prediction.name, prediction.confidence) == (0, "Normal", 0.91)
    assert isinstance(prediction.confidence, float)
    assert [type(side) for side in (prediction.box.x1, prediction.box.y1)] == [float, float]
    assert answer.usage.tokens * 3 == Decimal("0.3")
    assert (answer.usage.remaining_tokens, type(answer.usage.remaining_tokens)) == (Decimal(20), Decimal)
    assert answer.usage.times_ms == {"model": 12.5, "total": 20.0}
    with pytest.raises(AttributeError):
        answer.id = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{}", r"There is no the answer\.tokens"),
        ('{"tokens": "many"}', "the answer.tokens is 'many'"),
        ('{"tokens": true}', "the answer.tokens is 'True'"),
        ("[]", "the answer is"),
        ("<html>", "no JSON"),
    ],
)
def test_an_answer_of_another_shape_is_told(document: str, words: str) -> None:
    """Where and what, instead of a KeyError later on."""
    with pytest.raises(UnexpectedAnswerError, match=words):
        read(Balance, load_json(document))


# Errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequestError),
        (401, AuthenticationError),
        (402, InsufficientTokensError),
        (403, ApiError),
        (404, NotFoundError),
        (409, ApiError),
        (413, InvalidRequestError),
        (415, InvalidRequestError),
        (422, InvalidRequestError),
        (429, RateLimitedError),
        (500, ApiError),
        (503, ServiceUnavailableError),
    ],
)
def test_each_status_has_its_error(status: int, kind: type[ApiError]) -> None:
    """With the problem document's code, sentence and request, and all else that it says."""
    problem = {
        "type": "https://vision.example.com/v1/errors#some_code",
        "title": "Short",
        "status": status,
        "detail": "Do this.",
        "code": "some_code",
        "request_id": "req-1",
        "model": "yolov8x",
    }
    error = error_of(httpx.Response(status, json=problem, headers={"Retry-After": "7"}))
    assert type(error) is kind
    assert (error.status, error.code, error.detail, error.request_id) == (status, "some_code", "Do this.", "req-1")
    assert error.facts == {"type": problem["type"], "model": "yolov8x"}
    assert error.retry_after_s == 7
    assert str(error) == "Do this. (some_code, request req-1)"


def test_a_short_balance_says_how_short() -> None:
    """Exact amounts and where to get more."""
    body = '{"code": "insufficient_tokens", "required": 5.625, "available": 0.4, "top_up_url": "https://e.com/top_up"}'
    error = error_of(httpx.Response(402, content=body))
    assert isinstance(error, InsufficientTokensError)
    assert error.required is not None
    assert error.available is not None
    assert error.required - error.available == Decimal("5.225")
    assert error.top_up_url == "https://e.com/top_up"


@pytest.mark.parametrize("content", [b"<html>Bad Gateway</html>", b"", b"[]", b"\xff", b'{"detail": null}'])
def test_an_error_of_something_in_between(content: bytes) -> None:
    """A proxy's page has no code of ours: the status stands for it, and the request's id is taken from its header."""
    error = error_of(httpx.Response(502, content=content, headers={"X-Request-Id": "req-2", "Retry-After": "soon"}))
    assert (error.code, error.request_id, error.retry_after_s) == ("http_502", "req-2", None)
    assert error.detail == "The server answered 502 Bad Gateway."


def test_a_redirect_says_where_the_server_is() -> None:
    """It is not followed, and the sentence says what to give as the host instead."""
    error = error_of(httpx.Response(308, headers={"Location": "https://new.example.com/v1/balance"}))
    assert "https://new.example.com/v1/balance: give its real address" in error.detail


# Webhooks ------------------------------------------------------------------------------------------

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode()
BODY = json.dumps({"type": "job.finished", "timestamp": "2026-01-01T00:00:00Z", "data": FINISHED}).encode()


def signed(
    body: bytes = BODY, *, secret: str = SECRET, message_id: str = "msg_1", sent_at_s: float | None = None
) -> dict[str, str]:
    """The headers that Standard Webhooks asks for, written down independently of the client."""
    timestamp = str(int(time.time() if sent_at_s is None else sent_at_s))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, b".".join([message_id.encode(), timestamp.encode(), body]), hashlib.sha256)
    return {
        "Webhook-Id": message_id,
        "Webhook-Timestamp": timestamp,
        "Webhook-Signature": "v1," + base64.b64encode(digest).decode(),
    }


def test_a_webhook_is_read() -> None:
    """The job that finished, typed, under the id that a receiver remembers."""
    webhook = webhooks.verify(SECRET, signed(), BODY)
    assert (webhook.id, webhook.type, type(webhook.data)) == ("msg_1", "job.finished", Job)
    assert webhook.timestamp == datetime(2026, 1, 1, tzinfo=UTC)
    assert webhook.data.is_finished
    assert webhooks.verify(SECRET, httpx.Headers(signed()), BODY.decode()) == webhook


def test_the_published_example_verifies() -> None:
    """The example of the Standard Webhooks specification's reference libraries, signature and all."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    with pytest.raises(UnexpectedAnswerError):  # signed as it says; it is only no job of ours
        webhooks.verify(secret, headers, '{"test": 2432232314}', tolerance_s=float("inf"))
    with pytest.raises(WebhookError, match="not signed"):
        webhooks.verify(secret, headers, '{"test": 2432232315}', tolerance_s=float("inf"))


@pytest.mark.parametrize("what", ["body", "id", "timestamp", "secret", "signature", "version"])
def test_a_forged_webhook_is_refused(what: str) -> None:
    """Each part is covered by the signature."""
    headers, body, secret = signed(), BODY, SECRET
    if what == "body":
        body = body.replace(b"job_1", b"job_2")
    elif what == "secret":
        secret = "whsec_" + base64.b64encode(b"another secret of 24 byt").decode()
    elif what == "id":
        headers["Webhook-Id"] = "msg_2"
    elif what == "timestamp":
        headers["Webhook-Timestamp"] = str(int(headers["Webhook-Timestamp"]) - 1)
    elif what == "signature":
        headers["Webhook-Signature"] = "v1,"
    else:
        headers["Webhook-Signature"] = headers["Webhook-Signature"].replace("v1,", "v1a,")
    with pytest.raises(WebhookError, match="not signed"):
        webhooks.verify(secret, headers, body)


@pytest.mark.parametrize("age_s", [-310, 310, 86_400])
def test_a_webhook_of_another_time_is_refused(age_s: int) -> None:
    """Five minutes both ways, though the signature is right."""
    with pytest.raises(WebhookError, match="not of now"):
        webhooks.verify(SECRET, signed(sent_at_s=time.time() - age_s), BODY)
    webhooks.verify(SECRET, signed(sent_at_s=time.time() - age_s * 0.9 if age_s < 400 else None), BODY)


def test_one_of_several_signatures_is_enough() -> None:
    """While a secret is being changed a webhook is signed with both."""
    headers = signed()
    headers["Webhook-Signature"] = f"v1,AAAA v2,{'x' * 44} {headers['Webhook-Signature']}"
    assert webhooks.verify(SECRET, headers, BODY).id == "msg_1"


@pytest.mark.parametrize("missing", ["Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"])
def test_what_is_no_webhook(missing: str) -> None:
    """A header that is missing, or a time that is none, is refused like a wrong signature."""
    headers = signed()
    del headers[missing]
    with pytest.raises(WebhookError, match="no webhook"):
        webhooks.verify(SECRET, headers, BODY)
    with pytest.raises(WebhookError, match="no webhook"):
        webhooks.verify(SECRET, {**signed(), "Webhook-Timestamp": "now"}, BODY)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_not base64!"])
def test_a_secret_that_is_none(secret: str) -> None:
    """A mistake of the receiver's own is a `ValueError`, and an empty secret verifies nothing."""
    with pytest.raises(ValueError, match="copy it again"):
        webhooks.verify(secret, signed(), BODY)
