"""`POST /detect`: every entrance, every format, one charge, and nothing taken for what did not work."""

from __future__ import annotations

import base64
import csv
import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import httpx
import numpy as np
import pytest

from core.errors import EngineStoppedError
from core.inference.backends.choose import count_cores
from core.inference.images import encode_png
from core.inference.pipeline import DetectParams
from core.money import from_millitokens
from core.services import corrections
from tests.core.services.helpers import pictures
from tests.gateway.calls import Gateway, blocked_model, failing_model, open_gateway, serve_files

if TYPE_CHECKING:
    from core.inference.engine import Engine
    from core.inference.registry import ModelVersion

CLIENTS = 8


@pytest.fixture(scope="module")
def web(photo_bytes: dict[str, bytes]) -> Iterator[str]:
    """The address of a server with `bus.jpg`."""
    with serve_files({"bus.jpg": photo_bytes["bus.jpg"]}) as url:
        yield url


@pytest.fixture(scope="module")
def bus_bytes(photo_bytes: dict[str, bytes]) -> bytes:
    """`bus.jpg`, 810 × 1080 pixels: 0.200 tokens at 320."""
    return photo_bytes["bus.jpg"]


def picture(seed: int) -> bytes:
    """A small picture of its own: 0.250 tokens at 320."""
    return pictures(1, seed=seed)["0.png"]


# Entrances -----------------------------------------------------------------------------------------


def test_every_entrance_leads_to_the_same_answer(gateway: Gateway, bus_bytes: bytes, web: str) -> None:
    """URL, base64, data URL, form and bare body: the same detections, charged once and free ever after."""
    customer = gateway.customer()
    text = base64.b64encode(bus_bytes).decode()
    options = {"img_size": 320}
    answers: list[httpx.Response] = [
        customer.post("/detect", json={"image_url": f"{web}/bus.jpg?size=1", **options}),
        customer.post("/detect", json={"image": text, **options}),
        customer.post("/yolo/detect", json={"image": f"data:image/jpeg;base64,{text}", **options}),
        customer.post("/detect", files={"file": ("bus.jpg", bus_bytes)}, data={"img_size": "320"}),
        customer.post("/detect?img_size=320", files={"image": ("bus.jpg", bus_bytes, "image/jpeg")}),
        customer.post("/detect?img_size=320&name=gate", content=bus_bytes, headers={"Content-Type": "image/jpeg"}),
        gateway.client.post("/yolo/detect", json={"image": text, **options}, headers={"X-API-Key": customer.secret}),
    ]
    assert [answer.status_code for answer in answers] == [200] * 7
    first, *others = [answer.json() for answer in answers]
    assert len(first["predictions"]) == 3
    assert all(other["predictions"] == first["predictions"] for other in others)
    assert all(other["id"] == first["id"] for other in others)
    names = [one["image"]["name"] for one in (first, *others)]
    assert names == ["bus.jpg", "image", "image", "bus.jpg", "bus.jpg", "gate", "image"]
    assert first["usage"]["tokens"] == 0.2
    assert not first["usage"]["cached"]
    for other in others:
        usage = other["usage"]
        assert (usage["tokens"], usage["cached"], usage["receipt_id"]) == (0.0, True, None)
    assert customer.balance() == (19.8, 0.0)


