"""A result that comes late gives back what the price book says, and nothing else does."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from core.errors import ConfigError
from core.pricing.refund_rules import LateRule, find_late_rule, read_late_rules, write_late_rules

RULES = (LateRule(60, Decimal(50)), LateRule(600, Decimal(100)))


@pytest.mark.parametrize(
    ("waited_s", "percent"), [(0, None), (60, None), (61, 50), (600, 50), (601, 100), (10**6, 100)]
)
def test_the_edges_of_the_rules(waited_s: int, percent: int | None) -> None:
    """At the promised second it is in time; one later it is not."""
    rule = find_late_rule(RULES, waited_s)
    assert (rule and rule.percent) == percent


def test_rounded_half_up() -> None:
    """Half of 0.025 tokens is 0.013; all of it is all of it."""
    assert [rule.refund_mt(25) for rule in RULES] == [13, 25]


def test_rules_survive_the_database() -> None:
    """Written and read again they are the same, in the order of their delays."""
    assert read_late_rules(write_late_rules(RULES[::-1])) == RULES


@pytest.mark.parametrize(
    "data",
    [
        {},
        [{"rule": "early", "after_s": 1, "percent": "5"}],
        [{"rule": "late", "after_s": 1.5, "percent": "5"}],
        [{"rule": "late", "after_s": 0, "percent": "5"}],
        [{"rule": "late", "after_s": 1, "percent": 5.0}],
        [{"rule": "late", "after_s": 1, "percent": "0"}],
        [{"rule": "late", "after_s": 1, "percent": "101"}],
        [{"rule": "late", "after_s": 1, "percent": "NaN"}],
        [{"rule": "late", "after_s": 1}],
        [{"rule": "late", "after_s": 1, "percent": "50"}, {"rule": "late", "after_s": 2, "percent": "5"}],
        ["late"],
    ],
)
def test_wrong_rules_are_refused(data: Any) -> None:
    """Unknown kinds, floats, impossible percents, and a longer delay that gives back less."""
    with pytest.raises(ConfigError):
        read_late_rules(data)
