"""Parameters that several addresses take in their query."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query
from pydantic import Field

from gateway.shapes import split_names


def read_classes(
    classes: Annotated[
        list[Annotated[str, Field(max_length=1000)]] | None,
        Query(max_length=1000, description="Only these classes, by name; also comma-separated."),
    ] = None,
) -> list[str] | None:
    """The names of `classes`, which may be there several times, as HTTP libraries send a list."""
    names: list[str] | None = split_names(",".join(classes or []))
    return names


ClassNames = Annotated[list[str] | None, Depends(read_classes)]