def test_the_price_is_the_quoted_one(gateway: Gateway, photo_bytes: dict[str, bytes]) -> None:
    """What a quote says is what is taken, in the body, the headers and the ledger, for odd sizes too."""
    customer = gateway.customer()
    left = Decimal(20)
    draw = np.random.default_rng(5)
    shapes = [(1080, 810), (720, 1280), (64, 64), (33, 1000), (500, 499)]
    for number, (height, width) in enumerate(shapes):
        data = encode_png(cv2.resize(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8), (width, height)))
        quoted = customer.run("/quotes", {f"{number}.png": data}).json()
        answer = customer.detect(data)
        usage = answer.json()["usage"]
        left -= Decimal(str(usage["tokens"]))
        assert usage["tokens"] == quoted["tokens"] == quoted["list_tokens"]
        assert answer.headers["X-Tokens-Charged"] == f"{usage['tokens']:.3f}"
        assert answer.headers["X-Tokens-Remaining"] == f"{left:.3f}"
        assert answer.headers["X-Tokens-Held"] == "0.000"
        assert usage["remaining_tokens"] == float(left)
        assert answer.headers["X-Receipt-Id"] == usage["receipt_id"]
        assert answer.headers["X-Result-Id"] == answer.json()["id"]
        assert customer.balance() == (float(left), 0.0)
        receipt = customer.get(f"/receipts/{usage['receipt_id']}").json()
        assert receipt["charged_tokens"] == f"{usage['tokens']:.3f}"
        assert receipt["price"]["version"] == usage["price_version"] == quoted["price_version"]
    rows = list(csv.DictReader(io.StringIO(customer.get("/receipts.csv").text)))
    assert sum(Decimal(row["charged_tokens"]) for row in rows) == 20 - left
    used = customer.get("/usage").json()
    assert Decimal(str(used["totals"]["tokens"])) == 20 - left
    assert (used["totals"]["charged"], used["totals"]["images"]) == (len(shapes), len(shapes))


def test_a_replay_draws_what_was_free(gateway: Gateway, web: str, bus_bytes: bytes) -> None:
    """The same pixels in another file are free and not stored; the same key gives the drawn picture again."""
    customer = gateway.customer()
    pixels = cv2.imdecode(np.frombuffer(bus_bytes, np.uint8), cv2.IMREAD_COLOR)
    customer.post("/detect", files={"file": ("bus.png", encode_png(pixels))}, data={"img_size": "320"})
    bmp = cv2.imencode(".bmp", pixels)[1].tobytes()
    sent = {"content": bmp, "headers": {"Content-Type": "image/bmp", "Idempotency-Key": "drawn"}}
    answers = [customer.post("/detect?img_size=320&annotated=png", **sent) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].content == answers[1].content
    by_url = {"image_url": f"{web}/bus.jpg?size=2", "img_size": 320, "annotated": "png"}
    for _ in range(2):
        answer = customer.post("/detect", json=by_url, headers={"Idempotency-Key": "by-address"})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")


def test_tiles_by_every_entrance(gateway: Gateway) -> None:
    """`tile_px` in a body, a form, the address, a batch or a quote: the same price of the grid, taken once."""
    customer = gateway.customer()
    data = encode_png(np.random.default_rng(9).integers(0, 256, (512, 1024, 3), dtype=np.uint8))
    quoted = customer.run("/quotes", {"wide.png": data}, tile_px=512).json()
    # 320 × 160 for the whole and 320 × 320 for each of three tiles.
    assert (quoted["tokens"], quoted["tile_px"]) == (0.875, 512)
    line = quoted["images"][0]
    assert (line["tiles"], line["tile_input_width"], line["tile_input_height"]) == (3, 320, 320)
    text = base64.b64encode(data).decode()
    answers = [
        customer.post("/detect", json={"image": text, "img_size": 320, "tile_px": 512}),
        customer.post("/detect", files={"file": ("wide.png", data)}, data={"img_size": "320", "tile_px": "512"}),
        customer.post("/detect?img_size=320&tile_px=512", content=data, headers={"Content-Type": "image/png"}),
    ]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert [answer.json()["usage"]["tokens"] for answer in answers] == [0.875, 0.0, 0.0]
    assert {(answer.json()["tile_px"], answer.json()["tiles_failed"]) for answer in answers} == {(512, 0)}
    times = answers[0].json()["usage"]["times_ms"]
    assert sum(ms for stage, ms in times.items() if stage != "total") <= times["total"] + 1
    batch = customer.run("/batch", {"wide.png": data}, tile_px=512).json()
    assert (batch["tile_px"], batch["usage"]["tokens"], batch["images"]["free"]) == (512, 0.0, 1)
    receipt = customer.get(f"/receipts/{answers[0].json()['usage']['receipt_id']}").json()
    assert (receipt["tiles"]["count"], receipt["charged_tokens"]) == (3, "0.875")
    big = base64.b64encode(encode_png(np.zeros((2000, 2000, 3), np.uint8))).decode()
    many = customer.post("/detect", json={"image": big, "img_size": 320, "tile_px": 256})
    assert (many.status_code, many.json()["code"], many.json()["tiles_max"]) == (422, "invalid_tile_px", 40)
    for wrong, code in ((300, "invalid_tile_px"), ("many", "invalid_request")):
        refused = customer.post("/detect", json={"image": text, "tile_px": wrong})
        assert (refused.status_code, refused.json()["code"]) == (422, code)
    assert customer.balance() == (19.125, 0.0)


