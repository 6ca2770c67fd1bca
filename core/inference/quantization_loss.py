"""What a quantized network loses: the objects of FP32 that it finds again, how far apart they are, and its time."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from core.errors import QuantizationRefusedError
from core.inference.compare import match_detections
from core.inference.images import Pixels
from core.inference.pipeline import DetectParams, prepare
from core.inference.quantized_file import Loss, Worst
from core.inference.replicas import Replica

# What customers see who change nothing.
CONFIDENCE_SEEN_MIN = 0.25
# At each size. Fewer say nothing: one object more or less would be a tenth of the loss.
OBJECTS_MIN = 10
TURNS = 9


def measure_loss(fp32: Replica, int8: Replica, pictures: Iterable[Pixels], sizes: Sequence[int]) -> Loss:
    """The loss over pictures `(H, W, 3)` BGR, none of which it was calibrated with, each at every size.

    Raises `QuantizationRefusedError` where FP32 finds too little to compare with, or INT8 finds none of it.
    """
    count = found = besides = 0
    objects = dict.fromkeys(sizes, 0)
    changes: list[NDArray[np.float32]] = []
    overlaps: list[NDArray[np.float32]] = []
    of_class, found_of_class = Counter[int](), Counter[int]()
    first: Pixels | None = None
    for pixels in pictures:
        count += 1
        first = pixels if first is None else first
        for size in sizes:
            params = DetectParams(size)
            expected, actual = (
                replica.run(pixels, params)[0].filter(confidence_min=CONFIDENCE_SEEN_MIN) for replica in (fp32, int8)
            )
            pairs = match_detections(expected, actual).pairs
            objects[size] += len(expected)
            found += len(pairs)
            besides += len(actual) - len(pairs)
            left, right = expected.take(pairs[:, 0]), actual.take(pairs[:, 1])
            of_class.update(expected.class_id.tolist())
            found_of_class.update(left.class_id.tolist())
            changes.append(np.abs(left.confidence - right.confidence))
            overlaps.append(_overlap(left.xyxy, right.xyxy))
    # An object counts once at each size, which says no more of the pictures.
    fewest = min(objects, key=objects.__getitem__)
    if first is None or objects[fewest] < OBJECTS_MIN:
        raise QuantizationRefusedError(
            f"In the {count} pictures held out this model finds {objects[fewest]} objects at {fewest} pixels and "
            f"confidence {CONFIDENCE_SEEN_MIN} or more, and at least {OBJECTS_MIN} are needed at each size to measure "
            "what INT8 loses: give pictures of what it is for, and more of them."
        )
    total = sum(objects.values())
    if not found:
        raise QuantizationRefusedError(f"INT8 finds none of the {total} objects of FP32: this model stays in FP32.")
    change, overlap = np.concatenate(changes), np.concatenate(overlaps)
    ratios = _compare_times(fp32, int8, first, sorted(sizes)[len(sizes) // 2])
    return Loss(
        pictures=count,
        sizes=tuple(sizes),
        confidence_min=CONFIDENCE_SEEN_MIN,
        objects=total,
        found=found,
        besides=besides,
        confidence_mean=round(float(change.mean()), 4),
        confidence_most=round(float(change.max()), 4),
        iou_mean=round(float(overlap.mean()), 4),
        time=round(statistics.median(ratios), 3),
        time_least=round(min(ratios), 3),
        time_most=round(max(ratios), 3),
        worst=_find_worst(of_class, found_of_class),
    )


def _find_worst(objects: Counter[int], found: Counter[int]) -> Worst:
    """Of classes that lose the same, the one with the most objects."""
    worst = min(objects, key=lambda one: (found[one] / objects[one], -objects[one]))
    return Worst(class_id=worst, objects=objects[worst], found=found[worst])


def _overlap(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    """The IoU of each pair of boxes `(N, 4)`, `(N,)`."""
    inner = np.minimum(left[:, 2:], right[:, 2:]) - np.maximum(left[:, :2], right[:, :2])
    shared = inner.clip(0).prod(axis=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (left, right)]
    return np.asarray(shared / (areas[0] + areas[1] - shared), np.float32)


def _compare_times(fp32: Replica, int8: Replica, pixels: Pixels, size: int) -> list[float]:
    """INT8's time for a forward pass of one image as a part of FP32's, in turns: other work falls on both."""
    padded = prepare(pixels, size, fp32.version.model)[0]
    passes: list[Callable[[], object]] = [lambda: fp32.forward([padded]), lambda: int8.forward([padded])]
    ratios = []
    for turn in range(TURNS + 1):
        seconds = []
        for run in passes:
            started = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - started)
        if turn:  # the first prepares for the shape
            ratios.append(seconds[1] / seconds[0])
    return ratios
