"""H × W that is priced is H × W that is computed, captured at the model's door."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from fractions import Fraction
from types import MappingProxyType

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from ultralytics.data.augment import LetterBox

from core.geometry import IMG_SIZES_PX, STRIDE_PX, network_input
from core.inference.backends.head import FlatNetwork, load_flat
from core.inference.backends.network import NetworkFacts
from core.inference.backends.torch_network import TorchNetwork
from core.inference.pipeline import DetectParams, letterbox
from core.inference.registry import ModelVersion
from core.inference.replicas import Replica
from core.pricing.book import Prices, current_prices
from core.services.application import Application

SEED = 20_261
# Height and width of the shapes most likely to go wrong: one pixel, one cell, just over it, slivers.
WORST = [
    (1, 1), (1, 2), (2, 1), (31, 31), (32, 32), (32, 33), (33, 32), (33, 33), (1, 33), (33, 1), (1, 5000), (5000, 1),
    (2, 4999), (4999, 2), (639, 640), (640, 639), (641, 640), (640, 641), (1280, 1279), (4000, 31), (31, 4000),
    (1000, 999), (608, 640), (609, 640), (577, 640), (576, 640), (1, 640), (640, 1), (3, 65), (65, 3), (720, 1280),
]  # fmt: skip


class Door:
    """Stands where the network stands, and notes the shape of every tensor that it is handed."""

    facts = NetworkFacts({}, "detect", end2end=False)
    names: Mapping[int, str] = MappingProxyType({})
    backend, precision, streams = "none", "fp32", 1

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """No candidates: `(1, 4 + classes, 0)`."""
        self.shapes.append(batch.shape)
        return [np.zeros((len(batch), 6, 0), np.float32)]

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def prices(app: Application) -> Prices:
    """The prices as the database holds them."""
    with app.db.read() as session:
        return current_prices(session)


def random_sizes(count: int) -> list[tuple[int, int, int]]:
    """Height, width and img_size; sides log-uniform, so that slivers and thumbnails are frequent."""
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when the test fails
    draw = random.Random(SEED)
    return [
        (
            round(math.exp(draw.uniform(0, math.log(2600)))),
            round(math.exp(draw.uniform(0, math.log(2600)))),
            draw.choice(IMG_SIZES_PX),
        )
        for _ in range(count)
    ]


def price_by_hand_mt(height: int, width: int, beta: Fraction) -> int:
    """The published formula in exact fractions, independent of the code under test."""
    exact_mt = 1000 * beta * Fraction(height * width, 640 * 640)
    return max(10, math.floor(exact_mt + Fraction(1, 2)))


def test_priced_equals_computed(prices: Prices, version: ModelVersion) -> None:
    """For thousands of sizes the input priced is the shape of the tensor at the model's door, and so is the price."""
    door = Door()
    replica = Replica(version, door)
    sizes = random_sizes(3000) + [(h, w, s) for h, w in WORST for s in IMG_SIZES_PX]
    canvas = np.zeros(5000 * 5000 * 3, np.uint8)
    models = sorted(prices.betas)
    for index, (height, width, img_size) in enumerate(sizes):
        model = models[index % len(models)]
        plan, amount_mt = prices.price_image(height, width, img_size, model)
        shape = plan.whole
        pixels = canvas[: height * width * 3].reshape(height, width, 3)
        _, reported = replica.run(pixels, DetectParams(img_size=img_size))
        batch, channels, tensor_height, tensor_width = door.shapes[-1]
        size = (height, width, img_size)
        assert (batch, channels) == (1, 3)
        assert (shape.height, shape.width) == (tensor_height, tensor_width) == reported, size
        assert amount_mt == price_by_hand_mt(tensor_height, tensor_width, Fraction(prices.betas[model])), size
    assert len(door.shapes) == len(sizes)


@pytest.fixture(scope="module")
def flat(version: ModelVersion) -> FlatNetwork:
    """The embedded network in torch."""
    return load_flat(version.path, version.sha256, torch.device("cpu"), form="torchscript")[0]


