"""Payments by bank transfer: opened, cancelled, given up, confirmed late, and credited exactly once."""

from __future__ import annotations

import csv
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlmodel import select

from core import errors
from core.config import Settings
from core.db import utcnow
from core.identity.tables import User
from core.ledger.tables import Entry
from core.payments.bank_transfer import normalise_reference
from core.payments.payments import PENDING_MAX
from core.payments.tables import Payment
from core.services import account_view, audit_trail, corrections, my_data, payments, statement
from core.services.application import Application
from core.services.job_runner import sweep
from tests.conftest import OpenApp
from tests.core.services.helpers import balance

BONUS_MT = 3_000_000
BOUGHT_MT = 100_000_000


@pytest.fixture
def shop(open_app: OpenApp, database_url: str) -> Application:
    """An application with bank transfers on each kind of database."""
    return open_app(database_url=database_url, bank_transfer="IBAN DE00 1234", top_up_bonus="500: 2, 1000: 3")


@pytest.fixture
def operator(shop: Application, sign_up: Callable[..., User]) -> User:
    """The operator."""
    return sign_up(shop, "operator@example.com")


@pytest.fixture
def ann(shop: Application, operator: User, sign_up: Callable[..., User]) -> User:
    """A customer with 20.000 tokens."""
    return sign_up(shop)


def pay(app: Application, user: User, minor: int = 100_000, key: str = "k") -> Payment:
    """A pending payment of ¥1,000."""
    return payments.open_payment(app, user, "bank_transfer", minor, idempotency_key=key)


def entries(app: Application, user: User) -> list[tuple[str, str, int, str]]:
    """Kind, debit account, amount and memo of what came in, the welcome left out."""
    with app.db.read() as session:
        rows = session.exec(select(Entry).where(Entry.account_id == user.account_id, Entry.seq > 1).order_by(Entry.seq))
        return [(row.kind, row.debit_account, row.amount_mt, row.memo) for row in rows]


def state(app: Application, user: User, payment: Payment) -> str:
    """The payment's state as its owner sees it."""
    return payments.find_payment(app, user, payment.id).state


@pytest.mark.parametrize("presses", [1, 16], ids=["once", "16 threads"])
def test_credited_once_however_often_it_is_confirmed(
    shop: Application, operator: User, ann: User, presses: int
) -> None:
    """However many press Confirm at once: one top-up, one bonus, one line in the audit log."""
    payment = pay(shop, ann)
    assert (payment.state, payment.tokens_mt, payment.bonus_mt) == ("pending", BOUGHT_MT, BONUS_MT)
    barrier = threading.Barrier(presses)

    def press(_number: int) -> Payment:
        barrier.wait()
        return payments.confirm_payment(shop, operator, payment.id)

    with ThreadPoolExecutor(presses) as people:
        answers = list(people.map(press, range(presses)))
    assert {(answer.state, answer.entry_seq) for answer in answers} == {("paid", 2)}
    assert entries(shop, ann) == [
        ("top_up", "house:bank_transfer", BOUGHT_MT, payment.id),
        ("bonus", "house:bonus", BONUS_MT, payment.id),
    ]
    assert balance(shop, ann) == (20_000 + BOUGHT_MT + BONUS_MT, 0)
    actions = [line.event.action for line in audit_trail.list_trail(shop, operator, account_id=ann.account_id)]
    assert actions.count("payment.confirm") == 1


def test_opened_once_for_one_key(shop: Application, ann: User) -> None:
    """A double click opens one payment; the same key for another amount is refused."""
    assert pay(shop, ann).id == pay(shop, ann).id
    with pytest.raises(errors.IdempotencyConflictError):
        pay(shop, ann, 50_000)
    assert [payment.state for payment in payments.list_payments(shop, ann)] == ["pending"]
    assert balance(shop, ann) == (20_000, 0)