def test_times_by_stage(gateway: Gateway) -> None:
    """Body and `Server-Timing` name the same stages, and together they are not longer than the whole."""
    answer = gateway.customer().detect(picture(40))
    times = answer.json()["usage"]["times_ms"]
    assert {"decode", "hold", "wait", "model", "capture", "total"} <= set(times)
    assert sum(ms for stage, ms in times.items() if stage != "total") <= times["total"] + 1
    timing = dict(one.strip().split(";dur=") for one in answer.headers["Server-Timing"].split(","))
    assert {stage: round(ms, 1) for stage, ms in times.items()} == pytest.approx(
        {stage: float(ms) for stage, ms in timing.items()}, abs=0.11
    )


# What is wanted of the result ----------------------------------------------------------------------


def test_annotated_picture(gateway: Gateway, bus_bytes: bytes) -> None:
    """`annotated=png` is the picture itself, upright, with boxes in it, and the price in its headers."""
    customer = gateway.customer()
    answer = customer.post(
        "/detect?annotated=png&img_size=320", content=bus_bytes, headers={"Content-Type": "image/jpeg"}
    )
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert answer.headers["X-Tokens-Charged"] == "0.200"
    drawn = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
    original = cv2.imdecode(np.frombuffer(bus_bytes, np.uint8), cv2.IMREAD_COLOR)
    assert drawn is not None
    assert original is not None
    assert drawn.shape == original.shape == (1080, 810, 3)
    changed = (drawn != original).any(axis=2)
    found = customer.get(f"/results/{answer.headers['X-Result-Id']}").json()["predictions"]
    for box in (one["box"] for one in found):
        middle = (round(box["y1"]) + round(box["y2"])) // 2
        left = max(0, round(box["x1"]))
        assert changed[middle, max(0, left - 4) : left + 5].any(), "no line on the left side of a box"
    assert customer.get(f"/results/{answer.headers['X-Result-Id']}?annotated=png").content == answer.content


def test_formats_say_the_same(gateway: Gateway, bus_bytes: bytes) -> None:
    """COCO, YOLO labels and CSV hold the boxes of the JSON answer, each in its own terms."""
    customer = gateway.customer()
    predictions = customer.detect(bus_bytes, name="bus.jpg").json()["predictions"]
    assert len(predictions) == 3

    coco = customer.detect(bus_bytes, name="bus.jpg", format="coco").json()
    assert coco["images"] == [{"id": 1, "file_name": "bus.jpg", "width": 810, "height": 1080}]
    categories = {one["id"]: one["name"] for one in coco["categories"]}
    for one, annotation in zip(predictions, coco["annotations"], strict=True):
        x, y, width, height = annotation["bbox"]
        assert (x, y) == (one["box"]["x1"], one["box"]["y1"])
        assert (x + width, y + height) == pytest.approx((one["box"]["x2"], one["box"]["y2"]))
        assert annotation["area"] == pytest.approx(width * height, abs=0.01)
        assert (categories[annotation["category_id"]], annotation["score"]) == (one["name"], one["confidence"])
        assert annotation["image_id"] == 1

    labels = customer.detect(bus_bytes, format="yolo")
    assert labels.headers["content-type"].startswith("text/plain")
    for one, line in zip(predictions, labels.text.splitlines(), strict=True):
        class_id, *shares, confidence = line.split()
        x, y, width, height = (float(share) for share in shares)
        assert int(class_id) == one["class"]
        assert float(confidence) == pytest.approx(one["confidence"], abs=1e-4)
        box = one["box"]
        assert ((x - width / 2) * 810, (y - height / 2) * 1080) == pytest.approx((box["x1"], box["y1"]), abs=0.1)
        assert ((x + width / 2) * 810, (y + height / 2) * 1080) == pytest.approx((box["x2"], box["y2"]), abs=0.1)

    table = customer.detect(bus_bytes, name="bus.jpg", format="csv")
    assert table.headers["content-type"].startswith("text/csv")
    for one, row in zip(predictions, csv.DictReader(io.StringIO(table.text)), strict=True):
        assert (row["image"], row["name"], float(row["confidence"])) == ("bus.jpg", one["name"], one["confidence"])
        assert [float(row[side]) for side in ("x1", "y1", "x2", "y2")] == list(one["box"].values())
    assert customer.balance() == (19.8, 0.0)


