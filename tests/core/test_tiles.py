"""The grid of tiles: it covers the picture, overlaps, and is what is priced."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.geometry import IMG_SIZES_PX, network_input
from core.tiles import OVERLAP_PERCENT, TILES_PX, Tile, TilePlan, count_tiles, plan_tiles

sides = st.integers(1, 5000)


@given(height=sides, width=sides, img_size=st.sampled_from(IMG_SIZES_PX), tile_px=st.sampled_from(TILES_PX))
def test_the_grid_covers_the_picture_with_tiles_of_one_shape(
    height: int, width: int, img_size: int, tile_px: int
) -> None:
    """Every pixel lies in a tile, no tile leaves the picture, all have one shape, and neighbours overlap enough."""
    plan = plan_tiles(height, width, img_size, tile_px)
    assert len(plan.tiles) == count_tiles(height, width, tile_px)
    assert plan.whole == network_input(height, width, img_size)
    if max(height, width) <= tile_px:
        assert plan == TilePlan(plan.whole)
        return
    tile_height, tile_width = min(tile_px, height), min(tile_px, width)
    assert {(tile.y2 - tile.y1, tile.x2 - tile.x1) for tile in plan.tiles} == {(tile_height, tile_width)}
    assert plan.tile == network_input(tile_height, tile_width, img_size)
    for side, length, starts in (
        (width, tile_width, sorted({tile.x1 for tile in plan.tiles})),
        (height, tile_height, sorted({tile.y1 for tile in plan.tiles})),
    ):
        assert (starts[0], starts[-1] + length) == (0, side)
        assert all(left + length - right >= length * OVERLAP_PERCENT // 100 for left, right in pairwise(starts))
    assert len(set(plan.tiles)) == len(plan.tiles)


def test_every_pixel_is_seen() -> None:
    """Painted tile by tile, nothing of a picture stays white."""
    seen = np.zeros((1080, 1920), bool)
    for tile in plan_tiles(1080, 1920, 640, 416).tiles:
        seen[tile.y1 : tile.y2, tile.x1 : tile.x2] = True
    assert seen.all()


@pytest.mark.parametrize(
    ("height", "width", "tiles"),
    [
        (640, 640, 0),  # no larger than a tile
        (640, 641, 2),
        (641, 641, 4),
        (640, 1152, 2),  # 640 and one step of 512
        (640, 1153, 3),
        (2160, 3840, 32),
    ],
)
def test_counts_at_the_edges(height: int, width: int, tiles: int) -> None:
    """One pixel more than a row of tiles covers is one tile more."""
    assert count_tiles(height, width, 640) == tiles


def test_the_pixels_that_are_paid_for() -> None:
    """A 4k picture in tiles of 640: 32 of 640 × 640 and the whole at 640 × 384, less those that failed."""
    plan = plan_tiles(2160, 3840, 640, 640)
    assert plan.tiles[0] == Tile(0, 0, 640, 640)
    assert plan.tiles[-1] == Tile(3200, 1520, 3840, 2160)
    assert plan.pixels() == 640 * 384 + 32 * 640 * 640
    assert plan.pixels(tiles_failed=2) == 640 * 384 + 30 * 640 * 640


def test_a_size_that_is_not_offered_is_refused() -> None:
    """A side that is none of the offered ones has no grid."""
    with pytest.raises(ValueError, match="tile_px must be one of 256, 320"):
        plan_tiles(1000, 1000, 640, 300)
