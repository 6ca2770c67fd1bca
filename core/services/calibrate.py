"""Calibration: what every offered model costs on this device is measured, and a list that follows is put in force."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from core.config import Settings
from core.db import Database, utcnow
from core.errors import CalibrationRefusedError, ConfigError, InvalidImageSizeError, ModelNotReadyError
from core.geometry import IMG_SIZES_PX
from core.identity.audit_log import record_event
from core.inference.calibration import Clock, Subject, count_gflops, describe_machine, load_now, make_shapes, measure
from core.inference.embedded import place_embedded_model
from core.inference.engine import choose_device
from core.inference.registry import ModelState, Registry
from core.inference.replicas import Replica
from core.inference.untrained import build_untrained
from core.pricing.book import Prices, adopt_book, current_prices
from core.services.application import converted_dir
from core.services.calibration_report import Calibration, Measurement, compare
from core.services.serving import measure_backends, open_serving

REFERENCE_MODEL = "yolov8s"
ACTOR = "command:calibrate"


def calibrate(
    settings: Settings,
    prices: Prices,
    *,
    models: Sequence[str] = (),
    sizes: Sequence[int] = IMG_SIZES_PX,
    rounds: int = 5,
    clock: Clock = "wall",
    seed: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Measure the models (all that are offered, if none is named) and compare them with `prices`, those in force.

    A model without weights is measured with random ones. `tell` hears of what is going on. Raises `ModelNotFoundError`,
    `InvalidImageSizeError`, `ConfigError`, `WeightsRefusedError`, `NoRateError`, and `ModelNotReadyError` for a named
    model that has neither weights nor a published architecture.
    """
    if not sizes or not set(sizes) <= set(IMG_SIZES_PX):
        raise InvalidImageSizeError(f"A size is one of {', '.join(map(str, IMG_SIZES_PX))}.")
    device = choose_device(settings.device)
    if clock == "processor" and device.type != "cpu":
        raise ConfigError(f"The clock of the processor says nothing about {device.type}: measure by the wall clock.")
    registry = Registry(settings.weights_dir)
    place_embedded_model(registry)
    wanted = [registry.get(name) for name in dict.fromkeys(models)] or list(registry.models())
    with tempfile.TemporaryDirectory(prefix="visionmeter-calibrate-") as folder:
        temporary = Path(folder)
        report = measure_backends(settings, registry, device, cache_dir=converted_dir(settings))
        # Compiled half-way, a model would be measured as a mixture of two.
        settings = settings.model_copy(update={"compiled_shapes_max": 0})
        serving = open_serving(settings, device, cache_dir=converted_dir(settings), report=report)
        passing = open_serving(settings, device, cache_dir=temporary / "converted", report=report)
        subjects: list[Subject] = []
        try:
            for model in wanted:
                untrained = registry.state(model.name) is not ModelState.READY
                try:
                    version = build_untrained(model, temporary) if untrained else registry.look(model.name)
                except ModelNotReadyError as error:
                    if models:
                        raise
                    tell(error.message)
                    continue
                network = (passing if untrained else serving)(version)
                subjects.append(Subject(Replica(version, network), untrained, count_gflops(version)))
                tell(f"{model.name}: {network.backend} {network.precision}{', random weights' if untrained else ''}")
            if not subjects:
                raise ModelNotReadyError("No model can be measured here: put weights into the weights folder.")
            before = load_now()
            started_at = utcnow()
            cells = measure(subjects, make_shapes(sizes), rounds=rounds, seed=seed, tell=tell)
        finally:
            for subject in subjects:
                subject.replica.network.close()
    names = [subject.name for subject in subjects]
    facts = {
        **describe_machine(device),
        "started_at": started_at.isoformat(timespec="seconds"),
        "rounds": rounds,
        "load_before": round(before, 2),
        "load_after": round(load_now(), 2),
        "models": {subject.name: _subject_json(subject) for subject in subjects},
    }
    of_beta_1 = [name for name in (REFERENCE_MODEL, *names) if name in names and prices.betas.get(name) == 1]
    reference = (of_beta_1 or names)[0]
    return compare(Measurement(tuple(cells), clock, reference, seed, facts), prices)


def adopt(
    db: Database, calibration: Calibration, *, note: str = "", force: bool = False, tables_dir: Path
) -> tuple[Prices, Path]:
    """Put the proposed list in force, and keep the measured table in `tables_dir` under its hash; gives both.

    Raises `CalibrationRefusedError` when its worst cell is beyond ±5 % (unless `force`), when a model of the list in
    force was not measured, and when that list has changed since.
    """
    measurement, proposed = calibration.measurement, calibration.proposed.prices
    if not force and not calibration.proposed.is_within:
        raise CalibrationRefusedError(f"{calibration.verdict} Nothing was changed; --force adopts it all the same.")
    missing = sorted(set(proposed.betas).difference(measurement.models))
    if missing:
        raise CalibrationRefusedError(
            f"A list is adopted only when all its models were measured: {', '.join(missing)} is missing. Nothing was "
            "changed.",
            models=missing,
        )
    sentence = (
        f"Calibrated on {measurement.facts['device']}, worst cell {calibration.proposed.worst.error:+.1%}; "
        f"measured table SHA-256 {measurement.sha256}"
    )
    path = tables_dir / f"{measurement.sha256}.json"
    with db.write() as session:
        in_force = current_prices(session)
        if in_force != calibration.in_force.prices:
            raise CalibrationRefusedError(
                f"The price list {in_force.version} came into force meanwhile: calibrate again. Nothing was changed."
            )
        # Before the commit: a list in force leads to its table.
        write_whole(measurement.table(), path)
        adopt_book(session, proposed, note=f"{note.strip()} {sentence}".strip())
        record_event(
            session,
            actor=ACTOR,
            action="price_book.adopt",
            subject=proposed.version,
            details={
                "before": in_force.version,
                "table_sha256": measurement.sha256,
                "worst_error": round(calibration.proposed.worst.error, 4),
                "forced": not calibration.proposed.is_within,
            },
        )
    return proposed, path


def write_whole(text: str, path: Path) -> None:
    """A file that is whole whenever somebody reads it. Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _subject_json(subject: Subject) -> dict[str, Any]:
    version, network = subject.replica.version, subject.replica.network
    return {
        "weights_sha256": version.sha256,
        "weights": "random" if subject.untrained else "trained",
        "backend": network.backend,
        "precision": network.precision,
        "streams": network.streams,
        "gflops_640": None if subject.gflops is None else round(subject.gflops, 3),
    }
