"""How a month may end: each day to come is taken as its weekday's mean, and the band says how far days strayed from it.

Pure arithmetic in integers and fractions; nothing is drawn at random. The band is the middle 80 % if days stray from
their weekday's mean independently and about normally.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from fractions import Fraction
from math import isqrt

HISTORY_DAYS_MAX = 28
HISTORY_DAYS_MIN = 14
BAND_PERCENT = 80
# So many standard deviations to each side hold the band's share of a normal distribution.
_DEVIATIONS = Fraction(12816, 10000)


@dataclass(frozen=True, slots=True)
class Forecast:
    """Sums since the first of the month at the end of each day from today to the last, in milli-tokens."""

    days: Sequence[date]
    expected_mt: Sequence[int]
    low_mt: Sequence[int]
    high_mt: Sequence[int]
    history_days: int

    def first_day_at(self, amount_mt: int) -> date | None:
        """The day on which the expected sum reaches an amount; None when it does not this month."""
        return next((day for day, sum_mt in zip(self.days, self.expected_mt, strict=True) if sum_mt >= amount_mt), None)


def forecast_month(daily_mt: Mapping[date, int], today: date) -> Forecast | None:
    """From the full days before today, 28 at most, since the first one with usage; None with fewer than 14 of them.

    Today counts as what it has used, or as its weekday's mean if that is more.
    """
    window = [today - timedelta(days=back) for back in range(HISTORY_DAYS_MAX, 0, -1)]
    history = window[next((at for at, day in enumerate(window) if daily_mt.get(day)), len(window)) :]
    if len(history) < HISTORY_DAYS_MIN:
        return None
    by_weekday: dict[int, list[int]] = defaultdict(list)
    for day in history:
        by_weekday[day.weekday()].append(daily_mt.get(day, 0))
    means = {weekday: Fraction(sum(amounts), len(amounts)) for weekday, amounts in by_weekday.items()}
    squares = sum(((daily_mt.get(day, 0) - means[day.weekday()]) ** 2 for day in history), Fraction(0))
    variance = squares / (len(history) - len(means))

    used_mt = sum(amount_mt for day, amount_mt in daily_mt.items() if today.replace(day=1) <= day <= today)
    used_today_mt = daily_mt.get(today, 0)
    days = [today + timedelta(days=ahead) for ahead in range(31)]
    days = [day for day in days if day.month == today.month]
    expected_mt, low_mt, high_mt = [], [], []
    total, ahead = Fraction(used_mt - used_today_mt), Counter[int]()
    for day in days:
        mean = means[day.weekday()]
        total += max(mean, Fraction(used_today_mt)) if day == today else mean
        ahead[day.weekday()] += 1
        # The days' own straying, and how well each weekday's mean is known from so few of them.
        unknown = ahead.total() + sum(Fraction(n * n, len(by_weekday[weekday])) for weekday, n in ahead.items())
        width_mt = int(_DEVIATIONS * isqrt(int(variance * unknown)))
        expected_mt.append(int(total))
        low_mt.append(max(used_mt, int(total) - width_mt))
        high_mt.append(max(used_mt, int(total) + width_mt))
    return Forecast(days, expected_mt, low_mt, high_mt, len(history))
