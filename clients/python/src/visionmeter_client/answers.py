"""What the server answers, as frozen dataclasses. Amounts are `Decimal` tokens; boxes are in the image's own pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any

FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels of the original image; the origin is its upper left corner."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """One object that was found."""

    class_id: int = field(metadata={"name": "class"})
    name: str
    confidence: float
    box: Box


@dataclass(frozen=True, slots=True)
class Image:
    """The image that was looked at. `sha256` is that of its decoded, upright pixels."""

    name: str | None
    width: int
    height: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What one image took, and what is left. `cached` work is free: it was paid before."""

    tokens: Decimal
    remaining_tokens: Decimal | None = None
    held_tokens: Decimal | None = None
    cached: bool = False
    receipt_id: str | None = None
    quote_id: str | None = None
    price_version: str | None = None
    times_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DetectionResult:
    """One image's objects. `usage` is there when the image was just run, not when a stored result is read."""

    id: str | None
    model: str
    predictions: tuple[Prediction, ...]
    model_version: str | None = None
    img_size: int | None = None
    image: Image | None = None
    job_id: str | None = None
    usage: Usage | None = None
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class QuotedImage:
    """One image's price. `free_reason` is `processed` or `duplicate` where nothing is asked."""

    name: str | None
    width: int
    height: int
    input_width: int
    input_height: int
    list_tokens: Decimal
    tokens: Decimal
    free_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Quote:
    """What some images cost at most, until `expires_at`."""

    id: str
    tokens: Decimal
    list_tokens: Decimal
    discount_percent: Decimal
    price_version: str
    model: str
    img_size: int
    expires_at: datetime
    images: tuple[QuotedImage, ...]
    model_version: str | None = None
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class JobImages:
    """How many images of a job have ended, and how."""

    total: int
    done: int
    charged: int = 0
    free: int = 0
    failed: int = 0
    cancelled: int = 0
    interrupted: int = 0


@dataclass(frozen=True, slots=True)
class JobUsage:
    """What a job was quoted, has taken, holds and has given back."""

    quoted_tokens: Decimal
    tokens: Decimal
    held_tokens: Decimal | None = None
    returned_tokens: Decimal | None = None
    remaining_tokens: Decimal | None = None


@dataclass(frozen=True, slots=True)
class JobImage:
    """One image of a job: `status` is charged, free, failed, cancelled, interrupted, queued or running.

    `error` is the code of what went wrong with a failed one.
    """

    position: int
    name: str | None
    status: str
    error: str | None = None
    id: str | None = None
    predictions: tuple[Prediction, ...] | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """Images that run together. `results` is there when they were asked for."""

    id: str
    status: str
    images: JobImages
    usage: JobUsage
    model: str
    created_at: datetime
    quote_id: str | None = None
    model_version: str | None = None
    img_size: int | None = None
    finished_at: datetime | None = None
    results: tuple[JobImage, ...] | None = None

    @property
    def is_finished(self) -> bool:
        return self.status == FINISHED


@dataclass(frozen=True, slots=True)
class Balance:
    """`remaining_tokens` can be spent; `held_tokens` are reserved for what runs; `tokens` is both."""

    tokens: Decimal
    held_tokens: Decimal
    remaining_tokens: Decimal
    currency: str
    price_per_token: Decimal


@dataclass(frozen=True, slots=True)
class Receipt:
    """One charge. `document` is the whole receipt, from which the price and the entry's seal can be recomputed."""

    id: str
    created_at: datetime
    charged_tokens: Decimal
    refunded_tokens: Decimal
    net_tokens: Decimal
    document: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """Sums over a period: tokens, and images by how they ended."""

    tokens: Decimal
    images: int
    charged: int = 0
    free: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class DayUsage:
    """One model on one day."""

    day: date
    tokens: Decimal
    images: int
    model: str | None = None


@dataclass(frozen=True, slots=True)
class UsageReport:
    """What was used in `start` ≤ t < `end`; days are those of `time_zone`."""

    totals: UsageTotals
    days: tuple[DayUsage, ...]
    time_zone: str | None = None
    start: datetime | None = None
    end: datetime | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """A model that can be asked for. `beta` is its rate in the price; `state` says whether it can run."""

    name: str
    title: str | None = None
    state: str | None = None
    version: str | None = None
    beta: Decimal | None = None
    price_version: str | None = None
