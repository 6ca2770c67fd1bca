"""An image in tiles: what the parts find is one answer, each object once, and a part that fails is counted."""

from __future__ import annotations

import time
from concurrent.futures import Future

import cv2
import numpy as np
import pytest
import torch
import torchvision

from core.errors import InferenceError
from core.inference.detections import Detections
from core.inference.engine import Engine
from core.inference.images import DecodedImage, Pixels
from core.inference.pipeline import DetectParams
from core.inference.registry import ModelVersion
from core.inference.scheduler import Inference
from core.inference.tiled import infer_tiled, merge_parts
from core.tiles import Tile, plan_tiles

SIZE_PX = 320
CONFIDENCE = 0.4


@pytest.fixture(scope="module")
def crowd(bus: DecodedImage) -> Pixels:
    """`bus.jpg` 24 times over, 1620 × 1620 pixels: people 14 to 23 pixels wide in the network input of the whole."""
    small = cv2.resize(bus.pixels, (270, 405), interpolation=cv2.INTER_AREA)
    return np.tile(small, (4, 6, 1))


def find(engine: Engine, version: ModelVersion, pixels: Pixels, tile_px: int | None) -> Inference:
    """The answer of the engine, in tiles or without."""

    def submit(part: Pixels) -> Future[Inference]:
        return engine.submit(part, version, DetectParams(SIZE_PX))

    plan = plan_tiles(pixels.shape[0], pixels.shape[1], SIZE_PX, tile_px)
    if not plan.tiles:
        return submit(pixels).result()
    return infer_tiled(submit, pixels, plan, deadline=time.monotonic() + 120)


def test_more_is_found_and_nothing_twice(engine: Engine, version: ModelVersion, crowd: Pixels) -> None:
    """In tiles, people are found that are too small in the whole; no two boxes of a class cover the same one."""
    whole = find(engine, version, crowd, None).detections.filter(confidence_min=CONFIDENCE)
    tiled = find(engine, version, crowd, 320)
    found = tiled.detections.filter(confidence_min=CONFIDENCE)
    assert (tiled.tiles_failed, len(whole)) == (0, 0)
    # Of four people in each of 24 photographs; where no tile is sure of all of one, a part of him may stay as well.
    assert 60 <= len(found) <= 110
    overlap = torchvision.ops.box_iou(torch.from_numpy(found.xyxy), torch.from_numpy(found.xyxy)).numpy()
    same_class = found.class_id[:, None] == found.class_id[None, :]
    assert not np.triu(same_class & (overlap > 0.5), 1).any()
    assert (tiled.detections.confidence[:-1] >= tiled.detections.confidence[1:]).all()


def test_the_same_answer_every_time(engine: Engine, version: ModelVersion, crowd: Pixels) -> None:
    """Parts end in any order, and the answer does not depend on it."""
    first, second = (find(engine, version, crowd, 960).detections for _ in range(2))
    np.testing.assert_array_equal(first.xyxy, second.xyxy)
    np.testing.assert_array_equal(first.class_id, second.class_id)


def detections(*boxes: tuple[float, float, float, float, float]) -> Detections:
    """Boxes of one class with their confidence."""
    rows = np.array(boxes, np.float32).reshape(-1, 5)
    return Detections(rows[:, :4], rows[:, 4], np.zeros(len(rows), np.int64), {0: "thing"})


def test_a_fragment_gives_way_to_the_whole() -> None:
    """What the cut of one tile left of an object goes, however sure it is, where another tile has all of it."""
    left, right = Tile(0, 0, 100, 100), Tile(80, 0, 180, 100)
    found = merge_parts(
        [(detections((70, 10, 100, 60, 0.9)), left), (detections((0, 10, 50, 60, 0.6)), right)], (100, 180), edge_px=2
    )
    # The right one is cut as well: no tile has all of it, and both stay.
    np.testing.assert_array_equal(found.xyxy, [[70, 10, 100, 60], [80, 10, 130, 60]])
    whole = (detections((70, 10, 130, 60, 0.5)), Tile(0, 0, 180, 100))
    found = merge_parts(
        [whole, (detections((70, 10, 100, 60, 0.9)), left), (detections((0, 10, 50, 60, 0.6)), right)],
        (100, 180),
        edge_px=2,
    )
    np.testing.assert_array_equal(found.xyxy, [[70, 10, 130, 60]])