@pytest.mark.parametrize(
    ("height", "width", "img_size"),
    [
        (1080, 810, 640), (720, 1280, 640), (640, 640, 640), (1080, 1920, 640), (1, 1, 640), (33, 32, 320),
        (1, 1000, 640), (1000, 1, 640), (100, 2000, 960), (517, 389, 416), (32, 32, 1280), (961, 960, 960),
    ],
)  # fmt: skip
def test_priced_equals_computed_by_the_real_network(
    prices: Prices, version: ModelVersion, flat: FlatNetwork, height: int, width: int, img_size: int
) -> None:
    """The same with a real forward of the embedded network, its input seen by a hook on the network itself."""
    seen: list[tuple[int, ...]] = []
    facts = NetworkFacts({0: "Normal", 1: "Fall"}, "detect", end2end=False)
    network = TorchNetwork(flat, facts, device=torch.device("cpu"), half=False, cores=2)
    replica = Replica(version, network)
    hook = flat.network.register_forward_pre_hook(lambda _module, args: seen.append(tuple(args[0].shape)))
    try:
        noise = np.random.default_rng(SEED).integers(0, 256, (height, width, 3), dtype=np.uint8)
        detections, reported = replica.run(noise, DetectParams(img_size=img_size))
    finally:
        hook.remove()
    plan, _ = prices.price_image(height, width, img_size, "yolov8s-fall")
    shape = plan.whole
    assert seen == [(1, 3, shape.height, shape.width)]
    assert reported == (shape.height, shape.width)
    assert (detections.xyxy >= 0).all()
    assert (detections.xyxy <= [width, height, width, height]).all()


def test_geometry_is_that_of_ultralytics() -> None:
    """Shape, scaling and padding equal Ultralytics' rectangular LetterBox, pixel by pixel, above one stride cell."""
    compared = 0
    random_pixels = np.random.default_rng(SEED)
    for height, width, img_size in random_sizes(700):
        if max(height, width) <= STRIDE_PX or max(1, min(height, width)) * img_size / max(height, width) < 0.51:
            continue  # smaller than a cell, or so thin that LetterBox itself rounds the short side to nothing
        image = random_pixels.integers(0, 256, (height, width, 3), dtype=np.uint8)
        theirs = LetterBox((img_size, img_size), auto=True, stride=STRIDE_PX)(image=image)
        ours, shape = letterbox(image, img_size)
        assert theirs.shape[:2] == (shape.height, shape.width), (height, width, img_size)
        assert np.array_equal(ours, theirs), (height, width, img_size)
        compared += 1
    assert compared > 500


@pytest.mark.parametrize("img_size", IMG_SIZES_PX)
def test_worst_aspect_ratios(img_size: int) -> None:
    """Every input is made of whole cells, holds the resized image, has no more than one cell of padding a side."""
    for height, width in WORST:
        shape = network_input(height, width, img_size)
        assert shape.height % STRIDE_PX == shape.width % STRIDE_PX == 0
        assert STRIDE_PX <= shape.height <= img_size
        assert STRIDE_PX <= shape.width <= img_size
        assert 0 <= shape.height - shape.resized_height < STRIDE_PX
        assert 0 <= shape.width - shape.resized_width < STRIDE_PX
        assert 0 <= shape.pad_top <= shape.height - shape.resized_height
        assert 0 <= shape.pad_left <= shape.width - shape.resized_width
        if max(height, width) > STRIDE_PX:
            assert max(shape.resized_height, shape.resized_width) == img_size


def test_turned_image_costs_the_same() -> None:
    """Height and width are treated alike."""
    for height, width, img_size in random_sizes(2000):
        shape, turned = network_input(height, width, img_size), network_input(width, height, img_size)
        assert (shape.height, shape.width) == (turned.width, turned.height)


@pytest.mark.parametrize(
    ("height", "width", "img_size"), [(0, 5, 640), (5, 0, 640), (-1, 5, 640), (5, 5, 0), (5, 5, 650), (5, 5, 31)]
)
def test_no_pixels_or_no_size_is_an_error(height: int, width: int, img_size: int) -> None:
    """A side below one pixel and a size off the stride are refused."""
    with pytest.raises(ValueError, match=r"pixels|multiple"):
        network_input(height, width, img_size)


def test_letterbox_keeps_the_picture_in_its_place() -> None:
    """The picture lies where the geometry says, with grey around it."""
    white = np.full((300, 500, 3), 255, np.uint8)
    padded, shape = letterbox(white, 640)
    inner = padded[
        shape.pad_top : shape.pad_top + shape.resized_height, shape.pad_left : shape.pad_left + shape.resized_width
    ]
    assert (inner == 255).all()
    assert int((padded == 114).all(axis=2).sum()) == padded.shape[0] * padded.shape[1] - inner.shape[0] * inner.shape[1]
    assert cv2.countNonZero(padded[:, :, 0]) == padded.shape[0] * padded.shape[1]
