"""The forecast of a month: exact where days repeat, wider where they stray, silent where there is too little."""

from __future__ import annotations

from datetime import date, timedelta

from core.usage.forecast import forecast_month

TODAY = date(2026, 11, 20)


def days(count: int, amount_mt: dict[int, int]) -> dict[date, int]:
    """The last full days before today with an amount for each weekday."""
    found = [TODAY - timedelta(days=back) for back in range(1, count + 1)]
    return {day: amount_mt[day.weekday()] for day in found}


def test_days_that_repeat_are_foretold_exactly() -> None:
    """Weeks without a difference leave no band: used so far and each weekday's amount to the month's end."""
    week = {weekday: 1000 * (weekday + 1) for weekday in range(7)}
    found = forecast_month(days(40, week), TODAY)
    assert found is not None
    to_come = [TODAY + timedelta(days=ahead) for ahead in range(11)]
    used_mt = sum(week[date(2026, 11, number).weekday()] for number in range(1, 20))
    assert list(found.days) == to_come
    assert found.expected_mt[-1] == used_mt + sum(week[day.weekday()] for day in to_come)
    assert found.low_mt == found.high_mt == found.expected_mt
    assert found.history_days == 28
    assert found.first_day_at(used_mt + 1) == TODAY
    assert found.first_day_at(10**9) is None


def test_the_band_grows_with_what_days_stray() -> None:
    """Days that stray to both sides widen the band with every day ahead; it never says less than is used."""
    amounts = {
        day: 1000 + (400 if (TODAY - day).days // 7 % 2 else -400) for day in days(28, dict.fromkeys(range(7), 0))
    }
    found = forecast_month(amounts, TODAY)
    assert found is not None
    widths = [high - low for low, high in zip(found.low_mt, found.high_mt, strict=True)]
    assert widths == sorted(widths)
    # 400 each way in 28 days with 7 means; 11 days ahead, of which four weekdays come twice and are known from 4 days.
    deviation = (28 * 400**2 / 21 * (11 + (4 * 4 + 3) / 4)) ** 0.5
    assert abs(widths[-1] - 2 * 1.2816 * deviation) < 4
    used_mt = sum(amount for day, amount in amounts.items() if day >= date(2026, 11, 1))
    assert min(found.low_mt) >= used_mt


def test_today_is_what_it_used_or_its_mean() -> None:
    """A morning counts as a usual day, a day that is already above its mean as what it is."""
    usual = days(28, dict.fromkeys(range(7), 1000))
    for used_mt, expected_mt in ((10, 1000), (5000, 5000)):
        found = forecast_month({**usual, TODAY: used_mt}, TODAY)
        assert found is not None
        assert found.expected_mt[0] == 19 * 1000 + expected_mt


def test_too_few_days_give_none() -> None:
    """13 full days since the first use are too few, 14 are enough, and nothing at all is nothing."""
    assert forecast_month({}, TODAY) is None
    assert forecast_month(days(13, dict.fromkeys(range(7), 1000)), TODAY) is None
    assert forecast_month(days(14, dict.fromkeys(range(7), 1000)), TODAY) is not None
