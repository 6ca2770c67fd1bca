"""Objects in common: by class and overlap, each once, as many as possible."""

from __future__ import annotations

import time

import numpy as np
import pytest

from core.inference.compare import match_detections
from core.inference.detections import Detections

CAT, DOG = 0, 1
NAMES = {CAT: "cat", DOG: "dog"}


def found(*boxes: tuple[float, float, float, float], classes: list[int] | None = None, names=None) -> Detections:
    """Detections with these boxes; cats unless said otherwise."""
    return Detections(
        xyxy=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        confidence=np.full(len(boxes), 0.9, dtype=np.float32),
        class_id=np.array(classes or [CAT] * len(boxes), dtype=np.int64),
        names=NAMES if names is None else names,
    )


def at(x: float, width: float = 10) -> tuple[float, float, float, float]:
    """A box of height 10 from x on."""
    return x, 0, x + width, 10


def test_one_box_is_one_object() -> None:
    """Of two boxes over one reference the better one is its partner, and the other one is extra."""
    matching = match_detections(found(at(0)), found(at(2), at(1)))
    assert matching.pairs.tolist() == [[0, 1]]
    assert (matching.only_first.tolist(), matching.only_second.tolist()) == ([], [0])


@pytest.mark.parametrize(("shift", "pairs"), [(10 / 3 - 0.01, 1), (10 / 3 + 0.01, 0)])
def test_the_overlap_is_a_half_at_least(shift: float, pairs: int) -> None:
    """Two boxes of one size shifted by a third of their width overlap by exactly one half."""
    assert len(match_detections(found(at(0)), found(at(shift))).pairs) == pairs


def test_classes_are_compared_by_name() -> None:
    """A cat is no dog, however well the boxes agree; two models may number their classes differently."""
    assert len(match_detections(found(at(0)), found(at(0), classes=[DOG])).pairs) == 0
    other = found(at(0), classes=[7], names={7: "cat"})
    assert match_detections(found(at(0)), other).pairs.tolist() == [[0, 0]]


def test_as_many_pairs_as_possible() -> None:
    """The best pair alone would leave two objects without a partner: the two lesser pairs are taken."""
    # The second of the first set overlaps the first of the second best, which is the only partner of the other one.
    first, second = found(at(0), at(2.5)), found(at(2), at(4.5))
    assert match_detections(first, second).pairs.tolist() == [[0, 0], [1, 1]]


def test_nothing_matches_nothing() -> None:
    """Empty sets are sets."""
    for one, other in ((found(), found()), (found(at(0)), found()), (found(), found(at(0)))):
        matching = match_detections(one, other)
        assert matching.pairs.shape == (0, 2)
        assert (len(matching.only_first), len(matching.only_second)) == (len(one), len(other))


def test_it_is_symmetric_and_quick_on_crowds() -> None:
    """Three hundred objects a side, most of them overlapping others (seed 11): the same number from either side."""
    draw = np.random.default_rng(11)
    corner = draw.uniform(0, 200, (300, 2))
    moved = corner + draw.normal(0, 3, (300, 2))
    one, other = (found(*[(x, y, x + 20, y + 20) for x, y in boxes]) for boxes in (corner, moved))
    began = time.process_time()
    pairs = len(match_detections(one, other).pairs)
    assert time.process_time() - began < 5
    assert pairs == len(match_detections(other, one).pairs)
    assert pairs > 200
