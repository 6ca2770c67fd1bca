"""The README's table of settings: `python -m core.settings_table` prints it."""

from __future__ import annotations

import sys
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from core.config import ROOT, Settings


def settings_table() -> str:
    """Every setting as a Markdown table; the README holds it, and a test compares the two."""
    lines = ["| setting | default | accepted | what it is |", "|---|---|---|---|"]
    lines += [
        f"| `VISIONMETER_{name.upper()}` | {_default_text(field)} | {_accepted_text(field)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(lines) + "\n"


def _default_text(field: FieldInfo) -> str:
    default = field.default
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, Path):
        return f"`{default.relative_to(ROOT)}`"
    return "empty" if default in ("", SecretStr("")) else f"`{default}`"


def _accepted_text(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(field.annotation))
    limits = [
        f"{sign} {getattr(limit, name):,}"
        for limit in field.metadata
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"))
        if hasattr(limit, name)
    ]
    kinds: dict[Any, str] = {
        int: "whole number",
        float: "number",
        Decimal: "number",
        bool: "`true`, `false`",
        Path: "folder",
    }
    kind = kinds.get(field.annotation, "text")
    return " ".join([kind, " and ".join(limits)]).strip()


if __name__ == "__main__":
    sys.stdout.write(settings_table())
