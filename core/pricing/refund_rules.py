"""Rules of a price book by which a charge gives tokens back by itself: what comes late costs less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from itertools import pairwise
from typing import Any

from core.errors import ConfigError
from core.plans import Plan


@dataclass(frozen=True, slots=True)
class LateRule:
    """A result later than `after_s` seconds after its run was started gives back `percent` of its charge.

    Each picture before it in the run allows `each_s` seconds more, so that a promise for one picture does not make
    most of a large batch late. With a `plan` the rule is for runs under that plan alone.
    """

    after_s: int
    percent: Decimal
    plan: Plan | None = None
    each_s: int = 0

    def promised_s(self, position: int) -> int:
        """Within how many seconds the picture at this position of its run (the first is 0) is promised."""
        return self.after_s + self.each_s * position

    def promise(self, position: int) -> str:
        """What was promised for a picture, in words."""
        promised = f"promised within {self.promised_s(position)} s"
        return promised if self.plan is None else f"{promised} by the plan {self.plan}"

    def refund_mt(self, charged_mt: int) -> int:
        """What a late charge gives back, in milli-tokens, rounded half up."""
        return int((charged_mt * self.percent / 100).to_integral_value(rounding=ROUND_HALF_UP))


def read_late_rules(data: object) -> tuple[LateRule, ...]:
    """Rules from their JSON, `[{"rule": "late", "after_s": 600, "percent": "50"}, …]`, the longest delay last.

    `"plan": "vip"` and `"each_s": 10` may stand in each. Those for everybody come first. Raises `ConfigError` for
    anything else; of the rules for a plan, and of those for everybody, a later one must not give back less.
    """
    if not isinstance(data, list):
        raise ConfigError("The price book's refund_rules are a list.")
    rules = tuple(sorted((_read_rule(rule) for rule in data), key=lambda rule: (rule.plan or "", rule.after_s)))
    for earlier, later in pairwise(rules):
        if earlier.plan == later.plan and (
            later.after_s == earlier.after_s or later.each_s < earlier.each_s or later.percent < earlier.percent
        ):
            raise ConfigError("The price book's refund_rules: a longer delay must give back as much or more.")
    return rules


def write_late_rules(rules: Sequence[LateRule]) -> list[dict[str, Any]]:
    """Rules as JSON; percents are text, so that none becomes a float."""
    return [
        {
            "rule": "late",
            "after_s": rule.after_s,
            "percent": str(rule.percent),
            **({"plan": rule.plan.value} if rule.plan is not None else {}),
            **({"each_s": rule.each_s} if rule.each_s else {}),
        }
        for rule in rules
    ]


def find_late_rule(rules: Sequence[LateRule], waited_s: int, *, plan: str, position: int = 0) -> LateRule | None:
    """The rule for a result that took this many seconds, or None when it was in time.

    Of several that it broke the one that gives back most, and of those that give back the same the plan's own.
    """
    broken = [rule for rule in rules if rule.plan in (None, plan) and waited_s > rule.promised_s(position)]
    return max(broken, key=lambda rule: (rule.percent, rule.plan is not None, rule.after_s), default=None)


def _read_rule(rule: object) -> LateRule:
    try:
        if not isinstance(rule, Mapping) or rule["rule"] != "late" or not isinstance(rule["percent"], str):
            raise ValueError(rule)
        after_s, each_s = rule["after_s"], rule.get("each_s", 0)
        if type(after_s) is not int or type(each_s) is not int or after_s < 1 or each_s < 0:
            raise ValueError(rule)
        percent = Decimal(rule["percent"])
        if not (percent.is_finite() and 0 < percent <= 100):
            raise ValueError(rule)
        plan = Plan(rule["plan"]) if "plan" in rule else None
    except (KeyError, ValueError, InvalidOperation):
        raise ConfigError(
            'A refund rule of the price book is {"rule": "late", "after_s": seconds ≥ 1, "percent": "above 0 to 100"}, '
            f'and may have "each_s": seconds ≥ 0 and "plan": {" or ".join(Plan)}.'
        ) from None
    return LateRule(after_s, percent, plan, each_s)
