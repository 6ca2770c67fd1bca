"""A model without its weights: the published architecture with random ones. It computes as much, and finds nothing."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import replace
from pathlib import Path

import torch

from core.errors import ModelNotReadyError
from core.inference.registry import Model, ModelVersion


def build_untrained(model: Model, folder: Path) -> ModelVersion:
    """A version of a model with random weights, as a file in `folder`, for measuring and never for customers.

    Raises `ModelNotReadyError` when Ultralytics publishes no architecture of this name.
    """
    from ultralytics.models import YOLO

    path = folder / model.file
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(model.name.encode()))
        try:
            YOLO(f"{model.name}.yaml").save(str(path))
        except FileNotFoundError:
            raise ModelNotReadyError(
                f"{model.title} is not installed, and its architecture is not published: put {model.file} into the "
                "weights folder.",
                model=model.name,
                file=model.file,
            ) from None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return ModelVersion(replace(model, sha256=digest), path, digest)
