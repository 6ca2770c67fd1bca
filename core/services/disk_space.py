"""Whether the disk has room for a picture."""

from __future__ import annotations

import logging

from core.errors import DiskFullError
from core.services.application import Application

log = logging.getLogger("visionmeter")


def require_disk_space(app: Application) -> None:
    """Raise `DiskFullError` while less than `disk_free_bytes_min` is left; asking costs some microseconds.

    Asked before anything is held. The database needs room too, to give back what is held: so pictures go without first.
    """
    free_bytes = app.blobs.free_bytes()
    if free_bytes < app.settings.disk_free_bytes_min:
        log.error("pictures are refused: %d bytes are left on the disk of %s", free_bytes, app.blobs.root)
        raise DiskFullError(
            "The disk of this service is full, so it takes no pictures: tell its operator, and try again later. "
            "Nothing was taken."
        )
