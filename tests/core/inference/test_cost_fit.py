"""The line through what was measured: known answers, and intervals that hold them."""

from __future__ import annotations

import numpy as np
import pytest

from core.inference.cost_fit import fit_line, fit_models

MEGAPIXELS = np.array([0.1, 0.2, 0.25, 0.4, 0.9, 1.6])
SEED = 5


def noisy(intercept: float, slope: float, *, rounds: int = 9, noise: float = 0.05) -> np.ndarray:
    """`(shapes, rounds)` milliseconds around a line."""
    random = np.random.default_rng(SEED + int(slope))
    exact = (intercept + slope * MEGAPIXELS)[:, None]
    return np.asarray(exact * (1 + noise * random.standard_normal((MEGAPIXELS.size, rounds))))


def test_an_exact_line_is_found() -> None:
    """Intercept and slope to the last digits, no residual, R² 1."""
    line = fit_line(MEGAPIXELS, 7 + 90 * MEGAPIXELS)
    assert (line.intercept, line.slope, line.r_squared) == pytest.approx((7, 90, 1))
    assert line.residual_worst == pytest.approx(0, abs=1e-9)


def test_relative_errors_are_least() -> None:
    """No line near it has a smaller sum of squared relative errors, and residuals are measured over line, less one."""
    y = np.array([10.0, 30.0, 28.0, 60.0, 100.0, 230.0])
    line = fit_line(MEGAPIXELS, y)

    def error(intercept: float, slope: float) -> float:
        return float((((intercept + slope * MEGAPIXELS) / y - 1) ** 2).sum())

    least = error(line.intercept, line.slope)
    for step in ((0.1, 0), (-0.1, 0), (0, 0.1), (0, -0.1), (0.1, -0.3), (-0.1, 0.3)):
        assert error(line.intercept + step[0], line.slope + step[1]) > least
    assert line.residuals[0] == pytest.approx(10 / (line.intercept + line.slope * 0.1) - 1)
    assert line.residual_worst == max(map(abs, line.residuals)) > 0.1


@pytest.mark.parametrize(("x", "y"), [([1.0, 1.0], [2.0, 3.0]), ([1.0, 2.0], [0.0, 3.0])])
def test_what_gives_no_line(x: list[float], y: list[float]) -> None:
    """One size alone, or a time of nothing."""
    with pytest.raises(ValueError, match="a line needs"):
        fit_line(np.array(x), np.array(y))


def test_intervals_hold_the_truth() -> None:
    """β 2.5 with an intercept of 6 ms, through 5 % of noise; the reference is exactly 1; a seed repeats it all."""
    ms = {"small": noisy(3, 40), "large": noisy(6, 100)}
    costs = fit_models(ms, MEGAPIXELS, reference="small", seed=SEED)
    large = costs["large"]
    for estimate, truth in ((large.beta, 2.5), (large.ms_per_megapixel, 100), (large.intercept_ms, 6)):
        assert estimate.low < truth < estimate.high
        assert estimate.low < estimate.value < estimate.high
    assert large.beta.high - large.beta.low < 0.5
    assert (costs["small"].beta.low, costs["small"].beta.value, costs["small"].beta.high) == (1, 1, 1)
    assert fit_models(ms, MEGAPIXELS, reference="small", seed=SEED) == costs


def test_more_noise_gives_wider_intervals() -> None:
    """Four times the noise, at least twice the width."""
    calm, wild = (
        fit_models({"m": noisy(3, 40, noise=noise)}, MEGAPIXELS, reference="m", seed=SEED)["m"].ms_per_megapixel
        for noise in (0.02, 0.08)
    )
    assert wild.high - wild.low > 2 * (calm.high - calm.low)


def test_one_disturbed_round_changes_little() -> None:
    """A round in which the machine was ten times as slow is outvoted by the median of the others."""
    times = noisy(3, 40, noise=0.01)
    times[:, 4] *= 10
    assert fit_models({"m": times}, MEGAPIXELS, reference="m", seed=SEED)["m"].line.slope == pytest.approx(40, rel=0.02)