def test_filters_are_free(gateway: Gateway, bus_bytes: bytes) -> None:
    """Another confidence or other classes are a filter on what is stored: nothing runs, nothing is taken."""
    customer = gateway.customer()
    everything = customer.detect(bus_bytes, confidence=0.05).json()
    for confidence in (0.05, 0.3, 0.65, 1.0):
        answer = customer.detect(bus_bytes, confidence=confidence).json()
        expected = [one for one in everything["predictions"] if one["confidence"] >= confidence]
        assert answer["predictions"] == expected
        assert answer["usage"]["cached"]
    names = {one["name"] for one in everything["predictions"]}
    for classes in ([], ["Normal"], ["Fall"], ["Normal", "Fall"], "Normal, Fall", ["nothing of ours"]):
        answer = customer.detect(bus_bytes, confidence=0.05, classes=classes).json()
        kept = {part.strip() for part in classes.split(",")} if isinstance(classes, str) else set(classes) or names
        assert answer["predictions"] == [one for one in everything["predictions"] if one["name"] in kept], classes
    assert customer.balance() == (19.8, 0.0)


# Idempotency ---------------------------------------------------------------------------------------


def test_one_key_one_answer(gateway: Gateway) -> None:
    """The same key and request: the same predictions and amounts, byte for byte, though money moved since."""
    customer = gateway.customer()
    first = customer.detect(picture(1), key="order-1")
    customer.detect(picture(2))
    again = customer.detect(picture(1), key="order-1")
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    one, two = first.json(), again.json()
    for answer in (one, two):
        del answer["usage"]["times_ms"]
    assert one == two
    for name in ("X-Tokens-Charged", "X-Tokens-Remaining", "X-Tokens-Held", "X-Receipt-Id", "X-Result-Id"):
        assert first.headers[name] == again.headers[name]
    assert customer.balance() == (19.5, 0.0)


def test_another_request_under_the_key_is_a_conflict(gateway: Gateway) -> None:
    """Another picture, size or model under a used key: 409, and nothing is taken."""
    customer = gateway.customer()
    assert customer.detect(picture(1), key="k").status_code == 200
    for answer in (
        customer.detect(picture(2), key="k"),
        customer.detect(picture(1), key="k", img_size=640),
        customer.detect(picture(1), key="k", confidence=0.5),
        customer.run("/batch", {"0.png": picture(1)}, key="k"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_conflict")
    # A key is its account's: somebody else's is another one.
    assert gateway.customer().detect(picture(2), key="k").status_code == 200
    assert customer.balance() == (19.75, 0.0)


def test_a_free_answer_keeps_its_balance(gateway: Gateway) -> None:
    """The replay of what was free says the balance of then, not of now."""
    customer = gateway.customer()
    customer.detect(picture(1))
    free = customer.detect(picture(1), key="free")
    customer.detect(picture(2))
    again = customer.detect(picture(1), key="free")
    assert free.json()["usage"]["cached"]
    assert free.json()["usage"]["remaining_tokens"] == again.json()["usage"]["remaining_tokens"] == 19.75
    assert again.headers["Idempotent-Replayed"] == "true"
    assert customer.balance() == (19.5, 0.0)


def test_eight_at_once_under_one_key(gateway: Gateway) -> None:
    """Eight clients send the same request with the same key at the same time: one charge, eight equal answers."""
    customer = gateway.customer()
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(lambda _n: customer.detect(picture(3), key="storm"), range(CLIENTS)))
    assert [answer.status_code for answer in answers] == [200] * CLIENTS
    assert len({answer.json()["job_id"] for answer in answers}) == 1
    assert {answer.json()["usage"]["tokens"] for answer in answers} == {0.25}
    assert sum("Idempotent-Replayed" in answer.headers for answer in answers) == CLIENTS - 1
    assert customer.balance() == (19.75, 0.0)


def test_eight_at_once_without_a_key(gateway: Gateway) -> None:
    """The same picture eight times at once: one pays, the others wait for it and are free."""
    customer = gateway.customer()
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(lambda _n: customer.detect(picture(4)), range(CLIENTS)))
    assert [answer.status_code for answer in answers] == [200] * CLIENTS
    assert sorted(answer.json()["usage"]["tokens"] for answer in answers) == [0.0] * (CLIENTS - 1) + [0.25]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert customer.balance() == (19.75, 0.0)


