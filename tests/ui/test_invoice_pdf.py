"""An invoice as PDF: what was stored, in both languages, read back from the file."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace

import pytest

from core.config import Settings
from core.payments.invoice_tables import Invoice
from core.services.application import set_current
from tests.ui.test_statement_pdf import fonts, texts
from ui import i18n, invoice_pdf, pdf_sheet


@pytest.fixture(params=["en", "zh_CN"])
def language(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each language of the portal."""
    monkeypatch.setattr(i18n, "language", lambda: request.param)
    monkeypatch.setattr(pdf_sheet, "language", lambda: request.param)
    set_current(SimpleNamespace(settings=Settings(_env_file=None)))  # type: ignore[arg-type]  # all that is asked for
    return str(request.param)


def an_invoice(kind: str = "invoice", **more: object) -> Invoice:
    """An invoice over ¥500 with 19 % of tax, or a credit note for ¥100.50 of it."""
    says = {
        "seller": {"name": "视觉有限公司", "address": "Weg 1\n10115 Berlin", "tax_id": "DE123456789"},
        "buyer": {"name": "Łukasz & <b>Co</b>", "address": "Street 1\nTown", "tax_id": "FR 1", "account_id": "acct_1"},
        "note": "Reverse charge.",
        "tokens_mt": 50_000_000,
        "bonus_mt": 1_500_000,
        "price_per_token": "0.01",
        "provider": "stripe",
        "reference": "card_1",
        "paid_at": "2026-11-27T10:00:00+00:00",
        **more,
    }
    is_invoice = kind == "invoice"
    return Invoice(
        number="VM-000001" if is_invoice else "VM-000002",
        series="VM-",
        position=1 if is_invoice else 2,
        kind=kind,
        payment_id="pay_1",
        account_id="acct_1",
        corrects=None if is_invoice else "VM-000001",
        issued_at=datetime(2026, 11, 27, 10, tzinfo=UTC),
        currency="CNY",
        gross_minor=50_000 if is_invoice else 10_050,
        vat_minor=7_983 if is_invoice else 1_605,
        vat_percent=Decimal(19),
        says=says,
    )


def test_an_invoice_says_what_was_stored(language: str) -> None:
    """Number, date, both parties with their tax numbers, what was bought, net, tax, total and the note."""
    data = invoice_pdf.invoice_pdf(an_invoice())
    (page,) = texts(data)
    for words in (
        *(
            "VM-000001",
            "2026-11-27",
            "视觉有限公司",
            "10115 Berlin",
            "DE123456789",
            "Łukasz & <b>Co</b>",
            "Town",
            "FR 1",
        ),
        *("51,500.000", "1,500.000", "¥420.17", "19 %", "¥79.83", "¥500.00", "Reverse charge.", "card_1 · pay_1"),
    ):
        assert words in page, words
    title, total = {"en": ("Invoice", "Total, tax included"), "zh_CN": ("发票", "含税合计")}[language]
    assert title in page
    assert total in page
    assert all(fonts(data).values())
    assert invoice_pdf.invoice_pdf(an_invoice()) == data


def test_a_credit_note_takes_back(language: str) -> None:
    """It names the invoice that it corrects, and its amounts are negative."""
    (page,) = texts(invoice_pdf.invoice_pdf(an_invoice("credit_note")))
    for words in ("VM-000002", "VM-000001", "−¥84.45", "−¥16.05", "−¥100.50"):
        assert words in page, words
    assert {"en": "Credit note", "zh_CN": "贷项通知单"}[language] in page


def test_long_names_stay_on_the_paper(language: str) -> None:
    """Names and addresses as long as they may be wrap, and the sums are still there."""
    buyer = {"name": "深" * 200, "address": "\n".join(["x" * 60] * 8), "tax_id": "1" * 40, "account_id": "acct_1"}
    pages = texts(invoice_pdf.invoice_pdf(an_invoice(buyer=buyer)))
    assert "¥500.00" in " ".join(pages)
