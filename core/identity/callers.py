"""Who asks for something: a person who is signed in, or a program with an API key."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from core.identity.tables import ApiKey


class Caller(Protocol):
    """What services look at: a `User` has it, and an `ApiCaller`. `id` is the actor that entries name."""

    @property
    def id(self) -> str:
        """The user's or the key's id."""

    @property
    def account_id(self) -> str:
        """The account that he acts for."""

    @property
    def role(self) -> str:
        """`owner`, `member` or `viewer`."""

    @property
    def disabled_at(self) -> datetime | None:
        """When he lost his access; None while he has it."""


@dataclass(frozen=True, slots=True)
class ApiCaller:
    """A program that showed a usable key. It spends like a member, within what the key allows."""

    key: ApiKey

    @property
    def id(self) -> str:
        """The key's id."""
        return self.key.id

    @property
    def account_id(self) -> str:
        """The account that the key belongs to."""
        return self.key.account_id

    @property
    def role(self) -> str:
        """A key runs images; it decides nothing about the account."""
        return "member"

    @property
    def disabled_at(self) -> datetime | None:
        """When it was revoked."""
        return self.key.revoked_at
