"""What an operator types to look after models: `visionmeter catalog …`. A running service does what was said by itself.

(`visionmeter models` is the client's: what customers see.)

Exit codes: 0 done, 1 refused and nothing was changed, 2 it could not be tried (usage, a setting, the database).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.config import load_settings
from core.errors import VisionMeterError
from gateway.cli_database import fail, open_database
from gateway.cli_quantize import REFUSED, describe_claim, quantize

# torch takes seconds to import: a mistyped option should not wait for it.
if TYPE_CHECKING:
    from core.inference.quantized_file import Manifest
    from core.inference.registry import Registry
    from core.services.model_overview import ModelLine, Overview
    from core.services.models import ModelDesk, VersionView

catalog = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Add models and weights, go back, try new weights on a share of the accounts, retire.",
)

catalog.command("quantize")(quantize)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")]
File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="An .onnx file (preferred) or a .pt file of Ultralytics, or what quantize wrote."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")]


@catalog.command("list")
def list_models(as_json: AsJson = False) -> None:
    """Every model: state, version, β in force, and what it earns by the last `visionmeter calibrate`."""
    with _open_desk() as desk:
        from core.services.model_overview import list_overview

        overview = list_overview(desk.db, desk.registry, load_settings().data_dir)
    if as_json:
        _print_json(_overview_json(overview))
        return
    typer.echo(f"{'model':20} {'state':16} {'version':13} {'β':>7} {'measured':>9} {'margin':>7}")
    for line in overview.lines:
        beta = "—" if line.beta is None else str(line.beta)
        measured, margin = (
            ("", "") if line.margin is None else (f"{line.margin.beta:.2f}", f"{line.margin.margin:+.0%}")
        )
        version = line.version.version if line.version else ""
        typer.echo(f"{line.model.name:20} {_state(line):16} {version:13} {beta:>7} {measured:>9} {margin:>7}".rstrip())
    if overview.margins is None:
        typer.echo("What each model earns is not known here: run visionmeter calibrate.")
    else:
        typer.echo(f"Measured on {overview.margins.device}, {overview.margins.measured_at:%Y-%m-%d %H:%M} UTC.")


@catalog.command("versions")
def list_versions(name: Name, as_json: AsJson = False) -> None:
    """The kept versions of a model, the one that was put in service last first."""
    with _open_desk() as desk:
        from core.services import models as service

        views = service.list_versions(desk, name)
    if as_json:
        _print_json([_version_json(view) for view in views])
        return
    if not views:
        typer.echo(f"No version of {name} was ever in service.")
    for view in views:
        words = "served" if view.served else f"canary {view.canary_percent} %" if view.canary_percent else ""
        typer.echo(f"{view.version.version}  {view.used_at:%Y-%m-%d %H:%M} UTC  {words}".rstrip())
        if view.manifest is not None:
            typer.echo(f"  {describe_claim(view.manifest, origin_known=view.origin_known)}")


@catalog.command("add")
def add(
    name: Name,
    weights: File,
    title: Annotated[str, typer.Option(help="What customers read.")],
    beta: Annotated[str, typer.Option(help="Its β in the price list.")],
    as_json: AsJson = False,
) -> None:
    """A model of your own: inspected, tried in a process of its own, and offered at its β from now on."""
    try:
        rate = Decimal(beta)
    except InvalidOperation:
        fail(f"--beta is a number such as 1.5, not {beta}.")
    with _open_desk() as desk:
        from core.services import models as service

        model = service.add_model(desk, name=name, title=title, weights=weights, beta=rate)
        path = desk.registry.weights_path(model)
    _say(
        as_json,
        f"{model.title} is offered as {model.name} at β {rate}. It finds: {model.classes}",
        {"name": model.name, "title": model.title, "classes": model.classes, "beta": str(rate)},
        (desk.registry, path),
    )


@catalog.command("replace")
def replace(name: Name, weights: File, as_json: AsJson = False) -> None:
    """New weights for a model; a running service serves them as soon as they are warm."""
    with _open_desk() as desk:
        from core.services import models as service

        sha256 = service.replace_weights(desk, name, weights)
        path = desk.registry.weights_path(desk.registry.get(name))
    _say(as_json, f"{name} has the weights {sha256[:12]}.", {"name": name, "sha256": sha256}, (desk.registry, path))


@catalog.command("roll-back")
def roll_back(
    name: Name,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="The first 12 characters of its SHA-256.")],
    as_json: AsJson = False,
) -> None:
    """Put a kept version in the place of the model's weights."""
    with _open_desk() as desk:
        from core.services import models as service

        back = service.roll_back(desk, name, version)
    outcome = {"name": name, "sha256": back.sha256}
    _say(as_json, f"{name} has the weights {back.version} again.", outcome, (desk.registry, back.path))


