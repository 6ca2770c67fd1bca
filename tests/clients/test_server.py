"""The client against the real server: prices, boxes, jobs, errors, webhooks, and the examples of its README."""

from __future__ import annotations

import io
import re
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pytest
from PIL import Image
from visionmeter_client import (
    ApiError,
    AsyncVisionMeter,
    AuthenticationError,
    InsufficientTokensError,
    InvalidRequestError,
    Job,
    NotFoundError,
    VisionMeter,
    WebhookError,
    webhooks,
)

from core.config import ROOT
from tests.clients.server import PICTURE_TOKENS, Gateway, new_picture

MODEL = "yolov8s-fall"
README = (ROOT / "clients" / "python" / "README.md").read_text(encoding="utf-8")


# One image -----------------------------------------------------------------------------------------


def test_a_quote_then_the_image_then_its_receipt(fresh: VisionMeter, photos: Path) -> None:
    """What was quoted is what is taken, to the last digit; four people are found; the same picture is free again."""
    quote = fresh.quote([photos / "bus.jpg"], model=MODEL, img_size=640)
    # 810 × 1080 goes in as 480 × 640.
    assert (quote.tokens, quote.images[0].input_width, quote.images[0].free_reason) == (Decimal("0.75"), 480, None)
    answer = fresh.detect(photos / "bus.jpg", model=MODEL, img_size=640)
    assert (answer.usage.tokens, answer.usage.cached) == (quote.tokens, False)
    assert answer.usage.remaining_tokens == Decimal("19.25")
    assert (answer.image.name, answer.image.width, answer.image.height) == ("bus.jpg", 810, 1080)
    assert [found.name for found in answer.predictions] == ["Normal"] * 4
    assert all(0 <= found.box.x1 < found.box.x2 <= 810 for found in answer.predictions)
    assert answer.usage.receipt_id is not None
    receipt = fresh.receipt(answer.usage.receipt_id)
    assert (receipt.charged_tokens, receipt.document["recomputation"]["agrees"]) == (quote.tokens, True)

    again = fresh.detect((photos / "bus.jpg").read_bytes(), img_size=640, confidence=0.6, classes=["Normal"])
    assert (again.usage.tokens, again.usage.cached, again.usage.receipt_id) == (Decimal(0), True, None)
    assert len(again.predictions) < len(answer.predictions)
    assert fresh.quote([photos / "bus.jpg"]).images[0].free_reason == "processed"
    assert fresh.balance().remaining_tokens == Decimal("19.25")


def test_a_stored_result_is_free(fresh: VisionMeter, photos: Path) -> None:
    """At another confidence, of some classes, drawn, and as the files of other tools."""
    answer = fresh.detect(photos / "bus.jpg")
    stored = fresh.result(answer.id, confidence=0.05)
    assert (stored.id, stored.image) == (answer.id, answer.image)
    assert len(stored.predictions) >= len(answer.predictions)
    assert fresh.result(answer.id, classes=["Fall"]).predictions == ()
    drawn = Image.open(io.BytesIO(fresh.annotated_result(answer.id)))
    assert (drawn.format, drawn.size) == ("PNG", (810, 1080))
    labels = fresh.export_result(answer.id, "yolo").decode().splitlines()
    assert len(labels) == len(answer.predictions)
    assert all(0 < float(share) < 1 for label in labels for share in label.split()[1:])
    assert fresh.balance().remaining_tokens == answer.usage.remaining_tokens


@pytest.mark.parametrize("how", ["bytes", "address"])
def test_an_annotated_image(client: VisionMeter, gateway: Gateway, how: str, photo_bytes: dict[str, bytes]) -> None:
    """A PNG of the same size in which boxes were drawn, of a file and of an address."""
    image = photo_bytes["zidane.jpg"] if how == "bytes" else f"{gateway.web.url}/zidane.jpg"
    drawn = Image.open(io.BytesIO(client.annotated(image, model=MODEL, img_size=320)))
    original = Image.open(io.BytesIO(photo_bytes["zidane.jpg"]))
    assert (drawn.format, drawn.size) == ("PNG", original.size)
    assert np.abs(np.asarray(drawn.convert("RGB"), int) - np.asarray(original, int)).max() > 100


