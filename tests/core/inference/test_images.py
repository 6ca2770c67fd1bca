"""Uploads become upright pixels, or are refused with the right reason and without a large allocation."""

from __future__ import annotations

import io
import random
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from core import errors
from core.inference.images import DecodedImage, decode_image, encode_jpeg, encode_png

LIMITS = {"bytes_max": 20_000_000, "pixels_max": 50_000_000}
SEED = 4_711


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """A Pillow image as file bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One PNG chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(width: int, height: int) -> bytes:
    """A few hundred bytes of PNG that announce `width × height` RGB pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 100_000, 9)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def photo(photo_bytes: dict[str, bytes]) -> Image.Image:
    """A small real photograph."""
    return Image.open(io.BytesIO(photo_bytes["bus.jpg"])).convert("RGB").resize((162, 216))


def animated(kind: str, photo: Image.Image) -> bytes:
    """Two different frames."""
    return encoded(photo, kind, save_all=True, append_images=[photo.rotate(90)], duration=100, loop=0)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda _photo: b"", errors.ImageEmptyError),
        (lambda photo: encoded(photo, "JPEG")[:3000], errors.ImageBrokenError),
        (lambda photo: encoded(photo, "PNG")[:20_000], errors.ImageBrokenError),
        (lambda photo: encoded(photo, "WEBP")[:1500], errors.ImageRefusedError),
        (lambda _photo: b"This is a letter and no picture.\n" * 50, errors.ImageUnsupportedError),
        (lambda _photo: b"\xff\xd8\xff", errors.ImageRefusedError),
        (lambda _photo: png_bomb(50_000, 50_000), errors.ImageTooManyPixelsError),
        (lambda _photo: png_bomb(10_000, 5_001), errors.ImageTooManyPixelsError),
        (lambda photo: encoded(photo, "GIF"), errors.ImageUnsupportedError),
        (lambda photo: animated("GIF", photo), errors.ImageUnsupportedError),
        (lambda photo: animated("WEBP", photo), errors.ImageAnimatedError),
        (lambda photo: animated("PNG", photo), errors.ImageAnimatedError),
        (lambda photo: animated("TIFF", photo), errors.ImageAnimatedError),
        (lambda _photo: b"<svg xmlns='http://www.w3.org/2000/svg'/>", errors.ImageUnsupportedError),
        (lambda _photo: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", errors.ImageUnsupportedError),
    ],
    ids=[
        "zero-byte", "truncated-jpeg", "truncated-png", "truncated-webp", "text.jpg", "three-bytes", "bomb",
        "just-over-the-limit", "gif", "animated-gif", "animated-webp", "animated-png", "two-page-tiff", "svg", "eps",
    ],
)  # fmt: skip
def test_refused_for_the_right_reason(photo: Image.Image, make: object, error: type[Exception]) -> None:
    """Each bad file raises its own error, says what to do, and allocates nothing huge."""
    data = make(photo)  # type: ignore[operator]  # the parametrisation gives functions
    tracemalloc.start()
    try:
        with pytest.raises(error) as caught:
            decode_image(data, **LIMITS)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(caught.value, errors.ImageRefusedError)
    assert caught.value.code != errors.ImageRefusedError.code
    assert len(caught.value.message) > 20
    assert peak < 20_000_000


def test_a_bomb_within_the_limit_is_a_broken_file() -> None:
    """A header that announces an allowed size without the data behind it is refused as damaged."""
    with pytest.raises(errors.ImageBrokenError):
        decode_image(png_bomb(4000, 4000), **LIMITS)


def test_byte_limit_at_its_edge(photo: Image.Image) -> None:
    """A file of exactly the limit is accepted, one byte more is not."""
    data = encoded(photo, "PNG")
    assert decode_image(data, bytes_max=len(data), pixels_max=10**6).width == 162
    with pytest.raises(errors.ImageTooManyBytesError) as caught:
        decode_image(data, bytes_max=len(data) - 1, pixels_max=10**6)
    assert caught.value.details == {"bytes": len(data), "bytes_max": len(data) - 1}


