"""Keeping the sums of entries up with the ledger, behind its commits."""

from __future__ import annotations

from core.db import Database
from core.ledger.roll_up import behind_accounts, roll_up_entries
from core.services.application import Application
from core.services.catch_up import catch_up


def roll_up_ledger(app: Application) -> int:
    """Sum what was committed since; gives the number of entries summed."""
    return roll_up(app.db)


def roll_up(db: Database) -> int:
    """Sum every account's entries up to the newest, some thousands in a transaction; gives their number."""
    return catch_up(db, behind_accounts, roll_up_entries)
