"""Proving the ledger: an operator checks everybody, a customer his own balance, and heads are kept elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sqlmodel import Session

from core.db import Database, utcnow
from core.errors import InvalidHeadError
from core.identity.tables import User
from core.ledger.corrections import require_account
from core.ledger.seal import Head, get_head, list_heads, seal_entries, unsealed_accounts
from core.ledger.verify import Verification, verify_ledger
from core.services.application import Application
from core.services.catch_up import catch_up, catch_up_account
from core.services.top_up import require_operator

HEAD_FORMAT = "visionmeter-ledger-head/1"

# For the portal: who may do it --------------------------------------------------------------------


def check_ledger(app: Application, operator: User, *, heads: Iterable[Head] = ()) -> Verification:
    """Replay everybody's entries. Raises `NotAllowedError`."""
    require_operator(operator)
    return replay(app.db, heads=heads)


def verify_balance(app: Application, user: User, *, heads: Iterable[Head] = ()) -> Verification:
    """Replay the account's own entries and its chain."""
    return replay(app.db, user.account_id, heads=heads)


def export_own_head(app: Application, user: User) -> str:
    """The head of the account's own chain after sealing what is new, as JSON (`write_heads`)."""
    return write_heads(collect_heads(app.db, user.account_id))


def export_heads(app: Application, operator: User) -> str:
    """The heads of all chains after sealing what is new, as JSON. Raises `NotAllowedError`."""
    require_operator(operator)
    return write_heads(collect_heads(app.db))


def seal_account(app: Application, account_id: str) -> int:
    """Continue one account's chain up to its newest entry; gives the number of entries sealed."""
    return seal(app.db, account_id)


def seal_ledger(app: Application) -> int:
    """Write the chains behind the entries that were committed since; gives the number of entries sealed."""
    return seal(app.db)


# For whoever has the database ---------------------------------------------------------------------


def replay(db: Database, account_id: str | None = None, *, heads: Iterable[Head] = ()) -> Verification:
    """Replay the entries of one account, or of all, in one snapshot."""
    with db.read() as session:
        return verify_ledger(session, account_id, heads=heads)


def seal(db: Database, account_id: str | None = None) -> int:
    """Continue the chain of one account, or of all, up to the newest entry; gives the number of entries sealed."""
    if account_id is not None:
        return catch_up_account(db, account_id, seal_entries)
    return catch_up(db, unsealed_accounts, seal_entries)


def collect_heads(db: Database, account_id: str | None = None) -> list[Head]:
    """The head of one chain, or of all, after sealing what is new; an account without entries has none.

    Raises `AccountNotActiveError` when there is no such account.
    """
    seal(db, account_id)
    with db.read() as session:
        if account_id is not None:
            require_account(session, account_id)
        return _list_heads(session, account_id)


def extend_heads(db: Database, kept: Iterable[Head], account_id: str | None = None) -> tuple[list[Head], Verification]:
    """New heads in the place of kept ones, and whether the ledger still agrees with those, in one snapshot.

    Without the account the kept heads of it are what disagrees.
    """
    seal(db, account_id)
    with db.read() as session:
        return _list_heads(session, account_id), verify_ledger(session, account_id, heads=kept)


def _list_heads(session: Session, account_id: str | None) -> list[Head]:
    if account_id is None:
        return list_heads(session)
    head = get_head(session, account_id)
    return [head] if head.seq else []


# The document -------------------------------------------------------------------------------------


def write_heads(heads: Iterable[Head]) -> str:
    """Heads as a JSON document to keep where nobody can change it together with the database."""
    document = {
        "format": HEAD_FORMAT,
        "created_at": utcnow().isoformat(timespec="seconds"),
        "accounts": {head.account_id: {"seq": head.seq, "digest": head.digest} for head in heads},
    }
    return json.dumps(document, indent=2) + "\n"


def read_heads(text: str) -> list[Head]:
    """The heads of a document that `write_heads` wrote. Raises `InvalidHeadError` for anything else."""
    try:
        document: dict[str, Any] = json.loads(text)
        if document["format"] != HEAD_FORMAT:
            raise ValueError(document["format"])
        heads = [Head(key, head["seq"], head["digest"]) for key, head in document["accounts"].items()]
        if not all(type(head.seq) is int and head.seq > 0 and isinstance(head.digest, str) for head in heads):
            raise TypeError("seq is a number above zero and digest is text")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InvalidHeadError("This is no exported head of a ledger: give the file as it was written.") from None
    return heads
