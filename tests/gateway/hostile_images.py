"""Pictures that are damaged, lie, or are merely unusual; each with what has to become of it."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Rgb = NDArray[np.uint8]

# What refuses a picture, whichever way it came. What an address gives is refused by the fetcher at times, before it
# is looked at.
BROKEN, UNSUPPORTED, EMPTY = "image_broken", "image_unsupported", "image_empty"
ANIMATED, TOO_MANY_PIXELS, TOO_MANY_BYTES = "image_animated", "image_too_many_pixels", "image_too_many_bytes"


@dataclass(frozen=True)
class Hostile:
    """A file, and either the code that refuses it or the `(H, W, 3)` RGB picture that it has to be.

    `exact` says that every pixel is the same; otherwise the coding loses some, and the answer is nearly the same.
    """

    name: str
    data: bytes
    refused: str | None = None
    rgb: Rgb | None = None
    exact: bool = True


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """A Pillow image as file bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(rgb: Rgb) -> bytes:
    """The plain picture."""
    return encode(Image.fromarray(rgb), "PNG", compress_level=1)


def hostile_images(photo: Rgb) -> list[Hostile]:
    """More than thirty files around a small photograph, `(H, W, 3)` RGB; those of one call are all different."""
    return [*_refused(photo), *_exact(photo), *_nearly(photo)]


def large_images() -> list[Hostile]:
    """Small files that are 49 megapixels, just within the limit, in the formats that take most memory to decode."""
    side = 7000
    plain = Image.new("RGB", (side, side), (70, 110, 40))
    grey = np.full((side, side), 30_000, np.uint16)
    rgb = np.broadcast_to(np.array((70, 110, 40), np.uint8), (side, side, 3))
    return [
        Hostile("large.png", encode(plain, "PNG", compress_level=1), rgb=rgb),
        Hostile("large 16-bit.png", encode(Image.fromarray(grey), "PNG", compress_level=1), rgb=rgb),
        Hostile("large turned.jpg", encode(plain, "JPEG", exif=_turned(6)), rgb=rgb, exact=False),
        Hostile("large progressive.jpg", encode(plain, "JPEG", progressive=True, subsampling=0), rgb=rgb, exact=False),
        Hostile("large.webp", encode(plain, "WEBP", lossless=True, method=0), rgb=rgb),
        Hostile("large.tiff", encode(plain, "TIFF", compression="tiff_lzw"), rgb=rgb),
    ]


# Refused -------------------------------------------------------------------------------------------


