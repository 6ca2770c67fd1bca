"""One image through one model: letterbox → forward → non-maximum suppression → original pixels.

`YOLO.predict` is not used: its arguments are shared between threads and its suppression has a clock that
blanks results (docs/adr/0005). The parts are Ultralytics' network and torchvision's NMS; the parameters are
those of `YOLO.predict` (IoU 0.7, 300 detections, best class per box), so the answers are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torchvision
from numpy.typing import NDArray

from core.geometry import NetworkInput, network_input
from core.inference.detections import CONFIDENCE_STORED_MIN, Detections
from core.inference.images import Pixels

PAD_VALUE = 114
GREY_PX = 64
IOU_MAX = 0.7
DETECTIONS_MAX = 300
# A noisy picture can pass tens of thousands of boxes at confidence 0.05; NMS is quadratic in them.
CANDIDATES_MAX = 30_000
# Added to boxes class by class, so that one NMS call keeps classes apart (as Ultralytics does).
CLASS_OFFSET_PX = 7680


@dataclass(frozen=True, slots=True)
class DetectParams:
    """Everything that changes the detections of one request; immutable."""

    img_size: int
    confidence_min: float = CONFIDENCE_STORED_MIN
    iou_max: float = IOU_MAX
    detections_max: int = DETECTIONS_MAX


def grey_picture() -> Pixels:
    """The smallest picture that says whether a network computes at all."""
    return np.full((GREY_PX, GREY_PX, 3), PAD_VALUE, np.uint8)


def letterbox(pixels: Pixels, img_size: int) -> tuple[Pixels, NetworkInput]:
    """`(H, W, 3)` BGR resized and padded with grey to the network input `(height, width, 3)`."""
    shape = network_input(pixels.shape[0], pixels.shape[1], img_size)
    if pixels.shape[:2] != (shape.resized_height, shape.resized_width):
        resized = cv2.resize(pixels, (shape.resized_width, shape.resized_height), interpolation=cv2.INTER_LINEAR)
    else:
        resized = pixels
    padded = cv2.copyMakeBorder(
        resized,
        shape.pad_top,
        shape.height - shape.resized_height - shape.pad_top,
        shape.pad_left,
        shape.width - shape.resized_width - shape.pad_left,
        cv2.BORDER_CONSTANT,
        value=(PAD_VALUE, PAD_VALUE, PAD_VALUE),
    )
    return np.asarray(padded, dtype=np.uint8), shape


def to_batch(padded: Sequence[Pixels]) -> NDArray[np.float32]:
    """Network inputs of one shape, `(height, width, 3)` uint8 BGR, as `(B, 3, height, width)` float32 RGB in 0…1."""
    height, width = padded[0].shape[:2]
    batch = np.empty((len(padded), 3, height, width), np.float32)
    for image, planes in zip(padded, batch, strict=True):
        # Planes first: dividing what lies together is ten times faster than what lies apart.
        for plane, channel in zip(planes, reversed(cv2.split(image)), strict=True):
            np.divide(channel, np.float32(255), out=plane)
    return batch


def suppress(output: NDArray[np.float32], params: DetectParams) -> NDArray[np.float32]:
    """`(4 + classes, candidates)` centre-format prediction as `(N, 6)`: x1, y1, x2, y2, confidence, class.

    Coordinates are pixels of the network input. One image at a time, no time limit, bounded candidates.
    """
    prediction = torch.from_numpy(output)
    boxes, scores = prediction[:4].T, prediction[4:].T
    confidence, class_id = scores.max(dim=1)
    keep = confidence > params.confidence_min
    boxes, confidence, class_id = boxes[keep], confidence[keep], class_id[keep]
    if confidence.numel() > CANDIDATES_MAX:
        confidence, order = confidence.topk(CANDIDATES_MAX)
        boxes, class_id = boxes[order], class_id[order]
    half = boxes[:, 2:] / 2
    xyxy = torch.cat((boxes[:, :2] - half, boxes[:, :2] + half), dim=1)
    offset = class_id.to(xyxy.dtype).unsqueeze(1) * CLASS_OFFSET_PX
    kept = torchvision.ops.nms(xyxy + offset, confidence, params.iou_max)[: params.detections_max]
    rows = torch.cat((xyxy, confidence.unsqueeze(1), class_id.to(xyxy.dtype).unsqueeze(1)), dim=1)[kept]
    return rows.numpy()


def to_original(
    rows: NDArray[np.float32],
    shape: NetworkInput,
    image_height: int,
    image_width: int,
    names: Mapping[int, str],
) -> Detections:
    """`(N, 6)` rows in network-input pixels as `Detections` in pixels of the original image, clipped to it."""
    xyxy = rows[:, :4].copy()
    # One factor for both axes, that of the longer side: it is the one that was not rounded.
    tall = image_height >= image_width
    scale = shape.resized_height / image_height if tall else shape.resized_width / image_width
    xyxy[:, [0, 2]] = ((xyxy[:, [0, 2]] - shape.pad_left) / scale).clip(0, image_width)
    xyxy[:, [1, 3]] = ((xyxy[:, [1, 3]] - shape.pad_top) / scale).clip(0, image_height)
    return Detections(
        xyxy=xyxy.astype(np.float32),
        confidence=rows[:, 4].astype(np.float32),
        class_id=rows[:, 5].astype(np.int64),
        names=dict(names),
    )
