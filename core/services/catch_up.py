"""Following the ledger behind its commits, some thousands of entries of an account in a transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlmodel import Session

from core.db import Database

Advance = Callable[[Session, str], int]


def catch_up(db: Database, find_accounts: Callable[..., Sequence[str]], advance: Advance) -> int:
    """Bring every account up to its newest entry; gives the number of entries done.

    `find_accounts(session, after=…)` gives the next accounts that are behind, by id. `advance(session, account_id)`
    goes on with one and gives the number of entries done; 0 when it is up to date, or can go no further.
    """
    done, after = 0, ""
    while True:
        with db.read() as session:
            account_ids = find_accounts(session, after=after)
        if not account_ids:
            return done
        done += sum(catch_up_account(db, account_id, advance) for account_id in account_ids)
        # Onward even if nothing was done: what was tampered with may not go on, and must not hold up others.
        after = account_ids[-1]


def catch_up_account(db: Database, account_id: str, advance: Advance) -> int:
    """The same for one account."""
    done = 0
    while True:
        with db.write() as session:
            count = advance(session, account_id)
        done += count
        if not count:
            return done
