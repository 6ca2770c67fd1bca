"""Tables of prices, quotes and receipts."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Index, text
from sqlmodel import JSON, Column, Field, SQLModel

from core.db import DecimalText, UTCDateTime, new_id, utcnow
from core.pricing.formula import NO_DISCOUNT


class PriceBook(SQLModel, table=True):
    """One immutable version of the prices; the newest is in force."""

    __tablename__ = "price_book"

    version: str = Field(primary_key=True)
    alpha: Decimal = Field(sa_type=DecimalText)
    minimum: Decimal = Field(sa_type=DecimalText)
    # `[{"images_min": 10, "percent": "5"}, …]`; percents are text, so that none becomes a float.
    batch_discounts: list[dict[str, Any]] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    # `[{"rule": "late", "after_s": 600, "percent": "50"}, …]`, some with a `plan` and `each_s`
    refund_rules: list[dict[str, Any]] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    note: str = ""
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)


class Rate(SQLModel, table=True):
    """β of one model in one version of the price book."""

    price_version: str = Field(primary_key=True, foreign_key="price_book.version")
    model: str = Field(primary_key=True)
    beta: Decimal = Field(sa_type=DecimalText)


class Quote(SQLModel, table=True):
    """An exact, binding, expiring price for a batch; `lines` has one dictionary an image.

    `list_mt` is what the charged images would cost without the batch's discount of `discount_percent`. Until it is run,
    at `ran_at`, its pictures may wait with it, which take `stored_bytes` on the disk.
    """

    __table_args__ = (
        CheckConstraint("total_mt >= 0", name="quote_total_not_negative"),
        CheckConstraint("list_mt >= total_mt", name="quote_list_covers_total"),
        CheckConstraint("stored_bytes >= 0", name="quote_stored_not_negative"),
        Index("ix_quote_account", "account_id", "created_at"),
        # Only of those that wait: of the others there are as many as there ever were runs.
        Index(
            "ix_quote_unrun",
            "expires_at",
            sqlite_where=text("ran_at IS NULL"),
            postgresql_where=text("ran_at IS NULL"),
        ),
        Index(
            "ix_quote_stored",
            *("account_id", "expires_at", "stored_bytes"),
            sqlite_where=text("stored_bytes > 0"),
            postgresql_where=text("stored_bytes > 0"),
        ),
    )

    id: str = Field(default_factory=lambda: new_id("quote"), primary_key=True)
    account_id: str = Field(foreign_key="account.id")
    price_version: str = Field(foreign_key="price_book.version")
    model: str
    model_version: str
    img_size: int
    tile_px: int | None = None
    total_mt: int = Field(sa_type=BigInteger)
    list_mt: int = Field(sa_type=BigInteger)
    discount_percent: Decimal = Field(default=NO_DISCOUNT, sa_type=DecimalText)
    lines: list[dict[str, Any]] = Field(sa_column=Column(JSON, nullable=False))
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)
    expires_at: datetime = Field(sa_type=UTCDateTime)
    ran_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    stored_bytes: int = Field(default=0, sa_type=BigInteger)


class Receipt(SQLModel, table=True):
    """The recomputable story of one charge (one captured hold).

    `amount_mt` is the price less `discount_percent`, which `batch_images` charged images gave, plus `floor_mt`, this
    image's share of what keeps a larger batch from costing less than a smaller one. `entry_seq` is the number of
    the ledger's entry that took it. `input_height` and `input_width` are the network input of the whole image; of its
    `tiles` with a side of `tile_px`, `tiles_failed` were not charged. `square`: the model saw a square of the image.
    """

    __table_args__ = (
        CheckConstraint("floor_mt >= 0", name="receipt_floor_not_negative"),
        CheckConstraint("tiles >= 0", name="receipt_tiles"),
        CheckConstraint("tiles_failed >= 0 AND tiles_failed <= tiles", name="receipt_tiles_failed"),
        CheckConstraint("batch_images >= 1", name="receipt_batch_has_images"),
        # With all that a search looks at, so that it passes over the receipts themselves.
        Index("ix_receipt_account", "account_id", "created_at", "id", "image_name"),
        # An operator asks for a month of all accounts.
        Index("ix_receipt_created", "created_at"),
        # Whoever removes a quote makes the database look whether a receipt names it.
        Index("ix_receipt_quote", "quote_id"),
    )

    id: str = Field(default_factory=lambda: new_id("rcpt"), primary_key=True)
    account_id: str = Field(foreign_key="account.id")
    hold_id: str = Field(foreign_key="hold.id", unique=True)
    quote_id: str = Field(foreign_key="quote.id")
    price_version: str = Field(foreign_key="price_book.version")
    image_name: str
    image_sha256: str
    image_height: int
    image_width: int
    input_height: int
    input_width: int
    img_size: int
    square: bool = False
    tile_px: int | None = None
    tiles: int = 0
    tiles_failed: int = 0
    model: str
    model_version: str
    alpha: Decimal = Field(sa_type=DecimalText)
    beta: Decimal = Field(sa_type=DecimalText)
    minimum: Decimal = Field(sa_type=DecimalText)
    discount_percent: Decimal = Field(default=NO_DISCOUNT, sa_type=DecimalText)
    floor_mt: int = Field(default=0, sa_type=BigInteger)
    batch_images: int = 1
    entry_seq: int | None = Field(default=None, sa_type=BigInteger)
    amount_mt: int = Field(sa_type=BigInteger)
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)
