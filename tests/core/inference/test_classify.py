"""Classes of whole pictures: the answers of plain `YOLO.predict`, stored, drawn, and in no format of boxes."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from ultralytics.data.augment import classify_transforms
from ultralytics.models import YOLO

from core.errors import FormatNotApplicableError
from core.geometry import network_input, square_input
from core.inference.backends.choose import open_backend
from core.inference.backends.network import NetworkFacts
from core.inference.compare import match_detections
from core.inference.decode import CLASSES_TOLD, decode
from core.inference.detections import Detections
from core.inference.draw import draw_detections
from core.inference.exports import Labelled, to_coco, to_csv, to_yolo
from core.inference.images import DecodedImage
from core.inference.pipeline import DetectParams, crop_square
from core.inference.registry import Model, ModelVersion
from core.inference.replicas import Replica
from core.inference.trial import try_weights
from core.inference.weights import hash_file
from core.pricing.book import read_book
from core.tiles import plan_tiles
from tests.task_weights import COLOURS, paint

CPU = torch.device("cpu")
SIZE_PX = 320


@pytest.fixture(scope="module")
def answers(class_weights: Path, tmp_path_factory: pytest.TempPathFactory, bus: DecodedImage) -> dict[str, Detections]:
    """What each back end says of a photograph."""
    model = Model("yolov8n-cls", "", "yolov8n-cls.pt", None, False, "", "classify")
    version = ModelVersion(model, class_weights, hash_file(class_weights))
    found = {}
    for name in ("torch", "openvino", "onnxruntime"):
        network = open_backend(name, version, device=CPU, cache_dir=tmp_path_factory.mktemp(name), cores=2)
        found[name], shape = Replica(version, network).run(bus.pixels, DetectParams(SIZE_PX))
        assert shape == (SIZE_PX, SIZE_PX)
        network.close()
    return found


def test_same_as_plain_predict(answers: dict[str, Detections], class_weights: Path, bus: DecodedImage) -> None:
    """In every back end the five most probable classes of a photograph, and how probable, are those of `predict`."""
    expected = YOLO(str(class_weights)).predict(bus.pixels, imgsz=SIZE_PX, verbose=False, device="cpu")[0].probs
    for found in answers.values():
        assert found.class_id.tolist() == expected.top5
        np.testing.assert_allclose(found.confidence, expected.top5conf.numpy(), atol=0.002)


def test_it_was_trained(class_weights: Path) -> None:
    """The few steps were enough: each painted picture gets the name of its colour."""
    sha256 = hash_file(class_weights)
    assert try_weights(class_weights, sha256).task == "classify"
    model = Model("yolov8n-cls", "", "yolov8n-cls.pt", None, False, "", "classify")
    version = ModelVersion(model, class_weights, sha256)
    network = open_backend("torch", version, device=CPU, cache_dir=class_weights.parent, cores=2)
    rng = np.random.default_rng(8)
    for name in COLOURS:
        found, _ = Replica(version, network).run(paint(name, 64, 80, rng), DetectParams(64))
        assert (len(found), found.class_names()[0]) == (CLASSES_TOLD, name)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 9))
def test_the_square_is_that_of_ultralytics(height: int, width: int, seed: int) -> None:
    """Of any picture, resizing and cropping in one step gives what doing one after the other gives, within rounding."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    square, shape = crop_square(pixels, 64)
    steps = torchvision.transforms.Compose(classify_transforms(64).transforms[:2])
    expected = np.asarray(steps(Image.fromarray(pixels)))
    assert shape == square_input(64)
    assert np.abs(square.astype(int) - expected).max() <= 1


def test_a_strip_takes_no_memory() -> None:
    """A picture of one row and 60,000 columns would take 7 gigabytes at its full length: it is a square like others."""
    square, _ = crop_square(np.full((1, 60_000, 3), 90, np.uint8), 640)
    assert square.shape == (640, 640, 3)
    assert (square == 90).all()


def test_the_price_is_that_of_the_square() -> None:
    """Whatever the picture, a square is computed and paid; `img_size` must fit the stride as anywhere."""
    assert plan_tiles(720, 1280, 640, None, square=True).pixels() == 640 * 640
    prices = read_book()
    line = prices.price_batch([(720, 1280)], 640, "yolov8s-cls", charged=[True], square=True).lines[0]
    assert line.amount_mt == 450
    with pytest.raises(ValueError, match="multiple of 32"):
        square_input(100)


def test_stored_filtered_and_drawn(answers: dict[str, Detections], bus: DecodedImage) -> None:
    """What is stored comes back without a box; a threshold is a filter; a drawing shows the classes."""
    found = answers["torch"]
    items = found.to_json()
    assert [set(item) for item in items] == [{"class", "name", "confidence"}] * CLASSES_TOLD
    back = Detections.from_json(items)
    assert back.whole_picture
    assert back.to_json() == items
    kept = back.filter(confidence_min=0.05)
    assert 0 < len(kept) < CLASSES_TOLD
    assert kept.to_json() == [item for item in items if item["confidence"] >= 0.05]
    drawn, fewer = draw_detections(bus.pixels, found), draw_detections(bus.pixels, kept)
    assert (fewer != bus.pixels).any(axis=2).sum() > 500
    assert (drawn != fewer).any(axis=2).sum() > 500
    matching = match_detections(found, back.take(np.array([1, 0])))
    assert matching.pairs.tolist() == [[0, 1], [1, 0]]


def test_no_format_of_boxes(answers: dict[str, Detections]) -> None:
    """COCO and YOLO labels say that they do not apply, also when a filter left nothing; CSV has no columns of boxes."""
    for found in (answers["torch"], answers["torch"].filter(confidence_min=1)):
        image = Labelled("bus.jpg", 810, 1080, found)
        with pytest.raises(FormatNotApplicableError, match="COCO has no boxes"):
            to_coco([image])
        with pytest.raises(FormatNotApplicableError, match="YOLO has no boxes"):
            to_yolo(image)
        rows = list(csv.reader(io.StringIO(to_csv([image]))))
        assert rows[0] == ["image", "class", "name", "confidence"]
        assert len(rows) == 1 + len(found)


def test_fewer_classes_than_are_told() -> None:
    """A network of two classes tells both, the more probable first."""
    facts = NetworkFacts({0: "cat", 1: "dog"}, "classify", end2end=False)
    output = np.array([0.2, 0.8], np.float32)
    found = decode([output], facts, DetectParams(320), network_input(64, 64, 320), 64, 64)
    assert found.class_names() == ["dog", "cat"]
