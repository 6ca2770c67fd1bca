"""Tiles on a 4k picture: what is found of objects of 8 to 16 pixels with and without them, for how much, how fast.

The embedded model does not see people of that size, and others cannot be had without a download, so one is made first:
the embedded yolov8s is trained further, for some minutes, on small pictures with people of 8 to 16 pixels cut from a
photograph. What it is tried on is a picture of 3840 × 2160 with another person of the photograph, not seen in training.
Then the embedded model itself runs the same tiles through the engine and through a loop of `YOLO.predict`.

    python bench/tiles.py [--rounds 3] [--epochs 8] [--pictures 160]
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("YOLO_OFFLINE", "true")

import cv2
import numpy as np
from numpy.typing import NDArray

from bench.ledger import spread
from core.inference.embedded import place_embedded_model
from core.inference.images import Pixels
from core.inference.pipeline import DetectParams
from core.inference.registry import ModelVersion, Registry
from core.inference.scheduler import Inference
from core.inference.tiled import infer_tiled
from core.inference.weights import hash_file
from core.pricing.book import read_book
from core.tiles import plan_tiles

SEED = 20261127
HEIGHT, WIDTH = 2160, 3840
OBJECTS = 80
# The longer side of an object, in pixels.
SIDE_MIN, SIDE_MAX = 8, 16
CONFIDENCE = 0.25
IOU_MIN = 0.3
TRAIN_PX = 320
# People of `bus.jpg` as top, bottom, left, right: the first two are trained with, the third is looked for.
PEOPLE = ((395, 905, 50, 245), (405, 862, 220, 345), (390, 880, 670, 809))
ROAD = (880, 1080, 300, 660)
# (img_size, tile_px)
WAYS = ((640, None), (1280, None), (640, 1280), (640, 640), (320, 320))
TIME_GOAL = 0.6


def main() -> None:
    """Train, look, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--pictures", type=int, default=160, help="pictures to train on")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), args)


def scene(
    people: Sequence[Pixels], ground: Pixels, shape: tuple[int, int], count: int, draw: random.Random
) -> tuple[Pixels, NDArray[np.float32]]:
    """A picture of `(height, width)` with so many people on it, and their boxes, `(N, 4)` as x1, y1, x2, y2."""
    height, width = shape
    top, left = draw.randrange(ground.shape[0] - 100), draw.randrange(ground.shape[1] - 160)
    canvas = cv2.GaussianBlur(
        cv2.resize(ground[top : top + 100, left : left + 160], (width, height), interpolation=cv2.INTER_CUBIC),
        (0, 0),
        5,
    )
    noise = np.random.default_rng(draw.randrange(2**32)).normal(0, 4, canvas.shape)
    canvas = np.clip(canvas + noise, 0, 255).astype(np.uint8)
    boxes: list[tuple[int, int, int, int]] = []
    while len(boxes) < count:
        person = draw.choice(people)[:, :: draw.choice((1, -1))]
        side = draw.randint(SIDE_MIN, SIDE_MAX)
        small = max(2, round(person.shape[1] * side / person.shape[0]))
        x, y = draw.randrange(2, width - small - 2), draw.randrange(2, height - side - 2)
        if any(abs(x - box[0]) < 24 and abs(y - box[1]) < 24 for box in boxes):
            continue
        canvas[y : y + side, x : x + small] = cv2.resize(person, (small, side), interpolation=cv2.INTER_AREA)
        boxes.append((x, y, x + small, y + side))
    return canvas, np.array(boxes, np.float32)


def train(source: Path, folder: Path, people: Sequence[Pixels], ground: Pixels, args: argparse.Namespace) -> Path:
    """The weights of `source`, trained further on small pictures with small people."""
    from ultralytics.models import YOLO

    draw = random.Random(SEED)
    for number in range(args.pictures):
        part = "val" if number < 8 else "train"
        picture, boxes = scene(people, ground, (TRAIN_PX, TRAIN_PX), draw.randint(3, 10), draw)
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / "images" / part / f"{number}.png"), picture)
        lines = (
            f"0 {(x1 + x2) / 2 / TRAIN_PX} {(y1 + y2) / 2 / TRAIN_PX} {(x2 - x1) / TRAIN_PX} {(y2 - y1) / TRAIN_PX}\n"
            for x1, y1, x2, y2 in boxes
        )
        (folder / "labels" / part / f"{number}.txt").write_text("".join(lines))
    data = folder / "data.yaml"
    data.write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames: {{0: Normal, 1: Fall}}\n")
    YOLO(str(source)).train(
        data=str(data),
        epochs=args.epochs,
        imgsz=TRAIN_PX,
        batch=8,
        device="cpu",
        workers=0,
        seed=SEED,
        optimizer="AdamW",
        lr0=0.001,
        warmup_epochs=1,
        mosaic=0.0,
        scale=0.1,
        plots=False,
        val=False,
        verbose=False,
        project=str(folder),
        name="run",
    )
    return folder / "run" / "weights" / "last.pt"


