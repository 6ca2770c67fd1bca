"""What an image costs as a straight line: `ms = intercept + slope · size`, with intervals that come from the data.

Lines are fitted to relative errors, each residual divided by its measurement, because a price is right or wrong by a
percentage: a millisecond is nothing for a large image and everything for a small one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 1000
# The middle 95 % of what the resamples give.
PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Line:
    """`y = intercept + slope · x`. `residuals` are relative, `measured / line - 1`, in the order of the points."""

    intercept: float
    slope: float
    r_squared: float
    residuals: tuple[float, ...]

    @property
    def residual_worst(self) -> float:
        """The largest residual, without its sign."""
        return max(abs(residual) for residual in self.residuals)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ModelCost:
    """The line of one model over megapixels of the network input. `beta` is its slope beside that of the reference."""

    line: Line
    intercept_ms: Estimate
    ms_per_megapixel: Estimate
    beta: Estimate


def fit_line(x: Floats, y: Floats) -> Line:
    """The line through `(points,)` with the least sum of squared relative errors.

    Raises `ValueError` for fewer than two different `x`, or a `y` that is not above zero.
    """
    if np.unique(x).size < 2 or not (y > 0).all():
        raise ValueError("a line needs measurements above zero at two sizes or more")
    intercept, slope = _solve(x, y)
    fitted = intercept + slope * x
    spread = float(((y - y.mean()) ** 2).sum())
    return Line(
        intercept=intercept,
        slope=slope,
        r_squared=1 - float(((y - fitted) ** 2).sum()) / spread if spread else 1.0,
        residuals=tuple(float(residual) for residual in y / fitted - 1),
    )


def fit_models(ms: Mapping[str, Floats], megapixels: Floats, *, reference: str, seed: int) -> dict[str, ModelCost]:
    """The costs of models from `(shapes, rounds)` milliseconds each, all at the same `(shapes,)` megapixels.

    A shape counts with the median of its rounds. The intervals are a bootstrap: shapes are drawn with replacement, and
    so are rounds, the same ones for all models, because a noisy second falls on all of them. Raises `ValueError` as
    `fit_line` does.
    """
    rounds = ms[reference].shape[1]
    random = np.random.default_rng(seed)
    draws = [(_draw_shapes(random, megapixels), random.integers(0, rounds, rounds)) for _ in range(RESAMPLES)]
    samples = {
        model: np.array(
            [_solve(megapixels[shapes], np.median(times[:, taken], axis=1)[shapes]) for shapes, taken in draws]
        )
        for model, times in ms.items()
    }
    lines = {model: fit_line(megapixels, np.median(times, axis=1)) for model, times in ms.items()}
    return {
        model: ModelCost(
            line,
            intercept_ms=_estimate(line.intercept, samples[model][:, 0]),
            ms_per_megapixel=_estimate(line.slope, samples[model][:, 1]),
            beta=_estimate(line.slope / lines[reference].slope, samples[model][:, 1] / samples[reference][:, 1]),
        )
        for model, line in lines.items()
    }


def _solve(x: Floats, y: Floats) -> tuple[float, float]:
    (intercept, slope), *_ = np.linalg.lstsq(np.column_stack((1 / y, x / y)), np.ones_like(y), rcond=None)
    return float(intercept), float(slope)


def _draw_shapes(random: np.random.Generator, megapixels: Floats) -> NDArray[np.int64]:
    while True:
        drawn = random.integers(0, megapixels.size, megapixels.size)
        if np.unique(megapixels[drawn]).size > 1:
            return drawn


def _estimate(value: float, samples: Floats) -> Estimate:
    low, high = np.percentile(samples, PERCENTILES)
    return Estimate(value, float(low), float(high))