def test_a_guess_removes_nothing_that_is_certain() -> None:
    """A weak box of the whole picture neither covers nor outranks what a tile is sure of."""
    whole, left = Tile(0, 0, 180, 100), Tile(0, 0, 100, 100)
    guess = (detections((60, 5, 140, 70, 0.06)), whole)
    fragment = (detections((70, 10, 100, 60, 0.95)), left)
    found = merge_parts([guess, fragment], (100, 180), edge_px=2).filter(confidence_min=0.25)
    np.testing.assert_array_equal(found.xyxy, [[70, 10, 100, 60]])
    sure = (detections((10, 10, 50, 60, 0.95)), left)
    again = (detections((11, 10, 50, 60, 0.06)), whole)
    found = merge_parts([sure, again], (100, 180), edge_px=2)
    np.testing.assert_array_equal(found.xyxy, [[10, 10, 50, 60]])


def test_the_border_of_the_picture_cuts_nothing() -> None:
    """A box at the side of the picture is no fragment: the object ends there for everybody."""
    tile = Tile(0, 0, 100, 100)
    found = merge_parts([(detections((0, 0, 30, 30, 0.5), (0, 0, 60, 60, 0.4)), tile)], (100, 180), edge_px=2)
    assert len(found) == 2


class Fault:
    """An engine whose answer for some parts, by number, is a failure; so often."""

    def __init__(self, engine: Engine, version: ModelVersion, failing: dict[int, int]) -> None:
        self._engine, self._version, self._failing = engine, version, failing
        self._numbers: dict[bytes, int] = {}

    def __call__(self, part: Pixels) -> Future[Inference]:
        number = self._numbers.setdefault(part.tobytes(), len(self._numbers))
        if self._failing.get(number, 0):
            self._failing[number] -= 1
            failed: Future[Inference] = Future()
            failed.set_exception(InferenceError("a device that was lost"))
            return failed
        return self._engine.submit(part, self._version, DetectParams(SIZE_PX))


@pytest.mark.parametrize(
    ("failing", "failed"),
    [
        ({1: 1}, 0),  # once: tried again
        ({1: 2}, 1),
        ({1: 2, 3: 9}, 2),
        ({0: 1}, None),  # the whole
        (dict.fromkeys(range(1, 6), 2), None),  # more than half of nine
    ],
)
def test_tiles_that_fail(
    engine: Engine, version: ModelVersion, crowd: Pixels, failing: dict[int, int], failed: int | None
) -> None:
    """A tile is tried twice and then counted; without the whole or most of the tiles there is no answer."""
    plan = plan_tiles(1620, 1620, SIZE_PX, 640)
    assert len(plan.tiles) == 9
    submit = Fault(engine, version, failing)
    if failed is None:
        with pytest.raises(InferenceError):
            infer_tiled(submit, crowd, plan, deadline=time.monotonic() + 120)
    else:
        assert infer_tiled(submit, crowd, plan, deadline=time.monotonic() + 120).tiles_failed == failed


def test_no_more_time(engine: Engine, version: ModelVersion, crowd: Pixels) -> None:
    """Past the deadline the image fails as a whole: the next attempt may have more time."""
    plan = plan_tiles(1620, 1620, SIZE_PX, 640)
    with pytest.raises(InferenceError, match="too long"):
        infer_tiled(Fault(engine, version, {}), crowd, plan, deadline=time.monotonic())
