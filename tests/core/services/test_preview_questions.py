"""What the preview asks before anything runs: what would refuse it, and what the next discount needs."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest

from core import errors
from core.identity.tables import User
from core.ledger import spending
from core.services import corrections
from core.services.application import Application
from core.services.metered_detection import billing_day, find_obstacle, submit_quote
from core.services.quotes import get_quote, next_discount
from tests.conftest import OpenApp
from tests.core.services.helpers import balance, change, pictures, quote, run, submit


@pytest.fixture
def ann(any_app: Application, sign_up: Callable[..., User]) -> User:
    """The operator, a customer of his own with 20.000 tokens."""
    return sign_up(any_app)


@pytest.fixture
def bob(any_app: Application, ann: User, sign_up: Callable[..., User]) -> User:
    """A customer with 20.000 tokens."""
    return sign_up(any_app, "bob@example.com")


def obstacle_is_what_submitting_raises(app: Application, user: User, files: dict[str, bytes]) -> str | None:
    """The code of the obstacle; submitting must be refused with the same code and numbers, or succeed."""
    quoted = quote(app, user, files)
    before = balance(app, user)
    found = find_obstacle(app, user, quoted)
    assert balance(app, user) == before
    if found is None:
        submit(app, user, quoted, files)
        return None
    with pytest.raises(type(found)) as raised:
        submit(app, user, quoted, files)
    assert raised.value.details == found.details
    assert balance(app, user) == before
    return found.code


def test_no_obstacle(any_app: Application, bob: User) -> None:
    """Who may and can spend meets none."""
    assert obstacle_is_what_submitting_raises(any_app, bob, pictures(2)) is None


def test_balance(any_app: Application, bob: User) -> None:
    """Too little money: the shortfall in numbers."""
    change(any_app, "UPDATE account SET posted_mt = 499")
    quoted = quote(any_app, bob, pictures(2))
    found = find_obstacle(any_app, bob, quoted)
    assert isinstance(found, errors.InsufficientTokensError)
    assert (found.required_mt, found.available_mt, found.missing_mt) == (500, 499, 1)


@pytest.mark.parametrize(("day_cap_mt", "month_cap_mt", "period"), [(499, None, "day"), (None, 499, "month")])
def test_caps(any_app: Application, bob: User, day_cap_mt: int | None, month_cap_mt: int | None, period: str) -> None:
    """One milli-token over a cap is an obstacle, exactly the cap is none."""
    with any_app.db.write() as session:
        spending.set_caps(session, bob.account_id, day_cap_mt=day_cap_mt, month_cap_mt=month_cap_mt)
        assert spending.get_spending(session, bob.account_id, billing_day(any_app)).day_spent_mt == 0
    found = find_obstacle(any_app, bob, quote(any_app, bob, pictures(2)))
    assert found is not None
    assert (found.code, found.details["period"], found.details["left_mt"]) == ("spending_cap", period, 499)
    assert obstacle_is_what_submitting_raises(any_app, bob, pictures(2)) == "spending_cap"
    with any_app.db.write() as session:
        spending.set_caps(session, bob.account_id, day_cap_mt=500, month_cap_mt=500)
    assert obstacle_is_what_submitting_raises(any_app, bob, pictures(2)) is None


def test_frozen(any_app: Application, ann: User, bob: User) -> None:
    """A frozen account is stopped before the click."""
    corrections.freeze_account(any_app, ann, bob.account_id, frozen=True, reason="card stolen?")
    assert obstacle_is_what_submitting_raises(any_app, bob, pictures(1)) == "account_not_active"


def test_viewer(any_app: Application, bob: User) -> None:
    """A viewer gets the price and is told the role that runs."""
    bob.role = "viewer"
    found = find_obstacle(any_app, bob, quote(any_app, bob, pictures(1)))
    assert isinstance(found, errors.RoleNeededError)
    assert found.details == {"needed": "member", "role": "viewer"}


def test_frozen_accounts_see_their_stored_results(
    open_app: OpenApp, sign_up: Callable[..., User], start_runner: Callable[..., object]
) -> None:
    """What costs nothing meets no obstacle of money, frozen or not."""
    app = open_app()
    ann = sign_up(app)
    start_runner(app)
    files = pictures(1)
    run(app, ann, files)
    corrections.freeze_account(app, ann, ann.account_id, frozen=True, reason="a test")
    again = quote(app, ann, files)
    assert again.total_mt == 0
    assert find_obstacle(app, ann, again) is None


def test_next_discount(any_app: Application, bob: User) -> None:
    """On both sides of a tier; pictures that are free do not count."""
    nine, ten = pictures(9), pictures(10)
    assert next_discount(any_app, quote(any_app, bob, nine)) == (1, Decimal(5))
    assert next_discount(any_app, quote(any_app, bob, ten)) == (40, Decimal(10))
    duplicates = {**nine, "again.png": next(iter(nine.values()))}
    assert next_discount(any_app, quote(any_app, bob, duplicates)) == (1, Decimal(5))


def test_next_discount_that_cannot_be_had(open_app: OpenApp, sign_up: Callable[..., User]) -> None:
    """No promise where a batch may not hold so many pictures."""
    app = open_app(batch_images_max=49)
    ann = sign_up(app)
    assert next_discount(app, quote(app, ann, pictures(9))) == (1, Decimal(5))
    assert next_discount(app, quote(app, ann, pictures(10))) is None


def test_quotes_are_private(any_app: Application, ann: User, bob: User) -> None:
    """A quote is found by its own account only."""
    quoted = quote(any_app, bob, pictures(1))
    assert get_quote(any_app, bob, quoted.id).total_mt == quoted.total_mt
    with pytest.raises(errors.QuoteNotFoundError):
        get_quote(any_app, ann, quoted.id)
    with pytest.raises(errors.QuoteNotFoundError):
        submit_quote(any_app, ann, quoted.id, {})
