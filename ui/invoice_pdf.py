"""An invoice or a credit note as a PDF in the reader's language; what it says was stored when it was issued."""

from __future__ import annotations

from decimal import Decimal

from fpdf.enums import Align

from core.money import format_tokens
from core.payments.invoice_tables import CREDIT_NOTE, Invoice
from ui.format import paid, percent
from ui.i18n import _
from ui.payment_words import way_words
from ui.pdf_sheet import GREY, INK, TEXT_PT, Sheet

# Widths in mm; they share the 174 mm between the margins.
_COLUMNS = ((124, Align.L), (50, Align.R))


def invoice_pdf(invoice: Invoice) -> bytes:
    """The invoice as a PDF file, the same words each time."""
    sheet = _compose(invoice)
    if (digits := len(str(sheet.pages_count))) > 1:
        sheet = _compose(invoice, digits=digits)
    return bytes(sheet.output())


def kind_words(invoice: Invoice) -> str:
    """What it is."""
    return _("Credit note") if invoice.kind == CREDIT_NOTE else _("Invoice")


def _compose(invoice: Invoice, *, digits: int = 1) -> Sheet:
    says = invoice.says
    sheet = Sheet(
        f"{kind_words(invoice)} {invoice.number}", foot=invoice.number, made_at=invoice.issued_at, digits=digits
    )
    sheet.add_page()
    sheet.letterhead(kind_words(invoice), invoice.number)
    for label, party in ((_("From"), says["seller"]), (_("To"), says["buyer"])):
        lines = [party["name"], *party["address"].splitlines()]
        if party["tax_id"]:
            lines.append(_("Tax number: {number}").format(number=party["tax_id"]))
        sheet.paragraph(label, TEXT_PT, GREY)
        for line in lines:
            sheet.paragraph(sheet.words(line), TEXT_PT, INK)
        sheet.ln(3)
    facts = [(_("Number"), invoice.number), (_("Date"), f"{invoice.issued_at:%Y-%m-%d} (UTC)")]
    if invoice.corrects:
        facts.append((_("Corrects"), _("Invoice {number}").format(number=invoice.corrects)))
    if says["paid_at"]:
        facts.append((_("Paid"), f"{says['paid_at'][:10]} {way_words(says['provider'])}"))
    facts += [
        (_("Reference"), f"{says['reference']} · {invoice.payment_id}"),
        (_("Account number"), says["buyer"]["account_id"]),
    ]
    sheet.facts(facts)
    sheet.ln(5)
    _write_sums(sheet, invoice)
    if says["note"]:
        sheet.ln(3)
        sheet.paragraph(sheet.words(says["note"]), TEXT_PT, INK)
    return sheet


def _write_sums(sheet: Sheet, invoice: Invoice) -> None:
    says, currency, sign = invoice.says, invoice.currency, -1 if invoice.kind == CREDIT_NOTE else 1
    credited_mt = says["tokens_mt"] + says["bonus_mt"]
    if invoice.kind == CREDIT_NOTE:
        bought = _("Money paid back for {amount} tokens").format(amount=format_tokens(credited_mt))
    elif says["bonus_mt"]:
        bought = _("{amount} tokens, {bonus} of them bonus").format(
            amount=format_tokens(credited_mt), bonus=format_tokens(says["bonus_mt"])
        )
    else:
        bought = _("{amount} tokens").format(amount=format_tokens(credited_mt))
    rate = percent(Decimal(invoice.vat_percent))
    rows = [
        (bought, paid(sign * invoice.net_minor, currency)),
        (_("Value added tax {rate}").format(rate=rate), paid(sign * invoice.vat_minor, currency)),
        (_("Total, tax included"), paid(sign * invoice.gross_minor, currency)),
    ]
    sheet.rows(_COLUMNS, (_("Description"), currency), rows, is_strong=lambda row: row == 2)
