"""The address of the Usage page: a link shows the same view, and what it should not say is left out and told."""

from __future__ import annotations

from datetime import date

import pytest

from ui.usage_view import Span, find_custom, find_span, read_address

TODAY = date(2026, 11, 27)
KNOWN = {"model": ["yolov8s"], "caller": ["key_1", "user_1"], "outcome": ["charged", "free"]}
DEFAULT = {
    "period": "30", "by": "model", "custom": find_custom(TODAY), "model": [], "caller": [], "outcome": [],
}  # fmt: skip


def test_an_address_is_the_view() -> None:
    """Period, days, every filter with several values, and the grouping."""
    params = {
        "period": ["custom"], "from": ["2026-11-01"], "to": ["2026-11-03"], "model": ["yolov8s"],
        "caller": ["user_1", "key_1"], "outcome": ["free"], "by": ["key"],
    }  # fmt: skip
    values, ignored = read_address(params, KNOWN, TODAY)
    assert values == {
        "period": "custom", "by": "key", "custom": (date(2026, 11, 1), date(2026, 11, 3)), "model": ["yolov8s"],
        "caller": ["user_1", "key_1"], "outcome": ["free"],
    }  # fmt: skip
    assert ignored == []
    assert read_address({}, KNOWN, TODAY) == (DEFAULT, [])
    assert read_address({"unknown": ["x"]}, KNOWN, TODAY) == (DEFAULT, []), "another page's"


@pytest.mark.parametrize(
    ("params", "ignored"),
    [
        ({"period": ["31"]}, ["period=31"]),
        ({"by": ["colour"]}, ["by=colour"]),
        ({"model": ["mine"], "caller": ["\u0000"], "outcome": ["x"]}, ["model=mine", "caller=\u0000", "outcome=x"]),
        ({"period": ["custom"]}, ["period=custom"]),
        ({"period": ["custom"], "from": ["2026-13-01"], "to": ["2026-11-03"]}, ["from=2026-13-01", "to=2026-11-03"]),
        ({"period": ["custom"], "from": ["2026-11-04"], "to": ["2026-11-03"]}, ["from=2026-11-04", "to=2026-11-03"]),
        ({"period": ["custom"], "from": ["2026-11-04"], "to": ["2026-11-28"]}, ["from=2026-11-04", "to=2026-11-28"]),
        ({"period": ["custom"], "from": ["0001-01-01"], "to": ["2026-11-27"]}, ["from=0001-01-01", "to=2026-11-27"]),
        ({"period": ["custom"], "from": ["0001-01-01"], "to": ["0001-01-02"]}, ["from=0001-01-01", "to=0001-01-02"]),
        ({"period": ["custom"], "from": ["1890-01-01"], "to": ["1890-01-02"]}, ["from=1890-01-01", "to=1890-01-02"]),
    ],
)
def test_what_an_address_may_not_say_is_left_out(params: dict[str, list[str]], ignored: list[str]) -> None:
    """The default view, and each bad value told."""
    assert read_address(params, KNOWN, TODAY) == (DEFAULT, ignored)


@pytest.mark.parametrize(
    ("period", "today", "span"),
    [
        ("7", date(2026, 3, 3), ("2026-02-25", "2026-03-03", "2026-02-18", "2026-02-24")),
        ("month", date(2026, 3, 31), ("2026-03-01", "2026-03-31", "2026-02-01", "2026-02-28")),
        ("month", date(2026, 3, 3), ("2026-03-01", "2026-03-03", "2026-02-01", "2026-02-03")),
        ("last_month", date(2026, 3, 3), ("2026-02-01", "2026-02-28", "2026-01-01", "2026-01-31")),
        ("last_month", date(2026, 1, 9), ("2025-12-01", "2025-12-31", "2025-11-01", "2025-11-30")),
    ],
)
def test_months_are_compared_with_months(period: str, today: date, span: tuple[str, ...]) -> None:
    """A running month with as many days of the one before, at most all of them."""
    assert find_span(period, today) == Span(*map(date.fromisoformat, span))
