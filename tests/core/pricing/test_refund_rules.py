"""A result that comes late gives back what the price book says, and nothing else does."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from core.errors import ConfigError
from core.plans import Plan
from core.pricing.book import read_book
from core.pricing.refund_rules import LateRule, find_late_rule, read_late_rules, write_late_rules

RULES = (LateRule(60, Decimal(50)), LateRule(600, Decimal(100)))
VIP_RULE = LateRule(10, Decimal(50), Plan.VIP, each_s=5)


@pytest.mark.parametrize(
    ("waited_s", "percent"), [(0, None), (60, None), (61, 50), (600, 50), (601, 100), (10**6, 100)]
)
def test_the_edges_of_the_rules(waited_s: int, percent: int | None) -> None:
    """At the promised second it is in time; one later it is not."""
    rule = find_late_rule(RULES, waited_s, plan="standard")
    assert (rule and rule.percent) == percent


@pytest.mark.parametrize(
    ("plan", "waited_s", "position", "rule"),
    [
        ("vip", 10, 0, None),
        ("vip", 11, 0, VIP_RULE),
        ("standard", 11, 0, None),
        ("standard", 61, 0, RULES[0]),
        # Both give back half: the plan's own promise is the one that he was told.
        ("vip", 61, 0, VIP_RULE),
        ("vip", 601, 0, RULES[1]),
        # The fourth picture of a run has three times five seconds more.
        ("vip", 25, 3, None),
        ("vip", 26, 3, VIP_RULE),
        ("vip", 61, 99, RULES[0]),
    ],
)
def test_a_rule_for_a_plan(plan: str, waited_s: int, position: int, rule: LateRule | None) -> None:
    """It is for that plan alone, allows more for each picture before, and of several the customer's best counts."""
    assert find_late_rule((*RULES, VIP_RULE), waited_s, plan=plan, position=position) == rule


def test_what_was_promised() -> None:
    """The reason of a refund names the seconds of this very picture, and the plan."""
    assert RULES[0].promise(3) == "promised within 60 s"
    assert VIP_RULE.promise(3) == "promised within 25 s by the plan vip"


def test_rounded_half_up() -> None:
    """Half of 0.025 tokens is 0.013; all of it is all of it."""
    assert [rule.refund_mt(25) for rule in RULES] == [13, 25]


def test_rules_survive_the_database() -> None:
    """Written and read again they are the same, in the order of their delays; those of a plan come last."""
    assert read_late_rules(write_late_rules((VIP_RULE, *RULES[::-1]))) == (*RULES, VIP_RULE)


def test_each_plan_has_its_own_steps() -> None:
    """What a plan's rule gives back says nothing about the rules for everybody."""
    vip = {"rule": "late", "after_s": 1, "percent": "80", "plan": "vip"}
    everybody = {"rule": "late", "after_s": 2, "percent": "5"}
    assert [rule.plan for rule in read_late_rules([vip, everybody])] == [None, Plan.VIP]


def test_the_published_price_list_promises_something_to_vips_alone() -> None:
    """Ten seconds a picture or half of it back; nobody else is promised anything."""
    assert read_book().late_rules == (LateRule(10, Decimal(50), Plan.VIP, each_s=10),)


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
        [{"rule": "late", "after_s": 1, "percent": "5", "plan": "gold"}],
        [{"rule": "late", "after_s": 1, "percent": "5", "plan": None}],
        [{"rule": "late", "after_s": 1, "percent": "5", "each_s": -1}],
        [{"rule": "late", "after_s": 1, "percent": "5", "each_s": 0.5}],
        [
            {"rule": "late", "after_s": 1, "percent": "5", "each_s": 2},
            {"rule": "late", "after_s": 2, "percent": "50", "each_s": 1},
        ],
        ["late"],
    ],
)
def test_wrong_rules_are_refused(data: Any) -> None:
    """Unknown kinds, floats, impossible percents, and a longer delay that gives back less."""
    with pytest.raises(ConfigError):
        read_late_rules(data)
