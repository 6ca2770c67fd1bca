"""No wrong answer, ever: whatever else the engine does at the moment, an image gets what it gets alone.

The same questions go to a shared `YOLO.predict`, which must fail them: else they would prove nothing.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from ultralytics.models import YOLO

from core.errors import EngineBusyError
from core.inference.backends.choose import open_networks
from core.inference.detections import Detections
from core.inference.engine import Engine
from core.inference.images import DecodedImage, Pixels
from core.inference.pipeline import DetectParams
from core.inference.registry import Model, ModelVersion
from core.inference.scheduler import Priority
from tests.detections import is_same
from tests.other_weights import make_other_weights

SEED = 20_261_126
THREADS = 8
SIZES = (96, 160, 224)
CONFIDENCES = (0.05, 0.25, 0.5, 0.7)
Question = tuple[Pixels, ModelVersion, int, float]


@pytest.fixture(scope="module")
def versions(version: ModelVersion, tmp_path_factory: pytest.TempPathFactory) -> list[ModelVersion]:
    """The embedded model, and another version of it: trained on, as it were, so that it sees a little differently."""
    path = tmp_path_factory.mktemp("second") / "other.pt"
    make_other_weights(version.path, path, seed=SEED)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return [version, ModelVersion(Model("other", "Other", path.name, digest, False, ""), path, digest)]


@pytest.fixture(scope="module")
def busy(versions: list[ModelVersion], weights_dir: Path) -> Iterator[Engine]:
    """An engine with both models, which makes batches as one on a GPU does."""
    device = torch.device("cpu")
    load = open_networks(device, cache_dir=weights_dir / "converted")
    engine = Engine(load, device=device, queue_max=64, batch_size_max=4, batch_wait_ms_max=2.0)
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def questions(versions: list[ModelVersion], bus: DecodedImage, zidane: DecodedImage) -> list[Question]:
    """Photographs in four shapes and a picture of noise, by every model, size and confidence."""
    noise = np.random.default_rng(SEED).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    images = [bus.pixels, zidane.pixels, bus.pixels[300:700, 100:700], zidane.pixels[:, 300:700], noise]
    return list(itertools.product(images, versions, SIZES, CONFIDENCES))


def ask(engine: Engine, question: Question, customer: str = "", priority: Priority = Priority.NORMAL) -> Detections:
    """One answer; asks again while the queue is full."""
    pixels, version, size, confidence = question
    while True:
        try:
            params = DetectParams(size, confidence_min=confidence)
            future = engine.submit(pixels, version, params, customer=customer, priority=priority)
            return future.result(120).detections
        except EngineBusyError:
            continue


def count_wrong(
    questions: list[Question], alone: list[Detections], count: int, answer: Callable[[int, Question], Detections]
) -> int:
    """How many of so many questions, asked by eight threads in random order, are answered differently than alone."""
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when the test fails
    draw = random.Random(SEED)
    order = [draw.randrange(len(questions)) for _ in range(count)]

    def client(number: int) -> int:
        wrong = 0
        for index in order[number::THREADS]:
            found = answer(number, questions[index])
            wrong += not is_same(alone[index], found, questions[index][3])
        return wrong

    with ThreadPoolExecutor(THREADS) as pool:
        return sum(pool.map(client, range(THREADS)))


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_every_answer_is_the_one_alone(busy: Engine, questions: list[Question], count: int) -> None:
    """Mixed confidences, sizes, models, shapes and lanes from eight threads: not one answer is another than alone."""
    alone = [ask(busy, question) for question in questions]
    # Most questions have an answer of their own, so that of another one would show.
    assert len({tuple(found.confidence.round(3).tolist()) for found in alone}) > len(questions) // 3

    def answer(number: int, question: Question) -> Detections:
        return ask(busy, question, f"c{number % 3}", Priority.VIP if number == 0 else Priority.NORMAL)

    assert count_wrong(questions, alone, count, answer) == 0


def test_a_shared_predict_gives_wrong_answers(versions: list[ModelVersion], questions: list[Question]) -> None:
    """The negative control: eight threads on one `YOLO` get answers to each other's questions."""
    mine = [question for question in questions if question[1] is versions[0]]
    shared = YOLO(str(versions[0].path))

    def predict(_number: int, question: Question) -> Detections:
        pixels, _version, size, confidence = question
        boxes = shared.predict(pixels, imgsz=size, conf=confidence, verbose=False, device="cpu")[0].boxes
        return Detections(boxes.xyxy.numpy(), boxes.conf.numpy(), boxes.cls.int().numpy(), shared.names)

    alone = [predict(0, question) for question in mine]
    assert count_wrong(mine, alone, 100, predict) > 0


def test_one_image_waits_for_two_batches(busy: Engine, versions: list[ModelVersion], bus: DecodedImage) -> None:
    """A customer queues forty images, then another one: until its answer is there, at most four batches of them run.

    Two batches on each of the streams that may be at work at the moment. Counted where the answer is given, as whoever
    waits for it may sleep on.
    """
    params = DetectParams(224)
    many = [busy.submit(bus.pixels, versions[0], params, customer="a") for _ in range(40)]
    counted: list[int] = []
    one = busy.submit(bus.pixels, versions[0], params, customer="b")
    before = sum(future.done() for future in many)
    one.add_done_callback(lambda _one: counted.append(sum(future.done() for future in many)))
    for future in [one, *many]:
        future.result(120)
    assert before < 24, "too few were left to wait behind"
    assert counted[0] - before <= 4 * 4, f"{counted[0] - before} of 40 were served while it waited"


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_memory_stays_flat(busy: Engine, versions: list[ModelVersion], bus: DecodedImage, count: int) -> None:
    """Images of ever changing sizes: the memory of the second half is within 5 % of that of the first."""
    draw = random.Random(SEED)
    process = psutil.Process()

    def run(images: int) -> list[int]:
        seen = []
        for number in range(images):
            height, width = draw.randint(40, 1000), draw.randint(40, 800)
            ask(busy, (bus.pixels[:height, :width], versions[number % 2], draw.choice(SIZES), 0.25))
            seen.append(process.memory_info().rss)
        return seen

    run(max(100, count // 10))
    seen = run(count)
    first, second = (float(np.median(half)) for half in (seen[: count // 2], seen[count // 2 :]))
    assert second <= first * 1.05, f"{first / 1e6:.0f} MB, then {second / 1e6:.0f} MB"
