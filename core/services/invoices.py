"""Invoices as people ask for them: whom they are made out to, an account's own, and the operator's list of all."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from core.csv_text import plain_cell, to_csv
from core.errors import InvalidBillingError
from core.identity.audit_log import record_event
from core.identity.tables import User
from core.money import from_minor
from core.payments import invoices, payments
from core.payments.invoice_tables import CREDIT_NOTE, BillingDetails, Invoice
from core.services.application import Application
from core.services.team import require_now, require_role
from core.services.top_up import require_operator

NAME_LENGTH_MAX = 200
ADDRESS_LENGTH_MAX = 500
ADDRESS_LINES_MAX = 8
TAX_ID_LENGTH_MAX = 40


def are_issued(app: Application) -> bool:
    """Whether payments get an invoice here."""
    return invoices.read_seller(app.settings) is not None


def get_billing(app: Application, user: User) -> BillingDetails:
    """Whom the account's invoices are made out to; empty fields where nobody said it."""
    with app.db.read() as session:
        return invoices.get_billing(session, user.account_id)


def set_billing(app: Application, user: User, *, name: str, address: str, tax_id: str) -> None:
    """Make out the account's next invoices so. Raises `RoleNeededError` for all but owners, `InvalidBillingError`."""
    require_role(user, "owner")
    name, tax_id = " ".join(name.split()), " ".join(tax_id.split())
    lines = [" ".join(line.split()) for line in address.splitlines()]
    address = "\n".join(line for line in lines if line)
    if len(name) > NAME_LENGTH_MAX or len(address) > ADDRESS_LENGTH_MAX or len(tax_id) > TAX_ID_LENGTH_MAX:
        raise InvalidBillingError("Shorten it: an invoice has room for a name, an address and a tax number.")
    if address.count("\n") >= ADDRESS_LINES_MAX:
        raise InvalidBillingError(f"An address has {ADDRESS_LINES_MAX} lines at most.")
    with app.db.write() as session:
        require_now(session, user, "owner")
        invoices.set_billing(session, user.account_id, name=name, address=address, tax_id=tax_id)
        # That it was changed; what it says is in the invoices, and nowhere else once the account is gone.
        record_event(session, actor=user.id, action="billing.set", subject=user.account_id, account_id=user.account_id)


def list_invoices(app: Application, user: User, *, limit: int = 500) -> Sequence[Invoice]:
    """The account's invoices and credit notes, newest first."""
    with app.db.read() as session:
        return invoices.list_of_account(session, user.account_id, limit=limit)


def list_of_payment(app: Application, user: User, payment_id: str) -> Sequence[Invoice]:
    """One payment's invoice and credit notes. Raises `PaymentNotFoundError` for another account's."""
    with app.db.read() as session:
        payments.get_payment(session, payment_id, user.account_id)
        return invoices.list_of_payment(session, payment_id)


def list_for_operator(app: Application, operator: User, payment_id: str) -> Sequence[Invoice]:
    """Anybody's payment's invoice and credit notes. Raises `NotAllowedError`."""
    require_operator(operator)
    with app.db.read() as session:
        return invoices.list_of_payment(session, payment_id)


def issued_csv(app: Application, operator: User, since: datetime, until: datetime) -> str:
    """All that was issued from `since` until before `until`, for the books; a credit note's amounts are negative.

    Raises `NotAllowedError`.
    """
    require_operator(operator)
    with app.db.read() as session:
        found = invoices.list_issued(session, since, until)
    head = ("number", "kind", "corrects", "issued_utc", "buyer", "buyer_tax_id", "net", "vat", "gross", "vat_percent")
    rows: list[tuple[object, ...]] = [(*head, "currency", "payment")]
    for one in found:
        sign = -1 if one.kind == CREDIT_NOTE else 1
        money = (from_minor(sign * minor, one.currency) for minor in (one.net_minor, one.vat_minor, one.gross_minor))
        rows.append(
            (
                one.number,
                one.kind,
                one.corrects or "",
                one.issued_at.isoformat(timespec="seconds"),
                plain_cell(one.says["buyer"]["name"]),
                plain_cell(one.says["buyer"]["tax_id"]),
                *money,
                one.vat_percent,
                one.currency,
                one.payment_id,
            )
        )
    return to_csv(rows)
