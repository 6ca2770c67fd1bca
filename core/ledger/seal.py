"""The hash chain over an account's entries, written behind the commit, and its head to keep elsewhere.

`digest(n) = SHA-256(digest(n − 1) + "\\n" + entry n in canonical JSON)`, with `digest(0)` made of the account's id.
Whoever changes an entry must change every seal after it; whoever changes them all is found out by a head that
was exported before, as in a certificate-transparency log (RFC 9162). docs/adr/0013-seal.md has the format, and
fifteen lines that recompute it without this module.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, String, func, insert, select, type_coerce
from sqlmodel import Session

from core.db import one_at_a_time, table_of
from core.ledger.tables import Account, Entry, Seal

ENTRIES_PER_TRANSACTION_MAX = 2000
# What the chain covers, in this order; a change of it is a change of format. Only the row's own number `id`, which
# nothing refers to, is left out: a restored copy may count anew.
SEALED_COLUMNS = (
    "account_id",
    "seq",
    "kind",
    "debit_account",
    "credit_account",
    "amount_mt",
    "posted_change_mt",
    "held_change_mt",
    "posted_after_mt",
    "held_after_mt",
    "hold_id",
    "actor",
    "memo",
    "created_at",
)

_account, _entry, _seal = table_of(Account), table_of(Entry), table_of(Seal)
_PLAIN_COLUMNS = tuple(_entry.c[name] for name in SEALED_COLUMNS[:-1])
# SQLite takes anything in any column; what JSON has no form for becomes an object, which no entry's value is.
_encode = json.JSONEncoder(separators=(",", ":"), default=lambda value: {"no value of an entry": repr(value)}).encode
_sealed_seq = (
    select(func.coalesce(func.max(_seal.c.seq), 0)).where(_seal.c.account_id == _account.c.id).scalar_subquery()
)


@dataclass(frozen=True, slots=True)
class Head:
    """The end of an account's chain: the digest of entry `seq` covers everything before it."""

    account_id: str
    seq: int
    digest: str


def first_digest(account_id: str) -> str:
    """What the chain of an account begins with."""
    return hashlib.sha256(f"visionmeter ledger 1 {account_id}".encode()).hexdigest()


def entry_columns(dialect: str) -> tuple[ColumnElement[Any], ...]:
    """The columns of `SEALED_COLUMNS`, with `created_at` as canonical text: `2026-03-04T05:06:07.000008+00:00`.

    The database writes that text, so that a time which is none is a wrong entry and not an exception.
    """
    if dialect == "sqlite":
        # Stored as text in UTC with six digits of a second (`core.db.UTCDateTime`).
        at = func.replace(type_coerce(_entry.c.created_at, String), " ", "T").concat("+00:00")
    else:
        at = func.to_char(func.timezone("UTC", _entry.c.created_at), 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')
    return (*_PLAIN_COLUMNS, at)


def chain_digest(previous: str, values: Sequence[Any]) -> str:
    """The digest of an entry, given as the values of `entry_columns`, on top of the one before it."""
    return hashlib.sha256(f"{previous}\n{_encode(values)}".encode()).hexdigest()


def unsealed_accounts(session: Session, *, after: str = "", limit: int = 1000) -> Sequence[str]:
    """Accounts with entries that no seal covers yet, by id; `after` goes on where the last call ended."""
    query = select(_account.c.id).where(_account.c.id > after, _account.c.version > _sealed_seq)
    rows = session.connection().execute(query.order_by(_account.c.id).limit(limit))
    return [row[0] for row in rows]


def seal_entries(session: Session, account_id: str, *, limit: int = ENTRIES_PER_TRANSACTION_MAX) -> int:
    """Continue the chain over the account's committed entries, at most `limit`; gives how many.

    Any number of nodes may call it: one after the other continues. It stops at a gap, which only tampering leaves: a
    seal beyond it would vouch for a history that is not there.
    """
    one_at_a_time(session, f"seal {account_id}")
    head = get_head(session, account_id)
    rows = session.connection().execute(
        select(*entry_columns(session.get_bind().dialect.name))
        .where(_entry.c.account_id == account_id, _entry.c.seq > head.seq)
        .order_by(_entry.c.seq)
        .limit(limit)
    )
    digest, seals = head.digest, []
    for seq, row in enumerate(rows, start=head.seq + 1):
        if row[1] != seq:
            break
        digest = chain_digest(digest, tuple(row))
        seals.append({"account_id": account_id, "seq": seq, "digest": digest})
    if seals:
        session.connection().execute(insert(_seal), seals)
    return len(seals)


def get_digest(session: Session, account_id: str, seq: int) -> str | None:
    """The digest of an entry; None when it is not sealed yet. That of entry 0 is what the chain begins with."""
    if seq == 0:
        return first_digest(account_id)
    row = (
        session.connection()
        .execute(select(_seal.c.digest).where(_seal.c.account_id == account_id, _seal.c.seq == seq))
        .first()
    )
    return None if row is None else str(row[0])


def get_head(session: Session, account_id: str) -> Head:
    """The end of an account's chain; `seq` 0 when nothing is sealed yet."""
    row = (
        session.connection()
        .execute(
            select(_seal.c.seq, _seal.c.digest)
            .where(_seal.c.account_id == account_id)
            .order_by(_seal.c.seq.desc())
            .limit(1)
        )
        .first()
    )
    return Head(account_id, *row) if row is not None else Head(account_id, 0, first_digest(account_id))


def list_heads(session: Session) -> list[Head]:
    """The heads of all accounts that have a seal, by account."""
    last = select(_seal.c.account_id, func.max(_seal.c.seq).label("seq")).group_by(_seal.c.account_id).subquery()
    rows = session.connection().execute(
        select(_seal.c.account_id, _seal.c.seq, _seal.c.digest)
        .join(last, (last.c.account_id == _seal.c.account_id) & (last.c.seq == _seal.c.seq))
        .order_by(_seal.c.account_id)
    )
    return [Head(*row) for row in rows]
