"""One idempotency key, one effect, the same answer.

The row is written in the transaction of its effect: either both are there or neither.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sqlmodel import Session, col, select, update

from core.db import insert_if_absent, new_id, utcnow
from core.errors import IdempotencyConflictError
from core.ledger.tables import Idempotency


def hash_request(request: Mapping[str, Any]) -> str:
    """SHA-256 of the request in canonical JSON."""
    canonical = json.dumps(request, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


def begin_idempotent(
    session: Session, account_id: str, operation: str, key: str, request: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Claim a key. None: the caller goes on and calls `complete_idempotent`. Else: the stored answer.

    Raises `IdempotencyConflictError` when the key stands for another request.
    """
    request_hash = hash_request(request)
    claimed = insert_if_absent(
        session,
        Idempotency,
        {
            "id": new_id("idem"),
            "account_id": account_id,
            "operation": operation,
            "key": key,
            "request_hash": request_hash,
            "created_at": utcnow(),
        },
        returning="id",
    )
    if claimed is not None:
        return None
    return find_answer(session, account_id, operation, key, request)


def find_answer(
    session: Session, account_id: str, operation: str, key: str, request: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The stored answer of a key; None for a new one. Raises `IdempotencyConflictError` for another request."""
    row = session.exec(
        select(Idempotency)
        .where(
            Idempotency.account_id == account_id,
            Idempotency.operation == operation,
            Idempotency.key == key,
        )
        .execution_options(populate_existing=True)
    ).first()
    if row is None:
        return None
    if row.request_hash != hash_request(request):
        raise IdempotencyConflictError(key)
    return row.response


def complete_idempotent(session: Session, account_id: str, operation: str, key: str, response: dict[str, Any]) -> None:
    """Store the answer that every retry of this key gets."""
    session.exec(
        update(Idempotency)
        .where(
            col(Idempotency.account_id) == account_id,
            col(Idempotency.operation) == operation,
            col(Idempotency.key) == key,
        )
        .values(response=response)
    )
