"""Money by bank transfer: the customer writes a reference on it, the operator finds it on his statement."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from sqlmodel import Session

from core.payments.offers import Offers
from core.payments.provider import Instructions, Opened, Wanted
from core.payments.tables import Payment
from core.payments.vouchers import ALPHABET

# 30^8 references: short enough to be copied by hand, and nobody hits another's by a mistyped letter.
REFERENCE_LETTERS = 8


def normalise_reference(text: str) -> str:
    """A reference as a bank or a person wrote it (`vm7k3q 9dhf`), as it is stored; anything else without spaces."""
    letters = "".join(character for character in text.upper() if character.isalnum())
    if len(letters) != REFERENCE_LETTERS + 2 or not letters.startswith("VM"):
        return text.strip()
    return f"VM-{letters[2:6]}-{letters[6:]}"


@dataclass(frozen=True, slots=True)
class BankTransfer:
    """Transfers to the account that the operator names in `text`."""

    offers: Offers
    text: str
    name: str = "bank_transfer"

    def open(self, _session: Session, _account_id: str, wanted: Wanted) -> Opened:
        letters = "".join(secrets.choice(ALPHABET) for _ in range(REFERENCE_LETTERS))
        return Opened(self.offers.terms(wanted.amount_minor), f"VM-{letters[:4]}-{letters[4:]}", is_paid=False)

    def instructions(self, _session: Session, payment: Payment) -> Instructions:
        return Instructions(self.text, payment.provider_reference)
