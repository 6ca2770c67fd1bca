"""Prices beside measured compute: what is wrong with a list on this device, and the best one there can be.

Compute is counted so that yolov8s at 640 × 640 is 1.000, as in the published list (without yolov8s another model takes
its place, one with the same β if there is one, and the report names it): a price of 1.100 for a compute of
1.000 is an error of +10 %. Prices are list prices, without batch discounts.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from typing import Any

import numpy as np

from core.inference.calibration import REFERENCE_SIDE_PX, Cell, Clock, times_of
from core.inference.cost_fit import Line, ModelCost, fit_line, fit_models
from core.pricing.book import Prices, published_beside
from core.pricing.formula import REFERENCE_PIXELS, calculate_tokens

FORMAT = "visionmeter-calibration/1"
WITHIN = 0.05
_GRID = Decimal("0.0001")


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured. `facts` says where and how, as JSON: device, versions, load, models and their weights."""

    cells: tuple[Cell, ...]
    clock: Clock
    reference: str
    seed: int
    facts: Mapping[str, Any]

    @property
    def models(self) -> tuple[str, ...]:
        """The models, in the order of the catalogue."""
        return tuple(dict.fromkeys(cell.model for cell in self.cells))

    def compute(self, cell: Cell) -> float:
        """What a cell costs beside the reference at 640 × 640."""
        side = REFERENCE_SIDE_PX
        unit = next(one for one in self.cells if (one.model, one.height, one.width) == (self.reference, side, side))
        return cell.ms(self.clock) / unit.ms(self.clock)

    def table(self) -> str:
        """The measured table as JSON in one fixed form: what is hashed, and what is kept."""
        cells = [
            {
                **{"model": cell.model, "height_px": cell.height, "width_px": cell.width},
                "wall_ms": list(cell.wall_ms),
                "processor_ms": list(cell.processor_ms),
            }
            for cell in self.cells
        ]
        whole = {
            **{"format": FORMAT, "clock": self.clock, "reference": self.reference, "seed": self.seed},
            **{"facts": self.facts, "cells": cells},
        }
        return json.dumps(whole, sort_keys=True, indent=1) + "\n"

    @property
    def sha256(self) -> str:
        """The SHA-256 of the table."""
        return hashlib.sha256(self.table().encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class CellPrice:
    """A cell's price in tokens, its compute, and the price's error: 0.1 is a price 10 % above the compute."""

    cell: Cell
    tokens: Decimal
    compute: float

    @property
    def error(self) -> float:
        """Price over compute, less one."""
        return float(self.tokens) / self.compute - 1


@dataclass(frozen=True, slots=True)
class Margin:
    """How far a model's prices are above (or below) its compute: of its cells the median, the least, the greatest."""

    median: float
    least: float
    greatest: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """A price list beside the measurement."""

    prices: Prices
    cells: tuple[CellPrice, ...]

    @property
    def worst(self) -> CellPrice:
        """The cell with the largest error."""
        return max(self.cells, key=lambda price: abs(price.error))

    @property
    def is_within(self) -> bool:
        """Whether every price is within ±5 % of its compute."""
        return abs(self.worst.error) <= WITHIN

    def margins(self) -> dict[str, Margin]:
        """The margin of each model."""
        errors: dict[str, list[float]] = {}
        for price in self.cells:
            errors.setdefault(price.cell.model, []).append(price.error)
        return {model: Margin(statistics.median(some), min(some), max(some)) for model, some in errors.items()}


@dataclass(frozen=True, slots=True)
class Calibration:
    """A measurement, the lines through it, and three price lists beside it."""

    measurement: Measurement
    costs: Mapping[str, ModelCost]
    by_gflops: Line | None
    in_force: Comparison
    published: Comparison
    proposed: Comparison

    @property
    def intercept_worst(self) -> float:
        """The worst error of a price with an intercept for each model, which the formula has not."""
        return max(cost.line.residual_worst for cost in self.costs.values())

    @property
    def verdict(self) -> str:
        """Whether the proposed list is within ±5 %, and if not, why, in a sentence or two."""
        worst = self.proposed.worst
        where = f"{worst.cell.model} at {worst.cell.width}×{worst.cell.height}"
        if self.proposed.is_within:
            return (
                f"The proposed list is within ±5 % of measured compute: its worst cell is {where}, {worst.error:+.1%}."
            )
        if self.intercept_worst <= WITHIN:
            why = (
                "A price is proportional to pixels and the formula has no intercept; with one for each model the worst "
                f"cell would be {self.intercept_worst:.1%} off."
            )
        else:
            why = (
                "With an intercept for each model, which the formula has not, the worst cell would still be "
                f"{self.intercept_worst:.1%} off: measure again on an idle machine, or in more rounds."
            )
        return (
            f"No list of this formula is within ±5 % of this measurement: at best its worst cell is {where}, "
            f"{worst.error:+.1%}, and its rounds differ by up to {_noise(worst.cell, self.measurement.clock):.0%} from "
            f"their median. {why}"
        )

    def document(self) -> dict[str, Any]:
        """Everything as JSON; prices in tokens are text."""
        gflops = self.by_gflops
        return {
            "table": json.loads(self.measurement.table()),
            "table_sha256": self.measurement.sha256,
            "costs": {
                model: {
                    "ms_per_megapixel": asdict(cost.ms_per_megapixel),
                    "intercept_ms": asdict(cost.intercept_ms),
                    "beta": asdict(cost.beta),
                    **_line_json(cost.line),
                }
                for model, cost in self.costs.items()
            },
            "ms_by_gflops": None
            if gflops is None
            else {"intercept_ms": gflops.intercept, "ms_per_gflop": gflops.slope, **_line_json(gflops)},
            "in_force": _comparison_json(self.in_force),
            "published": _comparison_json(self.published),
            "proposed": {**_comparison_json(self.proposed), "within_5_percent": self.proposed.is_within},
            "verdict": self.verdict,
        }


def compare(measurement: Measurement, prices: Prices) -> Calibration:
    """The fits, and the lists in force, published and proposed beside a measurement. Raises `NoRateError`."""
    ms, megapixels = times_of(measurement.cells, measurement.clock)
    return Calibration(
        measurement=measurement,
        costs=fit_models(ms, megapixels, reference=measurement.reference, seed=measurement.seed),
        by_gflops=_fit_gflops(measurement),
        in_force=compare_prices(measurement, prices),
        published=compare_prices(measurement, published_beside(prices)),
        proposed=compare_prices(measurement, propose(measurement, prices)),
    )


def compare_prices(measurement: Measurement, prices: Prices) -> Comparison:
    """The price of every cell under a list. Raises `NoRateError`."""
    return Comparison(
        prices,
        tuple(
            CellPrice(
                cell,
                calculate_tokens(
                    cell.height,
                    cell.width,
                    alpha=prices.alpha,
                    beta=prices.beta(cell.model),
                    minimum=prices.minimum,
                ),
                measurement.compute(cell),
            )
            for cell in measurement.cells
        ),
    )


def propose(measurement: Measurement, prices: Prices) -> Prices:
    """The list with the smallest worst error that α · pixels · β can have; all but α and β stays as in `prices`.

    For a model whose cells have pixels over compute from r to R, that is 2 / (r + R) for α · β: its dearest and its
    cheapest cell are then off by the same. β of the reference is 1. Models that were not measured keep their rate.
    """
    rates = {}
    for model in measurement.models:
        ratios = [
            cell.height * cell.width / REFERENCE_PIXELS / measurement.compute(cell)
            for cell in measurement.cells
            if cell.model == model
        ]
        rates[model] = 2 / (min(ratios) + max(ratios))
    alpha = rates[measurement.reference]
    return replace(
        prices,
        version=f"{measurement.facts['started_at'][:10]}-{measurement.sha256[:12]}",
        alpha=_decimal(alpha),
        betas={**prices.betas, **{model: _decimal(rate / alpha) for model, rate in rates.items()}},
    )


def _fit_gflops(measurement: Measurement) -> Line | None:
    counts = [measurement.facts["models"][cell.model]["gflops_640"] for cell in measurement.cells]
    if None in counts:
        return None
    pixels = [cell.height * cell.width / REFERENCE_SIDE_PX**2 for cell in measurement.cells]
    return fit_line(np.multiply(counts, pixels), np.array([cell.ms(measurement.clock) for cell in measurement.cells]))


def _noise(cell: Cell, clock: Clock) -> float:
    """The largest distance of a round from the median, beside that."""
    return max(abs(ms / cell.ms(clock) - 1) for ms in cell.times(clock))


def _decimal(value: float) -> Decimal:
    """On the grid of a price list, and never zero."""
    return max(Decimal(value).quantize(_GRID), _GRID)


def _line_json(line: Line) -> dict[str, Any]:
    return {"r_squared": line.r_squared, "residual_worst": line.residual_worst, "residuals": list(line.residuals)}


def _comparison_json(comparison: Comparison) -> dict[str, Any]:
    prices = comparison.prices
    return {
        "version": prices.version,
        "alpha": str(prices.alpha),
        "betas": {model: str(beta) for model, beta in prices.betas.items()},
        "margins": {model: asdict(margin) for model, margin in comparison.margins().items()},
        "worst": _price_json(comparison.worst),
        "cells": [_price_json(price) for price in comparison.cells],
    }


def _price_json(price: CellPrice) -> dict[str, Any]:
    cell = price.cell
    return {
        **{"model": cell.model, "height_px": cell.height, "width_px": cell.width},
        **{"tokens": str(price.tokens), "compute": price.compute, "error": price.error},
    }
