"""Masks, key points and oriented boxes: the answers of plain `YOLO.predict`, alone and in a batch, stored and drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from ultralytics.models import YOLO
from ultralytics.utils.metrics import batch_probiou
from ultralytics.utils.nms import TorchNMS

from core.errors import InferenceError, WeightsRefusedError
from core.geometry import network_input
from core.inference.backends.choose import open_backend
from core.inference.backends.network import Network, NetworkFacts
from core.inference.decode import decode, keep_oriented
from core.inference.detections import Detections
from core.inference.draw import draw_detections
from core.inference.engine import Engine
from core.inference.images import DecodedImage
from core.inference.masks import Mask
from core.inference.pipeline import DetectParams
from core.inference.prototypes import make_mask
from core.inference.registry import Model, ModelVersion
from core.inference.replicas import Replica
from core.inference.trial import try_weights
from core.inference.weights import hash_file
from tests.core.inference.backends.test_tasks import weights_of

CPU = torch.device("cpu")
TASKS = ("segment", "pose", "obb")
SIZE_PX = 640
# Of two back ends, and of a batch and a single image: the same kernels in another order of adding.
MASK_OFF = 0.002


def version_of(path: Path, task: str) -> ModelVersion:
    """A model of a task with the weights of a file."""
    return ModelVersion(Model(path.stem, path.stem, path.name, None, False, "", task), path, hash_file(path))


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where converted networks are kept."""
    return tmp_path_factory.mktemp("converted")


@pytest.fixture(scope="module")
def networks(task_weights: dict[str, Path], converted: Path) -> Iterator[Callable[[str, str], Network]]:
    """Opens a task's network in a back end, once."""
    opened: dict[tuple[str, str], Network] = {}

    def open_one(task: str, backend: str) -> Network:
        if (task, backend) not in opened:
            version = version_of(task_weights[task], task)
            opened[task, backend] = open_backend(backend, version, device=CPU, cache_dir=converted, cores=2)
        return opened[task, backend]

    yield open_one
    for network in opened.values():
        network.close()


def assert_same(expected: Detections, found: Detections) -> None:
    """The same objects in the same order, with the same parts."""
    np.testing.assert_allclose(found.confidence, expected.confidence, atol=0.002)
    np.testing.assert_allclose(found.xyxy, expected.xyxy, atol=0.5)
    assert found.class_id.tolist() == expected.class_id.tolist()
    if expected.masks is not None:
        assert found.masks is not None
        for left, right in zip(expected.masks, found.masks, strict=True):
            assert np.mean(left.decode() != right.decode()) <= MASK_OFF
    if expected.keypoints is not None:
        assert found.keypoints is not None
        np.testing.assert_allclose(found.keypoints[..., :2], expected.keypoints[..., :2], atol=1)
        np.testing.assert_allclose(found.keypoints[..., 2], expected.keypoints[..., 2], atol=0.01)
    if expected.corners is not None:
        assert found.corners is not None
        np.testing.assert_allclose(found.corners, expected.corners, atol=1)


def predict(path: Path, image: DecodedImage, **options: Any) -> Any:
    """What Ultralytics itself answers."""
    return YOLO(str(path)).predict(
        image.pixels, imgsz=SIZE_PX, conf=0.05, retina_masks=True, verbose=False, device="cpu", **options
    )[0]


def as_detections(result: Any, height: int, width: int) -> Detections:
    """Ultralytics' answer in our form."""
    boxes = result.boxes if result.obb is None else result.obb
    masks = None
    if result.masks is not None:
        masks = tuple(
            Mask(height, width, coco_mask.encode(np.asfortranarray(one.astype(np.uint8)))["counts"].decode(), ())
            for one in result.masks.data.numpy()
        )
    return Detections(
        boxes.xyxy.numpy().clip(0, (width, height) * 2),
        boxes.conf.numpy(),
        boxes.cls.int().numpy(),
        result.names,
        masks=masks,
        keypoints=None if result.keypoints is None else result.keypoints.data.numpy(),
        corners=None if result.obb is None else result.obb.xyxyxyxy.numpy(),
    )


