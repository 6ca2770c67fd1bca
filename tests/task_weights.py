"""Weights for other tasks that find real people: the embedded model's, under a head with a part more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
