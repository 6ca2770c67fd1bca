"""Keeping the sums of entries up with the ledger, behind its commits."""

from __future__ import annotations

from core.db import Database
from core.ledger.roll_up import behind_accounts, roll_up_entries
from core.services.application import Application


def roll_up_ledger(app: Application) -> int:
    """Sum what was committed since; gives the number of entries summed."""
    return roll_up(app.db)


def roll_up(db: Database) -> int:
    """Sum every account's entries up to the newest, some thousands in a transaction; gives their number."""
    summed, after = 0, ""
    while True:
        with db.read() as session:
            account_ids = behind_accounts(session, after=after)
        if not account_ids:
            return summed
        summed += sum(_roll_up_account(db, account_id) for account_id in account_ids)
        # Onward even if nothing was summed, which only a ledger that was tampered with makes.
        after = account_ids[-1]


def _roll_up_account(db: Database, account_id: str) -> int:
    summed = 0
    while True:
        with db.write() as session:
            count = roll_up_entries(session, account_id)
        summed += count
        if not count:
            return summed