def test_pixel_limit_at_its_edge(photo: Image.Image) -> None:
    """An image of exactly the limit is accepted, with a limit one pixel lower it is not."""
    data = encoded(photo, "PNG")
    assert decode_image(data, bytes_max=10**7, pixels_max=162 * 216).height == 216
    with pytest.raises(errors.ImageTooManyPixelsError):
        decode_image(data, bytes_max=10**7, pixels_max=162 * 216 - 1)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_give_their_pixels(photo: Image.Image, kind: str) -> None:
    """The content decides about the format, never a name; lossless formats come out bit by bit, as BGR."""
    options = {"lossless": True} if kind == "WEBP" else {}
    image = decode_image(encoded(photo, kind, **options), **LIMITS)
    assert image.format == kind
    assert np.array_equal(image.pixels[:, :, ::-1], np.asarray(photo))


def test_same_picture_in_two_files_is_the_same(photo: Image.Image) -> None:
    """The hash is that of the pixels and their shape, not of the file."""
    png, bmp = decode_image(encoded(photo, "PNG"), **LIMITS), decode_image(encoded(photo, "BMP"), **LIMITS)
    turned = decode_image(encoded(Image.new("RGB", (20, 10)), "PNG"), **LIMITS)
    upright = decode_image(encoded(Image.new("RGB", (10, 20)), "PNG"), **LIMITS)
    assert png.sha256 == bmp.sha256
    assert turned.sha256 != upright.sha256


@pytest.mark.parametrize(
    ("tag", "undo"),
    [
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (4, Image.Transpose.FLIP_TOP_BOTTOM),
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_90),
        (7, Image.Transpose.TRANSVERSE),
        (8, Image.Transpose.ROTATE_270),
    ],
)
def test_exif_orientation_is_honoured(photo: Image.Image, tag: int, undo: Image.Transpose) -> None:
    """A photograph stored turned, with its EXIF tag, has the pixels of the upright one within JPEG tolerance."""
    exif = Image.Exif()
    exif[0x0112] = tag
    turned = decode_image(encoded(photo.transpose(undo), "JPEG", quality=98, exif=exif.tobytes()), **LIMITS)
    upright = decode_image(encoded(photo, "JPEG", quality=98), **LIMITS)
    plain = decode_image(encoded(photo.transpose(undo), "JPEG", quality=98), **LIMITS)
    assert (turned.height, turned.width) == (upright.height, upright.width) == (216, 162)
    difference = np.abs(turned.pixels.astype(int) - upright.pixels.astype(int))
    assert difference.mean() < 2
    if plain.pixels.shape == upright.pixels.shape:
        assert np.abs(plain.pixels.astype(int) - upright.pixels.astype(int)).mean() > 10


def test_sixteen_bit_png_keeps_its_greys() -> None:
    """16-bit grey becomes 8-bit grey by its high byte instead of clipping to white."""
    ramp = np.linspace(0, 65_535, 256 * 4).astype(np.uint16).reshape(4, 256)
    image = decode_image(encoded(Image.fromarray(ramp), "PNG"), **LIMITS)
    assert np.array_equal(image.pixels[:, :, 0], (ramp >> 8).astype(np.uint8))
    assert np.array_equal(image.pixels[:, :, 0], image.pixels[:, :, 2])


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("CMYK", "JPEG"), ("L", "JPEG"), ("RGBA", "PNG"), ("P", "PNG"), ("LA", "PNG"), ("1", "PNG"), ("CMYK", "TIFF")],
)
def test_other_modes_become_bgr(photo: Image.Image, mode: str, kind: str) -> None:
    """CMYK, grey, transparent, palette and bilevel pictures are accepted as the picture a viewer shows."""
    image = decode_image(encoded(photo.convert(mode), kind), **LIMITS)
    assert image.pixels.shape == (216, 162, 3)
    assert image.pixels.dtype == np.uint8
    if mode in ("CMYK", "RGBA"):
        assert np.abs(image.pixels[:, :, ::-1].astype(int) - np.asarray(photo, int)).mean() < 12
    else:
        grey = np.asarray(photo.convert("L"), int).ravel()
        assert np.corrcoef(grey, image.pixels.mean(axis=2).ravel())[0, 1] > 0.5