def test_an_image_by_address(client: VisionMeter, gateway: Gateway, photo_bytes: dict[str, bytes]) -> None:
    """The server fetches it: the same result as of the bytes, also beside a file in one batch."""
    address = f"{gateway.web.url}/bus.jpg"
    assert client.detect(address).id == client.detect(photo_bytes["bus.jpg"]).id
    job = client.batch([address, photo_bytes["zidane.jpg"]])
    assert [image.name for image in job.results] == ["bus.jpg", "image"]
    assert [len(image.predictions) for image in job.results] == [4, 2]


# Several images ------------------------------------------------------------------------------------


def test_a_batch_by_its_quote(fresh: VisionMeter) -> None:
    """The quote's price is taken, each image has its outcome, progress grows to the end, and usage adds up."""
    pictures = [new_picture() for _ in range(5)]
    quote = fresh.quote([*pictures, pictures[0]], model=MODEL, img_size=320)
    assert (quote.tokens, quote.images[5].free_reason) == (PICTURE_TOKENS * 5, "duplicate")
    states: list[Job] = []
    job = fresh.batch(quote=quote, progress=states.append)
    assert (job.status, job.quote_id, job.usage.tokens) == ("finished", quote.id, quote.tokens)
    assert [image.status for image in job.results] == ["charged"] * 5 + ["free"]
    assert [image.usage.tokens for image in job.results] == [PICTURE_TOKENS] * 5 + [Decimal(0)]
    done = [state.images.done for state in states]
    assert done == sorted(done)
    assert (done[-1], states[-1].is_finished) == (6, True)
    assert job.usage.remaining_tokens == fresh.balance().remaining_tokens == 20 - quote.tokens
    report = fresh.usage()
    assert (report.totals.tokens, report.totals.charged, report.totals.free) == (quote.tokens, 5, 1)
    assert sum(day.tokens for day in report.days) == quote.tokens
    by_key = fresh.usage_by_key()
    (caller,) = by_key.callers
    assert (caller.kind, caller.tokens, caller.charged, caller.free) == ("api_key", quote.tokens, 5, 1)
    assert (by_key.totals, caller.email) == (report.totals, None)
    assert caller.prefix is not None
    assert caller.prefix.startswith("vm_")


def test_the_other_client_does_the_same(gateway: Gateway, keys: dict[str, str]) -> None:
    """Every method awaited: several at once, a batch with progress that is awaited, events, and the error of a name."""

    async def use() -> None:
        told: list[int] = []

        async def tell(job: Job) -> None:
            await anyio.sleep(0)
            told.append(job.images.done)

        async with AsyncVisionMeter(gateway.url, keys["rich"]) as client:
            answers: list[Decimal] = []

            async def detect() -> None:
                answers.append((await client.detect(new_picture(), img_size=320)).usage.tokens)

            async with anyio.create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(detect)
            assert answers == [PICTURE_TOKENS] * 4
            quote = await client.quote([new_picture(), new_picture()], img_size=320)
            job = await client.batch(quote=quote, progress=tell)
            assert (told[-1], job.usage.tokens) == (2, quote.tokens)
            assert [state.status async for state in client.iter_events(job.id)] == ["finished"]
            assert job.results[0].id is not None
            assert (await client.result(job.results[0].id)).job_id == job.id
            assert (await client.annotated_result(job.results[0].id)).startswith(b"\x89PNG")
            assert (await client.balance()).remaining_tokens == job.usage.remaining_tokens
            assert MODEL in [model.name for model in await client.models()]
            with pytest.raises(NotFoundError):
                await client.job("job_none")

    anyio.run(use)


def test_events_of_a_job_as_it_goes(client: VisionMeter) -> None:
    """From the first state that is seen to the finished one, each further than the one before."""
    job = client.create_job([new_picture() for _ in range(6)], img_size=320)
    assert (job.status in ("queued", "running"), job.results) == (True, ())
    states = list(client.iter_events(job.id))
    assert [state.is_finished for state in states] == [False] * (len(states) - 1) + [True]
    assert client.job(job.id).images.charged == 6


