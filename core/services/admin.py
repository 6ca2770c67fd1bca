"""What an operator sees and does: customers, models, the ledger check."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlmodel import col, select

from core.errors import VisionMeterError
from core.identity.audit_log import record_event
from core.identity.tables import User
from core.inference.registry import Model, ModelState, ModelVersion, Registry
from core.ledger.spending import Spending, get_spending
from core.ledger.tables import Account
from core.pricing.book import Prices
from core.pricing.discounts import read_discounts
from core.pricing.refund_rules import read_late_rules
from core.pricing.tables import PriceBook, Rate
from core.services.application import Application
from core.services.metered_detection import billing_day
from core.services.top_up import require_operator


@dataclass(frozen=True, slots=True)
class Customer:
    """A user with his account."""

    user: User
    account: Account


@dataclass(frozen=True, slots=True)
class PriceVersion:
    """A version of the price list; it is in force from `since` until the next one is."""

    prices: Prices
    note: str
    since: datetime


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model with its state on this machine; `version` is set when it is ready, `problem` when it cannot be."""

    model: Model
    state: ModelState
    version: ModelVersion | None
    problem: VisionMeterError | None


def list_customers(
    app: Application, operator: User, *, search: str = "", limit: int | None = None
) -> Sequence[Customer]:
    """Users with their accounts, oldest first; with a `search`, those whose address contains it.

    Raises `NotAllowedError`.
    """
    require_operator(operator)
    query = (
        select(User, Account)
        .join(Account, col(Account.id) == col(User.account_id))
        .order_by(col(User.created_at), col(User.id))
        .limit(limit)
    )
    if search.strip():
        query = query.where(col(User.email).contains(search.strip().lower(), autoescape=True))
    with app.db.read() as session:
        return [Customer(user, account) for user, account in session.exec(query).all()]


def get_customer_spending(app: Application, operator: User, account_id: str) -> Spending:
    """The caps of an account, and what today and this month have used of them. Raises `NotAllowedError`."""
    require_operator(operator)
    with app.db.read() as session:
        return get_spending(session, account_id, billing_day(app))


def list_price_versions(app: Application, operator: User) -> list[PriceVersion]:
    """Every version of the price list, the one in force first. Raises `NotAllowedError`."""
    require_operator(operator)
    with app.db.read() as session:
        books = session.exec(
            select(PriceBook).order_by(col(PriceBook.created_at).desc(), col(PriceBook.version).desc())
        ).all()
        betas: dict[str, dict[str, Decimal]] = defaultdict(dict)
        for rate in session.exec(select(Rate)).all():
            betas[rate.price_version][rate.model] = rate.beta
    return [
        PriceVersion(
            Prices(
                book.version,
                book.alpha,
                book.minimum,
                betas[book.version],
                read_discounts(book.batch_discounts),
                read_late_rules(book.refund_rules),
            ),
            book.note,
            book.created_at,
        )
        for book in books
    ]


def list_models(app: Application) -> list[ModelView]:
    """Every model that is offered and whether it can run here."""
    registry = app.registry
    offered = [model for model in registry.models() if not registry.is_retired(model.name)]
    return [view_model(registry, model, registry.resolve) for model in offered]


def view_model(registry: Registry, model: Model, find: Callable[[str], ModelVersion]) -> ModelView:
    """A model, whether it can run here, and the version that `find` gives for its name."""
    state = registry.state(model.name)
    if state is ModelState.READY:
        try:
            return ModelView(model, state, find(model.name), None)
        except VisionMeterError as error:
            return ModelView(model, ModelState.MISSING, None, error)
    return ModelView(model, state, None, None)


def fetch_model(app: Application, operator: User, name: str) -> ModelVersion:
    """Download a model's published weights. Raises `NotAllowedError`, `ModelNotReadyError`, `WeightsRefusedError`."""
    require_operator(operator)
    version = app.registry.fetch(name)
    with app.db.write() as session:
        record_event(session, actor=operator.id, action="model.fetch", subject=name, details={"sha256": version.sha256})
    return version
