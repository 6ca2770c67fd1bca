"""What a month costs here, and what a GPU rented by the month costs: the calculator's arithmetic, and its presets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_DOWN, Decimal

from core.db import utcnow
from core.identity.callers import Caller
from core.inference.registry import Registry
from core.pricing.book import Prices
from core.services.application import Application
from core.slots import SLOT_S, slot_of
from core.usage import queries

DAYS_A_MONTH = 30
# What the rented GPU of both published workloads costs a month.
FLAT_MONTH = Decimal(20_000)


@dataclass(frozen=True, slots=True)
class Hours:
    """So many hours of a day with so many pictures an hour from each camera."""

    hours: int
    images_hour: int


@dataclass(frozen=True, slots=True)
class Workload:
    """Cameras that send pictures of one size, in pixels, to one model, `hours` by `hours` of a day."""

    cameras: int
    hours: tuple[Hours, ...]
    image_height: int
    image_width: int
    model: str
    img_size: int

    @property
    def images_day(self) -> int:
        """Pictures a day, of all cameras."""
        return self.cameras * sum(part.hours * part.images_hour for part in self.hours)


# One camera over the line: 50,000 boards in 20 hours, 640 × 640 through yolov8s at 640. Published: 25 % less.
PCB_FACTORY = Workload(1, (Hours(20, 2_500),), 640, 640, "yolov8s", 640)
# Crowded for 13 hours, a picture of each camera every 36 seconds; three an hour at night. Published: 40 % less.
SMART_CAMPUS = Workload(50, (Hours(13, 100), Hours(11, 3)), 1080, 1920, "yolov8s", 640)


@dataclass(frozen=True, slots=True)
class Comparison:
    """`images_day` pictures a day at `price_mt` milli-tokens each, beside `flat` a month, for `DAYS_A_MONTH` days.

    `flat` and `price_per_token` are in the currency. Raises `ValueError` for a price ≤ 0, or a negative number of
    pictures.
    """

    images_day: int
    price_mt: Decimal
    price_per_token: Decimal
    flat: Decimal

    def __post_init__(self) -> None:
        if self.images_day < 0 or self.price_mt <= 0 or self.price_per_token <= 0 or self.flat <= 0:
            raise ValueError("a comparison needs prices above zero")

    @property
    def daily_image(self) -> Decimal:
        """What one picture a day comes to in a month, in the currency."""
        return DAYS_A_MONTH * self.price_mt / 1000 * self.price_per_token

    @property
    def metered(self) -> Decimal:
        """What the month costs here, in the currency."""
        return self.images_day * self.daily_image

    @property
    def break_even_images_day(self) -> int:
        """The most pictures a day that cost no more here than the flat price."""
        return int((self.flat / self.daily_image).to_integral_value(rounding=ROUND_DOWN))

    @property
    def saving_percent(self) -> Decimal:
        """How much less the month costs here, in percent of the flat price; below 0 the flat price is cheaper."""
        return (self.flat - self.metered) / self.flat * 100


@dataclass(frozen=True, slots=True)
class OwnUsage:
    """What an account ran in the last `DAYS_A_MONTH` days: pictures a day, and what one cost on average.

    Pictures that were answered free count: a GPU would have computed them.
    """

    images_day: int
    price_mt: Decimal


def price_workload(prices: Prices, registry: Registry, workload: Workload) -> Decimal:
    """What one picture of a workload costs, in milli-tokens; `registry` knows what its model sees of it.

    Raises `NoRateError`.
    """
    # The list may have a rate for a model that is not known here: it is priced as most are.
    square = any(model.sees_square for model in registry.models() if model.name == workload.model)
    size = workload.image_height, workload.image_width, workload.img_size
    return Decimal(prices.price_image(*size, workload.model, square=square)[1])


def find_own_usage(app: Application, user: Caller, *, now: datetime | None = None) -> OwnUsage | None:
    """The account's last thirty days, or None where nothing was charged in them."""
    # Usage is summed by quarters of an hour: the one that is not over counts, too.
    end = datetime.fromtimestamp((slot_of(now or utcnow()) + 1) * SLOT_S, tz=UTC)
    with app.db.read() as session:
        days = queries.sum_days(session, user.account_id, end - timedelta(days=DAYS_A_MONTH), end, UTC)
    totals = queries.sum_up(days)
    answered = totals.charged + totals.free
    if not totals.amount_mt:
        return None
    return OwnUsage(-(-answered // DAYS_A_MONTH), Decimal(totals.amount_mt) / answered)
