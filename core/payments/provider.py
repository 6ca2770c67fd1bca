"""The door that money comes in by: what every way to pay has in common.

`open` is called in the transaction that writes the payment and `instructions` in one that reads, so neither calls
anybody. What a provider learns later (an operator's word, a signed message) ends in `mark_paid`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sqlmodel import Session

from core.payments.offers import Terms
from core.payments.tables import Payment


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a customer asks for: an amount of money in minor units, or what a code is worth."""

    amount_minor: int = 0
    code: str = ""


@dataclass(frozen=True, slots=True)
class Opened:
    """A provider's answer: what is bought, its `reference`, unique among its payments, whether it is paid at once."""

    terms: Terms
    reference: str
    is_paid: bool


@dataclass(frozen=True, slots=True)
class Instructions:
    """What a customer does to pay: words of the operator's, a reference to write down, an address to open."""

    text: str = ""
    reference: str = ""
    url: str = ""


class PaymentProvider(Protocol):
    """One way to pay."""

    @property
    def name(self) -> str:
        """A stable word: stored with each payment, and `house:name` is where its tokens come from in the ledger."""

    def open(self, session: Session, account_id: str, wanted: Wanted) -> Opened:
        """Begin a payment. Raises `InvalidAmountError`, or what stands in the way of a code."""

    def instructions(self, session: Session, payment: Payment) -> Instructions:
        """How to pay a pending payment, now or after a closed tab; its address is empty while there is none."""