def test_a_cancelled_job_gives_back_what_had_not_started(fresh: VisionMeter) -> None:
    """Done and cancelled are all there is, and only what was done is taken."""
    job = fresh.create_job([new_picture() for _ in range(40)], img_size=320)
    assert job.usage.quoted_tokens > 0
    stopped = fresh.cancel(job.id)
    assert stopped.images.cancelled > 0
    ended = fresh.wait(job.id)
    assert ended.images.cancelled + ended.images.charged == 40
    taken = sum(image.usage.tokens for image in ended.results)
    assert ended.usage.tokens == taken < job.usage.quoted_tokens
    assert ended.usage.returned_tokens == job.usage.quoted_tokens - taken
    balance = fresh.balance()
    assert (balance.tokens, balance.held_tokens) == (20 - taken, 0)
    assert fresh.cancel(job.id).images == ended.images


def test_formats(client: VisionMeter, photos: Path) -> None:
    """A job's results for other programs: what the server writes, as it is."""
    job = client.batch([photos / "bus.jpg", photos / "zidane.jpg"])
    found = sum(len(image.predictions) for image in job.results)
    table = client.export(job.id, "csv").decode().splitlines()
    assert (table[0].split(",")[0], len(table)) == ("image", found + 1)
    assert client.export(job.id, "coco").count(b'"bbox"') == found
    assert len(client.export(job.id, "csv", classes=["Fall"]).splitlines()) == 1


def test_models_need_no_key(gateway: Gateway) -> None:
    """Which can run and what they cost; the rest needs one."""
    with VisionMeter(gateway.url) as client:
        models = {model.name: model for model in client.models()}
        assert (models[MODEL].state, models[MODEL].beta) == ("ready", Decimal("1.0"))
        with pytest.raises(AuthenticationError):
            client.balance()


# What goes wrong -----------------------------------------------------------------------------------


class LosesAnswers(httpx.HTTPTransport):
    """A network that brings every request to the server and loses the first answers on the way back."""

    def __init__(self, losses: int) -> None:
        super().__init__()
        self.losses = losses
        self.requests = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        self.requests += 1
        if self.requests <= self.losses:
            response.read()
            response.close()
            raise httpx.ReadError("connection reset")
        return response


