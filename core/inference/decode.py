"""From what a network says of one image to `Detections`, for each task.

The steps and their parameters are those of Ultralytics' predictors (docs/adr/0027).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import InferenceError
from core.geometry import NetworkInput
from core.inference.backends.network import Arrays, NetworkFacts
from core.inference.detections import Detections
from core.inference.masks import Mask
from core.inference.pipeline import CLASS_OFFSET_PX, DetectParams, suppress, to_original, unpad
from core.inference.prototypes import make_mask

# As Ultralytics' `Probs.top5`.
CLASSES_TOLD = 5
# So many pairs of oriented boxes are compared at once: some ten arrays of 4 MB.
PAIRS_MAX = 1_000_000


def decode(
    outputs: Arrays,
    facts: NetworkFacts,
    params: DetectParams,
    shape: NetworkInput,
    image_height: int,
    image_width: int,
) -> Detections:
    """One image's part of all outputs of a network (`Network.forward`, without the batch) as `Detections`.

    `shape` is where the image lies in the network input. Raises `InferenceError` for a task that is not served.
    """
    if facts.task == "classify":
        return _rank_classes(outputs[0], facts)
    if facts.task not in TASKS:
        raise InferenceError(f"A model for {facts.task} is not served here: choose another model. Nothing was taken.")
    if facts.end2end:
        # Best first, of all that the head ranked.
        rows = outputs[0][outputs[0][:, 4] > params.confidence_min][: params.detections_max]
    elif facts.task == "obb":
        rows = suppress(outputs[0], params, classes=len(facts.names), overlap=keep_oriented)
    else:
        # What a detect network says has nothing behind the classes.
        classes = None if facts.task == "detect" else len(facts.names)
        rows = suppress(outputs[0], params, classes=classes)
    return _DECODERS[facts.task](rows, outputs, facts, shape, image_height, image_width)


def keep_oriented(
    boxes: torch.Tensor, confidence: torch.Tensor, class_id: torch.Tensor, angle: torch.Tensor, params: DetectParams
) -> torch.Tensor:
    """Which oriented boxes stay, best first: what Ultralytics' `TorchNMS.fast_nms` over `batch_probiou` keeps.

    `boxes` is `(N, 4)` centre, width, height. A box goes when any better one covers it, whether that one stays or not,
    so what is kept of the best is known before the rest is looked at: the comparison ends with the last detection
    wanted, and its memory is bounded.
    """
    # Not at the top: `core.inference.weights` has to be there before Ultralytics is.
    from ultralytics.utils.metrics import batch_probiou

    order = torch.argsort(confidence, descending=True)
    centre = boxes[:, :2] + class_id.to(boxes.dtype).unsqueeze(1) * CLASS_OFFSET_PX
    oriented = torch.cat((centre, boxes[:, 2:], angle.unsqueeze(1)), dim=1)[order]
    kept: list[torch.Tensor] = []
    count, first = 0, 0
    while first < len(order) and count < params.detections_max:
        last = min(len(order), first + max(1, PAIRS_MAX // (first + 1_000)))
        overlaps = batch_probiou(oriented[:last], oriented[first:last]) > params.iou_max
        # Of each, only those that are better than it.
        covered = overlaps.triu_(diagonal=1 - first).any(dim=0)
        free = torch.nonzero(~covered).squeeze(1) + first
        kept.append(free)
        count, first = count + len(free), last
    return order[torch.cat(kept)] if kept else order


def _rank_classes(probabilities: NDArray[np.float32], facts: NetworkFacts) -> Detections:
    """The most probable classes of `(classes,)` probabilities, however improbable: somebody paid for an answer."""
    best = np.argsort(-probabilities, kind="stable")[:CLASSES_TOLD]
    return Detections.of_whole_picture(probabilities[best].astype(np.float32), best, facts.names)


def _decode_boxes(
    rows: NDArray[np.float32], _outputs: Arrays, facts: NetworkFacts, shape: NetworkInput, height: int, width: int
) -> Detections:
    return to_original(rows, shape, height, width, facts.names)


def _decode_masks(
    rows: NDArray[np.float32], outputs: Arrays, facts: NetworkFacts, shape: NetworkInput, height: int, width: int
) -> Detections:
    found = to_original(rows, shape, height, width, facts.names)
    masks: list[Mask] = []
    kept = np.zeros(len(rows), bool)
    for index, (box, row) in enumerate(zip(found.xyxy, rows, strict=True)):
        mask = make_mask(row[6:], outputs[1], box, shape, height, width)
        if mask is not None:
            # A box without a single pixel is no instance; `YOLO.predict` leaves it out, too.
            kept[index] = True
            masks.append(mask)
    return Detections(found.xyxy[kept], found.confidence[kept], found.class_id[kept], found.names, masks=tuple(masks))


def _decode_keypoints(
    rows: NDArray[np.float32], _outputs: Arrays, facts: NetworkFacts, shape: NetworkInput, height: int, width: int
) -> Detections:
    assert facts.keypoint_shape is not None
    count, dimensions = facts.keypoint_shape
    raw = rows[:, 6:].reshape(-1, count, dimensions)
    keypoints = np.ones((len(raw), count, 3), np.float32)
    keypoints[..., :dimensions] = raw
    keypoints[..., :2] = unpad(keypoints[..., :2], shape, height, width).clip(0, (width, height))
    found = to_original(rows, shape, height, width, facts.names)
    return Detections(found.xyxy, found.confidence, found.class_id, found.names, keypoints=keypoints)


def _decode_oriented(
    rows: NDArray[np.float32], _outputs: Arrays, facts: NetworkFacts, shape: NetworkInput, height: int, width: int
) -> Detections:
    from ultralytics.utils import ops

    centre = unpad(rows[:, :2], shape, height, width)
    sides = unpad(rows[:, 2:4], shape, height, width, shift=False)
    oriented = np.concatenate((centre, sides, rows[:, 6:7]), axis=1)
    to_corners: Any = ops.xywhr2xyxyxyxy  # it has no types
    corners = np.asarray(to_corners(oriented), np.float32)
    bounds = np.concatenate((corners.min(axis=1), corners.max(axis=1)), axis=1)
    return Detections(
        xyxy=bounds.clip(0, (width, height, width, height)).astype(np.float32),
        confidence=rows[:, 4].astype(np.float32),
        class_id=rows[:, 5].astype(np.int64),
        names=dict(facts.names),
        corners=corners,
    )


_DECODERS = {
    "detect": _decode_boxes,
    "segment": _decode_masks,
    "pose": _decode_keypoints,
    "obb": _decode_oriented,
}
TASKS = frozenset({*_DECODERS, "classify"})
