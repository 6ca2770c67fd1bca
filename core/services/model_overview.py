"""What an operator sees of the models: state, versions, price, and what each earns by the last calibration."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from core.db import Database
from core.errors import VisionMeterError
from core.inference.calibration import Cell
from core.inference.canaries import Canary
from core.inference.registry import Model, ModelState, ModelVersion, Registry
from core.pricing.book import Prices, current_prices
from core.services.admin import view_model
from core.services.calibrate import write_whole
from core.services.calibration_report import Calibration, Measurement, compare_prices

log = logging.getLogger("visionmeter")


@dataclass(frozen=True, slots=True)
class ModelMargin:
    """β as measured, and how far the list price is above compute at the median size: 0.1 is 10 % above."""

    beta: float
    margin: float


@dataclass(frozen=True, slots=True)
class Margins:
    """The list in force beside the last calibration: on which device and when it was, and what each model earns."""

    device: str
    measured_at: datetime
    models: Mapping[str, ModelMargin]


@dataclass(frozen=True, slots=True)
class ModelLine:
    """A model as an operator sees it. `version` is that of everybody but the canary's share; `beta` that in force."""

    model: Model
    state: ModelState
    is_own: bool
    is_retired: bool
    canary: Canary | None
    version: ModelVersion | None
    problem: VisionMeterError | None
    beta: Decimal | None
    margin: ModelMargin | None


@dataclass(frozen=True, slots=True)
class Overview:
    """All models, retired ones too, and the margins that there are."""

    lines: tuple[ModelLine, ...]
    margins: Margins | None


def list_overview(db: Database, registry: Registry, data_dir: Path) -> Overview:
    """Every known model beside the price list in force and the last calibration."""
    with db.read() as session:
        prices = current_prices(session)
    margins = read_margins(data_dir, prices)
    lines = []
    for model in registry.models():
        view = view_model(registry, model, registry.now)
        lines.append(
            ModelLine(
                model=model,
                state=view.state,
                is_own=registry.is_own(model.name),
                is_retired=registry.is_retired(model.name),
                canary=registry.canaries.running(model.name),
                version=view.version,
                problem=view.problem,
                beta=prices.betas.get(model.name),
                margin=margins.models.get(model.name) if margins is not None else None,
            )
        )
    return Overview(tuple(lines), margins)


def keep_report(calibration: Calibration, data_dir: Path) -> None:
    """Keep a calibration as the last one. Raises `OSError`."""
    write_whole(json.dumps(calibration.document()) + "\n", _report_path(data_dir))


def read_margins(data_dir: Path, prices: Prices) -> Margins | None:
    """What the models of a price list earn by the last calibration that was kept; None where there was none."""
    path = _report_path(data_dir)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        table = document["table"]
        cells = tuple(
            Cell(
                *(cell["model"], cell["height_px"], cell["width_px"]),
                tuple(cell["wall_ms"]),
                tuple(cell["processor_ms"]),
            )
            for cell in table["cells"]
        )
        measurement = Measurement(cells, table["clock"], table["reference"], table["seed"], table["facts"])
        # A model without a rate is measured, too; what it earns is not asked.
        priced = replace(prices, betas={**dict.fromkeys(measurement.models, Decimal(1)), **prices.betas})
        margins = compare_prices(measurement, priced).margins()
        return Margins(
            device=str(measurement.facts["device"]),
            measured_at=datetime.fromisoformat(measurement.facts["started_at"]),
            models={
                model: ModelMargin(float(document["costs"][model]["beta"]["value"]), margin.median)
                for model, margin in margins.items()
                if model in prices.betas
            },
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        log.error("%s is not used: %s", path, error)
        return None


def _report_path(data_dir: Path) -> Path:
    return data_dir / "calibrations" / "last.json"