@pytest.mark.parametrize("method", ["detect", "create_job"])
def test_lost_answers_are_paid_once(gateway: Gateway, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server did the work when it was first asked, gave its answer each time, and charged it once."""
    monkeypatch.setattr("visionmeter_client.client.time.sleep", lambda _seconds: None)
    picture, network = new_picture(), LosesAnswers(3)
    key = gateway.add_customer(f"{uuid.uuid4().hex}@example.com", Decimal(1))
    with VisionMeter(gateway.url, key, transport=network) as client:
        if method == "detect":
            answer = client.detect(picture, img_size=320)
            assert (answer.usage.tokens, answer.usage.cached) == (PICTURE_TOKENS, False)
        else:
            client.wait(client.create_job([picture], img_size=320).id)
        assert network.requests >= 4
        assert client.usage().totals.images == 1
        assert client.balance().tokens == 1 - PICTURE_TOKENS


def test_an_idempotency_key_of_the_caller(fresh: VisionMeter) -> None:
    """The same request under it is the same answer; another request under it is a conflict; one charge in all."""
    picture = new_picture()
    first = fresh.detect(picture, img_size=320, idempotency_key="order-17")
    assert fresh.detect(picture, img_size=320, idempotency_key="order-17").usage.receipt_id == first.usage.receipt_id
    with pytest.raises(ApiError) as raised:
        fresh.detect(new_picture(), img_size=320, idempotency_key="order-17")
    assert (raised.value.status, raised.value.code) == (409, "idempotency_conflict")
    assert fresh.balance().tokens == 20 - PICTURE_TOKENS


def test_a_key_that_is_not_known(gateway: Gateway) -> None:
    """401 with its sentence, and no word of the key."""
    key = "vm_" + "x" * 40
    with VisionMeter(gateway.url, key) as client, pytest.raises(AuthenticationError) as raised:
        client.detect(new_picture())
    assert (raised.value.status, raised.value.code) == (401, "unauthorized")
    assert raised.value.request_id
    assert key not in str(raised.value)


@pytest.mark.parametrize("method", ["detect", "batch"])
def test_a_balance_that_is_short(gateway: Gateway, keys: dict[str, str], method: str) -> None:
    """402 with exact amounts and where to top up; nothing is taken."""
    with VisionMeter(gateway.url, keys["poor"]) as client:
        with pytest.raises(InsufficientTokensError) as raised:
            client.detect(new_picture(), img_size=320) if method == "detect" else client.batch(
                [new_picture()], img_size=320
            )
        assert (raised.value.required, raised.value.available) == (PICTURE_TOKENS, Decimal("0.1"))
        assert raised.value.top_up_url == f"{gateway.url}/top_up"
        assert client.balance().tokens == Decimal("0.1")


@pytest.mark.parametrize(
    ("image", "options", "code"),
    [
        (b"no picture at all", {}, "image_unsupported"),
        (b"", {}, "image_empty"),
        (None, {"img_size": 333}, "invalid_img_size"),
        (None, {"confidence": 7}, "invalid_request"),
        ("http://169.254.169.254/latest/meta-data", {}, "image_url_refused"),
    ],
)
def test_what_cannot_be_served(client: VisionMeter, image: Any, options: dict[str, Any], code: str) -> None:
    """A sentence and a code, and nothing is taken."""
    before = client.balance()
    with pytest.raises(InvalidRequestError) as raised:
        client.detect(new_picture() if image is None else image, **options)
    assert raised.value.code == code
    assert client.balance() == before


def test_what_is_not_there(client: VisionMeter) -> None:
    """404 for each kind of name."""
    asked = (client.job, client.cancel, client.result, client.receipt, client.wait, client.annotated_result)
    for ask in asked:
        with pytest.raises(NotFoundError):
            ask("job_none")
    with pytest.raises(NotFoundError):
        client.detect(new_picture(), model="yolov99z")


def test_a_webhook_is_sent_and_verified(gateway: Gateway, client: VisionMeter) -> None:
    """What the server posts when a job has finished passes; with another secret it does not."""
    job = client.create_job([new_picture()], img_size=320, webhook_url=f"{gateway.web.url}/hook")
    client.wait(job.id)
    deadline = time.monotonic() + 30
    while not gateway.web.posted and time.monotonic() < deadline:
        threading.Event().wait(0.1)
    ((headers, body),) = gateway.web.posted
    secret = client._http.get("/webhooks/secret").json()["secret"]
    webhook = webhooks.verify(secret, headers, body)
    assert (webhook.type, webhook.data.id, webhook.data.usage.tokens) == ("job.finished", job.id, PICTURE_TOKENS)
    assert datetime.now(UTC) - webhook.timestamp < timedelta(minutes=1)
    with pytest.raises(WebhookError):
        webhooks.verify("whsec_" + "A" * 32, headers, body)
    # The sender writes down what the receiver has answered.
    while not (page := client.deliveries(status="delivered")).deliveries and time.monotonic() < deadline:
        threading.Event().wait(0.1)
    (delivery,) = page.deliveries
    assert (delivery.id, delivery.job_id, delivery.url) == (webhook.id, job.id, f"{gateway.web.url}/hook")
    assert (delivery.attempts, delivery.last_status, delivery.next_attempt_at) == (1, 204, None)
    assert client.resend(delivery.id).status == "pending"
    while len(gateway.web.posted) < 2 and time.monotonic() < deadline:
        threading.Event().wait(0.1)
    again = webhooks.verify(secret, *gateway.web.posted[1])
    assert (again.id, again.data.id) == (webhook.id, job.id)
    assert client.deliveries(limit=1, before=delivery.id).deliveries == ()
    with pytest.raises(NotFoundError):
        client.resend("msg_0123")


# The README ----------------------------------------------------------------------------------------


def test_the_examples_of_the_readme_run(
    gateway: Gateway,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each Python block, in order, as it stands; the first one in at most ten lines."""
    monkeypatch.setenv("VISIONMETER_HOST", gateway.url)
    monkeypatch.setenv("VISIONMETER_API_KEY", gateway.add_customer("reader@example.com", Decimal(20)))
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    assert len(blocks[0].splitlines()) <= 10
    names: dict[str, Any] = {}
    shown = []
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
        shown.append(capsys.readouterr().out)
    assert re.fullmatch(r"(Normal 0\.\d\d at \d+, \d+\n){4}0\.75 tokens taken, 19\.25 left\n", shown[0])
    assert shown[1].startswith("bus.jpg: 0.0 tokens processed\nzidane.jpg: 0.6 tokens \n")
    assert shown[1].endswith(f"2 of 2\nbus.jpg free {['Normal'] * 4}\nzidane.jpg charged {['Normal'] * 2}\n")
    assert shown[2] == "[4, 2]\n"
    assert names["receive"]("whsec_" + "A" * 32, {}, b"") == 400
