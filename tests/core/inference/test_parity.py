"""The pipeline gives the answers of plain `YOLO.predict`, alone, under load, and after other requests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from ultralytics.models import YOLO
from ultralytics.utils import ASSETS

from core.geometry import IMG_SIZES_PX
from core.inference.detections import CONFIDENCE_STORED_MIN, Detections
from core.inference.engine import Engine
from core.inference.images import DecodedImage, Pixels
from core.inference.pipeline import DetectParams
from core.inference.registry import ModelVersion
from core.inference.scheduler import Inference


def run(engine: Engine, version: ModelVersion, pixels: Pixels, img_size: int) -> Inference:
    """One image through the engine."""
    return engine.submit(pixels, version, DetectParams(img_size=img_size)).result(timeout=120)


def assert_same(left: Detections, right: Detections) -> None:
    """The same boxes in the same order."""
    assert left.class_names() == right.class_names()
    np.testing.assert_allclose(left.confidence, right.confidence, atol=1e-4)
    np.testing.assert_allclose(left.xyxy, right.xyxy, atol=0.1)


@pytest.mark.parametrize(("name", "people"), [("bus.jpg", 4), ("zidane.jpg", 2)])
def test_same_as_plain_predict(
    engine: Engine, version: ModelVersion, bus: DecodedImage, zidane: DecodedImage, name: str, people: int
) -> None:
    """At confidence 0.5: as many people as there are, each box within 3 px of `YOLO(best.pt).predict`."""
    image = {"bus.jpg": bus, "zidane.jpg": zidane}[name]
    ours = run(engine, version, image.pixels, 640).detections.filter(confidence_min=0.5)
    theirs = YOLO(str(version.path)).predict(Path(ASSETS) / name, conf=0.5, verbose=False, device="cpu")[0].boxes
    assert len(ours) == len(theirs) == people
    np.testing.assert_allclose(ours.xyxy, theirs.xyxy.numpy(), atol=3)
    np.testing.assert_allclose(ours.confidence, theirs.conf.numpy(), atol=0.02)
    assert ours.class_id.tolist() == theirs.cls.int().tolist()


def test_stored_minimum_is_kept(engine: Engine, version: ModelVersion, bus: DecodedImage) -> None:
    """Detections go down to 0.05, most confident first, so that a later threshold is a filter."""
    found = run(engine, version, bus.pixels, 640).detections
    assert len(found) > 4
    assert found.confidence.min() > CONFIDENCE_STORED_MIN
    assert (np.diff(found.confidence) <= 0).all()
    assert len(found.filter(confidence_min=0.5)) == 4


def test_same_answer_alone_under_load_and_after_others(
    engine: Engine, version: ModelVersion, bus: DecodedImage, zidane: DecodedImage
) -> None:
    """Eight concurrent clients with different sizes each get what they get alone, and so does who comes later."""
    requests = [(image, size) for size in IMG_SIZES_PX for image in (bus, zidane)]
    alone = [run(engine, version, image.pixels, size) for image, size in requests]
    order = np.random.default_rng(7).permutation(np.repeat(np.arange(len(requests)), 2))
    print("seed 7")  # noqa: T201  # pytest shows it when the test fails

    def client(index: int) -> Inference:
        image, size = requests[index]
        return run(engine, version, image.pixels, size)

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(client, order))
    for index, answer in zip(order, answers, strict=True):
        assert answer.input_shape == alone[index].input_shape
        assert_same(answer.detections, alone[index].detections)
    # The sizes do give different answers, so a mix-up between clients would have shown.
    assert len({tuple(answer.detections.confidence[:3].tolist()) for answer in alone}) == len(requests)
    assert_same(run(engine, version, bus.pixels, 640).detections, alone[2 * IMG_SIZES_PX.index(640)].detections)


def test_noise_does_not_blank_the_next(engine: Engine, version: ModelVersion, bus: DecodedImage) -> None:
    """A picture of pure noise beside a photograph changes nothing in the photograph's answer."""
    noise = np.random.default_rng(3).integers(0, 256, (1280, 1280, 3), dtype=np.uint8)
    alone = run(engine, version, bus.pixels, 640).detections
    futures = [engine.submit(pixels, version, DetectParams(640)) for pixels in (noise, bus.pixels, noise, bus.pixels)]
    assert_same(futures[1].result(60).detections, alone)
    assert_same(futures[3].result(60).detections, alone)


def test_stored_form_is_lossless_enough(engine: Engine, version: ModelVersion, bus: DecodedImage) -> None:
    """Detections written to JSON and read back are the same to a tenth of a pixel."""
    found = run(engine, version, bus.pixels, 640).detections
    back = Detections.from_json(found.to_json())
    assert_same(found, back)
    empty = found.filter(confidence_min=2)
    assert Detections.from_json(empty.to_json()).xyxy.shape == (0, 4)


def test_class_filter(engine: Engine, version: ModelVersion, bus: DecodedImage) -> None:
    """A filter by class keeps that class only, and all classes together are everything."""
    found = run(engine, version, bus.pixels, 640).detections
    parts = {name: found.filter(confidence_min=0, classes=[name]) for name in found.names.values()}
    assert all(set(part.class_names()) <= {name} for name, part in parts.items())
    assert sum(len(part) for part in parts.values()) == len(found)
    assert len(found.filter(confidence_min=0, classes=[])) == 0
