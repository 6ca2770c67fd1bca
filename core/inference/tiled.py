"""One image in tiles: every part through the engine's queue like an image of its own, and what they found as one.

Parts overlap, so one object is found several times. Boxes of one class that cover each other are one (non-maximum
suppression), and a box that ends where its tile was cut is a fragment: it gives way to a whole one that covers it. An
object larger than the overlap may be whole in no tile; then it is whole in the picture, which runs as well.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import InferenceError
from core.inference.detections import Detections
from core.inference.images import Pixels
from core.inference.nms import nms_by_class
from core.inference.scheduler import Inference, wait_for
from core.tiles import Tile, TilePlan

# Of one image in the engine's queue: other customers find a place there.
IN_FLIGHT_MAX = 8
# A picture of which more tiles fail than this has failed.
FAILED_SHARE_MAX = 0.5
MERGE_IOU_MAX = 0.5
FRAGMENT_COVERED_MIN = 0.5
FRAGMENT_WEIGHT = 0.3
CANDIDATES_MAX = 10_000
DETECTIONS_TILED_MAX = 3000
# A box ends at the cut when it comes so near to it, in pixels of the network input.
EDGE_PX = 2.0

Submit = Callable[[Pixels], "Future[Inference]"]


def infer_tiled(submit: Submit, pixels: Pixels, plan: TilePlan, *, deadline: float) -> Inference:
    """Run the whole of an image, `(H, W, 3)` uint8 BGR, and each tile of its plan; `deadline` is of `time.monotonic`.

    `submit` queues one part and may wait for a place. `wait_ms` is that of the whole, `model_ms` the rest of the time
    until all parts, some of which run at once, have ended. A tile that fails is tried once more, and then counted in
    `tiles_failed`. Raises `InferenceError` when the whole or most of the tiles fail, or time is over, and what `submit`
    raises.
    """
    assert plan.tile is not None
    whole: Inference | None = None
    started = time.perf_counter()
    failed = 0
    parts: list[tuple[Detections, Tile]] = []
    whole_tile = Tile(0, 0, pixels.shape[1], pixels.shape[0])
    waiting = deque([whole_tile, *plan.tiles])
    under_way: deque[tuple[Tile, Future[Inference]]] = deque()
    try:
        while waiting or under_way:
            while waiting and len(under_way) < IN_FLIGHT_MAX:
                tile = waiting.popleft()
                under_way.append((tile, submit(_cut(pixels, tile))))
            tile, future = under_way.popleft()
            part: Inference | None = None
            try:
                part = wait_for(future, deadline)
            except InferenceError:
                if tile is whole_tile or time.monotonic() >= deadline:
                    raise
                part = _try_again(submit, _cut(pixels, tile), deadline)
            if part is None:
                failed += 1
                if failed > FAILED_SHARE_MAX * len(plan.tiles):
                    raise InferenceError("The model failed on most tiles of this image. Nothing was taken: try again.")
                continue
            shape = plan.whole if tile is whole_tile else plan.tile
            if part.input_shape != (shape.height, shape.width):
                raise InferenceError("The model computed another size than was quoted. Nothing was taken: try again.")
            whole = part if tile is whole_tile else whole
            parts.append((part.detections, tile))
    finally:
        for _tile, future in under_way:
            future.cancel()
    assert whole is not None
    scale = max(plan.tiles[0].x2, plan.tiles[0].y2) / max(plan.tile.resized_height, plan.tile.resized_width)
    return Inference(
        detections=merge_parts(parts, (pixels.shape[0], pixels.shape[1]), edge_px=EDGE_PX * max(1.0, scale)),
        input_shape=whole.input_shape,
        wait_ms=whole.wait_ms,
        model_ms=max(0.0, (time.perf_counter() - started) * 1000 - whole.wait_ms),
        batch_size=whole.batch_size,
        tiles_failed=failed,
    )


def merge_parts(
    parts: Sequence[tuple[Detections, Tile]], image_shape: tuple[int, int], *, edge_px: float
) -> Detections:
    """What the parts of an image of `(height, width)` pixels found, each in pixels of its own tile, as one.

    A box that comes within `edge_px` of a side of its tile that is no side of the image is a fragment.
    """
    height, width = image_shape
    offsets = [np.array((tile.x1, tile.y1, tile.x1, tile.y1), np.float32) for _found, tile in parts]
    xyxy = np.concatenate([found.xyxy + offset for (found, _tile), offset in zip(parts, offsets, strict=True)])
    confidence = np.concatenate([found.confidence for found, _tile in parts])
    class_id = np.concatenate([found.class_id for found, _tile in parts])
    is_cut = np.concatenate([_ends_at_cut(found.xyxy, tile, height, width, edge_px) for found, tile in parts])
    names = {class_id: name for found, _tile in parts for class_id, name in found.names.items()}
    # A whole box goes before a fragment that is less than three times as sure: a guess removes nothing that is certain.
    rank = confidence * np.where(is_cut, np.float32(FRAGMENT_WEIGHT), np.float32(1))
    order = np.argsort(-rank, kind="stable")[:CANDIDATES_MAX]
    kept = order[_suppress(xyxy[order], rank[order], class_id[order])]
    kept = kept[~_is_covered(xyxy[kept], rank[kept], class_id[kept], is_cut[kept])]
    kept = kept[np.argsort(-confidence[kept], kind="stable")][:DETECTIONS_TILED_MAX]
    return Detections(xyxy[kept], confidence[kept], class_id[kept], names)


def _cut(pixels: Pixels, tile: Tile) -> Pixels:
    return pixels[tile.y1 : tile.y2, tile.x1 : tile.x2]


def _try_again(submit: Submit, part: Pixels, deadline: float) -> Inference | None:
    try:
        return wait_for(submit(part), deadline)
    except InferenceError:
        if time.monotonic() >= deadline:
            raise  # not the tile's fault: the next attempt may have more time
        return None


def _ends_at_cut(xyxy: NDArray[np.float32], tile: Tile, height: int, width: int, edge_px: float) -> NDArray[np.bool_]:
    cut = np.zeros(len(xyxy), np.bool_)
    tile_width, tile_height = tile.x2 - tile.x1, tile.y2 - tile.y1
    if tile.x1 > 0:
        cut |= xyxy[:, 0] <= edge_px
    if tile.y1 > 0:
        cut |= xyxy[:, 1] <= edge_px
    if tile.x2 < width:
        cut |= xyxy[:, 2] >= tile_width - edge_px
    if tile.y2 < height:
        cut |= xyxy[:, 3] >= tile_height - edge_px
    return cut


def _suppress(xyxy: NDArray[np.float32], rank: NDArray[np.float32], class_id: NDArray[np.int64]) -> NDArray[np.int64]:
    kept = nms_by_class(torch.from_numpy(xyxy), torch.from_numpy(rank), torch.from_numpy(class_id), MERGE_IOU_MAX)
    return np.asarray(kept.numpy(), np.int64)


def _is_covered(
    xyxy: NDArray[np.float32], rank: NDArray[np.float32], class_id: NDArray[np.int64], is_cut: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which fragments lie for the most part in a whole box of their class and of no lower rank."""
    covered = np.zeros(len(xyxy), np.bool_)
    whole, fragment = np.flatnonzero(~is_cut), np.flatnonzero(is_cut)
    for one in fragment:
        same = whole[(class_id[whole] == class_id[one]) & (rank[whole] >= rank[one])]
        low = np.maximum(xyxy[same, :2], xyxy[one, :2])
        high = np.minimum(xyxy[same, 2:], xyxy[one, 2:])
        common = (high - low).clip(0).prod(axis=1)
        area = (xyxy[one, 2:] - xyxy[one, :2]).prod()
        covered[one] = bool((common > FRAGMENT_COVERED_MIN * area).any())
    return covered