def test_an_interrupted_attempt_may_run_again(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt that a restart broke off took nothing; its key runs again and is charged once."""
    customer = gateway.customer()

    def stopped(*_arguments: object, **_options: object) -> Any:
        raise EngineStoppedError("The service is restarting: run it again in a minute.")

    with monkeypatch.context() as patch:
        patch.setattr(gateway.app.engine, "submit", stopped)
        answer = customer.detect(picture(5), key="again")
    assert (answer.status_code, answer.json()["code"]) == (503, "engine_stopped")
    assert int(answer.headers["Retry-After"]) == answer.json()["retry_after_s"] == 30
    assert customer.balance() == (20.0, 0.0)
    answer = customer.detect(picture(5), key="again")
    assert answer.status_code == 200
    assert "Idempotent-Replayed" not in answer.headers
    assert customer.detect(picture(5), key="again").headers["Idempotent-Replayed"] == "true"
    assert customer.balance() == (19.75, 0.0)


# What does not work costs nothing ------------------------------------------------------------------


def test_a_failing_model_takes_nothing(gateway: Gateway) -> None:
    """500 with `inference_failed`, the hold is given back; the key repeats the failure, a new one runs."""
    customer = gateway.customer()
    data = pictures(1, seed=6, side=77)["0.png"]
    with failing_model(77):
        answer = customer.detect(data, key="broken")
    assert (answer.status_code, answer.json()["code"]) == (500, "inference_failed")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"]
    assert "out of memory" not in answer.text
    assert customer.balance() == (20.0, 0.0)
    assert customer.detect(data, key="broken").status_code == 500
    assert customer.balance() == (20.0, 0.0)
    assert customer.detect(data, key="new").status_code == 200
    assert customer.get("/usage").json()["totals"] == {
        "tokens": 0.25,
        "images": 2,
        "charged": 1,
        "free": 0,
        "failed": 1,
    }


def test_a_full_queue_holds_nothing(gateway: Gateway, version: ModelVersion) -> None:
    """With the engine's queue full: 503 with `Retry-After`, and not one token is held meanwhile."""
    customer = gateway.customer()
    engine = gateway.app.engine
    grey = np.full((64, 64, 3), 114, np.uint8)
    waiting = []
    with blocked_model():
        for _stream in range(count_cores()):
            waiting.append(engine.submit(grey, version, DetectParams(img_size=64)))
            while engine.queue_depth:
                time.sleep(0.01)  # until each stream has one in hand
        while engine.queue_depth < gateway.app.settings.engine_queue_max:
            waiting.append(engine.submit(grey, version, DetectParams(img_size=64)))
        answer = customer.detect(picture(7), key="busy")
        assert (answer.status_code, answer.json()["code"]) == (503, "engine_busy")
        assert int(answer.headers["Retry-After"]) >= 1
        assert customer.balance() == (20.0, 0.0)
        for future in waiting:
            future.cancel()
    while engine.queue_depth:
        time.sleep(0.01)
    assert customer.detect(picture(7), key="busy").status_code == 200


def test_short_balance(gateway: Gateway) -> None:
    """402 with what it needs, what there is and where to top up; a top-up later the same key runs."""
    customer = gateway.customer("0.249")
    answer = customer.detect(picture(8), key="short")
    body = answer.json()
    assert (answer.status_code, body["code"]) == (402, "insufficient_tokens")
    assert (body["required"], body["available"], body["missing"]) == (0.25, 0.249, 0.001)
    assert body["top_up_url"] == "http://testserver/top_up"
    assert customer.balance() == (0.249, 0.0)
    assert gateway.customer("0.250").detect(picture(8)).status_code == 200


def test_a_frozen_account_cannot_spend(gateway: Gateway) -> None:
    """403 that says whom to ask; reading goes on."""
    operator = gateway.customer()
    gateway.change("UPDATE user_ SET is_operator = :yes WHERE id = :id", yes=True, id=operator.user.id)
    operator.user.is_operator = True
    customer = gateway.customer()
    corrections.freeze_account(gateway.app, operator.user, customer.user.account_id, frozen=True, reason="a test")
    answer = customer.detect(picture(9))
    assert (answer.status_code, answer.json()["code"]) == (403, "account_not_active")
    assert customer.get("/balance").status_code == 200


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"this is no picture at all", 415, "image_unsupported"),
        (picture(1)[:150], 422, "image_broken"),
        (b"", 422, "image_empty"),
    ],
    ids=["text", "cut", "empty"],
)
def test_what_is_no_picture(gateway: Gateway, data: bytes, status: int, code: str) -> None:
    """Bytes that are no picture, or half of one: refused by what they are, through every entrance."""
    customer = gateway.customer()
    for answer in (
        customer.post("/detect", content=data, headers={"Content-Type": "image/png"}),
        customer.post("/detect", files={"file": ("a.png", data)}),
        customer.detect(data) if data else customer.detect(b"", image="data:image/png;base64,"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert customer.balance() == (20.0, 0.0)


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"model": "yolov9000"}, 404, "model_not_found"),
        ({"model": "yolov8l"}, 503, "model_not_ready"),
        ({"img_size": 321}, 422, "invalid_img_size"),
        ({"confidence": 0.04}, 422, "invalid_request"),
        ({"image_url": "http://10.0.0.1/bus.jpg", "image": None}, 422, "image_url_refused"),
        ({"image_url": "file:///etc/passwd", "image": None}, 422, "image_url_refused"),
    ],
)
def test_what_cannot_be_asked_for(gateway: Gateway, fields: dict[str, Any], status: int, code: str) -> None:
    """An unknown model, one without weights, a size that is not served, an address that is not called."""
    customer = gateway.customer()
    answer = customer.detect(picture(1), **fields)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert ("Retry-After" in answer.headers) == (status == 503)
    assert customer.balance() == (20.0, 0.0)


