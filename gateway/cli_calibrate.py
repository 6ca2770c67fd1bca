"""What an operator types to measure the device: `visionmeter calibrate`.

Exit codes: 0 measured (and adopted, if that was asked), 1 the price list was not adopted, 2 nothing could be measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.config import load_settings
from core.errors import CalibrationRefusedError
from core.geometry import IMG_SIZES_PX
from core.pricing.book import current_prices
from gateway.cli_database import fail, open_database, write_atomically

# torch takes seconds to import: a mistyped option should not wait for it.
if TYPE_CHECKING:
    from core.services.calibration_report import Calibration, Comparison

NOT_ADOPTED = 1


class ClockName(StrEnum):
    """What is counted."""

    WALL = "wall"
    PROCESSOR = "processor"


# One command without a name of its own: the name is that of the entry point.
calibrate = typer.Typer(add_completion=False, rich_markup_mode=None, help="Measure what each model costs here.")


@calibrate.command("calibrate")
def measure(
    models: Annotated[str, typer.Option(metavar="NAME,…", help="Only these models.")] = "",
    sizes: Annotated[str, typer.Option(metavar="PIXELS,…", help="Sizes to measure.")] = ",".join(
        map(str, IMG_SIZES_PX)
    ),
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Turns of every model at every size.")] = 5,
    clock: Annotated[
        ClockName, typer.Option(help="Time that passes, or what the cores spend: the second where others use them too.")
    ] = ClockName.WALL,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of the measurements and of the intervals.")] = 0,
    output: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write everything there.")] = None,
    adopt: Annotated[bool, typer.Option("--adopt", help="Put the proposed price list in force.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Adopt it although it is beyond ±5 %.")] = False,
    note: Annotated[str, typer.Option(help="A note for the price list.")] = "",
) -> None:
    """Measure the models on this device and compare their prices with it. Prices change only with --adopt.

    Every model that is offered, in turns, through the back end that serves; one without weights is measured with random
    ones. Best on an idle machine, with the service stopped.
    """
    try:
        chosen_sizes = [int(size) for size in _split(sizes)]
    except ValueError:
        fail(f"--sizes is numbers with commas between them, such as 320,640, not {sizes}.")
    from core.services import calibrate as service
    from core.services.model_overview import keep_report

    with open_database() as db:
        settings = load_settings()
        with db.read() as session:
            prices = current_prices(session)
        calibration = service.calibrate(
            settings,
            prices,
            models=_split(models),
            sizes=chosen_sizes,
            rounds=rounds,
            clock=clock.value,
            seed=seed,
            tell=lambda line: typer.echo(line, err=True),
        )
        keep_report(calibration, settings.data_dir)
        if output is not None:
            write_atomically(output, json.dumps(calibration.document(), indent=1) + "\n")
        for line in _lines(calibration):
            typer.echo(line)
        if not adopt:
            return
        tables_dir = settings.data_dir / "calibrations"
        try:
            adopted, path = service.adopt(db, calibration, note=note, force=force, tables_dir=tables_dir)
        except CalibrationRefusedError as error:
            typer.echo(error.message, err=True)
            raise typer.Exit(NOT_ADOPTED) from None
        typer.echo(f"The price list {adopted.version} is in force. Its table: {path}")


def _lines(calibration: Calibration) -> Iterable[str]:
    measurement = calibration.measurement
    facts, models = measurement.facts, measurement.facts["models"]
    versions = ", ".join(f"{package} {version}" for package, version in facts["versions"].items())
    yield f"{facts['device']}, {facts['processor']}, {facts['cores']} cores; {versions}"
    yield (
        f"{len(measurement.cells)} cells, rounds: {facts['rounds']}, seed {measurement.seed}, {measurement.clock} "
        f"clock; load {facts['load_before']} before, {facts['load_after']} after"
    )
    untrained = [model for model in measurement.models if models[model]["weights"] == "random"]
    if untrained:
        yield f"Measured with random weights, which cost the same: {', '.join(untrained)}."
    yield ""
    yield (
        f"{'model':14} {'back end':16} {'GFLOPs':>7}  {'ms per megapixel':>22}  {'ms besides':>20}  "
        f"{'beta':>19}  {'R²':>6}  {'worst':>6}"
    )
    for model, cost in calibration.costs.items():
        slope, base, beta = cost.ms_per_megapixel, cost.intercept_ms, cost.beta
        how, gflops = models[model], models[model]["gflops_640"]
        yield (
            f"{model:14} {how['backend'] + ' ' + how['precision']:16} {'' if gflops is None else f'{gflops:.1f}':>7}  "
            f"{f'{slope.value:.0f} ({slope.low:.0f}…{slope.high:.0f})':>22}  "
            f"{f'{base.value:.1f} ({base.low:.1f}…{base.high:.1f})':>20}  "
            f"{f'{beta.value:.2f} ({beta.low:.2f}…{beta.high:.2f})':>19}  "
            f"{cost.line.r_squared:6.3f}  {cost.line.residual_worst:6.1%}"
        )
    yield (
        f"GFLOPs are those of a 640×640 input. In brackets the 95 % interval; beta is beside "
        f"{measurement.reference}; worst is the largest distance of a size from its model's line."
    )
    line = calibration.by_gflops
    if line is not None:
        yield (
            f"All models by GFLOPs: {line.intercept:.2f} ms + {line.slope:.3f} ms each, R² {line.r_squared:.3f}, "
            f"worst {line.residual_worst:.1%}."
        )
    yield ""
    lists = {"in force": calibration.in_force, "published": calibration.published, "proposed": calibration.proposed}
    yield f"Prices above (+) or below (−) compute, {measurement.reference} at 640×640 = 1.000: median (least…greatest)"
    margins = {name: comparison.margins() for name, comparison in lists.items()}
    yield f"{'':14} " + "  ".join(f"{f'{name}, β':26}" for name in lists)
    for model in measurement.models:
        shown = []
        for name, comparison in lists.items():
            margin = margins[name][model]
            span = f"{margin.median:+.0%} ({margin.least:+.0%}…{margin.greatest:+.0%})"
            shown.append(f"{f'{span}, {comparison.prices.betas[model]}':26}")
        yield f"{model:14} " + "  ".join(shown)
    for name, comparison in lists.items():
        yield f"{name}, {comparison.prices.version}, α {comparison.prices.alpha}: worst cell {_worst(comparison)}"
    yield calibration.verdict
    yield f"Measured table SHA-256 {measurement.sha256}"


def _worst(comparison: Comparison) -> str:
    worst = comparison.worst
    cell = worst.cell
    return (
        f"{cell.model} at {cell.width}×{cell.height}, {worst.tokens} tokens for a compute of {worst.compute:.3f}, "
        f"{worst.error:+.1%}"
    )


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
