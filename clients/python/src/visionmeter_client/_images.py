"""Where an image may come from, and what of it is sent."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

# A path, the bytes of an image file, the address of one (http or https), or a file opened for reading bytes.
ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes]

UNNAMED = "image"


@dataclass(frozen=True, slots=True)
class SentImage:
    """An image as it travels: the address of a picture that the server fetches, or bytes and their name."""

    name: str
    url: str | None = None
    content: bytes = b""

    def as_json(self) -> dict[str, str]:
        """The object that the API takes for one image."""
        if self.url is not None:
            return {"image_url": self.url}
        return {"image": base64.b64encode(self.content).decode(), "name": self.name}

    def as_part(self) -> tuple[str, bytes, str]:
        """The part of a multipart body: the server looks at the bytes, not at what the type says."""
        return self.name, self.content, "application/octet-stream"


def open_image(source: ImageSource) -> SentImage:
    """Read an image to send. Raises `OSError` for a file that cannot be read and `TypeError` for what is no image."""
    if isinstance(source, str) and source.lower().startswith(("http://", "https://")):
        return SentImage(name=source.rsplit("/", 1)[-1] or UNNAMED, url=source)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        return SentImage(name=path.name, content=path.read_bytes())
    if isinstance(source, bytes | bytearray | memoryview):
        return SentImage(name=UNNAMED, content=bytes(source))
    return _read_file(source)


def open_images(sources: Sequence[ImageSource]) -> list[SentImage]:
    """The same for several. One path or one `bytes` is no list of images: `TypeError`."""
    if isinstance(sources, str | bytes | os.PathLike):
        raise TypeError("Give a list of images, also for a single one.")
    images = [open_image(source) for source in sources]
    if not images:
        raise ValueError("Give at least one image.")
    return images


def _read_file(file: Any) -> SentImage:
    content = file.read() if hasattr(file, "read") else None
    if not isinstance(content, bytes):
        raise TypeError("An image is a path, bytes, an http(s) address, or a file opened with mode 'rb'.")
    name = getattr(file, "name", None)
    return SentImage(name=Path(name).name if isinstance(name, str) else UNNAMED, content=content)
