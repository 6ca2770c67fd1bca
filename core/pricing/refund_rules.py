"""Rules of a price book by which a charge gives tokens back by itself: what comes late costs less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from itertools import pairwise
from typing import Any

from core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class LateRule:
    """A result later than `after_s` seconds after its run was started gives back `percent` of its charge."""

    after_s: int
    percent: Decimal

    def refund_mt(self, charged_mt: int) -> int:
        """What a late charge gives back, in milli-tokens, rounded half up."""
        return int((charged_mt * self.percent / 100).to_integral_value(rounding=ROUND_HALF_UP))


def read_late_rules(data: object) -> tuple[LateRule, ...]:
    """Rules from their JSON, `[{"rule": "late", "after_s": 600, "percent": "50"}, …]`, the longest delay last.

    Raises `ConfigError` for anything else; later must not give back less.
    """
    if not isinstance(data, list):
        raise ConfigError("The price book's refund_rules are a list.")
    rules = tuple(sorted((_read_rule(rule) for rule in data), key=lambda rule: rule.after_s))
    for earlier, later in pairwise(rules):
        if later.after_s == earlier.after_s or later.percent < earlier.percent:
            raise ConfigError("The price book's refund_rules: a longer delay must give back as much or more.")
    return rules


def write_late_rules(rules: Sequence[LateRule]) -> list[dict[str, Any]]:
    """Rules as JSON; percents are text, so that none becomes a float."""
    return [{"rule": "late", "after_s": rule.after_s, "percent": str(rule.percent)} for rule in rules]


def find_late_rule(rules: Sequence[LateRule], waited_s: int) -> LateRule | None:
    """The rule for a result that took this many seconds, or None when it was in time."""
    return next((rule for rule in reversed(rules) if waited_s > rule.after_s), None)


def _read_rule(rule: object) -> LateRule:
    try:
        if not isinstance(rule, Mapping) or rule["rule"] != "late" or type(rule["after_s"]) is not int:
            raise ValueError(rule)
        if not isinstance(rule["percent"], str):
            raise ValueError(rule)
        percent = Decimal(rule["percent"])
        if not (percent.is_finite() and 0 < percent <= 100 and rule["after_s"] >= 1):
            raise ValueError(rule)
    except (KeyError, ValueError, InvalidOperation):
        raise ConfigError(
            'A refund rule of the price book is {"rule": "late", "after_s": seconds ≥ 1, "percent": "above 0 to 100"}.'
        ) from None
    return LateRule(rule["after_s"], percent)
