"""What people typed arrives in a spreadsheet as text and never as a formula."""

from __future__ import annotations

import csv
import io

import pytest

from core.csv_text import plain_cell


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        '=HYPERLINK("http://x")',
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        " =1",
        "＝1+1",
        "＋1",
        "－1",
        "＠x",
    ],
)
def test_what_begins_like_a_formula_gets_an_apostrophe(text: str) -> None:
    """Each beginning that a spreadsheet computes is kept from it, also behind spaces, and nothing else is changed."""
    assert plain_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", " ", "refund", "a=b", "5 - 3", "深圳市", "hold_3f9c", "'quoted", "😀"])
def test_other_words_stay_as_they_are(text: str) -> None:
    """Words that begin like words are not touched."""
    assert plain_cell(text) == text


def test_it_survives_the_csv_module() -> None:
    """Written and read back, the cell still begins with the apostrophe, whatever it holds."""
    text = '=cmd|"/c calc"!A1,\n=2'
    buffer = io.StringIO()
    csv.writer(buffer).writerow([plain_cell(text)])
    assert next(csv.reader(io.StringIO(buffer.getvalue()))) == [f"'{text}"]
