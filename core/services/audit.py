"""Proving the ledger: an operator checks everybody, a customer his own balance, and heads are kept elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from core.db import utcnow
from core.errors import InvalidHeadError
from core.identity.tables import User
from core.ledger.seal import Head, get_head, list_heads, seal_entries, unsealed_accounts
from core.ledger.verify import Verification, verify_ledger
from core.services.application import Application
from core.services.top_up import require_operator

HEAD_FORMAT = "visionmeter-ledger-head/1"


def check_ledger(app: Application, operator: User, *, heads: Iterable[Head] = ()) -> Verification:
    """Replay everybody's entries. Raises `NotAllowedError`."""
    require_operator(operator)
    with app.db.read() as session:
        return verify_ledger(session, heads=heads)


def verify_balance(app: Application, user: User, *, heads: Iterable[Head] = ()) -> Verification:
    """Replay the account's own entries and its chain."""
    with app.db.read() as session:
        return verify_ledger(session, user.account_id, heads=heads)


def export_own_head(app: Application, user: User) -> str:
    """The head of the account's own chain after sealing what is new, as JSON (`write_heads`)."""
    seal_account(app, user.account_id)
    with app.db.read() as session:
        head = get_head(session, user.account_id)
    return write_heads([head] if head.seq else [])


def export_heads(app: Application, operator: User) -> str:
    """The heads of all chains after sealing what is new, as JSON. Raises `NotAllowedError`."""
    require_operator(operator)
    seal_ledger(app)
    with app.db.read() as session:
        return write_heads(list_heads(session))


def seal_account(app: Application, account_id: str) -> int:
    """Continue one account's chain up to its newest entry; gives the number of entries sealed."""
    sealed = 0
    while True:
        with app.db.write() as session:
            count = seal_entries(session, account_id)
        sealed += count
        if not count:
            return sealed


def seal_ledger(app: Application) -> int:
    """Write the chains behind the entries that were committed since; gives the number of entries sealed."""
    sealed = 0
    while True:
        with app.db.read() as session:
            account_ids = unsealed_accounts(session)
        if not account_ids:
            return sealed
        sealed += sum(seal_account(app, account_id) for account_id in account_ids)


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
