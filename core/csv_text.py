"""Files of CSV, and words that people typed as cells of one that a spreadsheet will open."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

# What a spreadsheet takes for the beginning of a formula; the wide forms count in East Asian editions.
_FORMULA_STARTS = frozenset("=+-@\t\r\n＝＋－＠")


def plain_cell(text: str) -> str:
    """A text that a spreadsheet shows and does not compute: an apostrophe goes before what begins like a formula.

    For names, reasons and references; a number is written as a number and needs no guard.
    """
    return f"'{text}" if text.lstrip(" ")[:1] in _FORMULA_STARTS and text.strip(" ") else text


def to_csv(rows: Iterable[Iterable[object]]) -> str:
    """Rows as lines of a CSV file."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
