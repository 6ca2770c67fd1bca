"""Of how many pieces a picture's file is made: Pillow reads each in Python, so 20 MB of tiny ones take a minute."""

from __future__ import annotations

import struct

# A photograph has some hundred; a scanned page one strip a row, perhaps.
PIECES_MAX = 20_000

_STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES = 273, 279, 324, 325
_START_OF_SCAN, _END_OF_IMAGE, _FILL = 0xDA, 0xD9, 0xFF
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))


def has_too_many_pieces(data: bytes) -> bool:
    """Whether a JPEG has too many segments, a PNG too many chunks, or a TIFF too many strips, tiles or tags.

    False also for what is none of these, or damaged: whoever decodes it says so.
    """
    try:
        if data.startswith(b"\xff\xd8"):
            return _walk_jpeg(data)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _walk_png(data)
        if data.startswith((b"II", b"MM")):
            return _count_strips(data) > PIECES_MAX
    except (IndexError, struct.error):
        pass
    return False


def _walk_jpeg(data: bytes) -> bool:
    """Up to the first scan; what lies between segments and belongs to none counts byte by byte."""
    position = 2
    for _ in range(PIECES_MAX):
        if data[position] != _FILL or data[position + 1] == _FILL:
            position += 1
            continue
        marker = data[position + 1]
        if marker in (_START_OF_SCAN, _END_OF_IMAGE):
            return False
        position += 2
        if marker and marker not in _WITHOUT_LENGTH:
            position += int.from_bytes(data[position : position + 2], "big")
    return True


def _walk_png(data: bytes) -> bool:
    position = 8
    for _ in range(PIECES_MAX):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IEND":
            return False
        position += 12 + length
    return True


def _count_strips(data: bytes) -> int:
    """The longest list of strips or tiles of the first page, of a TIFF or a BigTIFF as Pillow tells them apart."""
    order = "<" if data.startswith(b"II") else ">"
    first, many, entry = ("8xQ", "Q", "HHQ8x") if data[2] == 43 else ("4xI", "H", "HHI4x")
    (start,) = struct.unpack_from(order + first, data)
    (entries,) = struct.unpack_from(order + many, data, start)
    if entries > PIECES_MAX:
        return PIECES_MAX + 1
    position, most = start + struct.calcsize(order + many), 0
    for _ in range(entries):
        tag, _kind, count = struct.unpack_from(order + entry, data, position)
        position += struct.calcsize(order + entry)
        if tag in (_STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES):
            most = max(most, count)
    return most
