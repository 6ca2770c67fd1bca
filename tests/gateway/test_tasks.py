"""Models of every other task than boxes through the gateway: one charge, a receipt, every format."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import jsonschema
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from visionmeter_client._reading import load_json, read
from visionmeter_client.answers import DetectionResult

from gateway.openapi import REF
from gateway.shapes import CocoOut, DetectOut
from tests.gateway.calls import Gateway, open_gateway

if TYPE_CHECKING:
    from core.inference.engine import Engine

# α · 640 · 480 / 640² · β, of the published list 2026-11-5.
PRICES = {"yolov8s-seg": "1.050", "yolov8s-pose": "0.788", "yolov8s-obb": "0.788"}
PARTS = {"yolov8s-seg": {"mask", "polygons"}, "yolov8s-pose": {"keypoints"}, "yolov8s-obb": {"corners"}}


@pytest.fixture(scope="module")
def tasks(
    tmp_path_factory: pytest.TempPathFactory,
    weights_dir: Path,
    task_weights: dict[str, Path],
    class_weights: Path,
    engine: Engine,
) -> Iterator[Gateway]:
    """The gateway with a model of each task."""
    folder = tmp_path_factory.mktemp("tasks-gateway")
    weights = folder / "weights"
    weights.mkdir()
    (weights / "yolov8s-fall.pt").symlink_to(weights_dir / "yolov8s-fall.pt")
    for path in (*task_weights.values(), class_weights):
        (weights / path.name).symlink_to(path)
    # A network for boxes under the name of a model for masks.
    (weights / "yolov8n-seg.pt").symlink_to(weights_dir / "yolov8s-fall.pt")
    with open_gateway("sqlite", folder, weights, engine) as served:
        yield served


@pytest.mark.parametrize("model", PRICES)
def test_a_run_from_price_to_receipt(tasks: Gateway, photo_bytes: dict[str, bytes], model: str) -> None:
    """Quoted, charged and receipted at the model's β; the answer has the task's parts; a second run is free."""
    customer = tasks.customer()
    bus = photo_bytes["bus.jpg"]
    quote = customer.run("/quotes", {"bus.jpg": bus}, model=model, img_size=640).json()
    assert (Decimal(str(quote["tokens"])), quote["price_version"]) == (Decimal(PRICES[model]), "2026-11-5")
    answer = customer.detect(bus, model=model, img_size=640)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert Decimal(str(body["usage"]["tokens"])) == Decimal(PRICES[model])
    assert body["predictions"]
    for prediction in body["predictions"]:
        assert set(prediction) - {"class", "name", "confidence", "box"} == PARTS[model]
    jsonschema.validate(body, DetectOut.model_json_schema())
    receipt = customer.get(f"/receipts/{body['usage']['receipt_id']}").json()
    assert (receipt["model"]["name"], Decimal(receipt["charged_tokens"])) == (model, Decimal(PRICES[model]))
    again = customer.detect(bus, model=model, img_size=640).json()
    assert again["usage"]["cached"]
    assert again["predictions"] == body["predictions"]
    typed = read(DetectionResult, load_json(answer.text))
    assert all(getattr(typed.predictions[0], part) is not None for part in PARTS[model])


@pytest.mark.parametrize("model", PRICES)
def test_stored_in_every_form(tasks: Gateway, photo_bytes: dict[str, bytes], model: str) -> None:
    """COCO fits its schema, YOLO and CSV have a line each, the drawing differs, and the threshold is a filter."""
    customer = tasks.customer()
    body = customer.detect(photo_bytes["bus.jpg"], model=model, img_size=640).json()
    path = f"/results/{body['id']}"
    coco = customer.get(f"{path}?format=coco").json()
    jsonschema.validate(coco, CocoOut.model_json_schema(ref_template=REF) | {"components": _components()})
    count = len(body["predictions"])
    assert len(coco["annotations"]) == count
    if model == "yolov8s-seg":
        for annotation, prediction in zip(coco["annotations"], body["predictions"], strict=True):
            assert annotation["segmentation"] == prediction["mask"]
            assert coco_mask.decode(prediction["mask"]).shape == (1080, 810)
    assert len(customer.get(f"{path}?format=yolo").text.splitlines()) == count
    assert len(customer.get(f"{path}?format=csv").text.splitlines()) == count + 1
    drawn = cv2.imdecode(np.frombuffer(customer.get(f"{path}?annotated=png").content, np.uint8), cv2.IMREAD_COLOR)
    picture = cv2.imdecode(np.frombuffer(photo_bytes["bus.jpg"], np.uint8), cv2.IMREAD_COLOR)
    assert drawn.shape == picture.shape
    assert (drawn != picture).any(axis=2).sum() > 1_000
    fewer = customer.get(f"{path}?confidence=0.6").json()["predictions"]
    assert fewer == [one for one in body["predictions"] if one["confidence"] >= 0.6]
    assert 0 < len(fewer) < count


def test_classes_of_whole_pictures(tasks: Gateway, photo_bytes: dict[str, bytes]) -> None:
    """Charged for a square, whatever the picture; the answer has classes without boxes, and the receipt agrees."""
    customer = tasks.customer()
    bus = photo_bytes["bus.jpg"]
    quote = customer.run("/quotes", {"bus.jpg": bus}, model="yolov8n-cls", img_size=320).json()
    assert (quote["images"][0]["input_height"], quote["images"][0]["input_width"]) == (320, 320)
    answer = customer.detect(bus, model="yolov8n-cls", img_size=320, confidence=0.05)
    body = answer.json()
    # α · 320² / 640² · 0.25, and at least three decimals of it.
    assert (quote["tokens"], body["usage"]["tokens"]) == (0.063, 0.063)
    assert [set(one) for one in body["predictions"]] == [{"class", "name", "confidence"}] * len(body["predictions"])
    assert body["predictions"]
    jsonschema.validate(body, DetectOut.model_json_schema())
    assert read(DetectionResult, load_json(answer.text)).predictions[0].box is None
    document = customer.get(f"/receipts/{body['usage']['receipt_id']}").json()
    assert document["recomputation"]["agrees"]
    path = f"/results/{body['id']}"
    assert len(customer.get(f"{path}?format=csv&confidence=0.05").text.splitlines()) == len(body["predictions"]) + 1
    drawn = cv2.imdecode(np.frombuffer(customer.get(f"{path}?annotated=png").content, np.uint8), cv2.IMREAD_COLOR)
    assert drawn.shape == (1080, 810, 3)
    refused = customer.get(f"{path}?format=coco")
    assert (refused.status_code, refused.json()["code"]) == (422, "format_not_applicable")


def test_a_format_of_boxes_takes_nothing(tasks: Gateway, photo_bytes: dict[str, bytes]) -> None:
    """Classes in COCO's form are refused before anything is paid, for one picture and for many; tiles, too."""
    customer = tasks.customer()
    bus = photo_bytes["bus.jpg"]
    options = {"model": "yolov8n-cls", "img_size": 320}
    for answer in (
        customer.detect(bus, format="coco", **options),
        customer.run("/batch", {"bus.jpg": bus}, format="yolo", **options),
    ):
        assert (answer.status_code, answer.json()["code"]) == (422, "format_not_applicable")
    assert customer.detect(bus, tile_px=320, **options).json()["code"] == "invalid_tile_px"
    assert customer.get("/balance").json()["tokens"] == 20.0


