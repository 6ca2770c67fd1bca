"""The steps of one image through one model: letterbox → forward → non-maximum suppression → original pixels.

`YOLO.predict` is not used: its arguments are shared between threads and its suppression has a clock that
blanks results (docs/adr/0005). The parts are Ultralytics' network and torchvision's NMS; the parameters are
those of `YOLO.predict` (IoU 0.7, 300 detections, best class per box), so the answers are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from core.geometry import NetworkInput, network_input, square_input
from core.inference.detections import CONFIDENCE_STORED_MIN, Detections
from core.inference.images import Pixels
from core.inference.nms import nms
from core.inference.registry import Model

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


def prepare(pixels: Pixels, img_size: int, model: Model) -> tuple[Pixels, NetworkInput]:
    """`(H, W, 3)` BGR as the network input `(height, width, 3)` of a model, and where the image lies in it."""
    return crop_square(pixels, img_size) if model.sees_square else letterbox(pixels, img_size)


def crop_square(pixels: Pixels, img_size: int) -> tuple[Pixels, NetworkInput]:
    """The middle of `(H, W, 3)` BGR as `(img_size, img_size, 3)`, as Ultralytics' `classify_transforms` makes it.

    Resized and cropped in one step: a picture of one row and 10,000 columns would otherwise be gigabytes in between.
    """
    height, width = pixels.shape[:2]
    shorter = min(height, width)
    resized_height, resized_width = (int(img_size * side / shorter) for side in (height, width))
    top, left = (round((side - img_size) / 2) for side in (resized_height, resized_width))
    per_row, per_column = height / resized_height, width / resized_width
    box = (left * per_column, top * per_row, (left + img_size) * per_column, (top + img_size) * per_row)
    # Rounding may put its end a billionth of a pixel outside, which Pillow refuses.
    box = (box[0], box[1], min(box[2], width), min(box[3], height))
    square = Image.fromarray(pixels).resize((img_size, img_size), Image.Resampling.BILINEAR, box)
    return np.asarray(square, dtype=np.uint8), square_input(img_size)


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


# Centre-format boxes `(N, 4)`, confidences, classes and angles to the indices of those that stay, best first.
Overlap = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, DetectParams], torch.Tensor]


def suppress(
    output: NDArray[np.float32], params: DetectParams, *, classes: int | None = None, overlap: Overlap | None = None
) -> NDArray[np.float32]:
    """`(4 + classes + extra, candidates)` centre-format prediction as `(N, 6 + extra)`: x1, y1, x2, y2, confidence,
    class, extra. Without `classes` there is no extra. With `overlap` boxes are oriented, by the angle that is the last
    extra: they stay in the centre format.

    Coordinates are pixels of the network input. One image at a time, no time limit, bounded candidates.
    """
    prediction = torch.from_numpy(output)
    scores_end = len(prediction) if classes is None else 4 + classes
    confidence, class_id = prediction[4:scores_end].T.max(dim=1)
    keep = torch.nonzero(confidence > params.confidence_min).squeeze(1)
    if keep.numel() > CANDIDATES_MAX:
        keep = keep[confidence[keep].topk(CANDIDATES_MAX).indices]
    boxes, extra = prediction[:4, keep].T, prediction[scores_end:, keep].T
    confidence, class_id = confidence[keep], class_id[keep]
    if overlap is None:
        half = boxes[:, 2:] / 2
        boxes = torch.cat((boxes[:, :2] - half, boxes[:, :2] + half), dim=1)
        offset = class_id.to(boxes.dtype).unsqueeze(1) * CLASS_OFFSET_PX
        kept = nms(boxes + offset, confidence, params.iou_max)
    else:
        kept = overlap(boxes, confidence, class_id, extra[:, -1], params)
    kept = kept[: params.detections_max]
    parts = (boxes[kept], confidence[kept].unsqueeze(1), class_id[kept].to(boxes.dtype).unsqueeze(1), extra[kept])
    return torch.cat(parts, dim=1).numpy()


def unpad(
    points: NDArray[np.float32], shape: NetworkInput, image_height: int, image_width: int, *, shift: bool = True
) -> NDArray[np.float32]:
    """`(..., 2)` x, y in network-input pixels as pixels of the original image; without `shift` they are lengths."""
    # One factor for both axes, that of the longer side: it is the one that was not rounded.
    tall = image_height >= image_width
    scale = shape.resized_height / image_height if tall else shape.resized_width / image_width
    origin = np.array((shape.pad_left, shape.pad_top) if shift else (0, 0), np.float32)
    return ((points - origin) / scale).astype(np.float32)


def to_original(
    rows: NDArray[np.float32],
    shape: NetworkInput,
    image_height: int,
    image_width: int,
    names: Mapping[int, str],
) -> Detections:
    """`(N, 6)` rows in network-input pixels as `Detections` in pixels of the original image, clipped to it."""
    corners = unpad(rows[:, :4].reshape(-1, 2, 2), shape, image_height, image_width)
    return Detections(
        xyxy=corners.clip(0, np.array((image_width, image_height), np.float32)).reshape(-1, 4),
        confidence=rows[:, 4].astype(np.float32),
        class_id=rows[:, 5].astype(np.int64),
        names=dict(names),
    )
