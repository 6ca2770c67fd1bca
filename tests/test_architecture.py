"""The house: imports go downward only, and money is never a float."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Float, Numeric
from sqlmodel import SQLModel

import core.jobs.tables
import core.ledger.tables
import core.payments.card_tables
import core.payments.tables
import core.pricing.tables
import core.usage.tables  # noqa: F401  # registers the tables
from core.config import ROOT

MONEY = [
    ROOT / "core" / "money.py",
    *(path for noun in ("ledger", "pricing", "payments") for path in sorted((ROOT / "core" / noun).glob("*.py"))),
]


def test_imports_go_downward_only() -> None:
    """import-linter keeps every contract of pyproject.toml."""
    command = Path(sys.executable).with_name("lint-imports")
    outcome = subprocess.run(
        [command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "0 broken" in outcome.stdout


def test_no_money_column_is_a_float() -> None:
    """No column of any table is a float or an inexact number, and every amount is a BIGINT."""
    amounts = 0
    for table in SQLModel.metadata.tables.values():
        for column in table.columns:
            assert not isinstance(column.type, Float | Numeric), f"{table.name}.{column.name}"
            if column.name.endswith("_mt"):
                amounts += 1
                assert str(column.type) == "BIGINT", f"{table.name}.{column.name}"
    assert amounts >= 12


def floats_in(source: str) -> list[str]:
    """Where a module names `float`, writes a float literal, or divides integers into one with `/`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and node.id == "float":
            found.append(f"line {node.lineno}: float")
        if isinstance(node, ast.Constant) and isinstance(node.value, float):
            found.append(f"line {node.lineno}: {node.value}")
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value == "float":
            found.append(f"line {node.lineno}: 'float'")
    return found


@pytest.mark.parametrize("path", MONEY, ids=lambda path: str(path.relative_to(ROOT)))
def test_money_code_names_no_float(path: Path) -> None:
    """No signature, call or literal in the modules of money is a float."""
    assert floats_in(path.read_text(encoding="utf-8")) == []


def test_the_float_finder_finds_floats() -> None:
    """Control: a float in a signature, a call and a literal is each found."""
    assert len(floats_in("def f(x: float) -> None: ...\ny = float('1')\nz = 0.1\ndef g(x: 'float'): ...")) == 4


def test_modules_are_readable_in_one_sitting() -> None:
    """No module of the core or the gateway has grown beyond 400 lines."""
    for folder in ("core", "gateway"):
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
