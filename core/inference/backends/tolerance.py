"""When two back ends agree: the same boxes and confidences, within what their arithmetic may differ by."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from core.inference.backends.network import Arrays, NetworkFacts

# The tolerances of a back end, for what is found at a confidence that is stored.
BOX_PX_MAX = 1.0
CONFIDENCE_MAX = 0.005
CONFIDENCE_SEEN_MIN = 0.05


def difference(reference: Arrays, found: Arrays, facts: NetworkFacts) -> str | None:
    """What is beyond the tolerances between the first outputs of two back ends for one image, in words, or None.

    Heads that rank by themselves are not compared: they run in torch alone.
    """
    expected, actual = reference[0][0], found[0][0]
    if expected.shape != actual.shape or len(reference) != len(found):
        return f"its outputs have other shapes: {[output.shape for output in found]}"
    if facts.task == "classify":
        return _beyond(np.abs(expected - actual), np.zeros(0, np.float32))
    scores = slice(4, 4 + len(facts.names))
    seen = expected[scores].max(axis=0) >= CONFIDENCE_SEEN_MIN
    return _beyond(np.abs(expected[scores] - actual[scores]), np.abs(expected[:4] - actual[:4])[:, seen])


def make_patchwork(height: int, width: int) -> NDArray[np.float32]:
    """A batch of one picture of coarse patches: grey would give confidences of nothing, equal everywhere."""
    patches = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    picture = cv2.resize(patches, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(picture.transpose(2, 0, 1)[None], dtype=np.float32) / np.float32(255)


def _beyond(confidences: NDArray[np.float32], boxes_px: NDArray[np.float32]) -> str | None:
    # Written so that NaN is beyond, too.
    confidence, box = confidences.max(initial=0), boxes_px.max(initial=0)
    if confidence <= CONFIDENCE_MAX and box <= BOX_PX_MAX:
        return None
    return f"it differs from torch by {confidence:.4f} in a confidence and {box:.2f} px in a box"
