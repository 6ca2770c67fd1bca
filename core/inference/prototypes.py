"""From a network's prototypes and coefficients to masks in pixels of the original image.

The arithmetic is Ultralytics' (`ops.process_mask_native`, what `predict(retina_masks=True)` gives), done for one mask
at a time and inside its box only, so that three hundred of them on 40 megapixels take the memory of one.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from core.geometry import NetworkInput
from core.inference.masks import Mask, Plane

# Prototypes are a quarter as large as the network input.
PROTOTYPE_STRIDE = 4
# So many pixels are interpolated at once: 8 MB of float32.
BAND_PX = 2_000_000
# Corners of a polygon that are nearer than this to the line between their neighbours say nothing: it is half a pixel of
# what the network saw.
POLYGON_OFF_INPUT_PX = 0.5


def make_mask(
    coefficients: NDArray[np.float32],
    prototypes: NDArray[np.float32],
    box: NDArray[np.float32],
    shape: NetworkInput,
    image_height: int,
    image_width: int,
) -> Mask | None:
    """The mask of `(32,)` coefficients over `(32, h, w)` prototypes inside a box, or None where it has no pixel.

    `box` is x1, y1, x2, y2 in pixels of the original image, `shape` where that lies in the network input.
    """
    left, top = (max(0, math.ceil(float(value))) for value in box[:2])
    right, bottom = min(image_width, math.ceil(float(box[2]))), min(image_height, math.ceil(float(box[3])))
    if right <= left or bottom <= top:
        return None
    logits = _content(coefficients, prototypes, shape)
    crop = _enlarge(logits, (top, bottom, image_height), (left, right, image_width))
    if not crop.any():
        return None
    off_px = POLYGON_OFF_INPUT_PX * max(1.0, image_height / shape.resized_height)
    return Mask.from_crop(crop, left, top, image_height, image_width, off_px)


def _content(
    coefficients: NDArray[np.float32], prototypes: NDArray[np.float32], shape: NetworkInput
) -> NDArray[np.float32]:
    """The logits of one mask where the image lies, without padding; so large that it ends on whole pixels."""
    depth, height, width = prototypes.shape
    logits = torch.from_numpy(coefficients) @ torch.from_numpy(prototypes).view(depth, -1)
    padding = (shape.height - shape.resized_height) | (shape.width - shape.resized_width)
    times = PROTOTYPE_STRIDE // math.gcd(PROTOTYPE_STRIDE, padding | padding // 2)
    plane = logits.view(1, 1, height, width)
    if times > 1:
        plane = torch.nn.functional.interpolate(plane, scale_factor=float(times), mode="bilinear")
    share = times / PROTOTYPE_STRIDE
    top, left = round(shape.pad_top * share), round(shape.pad_left * share)
    bottom, right = top + round(shape.resized_height * share), left + round(shape.resized_width * share)
    return plane[0, 0, top:bottom, left:right].numpy()


def _enlarge(logits: NDArray[np.float32], rows: tuple[int, int, int], columns: tuple[int, int, int]) -> Plane:
    """Where logits are above 0 after bilinear interpolation, `(rows, columns)` uint8.

    `rows` and `columns` are the first, the one behind the last, and how many the whole picture has.
    """
    x0, x1, x_share = _neighbours(logits.shape[1], *columns)
    y0, y1, y_share = _neighbours(logits.shape[0], *rows)
    crop = np.empty((len(y0), len(x0)), np.uint8)
    step = max(1, BAND_PX // len(x0))
    for first in range(0, len(y0), step):
        band = slice(first, first + step)
        # Only the rows of the logits that this band lies between.
        low, high = int(y0[band][0]), int(y1[band][-1]) + 1
        wide = logits[low:high, x0] * (1 - x_share) + logits[low:high, x1] * x_share
        share = y_share[band, None]
        values = wide[y0[band] - low] * (1 - share)
        values += wide[y1[band] - low] * share
        np.greater(values, 0, out=crop[band].view(np.bool_))
    return crop


def _neighbours(
    source: int, first: int, last: int, whole: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Between which two of `source` pixels each pixel `first`…`last` of `whole` lies, and how near to the second."""
    positions = (np.arange(first, last, dtype=np.float32) + np.float32(0.5)) * np.float32(source / whole)
    positions = np.maximum(positions - np.float32(0.5), 0)
    low = np.minimum(positions.astype(np.intp), source - 1)
    return low, np.minimum(low + 1, source - 1), (positions - low).astype(np.float32)
