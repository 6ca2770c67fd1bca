"""Prices beside measured compute: known errors, the best list there can be, and when it is put in force."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core.config import Settings
from core.errors import CalibrationRefusedError, ConfigError, InvalidImageSizeError, ModelNotFoundError
from core.identity.audit_log import list_events
from core.identity.tables import User
from core.inference.calibration import Cell
from core.pricing.book import Prices, adopt_book, current_prices, get_prices, read_book
from core.pricing.tables import PriceBook
from core.services.application import Application
from core.services.calibrate import adopt, calibrate
from core.services.calibration_report import Calibration, Measurement, compare, compare_prices
from core.services.receipt_document import receipt_json
from tests.core.services.charges import charge

SHAPES = ((320, 320), (384, 640), (640, 640), (960, 960))
# Measured once on a processor (docs/adr/0025), beside the published 0.7, 1, 1.8, 2.5, 4.
MEASURED = {"yolov8n": 0.35, "yolov8s": 1.0, "yolov8m": 2.67, "yolov8l": 5.27, "yolov8x": 8.39, "yolov8s-fall": 1.0}
# The others cost here what the published list says.
BETAS = {name: float(beta) for name, beta in read_book().betas.items()} | MEASURED


@pytest.fixture
def ann(any_app: Application, sign_up: Callable[..., User]) -> User:
    """A customer with 20 tokens."""
    return sign_up(any_app)


def made_up(betas: dict[str, float], *, intercept_ms: float = 0.0, reference: str = "yolov8s") -> Measurement:
    """A measurement of 100 ms times β for 640 × 640, plus an intercept, without noise."""
    cells = []
    for model, beta in betas.items():
        for height, width in SHAPES:
            ms = intercept_ms + 100 * beta * height * width / 640**2
            cells.append(Cell(model, height, width, wall_ms=(ms, ms, 3 * ms), processor_ms=(2 * ms,) * 3))
    facts: dict[str, Any] = {
        "started_at": "2026-11-26T10:00:00+00:00",
        "device": "cpu",
        "models": {model: {"gflops_640": 28.6 * beta} for model, beta in betas.items()},
    }
    return Measurement(tuple(cells), "wall", reference, 1, facts)


def calibrated(app: Application, **changes: Any) -> Calibration:
    """A made-up measurement beside the list in force."""
    with app.db.read() as session:
        return compare(made_up(BETAS, **changes), current_prices(session))


def in_force(app: Application) -> Prices:
    """The list in force."""
    with app.db.read() as session:
        return current_prices(session)


# What is said about the lists --------------------------------------------------------------------


def test_margins_of_the_published_list(app: Application) -> None:
    """A yolov8n costs twice what it computes, a yolov8l less than half, and a yolov8s exactly that."""
    calibration = calibrated(app)
    margins = calibration.published.margins()
    assert margins["yolov8s"].least == pytest.approx(0) == pytest.approx(margins["yolov8s"].greatest)
    assert margins["yolov8n"].median == pytest.approx(1.0, abs=0.01)
    assert margins["yolov8l"].median == pytest.approx(2.5 / 5.27 - 1, abs=0.001)
    assert calibration.in_force.worst.cell.model == "yolov8n"
    assert not calibration.in_force.is_within


def test_costs_that_follow_pixels_give_a_list_without_errors(app: Application) -> None:
    """α and β are what they were made from; what is left is the rounding to a milli-token. GFLOPs explain them too."""
    calibration = calibrated(app)
    assert calibration.proposed.prices.alpha == 1
    assert {name: float(beta) for name, beta in calibration.proposed.prices.betas.items()} == BETAS
    assert abs(calibration.proposed.worst.error) < 0.01
    assert calibration.verdict.startswith("The proposed list is within ±5 % of measured compute: its worst cell is ")
    assert calibration.by_gflops is not None
    assert calibration.by_gflops.slope == pytest.approx(100 / 28.6)
    assert calibration.costs["yolov8x"].beta.value == pytest.approx(8.39)


def test_an_intercept_is_spread_and_said(app: Application) -> None:
    """With 10 ms besides, yolov8s has .25 pixels for .318 of compute and 2.25 for 2.136: equal and opposite errors."""
    calibration = calibrated(app, intercept_ms=10)
    low, high = 0.25 / (35 / 110), 2.25 / (235 / 110)
    margin = calibration.proposed.margins()["yolov8s"]
    assert margin.greatest == pytest.approx((high - low) / (high + low), abs=0.003)
    assert margin.least == pytest.approx(-margin.greatest, abs=0.003)
    worst = calibration.proposed.worst
    assert worst.cell.model == "yolov8n-cls"
    assert abs(worst.error) > 0.05
    assert calibration.intercept_worst < 1e-9
    assert "the formula has no intercept" in calibration.verdict
    assert "its rounds differ by up to 200% from their median" in calibration.verdict
    assert calibration.costs["yolov8s"].intercept_ms.value == pytest.approx(10)


def test_noise_is_not_taken_for_an_intercept(app: Application) -> None:
    """A cell that is 30 % off its model's line: the verdict asks for a better measurement."""
    measurement = made_up(BETAS)
    one = measurement.cells[0]
    noisy = replace(measurement, cells=(replace(one, wall_ms=(one.ms("wall") * 1.3,) * 3), *measurement.cells[1:]))
    with app.db.read() as session:
        verdict = compare(noisy, current_prices(session)).verdict
    assert "would still be" in verdict
    assert verdict.endswith("measure again on an idle machine, or in more rounds.")


