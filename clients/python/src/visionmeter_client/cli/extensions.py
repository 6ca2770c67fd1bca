"""Commands of other packages, found by the entry-point group `visionmeter.commands` and loaded when asked for."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from visionmeter_client.cli.session import fail

GROUP = "visionmeter.commands"


class Commands(TyperGroup):
    """The client's own commands, then those of others. One that cannot be loaded leaves the rest usable."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *sorted(set(_extensions()).difference(self.commands))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        extension = _extensions().get(cmd_name)
        return None if extension is None else _load(extension)


def _extensions() -> dict[str, EntryPoint]:
    return {extension.name: extension for extension in entry_points(group=GROUP)}


def _load(extension: EntryPoint) -> Any:
    try:
        group = extension.load()
    except (ImportError, AttributeError) as error:
        reason = f"The command {extension.name} cannot be loaded: {error}."

        def refuse() -> None:
            fail(reason)

        # Whatever else is on its line, the sentence is the answer.
        anything = {"ignore_unknown_options": True, "allow_extra_args": True}
        return TyperCommand(extension.name, callback=refuse, help=reason, context_settings=anything)
    assert isinstance(group, typer.Typer)
    # A package with several commands gives a group of them, one with a single command gives that.
    command = get_command(group)
    command.name = extension.name
    return command
