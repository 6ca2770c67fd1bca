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
class Mask:
    """The pixels of an object as COCO's compressed run lengths; `size` is height and width of the image."""

    size: tuple[int, ...]
    counts: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """One object that was found; of models that tell classes of whole pictures a class, without a `box`."""

    class_id: int = field(metadata={"name": "class"})
    name: str
    confidence: float
    box: Box | None = None
    mask: Mask | None = None
    polygons: tuple[tuple[tuple[int, ...], ...], ...] | None = None
    keypoints: tuple[tuple[float, ...], ...] | None = None
    corners: tuple[tuple[float, ...], ...] | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """The image that was looked at. `sha256` is that of its decoded, upright pixels."""

    name: str
    width: int
    height: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ImageUsage:
    """What one image took. `cached` work is free: it was paid before."""

    tokens: Decimal
    cached: bool
    receipt_id: str | None


@dataclass(frozen=True, slots=True)
class Usage(ImageUsage):
    """The same with the balance right after it, and the milliseconds that each stage took."""

    remaining_tokens: Decimal
    held_tokens: Decimal
    quote_id: str
    price_version: str
    times_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class StoredResult:
    """One image's objects as they are kept under `id`."""

    id: str
    job_id: str
    model: str
    model_version: str
    img_size: int
    # A server of before there were tiles says nothing of them; so also below.
    tile_px: int | None = field(default=None, kw_only=True)
    tiles_failed: int = field(default=0, kw_only=True)
    image: Image
    predictions: tuple[Prediction, ...]


@dataclass(frozen=True, slots=True)
class DetectionResult(StoredResult):
    """The same for an image that was just run, with what it took."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class QuotedImage:
    """One image's price. `free_reason` is `processed` or `duplicate` where nothing is asked."""

    name: str
    width: int
    height: int
    input_width: int
    input_height: int
    tiles: int = field(default=0, kw_only=True)
    tile_input_width: int = field(default=0, kw_only=True)
    tile_input_height: int = field(default=0, kw_only=True)
    list_tokens: Decimal
    tokens: Decimal
    free_reason: str | None


@dataclass(frozen=True, slots=True)
class Quote:
    """What some images cost at most, until `expires_at`."""

    id: str
    tokens: Decimal
    list_tokens: Decimal
    discount_percent: Decimal
    price_version: str
    model: str
    model_version: str
    img_size: int
    tile_px: int | None = field(default=None, kw_only=True)
    expires_at: datetime
    images: tuple[QuotedImage, ...]


@dataclass(frozen=True, slots=True)
class JobImages:
    """How many images of a job have ended, and how."""

    total: int
    done: int
    charged: int
    free: int
    failed: int
    cancelled: int
    interrupted: int


@dataclass(frozen=True, slots=True)
class JobUsage:
    """What a job was quoted, has taken, holds and has given back; and what the account can spend now."""

    quoted_tokens: Decimal
    tokens: Decimal
    held_tokens: Decimal
    returned_tokens: Decimal
    remaining_tokens: Decimal


@dataclass(frozen=True, slots=True)
class JobImage:
    """One image of a job: `status` is charged, free, failed, cancelled, interrupted, queued or running.

    `error` is the code of what went wrong with a failed one; `id` is that of its stored result.
    """

    position: int
    name: str
    status: str
    error: str | None
    tiles_failed: int = field(default=0, kw_only=True)
    id: str | None
    predictions: tuple[Prediction, ...]
    usage: ImageUsage

    @property
    def has_succeeded(self) -> bool:
        return self.status in ("charged", "free")


@dataclass(frozen=True, slots=True)
class Job:
    """Images that run together. `results` is empty unless they were asked for, as `wait` and `batch` do."""

    id: str
    status: str
    quote_id: str
    model: str
    model_version: str
    img_size: int
    tile_px: int | None = field(default=None, kw_only=True)
    created_at: datetime
    finished_at: datetime | None
    images: JobImages
    usage: JobUsage
    results: tuple[JobImage, ...] = ()

    @property
    def is_finished(self) -> bool:
        return self.status == FINISHED


@dataclass(frozen=True, slots=True)
class Balance:
    """`remaining_tokens` can be spent; `held_tokens` are reserved for what runs; `tokens` is both.

    `plan` is `standard` or `vip`; a server of before there were plans says none.
    """

    tokens: Decimal
    held_tokens: Decimal
    remaining_tokens: Decimal
    currency: str
    price_per_token: Decimal
    plan: str = "standard"


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
    charged: int
    free: int
    failed: int


@dataclass(frozen=True, slots=True)
class DayUsage:
    """One model on one day."""

    day: date
    model: str
    tokens: Decimal
    images: int


@dataclass(frozen=True, slots=True)
class UsageReport:
    """What was used in `start` ≤ t < `end`; days are those of `time_zone`."""

    start: datetime
    end: datetime
    time_zone: str
    totals: UsageTotals
    days: tuple[DayUsage, ...]


@dataclass(frozen=True, slots=True)
class CallerUsage(UsageTotals):
    """What one API key used (`kind` is `api_key`), or one person on the portal (`person`, with an `email`).

    A key that was rotated has another `id`, and a line of its own.
    """

    id: str
    kind: str
    name: str | None
    prefix: str | None
    email: str | None


@dataclass(frozen=True, slots=True)
class UsageByKey:
    """What was used in `start` ≤ t < `end`, by who asked; who used most comes first."""

    start: datetime
    end: datetime
    time_zone: str
    totals: UsageTotals
    callers: tuple[CallerUsage, ...]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message to a job's `webhook_url` (`type` job.finished), or to the account's address about a low balance
    (balance.low, without `job_id`): `status` is pending, delivered or given_up.

    `id` is the `webhook-id` that the receiver gets at every attempt. `last_status` is what it answered last, None where
    nobody did; `next_attempt_at` is None once the message was delivered or given up.
    """

    id: str
    job_id: str | None
    url: str
    status: str
    attempts: int
    last_status: int | None
    next_attempt_at: datetime | None
    delivered_at: datetime | None
    given_up_at: datetime | None
    created_at: datetime
    type: str = "job.finished"


@dataclass(frozen=True, slots=True)
class LowBalance:
    """The settled balance of an account at `fell_at`, when it fell below the threshold that its owner set; tokens."""

    account_id: str
    threshold_tokens: Decimal
    balance_tokens: Decimal
    fell_at: datetime


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """Messages, newest first. `next` is what `before` takes for the page after it, None on the last."""

    deliveries: tuple[Delivery, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Model:
    """A model that can be asked for. `beta` is its rate in the price; `state` says whether it can run."""

    name: str
    title: str
    state: str
    version: str | None
    beta: Decimal | None
    price_version: str
    task: str = "detect"