@catalog.command("canary")
def canary(
    name: Name,
    percent: Annotated[int, typer.Option(help="The share of the accounts, 1 to 100.")],
    weights: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="An .onnx, .pt or .openvino file; without it the canary gets another share."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Try new weights on a share of the accounts; the same account always meets the same weights."""
    with _open_desk() as desk:
        from core.services import models as service

        version = service.start_canary(desk, name, weights, percent=percent)
    _say(
        as_json,
        f"{percent} % of the accounts meet {version.version} of {name}.",
        {"name": name, "sha256": version.sha256, "percent": percent},
        (desk.registry, version.path),
    )


@catalog.command("promote")
def promote(name: Name, as_json: AsJson = False) -> None:
    """The weights that were tried on a share become everybody's."""
    with _open_desk() as desk:
        from core.services import models as service

        version = service.promote(desk, name)
    outcome = {"name": name, "sha256": version.sha256}
    _say(as_json, f"Everybody meets {version.version} of {name}.", outcome, (desk.registry, version.path))


@catalog.command("stop-canary")
def stop_canary(name: Name, as_json: AsJson = False) -> None:
    """Everybody meets the model's own weights again."""
    with _open_desk() as desk:
        from core.services import models as service

        service.stop_canary(desk, name)
    _say(as_json, f"Nobody meets the canary of {name} any more.", {"name": name, "stopped": True})


@catalog.command("retire")
def retire(name: Name, as_json: AsJson = False) -> None:
    """Offer a model no longer; results, receipts and what was quoted stay."""
    with _open_desk() as desk:
        from core.services import models as service

        service.retire_model(desk, name)
    _say(as_json, f"{name} is retired.", {"name": name, "retired": True})


@catalog.command("offer")
def offer(name: Name, as_json: AsJson = False) -> None:
    """Offer a retired model again."""
    with _open_desk() as desk:
        from core.services import models as service

        service.offer_model(desk, name)
    _say(as_json, f"{name} is offered.", {"name": name, "retired": False})


@contextmanager
def _open_desk() -> Iterator[ModelDesk]:
    """The operator's desk on the configured database and folder; what is refused in the block ends the command."""
    with open_database() as db:
        from core.inference.registry import Registry
        from core.services.models import COMMAND, ModelDesk

        settings = load_settings()
        registry = Registry(settings.weights_dir, fetch_allowed=settings.model_fetch)
        try:
            yield ModelDesk(db, registry, COMMAND, settings.weights_bytes_max)
        except VisionMeterError as error:
            typer.echo(error.message, err=True)
            raise typer.Exit(REFUSED) from None


def _state(line: ModelLine) -> str:
    if line.is_retired:
        return "retired"
    if line.problem is not None:
        return "refused"
    if line.canary is not None:
        return f"canary {line.canary.percent} %"
    return line.state.value


def _overview_json(overview: Overview) -> dict[str, Any]:
    margins = overview.margins
    return {
        "models": [
            {
                "name": line.model.name,
                "title": line.model.title,
                "state": line.state.value,
                "own": line.is_own,
                "retired": line.is_retired,
                "canary": None
                if line.canary is None
                else {"sha256": line.canary.sha256, "percent": line.canary.percent},
                "sha256": line.version.sha256 if line.version else None,
                "problem": line.problem.message if line.problem else None,
                "beta": None if line.beta is None else str(line.beta),
                "beta_measured": None if line.margin is None else round(line.margin.beta, 4),
                "margin": None if line.margin is None else round(line.margin.margin, 4),
            }
            for line in overview.lines
        ],
        "calibration": None
        if margins is None
        else {"device": margins.device, "measured_at": margins.measured_at.isoformat()},
    }


def _version_json(view: VersionView) -> dict[str, Any]:
    return {
        "version": view.version.version,
        "sha256": view.version.sha256,
        "used_at": view.used_at.isoformat(timespec="seconds"),
        "served": view.served,
        "canary_percent": view.canary_percent,
        **_claim_json(view.manifest, view.origin_known),
    }


def _claim_json(manifest: Manifest | None, origin_known: bool) -> dict[str, Any]:
    if manifest is None:
        return {"loss": None}
    return {
        "loss": manifest.loss.model_dump(),
        "made_from_sha256": manifest.weights_sha256,
        "made_from_known": origin_known,
    }


def _say(as_json: bool, sentence: str, outcome: dict[str, Any], came: tuple[Registry, Path] | None = None) -> None:
    """What was done, and of weights that came into service with it what they say that they lose, if quantized."""
    from core.services.models import find_manifest, is_origin_known

    manifest = None if came is None else find_manifest(came[1])
    known = came is not None and manifest is not None and is_origin_known(came[0], outcome["name"], manifest)
    if as_json:
        _print_json(outcome if manifest is None else {**outcome, **_claim_json(manifest, known)})
        return
    typer.echo(sentence)
    if manifest is not None:
        typer.echo(describe_claim(manifest, origin_known=known))


def _print_json(outcome: object) -> None:
    typer.echo(json.dumps(outcome, indent=2, ensure_ascii=False))
