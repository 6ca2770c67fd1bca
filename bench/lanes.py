"""Who waits how long: a VIP under full load, one picture beside a thousand, a swap of versions, a repeat.

    vip      p95 of a VIP who sends now and then, on an idle engine and while eight customers keep the queue full
    turn     one picture of a customer behind a queue that another has filled: who ends before it
    swap     p99 of four customers before, and while other weights are loaded, warmed and switched to
    repeat   a stored result of 300 detections read back and filtered: what a cache hit and a slider move come to

On a real engine with the embedded model; each figure beside its baseline in the same run.

    python bench/lanes.py [--requests 60]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("YOLO_OFFLINE", "true")

import cv2
import numpy as np
import torch

from core.errors import EngineBusyError
from core.inference.backends.choose import open_networks
from core.inference.detections import Detections
from core.inference.embedded import place_embedded_model
from core.inference.engine import Engine
from core.inference.images import Pixels
from core.inference.pipeline import DetectParams
from core.inference.registry import ModelVersion, Registry
from core.inference.scheduler import Priority
from core.inference.weights import hash_file
from tests.other_weights import make_other_weights

SEED = 20261127
SIZE_PX = 640
CUSTOMERS = 8
VIP_PAUSE_S = 0.3
QUEUE = 64
DETECTIONS = 300
VIP_GOAL, SWAP_GOAL, HIT_GOAL_MS, SLIDER_GOAL_MS = 2.0, 2.0, 3.0, 5.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=60, help="of the VIP, idle and under load")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), args.requests)


def measure(folder: Path, requests: int) -> None:
    """All of it."""
    from ultralytics.utils import ASSETS

    print(f"load {os.getloadavg()[0]:.1f} at the start, seed {SEED}")
    registry = Registry(folder / "weights")
    assert place_embedded_model(registry) is not None, "the embedded model is not installed"
    version = registry.resolve("yolov8s-fall")
    photo = cv2.imread(str(ASSETS / "bus.jpg"))
    assert photo is not None
    device = torch.device("cpu")
    engine = Engine(open_networks(device, cache_dir=folder / "converted"), device=device, queue_max=QUEUE)
    engine.start()
    engine.warm(version)
    try:
        show_vip(engine, version, photo, requests)
        show_turn(engine, version, photo)
        show_swap(engine, version, photo, folder)
    finally:
        engine.stop()
    show_repeat()
    print(f"load {os.getloadavg()[0]:.1f} at the end")


def ask(
    engine: Engine, version: ModelVersion, pixels: Pixels, customer: str, priority: Priority = Priority.NORMAL
) -> float:
    """Seconds until the answer; a full queue is asked again, as a client does."""
    started = time.perf_counter()
    while True:
        try:
            future = engine.submit(pixels, version, DetectParams(SIZE_PX), customer=customer, priority=priority)
        except EngineBusyError:
            time.sleep(0.005)
            continue
        future.result()
        return time.perf_counter() - started


class Crowd:
    """Customers who each have several pictures under way, all the time, while the block lasts."""

    def __init__(self, engine: Engine, version: ModelVersion, pixels: Pixels, customers: int, each: int) -> None:
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(customers * each)

        def work(name: str) -> None:
            while not self._over.is_set():
                ask(engine, version, pixels, name)

        self._work: list[Callable[[], None]] = [
            lambda name=f"c{number}": work(name) for number in range(customers) for _ in range(each)
        ]

    def __enter__(self) -> Crowd:
        for work in self._work:
            self._pool.submit(work)
        time.sleep(1.0)
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._pool.shutdown()


def show_vip(engine: Engine, version: ModelVersion, pixels: Pixels, requests: int) -> None:
    """A VIP's p95, idle and under load."""
    draw = random.Random(SEED)

    def some() -> list[float]:
        taken = []
        for _ in range(requests):
            taken.append(ask(engine, version, pixels, "vip", Priority.VIP) * 1000)
            time.sleep(draw.uniform(0, 2 * VIP_PAUSE_S))
        return taken

    idle = some()
    with Crowd(engine, version, pixels, CUSTOMERS, 6):
        normal_ms = [ask(engine, version, pixels, "one more") * 1000 for _ in range(5)]
        loaded = some()
    ratio = float(np.percentile(loaded, 95) / np.percentile(idle, 95))
    print(
        f"  vip: p95 {np.percentile(idle, 95):.0f} ms idle, {np.percentile(loaded, 95):.0f} ms with {CUSTOMERS * 6} "
        f"pictures of others under way (who is no VIP: {np.median(normal_ms):.0f} ms): {ratio:.2f}, "
        f"goal ≤ {VIP_GOAL}: {'met' if ratio <= VIP_GOAL else 'NOT met'}"
    )


