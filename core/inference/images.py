"""Uploads become pixels here, or are refused with a reason. The name of a file is never trusted.

The header is read first, and the number of pieces and of pixels is bounded before anything is allocated. The whole
image is decoded at preview, so that a file which breaks half-way is refused before it has a price.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.errors import (
    ImageAnimatedError,
    ImageBrokenError,
    ImageEmptyError,
    ImageRefusedError,
    ImageTooManyBytesError,
    ImageTooManyPixelsError,
    ImageUnsupportedError,
)
from core.inference.file_pieces import has_too_many_pieces
from core.inference.pixel_gate import PixelGate

Pixels: TypeAlias = NDArray[np.uint8]

# A camera's MPO is opened as a JPEG; Pillow has no opener of that name, and asking for it is a KeyError.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")

# A progressive JPEG has some ten scans. Each one costs a pass over all pixels, and a few bytes can ask for it.
SCANS_MAX = 64
_START_OF_SCAN = b"\xff\xda"
# What is decoded at the same time, by whoever asks: eight bytes a pixel while it is done, and for some twice as much.
_DECODING = PixelGate(50_000_000)
# So many pixels are converted at once, so that the steps between do not take memory for the whole picture.
_STRIP_PIXELS = 1_000_000
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
# How pixels that are `(H, W, 3)` as they are stored lie in an upright array.
_STORED: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright.swapaxes(0, 1)[::-1],
    7: lambda upright: upright.swapaxes(0, 1)[::-1, ::-1],
    8: lambda upright: upright.swapaxes(0, 1)[:, ::-1],
}


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """`pixels` is `(H, W, 3)` uint8 BGR, upright (EXIF orientation applied).

    `sha256` is that of the pixels and their shape: two files with the same picture have the same one.
    """

    pixels: Pixels
    sha256: str
    format: str

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return int(self.pixels.shape[1])


def decode_image(data: bytes, *, bytes_max: int, pixels_max: int) -> DecodedImage:
    """Decode one upload. Raises a subclass of `ImageRefusedError`; its message says what to do."""
    if not data:
        raise ImageEmptyError("The file is empty: choose it again, or export it anew.")
    if len(data) > bytes_max:
        raise ImageTooManyBytesError(
            f"The file has {len(data) / 1e6:.1f} MB and at most {bytes_max / 1e6:.0f} MB are accepted: save it "
            "with a smaller size or a stronger compression.",
            bytes=len(data),
            bytes_max=bytes_max,
        )
    if data.count(_START_OF_SCAN) > SCANS_MAX and data.startswith(b"\xff\xd8"):
        raise _unusual()
    with _open(data) as image:
        kind = str(image.format)
        width, height = image.size
        if width * height > pixels_max:
            raise ImageTooManyPixelsError(
                f"The picture has {width * height / 1e6:.0f} megapixels and at most {pixels_max / 1e6:.0f} are "
                "accepted: scale it down and upload it again.",
                pixels=width * height,
                pixels_max=pixels_max,
            )
        decoding_pixels = _decoding_pixels(image)
        if decoding_pixels > 2 * pixels_max:
            raise _unusual()
        try:
            if kind != "MPO" and _has_another_frame(image):
                raise ImageAnimatedError("The file holds several frames: export one frame as a picture.")
            with _DECODING.pass_through(decoding_pixels):
                pixels = _read_pixels(image, data)
                digest = hashlib.sha256(f"{pixels.shape[0]}x{pixels.shape[1]}:".encode())
                digest.update(pixels.data)
        except ImageRefusedError:
            raise
        except Exception as error:
            # Pillow's decoders raise a dozen different types for damaged data (OSError, SyntaxError,
            # struct.error, zlib.error, …); for the customer they are one: the file is damaged.
            raise ImageBrokenError(
                "The picture is damaged and cannot be read to its end: export or copy it again."
            ) from error
    return DecodedImage(pixels, digest.hexdigest(), "JPEG" if kind == "MPO" else kind)


def count_pixels(data: bytes) -> int:
    """How many pixels an upload announces, without decoding it; 0 for what cannot be served anyway."""
    try:
        with _open(data) as image:
            return image.width * image.height
    except ImageRefusedError:
        return 0


def require_known_format(data: bytes) -> None:
    """Raise `ImageUnsupportedError` for what does not begin as a picture does. Nothing is decoded."""
    _find_format(data)


def _open(data: bytes) -> Image.Image:
    """Read the header with the plugin that knows the file's first bytes.

    Not by `PIL.Image.open`: importing Ultralytics replaces it by one which, at the first file that nobody knows,
    installs a package from the network in the middle of a customer's request.
    """
    if has_too_many_pieces(data):
        raise _unusual()
    factory, _accept = Image.OPEN[_find_format(data)]
    try:
        return factory(io.BytesIO(data), "")
    except Exception as error:
        # As above: damaged headers raise whatever the plugin stumbled over.
        raise ImageBrokenError("The picture is damaged and cannot be read: export or copy it again.") from error


def _find_format(data: bytes) -> str:
    """The format whose plugin knows the first bytes. Raises `ImageUnsupportedError`."""
    Image.init()
    for kind in FORMATS:
        _factory, accept = Image.OPEN[kind]
        if accept is not None and accept(data[:16]) is True:
            return kind
    raise ImageUnsupportedError(
        "This is no JPEG, PNG, WebP, BMP or TIFF picture, whatever its name says: export it as one of these."
    )


def _unusual() -> ImageBrokenError:
    return ImageBrokenError("The picture is built in an unusual way: export it again as a plain JPEG or PNG.")


def _has_another_frame(image: Image.Image) -> bool:
    if image.format != "TIFF":
        return int(getattr(image, "n_frames", 1)) > 1
    # A TIFF would be read to its last page for that, and may have a million.
    try:
        image.seek(1)
    except EOFError:
        image.seek(0)
        return False
    return True


def _decoding_pixels(image: Image.Image) -> int:
    """As how many pixels a picture counts while it is decoded, by the memory that this takes."""
    pixels = image.width * image.height
    if image.info.get("progressive"):
        return 2 * pixels
    if image.format == "TIFF":
        # The decoder allocates a whole tile, and a tile may be larger than its picture.
        tags = image.tag_v2  # type: ignore[attr-defined]  # a TIFF has it
        sides = (tags.get(_TILE_WIDTH), tags.get(_TILE_LENGTH))
        return max(pixels, math.prod(side if isinstance(side, int) else 0 for side in sides))
    return pixels


def _read_pixels(image: Image.Image, data: bytes) -> Pixels:
    """`(H, W, 3)` BGR, as the image is meant to be seen."""
    if any(tile[0] == "bmp_rle" for tile in getattr(image, "tile", ())):
        # It is decoded in Python, a byte at a time.
        raise ImageUnsupportedError("A compressed BMP is not accepted: export it as PNG.")
    if image.format != "WEBP":
        image.load()
    if image.mode in ("I", "F"):
        raise ImageUnsupportedError(
            "The pixels have 32 bits, of which nobody says what is black and what is white: export it with 8 or 16."
        )
    width, height = image.size
    orientation = _orientation(image)
    pixels = np.empty((width, height, 3) if orientation in _SIDEWAYS else (height, width, 3), dtype=np.uint8)
    stored = _STORED[orientation](pixels) if orientation in _STORED else pixels
    if image.format == "WEBP":
        stored[:] = _read_webp(data)
        return pixels
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        strip = image if rows >= height else image.crop((0, top, width, min(height, top + rows)))
        stored[top : top + rows] = _to_bgr(strip)
    return pixels


def _read_webp(data: bytes) -> Pixels:
    """The same pixels as Pillow's, which takes sixteen bytes for each and several times as long."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_BGR | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ValueError("the WebP picture cannot be decoded")
    return np.asarray(pixels, dtype=np.uint8)