def test_an_address_that_gives_no_picture(gateway: Gateway, web: str) -> None:
    """A 404 of the other server is a 422 of ours that says so."""
    answer = gateway.customer().post("/detect", json={"image_url": f"{web}/nothing.jpg"})
    assert (answer.status_code, answer.json()["code"]) == (422, "image_url_failed")


# Limits --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, weights_dir: Path, engine: Engine) -> Iterator[Gateway]:
    """A gateway with small limits."""
    with open_gateway(
        "sqlite",
        tmp_path_factory.mktemp("small"),
        weights_dir,
        engine,
        image_bytes_max=50_000,
        image_pixels_max=100_000,
        rate_images_per_minute=3,
    ) as served:
        yield served


def test_too_large(small: Gateway, bus_bytes: bytes) -> None:
    """413 for too many bytes in a body or a picture and for too many pixels, before anything is decoded."""
    customer = small.customer()
    flat = encode_png(np.zeros((1000, 1000, 3), np.uint8))
    for data, code in [(bus_bytes, "image_too_many_bytes"), (flat, "image_too_many_pixels")]:
        answer = customer.post("/detect", content=data, headers={"Content-Type": "image/png"})
        assert (answer.status_code, answer.json()["code"]) == (413, code)
    answer = customer.detect(b"x" * 500_000)
    assert (answer.status_code, answer.json()["code"]) == (413, "request_too_large")
    answer = customer.post("/detect", content=iter([b"x" * 100_000] * 5), headers={"Content-Type": "image/png"})
    assert (answer.status_code, answer.json()["code"]) == (413, "request_too_large")


