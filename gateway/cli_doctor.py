"""What an operator types when something seems wrong, and before opening the doors: `visionmeter doctor`.

Exit codes: 0 everything works (there may be warnings), 1 something does not, 2 the settings cannot be read.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from core.config import load_settings
from core.errors import VisionMeterError
from core.services import doctor as service
from gateway.cli_database import fail

PROBLEM = 1
_MARKS = {"ok": "ok     ", "warning": "warning", "problem": "PROBLEM"}

doctor = typer.Typer(add_completion=False, rich_markup_mode=None, help="Check this deployment, and say what to do.")


@doctor.command("doctor")
def examine(as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False) -> None:
    """Look at settings, folders, database, Redis, clock, device, models and safety. Nothing is changed."""
    try:
        settings = load_settings()
    except VisionMeterError as error:
        fail(error.message)
    findings = []
    for finding in service.examine(settings):
        findings.append(finding)
        if not as_json:
            typer.echo(f"{_MARKS[finding.level]}  {finding.subject:9} {finding.sentence}")
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    if any(finding.level == "problem" for finding in findings):
        raise typer.Exit(PROBLEM)