@pytest.mark.parametrize("name", ["bus", "zidane"])
@pytest.mark.parametrize("task", TASKS)
def test_same_as_plain_predict(
    networks: Callable[[str, str], Network],
    task_weights: dict[str, Path],
    request: pytest.FixtureRequest,
    task: str,
    name: str,
) -> None:
    """In torch and in OpenVINO, every object of a photograph with its mask, points or corners is that of `predict`."""
    image: DecodedImage = request.getfixturevalue(name)
    expected = as_detections(predict(task_weights[task], image), image.height, image.width)
    assert len(expected) >= 2
    for backend in ("torch", "openvino"):
        replica = Replica(version_of(task_weights[task], task), networks(task, backend))
        found, _ = replica.run(image.pixels, DetectParams(SIZE_PX))
        assert (found.masks is None, found.keypoints is None, found.corners is None) == (
            task != "segment",
            task != "pose",
            task != "obb",
        )
        assert_same(expected, found)


def test_a_head_that_ranks_by_itself(tmp_path: Path, bus: DecodedImage) -> None:
    """Rows that need no suppression are taken as they are: the answer is that of `predict(nms=False)`."""
    path = weights_of("yolo26n-obb", tmp_path, end2end=True)
    yolo = YOLO(str(path))
    for branch in yolo.model.model[-1].one2one_cv3:
        torch.nn.init.constant_(branch[-1].bias, -2)
    yolo.model.end2end = True
    yolo.save(str(path))
    network = open_backend("torch", version_of(path, "obb"), device=CPU, cache_dir=tmp_path, cores=2)
    assert network.facts.end2end
    found, _ = Replica(version_of(path, "obb"), network).run(bus.pixels, DetectParams(SIZE_PX))
    expected = as_detections(predict(path, bus, nms=False), bus.height, bus.width)
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(found.confidence, expected.confidence, atol=1e-4)
    # Beyond the first ones are ties, whose order is anybody's.
    assert found.corners is not None
    assert expected.corners is not None
    np.testing.assert_allclose(found.corners[:3], expected.corners[:3], atol=0.1)


@pytest.mark.parametrize("task", TASKS)
def test_same_alone_and_in_a_batch(
    networks: Callable[[str, str], Network], task_weights: dict[str, Path], bus: DecodedImage, task: str
) -> None:
    """Of a batch each image gets its own part of all outputs, from `Replica.run` to the engine's micro-batches."""
    version = version_of(task_weights[task], task)
    network = networks(task, "torch")
    images = [bus.pixels, np.ascontiguousarray(bus.pixels[:, ::-1]), np.ascontiguousarray(bus.pixels[::-1])]
    alone = [Replica(version, network).run(pixels, DetectParams(320))[0] for pixels in images]
    engine = Engine(lambda _: network, device=CPU, batch_size_max=3, batch_wait_ms_max=2_000)
    # One stream and a wait: the three share a batch.
    engine._streams_count = 1
    engine.start()
    try:
        futures = [engine.submit(pixels, version, DetectParams(320)) for pixels in images]
        answers = [future.result(60) for future in futures]
    finally:
        engine._replicas._held.clear()  # the network goes on being used by other tests
        engine.stop()
    assert [answer.batch_size for answer in answers] == [3, 3, 3]
    for expected, answer in zip(alone, answers, strict=True):
        assert_same(expected, answer.detections)
    assert len({tuple(one.confidence[:2].tolist()) for one in alone}) == 3


@pytest.mark.parametrize("task", TASKS)
def test_stored_filtered_and_drawn(
    networks: Callable[[str, str], Network], task_weights: dict[str, Path], bus: DecodedImage, task: str
) -> None:
    """What is stored comes back; a filter keeps each object's own parts; a drawing shows them."""
    found, _ = Replica(version_of(task_weights[task], task), networks(task, "torch")).run(
        bus.pixels, DetectParams(SIZE_PX)
    )
    items = found.to_json()
    back = Detections.from_json(items)
    assert back.to_json() == items
    kept = found.filter(confidence_min=0.52)
    assert 0 < len(kept) < len(found)
    assert kept.to_json() == [item for item in items if item["confidence"] >= 0.52]
    assert Detections.from_json([]).to_json() == found.filter(confidence_min=2).to_json() == []
    boxes_only = Detections(found.xyxy, found.confidence, found.class_id, found.names)
    plain, drawn = draw_detections(bus.pixels, boxes_only), draw_detections(bus.pixels, found)
    assert (drawn != plain).any(axis=2).sum() > 500
    assert not (draw_detections(bus.pixels, kept) == drawn).all()


