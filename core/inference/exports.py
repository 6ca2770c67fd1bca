"""Detections in the formats of other tools: COCO, YOLO labels, CSV. What is beside boxes comes along."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.csv_text import plain_cell
from core.errors import FormatNotApplicableError
from core.inference.detections import Detections
from core.inference.keypoints import COCO_NAMES, COCO_POINTS, COCO_SKELETON, POINT_SEEN_MIN

FORMATS = ("json", "coco", "yolo", "csv")
# These say where objects are; classes of whole pictures are nowhere.
FORMATS_OF_BOXES = frozenset({"coco", "yolo"})
_COLUMNS = ("image", "class", "name", "confidence")
_SIDES = ("x1", "y1", "x2", "y2")
# As JSON, and only where a model of that task was run.
_PARTS = ("mask", "polygons", "keypoints", "corners")

_PERSON = {"keypoints": list(COCO_NAMES), "skeleton": [[first + 1, second + 1] for first, second in COCO_SKELETON]}


@dataclass(frozen=True, slots=True)
class Labelled:
    """One image with what was found in it. Sides in pixels of the original, upright image."""

    name: str
    width: int
    height: int
    detections: Detections


def require_boxes(format: str, *, whole_picture: bool) -> None:
    """Raise `FormatNotApplicableError` for a format of boxes and classes of whole pictures."""
    if whole_picture and format in FORMATS_OF_BOXES:
        raise FormatNotApplicableError(
            f"This model tells classes of whole pictures, which {format.upper()} has no boxes for: take json or csv.",
            format=format,
        )


def to_coco(images: Sequence[Labelled]) -> dict[str, Any]:
    """A COCO data set: `images`, `categories` and `annotations` with `bbox` as `[x, y, width, height]` and a `score`.

    Masks are run lengths in `segmentation`, oriented boxes polygons there, and `area` is theirs. A key point has
    visibility 2 where it was seen, else it is 0, 0, 0. https://cocodataset.org/#format-data

    Raises `FormatNotApplicableError` for classes of whole pictures.
    """
    require_boxes("coco", whole_picture=any(image.detections.whole_picture for image in images))
    names: dict[int, str] = {}
    people = False
    annotations: list[dict[str, Any]] = []
    for image_id, image in enumerate(images, start=1):
        areas_px = [mask.area_px for mask in image.detections.masks or ()]
        for index, item in enumerate(image.detections.to_json()):
            names[item["class"]] = item["name"]
            box = item["box"]
            width, height = round(box["x2"] - box["x1"], 1), round(box["y2"] - box["y1"], 1)
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": item["class"],
                "bbox": [box["x1"], box["y1"], width, height],
                "area": round(width * height, 2),
                "iscrowd": 0,
                "score": item["confidence"],
            }
            if "mask" in item:
                annotation |= {"segmentation": item["mask"], "area": areas_px[index]}
            if "corners" in item:
                corners = item["corners"]
                annotation |= {"segmentation": [_flat(corners)], "area": round(_polygon_area(corners), 2)}
            if "keypoints" in item:
                people |= len(item["keypoints"]) == COCO_POINTS
                points = [[x, y, 2] if sure >= POINT_SEEN_MIN else [0, 0, 0] for x, y, sure in item["keypoints"]]
                annotation |= {"keypoints": _flat(points), "num_keypoints": sum(point[2] == 2 for point in points)}
            annotations.append(annotation)
    return {
        "images": [
            {"id": image_id, "file_name": image.name, "width": image.width, "height": image.height}
            for image_id, image in enumerate(images, start=1)
        ],
        "categories": [
            {"id": class_id, "name": name, **(_PERSON if people else {})} for class_id, name in sorted(names.items())
        ],
        "annotations": annotations,
    }


def to_yolo(image: Labelled, *, with_confidence: bool = True) -> str:
    """One line a detection: class, centre x, centre y, width, height (shares of the image) and confidence.

    Without confidences they are labels to train with.

    Of other tasks the lines are those of Ultralytics' data sets, which have no place for a confidence: of masks the
    class and an outline, whose parts are joined as Ultralytics joins them; of poses the class, the box and for each
    point x, y and its visibility, 2 or 0; of oriented boxes the class and the four corners, clipped to the image.
    https://docs.ultralytics.com/datasets/

    Raises `FormatNotApplicableError` for classes of whole pictures.
    """
    require_boxes("yolo", whole_picture=image.detections.whole_picture)
    return "".join(f"{item['class']} {_label(item, image, with_confidence)}\n" for item in image.detections.to_json())


def _label(item: dict[str, Any], image: Labelled, with_confidence: bool) -> str:
    if "mask" in item:
        return _shares(_join(item["polygons"]), image)
    if "corners" in item:
        return _shares(item["corners"], image)
    box = item["box"]
    shares = (
        (box["x1"] + box["x2"]) / 2 / image.width,
        (box["y1"] + box["y2"]) / 2 / image.height,
        (box["x2"] - box["x1"]) / image.width,
        (box["y2"] - box["y1"]) / image.height,
    )
    text = " ".join(f"{share:.6f}" for share in shares)
    if "keypoints" not in item:
        return f"{text} {item['confidence']:.4f}" if with_confidence else text
    points = [
        f"{_shares([[x, y]], image)} 2" if sure >= POINT_SEEN_MIN else "0.000000 0.000000 0"
        for x, y, sure in item["keypoints"]
    ]
    return " ".join([text, *points])


def _shares(points: Sequence[Sequence[float]], image: Labelled) -> str:
    """Points as shares of the image's sides, within it."""
    return " ".join(f"{min(max(x / image.width, 0), 1):.6f} {min(max(y / image.height, 0), 1):.6f}" for x, y in points)


def _join(polygons: Sequence[Sequence[Sequence[int]]]) -> Sequence[Sequence[float]]:
    """One outline of all parts."""
    if len(polygons) == 1:
        return polygons[0]
    # Not at the top: `core.inference.weights` has to be there before Ultralytics is.
    from ultralytics.data.converter import merge_multi_segment

    merge: Any = merge_multi_segment  # its types say less than it takes
    joined: list[list[float]] = np.concatenate(merge([np.array(one) for one in polygons])).tolist()
    return joined


def _flat(points: Sequence[Sequence[float]]) -> list[float]:
    return [value for point in points for value in point]


def _polygon_area(corners: Sequence[Sequence[float]]) -> float:
    """https://en.wikipedia.org/wiki/Shoelace_formula"""
    following = [*corners[1:], corners[0]]
    return abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(corners, following, strict=True))) / 2


def to_csv(images: Iterable[Labelled]) -> str:
    """One row a detection, boxes in pixels of the original image; masks and the like as JSON in their own columns.

    Classes of whole pictures have no columns of boxes.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    images = list(images)
    sides = () if any(image.detections.whole_picture for image in images) else _SIDES
    rows = [(image, item) for image in images for item in image.detections.to_json()]
    parts = [part for part in _PARTS if any(part in item for _, item in rows)]
    writer.writerow([*_COLUMNS, *sides, *parts])
    for image, item in rows:
        writer.writerow(
            [
                plain_cell(image.name),
                item["class"],
                plain_cell(item["name"]),
                item["confidence"],
                *(item["box"][side] for side in sides),
                *(json.dumps(item[part], separators=(",", ":")) if part in item else "" for part in parts),
            ]
        )
    return buffer.getvalue()
