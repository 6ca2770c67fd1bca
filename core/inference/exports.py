"""Detections in the formats of other tools: COCO, YOLO labels, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from core.csv_text import plain_cell
from core.inference.detections import Detections

FORMATS = ("json", "coco", "yolo", "csv")
_COLUMNS = ("image", "class", "name", "confidence", "x1", "y1", "x2", "y2")


@dataclass(frozen=True, slots=True)
class Labelled:
    """One image with what was found in it. Sides in pixels of the original, upright image."""

    name: str
    width: int
    height: int
    detections: Detections


def to_coco(images: Sequence[Labelled]) -> dict[str, Any]:
    """A COCO data set: `images`, `categories` and `annotations` with `bbox` as `[x, y, width, height]` and a `score`.

    https://cocodataset.org/#format-data
    """
    names: dict[int, str] = {}
    annotations: list[dict[str, Any]] = []
    for image_id, image in enumerate(images, start=1):
        for item in image.detections.to_json():
            names[item["class"]] = item["name"]
            box = item["box"]
            width, height = round(box["x2"] - box["x1"], 1), round(box["y2"] - box["y1"], 1)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": item["class"],
                    "bbox": [box["x1"], box["y1"], width, height],
                    "area": round(width * height, 2),
                    "iscrowd": 0,
                    "score": item["confidence"],
                }
            )
    return {
        "images": [
            {"id": image_id, "file_name": image.name, "width": image.width, "height": image.height}
            for image_id, image in enumerate(images, start=1)
        ],
        "categories": [{"id": class_id, "name": name} for class_id, name in sorted(names.items())],
        "annotations": annotations,
    }


def to_yolo(image: Labelled) -> str:
    """One line a detection: class, centre x, centre y, width, height (shares of the image) and confidence.

    https://docs.ultralytics.com/datasets/detect/
    """
    lines = []
    for item in image.detections.to_json():
        box = item["box"]
        shares = (
            (box["x1"] + box["x2"]) / 2 / image.width,
            (box["y1"] + box["y2"]) / 2 / image.height,
            (box["x2"] - box["x1"]) / image.width,
            (box["y2"] - box["y1"]) / image.height,
        )
        lines.append(" ".join([str(item["class"]), *(f"{share:.6f}" for share in shares), f"{item['confidence']:.4f}"]))
    return "".join(f"{line}\n" for line in lines)


def to_csv(images: Iterable[Labelled]) -> str:
    """One row a detection, boxes in pixels of the original image."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for image in images:
        for item in image.detections.to_json():
            box = item["box"]
            writer.writerow(
                [
                    plain_cell(image.name),
                    item["class"],
                    plain_cell(item["name"]),
                    item["confidence"],
                    *(box[side] for side in ("x1", "y1", "x2", "y2")),
                ]
            )
    return buffer.getvalue()
