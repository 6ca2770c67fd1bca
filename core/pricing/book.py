"""The price book: versions of α, β(model) and the minimum, and the price of one image under a version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from sqlmodel import Session, col, select

from core.errors import NoRateError
from core.geometry import NetworkInput, network_input
from core.money import to_millitokens
from core.pricing.formula import calculate_tokens
from core.pricing.tables import PriceBook, Rate, Receipt

DEFAULT_BOOK = Path(__file__).with_name("price_book.json")


@dataclass(frozen=True, slots=True)
class Prices:
    """One version of the price book in memory. `betas` maps a model's name to its β."""

    version: str
    alpha: Decimal
    minimum: Decimal
    betas: Mapping[str, Decimal]

    def beta(self, model: str) -> Decimal:
        """β of a model; `NoRateError` when the book has none."""
        try:
            return self.betas[model]
        except KeyError:
            raise NoRateError(
                f"The price book {self.version} has no rate for {model}: choose another model.", model=model
            ) from None

    def price_image(self, image_height: int, image_width: int, img_size: int, model: str) -> tuple[NetworkInput, int]:
        """The network input of an image (pixels) and its price in milli-tokens."""
        shape = network_input(image_height, image_width, img_size)
        tokens = calculate_tokens(
            shape.height, shape.width, alpha=self.alpha, beta=self.beta(model), minimum=self.minimum
        )
        return shape, to_millitokens(tokens)


def read_book(path: Path = DEFAULT_BOOK) -> Prices:
    """A price book from its JSON file; numbers are strings there, so that none passes through a float."""
    data = json.loads(path.read_text(encoding="utf-8"))
    return Prices(
        version=data["version"],
        alpha=Decimal(data["alpha"]),
        minimum=Decimal(data["minimum"]),
        betas={model: Decimal(beta) for model, beta in data["rates"].items()},
    )


def adopt_book(session: Session, prices: Prices, *, note: str = "") -> None:
    """Store a version; a version that is there already stays as it is."""
    if session.get(PriceBook, prices.version) is not None:
        return
    session.add(PriceBook(version=prices.version, alpha=prices.alpha, minimum=prices.minimum, note=note))
    session.flush()
    for model, beta in prices.betas.items():
        session.add(Rate(price_version=prices.version, model=model, beta=beta))
    session.flush()


def current_prices(session: Session) -> Prices:
    """The version in force: the newest."""
    book = session.exec(
        select(PriceBook).order_by(col(PriceBook.created_at).desc(), col(PriceBook.version).desc()).limit(1)
    ).one()
    rates = session.exec(select(Rate).where(Rate.price_version == book.version)).all()
    return Prices(book.version, book.alpha, book.minimum, {rate.model: rate.beta for rate in rates})


def recompute_receipt(receipt: Receipt) -> int:
    """The price of a receipt computed afresh from the numbers on it, in milli-tokens.

    Only the image's own height and width, `img_size`, α, β and the minimum are used, so a network input or an
    amount that was tampered with shows.
    """
    shape = network_input(receipt.image_height, receipt.image_width, receipt.img_size)
    return to_millitokens(
        calculate_tokens(shape.height, shape.width, alpha=receipt.alpha, beta=receipt.beta, minimum=receipt.minimum)
    )


def find_receipt(session: Session, account_id: str, hold_id: str) -> Receipt | None:
    """The receipt of a hold, if it is this account's."""
    return session.exec(select(Receipt).where(Receipt.hold_id == hold_id, Receipt.account_id == account_id)).first()
