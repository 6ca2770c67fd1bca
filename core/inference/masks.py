"""Masks of instances in pixels of the original image: run lengths as COCO's tools write them, and polygons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

Plane = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Mask:
    """The pixels of one instance. `counts` is COCO's compressed run-length code of a picture of `height` × `width`.

    `polygons` are its outer outlines, the largest first, each `(M, 2)` int32 as x, y in pixels of the original image;
    what is left out by a hole is in `counts` alone. https://cocodataset.org/#format-data
    """

    height: int
    width: int
    counts: str
    polygons: tuple[NDArray[np.int32], ...]

    @property
    def area_px(self) -> int:
        """How many pixels it has."""
        return int(coco_mask.area(self._code()))

    def decode(self) -> Plane:
        """`(height, width)` uint8, 1 where the instance is."""
        return np.asarray(coco_mask.decode(self._code()), np.uint8)

    def to_json(self) -> dict[str, Any]:
        """`mask` as COCO's tools take it, and `polygons`."""
        return {
            "mask": {"size": [self.height, self.width], "counts": self.counts},
            "polygons": [polygon.tolist() for polygon in self.polygons],
        }

    @classmethod
    def from_crop(cls, crop: Plane, left: int, top: int, image_height: int, image_width: int, off_px: float) -> Mask:
        """The mask whose pixels are those of `crop`, uint8 0 or 1 and not all 0, that lies at `left`, `top`.

        Corners of its polygons that are nearer than `off_px` to the line between their neighbours are left out.
        """
        counts = _encode(crop, left, top, image_height, image_width)
        return cls(image_height, image_width, counts, _trace(crop, left, top, off_px))

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> Mask:
        """The inverse of `to_json`."""
        height, width = item["mask"]["size"]
        polygons = tuple(np.array(polygon, np.int32).reshape(-1, 2) for polygon in item["polygons"])
        return cls(height, width, item["mask"]["counts"], polygons)

    def _code(self) -> Any:
        return {"size": [self.height, self.width], "counts": self.counts.encode()}


def _encode(crop: Plane, left: int, top: int, height: int, width: int) -> str:
    """The run-length code of a picture that holds `crop` and is empty elsewhere, without making that picture."""
    # Runs go down the columns. A zero above and below each, so that every run of ones begins and ends in its column.
    columns = np.zeros((crop.shape[1], crop.shape[0] + 2), np.int8)
    columns[:, 1:-1] = crop.T
    column, row = np.nonzero(np.diff(columns, axis=1))
    edges = (left + column) * height + top + row
    # Two runs of which one ends where the next column begins are one.
    meets = np.flatnonzero(edges[1:] == edges[:-1])
    edges = np.delete(edges, np.concatenate((meets, meets + 1)))
    ends = [0, *edges.tolist()] + ([height * width] if edges[-1] < height * width else [])
    code: Any = coco_mask.frPyObjects({"size": [height, width], "counts": np.diff(ends).tolist()}, height, width)
    counts: bytes = code["counts"]
    return counts.decode()


def _trace(crop: Plane, left: int, top: int, off_px: float) -> tuple[NDArray[np.int32], ...]:
    """The outer outlines, the largest first. One that is a point or a line is shown by the pixels' rectangle."""
    contours, _ = cv2.findContours(crop, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygons: list[NDArray[np.int32]] = []
    for contour in sorted(contours, key=cv2.contourArea, reverse=True):
        polygon = np.asarray(cv2.approxPolyDP(contour, off_px, closed=True), np.int32).reshape(-1, 2)
        if len(polygon) < 3:
            if polygons:
                continue  # a speck beside the instance
            x, y, across, down = cv2.boundingRect(contour)
            polygon = np.array([[x, y], [x + across, y], [x + across, y + down], [x, y + down]], np.int32)
        polygons.append(polygon + np.array([left, top], np.int32))
    return tuple(polygons)