def show_turn(engine: Engine, version: ModelVersion, pixels: Pixels) -> None:
    """One picture behind a full queue of somebody else."""
    before: list[int] = []
    for _ in range(10):
        futures = [engine.submit(pixels, version, DetectParams(SIZE_PX), customer="many") for _ in range(QUEUE - 4)]
        time.sleep(0.2)
        ahead = sum(future.done() for future in futures)
        ask(engine, version, pixels, "one")
        before.append(sum(future.done() for future in futures) - ahead)
        for future in futures:
            future.result()
    print(
        f"  turn: {max(before)} of {QUEUE - 4} pictures of another customer at most ended before the one that came last"
    )


def show_swap(engine: Engine, version: ModelVersion, pixels: Pixels, folder: Path) -> None:
    """p99 of customers before a swap and while other weights are loaded and warmed."""
    other = folder / "other.pt"
    make_other_weights(version.path, other, seed=SEED)
    fresh = ModelVersion(version.model, other, hash_file(other))
    served = [version]
    stages: dict[str, list[float]] = {"before": [], "during": []}
    stage = ["before"]
    over = threading.Event()

    def customer(name: str) -> None:
        while not over.is_set():
            at = stage[0]
            stages[at].append(ask(engine, served[0], pixels, name) * 1000)
            time.sleep(0.05)

    with ThreadPoolExecutor(4) as pool:
        for number in range(4):
            pool.submit(customer, f"s{number}")
        time.sleep(15)
        stage[0] = "during"
        started = time.perf_counter()
        engine.warm(fresh)
        served[0] = fresh
        seconds = time.perf_counter() - started
        time.sleep(0.5)
        over.set()
    ratio = float(np.percentile(stages["during"], 99) / np.percentile(stages["before"], 99))
    print(
        f"  swap: p99 {np.percentile(stages['before'], 99):.0f} ms before ({len(stages['before'])} requests), "
        f"{np.percentile(stages['during'], 99):.0f} ms during the {seconds:.1f} s of a load ({len(stages['during'])}): "
        f"{ratio:.2f}, goal ≤ {SWAP_GOAL}: {'met' if ratio <= SWAP_GOAL else 'NOT met'}"
    )


def show_repeat() -> None:
    """A stored result read back, and filtered."""
    draw = np.random.default_rng(SEED)
    corners = draw.uniform(0, 900, (DETECTIONS, 2))
    found = Detections(
        xyxy=np.concatenate((corners, corners + draw.uniform(5, 90, (DETECTIONS, 2))), axis=1).astype(np.float32),
        confidence=np.sort(draw.uniform(0.05, 1, DETECTIONS).astype(np.float32))[::-1],
        class_id=draw.integers(0, 80, DETECTIONS),
        names={number: f"class {number}" for number in range(80)},
    )
    stored = json.dumps(found.to_json())

    def hit() -> Detections:
        return Detections.from_json(json.loads(stored))

    def slide() -> object:
        return hit().filter(confidence_min=0.5, classes=["class 1", "class 2", "class 3"]).to_json()

    for name, work, goal_ms in (("hit", hit, HIT_GOAL_MS), ("slider move", slide, SLIDER_GOAL_MS)):
        times = []
        for _ in range(200):
            started = time.perf_counter()
            work()
            times.append((time.perf_counter() - started) * 1000)
        p95 = float(np.percentile(times, 95))
        print(
            f"  repeat: {name} of {DETECTIONS} detections p50 {np.median(times):.2f} ms, p95 {p95:.2f} ms, "
            f"goal ≤ {goal_ms:.0f}: {'met' if p95 <= goal_ms else 'NOT met'}"
        )


if __name__ == "__main__":
    main()
