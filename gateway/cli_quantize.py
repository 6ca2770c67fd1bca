"""What an operator types to quantize a model: `visionmeter catalog quantize`. It writes a file, and changes nothing.

Exit codes as `gateway.cli_models` has them: 0 written, 1 refused, 2 it could not be tried (usage, a setting).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.config import load_settings
from core.errors import InvalidImageSizeError, VisionMeterError
from core.geometry import IMG_SIZES_PX
from gateway.cli_database import fail

# torch takes seconds to import: a mistyped option should not wait for it.
if TYPE_CHECKING:
    from core.inference.quantized_file import Manifest
    from core.inference.registry import Model

REFUSED = 1


def quantize(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")],
    pictures: Annotated[
        list[Path], typer.Argument(metavar="PICTURE_OR_FOLDER", help="Pictures of what it is for, 20 or more.")
    ],
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write it; MODEL-int8.openvino here by default.")
    ] = None,
    sizes: Annotated[str, typer.Option(metavar="PIXELS,…", help="Sizes to calibrate and to measure.")] = ",".join(
        map(str, IMG_SIZES_PX)
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """The model's weights in INT8, calibrated with your pictures: faster on processors, and what it loses is measured.

    Three of four pictures calibrate, the others measure. It takes minutes. Customers notice nothing until you put the
    file in the model's place.
    """
    try:
        chosen_sizes = [int(size) for size in sizes.split(",")]
    except ValueError:
        fail(f"--sizes is numbers with commas between them, such as 320,640, not {sizes}.")
    target = output or Path(f"{name}-int8.openvino")
    from core.inference.registry import Registry
    from core.services.quantize import quantize_model

    try:
        settings = load_settings()
    except VisionMeterError as error:
        fail(error.message)
    registry = Registry(settings.weights_dir)
    try:
        done = quantize_model(
            *(settings, registry, name, pictures, target),
            sizes=chosen_sizes,
            tell=lambda line: typer.echo(line, err=True),
        )
    except InvalidImageSizeError as error:
        fail(f"--sizes: {error.message}")
    except VisionMeterError as error:
        typer.echo(error.message, err=True)
        raise typer.Exit(REFUSED) from None
    if as_json:
        outcome = {"file": str(target), "sha256": done.sha256, "skipped": done.skipped, **done.manifest.model_dump()}
        typer.echo(json.dumps(outcome, indent=2, ensure_ascii=False))
        return
    if done.skipped:
        typer.echo(f"Left out, for they are no pictures that are served here: {done.skipped} of the files.")
    typer.echo(describe_loss(done.manifest))
    typer.echo(f"{target} has version {done.sha256[:12]}. Nothing has changed for customers. To put it live:")
    for line in _commands(registry.get(name), target):
        typer.echo(f"  {line}")


def describe_loss(manifest: Manifest) -> str:
    """What INT8 loses, in two sentences."""
    from core.services.models import describe_classes

    loss, worst = manifest.loss, manifest.loss.worst
    worst_words = ""
    if worst is not None:
        name = describe_classes([manifest.names[worst.class_id]])
        worst_words = f"; of the worst class, {name}, {worst.found} of {worst.objects}"
    return (
        f"INT8 finds {loss.found} of the {loss.objects} objects of FP32 ({loss.found / loss.objects:.1%}) at "
        f"confidence {loss.confidence_min:g}, and {loss.besides} besides{worst_words}; in {loss.pictures} pictures "
        f"that it was not calibrated with, at {len(loss.sizes)} sizes ({', '.join(map(str, loss.sizes))} pixels), each "
        f"object counted at each; confidences differ by {loss.confidence_mean:.3f} on average and "
        f"{loss.confidence_most:.3f} at most, boxes overlap by IoU {loss.iou_mean:.3f}. An image takes {loss.time:.2f} "
        f"of the time of FP32 ({loss.time_least:.2f} to {loss.time_most:.2f}) where it was measured."
    )


def describe_claim(manifest: Manifest, *, origin_known: bool) -> str:
    """The same of a file that came from somewhere: what it says of itself, and of what it says that it was made."""
    origin = manifest.weights_sha256[:12]
    unknown = "" if origin_known else f" Version {origin} is none that is known here."
    return f"Its file says that it was made from {origin}: {describe_loss(manifest)}{unknown}"


def _commands(model: Model, target: Path) -> list[str]:
    if model.sha256 is not None:
        # Its own weights come with the installation and cannot be others.
        return [f'visionmeter catalog add {model.name}-int8 {target} --title "{model.title} INT8" --beta …']
    return [
        f"visionmeter catalog canary {model.name} {target} --percent 5   (for a share of the accounts)",
        f"visionmeter catalog replace {model.name} {target}   (for everybody)",
    ]
