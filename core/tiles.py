"""Tiles for small objects: which parts of an image run besides the whole of it, for the price and for the engine.

A picture that is larger than a tile is cut into overlapping tiles, each of which is letterboxed to `img_size` like a
picture of its own, so that what is small in the whole is large enough in its tile. The whole runs once as well, for
what is larger than a tile. The grid is that of slicing aided inference (Akyon et al. 2022, arXiv 2202.06934): the last
tile of a row or column is moved back into the picture, so that all tiles have one shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from core.geometry import NetworkInput, network_input, square_input

TILES_PX = (256, 320, 416, 512, 640, 960, 1280)
# What is smaller than the overlap lies whole in one tile at least.
OVERLAP_PERCENT = 20
# Of one picture. A picture of 40 megapixels in tiles of 320 px has more.
TILES_MAX = 400


class Tile(NamedTuple):
    """A part of an image in its pixels: `x1 ≤ x < x2` and `y1 ≤ y < y2`."""

    x1: int
    y1: int
    x2: int
    y2: int


@dataclass(frozen=True, slots=True)
class TilePlan:
    """Everything that runs for one image: the whole, as `whole`, and each of `tiles`, as `tile`.

    Both are network inputs. Without tiles `tile` is None, and the whole is all that runs.
    """

    whole: NetworkInput
    tile: NetworkInput | None = None
    tiles: tuple[Tile, ...] = ()

    def pixels(self, *, tiles_failed: int = 0) -> int:
        """The pixels of all network inputs together, which are what is paid for, but for those of failed tiles."""
        tile_pixels = 0 if self.tile is None else self.tile.height * self.tile.width
        return self.whole.height * self.whole.width + (len(self.tiles) - tiles_failed) * tile_pixels


def plan_tiles(
    image_height: int, image_width: int, img_size: int, tile_px: int | None, *, square: bool = False
) -> TilePlan:
    """What runs for an image of `image_height × image_width` pixels with tiles of `tile_px`, or without (None).

    An image that is no larger than a tile has none, and so has one that a model sees as a `square`. Raises
    `ValueError` for what `network_input` refuses, and for a `tile_px` that is not offered.
    """
    if square:
        return TilePlan(square_input(img_size))
    whole = network_input(image_height, image_width, img_size)
    tiles = cut_tiles(image_height, image_width, tile_px)
    if not tiles:
        return TilePlan(whole)
    first = tiles[0]
    return TilePlan(whole, network_input(first.y2, first.x2, img_size), tiles)


def cut_tiles(image_height: int, image_width: int, tile_px: int | None) -> tuple[Tile, ...]:
    """The tiles of an image, row by row. Raises `ValueError` for a `tile_px` that is not offered."""
    if tile_px is not None and tile_px not in TILES_PX:
        raise ValueError(f"tile_px must be one of {', '.join(map(str, TILES_PX))}, not {tile_px}")
    if tile_px is None or max(image_height, image_width) <= tile_px:
        return ()
    height, width = min(tile_px, image_height), min(tile_px, image_width)
    return tuple(
        Tile(x1, y1, x1 + width, y1 + height)
        for y1 in _starts(image_height, height)
        for x1 in _starts(image_width, width)
    )


def count_tiles(image_height: int, image_width: int, tile_px: int | None) -> int:
    """How many tiles `cut_tiles` would give, without making them: a picture may have too many."""
    if tile_px is None or max(image_height, image_width) <= tile_px:
        return 0
    rows = _count(image_height, min(tile_px, image_height))
    return rows * _count(image_width, min(tile_px, image_width))


def _step(length: int) -> int:
    return length - length * OVERLAP_PERCENT // 100


def _count(side: int, length: int) -> int:
    return 1 + -(-(side - length) // _step(length))


def _starts(side: int, length: int) -> list[int]:
    return [min(index * _step(length), side - length) for index in range(_count(side, length))]