def test_instructions_survive_a_closed_tab(shop: Application, operator: User, ann: User) -> None:
    """What to write on the transfer is there again later, and finds the payment as a bank prints it."""
    pay(shop, ann)
    (payment,) = payments.list_payments(shop, ann)
    how = payments.get_instructions(shop, payment)
    assert how is not None
    assert how.text == "IBAN DE00 1234"
    printed = how.reference.replace("-", " ").lower()
    found = payments.find_by_reference(shop, operator, printed)
    assert found is not None
    assert (found.payment.id, found.email) == (payment.id, ann.email)
    assert [(one.payment.id, one.email) for one in payments.list_pending(shop, operator)] == [(payment.id, ann.email)]
    assert payments.find_by_reference(shop, operator, "VM-AAAA-AAAA") is None


def test_money_that_arrives_after_all_is_credited(shop: Application, operator: User, ann: User) -> None:
    """A payment that was given up, cancelled or rejected can be confirmed, and not cancelled once it is paid."""
    late, cancelled, rejected = (pay(shop, ann, 10_000, key=key) for key in "abc")
    with shop.db.write() as session:
        session.get_one(Payment, late.id).expires_at = utcnow() - timedelta(seconds=1)
    sweep(shop)
    payments.cancel_payment(shop, ann, cancelled.id)
    payments.reject_payment(shop, operator, rejected.id, reason="came back")
    assert [state(shop, ann, one) for one in (late, cancelled, rejected)] == ["expired", "cancelled", "cancelled"]
    assert payments.find_payment(shop, ann, rejected.id).reason == "came back"
    for number, payment in enumerate((late, cancelled, rejected), start=1):
        assert payments.confirm_payment(shop, operator, payment.id).state == "paid"
        assert balance(shop, ann) == (20_000 + number * 10_000_000, 0)
        with pytest.raises(errors.PaymentEndedError):
            payments.cancel_payment(shop, ann, payment.id)
        with pytest.raises(errors.PaymentEndedError):
            payments.reject_payment(shop, operator, payment.id, reason="no")
    assert payments.find_payment(shop, ann, rejected.id).reason == ""