def test_models_say_their_task(tasks: Gateway) -> None:
    """The list of models names what each finds."""
    listed = {model["name"]: model["task"] for model in tasks.customer().get("/models").json()}
    assert (listed["yolov8s-fall"], listed["yolo11n"]) == ("detect", "detect")
    assert [listed[f"yolov8x-{suffix}"] for suffix in ("seg", "pose", "obb", "cls")] == [
        "segment",
        "pose",
        "obb",
        "classify",
    ]


def test_weights_of_another_task_take_nothing(tasks: Gateway, photo_bytes: dict[str, bytes]) -> None:
    """A model whose file is for another task fails by name, and the balance is whole."""
    customer = tasks.customer()
    answer = customer.detect(photo_bytes["bus.jpg"], model="yolov8n-seg", img_size=640)
    assert (answer.status_code, answer.json()["code"]) == (500, "inference_failed")
    job_id = customer.get("/jobs").json()["jobs"][0]["id"]
    assert customer.get(f"/jobs/{job_id}/results").json()["results"][0]["error"] == "weights_refused"
    balance = customer.get("/balance").json()
    assert (balance["tokens"], balance["held_tokens"]) == (20.0, 0.0)


def _components() -> dict[str, object]:
    return {"schemas": CocoOut.model_json_schema(ref_template=REF)["$defs"]}
