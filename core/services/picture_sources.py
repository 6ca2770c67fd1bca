"""Where pictures come from besides files: a ZIP of them, or an address."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from core.errors import ArchiveRefusedError, TooManyImagesError
from core.identity.callers import Caller
from core.inference.images import require_known_format
from core.services.application import Application

# What macOS and others put into every archive.
_NOT_MEANT = ("__MACOSX/",)


def is_zip(name: str) -> bool:
    """Whether a file is called like a ZIP."""
    return name.lower().endswith(".zip")


def list_zip(app: Application, data: bytes) -> list[str]:
    """The files of a ZIP by their names in it, in its order, without folders and hidden files.

    Raises `ArchiveRefusedError` for what is no ZIP or has no files, and `TooManyImagesError`. Nothing is unpacked.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            # Of two of one name the last one is read: it stands here once.
            names = list(dict.fromkeys(entry.filename for entry in archive.infolist() if _is_meant(entry)))
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        # What `zipfile` raises for a damaged directory, one out of bounds, and one in many parts.
        raise ArchiveRefusedError(
            "This ZIP cannot be read: pack it anew, or choose the pictures themselves."
        ) from error
    if not names:
        raise ArchiveRefusedError("There is no file in this ZIP: choose another.")
    if len(names) > app.settings.batch_images_max:
        raise TooManyImagesError(
            f"At most {app.settings.batch_images_max} images run in one batch, and this ZIP has {len(names)}.",
            images_max=app.settings.batch_images_max,
        )
    return names


def read_zip(app: Application, data: bytes, name: str) -> bytes:
    """One file of a ZIP, of which no more is unpacked than one byte above the largest picture.

    Raises `ArchiveRefusedError` where it is broken or asks for a password.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(name) as file:
            return file.read(app.settings.image_bytes_max + 1)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError, ValueError, KeyError) as error:
        # Damaged in as many ways; RuntimeError is a password, NotImplementedError an unknown method.
        raise ArchiveRefusedError(
            "This file of the ZIP cannot be read (it is broken, or has a password): choose the picture itself."
        ) from error


def fetch_picture(app: Application, user: Caller, url: str) -> tuple[str, bytes]:
    """A picture by its address: a name for it, and its bytes.

    Raises what `Fetcher.fetch` raises, `RateLimitedError`, and `ImageUnsupportedError` for a page or a text.
    """
    app.rates.hit_images(user.id, 1)
    data = app.fetcher.fetch(url.strip(), bytes_max=app.settings.image_bytes_max).data
    require_known_format(data)
    name = unquote(PurePosixPath(urlsplit(url.strip()).path).name)
    return (name or "picture")[:200], data


def _is_meant(entry: zipfile.ZipInfo) -> bool:
    hidden = PurePosixPath(entry.filename).name.startswith(".")
    return not (entry.is_dir() or hidden or entry.filename.startswith(_NOT_MEANT))
