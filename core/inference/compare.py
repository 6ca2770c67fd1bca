"""Which objects two sets of detections of one image have in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from core.inference.detections import Detections

# From this overlap on two boxes of one class are the same object, as in Pascal VOC and COCO's AP50.
IOU_SAME_MIN = 0.5


@dataclass(frozen=True, slots=True)
class Matching:
    """`pairs` is `(K, 2)` int, the indices of an object in the first and in the second set, each at most once.

    `only_first` and `only_second` are the indices of the objects without a partner, ascending.
    """

    pairs: NDArray[np.int64]
    only_first: NDArray[np.int64]
    only_second: NDArray[np.int64]


def match_detections(first: Detections, second: Detections) -> Matching:
    """The largest number of pairs of one class that overlap by IoU ≥ 0.5, and of those the best overlapping.

    Classes are compared by name: two models may number them differently. Boxes are compared upright.
    """
    import networkx
    from ultralytics.utils.metrics import box_iou

    overlap = box_iou(torch.from_numpy(first.xyxy), torch.from_numpy(second.xyxy)).numpy()
    classes = [np.array(one.class_names(), dtype=object) for one in (first, second)]
    rows, columns = np.nonzero((classes[0][:, None] == classes[1][None, :]) & (overlap >= IOU_SAME_MIN))
    graph = networkx.Graph()
    graph.add_weighted_edges_from(
        (int(row), len(first) + int(column), float(overlap[row, column]))
        for row, column in zip(rows, columns, strict=True)
    )
    pairs = sorted(
        (min(edge), max(edge) - len(first))
        # Few objects overlap: part by part it takes milliseconds where the whole graph would take seconds.
        for part in networkx.connected_components(graph)
        for edge in networkx.max_weight_matching(graph.subgraph(part), maxcardinality=True)
    )
    matched = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return Matching(
        matched,
        np.setdiff1d(np.arange(len(first)), matched[:, 0]),
        np.setdiff1d(np.arange(len(second)), matched[:, 1]),
    )
