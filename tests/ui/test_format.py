"""How shares are shown."""

from __future__ import annotations

from decimal import Decimal

import pytest

from ui.format import share


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("0", "0 %"), ("0.001", "0.1 %"), ("0.05", "0.1 %"), ("0.1", "0.1 %"), ("25", "25 %"), ("99.94", "99.9 %"),
        ("99.95", "99.9 %"), ("99.99", "99.9 %"), ("100", "100 %"), ("100.04", "100 %"), ("240.26", "240.3 %"),
    ],
)  # fmt: skip
def test_a_share_never_rounds_to_all_or_nothing(value: str, words: str) -> None:
    """Below 100 stays below it and above 0 above it; what is more than the whole is said as it is."""
    assert share(Decimal(value)) == words.replace(" ", "\N{NO-BREAK SPACE}")
