"""Pictures in tiles that a request waits for: not of many tiles, and not many at a time for an account.

What takes minutes is a job. A request that waits keeps its picture in memory, and others from starting.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from core.errors import EngineBusyError, InvalidTileSizeError
from core.inference.registry import Model
from core.services.application import Application
from core.services.quotes import PreparedImage, require_tiles
from core.tiles import count_tiles

TILES_WAITED_MAX = 40
AT_ONCE_MAX = 2


@contextmanager
def waiting_for_tiles(
    app: Application, account_id: str, image: PreparedImage, model: Model, tile_px: int | None
) -> Iterator[None]:
    """While the block runs, the account waits for this picture.

    Raises `InvalidTileSizeError`, and `EngineBusyError` when it waits for as many pictures in tiles as it may.
    """
    require_tiles([image], model, tile_px)
    tiles = count_tiles(image.height, image.width, tile_px)
    if tiles > TILES_WAITED_MAX:
        raise InvalidTileSizeError(
            f"This picture has {tiles:,} tiles of {tile_px} pixels, and at most {TILES_WAITED_MAX} are waited for: "
            "send it to /v1/jobs, or choose larger tiles.",
            tiles=tiles,
            tiles_max=TILES_WAITED_MAX,
        )
    if not tiles:
        yield
        return
    with app.hands.hold_tiled(account_id, AT_ONCE_MAX) as allowed:
        if not allowed:
            raise EngineBusyError(
                f"This account has {AT_ONCE_MAX} pictures in tiles under way: send it again in a few seconds, or to "
                "/v1/jobs. Nothing was taken."
            )
        yield