def test_no_rate_of_the_formula_does_better(app: Application) -> None:
    """A proposed β changed by 1 % either way makes the worst error of its model larger."""
    calibration = calibrated(app, intercept_ms=10)
    proposed = calibration.proposed.prices

    def worst(prices: Prices, model: str) -> float:
        margin = compare_prices(calibration.measurement, prices).margins()[model]
        return max(abs(margin.least), abs(margin.greatest))

    for model, beta in proposed.betas.items():
        for factor in ("0.99", "1.01"):
            other = replace(proposed, betas={**proposed.betas, model: beta * Decimal(factor)})
            assert worst(other, model) > worst(proposed, model), model


def test_the_hash_is_of_the_table_alone(app: Application) -> None:
    """The same measurement under another list has the same hash; another number has another."""
    one = calibrated(app).measurement
    assert made_up(BETAS).sha256 == one.sha256
    assert made_up({**BETAS, "yolov8n": 0.36}).sha256 != one.sha256


# Putting a list in force -------------------------------------------------------------------------


def test_adopted(any_app: Application, ann: User, tmp_path: Path) -> None:
    """A new version with the old rules; note, audit event and a receipt's JSON lead to the table, which is kept."""
    before = in_force(any_app)
    calibration = calibrated(any_app)
    prices, path = adopt(any_app.db, calibration, note="Winter.", tables_dir=tmp_path / "tables")
    sha256 = calibration.measurement.sha256
    assert in_force(any_app) == prices
    assert prices.version == f"2026-11-26-{sha256[:12]}"
    assert (prices.minimum, prices.discounts, prices.late_rules) == (
        before.minimum,
        before.discounts,
        before.late_rules,
    )
    assert prices.betas["yolov8l"] == Decimal("5.27")
    assert path.name == f"{sha256}.json"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    assert json.loads(path.read_text())["cells"][0]["model"] == "yolov8n"
    with any_app.db.read() as session:
        assert get_prices(session, before.version) == before
        note = session.get_one(PriceBook, prices.version).note
        event = list_events(session)[0]
    assert note.startswith("Winter. Calibrated on cpu")
    assert (event.actor, event.action, event.subject) == ("command:calibrate", "price_book.adopt", prices.version)
    assert event.details["table_sha256"] == sha256
    assert event.details["before"] == before.version
    price = json.loads(receipt_json(any_app, ann, charge(any_app, ann, "a.jpg").id))["price"]
    assert price["version"] == prices.version
    assert sha256 in price["note"]


