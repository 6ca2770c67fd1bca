"""What a run found, as files to take along: one for other tools, or a ZIP of labels or of drawn pictures."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from core.identity.callers import Caller
from core.inference.detections import Detections
from core.inference.draw import draw_detections
from core.inference.exports import Labelled, require_boxes, to_coco, to_csv, to_yolo
from core.inference.images import count_pixels, decode_image, encode_jpeg, encode_png
from core.inference.pixel_gate import IN_FLIGHT
from core.services.application import Application

# As PNG together they would be gigabytes; above so many pixels in all they are JPEG.
PNG_PIXELS_MAX = 100_000_000
_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a run with what is wanted of its result, and its stored file."""

    labelled: Labelled
    file_sha256: str


def require_format(app: Application, model: str, format: str) -> None:
    """Raise `FormatNotApplicableError` where a model's answers do not go into a format; before anything is paid.

    Raises also `ModelNotFoundError`.
    """
    require_boxes(format, whole_picture=app.registry.get(model).task == "classify")


def write_json(pictures: Sequence[Picture]) -> str:
    """The API's predictions by picture."""
    images = [picture.labelled for picture in pictures]
    return json.dumps([{"image": image.name, "predictions": image.detections.to_json()} for image in images], indent=2)


def write_coco(pictures: Sequence[Picture]) -> str:
    """A COCO data set as JSON. Raises `FormatNotApplicableError` for classes of whole pictures."""
    return json.dumps(to_coco([picture.labelled for picture in pictures]), indent=2)


def write_csv(pictures: Sequence[Picture]) -> str:
    """One row a detection."""
    return to_csv(picture.labelled for picture in pictures)


def zip_labels(pictures: Sequence[Picture]) -> bytes:
    """Labels as Ultralytics' data sets have them, without confidences: put the pictures into `images/` beside.

    `data.yaml` names the classes; a class that no picture has keeps its number free. Raises `FormatNotApplicableError`
    for classes of whole pictures.
    """
    names: dict[int, str] = {}
    for picture in pictures:
        found = picture.labelled.detections
        names.update({int(class_id): found.names[int(class_id)] for class_id in found.class_id})
    # JSON is YAML, and quotes whatever a class is called.
    classes = {number: names.get(number, f"class {number}") for number in range(max(names, default=-1) + 1)}
    data = ["path: .", "train: images", "val: images", "names:"]
    data += [f"  {number}: {json.dumps(name, ensure_ascii=False)}" for number, name in classes.items()]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "data.yaml", ("\n".join(data) + "\n").encode())
        for picture, stem in zip(pictures, _stems(pictures), strict=True):
            _add(archive, f"labels/{stem}.txt", to_yolo(picture.labelled, with_confidence=False).encode())
    return buffer.getvalue()


def zip_drawn(app: Application, user: Caller, pictures: Sequence[Picture]) -> bytes:
    """The pictures with what was found drawn on them, at their full size; those that are not stored are left out."""
    pixels = sum(picture.labelled.height * picture.labelled.width for picture in pictures)
    as_png = pixels <= PNG_PIXELS_MAX
    buffer = io.BytesIO()
    # They are compressed already.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for picture, stem in zip(pictures, _stems(pictures), strict=True):
            drawn = _draw(app, user, picture, as_png=as_png)
            if drawn is not None:
                _add(archive, f"{stem}.{'png' if as_png else 'jpg'}", drawn)
    return buffer.getvalue()


def _draw(app: Application, user: Caller, picture: Picture, *, as_png: bool) -> bytes | None:
    try:
        data = app.blobs.get(user.account_id, picture.file_sha256)
    except OSError:
        return None
    return draw_found(app, data, picture.labelled.detections, as_png=as_png)


def draw_found(app: Application, data: bytes, found: Detections, *, as_png: bool = True) -> bytes:
    """A picture with what was found drawn on it, as PNG, or as JPEG of its size."""
    limits = app.settings
    # Three times: as it is, with boxes, and as PNG, which for noise is no smaller.
    with IN_FLIGHT.pass_through(3 * count_pixels(data)):
        decoded = decode_image(data, bytes_max=limits.image_bytes_max, pixels_max=limits.image_pixels_max)
        drawn = draw_detections(decoded.pixels, found)
        return encode_png(drawn) if as_png else encode_jpeg(drawn, longest_side_px=max(drawn.shape[:2]))


def _stems(pictures: Sequence[Picture]) -> Iterator[str]:
    """A file name without its ending for each picture, none twice and none with a folder in it."""
    taken: Counter[str] = Counter()
    for picture in pictures:
        name = PurePosixPath(picture.labelled.name.replace("\\", "/")).name
        stem = (
            "".join(c if c.isalnum() or c in "-_ .()" else "_" for c in PurePosixPath(name).stem).strip(". ")
            or "picture"
        )
        # Some file systems know no case.
        taken[stem.lower()] += 1
        while taken[stem.lower()] > 1:
            stem = f"{stem}-{taken[stem.lower()]}"
            taken[stem.lower()] += 1
        yield stem


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    # Without a time of its own: the same results are the same file.
    entry = zipfile.ZipInfo(name, _TIME)
    entry.compress_type = archive.compression
    archive.writestr(entry, data)
