"""JSON into frozen dataclasses by their annotations. A number with a point is a `Decimal`: no amount is a float."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from visionmeter_client.errors import UnexpectedAnswerError

T = TypeVar("T")


def load_json(text: bytes | str) -> Any:
    """Parse JSON. Raises `UnexpectedAnswerError`."""
    try:
        return json.loads(text, parse_float=Decimal)
    except ValueError:
        raise UnexpectedAnswerError(
            "The answer is no JSON: something other than VisionMeter may be listening there."
        ) from None


def read(kind: type[T], value: Any, where: str = "the answer") -> T:
    """A value of a type from parsed JSON; unknown members are ignored. Raises `UnexpectedAnswerError`."""
    read_value: T = _read(kind, value, where)
    return read_value


def _read(kind: Any, value: Any, where: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (kind,) = (one for one in inner if one is not types.NoneType)
        return None if value is None else _read(kind, value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_read(inner[0], one, f"{where}[{index}]") for index, one in enumerate(value))
    if origin is Mapping and isinstance(value, dict):
        return {name: _read(inner[1], one, f"{where}.{name}") for name, one in value.items()}
    if is_dataclass(kind) and isinstance(value, dict):
        return _read_members(kind, value, where)
    return value if kind is Any else _read_scalar(kind, value, where)


def _read_members(kind: Any, value: dict[str, Any], where: str) -> Any:
    members = {}
    for field, hint in _members(kind):
        name = field.metadata.get("name", field.name)
        if name in value:
            members[field.name] = _read(hint, value[name], f"{where}.{name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise UnexpectedAnswerError(f"There is no {where}.{name}: client and server do not fit together.")
    return kind(**members)


def _read_scalar(kind: Any, value: Any, where: str) -> Any:
    is_number = isinstance(value, int | Decimal) and not isinstance(value, bool)
    if kind in (Decimal, float) and is_number:
        return kind(value)
    try:
        if kind is Decimal and isinstance(value, str):
            return Decimal(value)
        if kind in (datetime, date) and isinstance(value, str):
            return kind.fromisoformat(value)
    except (ValueError, ArithmeticError):
        pass
    else:
        if isinstance(kind, type) and isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
    raise UnexpectedAnswerError(f"{where} is {str(value)[:40]!r}: client and server do not fit together.")


@cache
def _members(kind: Any) -> list[tuple[Any, Any]]:
    hints = get_type_hints(kind)
    return [(field, hints[field.name]) for field in fields(kind)]
