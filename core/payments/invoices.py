"""Invoices and credit notes: numbered without gaps, and what they say is stored. In the caller's transaction.

A number is taken from its series' row by one `UPDATE … RETURNING`, which holds that row until the transaction ends:
whoever comes next waits, and a transaction that is rolled back gives its number back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from sqlalchemy import text, update
from sqlmodel import Session, col, select

from core.config import Settings
from core.db import insert_if_absent, utcnow
from core.payments.invoice_tables import (
    CREDIT_NOTE,
    INVOICE,
    IS_INVOICE,
    BillingDetails,
    Invoice,
    InvoiceSeries,
)
from core.payments.tables import Payment


@dataclass(frozen=True, slots=True)
class Seller:
    """The operator as invoices name him. `vat_percent` is the tax that prices include."""

    name: str
    address: str
    tax_id: str
    vat_percent: Decimal
    note: str
    series: str


def read_seller(settings: Settings) -> Seller | None:
    """The operator's tax data; None where no invoices are issued."""
    if not settings.invoice_seller_name:
        return None
    return Seller(
        settings.invoice_seller_name,
        settings.invoice_seller_address,
        settings.invoice_seller_tax_id,
        settings.invoice_vat_percent,
        settings.invoice_note,
        settings.invoice_prefix,
    )


def tax_within(gross_minor: int, vat_percent: Decimal) -> int:
    """The tax in a gross amount, in minor units: `gross · p / (100 + p)`, rounded half up."""
    tax = gross_minor * vat_percent / (100 + vat_percent)
    return int(tax.quantize(Decimal(1), rounding=ROUND_HALF_UP))


def issue_invoice(session: Session, seller: Seller, payment: Payment, *, account_name: str) -> Invoice | None:
    """The invoice of a paid payment, once; None for one without money, such as a voucher.

    Made out as the account's billing details say now, or to `account_name` where there are none.
    """
    if payment.amount_minor == 0:
        return None
    known = get_billing(session, payment.account_id)
    buyer = {"name": known.name or account_name, "address": known.address, "tax_id": known.tax_id}
    says = {
        "seller": {"name": seller.name, "address": seller.address, "tax_id": seller.tax_id},
        "buyer": {**buyer, "account_id": payment.account_id},
        "note": seller.note,
        "tokens_mt": payment.tokens_mt,
        "bonus_mt": payment.bonus_mt,
        "price_per_token": str(payment.price_per_token),
        "provider": payment.provider,
        "reference": payment.provider_reference,
        "paid_at": None if payment.paid_at is None else payment.paid_at.isoformat(timespec="seconds"),
    }
    tax = tax_within(payment.amount_minor, seller.vat_percent)
    return _issue(
        session, seller.series, INVOICE, payment, payment.amount_minor, tax, vat_percent=seller.vat_percent, says=says
    )


def issue_credit_note(session: Session, payment: Payment, refunded_minor: int) -> Invoice | None:
    """A credit note for what was paid back since the last one; None when there is nothing new, or no invoice.

    `refunded_minor` is all that was ever paid back of the payment, so that saying it twice issues one. The tax of all
    credit notes together is that of their sum: when everything is paid back, it is the invoice's to the last unit.
    """
    before = list_of_payment(session, payment.id)
    invoice = next((one for one in before if one.kind == INVOICE), None)
    if invoice is None:
        return None
    credited = [one for one in before if one.kind == CREDIT_NOTE]
    refunded_minor = min(refunded_minor, invoice.gross_minor)
    gross = refunded_minor - sum(one.gross_minor for one in credited)
    if gross <= 0:
        return None
    tax = tax_within(refunded_minor, invoice.vat_percent) - sum(one.vat_minor for one in credited)
    return _issue(
        session,
        invoice.series,
        CREDIT_NOTE,
        payment,
        gross,
        tax,
        vat_percent=invoice.vat_percent,
        says=invoice.says,
        corrects=invoice.number,
    )


def list_of_payment(session: Session, payment_id: str) -> Sequence[Invoice]:
    """A payment's invoice, then its credit notes as they were issued."""
    query = select(Invoice).where(Invoice.payment_id == payment_id)
    return session.exec(query.order_by(text(f"NOT ({IS_INVOICE})"), col(Invoice.position))).all()


def list_of_account(session: Session, account_id: str, *, limit: int) -> Sequence[Invoice]:
    """An account's invoices and credit notes, the newest first."""
    query = select(Invoice).where(Invoice.account_id == account_id)
    return session.exec(query.order_by(col(Invoice.issued_at).desc(), col(Invoice.position).desc()).limit(limit)).all()


def list_issued(session: Session, since: datetime, until: datetime) -> Sequence[Invoice]:
    """All that was issued from `since` until before `until`, by series and number."""
    query = select(Invoice).where(col(Invoice.issued_at) >= since, col(Invoice.issued_at) < until)
    return session.exec(query.order_by(col(Invoice.series), col(Invoice.position))).all()


def get_billing(session: Session, account_id: str) -> BillingDetails:
    """Whom an account's invoices are made out to; empty where nobody said it."""
    return session.get(BillingDetails, account_id) or BillingDetails(account_id=account_id)


def set_billing(session: Session, account_id: str, *, name: str, address: str, tax_id: str) -> None:
    """Make out the account's next invoices so; those that were issued stay as they are."""
    values = {"name": name, "address": address, "tax_id": tax_id, "updated_at": utcnow()}
    row = {"account_id": account_id, **values}
    if insert_if_absent(session, BillingDetails, row, returning="account_id") is None:
        session.execute(update(BillingDetails).where(col(BillingDetails.account_id) == account_id).values(**values))


def forget_billing(session: Session, account_id: str) -> None:
    """Remove whom the invoices were made out to; what was issued must be kept, and says it still."""
    if (row := session.get(BillingDetails, account_id)) is not None:
        session.delete(row)


def _issue(
    session: Session,
    series: str,
    kind: str,
    payment: Payment,
    gross_minor: int,
    vat_minor: int,
    *,
    vat_percent: Decimal,
    says: dict[str, Any],
    corrects: str | None = None,
) -> Invoice:
    insert_if_absent(session, InvoiceSeries, {"name": series, "last_position": 0}, returning="name")
    take = update(InvoiceSeries).where(col(InvoiceSeries.name) == series)
    take = take.values(last_position=col(InvoiceSeries.last_position) + 1)
    position = session.execute(take.returning(col(InvoiceSeries.last_position))).scalar_one()
    invoice = Invoice(
        number=f"{series}{position:06}",
        series=series,
        position=position,
        kind=kind,
        payment_id=payment.id,
        account_id=payment.account_id,
        corrects=corrects,
        currency=payment.currency,
        gross_minor=gross_minor,
        vat_minor=vat_minor,
        vat_percent=vat_percent,
        says=says,
    )
    session.add(invoice)
    session.flush()
    return invoice
