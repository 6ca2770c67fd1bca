"""What customers would have paid under other prices: a month's real charges, priced anew. Nothing is written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from sqlmodel import col, select

from core.identity.tables import User
from core.ledger.tables import Account
from core.money import from_millitokens
from core.pricing.book import Prices, get_prices
from core.pricing.charged import reprice, sum_charged
from core.services.application import Application
from core.services.top_up import require_operator


@dataclass(slots=True)
class Both:
    """As it was and as it would be: amounts in milli-tokens, money unrounded in the currency's major unit."""

    images: int = 0
    before_mt: int = 0
    after_mt: int = 0
    before: Decimal = Decimal(0)
    after: Decimal = Decimal(0)

    @property
    def increase(self) -> Decimal:
        """Money more; below zero when it is less."""
        return self.after - self.before

    @property
    def percent(self) -> Decimal | None:
        """The increase in percent; None when nothing was charged."""
        return 100 * self.increase / self.before if self.before else None


@dataclass(frozen=True, slots=True)
class WhatIf:
    """The outcome. `models` by name; `largest` is the account that would pay most more, None when none would.

    `versions` are the price versions that the charges were made by.
    """

    total: Both
    models: Mapping[str, Both]
    accounts: int
    accounts_paying_more: int
    largest: tuple[str, Both] | None
    versions: tuple[str, ...] = field(default=())


def price_anew(
    app: Application, operator: User, prices: Prices, price_per_token: Decimal, start: datetime, end: datetime
) -> WhatIf:
    """The charges of `start` ≤ t < `end` as they were, and under `prices` at `price_per_token`, before refunds.

    What was charged is counted at today's price of a token. Raises `NotAllowedError`.
    """
    require_operator(operator)
    with app.db.read() as session:
        charged = sum_charged(session, start, end)
        books = {version: get_prices(session, version) for version in sorted({one.price_version for one in charged})}
    total, models, accounts = Both(), defaultdict[str, Both](Both), defaultdict[str, Both](Both)
    for one, after_mt in zip(charged, reprice(charged, books, prices), strict=True):
        for sums in (total, models[one.model], accounts[one.account_id]):
            sums.images += one.images
            sums.before_mt += one.amount_mt
            sums.after_mt += after_mt
    for sums in (total, *models.values(), *accounts.values()):
        sums.before = from_millitokens(sums.before_mt) * app.settings.price_per_token
        sums.after = from_millitokens(sums.after_mt) * price_per_token
    paying_more = {account_id: sums for account_id, sums in accounts.items() if sums.increase > 0}
    largest = max(paying_more.items(), key=lambda item: (item[1].increase, item[0]), default=None)
    if largest is not None:
        with app.db.read() as session:
            name = session.exec(select(Account.name).where(col(Account.id) == largest[0])).one()
        largest = (name, largest[1])
    by_revenue = sorted(models.items(), key=lambda item: (-item[1].before_mt, item[0]))
    return WhatIf(total, dict(by_revenue), len(accounts), len(paying_more), largest, tuple(books))
