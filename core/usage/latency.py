"""Histograms of how long images took, fine enough for percentiles that are within 6 %."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Eight steps to each doubling: a step is an eighth of its lower bound at most. Below, each millisecond is a step.
STEPS = 8


@dataclass(frozen=True, slots=True)
class Latency:
    """The middle and the slow end of some images' times in ms, waiting included."""

    images: int
    p50_ms: int
    p95_ms: int


def lower_bound_ms(latency_ms: int) -> int:
    """The bound of the step that a time lies in: its four leading binary digits, as in an HDR histogram."""
    shift = max(0, latency_ms.bit_length() - STEPS.bit_length())
    return latency_ms >> shift << shift


def summarise(histogram: Mapping[int, int]) -> Latency | None:
    """Percentiles of images by lower bound; None without any."""
    images = sum(histogram.values())
    if not images:
        return None
    return Latency(images, _percentile(histogram, images, 50), _percentile(histogram, images, 95))


def _percentile(histogram: Mapping[int, int], images: int, percent: int) -> int:
    """The middle of the step with the image of this rank."""
    rank = -(-images * percent // 100)
    for from_ms in sorted(histogram):
        rank -= histogram[from_ms]
        if rank <= 0:
            return from_ms + _width_ms(from_ms) // 2
    raise AssertionError("a rank is never beyond the last image")


def _width_ms(from_ms: int) -> int:
    return int(1 << max(0, from_ms.bit_length() - STEPS.bit_length()))
