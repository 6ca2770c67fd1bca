"""What every back end offers: a network that is ready to compute, and what is known about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from core.inference.images import Pixels

Arrays = list[NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """What the weights say about themselves. `end2end`: their first output needs no suppression (`Network.forward`).

    `keypoint_shape` is how many points a pose has, and 3 where each has a confidence, else 2.
    """

    names: Mapping[int, str]
    task: str
    end2end: bool
    keypoint_shape: tuple[int, int] | None = None


def compute_each(forward: Callable[[NDArray[np.float32]], Arrays], batch: NDArray[np.float32]) -> Arrays:
    """A batch `(B, 3, H, W)` picture by picture, for a graph that came as a file: it may mix the pictures of a batch,
    and so show one customer what was found for another. Raises `ValueError` where one does not give one row each.
    """
    each = [forward(batch[index : index + 1]) for index in range(len(batch))]
    if any(output.shape[:1] != (1,) for outputs in each for output in outputs):
        raise ValueError("the network gives other than one row for a picture")
    return [np.concatenate(outputs) for outputs in zip(*each, strict=True)]


class Network(Protocol):
    """Weights ready to compute on one device. Thread-safe: as many calls as it has `streams` gain from running at once,
    and more of them wait.
    """

    facts: NetworkFacts
    backend: str  # "openvino", "onnxruntime" or "torch"
    precision: str  # "fp32", "fp16" or "int8"
    streams: int

    @property
    def names(self) -> Mapping[int, str]:
        """Class ids and their names."""

    def forward(self, batch: NDArray[np.float32]) -> Arrays:
        """`(B, 3, H, W)` RGB in 0…1, sides multiples of 32, to all raw outputs in float32; they belong to the caller.

        The first output by task: detect, segment, pose, obb `(B, 4 + classes + extra, candidates)` with boxes by their
        centre in pixels of the input; with `end2end` `(B, detections, 6 + extra)` as x1, y1, x2, y2, confidence, class
        (of obb: centre, width, height). Extra are 32 coefficients of a mask, the key points, or an angle in radians;
        classify `(B, classes)`. Segment has the prototypes of its masks as the second, `(B, 32, H/4, W/4)`.
        """

    def close(self) -> None:
        """Give back its memory. No call runs, and none follows."""


@runtime_checkable
class TakesPixels(Protocol):
    """A network that makes the batch itself, where its device does that faster than a core."""

    def forward_pixels(self, padded: Sequence[Pixels]) -> Arrays:
        """`Network.forward` of network inputs of one shape, `(H, W, 3)` uint8 BGR."""
