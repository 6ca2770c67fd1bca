"""The pictures a customer is about to run: uploads, samples and the rest of an earlier run, looked at once each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st
from ultralytics.utils import ASSETS

from core.errors import VisionMeterError
from core.inference.images import decode_image, encode_jpeg
from core.services.application import current
from core.services.metered_detection import PreparedImage, prepare_image

SAMPLES = ("bus.jpg", "zidane.jpg")
THUMBNAIL_PX = 192


@dataclass(frozen=True, slots=True)
class Candidate:
    """One picture of the batch: either `image` with a `thumbnail` (JPEG), or the `problem` it was refused for."""

    name: str
    image: PreparedImage | None
    thumbnail: bytes | None
    problem: VisionMeterError | None
    read: Callable[[], bytes]


def collect(uploads: list, samples: list[str], restored: list[tuple[str, bytes]]) -> list[Candidate]:
    """Look at every picture; what was looked at before in this session is remembered."""
    cache: dict[str, Candidate] = st.session_state.setdefault("candidates", {})
    found: dict[str, Candidate] = {}
    for upload in uploads:
        found[upload.file_id] = cache.get(upload.file_id) or _look(upload.name, upload.getvalue)
    for name in samples:
        found[f"sample {name}"] = cache.get(f"sample {name}") or _look(name, (ASSETS / name).read_bytes)
    for index, (name, data) in enumerate(restored):
        key = f"restored {index} {name}"
        found[key] = cache.get(key) or _look(name, lambda data=data: data)
    st.session_state["candidates"] = found
    return list(found.values())


def _look(name: str, read: Callable[[], bytes]) -> Candidate:
    app = current()
    data = read()
    try:
        image = prepare_image(app, name, data)
    except VisionMeterError as problem:
        return Candidate(name, None, None, problem, read)
    pixels = decode_image(data, bytes_max=app.settings.image_bytes_max, pixels_max=app.settings.image_pixels_max).pixels
    return Candidate(name, image, encode_jpeg(pixels, longest_side_px=THUMBNAIL_PX), None, read)


def clear_batch() -> None:
    """Empty the batch: new keys give new, empty widgets."""
    st.session_state["batch_number"] = st.session_state.get("batch_number", 0) + 1
    for key in ("restored", "quote", "quote_signature"):
        st.session_state.pop(key, None)
