"""The pictures a customer is about to run: uploads, samples and the rest of an earlier run, looked at once each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

import streamlit as st
from ultralytics.utils import ASSETS

from core.errors import VisionMeterError
from core.jobs.blobs import hash_bytes
from core.services.application import current
from core.services.picture_sources import is_zip, list_zip, read_zip
from core.services.quotes import PreparedImage, preview_image
from ui.i18n import _

SAMPLES = ("bus.jpg", "zidane.jpg")
SILENT_MAX = 5


@dataclass(frozen=True, slots=True)
class Candidate:
    """One picture of the batch: either `image` with a `thumbnail` (JPEG), or the `problem` it was refused for."""

    name: str
    image: PreparedImage | None
    thumbnail: bytes | None
    problem: VisionMeterError | None
    read: Callable[[], bytes]


def collect(uploads: list, samples: list[str]) -> list[Candidate]:
    """Look at every picture; what was looked at before in this session is remembered.

    Streamlit empties an uploader when its page is left. Whoever comes back finds his pictures all the same.
    """
    cache: dict[str, Candidate] = st.session_state.setdefault("candidates", {})
    if st.session_state.get("page_arrived") and not uploads and not samples and cache:
        restore([(candidate.name, candidate.read()) for candidate in cache.values()])
        st.session_state["page_arrived"] = False
    wanted: dict[str, tuple[str, Callable[[], bytes]]] = {}
    for upload in uploads:
        if is_zip(upload.name):
            _unpack(upload, wanted, cache)
        else:
            wanted[upload.file_id] = (upload.name, upload.getvalue)
    for name in samples:
        wanted[f"sample {name}"] = (name, (ASSETS / name).read_bytes)
    for key, (name, data) in st.session_state.get("restored", {}).items():
        wanted[key] = (name, lambda data=data: data)
    new = [key for key in wanted if key not in cache]
    progress = st.progress(0.0, text=_("Looking at the pictures …")) if len(new) > SILENT_MAX else None
    for index, key in enumerate(new):
        cache[key] = _look(*wanted[key])
        if progress is not None:
            progress.progress((index + 1) / len(new), text=_("Looking at the pictures …"))
    if progress is not None:
        progress.empty()
    st.session_state["candidates"] = {key: cache[key] for key in wanted}
    return list(st.session_state["candidates"].values())


def _unpack(upload, wanted: dict[str, tuple[str, Callable[[], bytes]]], cache: dict[str, Candidate]) -> None:
    """Each file of a ZIP as a picture of its own; what cannot be unpacked is refused by its name."""
    app = current()
    try:
        members = list_zip(app, upload.getvalue())
    except VisionMeterError as problem:
        wanted[upload.file_id] = (upload.name, upload.getvalue)
        cache[upload.file_id] = Candidate(upload.name, None, None, problem, upload.getvalue)
        return
    for member in members:

        def read(member: str = member) -> bytes:
            return read_zip(app, upload.getvalue(), member)

        wanted[f"{upload.file_id} {member}"] = (PurePosixPath(member).name, read)


def _look(name: str, read: Callable[[], bytes]) -> Candidate:
    try:
        image, thumbnail = preview_image(current(), name, read())
    except VisionMeterError as problem:
        return Candidate(name, None, None, problem, read)
    return Candidate(name, image, thumbnail, None, read)


def restore(pictures: list[tuple[str, bytes]]) -> None:
    """Put pictures into the batch that did not come through the uploader. Hashed once, here, not at every rerun."""
    st.session_state["restored"] = {f"restored {hash_bytes(data)} {name}": (name, data) for name, data in pictures}


def add_fetched(name: str, data: bytes) -> None:
    """Put a picture into the batch that came from an address."""
    st.session_state.setdefault("restored", {})[f"fetched {hash_bytes(data)} {name}"] = (name, data)


def has_restored() -> bool:
    """Whether the batch holds pictures that the uploader does not show, so that it cannot remove them."""
    return bool(st.session_state.get("restored"))


def clear_batch() -> None:
    """Empty the batch: new keys give new, empty widgets."""
    st.session_state["batch_number"] = st.session_state.get("batch_number", 0) + 1
    for key in ("restored", "candidates", "quote", "quote_signature"):
        st.session_state.pop(key, None)