def test_run_lengths_are_those_of_coco() -> None:
    """A mask at any place of a picture, holes and edges included, has the code that pycocotools gives for the whole."""
    rng = np.random.default_rng(11)
    print("seed 11")  # noqa: T201  # pytest shows it when the test fails
    for top, left, height, width, share in [
        (0, 0, 30, 40, 0.5),
        (0, 0, 30, 40, 0.99),
        (0, 3, 30, 7, 1.1),
        (5, 0, 25, 40, 1.1),
        (29, 39, 1, 1, 1.1),
        (4, 6, 9, 11, 0.7),
    ]:
        crop = (rng.random((height, width)) < share).astype(np.uint8)
        whole = np.zeros((30, 40), np.uint8)
        whole[top : top + height, left : left + width] = crop
        mask = Mask.from_crop(crop, left, top, 30, 40, off_px=0.5)
        assert mask.counts.encode() == coco_mask.encode(np.asfortranarray(whole))["counts"]
        assert mask.area_px == whole.sum()
        assert (mask.decode() == whole).all()
        assert all(len(polygon) >= 3 for polygon in mask.polygons)
        assert mask.polygons


def test_polygons_show_the_mask() -> None:
    """The outline of a disc covers what the disc covers."""
    rows, columns = np.mgrid[0:200, 0:200]
    disc = ((rows - 100) ** 2 + (columns - 100) ** 2 < 80**2).astype(np.uint8)
    mask = Mask.from_crop(disc, 50, 30, 300, 400, off_px=1)
    (polygon,) = mask.polygons
    code = coco_mask.merge(coco_mask.frPyObjects([polygon.reshape(-1).astype(float).tolist()], 300, 400))
    drawn = coco_mask.decode(code)
    assert np.sum(drawn & mask.decode()) / np.sum(drawn | mask.decode()) > 0.95


def test_a_mask_takes_the_memory_of_its_box(bus: DecodedImage) -> None:
    """On 40 megapixels three hundred masks take less than two planes of the picture, and little time."""
    import tracemalloc

    height, width = 5_000, 8_000
    shape = network_input(height, width, 640)
    rng = np.random.default_rng(3)
    prototypes = rng.standard_normal((32, shape.height // 4, shape.width // 4)).astype(np.float32)
    coefficients = rng.standard_normal((300, 32)).astype(np.float32)
    corners = rng.random((300, 2)) * (7_000, 4_000)
    tracemalloc.start()
    masks = [
        make_mask(row, prototypes, np.array([x, y, x + 600, y + 900], np.float32), shape, height, width)
        for row, (x, y) in zip(coefficients, corners, strict=True)
    ]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert all(mask is not None for mask in masks)
    assert peak < 2 * height * width


def test_oriented_suppression_is_ultralytics_own() -> None:
    """In parts and ended early it keeps what `TorchNMS.fast_nms` keeps of all at once."""
    generator = torch.Generator().manual_seed(8)
    count = 2_500
    boxes = torch.rand((count, 4), generator=generator) * torch.tensor([300.0, 300.0, 60.0, 60.0]) + 5
    confidence, angle = torch.rand(count, generator=generator), torch.rand(count, generator=generator) * 3
    class_id = torch.randint(0, 3, (count,), generator=generator)
    oriented = torch.cat((boxes[:, :2] + class_id[:, None] * 7680, boxes[:, 2:], angle[:, None]), dim=1)
    expected = TorchNMS.fast_nms(oriented, confidence, 0.7, iou_func=batch_probiou)
    assert 300 < len(expected) < count
    whole = keep_oriented(boxes, confidence, class_id, angle, DetectParams(640, detections_max=count))
    assert whole.tolist() == expected.tolist()
    first = keep_oriented(boxes, confidence, class_id, angle, DetectParams(640))
    assert first[:300].tolist() == expected[:300].tolist()


def test_weights_of_another_task_are_refused(
    task_weights: dict[str, Path], version: ModelVersion, tmp_path: Path
) -> None:
    """A network for masks under the name of a model for boxes does not run, and the other way round; both are named."""
    for path, task in ((task_weights["segment"], "detect"), (version.path, "pose")):
        wrong = version_of(path, task)
        with pytest.raises(WeightsRefusedError, match=f"the model is one for {task}"):
            open_backend("torch", wrong, device=CPU, cache_dir=tmp_path, cores=2)
    with pytest.raises(WeightsRefusedError, match="for the task segment"):
        try_weights(task_weights["segment"], hash_file(task_weights["segment"]), "detect")


def test_a_task_that_is_not_served_is_refused() -> None:
    """Of a task that is not known here a sentence says so, and nothing is guessed."""
    facts = NetworkFacts({0: "cat"}, "depth", end2end=False)
    with pytest.raises(InferenceError, match="for depth is not served"):
        decode([np.zeros(1, np.float32)], facts, DetectParams(320), network_input(64, 64, 320), 64, 64)