def test_beyond_5_percent_is_refused_with_a_sentence(any_app: Application, tmp_path: Path) -> None:
    """Nothing changes and nothing is written; with `force` it is adopted, and the audit log says so."""
    before = in_force(any_app)
    calibration = calibrated(any_app, intercept_ms=10)
    with pytest.raises(
        CalibrationRefusedError, match=r"^No list of this formula is within ±5 % .* Nothing was changed"
    ):
        adopt(any_app.db, calibration, tables_dir=tmp_path / "tables")
    assert in_force(any_app) == before
    assert not (tmp_path / "tables").exists()
    prices, _ = adopt(any_app.db, calibration, force=True, tables_dir=tmp_path / "tables")
    assert in_force(any_app) == prices
    with any_app.db.read() as session:
        assert list_events(session)[0].details["forced"] is True


def test_a_model_that_was_not_measured_is_named(any_app: Application, tmp_path: Path) -> None:
    """A list is of one measurement: also `force` adopts no mixture."""
    calibration = compare(made_up({"yolov8s": 1.0, "yolov8n": 0.4}), in_force(any_app))
    with pytest.raises(CalibrationRefusedError, match=r"yolo11l, .*, yolov8s-fall, .*, yolov8x, .* is missing"):
        adopt(any_app.db, calibration, force=True, tables_dir=tmp_path)


def test_a_list_that_changed_meanwhile_is_kept(any_app: Application, tmp_path: Path) -> None:
    """Measuring takes minutes: what another put in force since is not overwritten."""
    calibration = calibrated(any_app)
    with any_app.db.write() as session:
        adopt_book(session, replace(current_prices(session), version="9999-1"))
    with pytest.raises(CalibrationRefusedError, match="9999-1 came into force meanwhile"):
        adopt(any_app.db, calibration, tables_dir=tmp_path)
    assert in_force(any_app).version == "9999-1"


# Measuring for real ------------------------------------------------------------------------------


def test_measured_for_real(app: Application) -> None:
    """The embedded model and one without weights through the back end that serves; the JSON has everything."""
    calibration = calibrate(
        app.settings, in_force(app), models=["yolov8n", "yolov8s-fall"], sizes=[320], rounds=1, clock="processor"
    )
    document = json.loads(json.dumps(calibration.document(), allow_nan=False))
    facts = document["table"]["facts"]
    assert facts["device"] == "cpu"
    assert {"openvino", "torch", "ultralytics", "python"} <= set(facts["versions"])
    assert facts["cores"] >= 1
    assert {"load_before", "load_after", "processor", "started_at", "rounds"} <= set(facts)
    assert [facts["models"][name]["weights"] for name in ("yolov8n", "yolov8s-fall")] == ["random", "trained"]
    assert facts["models"]["yolov8s-fall"]["weights_sha256"] == app.registry.resolve("yolov8s-fall").sha256
    assert facts["models"]["yolov8s-fall"]["backend"] == "openvino"
    assert facts["models"]["yolov8s-fall"]["precision"] == "fp32"
    assert document["table"]["reference"] == "yolov8s-fall"
    assert document["table_sha256"] == calibration.measurement.sha256
    assert len(document["table"]["cells"]) == len(document["in_force"]["cells"]) == 8
    assert document["in_force"]["version"] == in_force(app).version
    assert set(document["costs"]) == {"yolov8n", "yolov8s-fall"}
    assert not app.registry.weights_path(app.registry.get("yolov8n")).exists()


def test_what_cannot_be_measured(app: Application) -> None:
    """Sizes and models that are not offered, and a clock that says nothing about the device."""
    prices = in_force(app)
    with pytest.raises(InvalidImageSizeError, match="A size is one of 320, 416"):
        calibrate(app.settings, prices, sizes=[320, 100])
    with pytest.raises(ModelNotFoundError, match="There is no model yolov99"):
        calibrate(app.settings, prices, models=["yolov99"])
    on_gpu = Settings(_env_file=None, device="cuda", data_dir=app.settings.data_dir)
    with pytest.raises(ConfigError, match="says nothing about cuda"):
        calibrate(on_gpu, prices, clock="processor")
