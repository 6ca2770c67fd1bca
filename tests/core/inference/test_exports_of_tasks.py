"""Exports of masks, key points and oriented boxes are read back by the tools that they are for."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from pycocotools.coco import COCO
from ultralytics.data.utils import polygon2mask, verify_image_label

from core.inference.backends.torch_network import open_torch
from core.inference.detections import Detections
from core.inference.exports import Labelled, to_coco, to_csv, to_yolo
from core.inference.images import DecodedImage
from core.inference.pipeline import DetectParams
from core.inference.registry import Model, ModelVersion
from core.inference.replicas import Replica
from core.inference.weights import hash_file

TASKS = ("segment", "pose", "obb")


@pytest.fixture(scope="module")
def labelled(task_weights: dict[str, Path], bus: DecodedImage) -> dict[str, Labelled]:
    """`bus.jpg` with what the model of each task finds in it."""
    images = {}
    for task, path in task_weights.items():
        network = open_torch(path, hash_file(path), device=torch.device("cpu"), cores=2)
        version = ModelVersion(Model(task, task, path.name, None, False, "", task), path, hash_file(path))
        found, _ = Replica(version, network).run(bus.pixels, DetectParams(640))
        images[task] = Labelled("bus.jpg", bus.width, bus.height, found)
    return images


def load_coco(data: dict[str, Any], folder: Path) -> COCO:
    """The data set as pycocotools reads it."""
    path = folder / "coco.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return COCO(str(path))


def read_labels(image: Labelled, folder: Path, **options: Any) -> tuple[Any, Any, Any]:
    """Labels, segments and key points as Ultralytics' reader of data sets takes them; it must find nothing corrupt."""
    picture, labels = folder / "bus.jpg", folder / "bus.txt"
    cv2.imwrite(str(picture), np.zeros((image.height, image.width, 3), np.uint8))
    labels.write_text(to_yolo(image), encoding="utf-8")
    points, dimensions = options.get("points", (0, 0))
    answer = verify_image_label((str(picture), str(labels), "", points > 0, 2, points, dimensions, False))
    _, found, _, segments, keypoints, missing, _, empty, corrupt, message = answer
    assert (missing, empty, corrupt, message) == (0, 0, 0, "")
    return found, segments, keypoints


def test_coco_masks(labelled: dict[str, Labelled], tmp_path: Path) -> None:
    """pycocotools decodes each `segmentation` to the mask's own pixels, and `area` counts them."""
    image = labelled["segment"]
    coco = load_coco(to_coco([image]), tmp_path)
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    assert image.detections.masks is not None
    assert len(annotations) == len(image.detections) > 3
    for annotation, mask in zip(annotations, image.detections.masks, strict=True):
        pixels = coco.annToMask(annotation)
        assert (pixels == mask.decode()).all()
        assert annotation["area"] == pixels.sum() > 0


def test_coco_keypoints_and_oriented_boxes(labelled: dict[str, Labelled], tmp_path: Path) -> None:
    """Points carry their visibility, and their category its skeleton; an oriented box is a polygon of its own area."""
    image = labelled["pose"]
    coco = load_coco(to_coco([image]), tmp_path)
    (category,) = coco.loadCats(coco.getCatIds())[:1]
    assert (len(category["keypoints"]), len(category["skeleton"])) == (17, 19)
    assert image.detections.keypoints is not None
    for annotation, points in zip(coco.loadAnns(coco.getAnnIds()), image.detections.keypoints, strict=True):
        seen = points[:, 2] >= 0.5
        found = np.array(annotation["keypoints"]).reshape(17, 3)
        assert (found[:, 2] == 2 * seen).all()
        assert annotation["num_keypoints"] == seen.sum()
        np.testing.assert_allclose(found[seen, :2], points[seen, :2], atol=0.051)
    image = labelled["obb"]
    coco = load_coco(to_coco([image]), tmp_path)
    assert image.detections.corners is not None
    for annotation, corners in zip(coco.loadAnns(coco.getAnnIds()), image.detections.corners, strict=True):
        np.testing.assert_allclose(np.array(annotation["segmentation"]).reshape(4, 2), corners, atol=0.051)
        assert annotation["area"] == pytest.approx(cv2.contourArea(corners), rel=0.01)


