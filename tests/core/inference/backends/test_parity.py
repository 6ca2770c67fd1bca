"""Each back end finds what plain `YOLO.predict` and torch find, alone and under load."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from ultralytics.models import YOLO

from core.inference.backends.network import Network
from core.inference.backends.tolerance import BOX_PX_MAX, CONFIDENCE_MAX, difference
from core.inference.detections import CONFIDENCE_STORED_MIN, Detections
from core.inference.images import DecodedImage, Pixels
from core.inference.pipeline import DetectParams, letterbox, suppress, to_batch, to_original
from core.inference.registry import ModelVersion

BACKENDS = ("torch", "openvino", "onnxruntime")
SIZES_PX = (320, 640, 960)


def detect(network: Network, pixels: Pixels, img_size: int) -> Detections:
    """What a network finds in one image."""
    padded, shape = letterbox(pixels, img_size)
    rows = suppress(network.forward(to_batch([padded]))[0][0], DetectParams(img_size))
    return to_original(rows, shape, pixels.shape[0], pixels.shape[1], network.names)


def assert_all_found(wanted: Detections, found: Detections) -> None:
    """Each of `wanted` is among `found`: same class, box within 1 px, confidence within 0.005."""
    for box, confidence, class_id in zip(wanted.xyxy, wanted.confidence, wanted.class_id, strict=True):
        near = (np.abs(found.xyxy - box).max(axis=1) <= BOX_PX_MAX) & (found.class_id == class_id)
        near &= np.abs(found.confidence - confidence) <= CONFIDENCE_MAX
        assert near.any(), (box, confidence, class_id)


def assert_same(left: Detections, right: Detections) -> None:
    """The same detections, but for those so near to the least stored confidence that they fall on either side."""
    clear = CONFIDENCE_STORED_MIN + CONFIDENCE_MAX
    assert_all_found(left.filter(confidence_min=clear), right)
    assert_all_found(right.filter(confidence_min=clear), left)


@pytest.fixture(scope="module")
def pictures(bus: DecodedImage, zidane: DecodedImage) -> dict[str, Pixels]:
    """Photographs, a tall and narrow part of one, and a wide and low part of the other.

    The parts have sides that no size rounds: what rounding does to boxes is the pipeline's matter, not a back end's.
    """
    return {
        "bus": bus.pixels,
        "zidane": zidane.pixels,
        "tall": np.ascontiguousarray(bus.pixels[:, 40:256]),
        "wide": np.ascontiguousarray(zidane.pixels[60:316]),
    }


@pytest.fixture(scope="module")
def theirs(version: ModelVersion, pictures: dict[str, Pixels]) -> dict[tuple[str, int], Detections]:
    """What plain `YOLO.predict` finds in each picture at each size."""
    yolo = YOLO(str(version.path))
    found = {}
    for name, pixels in pictures.items():
        for size in SIZES_PX:
            boxes = yolo.predict(pixels, imgsz=size, conf=CONFIDENCE_STORED_MIN, verbose=False, device="cpu")[0].boxes
            found[name, size] = Detections(
                boxes.xyxy.numpy(), boxes.conf.numpy(), boxes.cls.numpy().astype(np.int64), yolo.names
            )
    return found


@pytest.mark.parametrize("size", SIZES_PX)
@pytest.mark.parametrize("backend", BACKENDS)
def test_same_as_plain_predict(
    networks: dict[str, Network],
    theirs: dict[tuple[str, int], Detections],
    pictures: dict[str, Pixels],
    backend: str,
    size: int,
) -> None:
    """Boxes within 1 px and confidences within 0.005 of `YOLO.predict`, at every aspect ratio."""
    for name, pixels in pictures.items():
        assert len(theirs[name, size]) > 0
        assert_same(detect(networks[backend], pixels, size), theirs[name, size])


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_raw_outputs_are_those_of_torch(
    networks: dict[str, Network], pictures: dict[str, Pixels], backend: str
) -> None:
    """All candidates, not only what is left of them: within the tolerances of the choice, and far inside them."""
    network = networks[backend]
    for pixels in pictures.values():
        batch = to_batch([letterbox(pixels, 640)[0]])
        reference, found = networks["torch"].forward(batch), network.forward(batch)
        assert difference(reference, found, network.facts) is None
        np.testing.assert_allclose(found[0], reference[0], atol=0.05)


def test_a_back_end_that_finds_something_else_is_noticed(networks: dict[str, Network], bus: DecodedImage) -> None:
    """A confidence off by 0.01, a box off by 2 px, NaN, and fewer candidates are each a difference."""
    network = networks["torch"]
    reference = network.forward(to_batch([letterbox(bus.pixels, 320)[0]]))
    best = int(reference[0][0, 4:].max(axis=0).argmax())
    for row, change in ((4, 0.01), (0, 2.0), (0, np.nan), (5, np.nan)):
        changed = [reference[0].copy()]
        changed[0][0, row, best] += change
        assert difference(reference, changed, network.facts) is not None
    assert difference(reference, [reference[0][:, :, 1:]], network.facts) is not None
    assert difference(reference, [reference[0] + 1e-4], network.facts) is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_eight_threads_get_what_one_gets(
    networks: dict[str, Network], pictures: dict[str, Pixels], backend: str
) -> None:
    """Calls of mixed shapes at once each give their own answer, and outputs kept stay what they were."""
    network = networks[backend]
    batches = [to_batch([letterbox(pixels, size)[0]]) for pixels in pictures.values() for size in (192, 320)]
    alone = [network.forward(batch)[0] for batch in batches]
    kept = [output.copy() for output in alone]
    order = np.random.default_rng(11).permutation(np.repeat(np.arange(len(batches)), 5))
    print("seed 11")  # noqa: T201  # pytest shows it when the test fails
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda index: network.forward(batches[index])[0], order))
    for index, answer in zip(order, answers, strict=True):
        np.testing.assert_allclose(answer, alone[index], atol=0.05)
    for output, copy in zip(alone, kept, strict=True):
        np.testing.assert_array_equal(output, copy)
    # The answers do differ from each other, so a mix-up would have shown.
    assert len({output[0, 4].max().round(4) for output in alone}) == len(batches)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_gives_what_its_images_give(
    networks: dict[str, Network], pictures: dict[str, Pixels], backend: str
) -> None:
    """Two images of one shape in one call: the same as in two."""
    images = [letterbox(np.ascontiguousarray(pictures["bus"][:, ::step]), 320)[0] for step in (1, -1)]
    together = networks[backend].forward(to_batch(images))[0]
    for image, output in zip(images, together, strict=True):
        np.testing.assert_allclose(networks[backend].forward(to_batch([image]))[0][0], output, atol=0.05)