def test_images_a_minute(small: Gateway) -> None:
    """The fourth picture within a minute is a 429 that says when to come back; a replay is no picture."""
    customer = small.customer()
    for seed in range(3):
        assert customer.detect(picture(10 + seed), key=f"k{seed}").status_code == 200
    answer = customer.detect(picture(14))
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert answer.json()["retry_after_s"] == int(answer.headers["Retry-After"])
    assert customer.detect(picture(10), key="k0").headers["Idempotent-Replayed"] == "true"
    assert customer.balance() == (19.25, 0.0)


def test_requests_a_second(tmp_path_factory: pytest.TempPathFactory, weights_dir: Path, engine: Engine) -> None:
    """More requests in a second than the plan allows are 429, for one key and not for another."""
    folder = tmp_path_factory.mktemp("slow")
    with open_gateway("sqlite", folder, weights_dir, engine, rate_requests_per_s=5) as served:
        customer, other = served.customer(), served.customer()
        answers = [customer.get("/balance") for _ in range(12)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert refused[0].headers["Retry-After"] == "1"
        assert other.get("/balance").status_code == 200


# Whose it is ---------------------------------------------------------------------------------------


def test_what_belongs_to_others_is_not_there(gateway: Gateway) -> None:
    """Quotes, jobs, results, receipts and keys of another account: 404, just like those that never were."""
    owner, stranger = gateway.customer(), gateway.customer()
    answer = owner.detect(picture(20)).json()
    ids = {
        "quotes": answer["usage"]["quote_id"],
        "jobs": answer["job_id"],
        "results": answer["id"],
        "receipts": answer["usage"]["receipt_id"],
    }
    for kind, its_id in ids.items():
        assert owner.get(f"/{kind}/{its_id}").status_code == 200
        theirs, nobodys = stranger.get(f"/{kind}/{its_id}"), stranger.get(f"/{kind}/{its_id[:-2]}00")
        assert (theirs.status_code, nobodys.status_code) == (404, 404), kind
        assert theirs.json()["code"] == nobodys.json()["code"]
        assert theirs.json()["detail"] == nobodys.json()["detail"]
    for method, path in [
        ("GET", f"/jobs/{ids['jobs']}/results"),
        ("GET", f"/jobs/{ids['jobs']}/events"),
        ("POST", f"/jobs/{ids['jobs']}/cancel"),
        ("GET", f"/jobs?before={ids['jobs']}"),
        ("POST", f"/keys/{owner.key_id}/rotate"),
        ("DELETE", f"/keys/{owner.key_id}"),
    ]:
        assert stranger.call(method, path).status_code == 404, path
    for path in ("/batch", "/jobs"):
        answer_ = stranger.post(path, json={"quote_id": ids["quotes"]})
        assert (answer_.status_code, answer_.json()["code"]) == (404, "quote_not_found")
    assert stranger.detect(picture(20)).json()["usage"]["tokens"] == 0.25, "another account's result is not free"
    assert owner.get("/balance").status_code == 200


def test_the_request_id(gateway: Gateway) -> None:
    """The client's own id comes back when it is a good one, else a fresh one; in problems too."""
    customer = gateway.customer()
    answer = customer.get("/jobs/nothing", headers={"X-Request-Id": "mine-1.2_3"})
    assert answer.headers["X-Request-Id"] == answer.json()["request_id"] == "mine-1.2_3"
    for bad in ("", "a b", "x" * 65, "a/b"):
        answer = customer.get("/jobs/nothing", headers={"X-Request-Id": bad})
        assert answer.headers["X-Request-Id"] == answer.json()["request_id"] != bad
        assert answer.headers["X-Request-Id"].startswith("req_")


def test_the_ledger_names_the_key(gateway: Gateway) -> None:
    """The actor of every entry and usage record of a call is the key that made it."""
    customer = gateway.customer()
    customer.detect(picture(30))
    with gateway.app.db.read() as session:
        from sqlmodel import select

        from core.ledger.tables import Entry

        entries = session.exec(select(Entry).where(Entry.account_id == customer.user.account_id)).all()
    by_kind = {entry.kind: entry for entry in entries}
    assert by_kind["hold"].actor == by_kind["capture"].actor == customer.key_id
    assert from_millitokens(by_kind["capture"].posted_after_mt) == Decimal("19.750")
