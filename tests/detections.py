"""When two answers for one picture are the same."""

from __future__ import annotations

import numpy as np

from core.inference.detections import Detections

# Between a pass on one core and a pass on all, and between batches: the same kernels in another order of adding.
CONFIDENCE_OFF = 0.002
BOX_PX_OFF = 0.5


def is_same(expected: Detections, found: Detections, confidence: float) -> bool:
    """Each box of one side that is surely above the threshold is on the other, and the other way round."""
    return _holds(expected, found, confidence) and _holds(found, expected, confidence)


def _holds(these: Detections, others: Detections, confidence: float) -> bool:
    surely = these.confidence > confidence + 2 * CONFIDENCE_OFF
    for box, value, class_id in zip(these.xyxy[surely], these.confidence[surely], these.class_id[surely], strict=True):
        near = (
            (np.abs(others.xyxy - box).max(axis=1, initial=0) <= BOX_PX_OFF)
            & (np.abs(others.confidence - value) <= CONFIDENCE_OFF)
            & (others.class_id == class_id)
        )
        if not near.any():
            return False
    return True
