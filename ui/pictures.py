"""Stored pictures, as they are drawn on pages."""

from __future__ import annotations

from core.inference.images import Pixels, decode_image
from core.services.application import current

SHOWN_PX = 1100


def stored_pixels(account_id: str, file_sha256: str) -> Pixels:
    """A picture of a run, `(H, W, 3)` BGR. Raises `OSError` when it is not stored any more."""
    settings = current().settings
    data = current().blobs.get(account_id, file_sha256)
    return decode_image(data, bytes_max=settings.image_bytes_max, pixels_max=settings.image_pixels_max).pixels