def _orientation(image: Image.Image) -> int:
    """How the image has to be turned; only that is read, for other EXIF fields may be damaged.

    Pillow turns a TIFF while it loads it, and then says that nothing is to be done.
    """
    try:
        return int(image.getexif().get(_ORIENTATION) or 1)
    except Exception:
        # A damaged EXIF block says nothing about the pixels.
        return 1


def _to_bgr(image: Image.Image) -> Pixels:
    if image.mode.startswith("I;16"):
        # Pillow would clip 16-bit grey at 255 and turn the picture white.
        grey = (np.asarray(image, dtype=np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    # Pillow would copy what is RGB already, and numpy takes a millisecond for each megapixel that it turns round.
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    return np.asarray(cv2.cvtColor(np.asarray(rgb), cv2.COLOR_RGB2BGR), dtype=np.uint8)


def encode_jpeg(pixels: Pixels, *, longest_side_px: int | None = None, quality: int = 88) -> bytes:
    """`(H, W, 3)` BGR as JPEG bytes, scaled down so that the longer side is at most `longest_side_px`."""
    height, width = pixels.shape[:2]
    if longest_side_px is not None and max(height, width) > longest_side_px:
        scale = longest_side_px / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    done, buffer = cv2.imencode(".jpg", pixels, [int(cv2.IMWRITE_JPEG_QUALITY), quality])
    if not done:
        raise ValueError("the pixels could not be encoded as JPEG")
    return buffer.tobytes()


def encode_png(pixels: Pixels) -> bytes:
    """`(H, W, 3)` BGR as PNG bytes."""
    done, buffer = cv2.imencode(".png", pixels)
    if not done:
        raise ValueError("the pixels could not be encoded as PNG")
    return buffer.tobytes()
