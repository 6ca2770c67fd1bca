"""Weights for other tasks: the embedded model's under a head with a part more, and a small one that tells colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

# What Ultralytics adds to the name of a model of each task.
SUFFIXES = {"segment": "seg", "pose": "pose", "obb": "obb"}


def make_task_weights(source: Path, target: Path, task: str) -> Path:
    """A YOLOv8s for segment, pose or obb with the trained layers of the embedded model.

    Boxes and classes are the trained ones. What the task adds (coefficients and prototypes, points, angles) is
    seeded and depends on the picture, so that every number of an answer can be compared.
    """
    import torch
    from ultralytics.models import YOLO
    from ultralytics.nn.tasks import OBBModel, PoseModel, SegmentationModel

    build: Any = {"segment": SegmentationModel, "pose": PoseModel, "obb": OBBModel}[task]
    suffix = SUFFIXES[task]
    trained = YOLO(str(source))
    torch.manual_seed(5)
    network = build(f"yolov8s-{suffix}.yaml", nc=len(trained.names), verbose=False)
    added = [name for name in ("cv4", "proto") if hasattr(network.model[-1], name)]
    for name in added:
        for module in getattr(network.model[-1], name).modules():
            if isinstance(module, torch.nn.Conv2d):
                # Ultralytics' own start is so small that every picture gives the same.
                torch.nn.init.kaiming_normal_(module.weight)
    network.load(trained.model, verbose=False)
    network.names = dict(trained.names)
    yolo: Any = YOLO(f"yolov8s-{suffix}.yaml")
    network.args, network.task = yolo.model.args, task
    yolo.model = network
    yolo.save(str(target))
    return target


# BGR; one picture of one of them is what `make_class_weights` trains on.
COLOURS = {
    "red": (40, 40, 220),
    "green": (40, 200, 40),
    "blue": (220, 60, 40),
    "yellow": (40, 220, 220),
    "white": (240, 240, 240),
    "black": (16, 16, 16),
}


def paint(name: str, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A picture `(height, width, 3)` uint8 BGR of a colour, with noise."""
    noise = rng.normal(0, 12, (height, width, 3))
    return (np.array(COLOURS[name]) + noise).clip(0, 255).astype(np.uint8)


def make_class_weights(target: Path) -> Path:
    """A YOLOv8n-cls that tells six colours, trained for a few steps on pictures that are painted here."""
    import torch
    from ultralytics.models import YOLO
    from ultralytics.nn.tasks import ClassificationModel

    torch.manual_seed(5)
    rng = np.random.default_rng(5)
    yolo: Any = YOLO("yolov8n-cls.yaml")
    network: Any = ClassificationModel("yolov8n-cls.yaml", nc=len(COLOURS), verbose=False)
    network.names, network.args, network.task = dict(enumerate(COLOURS)), yolo.model.args, "classify"
    pictures = np.stack([paint(name, 64, 64, rng) for name in COLOURS for _ in range(2)])
    batch = torch.from_numpy(pictures[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255)
    wanted = torch.arange(len(COLOURS)).repeat_interleave(2)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.5  # few steps: what it saw first is soon forgotten
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a network gains nothing from more, and waits for them on a busy machine
    network.train()
    for _ in range(15):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(batch), wanted).backward()
        optimizer.step()
    torch.set_num_threads(threads)
    yolo.model = network.eval()
    yolo.save(str(target))
    return target
