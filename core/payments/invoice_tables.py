"""Tables of invoices: whom they are made out to, how they are numbered, and what each says for good."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, Column, Index, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from core.db import DecimalText, UTCDateTime, new_id, utcnow

INVOICE = "invoice"
CREDIT_NOTE = "credit_note"
# SQLite takes a partial index only for a query that says this.
IS_INVOICE = "kind = 'invoice'"


class BillingDetails(SQLModel, table=True):
    """Whom an account's next invoices are made out to, as its owner wrote it."""

    __tablename__ = "billing_details"

    account_id: str = Field(primary_key=True, foreign_key="account.id")
    name: str = ""
    address: str = ""
    tax_id: str = ""
    updated_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)


class InvoiceSeries(SQLModel, table=True):
    """The last number of a series; a number is taken in the transaction that issues what bears it."""

    __tablename__ = "invoice_series"
    __table_args__ = (CheckConstraint("last_position >= 0", name="invoice_series_not_negative"),)

    name: str = Field(primary_key=True)
    last_position: int = Field(default=0, sa_type=BigInteger)


class Invoice(SQLModel, table=True):
    """An invoice, or a credit note that takes some of one back; no row ever changes or goes.

    `number` is the series and the position in it, which has no gaps. Money is in the currency's minor units and never
    negative; `vat_minor` is the part of `gross_minor` that is tax. `says` is all the words on it: seller, buyer, what
    was bought. `corrects` is the number of the invoice that a credit note belongs to.
    """

    __table_args__ = (
        CheckConstraint("kind IN ('invoice', 'credit_note')", name="invoice_kind"),
        CheckConstraint("(kind = 'invoice') = (corrects IS NULL)", name="invoice_corrects"),
        CheckConstraint("position > 0", name="invoice_position_positive"),
        CheckConstraint("gross_minor > 0", name="invoice_gross_positive"),
        CheckConstraint("vat_minor >= 0 AND vat_minor <= gross_minor", name="invoice_vat_within_gross"),
        UniqueConstraint("series", "position", name="uq_invoice_position"),
        Index(
            "uq_invoice_of_payment",
            "payment_id",
            unique=True,
            sqlite_where=text(IS_INVOICE),
            postgresql_where=text(IS_INVOICE),
        ),
        Index("ix_invoice_payment", "payment_id"),
        Index("ix_invoice_account", "account_id", "issued_at"),
        Index("ix_invoice_issued", "issued_at"),
    )

    id: str = Field(default_factory=lambda: new_id("bill"), primary_key=True)
    number: str = Field(unique=True)
    series: str
    position: int = Field(sa_type=BigInteger)
    kind: str
    payment_id: str = Field(foreign_key="payment.id")
    account_id: str = Field(foreign_key="account.id")
    corrects: str | None = None
    issued_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)
    currency: str
    gross_minor: int = Field(sa_type=BigInteger)
    vat_minor: int = Field(sa_type=BigInteger)
    vat_percent: Decimal = Field(sa_type=DecimalText)
    says: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))

    @property
    def net_minor(self) -> int:
        """What is left of the gross amount without its tax."""
        return self.gross_minor - self.vat_minor
