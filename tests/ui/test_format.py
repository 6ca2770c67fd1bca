"""How shares, dates and money are shown."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from core.services.application import Application
from ui.format import local_clock, local_day, local_month, local_time, money, paid, share, table_time


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("0", "0 %"), ("0.001", "0.1 %"), ("0.05", "0.1 %"), ("0.1", "0.1 %"), ("25", "25 %"), ("99.94", "99.9 %"),
        ("99.95", "99.9 %"), ("99.99", "99.9 %"), ("100", "100 %"), ("100.04", "100 %"), ("240.26", "240.3 %"),
    ],
)  # fmt: skip
def test_a_share_never_rounds_to_all_or_nothing(value: str, words: str) -> None:
    """Below 100 stays below it and above 0 above it; what is more than the whole is said as it is."""
    assert share(Decimal(value)) == words.replace(" ", "\N{NO-BREAK SPACE}")


@pytest.mark.parametrize(
    ("spoken", "moment", "day", "month"),
    [
        ("en", "Nov 3, 2026, 22:05", "Nov 4, 2026", "November 2026"),
        ("zh_CN", "2026年11月3日 22:05", "2026年11月4日", "2026年11月"),
    ],
)
def test_dates_are_those_of_the_language(
    monkeypatch: pytest.MonkeyPatch, spoken: str, moment: str, day: str, month: str
) -> None:
    """In the reader's own time zone and words; in a column they sort, in any language."""
    monkeypatch.setattr("ui.format.language", lambda: spoken)
    monkeypatch.setattr("ui.format.time_zone", lambda: ZoneInfo("Asia/Shanghai"))
    at = datetime(2026, 11, 3, 14, 5, tzinfo=UTC)
    assert local_time(at) == moment
    assert local_clock(at) == "22:05"
    assert local_day(date(2026, 11, 4)) == day
    assert local_month(date(2026, 11, 4)) == month
    assert table_time(at) == "2026-11-03 22:05"


def test_money_has_the_decimals_of_its_currency(app: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    """Yuan have two, yen none and dinars three."""
    monkeypatch.setattr("ui.format.current", lambda: app)
    assert paid(123_456_789, "CNY") == "¥1,234,567.89"
    assert paid(1_234_567, "JPY") == "JPY 1,234,567"
    assert paid(1_234_567, "KWD") == "KWD 1,234.567"
    assert money(-123_456_789_000) == "−¥1,234,567.89"
