"""Vouchers: made by the operator, redeemed once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from core import errors
from core.db import utcnow
from core.identity.tables import User
from core.payments import vouchers
from core.services import top_up
from core.services.application import Application
from tests.core.services.helpers import balance


@pytest.fixture
def operator(any_app: Application, sign_up: Callable[..., User]) -> User:
    """The operator, with 20.000 tokens of his own."""
    return sign_up(any_app, "operator@example.com")


@pytest.fixture
def code(any_app: Application, operator: User) -> str:
    """A voucher's code, worth 100 tokens."""
    return top_up.make_vouchers(any_app, operator, count=1, amount_mt=100_000)[0].code


@pytest.mark.parametrize("own_keys", [True, False], ids=["a key each", "one key"])
def test_redeemed_once_under_16_racing_threads(
    any_app: Application, operator: User, code: str, sign_up: Callable[..., User], own_keys: bool
) -> None:
    """Sixteen threads, one voucher, one credit, whether they retry one request or send sixteen."""
    ann = sign_up(any_app)
    barrier = threading.Barrier(16)

    def client(number: int) -> int:
        barrier.wait()
        try:
            return top_up.redeem_voucher(any_app, ann, code, idempotency_key=str(number if own_keys else 0))
        except errors.VoucherUsedError:
            return 0

    with ThreadPoolExecutor(16) as clients:
        answers = sorted(clients.map(client, range(16)))
    assert answers == ([0] * 15 + [100_000] if own_keys else [100_000] * 16)
    assert balance(any_app, ann) == (120_000, 0)


def test_two_accounts_race_for_one(
    any_app: Application, operator: User, code: str, sign_up: Callable[..., User]
) -> None:
    """One of two customers gets it, the other is told that it is used, and not by himself."""
    people = [sign_up(any_app, "ann@example.com"), sign_up(any_app, "bob@example.com")]
    barrier = threading.Barrier(2)

    def client(user: User) -> bool:
        barrier.wait()
        try:
            return bool(top_up.redeem_voucher(any_app, user, code, idempotency_key="k"))
        except errors.VoucherUsedError as error:
            assert error.details == {"by_this_account": False}  # noqa: PT017  # one of two raises
            return False

    with ThreadPoolExecutor(2) as clients:
        assert sorted(clients.map(client, people)) == [False, True]
    assert sorted(balance(any_app, user)[0] for user in people) == [20_000, 120_000]


def test_typed_by_hand(any_app: Application, operator: User, code: str) -> None:
    """Lower case, spaces and missing dashes do not matter."""
    typed = f"  {code.replace('-', ' ').lower()} "
    assert top_up.redeem_voucher(any_app, operator, typed, idempotency_key="k") == 100_000
    with pytest.raises(errors.VoucherUsedError) as caught:
        top_up.redeem_voucher(any_app, operator, code.replace("-", ""), idempotency_key="l")
    assert caught.value.details == {"by_this_account": True}
    assert balance(any_app, operator) == (120_000, 0)


def test_expired(any_app: Application, operator: User) -> None:
    """A voucher past its date is refused; one that ends later is not."""
    past, future = (
        top_up.make_vouchers(any_app, operator, count=1, amount_mt=5, expires_at=utcnow() + timedelta(seconds=s))[0]
        for s in (-1, 3600)
    )
    with pytest.raises(errors.VoucherExpiredError):
        top_up.redeem_voucher(any_app, operator, past.code, idempotency_key="a")
    assert top_up.redeem_voucher(any_app, operator, future.code, idempotency_key="b") == 5
    assert balance(any_app, operator) == (20_005, 0)


def test_revoked(any_app: Application, operator: User, code: str) -> None:
    """A withdrawn voucher is refused; withdrawing again, or after redeeming, says False."""
    (voucher,) = top_up.list_vouchers(any_app, operator)
    assert top_up.revoke_voucher(any_app, operator, voucher.id) is True
    assert top_up.revoke_voucher(any_app, operator, voucher.id) is False
    with pytest.raises(errors.VoucherExpiredError):
        top_up.redeem_voucher(any_app, operator, code, idempotency_key="a")
    (other,) = top_up.make_vouchers(any_app, operator, count=1, amount_mt=5)
    top_up.redeem_voucher(any_app, operator, other.code, idempotency_key="b")
    assert top_up.revoke_voucher(any_app, operator, other.id) is False
    assert balance(any_app, operator) == (20_005, 0)


@pytest.mark.parametrize("text", ["", "AAAA-BBBB-CCCC-DDDD", "' OR 1=1 --", "券", "x" * 5000])
def test_unknown(any_app: Application, operator: User, code: str, text: str) -> None:
    """Anything that is no voucher's code is not found, and leaves the balance alone."""
    with pytest.raises(errors.VoucherNotFoundError):
        top_up.redeem_voucher(any_app, operator, text, idempotency_key="k")
    assert balance(any_app, operator) == (20_000, 0)


def test_a_viewer_redeems_nothing(any_app: Application, operator: User, code: str) -> None:
    """Who only looks at an account cannot use up its codes; the voucher stays good for a member."""
    viewer = operator.model_copy(update={"role": "viewer"})
    with pytest.raises(errors.RoleNeededError):
        top_up.redeem_voucher(any_app, viewer, code, idempotency_key="1")
    assert top_up.redeem_voucher(any_app, operator, code, idempotency_key="1") == 100_000


def test_a_key_for_another_code_is_a_conflict(any_app: Application, operator: User) -> None:
    """An idempotency key stands for one code."""
    one, two = top_up.make_vouchers(any_app, operator, count=2, amount_mt=5)
    top_up.redeem_voucher(any_app, operator, one.code, idempotency_key="k")
    with pytest.raises(errors.IdempotencyConflictError):
        top_up.redeem_voucher(any_app, operator, two.code, idempotency_key="k")
    assert balance(any_app, operator) == (20_005, 0)


@pytest.mark.parametrize(
    ("count", "amount_mt"), [(1, 0), (1, -1), (1, vouchers.VOUCHER_MT_MAX + 1), (0, 5), (vouchers.VOUCHERS_MAX + 1, 5)]
)
def test_limits(any_app: Application, operator: User, count: int, amount_mt: int) -> None:
    """Worthless, negative and absurd vouchers, none and too many at once are refused."""
    with pytest.raises(errors.InvalidAmountError):
        top_up.make_vouchers(any_app, operator, count=count, amount_mt=amount_mt)
    assert top_up.list_vouchers(any_app, operator) == []


def test_codes_are_distinct_and_legible(any_app: Application, operator: User) -> None:
    """Five hundred codes differ and use no letter that is easily mistaken."""
    made = top_up.make_vouchers(any_app, operator, count=500, amount_mt=5)
    codes = {voucher.code for voucher in made}
    assert len(codes) == 500
    assert not set("".join(codes)) & set("01OIL")
