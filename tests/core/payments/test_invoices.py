"""Tax in a price, and the settings of whoever sells."""

from __future__ import annotations

from decimal import Decimal

import pytest

from core.config import Settings
from core.payments.invoices import read_seller, tax_within


@pytest.mark.parametrize(
    ("gross_minor", "percent", "tax_minor"),
    [
        (11_900, "19", 1_900),
        (50_000, "6", 2_830),  # 2830.19
        (106, "6", 6),
        (1, "19", 0),  # 0.16
        (3, "20", 1),  # 0.5 exactly: half up
        (10_000, "0", 0),
        (10_000, "7.7", 715),  # 714.95
        (200, "100", 100),
    ],
)
def test_tax_within_a_price(gross_minor: int, percent: str, tax_minor: int) -> None:
    """gross · p / (100 + p) in minor units, half up; nothing at no rate."""
    assert tax_within(gross_minor, Decimal(percent)) == tax_minor


def test_a_seller_needs_an_address() -> None:
    """A name alone stops the start; the address's lines may end with semicolons; without a name there is no seller."""
    assert read_seller(Settings(_env_file=None)) is None
    with pytest.raises(ValueError, match="VISIONMETER_INVOICE_SELLER_ADDRESS"):
        Settings(_env_file=None, invoice_seller_name="Vision GmbH")
    seller = read_seller(
        Settings(_env_file=None, invoice_seller_name="Vision GmbH", invoice_seller_address="Weg 1; 10115 Berlin")
    )
    assert seller is not None
    assert seller.address == "Weg 1\n10115 Berlin"


@pytest.mark.parametrize("prefix", ["A1", "INV-2026", "a b", "x" * 17, "INV\n"])
def test_prefixes_that_would_mix_series(prefix: str) -> None:
    """A prefix that ends in a digit could give two series the same number; one with spaces is no number."""
    with pytest.raises(ValueError, match="invoice_prefix"):
        Settings(_env_file=None, invoice_prefix=prefix)
    assert Settings(_env_file=None, invoice_prefix="2026-").invoice_prefix == "2026-"