def test_cancel_and_confirm_race(shop: Application, operator: User, ann: User) -> None:
    """Whoever comes first: money that the operator has seen is credited, and the state says paid."""
    for number in range(4):
        payment = pay(shop, ann, 10_000, key=f"race {number}")
        barrier = threading.Barrier(2)

        def cancel(payment: Payment = payment, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            try:
                payments.cancel_payment(shop, ann, payment.id)
            except errors.PaymentEndedError:
                pass

        def confirm(payment: Payment = payment, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            payments.confirm_payment(shop, operator, payment.id)

        with ThreadPoolExecutor(2) as people:
            for future in (people.submit(cancel), people.submit(confirm)):
                future.result()
        assert state(shop, ann, payment) == "paid"
    assert balance(shop, ann) == (20_000 + 4 * 10_000_000, 0)


def test_few_are_open_at_once(shop: Application, ann: User) -> None:
    """The sixth open payment is refused, also when many are opened at once; a cancelled one makes room."""

    def one(number: int) -> Payment | None:
        try:
            return pay(shop, ann, key=str(number))
        except errors.TooManyPaymentsError:
            return None

    with ThreadPoolExecutor(12) as people:
        opened = [payment for payment in people.map(one, range(12)) if payment]
    assert len(opened) == PENDING_MAX
    payments.cancel_payment(shop, ann, opened[0].id)
    assert pay(shop, ann, key="again").state == "pending"


def test_who_may(shop: Application, operator: User, ann: User, sign_up: Callable[..., User]) -> None:
    """A viewer opens and cancels nothing, a customer confirms nothing, and nobody touches another account's."""
    payment, bob = pay(shop, ann), sign_up(shop, "bob@example.com")
    viewer = User(**{**ann.model_dump(), "role": "viewer"})
    for refused, act in (
        (errors.RoleNeededError, lambda: pay(shop, viewer, key="v")),
        (errors.RoleNeededError, lambda: payments.cancel_payment(shop, viewer, payment.id)),
        (errors.PaymentNotFoundError, lambda: payments.cancel_payment(shop, bob, payment.id)),
        (errors.PaymentNotFoundError, lambda: payments.find_payment(shop, bob, payment.id)),
        (errors.PaymentNotFoundError, lambda: payments.confirm_payment(shop, operator, "pay_x")),
        (errors.NotAllowedError, lambda: payments.confirm_payment(shop, ann, payment.id)),
        (errors.NotAllowedError, lambda: payments.reject_payment(shop, ann, payment.id, reason="x")),
        (errors.NotAllowedError, lambda: payments.list_pending(shop, ann)),
        (errors.NotAllowedError, lambda: payments.find_by_reference(shop, ann, payment.id)),
        (errors.ReasonMissingError, lambda: payments.reject_payment(shop, operator, payment.id, reason=" ")),
    ):
        with pytest.raises(refused):
            act()
    assert (state(shop, ann, payment), payments.list_payments(shop, bob)) == ("pending", [])


def test_not_offered(any_app: Application, sign_up: Callable[..., User]) -> None:
    """Without instructions there is no bank transfer, and a voucher is no way to buy with money."""
    ann = sign_up(any_app)
    assert payments.list_money_providers(any_app) == []
    for name in ("bank_transfer", "vouchers", "stripe"):
        with pytest.raises(errors.PaymentNotOfferedError):
            payments.open_payment(any_app, ann, name, 1000, idempotency_key="k")


def test_a_frozen_account_still_gets_its_money(shop: Application, operator: User, ann: User) -> None:
    """Money comes in while an account may not spend."""
    corrections.freeze_account(shop, operator, ann.account_id, frozen=True, reason="card stolen")
    payments.confirm_payment(shop, operator, pay(shop, ann, 10_000).id)
    assert balance(shop, ann) == (20_000 + 10_000_000, 0)


def test_statement_and_export_tell_it(shop: Application, operator: User, ann: User, monkeypatch) -> None:
    """The statement has the top-up and its bonus as two lines that lead to the payment; the export has the payment."""
    payment = payments.confirm_payment(shop, operator, pay(shop, ann).id)
    pay(shop, ann, 1_050, key="open")
    now, zone = utcnow(), shop.settings.billing_zone
    made = statement.build_statement(shop, ann, now.year, now.month, zone=zone)
    lines = [(line.kind, line.amount_mt, line.reference) for line in made.lines]
    assert lines[1:] == [("top_up", BOUGHT_MT, payment.id), ("bonus", BONUS_MT, payment.id)]
    assert made.closing_mt == 20_000 + BOUGHT_MT + BONUS_MT
    rows = list(csv.DictReader(list(my_data._payments(shop, ann))))
    assert [(row["state"], row["amount"], row["tokens"], row["bonus_tokens"]) for row in rows] == [
        ("pending", "10.50", "1050.000", "0.000"),
        ("paid", "1000.00", "100000.000", "3000.000"),
    ]
    assert (rows[0]["paid_at"], rows[0]["transaction_seq"], rows[1]["transaction_seq"]) == ("", "", "2")
    assert account_view.split_memo(account_view.list_transactions(shop, ann)[0]) == (payment.id, "")


@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        ("vm7k3q9dhf", "VM-7K3Q-9DHF"),
        (" VM-7K3Q 9DHF ", "VM-7K3Q-9DHF"),
        (" pay_1f ", "pay_1f"),
        ("VM-7K3Q", "VM-7K3Q"),
    ],
)
def test_references_as_they_are_typed(typed: str, stored: str) -> None:
    """Banks drop dashes and change the case; what is no reference stays as it is."""
    assert normalise_reference(typed) == stored


def test_wrong_settings_stop_the_start(open_app: OpenApp) -> None:
    """An offer that cannot be used is said at start, by the name of the setting."""
    for setting, value in (
        ("currency", "ZZZ"),
        ("top_up_presets", "5"),
        ("top_up_bonus", "100: 5, 200: 5"),
        ("top_up_min", "0.001"),
    ):
        with pytest.raises(errors.ConfigError, match=setting.upper()):
            open_app(**{setting: value})
    assert Settings(_env_file=None).bank_transfer == ""
