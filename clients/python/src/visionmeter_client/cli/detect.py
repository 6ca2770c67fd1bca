"""`visionmeter detect`: images of a folder or of the web through one job, with the price before and the boxes after."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypedDict

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from visionmeter_client.answers import Job, JobImage, Quote, QuotedImage
from visionmeter_client.cli.account import plain_table
from visionmeter_client.cli.session import (
    INTERRUPTED,
    SOME_FAILED,
    AllowHttpOption,
    HostOption,
    KeyOption,
    fail,
    open_client,
)
from visionmeter_client.client import VisionMeter
from visionmeter_client.errors import VisionMeterError


class Shown(TypedDict):
    """Which of what was found is told and drawn; changes no price."""

    confidence: float | None
    classes: list[str] | None


class Format(StrEnum):
    """A format for other programs."""

    JSON = "json"
    CSV = "csv"
    COCO = "coco"
    YOLO = "yolo"


def detect(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Files, or http(s) addresses.")],
    model: Annotated[str | None, typer.Option(help="The model; `visionmeter models` lists them.")] = None,
    img_size: Annotated[int | None, typer.Option(help="Longer side of what the model sees, in pixels.")] = None,
    tile_px: Annotated[
        int | None, typer.Option(help="For small objects: also run tiles with this side, in pixels of the image.")
    ] = None,
    confidence: Annotated[float | None, typer.Option(min=0, max=1, help="The least confidence to tell of.")] = None,
    classes: Annotated[str | None, typer.Option(metavar="NAME,…", help="Only objects of these names.")] = None,
    quote: Annotated[bool, typer.Option("--quote", help="Show the exact price first, and ask.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write each image with its boxes there as PNG; with yolo also labels."),
    ] = None,
    file_format: Annotated[
        Format | None, typer.Option("--format", help="Print the results in this format, and nothing else.")
    ] = None,
    host: HostOption = None,
    key: KeyOption = None,
    allow_http: AllowHttpOption = False,
) -> None:
    """Find objects in images. Without --quote it runs at once; what is taken is told afterwards.

    With --quote and nobody to ask (no terminal, no --yes) it shows the price and runs nothing.
    """
    _check_files(images)
    with_labels = file_format is Format.YOLO and output is not None
    if file_format is Format.YOLO and output is None and len(images) > 1:
        fail("YOLO has a label file for each image: say with --output DIR where they go.")
    # Where the results are for a program, everything else goes to the error stream.
    console = Console(stderr=file_format is not None, highlight=False, markup=False)
    shown = Shown(confidence=confidence, classes=classes.split(",") if classes else None)
    with open_client(host, key, allow_http) as client:
        if quote:
            offer = client.quote(images, model=model, img_size=img_size, tile_px=tile_px, **shown)
            _print_quote(console, offer)
            if not yes and not _is_agreed(console):
                return
            job = client.create_job(quote=offer)
        else:
            job = client.create_job(images, model=model, img_size=img_size, tile_px=tile_px, **shown)
        job = _follow(client, job, shown)
        if output is not None:
            _write_files(client, job, output, shown, with_labels=with_labels)
        if file_format is not None and not with_labels:
            typer.echo(client.export(job.id, file_format, **shown), nl=False)
    _print_outcome(console, job, with_lines=file_format is None)
    if any(not image.has_succeeded for image in job.results):
        raise typer.Exit(SOME_FAILED)


def _check_files(images: Sequence[str]) -> None:
    for image in images:
        if not image.lower().startswith(("http://", "https://")) and not Path(image).is_file():
            fail(f"There is no file {image}.")


def _print_quote(console: Console, offer: Quote) -> None:
    table = plain_table(
        *("image", "pixels", "network input", "list", "tokens", ""),
        right={"pixels", "network input", "list", "tokens"},
    )
    for image in offer.images:
        table.add_row(
            image.name,
            f"{image.width}×{image.height}",
            _network_input(image),
            f"{image.list_tokens:.3f}",
            f"{image.tokens:.3f}",
            f"free ({image.free_reason})" if image.free_reason else "",
        )
    console.print(table)
    discount = f", {offer.discount_percent} % off" if offer.discount_percent else ""
    console.print(
        f"{_count(len(offer.images), 'image')} with {offer.model} at {offer.img_size}: at most "
        f"{offer.tokens:.3f} tokens{discount} (price version {offer.price_version})."
    )


def _network_input(image: QuotedImage) -> str:
    whole = f"{image.input_width}×{image.input_height}"
    return f"{whole} + {image.tiles} × {image.tile_input_width}×{image.tile_input_height}" if image.tiles else whole


def _is_agreed(console: Console) -> bool:
    if not sys.stdin.isatty():
        console.print("Nothing was run: there is no terminal to ask on. Add --yes to run it.")
        return False
    agreed = typer.confirm("Run it?", err=True)
    if not agreed:
        console.print("Nothing was run.")
    return agreed


def _follow(client: VisionMeter, job: Job, shown: Shown) -> Job:
    """Wait for the job with a progress bar where somebody sees it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("images", total=job.images.total)
            return client.wait(job.id, progress=lambda state: bar.update(task, completed=state.images.done), **shown)
    except KeyboardInterrupt:
        stopped = client.cancel(job.id)
        typer.echo(
            f"Stopped: {stopped.images.cancelled} of {_count(stopped.images.total, 'image')} were not run and are "
            f"given back. Job {job.id}.",
            err=True,
        )
        raise typer.Exit(INTERRUPTED) from None
    except VisionMeterError:
        typer.echo(f"The job {job.id} goes on by itself.", err=True)
        raise


def _write_files(client: VisionMeter, job: Job, folder: Path, shown: Shown, *, with_labels: bool) -> None:
    named: Counter[str] = Counter()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for image in job.results:
            # Images of the same name get a number, also where one of them failed.
            stem = Path(image.name).stem
            named[stem] += 1
            if named[stem] > 1:
                stem = f"{stem}.{named[stem]}"
            if image.id is None or not image.has_succeeded:
                continue
            # Never the name of an original.
            (folder / f"{stem}.detected.png").write_bytes(client.annotated_result(image.id, **shown))
            if with_labels:
                (folder / f"{stem}.txt").write_bytes(client.export_result(image.id, Format.YOLO, **shown))
    except OSError as error:
        fail(f"{folder} cannot be written: {error.strerror}. The job {job.id} is done and paid.")


def _print_outcome(console: Console, job: Job, *, with_lines: bool) -> None:
    for image in job.results:
        if with_lines or not image.has_succeeded:
            console.print(_line(image), soft_wrap=True)
    console.print(
        f"{_count(job.images.total, 'image')}: {job.usage.tokens:.3f} tokens taken, "
        f"{job.usage.remaining_tokens:.3f} left. Job {job.id}.",
        soft_wrap=True,
    )


def _line(image: JobImage) -> str:
    if not image.has_succeeded:
        return f"{image.name}: {image.status}{f' ({image.error})' if image.error else ''}, nothing taken"
    found = Counter(one.name for one in image.predictions)
    named = ", ".join(f"{number} {name}" for name, number in found.most_common())
    price = "free" if image.usage.cached else f"{image.usage.tokens:.3f} tokens"
    return f"{image.name}: {named or 'nothing found'} ({price})"


def _count(number: int, one: str) -> str:
    return f"{number:,} {one if number == 1 else one + 's'}"