def count_found(xyxy: NDArray[np.float32], boxes: NDArray[np.float32]) -> tuple[int, int]:
    """How many of `boxes` are found, and how many of `xyxy` are none of them."""
    import torch
    import torchvision

    if not len(xyxy):
        return 0, 0
    overlap = torchvision.ops.box_iou(torch.from_numpy(boxes), torch.from_numpy(xyxy)).numpy() >= IOU_MIN
    return int(overlap.any(axis=1).sum()), int((~overlap.any(axis=0)).sum())


class Runner:
    """The picture through an engine of its own."""

    def __init__(self, folder: Path, picture: Pixels) -> None:
        import torch

        from core.inference.backends.choose import open_networks
        from core.inference.engine import Engine

        device = torch.device("cpu")
        self._picture = picture
        self.engine = Engine(open_networks(device, cache_dir=folder / "converted"), device=device, queue_max=64)
        self.engine.start()

    def run(self, version: ModelVersion, img_size: int, tile_px: int | None) -> Inference:
        """The answer in tiles of `tile_px`, or without."""

        def submit(part: Pixels) -> Future[Inference]:
            return self.engine.submit(part, version, DetectParams(img_size))

        plan = plan_tiles(HEIGHT, WIDTH, img_size, tile_px)
        if not plan.tiles:
            return submit(self._picture).result()
        return infer_tiled(submit, self._picture, plan, deadline=time.monotonic() + 600)


def show_recall(runner: Runner, trained: ModelVersion, boxes: NDArray[np.float32]) -> None:
    """What is found, and for how much."""
    prices = read_book()
    print(f"{OBJECTS} people of {SIDE_MIN} to {SIDE_MAX} px on {WIDTH} × {HEIGHT} px, confidence {CONFIDENCE}:")
    for img_size, tile_px in WAYS:
        runner.run(trained, img_size, tile_px)
        started = time.perf_counter()
        found = runner.run(trained, img_size, tile_px).detections.filter(confidence_min=CONFIDENCE)
        seconds = time.perf_counter() - started
        plan, amount_mt = prices.price_image(HEIGHT, WIDTH, img_size, "yolov8s-fall", tile_px=tile_px)
        hits, wrong = count_found(found.xyxy, boxes)
        way = "no tiles" if tile_px is None else f"{len(plan.tiles)} tiles of {tile_px}"
        print(
            f"  at {img_size:4}, {way:16}  recall {hits / OBJECTS:5.0%}  {wrong:3} false  "
            f"{amount_mt / 1000:7.3f} tokens  {seconds:6.2f} s"
        )


def show_time(runner: Runner, version: ModelVersion, picture: Pixels, rounds: int) -> None:
    """The same parts through the engine and through a loop."""
    from ultralytics.models import YOLO

    yolo: Any = YOLO(str(version.path), task="detect")
    plan = plan_tiles(HEIGHT, WIDTH, 640, 640)
    parts = [picture, *(picture[tile.y1 : tile.y2, tile.x1 : tile.x2] for tile in plan.tiles)]
    ratios = []
    for _ in range(rounds):
        started = time.perf_counter()
        for part in parts:
            yolo.predict(part, imgsz=640, conf=0.05, device="cpu", verbose=False)
        loop_s = time.perf_counter() - started
        started = time.perf_counter()
        runner.run(version, 640, 640)
        ratios.append((time.perf_counter() - started) / loop_s)
    met = "met" if sorted(ratios)[len(ratios) // 2] <= TIME_GOAL else "NOT met"
    print(f"  {len(parts)} parts at 640, engine / loop of `YOLO.predict`: {spread(ratios)}, goal ≤ {TIME_GOAL}: {met}")


def measure(folder: Path, args: argparse.Namespace) -> None:
    """Everything, with the weights in a folder."""
    from ultralytics.utils import ASSETS, LOGGER

    LOGGER.setLevel("ERROR")
    registry = Registry(folder / "weights")
    assert place_embedded_model(registry) is not None, "the embedded model is not installed"
    version = registry.resolve("yolov8s-fall")
    photo = cv2.imread(str(ASSETS / "bus.jpg"))
    assert photo is not None
    people = [photo[top:bottom, left:right] for top, bottom, left, right in PEOPLE]
    ground = photo[ROAD[0] : ROAD[1], ROAD[2] : ROAD[3]]
    print(f"load {os.getloadavg()[0]:.1f} at the start, seed {SEED}")
    started = time.perf_counter()
    weights = train(version.path, folder / "trained", people[:2], ground, args)
    print(f"trained for {time.perf_counter() - started:.0f} s on {args.pictures - 8} pictures, {args.epochs} epochs")
    picture, boxes = scene(people[2:], ground, (HEIGHT, WIDTH), OBJECTS, random.Random(SEED + 1))
    runner = Runner(folder, picture)
    show_recall(runner, ModelVersion(version.model, weights, hash_file(weights)), boxes)
    show_time(runner, version, picture, args.rounds)
    runner.engine.stop()
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
