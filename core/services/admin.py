"""What an operator sees and does: customers, models, the ledger check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlmodel import select

from core.errors import VisionMeterError
from core.identity import users
from core.identity.tables import User
from core.inference.registry import Model, ModelState, ModelVersion
from core.ledger.tables import Account
from core.services.application import Application
from core.services.top_up import require_operator


@dataclass(frozen=True, slots=True)
class Customer:
    """A user with his account."""

    user: User
    account: Account


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model with its state on this machine; `version` is set when it is ready, `problem` when it cannot be."""

    model: Model
    state: ModelState
    version: ModelVersion | None
    problem: VisionMeterError | None


def list_customers(app: Application, operator: User) -> Sequence[Customer]:
    """All users and their balances, oldest first. Raises `NotAllowedError`."""
    require_operator(operator)
    with app.db.read() as session:
        accounts = {account.id: account for account in session.exec(select(Account)).all()}
        return [Customer(user, accounts[user.account_id]) for user in users.list_users(session)]


def list_models(app: Application) -> list[ModelView]:
    """Every known model and whether it can run here."""
    views = []
    for model in app.registry.models():
        state = app.registry.state(model.name)
        version: ModelVersion | None = None
        problem: VisionMeterError | None = None
        if state is ModelState.READY:
            try:
                version = app.registry.resolve(model.name)
            except VisionMeterError as error:
                state, problem = ModelState.MISSING, error
        views.append(ModelView(model, state, version, problem))
    return views


def fetch_model(app: Application, operator: User, name: str) -> ModelVersion:
    """Download a model's published weights. Raises `NotAllowedError`, `ModelNotReadyError`, `WeightsRefusedError`."""
    require_operator(operator)
    return app.registry.fetch(name)