def test_own_encoders_are_read_back(bus: DecodedImage) -> None:
    """PNG downloads are exact; JPEG previews are close and no longer than asked."""
    assert decode_image(encode_png(bus.pixels), **LIMITS).sha256 == bus.sha256
    preview = decode_image(encode_jpeg(bus.pixels, longest_side_px=540), **LIMITS)
    assert (preview.height, preview.width) == (540, 405)


def test_unknown_files_are_refused_after_ultralytics_was_imported() -> None:
    """Ultralytics replaces `PIL.Image.open` by one that installs packages; a text file must not set that off."""
    import ultralytics.utils.patches

    assert Image.open is ultralytics.utils.patches.image_open
    with pytest.raises(errors.ImageUnsupportedError):
        decode_image(b"no picture at all", **LIMITS)


def mutate(data: bytes, draw: random.Random) -> bytes:
    """Damage a file in one of the ways that disks, networks and attackers do."""
    damaged = bytearray(data)
    for _ in range(draw.randint(1, 6)):
        start = draw.randrange(len(damaged)) if draw.random() < 0.5 else draw.randrange(min(600, len(damaged)))
        match draw.randrange(5):
            case 0:
                damaged[start] ^= 1 << draw.randrange(8)
            case 1:
                damaged[start : start + 4] = draw.randbytes(4)
            case 2:
                del damaged[start : start + draw.randint(1, 400)]
            case 3:
                damaged[start:start] = draw.randbytes(draw.randint(1, 40))
            case 4:
                damaged[start : start + 4] = b"\xff\xff\xff\xff"
        if not damaged:
            damaged = bytearray(b"\0")
    return bytes(damaged)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_damaged_files_never_raise_anything_else(photo: Image.Image, kind: str) -> None:
    """300 seeded mutations of a file decode or raise ImageRefusedError; nothing else gets out."""
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when the test fails
    draw = random.Random(SEED)
    exif = Image.Exif()
    exif[0x0112] = 6
    original = encoded(photo.resize((81, 108)), kind, **({"exif": exif.tobytes()} if kind in ("JPEG", "PNG") else {}))
    refused = 0
    for number in range(300):
        data = mutate(original, draw)
        try:
            image = decode_image(data, bytes_max=10**6, pixels_max=2_000_000)
        except errors.ImageRefusedError:
            refused += 1
        except Exception as error:
            pytest.fail(f"{kind} mutation {number}: {error!r}")
        else:
            assert image.pixels.size <= 3 * 2_000_000
    assert refused > 30


def test_a_jpeg_of_a_thousand_scans_is_refused_at_once() -> None:
    """A progressive JPEG whose last scan is repeated costs a pass over all pixels each time: it is refused."""
    buffer = io.BytesIO()
    Image.new("L", (64, 64), 90).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    plain = decode_image(data, bytes_max=10**7, pixels_max=10**7)
    assert (plain.height, plain.width) == (64, 64)
    with pytest.raises(errors.ImageBrokenError):
        decode_image(data[:-2] + last_scan * 1000 + data[-2:], bytes_max=10**7, pixels_max=10**7)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_known_range_are_refused(mode: str) -> None:
    """32-bit TIFFs do not say what is black and what is white: better refused than charged for a black picture."""
    buffer = io.BytesIO()
    Image.new(mode, (40, 40), 200).save(buffer, "TIFF")
    with pytest.raises(errors.ImageUnsupportedError):
        decode_image(buffer.getvalue(), bytes_max=10**7, pixels_max=10**7)


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "WEBP"])
@pytest.mark.parametrize("tag", range(1, 10))
def test_every_format_is_turned_once(photo: Image.Image, kind: str, tag: int) -> None:
    """Pillow turns a TIFF by itself and leaves the others; each comes out upright bit by bit, 9 is no orientation."""
    exif = Image.Exif()
    exif[0x0112] = tag
    options = {"tiffinfo": {274: tag}} if kind == "TIFF" else {"exif": exif.tobytes(), "lossless": True}
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(photo, kind, **options)))))
    assert np.array_equal(decode_image(encoded(photo, kind, **options), **LIMITS).pixels[:, :, ::-1], upright)


