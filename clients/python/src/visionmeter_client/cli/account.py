"""`visionmeter balance`, `models` and `usage`: what is there, what can be asked for, what was used."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from visionmeter_client.cli.session import AllowHttpOption, HostOption, JsonOption, KeyOption, open_client, print_json

MomentOption = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], metavar="DAY")]


def balance(
    host: HostOption = None, key: KeyOption = None, allow_http: AllowHttpOption = False, as_json: JsonOption = False
) -> None:
    """Tokens that can be spent, and those that are held for what runs."""
    with open_client(host, key, allow_http) as client:
        answer = client.balance()
    if as_json:
        print_json(answer)
    else:
        typer.echo(f"{answer.remaining_tokens:.3f} tokens can be spent; {answer.held_tokens:.3f} are held.")


def models(
    host: HostOption = None, key: KeyOption = None, allow_http: AllowHttpOption = False, as_json: JsonOption = False
) -> None:
    """The models that can be asked for, and their rates (β)."""
    with open_client(host, key, allow_http, needs_key=False) as client:
        answer = client.models()
    if as_json:
        print_json(answer)
        return
    table = plain_table("model", "β", "state", "version", right={"β"})
    for model in answer:
        table.add_row(model.name, "" if model.beta is None else str(model.beta), model.state, model.version or "")
    Console(highlight=False, markup=False).print(table)


def usage(
    start: MomentOption = None,
    end: MomentOption = None,
    host: HostOption = None,
    key: KeyOption = None,
    allow_http: AllowHttpOption = False,
    as_json: JsonOption = False,
) -> None:
    """What was used, day by day, from --start to before --end."""
    with open_client(host, key, allow_http) as client:
        answer = client.usage(start, end)
    if as_json:
        print_json(answer)
        return
    table = plain_table("day", "model", "images", "tokens", right={"images", "tokens"})
    for day in answer.days:
        if day.images:
            table.add_row(day.day.isoformat(), day.model, str(day.images), f"{day.tokens:.3f}")
    table.add_row("together", "", str(answer.totals.images), f"{answer.totals.tokens:.3f}")
    Console(highlight=False, markup=False).print(table)


def plain_table(*columns: str, right: set[str]) -> Table:
    """A table without frames whose cells are never cut off."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table
