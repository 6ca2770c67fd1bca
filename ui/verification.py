"""What is wrong with a ledger, in words: one table from the codes of `core.ledger.verify.Problem`."""

from __future__ import annotations

from core.ledger.verify import Problem
from ui.i18n import _


def explain_problem(problem: Problem) -> str:
    """A problem in words; whose account it is in, is said by whoever shows it."""
    words = {
        "gap": _("Entry {seq} is missing, and a later one is there."),
        "seal": _("Entry {seq} is not the one that was sealed: it was changed afterwards."),
        "seal_gap": _("The seal of entry {seq} is missing."),
        "head": _("Entry {seq} or an earlier one is not that of the exported head: it was changed afterwards."),
        "balance": _("The balance stored with entry {seq} is not the one that the entries up to it give."),
        "postings": _("Debit and credit of entry {seq} do not give its balance."),
        "truncated": _("Entry {seq} was sealed and is not there any more."),
        "account_missing": _("The account is not there, and its entries or an exported head are."),
        "stored_balance": _("The account's stored balance is not the one that its entries give."),
        "status": _("The account's state, active or frozen, is not the one that its entries tell of."),
        "holds_held": _("What the open holds reserve is not what the entries say."),
        "holds_captured": _("What the holds were charged is not what the entries say."),
        "holds_refunded": _("What was refunded of the holds is not what the entries say."),
        "holds_count": _("There are more or fewer holds than the entries tell of."),
        "hold": _("The hold of entry {seq} is not as the entry tells it."),
    }
    return words[problem.code].format(seq="?" if problem.seq is None else f"{problem.seq:,}")