def pieces(kind: str) -> bytes:
    """Less than 20 MB that are as many pieces as fit."""
    picture = Image.new("RGB", (8, 8))
    if kind == "TIFF":
        tags = [(256, 3, 1, 1), (257, 4, 1, 2_400_000), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
        tags += [(273, 4, 2_400_000, 122), (277, 3, 1, 1), (278, 3, 1, 1), (279, 4, 2_400_000, 122 + 9_600_000)]
        head = struct.pack("<IH", 8, len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
        return b"II*\0" + head + bytes(4) + struct.pack("<I", 8) * 2_400_000 + struct.pack("<I", 1) * 2_400_000
    data = encoded(picture, "JPEG" if kind.startswith("JPEG") else "PNG")
    at, piece = {
        "JPEG": (2, b"\xff\xe5\0\2"),
        "JPEG filling": (2, b"\xff"),
        "JPEG between": (2, b"\1"),
        "PNG": (33, png_chunk(b"prVt", b"")),
        "PNG text": (33, png_chunk(b"tEXt", b"a\0b")),
        "PNG data": (33, png_chunk(b"IDAT", b"")),
    }[kind]
    return data[:at] + piece * (19_000_000 // len(piece)) + data[at:]


@pytest.mark.parametrize(
    "kind", ["JPEG", "JPEG filling", "JPEG between", "PNG", "PNG text", "PNG data", "TIFF"]
)  # fmt: skip
def test_millions_of_pieces_are_refused_at_once(kind: str) -> None:
    """Pillow would read them one by one, for up to a minute and with hundreds of MB."""
    data = pieces(kind)
    began = time.process_time()
    with pytest.raises(errors.ImageBrokenError, match="unusual"):
        decode_image(data, **LIMITS)
    assert time.process_time() - began < 1


def test_a_thousand_pieces_are_nothing_unusual(photo: Image.Image) -> None:
    """A PNG in chunks of 20 bytes and a JPEG with many comments have their pixels as ever."""
    png, jpeg = encoded(photo.resize((81, 108)), "PNG"), encoded(photo, "JPEG")
    body = png[png.index(b"IDAT") + 4 : png.index(b"IEND") - 8]
    small = b"".join(png_chunk(b"IDAT", body[start : start + 20]) for start in range(0, len(body), 20))
    split = png[:33] + small + png_chunk(b"IEND", b"")
    assert small.count(b"IDAT") > 500
    assert decode_image(split, **LIMITS).sha256 == decode_image(png, **LIMITS).sha256
    commented = jpeg[:2] + b"\xff\xfe\0\4hi" * 1000 + jpeg[2:]
    assert decode_image(commented, **LIMITS).sha256 == decode_image(jpeg, **LIMITS).sha256


def test_a_tiff_of_a_hundred_thousand_pages_is_refused_at_once() -> None:
    """It has several frames; how many is not counted."""
    tags = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    tags += [(277, 3, 1, 1), (278, 3, 1, 1), (279, 4, 1, 1)]
    page = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    step = len(page) + 4
    pages = b"".join(page + struct.pack("<I", 8 + step * number) for number in range(1, 100_001))
    began = time.process_time()
    with pytest.raises(errors.ImageAnimatedError):
        decode_image(b"II*\0" + struct.pack("<I", 8) + pages + page + bytes(4), **LIMITS)
    assert time.process_time() - began < 1


def test_a_compressed_bmp_is_refused() -> None:
    """It would be decoded in Python, a byte at a time."""
    header = struct.pack("<IiiHHIIiiII", 40, 4000, 4000, 1, 8, 1, 0, 0, 0, 1, 0)
    data = b"BM" + struct.pack("<IHHI", 0, 0, 0, 58) + header + bytes(4) + b"\xff\0" * 100_000
    with pytest.raises(errors.ImageUnsupportedError, match="PNG"):
        decode_image(data, **LIMITS)