def _refused(photo: Rgb) -> list[Hostile]:
    image = Image.fromarray(photo)
    jpeg, webp = encode(image, "JPEG", quality=90), encode(image, "WEBP")
    small = image.resize((64, 64))
    progressive = encode(small, "JPEG", progressive=True)
    last_scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    frames = {"save_all": True, "append_images": [small.rotate(90)], "duration": 100}
    files: list[tuple[str, str, bytes]] = [
        ("empty.jpg", EMPTY, b""),
        ("one byte.jpg", UNSUPPORTED, b"\xff"),
        ("three bytes.jpg", BROKEN, b"\xff\xd8\xff"),
        ("truncated.jpg", BROKEN, jpeg[: len(jpeg) // 2]),
        ("truncated.png", BROKEN, png(photo)[: len(png(photo)) // 2]),
        ("truncated.webp", BROKEN, webp[: len(webp) // 2]),
        ("truncated.tiff", BROKEN, encode(image, "TIFF")[:5000]),
        ("truncated.bmp", BROKEN, encode(image, "BMP")[:5000]),
        ("bomb, one bit.png", TOO_MANY_PIXELS, _png_bomb(30_000, 30_000, bits=1)),
        ("bomb, two billion.png", TOO_MANY_PIXELS, _png_bomb(50_000, 50_000, bits=8)),
        ("one over the limit.png", TOO_MANY_PIXELS, _png_bomb(50_001, 1_000, bits=1)),
        ("announces only.png", BROKEN, _png_bomb(4_000, 4_000, bits=8, bytes_of_data=10)),
        ("bomb.webp", BROKEN, _webp_bomb()),
        ("bomb.gif", UNSUPPORTED, b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0x80, 0, 0) + bytes(6) + b"\x3b"),
        ("a tile of a gigabyte.tiff", BROKEN, _tile_bomb()),
        ("two frames.gif", UNSUPPORTED, encode(small, "GIF", **frames)),
        ("two frames.webp", ANIMATED, encode(small, "WEBP", **frames)),
        ("two frames.png", ANIMATED, encode(small, "PNG", **frames)),
        ("two pages.tiff", ANIMATED, encode(small, "TIFF", save_all=True, append_images=[small.rotate(90)])),
        ("two pages in a circle.tiff", ANIMATED, _tiff_pages(2, next_after_last=8)),
        ("thousands of pages.tiff", ANIMATED, _tiff_pages(20_000)),
        ("a hundred thousand strips.tiff", BROKEN, _tiff_strips(100_000)),
        ("gif and script.gif", UNSUPPORTED, b"GIF89a/*" + bytes(300) + b"*/=1;alert(1)//"),
        ("pdf before.jpg", UNSUPPORTED, b"%PDF-1.7\n" + jpeg),
        ("page.jpg", UNSUPPORTED, b"<!doctype html><html><script>alert(1)</script></html>" * 20),
        ("vector.svg", UNSUPPORTED, b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'),
        (
            "entity.svg",
            UNSUPPORTED,
            b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><svg/>',
        ),
        ("phone.heic", UNSUPPORTED, b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500)),
        ("new.avif", UNSUPPORTED, b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(500)),
        ("drawing.eps", UNSUPPORTED, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n"),
        ("size of its own.bmp", TOO_MANY_PIXELS, _bmp(60_000, 60_000)),
        ("less than none.bmp", TOO_MANY_PIXELS, _bmp(-5, 40)),
        ("more than it has.bmp", BROKEN, _bmp(4_000, 4_000)),
        ("run lengths.bmp", UNSUPPORTED, _bmp(7_000, 7_000, compression=1)),
        ("thousands of scans.jpg", BROKEN, progressive[:-2] + last_scan * 5_000 + progressive[-2:]),
        ("a hundred thousand segments.jpg", BROKEN, jpeg[:2] + b"\xff\xe5\0\2" * 100_000 + jpeg[2:]),
        ("fifty thousand chunks.png", BROKEN, _with_chunk(png(photo), b"prVt", b"", times=50_000)),
        ("text of a gigabyte.png", BROKEN, _with_chunk(png(photo), b"zTXt", b"Comment\0\0" + _deflated_zeros(10**9))),
        ("profile of a gigabyte.png", BROKEN, _with_chunk(png(photo), b"iCCP", b"icc\0\0" + _deflated_zeros(10**9))),
        ("no size at all.jpg", BROKEN, _with_jpeg_size(jpeg, 0, 0)),
        ("32-bit.tiff", UNSUPPORTED, encode(Image.new("F", (40, 40), 0.5), "TIFF")),
        ("large file.jpg", TOO_MANY_BYTES, jpeg + bytes(20_000_000)),
    ]
    return [Hostile(name, data, refused=code) for name, code, data in files]


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_bomb(width: int, height: int, *, bits: int, bytes_of_data: int | None = None) -> bytes:
    """A PNG of zeros, grey for one bit and RGB for eight."""
    row = (width * bits * (3 if bits == 8 else 1) + 7) // 8 + 1
    header = struct.pack(">IIBBBBB", width, height, bits, 2 if bits == 8 else 0, 0, 0, 0)
    body = _deflated_zeros(row * height if bytes_of_data is None else bytes_of_data)
    return b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", header) + _png_chunk(b"IDAT", body) + _png_chunk(b"IEND", b"")


def _deflated_zeros(count: int) -> bytes:
    """A zlib stream of so many zeros, made without going through them all; a few more at its end do not matter."""
    block = 1 << 24
    flushing = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = (flushing.compress(bytes(block)) + flushing.flush(zlib.Z_FULL_FLUSH)) * (count // block)
    ending = zlib.compressobj(9, zlib.DEFLATED, -15)
    body += ending.compress(bytes(count % block)) + ending.flush()
    # The second half of Adler-32 counts the bytes, the first stays one.
    return b"\x78\xda" + body + struct.pack(">HH", count % 65_521, 1)


def _with_chunk(data: bytes, kind: bytes, content: bytes, *, times: int = 1) -> bytes:
    """A PNG with a chunk right after its header."""
    return data[:33] + _png_chunk(kind, content) * times + data[33:]


def _webp_bomb() -> bytes:
    """The largest WebP that there is."""
    bits = (16_383 | 16_383 << 14) & 0xFFFFFFFF
    body = b"VP8L" + struct.pack("<IBI", 9, 0x2F, bits) + bytes(5)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _tiff(entries: list[tuple[int, int, int, int]], *, after: bytes = b"", next_page: int = 0) -> bytes:
    """A little-endian TIFF of one directory; `after` stands right behind it."""
    return b"II*\0" + struct.pack("<I", 8) + _directory(entries, next_page) + after


def _directory(entries: list[tuple[int, int, int, int]], next_page: int) -> bytes:
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<H", len(entries)) + packed + struct.pack("<I", next_page)


# Width, length, bits, compression, black is zero, where the strip is, samples, rows of a strip, bytes of it.
_DOT = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
_DOT += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 3, 1, 1), (279, 4, 1, 1)]


def _tiff_pages(count: int, *, next_after_last: int = 0) -> bytes:
    """Pages of one pixel, each naming the next one."""
    step = len(_directory(_DOT, 0))
    pages = [_directory(_DOT, 8 + step * number) for number in range(1, count)]
    return b"II*\0" + struct.pack("<I", 8) + b"".join(pages) + _directory(_DOT, next_after_last)


def _tiff_strips(count: int) -> bytes:
    """One column of pixels, each of them a strip of its own."""
    offsets_at = 8 + len(_directory(_DOT, 0))
    changes = {257: (4, 1, count), 273: (4, count, offsets_at), 279: (4, count, offsets_at + 4 * count)}
    entries = [(tag, *changes.get(tag, (kind, number, value))) for tag, kind, number, value in _DOT]
    return _tiff(entries, after=struct.pack("<I", 8) * count + struct.pack("<I", 1) * count)


def _tile_bomb() -> bytes:
    """64 × 64 pixels in one tile of 32,768 × 32,768, deflated to a megabyte."""
    side, body = 32_768, _deflated_zeros(32_768 * 32_768)
    entries = [(256, 3, 1, 64), (257, 3, 1, 64), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    entries += [(322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 8 + 2 + 10 * 12 + 4), (325, 4, 1, len(body))]
    return _tiff(entries, after=body)


def _bmp(width: int, height: int, *, compression: int = 0) -> bytes:
    """A BMP of 8 bits with two colours, whose header may say anything."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, compression, 0, 0, 0, 2, 0)
    return b"BM" + struct.pack("<IHHI", 999, 0, 0, 62) + header + bytes(4) + b"\xff\xff\xff\0" + b"\x40\1" * 40_000


def _with_jpeg_size(data: bytes, width: int, height: int) -> bytes:
    """A JPEG whose frame header announces another size than its scan has."""
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


# Right: all pixels are the same ---------------------------------------------------------------------


def _exact(photo: Rgb) -> list[Hostile]:
    image = Image.fromarray(photo)
    height, width = photo.shape[:2]
    grey = np.asarray(image.convert("L"))
    grey_rgb = np.repeat(grey[:, :, None], 3, axis=2)
    alpha = Image.fromarray(np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1)))
    palette = image.quantize(64)
    see_through = image.copy()
    see_through.putalpha(alpha)
    grey_alpha = Image.fromarray(grey)
    grey_alpha.putalpha(alpha)
    jpeg = encode(image, "JPEG", quality=90)
    decoded = _pixels(jpeg)
    long, dot = np.tile(photo[:1, :250], (1, 240, 1)), photo[:1, :1]
    found = [
        Hostile("16-bit colours.png", _sixteen_bit_png(photo), rgb=photo),
        Hostile("16-bit grey.png", encode(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"), rgb=grey_rgb),
        Hostile("16-bit grey.tiff", encode(Image.fromarray(grey.astype(np.uint16) * 257), "TIFF"), rgb=grey_rgb),
        Hostile("see-through.png", encode(see_through, "PNG"), rgb=photo),
        Hostile("see-through.webp", encode(see_through, "WEBP", lossless=True, exact=True), rgb=photo),
        Hostile("grey and see-through.png", encode(grey_alpha, "PNG"), rgb=grey_rgb),
        Hostile(
            "palette and see-through.png",
            encode(palette, "PNG", transparency=bytes(range(64))),
            rgb=np.asarray(palette.convert("RGB")),
        ),
        Hostile("bilevel.png", encode(image.convert("1"), "PNG"), rgb=np.asarray(image.convert("1").convert("RGB"))),
        Hostile("upside down.bmp", _top_down_bmp(photo), rgb=photo),
        Hostile("a page that names itself.tiff", _cyclic(photo), rgb=photo),
        Hostile("jpeg and zip.jpg", jpeg + _zip(), rgb=decoded),
        Hostile("jpeg and pdf.jpg", jpeg + b"\n%PDF-1.7\n1 0 obj\n", rgb=decoded),
        Hostile("page in a comment.jpg", jpeg[:2] + b"\xff\xfe\0\x1b<script>alert(1)</script>" + jpeg[2:], rgb=decoded),
        Hostile("page behind.png", png(photo) + b"<html><script>alert(1)</script>", rgb=photo),
        # Every viewer shows these so: what is missing is grey.
        Hostile("larger than it is.jpg", *_with_pixels(_with_jpeg_size(jpeg, 500, 500))),
        Hostile("smaller than it is.jpg", *_with_pixels(_with_jpeg_size(jpeg, 100, 100))),
        Hostile("progressive.jpg", *_with_pixels(encode(image, "JPEG", quality=85, progressive=True))),
        Hostile("stereo.mpo", *_stereo(image)),
        Hostile(
            "no profile at all.png", _with_chunk(png(photo), b"iCCP", b"icc\0\0" + zlib.compress(b"no")), rgb=photo
        ),
        Hostile("profile of another world.png", encode(image, "PNG", icc_profile=b"x" * 5_000), rgb=photo),
        Hostile("profile part 9 of 1.jpg", _with_profile_part(jpeg, 9, 1), rgb=decoded),
        Hostile(
            "damaged exif.jpg", encode(image, "JPEG", quality=90, exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), rgb=decoded
        ),
        Hostile("endless exif.jpg", encode(image, "JPEG", quality=90, exif=b"Exif\0\0" + _endless_exif()), rgb=decoded),
        Hostile("60,000 × 1.png", png(long), rgb=long),
        Hostile("1 × 60,000.png", png(np.ascontiguousarray(long.swapaxes(0, 1))), rgb=long.swapaxes(0, 1)),
        Hostile("1 × 1.png", png(dot), rgb=dot),
    ]
    for tag, stored in _as_stored(photo).items():
        turned = Image.fromarray(stored)
        found += [
            Hostile(f"turned {tag}.tiff", encode(turned, "TIFF", tiffinfo={0x0112: tag}), rgb=photo),
            Hostile(f"turned {tag}.png", encode(turned, "PNG", exif=_turned(tag)), rgb=photo),
        ]
    return found


def _pixels(data: bytes) -> Rgb:
    """What Pillow alone makes of a file, as RGB."""
    from PIL.JpegImagePlugin import JpegImageFile

    with JpegImageFile(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def _sixteen_bit_png(photo: Rgb) -> bytes:
    height, width = photo.shape[:2]
    samples = (photo.astype(">u2") * 257).reshape(height, -1)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _png_chunk(b"IHDR", header)
        + _png_chunk(b"IDAT", zlib.compress(rows))
        + _png_chunk(b"IEND", b"")
    )


def _top_down_bmp(photo: Rgb) -> bytes:
    """Rows from top to bottom, which a negative height says."""
    height, width = photo.shape[:2]
    rows = b"".join(row[:, ::-1].tobytes() + bytes(-3 * width % 4) for row in photo)
    header = struct.pack("<IiiHHIIiiII", 40, width, -height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(rows), 0, 0, 54) + header + rows


def _cyclic(photo: Rgb) -> bytes:
    """A TIFF whose only page says that it is also the next one."""
    height, width = photo.shape[:2]
    start = 8 + 2 + 9 * 12 + 4
    entries = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, start), (259, 3, 1, 1), (262, 3, 1, 2)]
    entries += [(273, 4, 1, start + 6), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, photo.size)]
    return _tiff(entries, after=struct.pack("<HHH", 8, 8, 8) + photo.tobytes(), next_page=8)


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("run.sh", "#!/bin/sh\necho pwned\n")
    return buffer.getvalue()


def _with_pixels(data: bytes) -> tuple[bytes, None, Rgb]:
    return data, None, _pixels(data)


def _stereo(image: Image.Image) -> tuple[bytes, None, Rgb]:
    """A camera's two pictures in one file: the first one counts."""
    data = encode(image, "MPO", quality=88, save_all=True, append_images=[image.rotate(180)])
    return data, None, _pixels(data[: data.index(b"\xff\xd9\xff\xd8") + 2])


def _with_profile_part(data: bytes, number: int, count: int) -> bytes:
    body = b"ICC_PROFILE\0" + bytes((number, count)) + b"x" * 300
    return data[:2] + b"\xff\xe2" + struct.pack(">H", len(body) + 2) + body + data[2:]


def _endless_exif() -> bytes:
    """A directory that says it has 65,535 entries and has none of them."""
    return b"II*\0" + struct.pack("<IH", 8, 65_535) + b"\0" * 60


def _turned(tag: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = tag
    return exif.tobytes()


def _as_stored(photo: Rgb) -> dict[int, Rgb]:
    """For each EXIF orientation the pixels that a camera stores for an upright photograph."""
    turns: dict[int, Callable[[Rgb], Rgb]] = {
        1: lambda upright: upright,
        2: np.fliplr,
        3: lambda upright: np.rot90(upright, 2),
        4: np.flipud,
        5: lambda upright: upright.swapaxes(0, 1),
        6: lambda upright: np.rot90(upright, 1),
        7: lambda upright: np.rot90(upright.swapaxes(0, 1), 2),
        8: lambda upright: np.rot90(upright, -1),
    }
    return {tag: np.ascontiguousarray(turn(photo)) for tag, turn in turns.items()}


# Right: nearly the same ----------------------------------------------------------------------------


def _nearly(photo: Rgb) -> list[Hostile]:
    image = Image.fromarray(photo)
    # Adobe's CMYK is stored inverted.
    found = [Hostile("four inks.jpg", encode(image.convert("CMYK"), "JPEG", quality=97), rgb=photo, exact=False)]
    for tag, stored in _as_stored(photo).items():
        data = encode(Image.fromarray(stored), "JPEG", quality=97, subsampling=0, exif=_turned(tag))
        found.append(Hostile(f"turned {tag}.jpg", data, rgb=photo, exact=False))
    return found
