"""A run's downloads: each is read back by the tool that it is for, and no name leads out of a ZIP."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml
from pycocotools.coco import COCO
from ultralytics.data.utils import verify_image_label

from core.identity.tables import User
from core.inference.detections import Detections
from core.inference.exports import Labelled
from core.inference.images import encode_png
from core.jobs.blobs import hash_bytes
from core.services import run_exports
from core.services.application import Application
from core.services.run_exports import Picture

HEIGHT, WIDTH = 60, 100


def picture(name: str, *, file_sha256: str = "", class_id: int = 2) -> Picture:
    """A picture with one box."""
    found = Detections(
        np.array([[10, 20, 50, 50]], np.float32),
        np.array([0.8], np.float32),
        np.array([class_id]),
        {class_id: 'a "b": c'},
    )
    return Picture(Labelled(name, WIDTH, HEIGHT, found), file_sha256)


def test_coco_and_csv_are_read_by_their_tools(tmp_path: Path) -> None:
    """pycocotools and pandas find the boxes of all pictures."""
    pictures = [picture("a.jpg"), picture("b.jpg")]
    path = tmp_path / "coco.json"
    path.write_text(run_exports.write_coco(pictures))
    coco = COCO(str(path))
    assert [one["bbox"] for one in coco.loadAnns(coco.getAnnIds())] == [[10, 20, 40, 30]] * 2
    table = pd.read_csv(io.StringIO(run_exports.write_csv(pictures)))
    assert list(table["image"]) == ["a.jpg", "b.jpg"]
    assert list(table["name"]) == ['a "b": c'] * 2
    assert [one["image"] for one in json.loads(run_exports.write_json(pictures))] == ["a.jpg", "b.jpg"]


def test_labels_are_what_ultralytics_trains_with(tmp_path: Path) -> None:
    """Its reader of data sets takes them beside the pictures, and `data.yaml` names every class up to the last."""
    with zipfile.ZipFile(io.BytesIO(run_exports.zip_labels([picture("a.jpg")]))) as archive:
        archive.extractall(tmp_path)
    data = yaml.safe_load((tmp_path / "data.yaml").read_text())
    assert data["names"] == {0: "class 0", 1: "class 1", 2: 'a "b": c'}
    image = tmp_path / "a.jpg"
    cv2.imwrite(str(image), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    answer = verify_image_label((str(image), str(tmp_path / "labels" / "a.txt"), "", False, 3, 0, 0, False))
    _, labels, *_, missing, _, empty, corrupt, message = answer
    assert (missing, empty, corrupt, message) == (0, 0, 0, "")
    np.testing.assert_allclose(labels, [[2, 0.3, 35 / 60, 0.4, 0.5]], atol=1e-5)


@pytest.mark.parametrize(
    ("names", "stems"),
    [
        (["a.jpg", "a.png", "A.jpg"], ["a", "a-2", "A-3"]),
        (["a.jpg", "a-2.jpg", "a.png"], ["a", "a-2", "a-2-2"]),
        (
            ["../../etc/passwd", "/root/x.jpg", "C:\\y.jpg", "..", ".jpg", ""],
            ["passwd", "x", "y", "picture", "jpg", "picture-2"],
        ),
        (["厂房 1.jpg", "a:b*c?.jpg"], ["厂房 1", "a_b_c_"]),
    ],
)
def test_no_name_leads_out_of_the_folder_or_hides_another(names: list[str], stems: list[str]) -> None:
    """Every picture has a file of its own in one folder, whatever it is called."""
    with zipfile.ZipFile(io.BytesIO(run_exports.zip_labels([picture(name) for name in names]))) as archive:
        assert archive.namelist()[1:] == [f"labels/{stem}.txt" for stem in stems]


def test_drawn_pictures(app: Application, sign_up: Callable[..., User], monkeypatch: pytest.MonkeyPatch) -> None:
    """At their full size with boxes in them; a large run as JPEG; nobody else's file, and what is gone is left out."""
    ann, ben = sign_up(app), sign_up(app, email="ben@example.com")
    data = encode_png(np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    app.blobs.put(ann.account_id, data)
    pictures = [picture("a.jpg", file_sha256=hash_bytes(data)), picture("gone.jpg", file_sha256="0" * 64)]
    with zipfile.ZipFile(io.BytesIO(run_exports.zip_drawn(app, ann, pictures))) as archive:
        assert archive.namelist() == ["a.png"]
        drawn = cv2.imdecode(np.frombuffer(archive.read("a.png"), np.uint8), cv2.IMREAD_COLOR)
    assert drawn is not None
    assert drawn.shape == (HEIGHT, WIDTH, 3)
    assert (drawn != 90).any()
    monkeypatch.setattr(run_exports, "PNG_PIXELS_MAX", 1)
    with zipfile.ZipFile(io.BytesIO(run_exports.zip_drawn(app, ann, pictures))) as archive:
        assert archive.namelist() == ["a.jpg"]
    with zipfile.ZipFile(io.BytesIO(run_exports.zip_drawn(app, ben, pictures))) as archive:
        assert archive.namelist() == []
