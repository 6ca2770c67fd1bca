"""Money is never a float: not in the real schema of either database, and in no signature of the modules of money.

`tests/test_architecture.py` reads the source for the word; this looks at what the database and the annotations
really are, through aliases and inside dataclasses.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any, NamedTuple

import pytest
from sqlalchemy import Float, MetaData, Numeric
from sqlmodel import SQLModel

import core.identity.tables
import core.jobs.tables
import core.ledger.tables
import core.payments.card_tables
import core.payments.tables
import core.pricing.tables
import core.usage.tables  # noqa: F401  # registers the tables
from core.db import Database

PACKAGES = ("core.ledger", "core.pricing", "core.money")


# The schema ----------------------------------------------------------------------------------------


def inexact_columns(metadata: MetaData) -> list[str]:
    """The columns that hold floats or numbers a database may keep as one, and amounts that are no BIGINT."""
    return [
        f"{table.name}.{column.name}: {column.type}"
        for table in metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, Float | Numeric)
        or (column.name.endswith("_mt") and str(column.type).upper() != "BIGINT")
    ]


def test_no_table_of_the_code_has_a_float() -> None:
    """Every column that the code declares is exact."""
    assert sum(len(table.columns) for table in SQLModel.metadata.tables.values()) > 100
    assert inexact_columns(SQLModel.metadata) == []


def test_no_table_of_the_database_has_a_float(db: Database) -> None:
    """Every column that the migrations made is exact, as the database itself describes it."""
    real = MetaData()
    real.reflect(db.engine)
    assert set(SQLModel.metadata.tables) <= set(real.tables)
    assert inexact_columns(real) == []


@pytest.mark.parametrize("kind", ["REAL", "FLOAT", "DOUBLE PRECISION", "NUMERIC(12, 3)"])
def test_a_float_in_the_database_is_found(db: Database, kind: str) -> None:
    """Control: a column of each inexact type that somebody adds by hand is found."""
    with db.write() as session:
        session.connection().exec_driver_sql(f"ALTER TABLE voucher ADD COLUMN extra {kind}")
    real = MetaData()
    real.reflect(db.engine, only=["voucher"])
    assert len(inexact_columns(real)) == 1


# Signatures ----------------------------------------------------------------------------------------


def modules(package: str) -> Iterator[types.ModuleType]:
    """A module, and those inside it."""
    module = importlib.import_module(package)
    yield module
    for info in pkgutil.walk_packages(getattr(module, "__path__", []), prefix=f"{package}."):
        yield importlib.import_module(info.name)


def has_fields(kind: Any) -> bool:
    """Whether a type is a class of ours whose annotated fields are part of the signature that names it."""
    return inspect.isclass(kind) and (
        is_dataclass(kind) or issubclass(kind, SQLModel) or (issubclass(kind, tuple) and hasattr(kind, "_fields"))
    )


def holds_float(hint: Any, looked_at: set[Any] | None = None) -> bool:
    """Whether an annotation is, contains, or has fields that contain a float."""
    looked_at = set() if looked_at is None else looked_at
    if hint is float:
        return True
    if isinstance(hint, list | tuple):  # the parameters of a Callable
        return any(holds_float(part, looked_at) for part in hint)
    if has_fields(hint) and hint not in looked_at:
        looked_at.add(hint)
        return any(holds_float(part, looked_at) for part in typing.get_type_hints(hint).values())
    if isinstance(hint, typing.TypeVar):
        return any(holds_float(part, looked_at) for part in (hint.__bound__, *hint.__constraints__))
    return any(holds_float(part, looked_at) for part in typing.get_args(hint))


def functions(owner: Any, module: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The functions and methods that a module or class defines itself, with those behind properties and decorators."""
    for name, member in vars(owner).items():
        if isinstance(member, property):
            found = [one for one in (member.fget, member.fset) if one is not None]
        elif isinstance(member, classmethod | staticmethod):
            found = [member.__func__]
        else:
            found = [member]
        for function in found:
            plain = inspect.unwrap(function) if callable(function) else function
            if inspect.isfunction(plain) and plain.__module__ == module:
                yield name, plain
            elif inspect.isclass(plain) and plain.__module__ == module and owner is not plain:
                yield from ((f"{name}.{inner}", method) for inner, method in functions(plain, module))


def floats_of(function: Callable[..., Any]) -> list[str]:
    """The parameters (or `return`) of a function that are annotated with a float or default to one."""
    hints = typing.get_type_hints(function)
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if type(parameter.default) is float
    }
    return sorted({name for name, hint in hints.items() if holds_float(hint)} | set(defaults))


@pytest.mark.parametrize("package", PACKAGES)
def test_no_signature_of_money_holds_a_float(package: str) -> None:
    """No parameter, result or field that a function of the modules of money names is or contains a float."""
    looked_at, found = 0, []
    for module in modules(package):
        for name, function in functions(module, module.__name__):
            looked_at += 1
            found += [f"{module.__name__}.{name}: {part}" for part in floats_of(function)]
        for name, kind in vars(module).items():
            if has_fields(kind) and kind.__module__ == module.__name__ and holds_float(kind):
                found.append(f"{module.__name__}.{name}")
    assert found == []
    assert looked_at >= 5


class _Row(NamedTuple):
    amounts: Mapping[str, list[float] | None]


@dataclass
class _Nested:
    rows: tuple[_Row, ...]


class _Service:
    @property
    def rate(self) -> float | None:
        return None

    @staticmethod
    def convert(tokens: float) -> int:
        return int(tokens)


def _nested(nested: _Nested | None) -> None: ...


def _callback(callback: Callable[[float], int]) -> None: ...


def _default(share: Any = 0.5) -> None: ...


def _quoted(share: "float") -> None: ...  # noqa: UP037  # the annotation as text is what is tried


def _exact(amount_mt: int, names: Mapping[str, tuple[int, ...]]) -> str | None: ...


@pytest.mark.parametrize("function", [_nested, _callback, _default, _quoted])
def test_the_finder_finds_floats(function: Callable[..., Any]) -> None:
    """Control: a float inside a dataclass, a callback, a default and a text is each found."""
    assert len(floats_of(function)) == 1


def test_the_finder_looks_into_classes() -> None:
    """Control: floats of a property and a static method are found, and exact signatures are not."""
    found = [name for name, function in functions(_Service, __name__) if floats_of(function)]
    assert found == ["rate", "convert"]
    assert floats_of(_exact) == []
