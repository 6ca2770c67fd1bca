"""Real pictures that differ from one another: one photograph, cut a little differently each time."""

from __future__ import annotations

import io

from PIL import Image


def distinct_jpegs(photograph: bytes, count: int) -> list[bytes]:
    """`count` JPEGs of 810×1080 pixels with different content, all priced alike."""
    image = Image.open(io.BytesIO(photograph)).convert("RGB")
    made = []
    for index in range(count):
        buffer = io.BytesIO()
        image.crop((index, index, image.width, image.height)).resize(image.size).save(buffer, "JPEG", quality=88)
        made.append(buffer.getvalue())
    return made
