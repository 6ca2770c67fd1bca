"""Boxes, masks, key points, oriented boxes and classes on a picture, with the few cv2 calls that it takes."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from core.inference.detections import Detections
from core.inference.images import Pixels
from core.inference.keypoints import COCO_POINTS, COCO_SKELETON, POINT_SEEN_MIN
from core.inference.masks import Mask
from core.tiles import Tile

# BGR of the Okabe-Ito palette: distinguishable with any kind of colour vision.
PALETTE_BGR = (
    (178, 114, 0),
    (0, 94, 213),
    (115, 158, 0),
    (167, 121, 204),
    (0, 159, 230),
    (233, 180, 86),
    (66, 228, 240),
)

# How much of a mask's pixel is its colour: what is below stays visible.
TINT = 0.45


# So many pixels are blended at once: a mask may be as large as the picture.
BAND_PIXELS = 1_000_000


def class_color_bgr(class_id: int) -> tuple[int, int, int]:
    """The colour of a class, as BGR."""
    return PALETTE_BGR[class_id % len(PALETTE_BGR)]


def draw_detections(pixels: Pixels, detections: Detections) -> Pixels:
    """A copy of `(H, W, 3)` BGR with a box, a label and what else was found for each detection.

    Line and text scale with the image. Classes of the whole picture are written one below the other from its corner on.
    """
    canvas = np.ascontiguousarray(pixels.copy())
    longest = max(canvas.shape[:2])
    thickness = max(2, round(longest / 400))
    font_scale = max(0.45, longest / 1150)
    text_thickness = max(1, thickness // 2)
    if detections.whole_picture:
        row = 0
        for class_id, confidence in zip(detections.class_id, detections.confidence, strict=True):
            label = f"{detections.names[int(class_id)]} {confidence:.2f}"
            row = _write_label(canvas, label, (0, row), class_color_bgr(int(class_id)), font_scale, text_thickness)
        return canvas
    # The most confident is drawn last, so that it lies on top.
    for index in reversed(range(len(detections))):
        x1, y1, x2, y2 = (round(float(value)) for value in detections.xyxy[index])
        class_id = int(detections.class_id[index])
        color = class_color_bgr(class_id)
        label = f"{detections.names[class_id]} {detections.confidence[index]:.2f}"
        if detections.masks is not None:
            _tint(canvas, detections.masks[index], (x1, y1, x2, y2), color)
            cv2.polylines(canvas, list(detections.masks[index].polygons), True, color, thickness, cv2.LINE_AA)
        if detections.corners is not None:
            outline = np.rint(detections.corners[index]).astype(np.int32)
            cv2.polylines(canvas, [outline], True, color, thickness, cv2.LINE_AA)
        else:
            cv2.rectangle(canvas, (x1, y1), (x2, y2), color, thickness, cv2.LINE_AA)
        if detections.keypoints is not None:
            _draw_keypoints(canvas, detections.keypoints[index], color, thickness)
        (text_width, text_height), baseline = cv2.getTextSize(
            label, cv2.FONT_HERSHEY_SIMPLEX, font_scale, text_thickness
        )
        top = y1 - text_height - baseline - 2
        if top < 0:
            top = y1
        left = max(0, min(x1, canvas.shape[1] - text_width - 4))
        _write_label(canvas, label, (left, top), color, font_scale, text_thickness)
    return canvas


def _write_label(
    canvas: Pixels, label: str, at: tuple[int, int], color: tuple[int, int, int], scale: float, thickness: int
) -> int:
    """A label on its colour, its left upper corner `at` x, y; gives the row below it."""
    left, top = at
    (width, height), baseline = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    bottom = top + height + baseline + 2
    cv2.rectangle(canvas, (left, top), (left + width + 4, bottom), color, cv2.FILLED)
    place = (left + 2, top + height + 1)
    cv2.putText(canvas, label, place, cv2.FONT_HERSHEY_SIMPLEX, scale, _ink(color), thickness, cv2.LINE_AA)
    return bottom + 1


def draw_tiles(pixels: Pixels, tiles: Sequence[Tile], image_height: int, image_width: int) -> Pixels:
    """A copy of a picture, `(H, W, 3)` BGR of any size, with the outlines of the tiles of its image."""
    canvas = np.ascontiguousarray(pixels.copy())
    scale_y, scale_x = canvas.shape[0] / image_height, canvas.shape[1] / image_width
    for tile in tiles:
        top_left = round(tile.x1 * scale_x), round(tile.y1 * scale_y)
        bottom_right = round(tile.x2 * scale_x) - 1, round(tile.y2 * scale_y) - 1
        cv2.rectangle(canvas, top_left, bottom_right, (255, 255, 255), 1)
    # Half of each line, so that what lies under many of them can still be seen.
    return np.asarray(cv2.addWeighted(canvas, 0.7, pixels, 0.3, 0), np.uint8)


def _tint(canvas: Pixels, mask: Mask, box: tuple[int, int, int, int], color: tuple[int, int, int]) -> None:
    x1, y1, x2, y2 = box
    # A pixel more than the rounded box: the mask may end between them.
    area = np.s_[max(0, y1 - 1) : y2 + 1, max(0, x1 - 1) : x2 + 1]
    region, inside = canvas[area], mask.decode()[area] > 0
    rows = max(1, BAND_PIXELS // max(1, region.shape[1]))
    for top in range(0, region.shape[0], rows):
        band = region[top : top + rows]
        tinted = cv2.addWeighted(band, 1 - TINT, np.full_like(band, color), TINT, 0)
        np.copyto(band, tinted, where=inside[top : top + rows, :, None])


def _draw_keypoints(
    canvas: Pixels, keypoints: NDArray[np.float32], color: tuple[int, int, int], thickness: int
) -> None:
    """The points that were seen, and the limbs between two of them where they are COCO's 17 of a person."""
    points = [(round(float(x)), round(float(y))) for x, y, _ in keypoints]
    seen = keypoints[:, 2] >= POINT_SEEN_MIN
    if len(points) == COCO_POINTS:
        for first, second in COCO_SKELETON:
            if seen[first] and seen[second]:
                cv2.line(canvas, points[first], points[second], color, thickness, cv2.LINE_AA)
    for point, is_seen in zip(points, seen, strict=True):
        if is_seen:
            cv2.circle(canvas, point, thickness + 1, color, cv2.FILLED, cv2.LINE_AA)
            cv2.circle(canvas, point, thickness + 1, _ink(color), max(1, thickness // 3), cv2.LINE_AA)


def _ink(background_bgr: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever is easier to read on a colour (relative luminance, ITU-R BT.709)."""
    blue, green, red = background_bgr
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 120 else (255, 255, 255)
