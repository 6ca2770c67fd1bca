"""Whose image a runner takes next."""

from __future__ import annotations

from collections import Counter

from core.jobs.turns import Turns
from core.plans import Plan

VIP, STANDARD = Plan.VIP.value, Plan.STANDARD.value


def serve(turns: Turns, waiting: set[tuple[str, str]], count: int) -> list[str]:
    """The accounts that are served next, one after the other, while all of them have more."""
    served = []
    for _ in range(count):
        account_id, plan = turns.order(waiting)[0]
        turns.note(account_id, plan)
        served.append(account_id)
    return served


def test_accounts_take_turns() -> None:
    """The one that was served longest ago is next."""
    assert serve(Turns(8), {("a", STANDARD), ("b", STANDARD), ("c", STANDARD)}, 6) == ["a", "b", "c"] * 2


def test_a_vip_goes_before_everybody() -> None:
    """Even if he was served a moment ago; between VIPs there are turns, too."""
    turns = Turns(8)
    turns.note("v", VIP)
    assert turns.order({("a", STANDARD), ("v", VIP), ("w", VIP)}) == [("w", VIP), ("v", VIP), ("a", STANDARD)]


def test_vips_do_not_shut_the_others_out() -> None:
    """After so many images of VIPs one of the others goes, and these take turns at that."""
    served = serve(Turns(3), {("a", STANDARD), ("b", STANDARD), ("v", VIP), ("w", VIP)}, 16)
    assert served[3::4] == ["a", "b", "a", "b"]
    assert Counter(served) == {"v": 6, "w": 6, "a": 2, "b": 2}


def test_runs_under_two_plans() -> None:
    """An account whose plan was changed while it had runs waits in both lanes."""
    assert Turns(8).order({("a", STANDARD), ("a", VIP)}) == [("a", VIP), ("a", STANDARD)]
