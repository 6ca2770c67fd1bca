"""What programs send and get of their account: balance, usage, keys, webhooks; and which models there are."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from core.plans import Plan
from gateway.shapes import Answer, Moment, Sent

DeliveryStatus = Literal["pending", "delivered", "given_up"]


class KeyIn(Sent):
    """A new API key. What is left out limits nothing."""

    name: str = Field(min_length=1, max_length=80, examples=["gate camera"])
    models: list[Annotated[str, Field(max_length=100)]] | None = Field(default=None, min_length=1, max_length=100)
    networks: list[Annotated[str, Field(max_length=64)]] | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        description="Addresses or CIDR networks that may use it.",
        examples=[["203.0.113.0/24"]],
    )
    day_cap_tokens: Annotated[float, Field(ge=0, le=1e9)] | None = None
    month_cap_tokens: Annotated[float, Field(ge=0, le=1e9)] | None = None
    expires_at: Moment | None = None
    manages_keys: bool = False


class RotateIn(Sent):
    """How long the old secret goes on working."""

    grace_s: Literal[0, 3600, 86400, 604800] = 86400


class BalanceOut(Answer):
    """`remaining_tokens` = `tokens` (settled) − `held_tokens`. Pictures of a `vip` go before those of the others."""

    tokens: float
    held_tokens: float
    remaining_tokens: float
    currency: str
    price_per_token: str
    plan: Plan


class UsageTotals(Answer):
    """Sums of a period."""

    tokens: float
    images: int
    charged: int
    free: int
    failed: int = Field(description="Failed, cancelled or interrupted: all of it was given back.")


class UsageDay(Answer):
    """One model on one day."""

    day: str
    model: str
    tokens: float
    images: int


class UsageOut(Answer):
    """A period `start` ≤ t < `end`; days are those of `time_zone`."""

    start: datetime
    end: datetime
    time_zone: str
    totals: UsageTotals
    days: list[UsageDay]


class CallerUsage(Answer):
    """What one API key used, or (without `name` and `prefix`) one person on the portal. A rotated key has a new id."""

    id: str
    kind: Literal["api_key", "person"]
    name: str | None
    prefix: str | None
    email: str | None
    tokens: float
    images: int
    charged: int
    free: int
    failed: int = Field(description="Failed, cancelled or interrupted: all of it was given back.")


class UsageByKeyOut(Answer):
    """The same period by who asked; who used most comes first."""

    start: datetime
    end: datetime
    time_zone: str
    totals: UsageTotals
    callers: list[CallerUsage]


class ModelOut(Answer):
    """A model. `beta` is its rate in the price book in force; `state` is `ready` when it can run here.

    `task` says what it finds: boxes, masks, key points, oriented boxes, or classes of whole pictures.
    """

    name: str
    title: str
    task: Literal["detect", "segment", "pose", "obb", "classify"]
    state: Literal["ready", "fetchable", "missing"]
    version: str | None
    beta: str | None
    price_version: str


class KeyOut(Answer):
    """An API key. `secret` is there once, in the answer that made it."""

    id: str
    name: str
    prefix: str
    state: Literal["active", "expiring", "expired", "revoked"]
    models: list[str] | None
    networks: list[str] | None
    day_cap_tokens: float | None
    month_cap_tokens: float | None
    day_tokens: float
    month_tokens: float
    manages_keys: bool
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    replaced_by: str | None
    secret: str | None = None


class KeyList(Answer):
    """The account's keys, newest first, also those that ended."""

    keys: list[KeyOut]


class WebhookSecretOut(Answer):
    """What the account's webhooks are signed with."""

    secret: str


class DeliveryOut(Answer):
    """A message to a job's `webhook_url`, or about a low balance to the account's address: then `job_id` is null.

    Its `id` is the `webhook-id` that the receiver gets, at every attempt.
    `next_attempt_at` is null when it was delivered or given up; `last_status` is null where nobody answered.
    """

    id: str
    type: Literal["job.finished", "balance.low"]
    job_id: str | None
    url: str
    status: DeliveryStatus
    attempts: int
    last_status: int | None
    next_attempt_at: datetime | None
    delivered_at: datetime | None
    given_up_at: datetime | None
    created_at: datetime


class DeliveryList(Answer):
    """A page of messages, newest first; `next` goes into `before` for the page after it."""

    deliveries: list[DeliveryOut]
    next: str | None