def test_yolo_segments(labelled: dict[str, Labelled], tmp_path: Path) -> None:
    """Ultralytics' label reader takes every outline, and fills about the mask that it was drawn around."""
    image = labelled["segment"]
    found, segments, _ = read_labels(image, tmp_path)
    assert image.detections.masks is not None
    assert len(found) == len(segments) == len(image.detections)
    assert found[:, 0].astype(int).tolist() == image.detections.class_id.tolist()
    largest = max(range(len(segments)), key=lambda index: image.detections.masks[index].area_px)  # type: ignore[index]  # it has masks
    mask = image.detections.masks[largest].decode()
    outline = segments[largest] * (image.width, image.height)
    filled = polygon2mask((image.height, image.width), [outline.reshape(-1)])
    assert (mask & (filled == 0)).sum() < 0.05 * mask.sum()


def test_yolo_poses(labelled: dict[str, Labelled], tmp_path: Path) -> None:
    """Ultralytics' label reader takes box, points and visibilities."""
    image = labelled["pose"]
    found, _, keypoints = read_labels(image, tmp_path, points=(17, 3))
    assert image.detections.keypoints is not None
    assert keypoints.shape == (len(image.detections), 17, 3)
    seen = image.detections.keypoints[..., 2] >= 0.5
    assert (keypoints[..., 2] == 2 * seen).all()
    sides = np.array((image.width, image.height))
    np.testing.assert_allclose(keypoints[seen][:, :2] * sides, image.detections.keypoints[seen][:, :2], atol=0.1)
    centre = (image.detections.xyxy[:, :2] + image.detections.xyxy[:, 2:]) / 2
    np.testing.assert_allclose(found[:, 1:3] * sides, centre, atol=0.1)


def test_yolo_oriented_boxes(labelled: dict[str, Labelled], tmp_path: Path) -> None:
    """Ultralytics' label reader takes the four corners, within the image."""
    image = labelled["obb"]
    _, segments, _ = read_labels(image, tmp_path)
    assert image.detections.corners is not None
    sides = np.array((image.width, image.height))
    for segment, corners in zip(segments, image.detections.corners, strict=True):
        np.testing.assert_allclose(segment * sides, corners.clip(0, sides), atol=0.1)


@pytest.mark.parametrize("task", TASKS)
def test_csv(labelled: dict[str, Labelled], task: str) -> None:
    """pandas reads a row for each object, and its parts as JSON: nothing of what is stored is lost."""
    image = labelled[task]
    table = pd.read_csv(io.StringIO(to_csv([image])))
    parts = {"segment": ["mask", "polygons"], "pose": ["keypoints"], "obb": ["corners"]}[task]
    assert list(table.columns[8:]) == parts
    items = image.detections.to_json()
    for part in parts:
        assert [json.loads(cell) for cell in table[part]] == [item[part] for item in items]


def test_boxes_alone_are_as_before(labelled: dict[str, Labelled]) -> None:
    """Where there are boxes only, no format has a word more than that."""
    found = labelled["pose"].detections
    image = Labelled("bus.jpg", 810, 1080, Detections(found.xyxy, found.confidence, found.class_id, found.names))
    assert set(found.to_json()[0]) - set(image.detections.to_json()[0]) == {"keypoints"}
    assert to_csv([image]).splitlines()[0] == "image,class,name,confidence,x1,y1,x2,y2"
    assert set(to_coco([image])["annotations"][0]) == {
        "id",
        "image_id",
        "category_id",
        "bbox",
        "area",
        "iscrowd",
        "score",
    }
    assert all(len(line.split()) == 6 for line in to_yolo(image).splitlines())
