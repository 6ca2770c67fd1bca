"""The chain over the entries: its published format, one chain from many nodes, and what keeps it append-only."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from core.config import ROOT
from core.db import Database, table_of
from core.ledger import ledger
from core.ledger.seal import (
    ENTRIES_PER_TRANSACTION_MAX,
    Head,
    chain_digest,
    get_digest,
    get_head,
    list_heads,
    seal_entries,
    unsealed_accounts,
)
from core.ledger.tables import Account, Entry
from core.ledger.verify import verify_ledger
from core.services import audit
from tests.core.ledger.tampering import allow_changes

Recompute = Callable[[Any, str, int], str]
PUBLISHED = (ROOT / "docs" / "adr" / "0013-seal.md").read_text(encoding="utf-8")


@pytest.fixture
def recompute() -> Recompute:
    """The fifteen lines that the decision publishes for an outside auditor; they import nothing of ours."""
    (code,) = re.findall(r"^```python\n(.*?)^```", PUBLISHED, re.MULTILINE | re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    assert "core" not in code
    names: dict[str, Any] = {}
    exec(code, names)
    return names["recompute"]  # type: ignore[no-any-return]


@pytest.fixture
def account_id(db: Database) -> str:
    """An account with a top-up, a charge, and memos in several scripts."""
    with db.write() as session:
        account_id = ledger.open_account(session, "Ann").id
        ledger.post_top_up(session, account_id, 10_000, source="house:vouchers", actor="ann", memo='"ü", 充值 \\ 🙂\n')
        hold = ledger.place_hold(session, account_id, 1000, charge_key="a", lease_s=60, actor="ann", memo="线 7.jpg")
        ledger.capture_hold(session, hold.id, 600, actor="ann")
    return account_id


def top_up(db: Database, account_id: str, times: int = 1, at: datetime | None = None) -> None:
    """Add entries, one transaction each."""
    for _ in range(times):
        with db.write() as session:
            ledger.post_top_up(session, account_id, 1, source="house:test", actor="test", at=at)


def digests(db: Database, account_id: str) -> list[tuple[int, str]]:
    """An account's chain."""
    with db.read() as session:
        rows = session.connection().execute(
            text("SELECT seq, digest FROM seal WHERE account_id = :account ORDER BY seq"), {"account": account_id}
        )
        return [(row[0], row[1]) for row in rows]


# The format ---------------------------------------------------------------------------------------


def test_an_auditor_recomputes_every_digest(db: Database, account_id: str, recompute: Recompute) -> None:
    """The published lines give, from the bare driver, the digest of every entry and of the beginning."""
    top_up(db, account_id, at=datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC))  # no fraction of a second
    top_up(db, account_id, at=datetime(2026, 3, 4, 5, 6, 7, 8, tzinfo=UTC))
    assert audit.seal(db) == 5
    connection = db.engine.raw_connection()
    try:
        found = [(seq, recompute(connection.driver_connection, account_id, seq)) for seq in range(1, 6)]
        first = recompute(connection.driver_connection, account_id, 0)
    finally:
        connection.close()
    assert found == digests(db, account_id)
    with db.read() as session:
        assert get_digest(session, account_id, 0) == first
        assert get_head(session, account_id) == Head(account_id, *found[-1])


def test_the_format_does_not_change(db: Database) -> None:
    """Entries with fixed values have, on each database, the digests that they had when the format was published."""
    at = datetime(2026, 3, 4, 5, 6, 7, 8, tzinfo=UTC)
    account = Account(id="acct_1", name="Ann", posted_mt=9500, held_mt=0, version=2, created_at=at)
    entry = {"account_id": "acct_1", "actor": "Zoë", "created_at": at, "hold_id": None}
    first = {
        **entry,
        "seq": 1,
        "kind": "top_up",
        "debit_account": "house:vouchers",
        "credit_account": "account:acct_1",
        "amount_mt": 10_000,
        "posted_change_mt": 10_000,
        "held_change_mt": 0,
        "posted_after_mt": 10_000,
        "held_after_mt": 0,
        "memo": "充值 🙂",
    }
    second = {
        **first,
        "seq": 2,
        "kind": "adjustment",
        "debit_account": "account:acct_1",
        "credit_account": "house:adjustments",
        "amount_mt": 500,
        "posted_change_mt": -500,
        "posted_after_mt": 9500,
        "memo": "",
    }
    with db.write() as session:
        session.add(account)
        session.flush()
        session.connection().execute(table_of(Entry).insert(), [first, second])
        seal_entries(session, "acct_1")
    lines = [
        '["acct_1",1,"top_up","house:vouchers","account:acct_1",10000,10000,0,10000,0,null,"Zo\\u00eb",'
        '"\\u5145\\u503c \\ud83d\\ude42","2026-03-04T05:06:07.000008+00:00"]',
        '["acct_1",2,"adjustment","account:acct_1","house:adjustments",500,-500,0,9500,0,null,"Zo\\u00eb",'
        '"","2026-03-04T05:06:07.000008+00:00"]',
    ]
    digest = hashlib.sha256(b"visionmeter ledger 1 acct_1").hexdigest()
    expected = []
    for seq, line in enumerate(lines, start=1):
        digest = hashlib.sha256(f"{digest}\n{line}".encode("ascii")).hexdigest()
        expected.append((seq, digest))
    assert digests(db, "acct_1") == expected
    assert digest == "ed8d4c043af926c3be6d4d6514583794c5c7d3cd5f5b00324f835d08252da0b0"
    with db.read() as session:
        assert verify_ledger(session).ok


def test_what_json_cannot_say_is_no_entry() -> None:
    """Bytes, which only SQLite would let into a column, have another digest than any text that looks like them."""
    assert chain_digest("", [b"x"]) != chain_digest("", [repr(b"x")])


# Sealing ------------------------------------------------------------------------------------------


def test_sealing_continues_where_it_ended(db: Database, account_id: str) -> None:
    """Each call seals what is new and nothing else, at most as many as asked; the earlier digests stay."""
    with db.write() as session:
        assert seal_entries(session, account_id, limit=2) == 2
    before = digests(db, account_id)
    with db.read() as session:
        assert list(unsealed_accounts(session)) == [account_id]
    with db.write() as session:
        assert seal_entries(session, account_id) == 1
        assert seal_entries(session, account_id) == 0
    with db.read() as session:
        assert list(unsealed_accounts(session)) == []
    top_up(db, account_id)
    assert audit.seal(db) == 1
    after = digests(db, account_id)
    assert [seq for seq, _digest in after] == [1, 2, 3, 4]
    assert after[:2] == before


def test_a_long_history_is_sealed_in_pieces(db: Database, account_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More entries than one transaction takes end up in one chain, and a call tells how many there were."""
    assert ENTRIES_PER_TRANSACTION_MAX == 2000
    monkeypatch.setattr(audit, "seal_entries", lambda session, key: seal_entries(session, key, limit=2))
    top_up(db, account_id, 4)
    assert audit.seal(db, account_id) == 7
    with db.read() as session:
        assert verify_ledger(session).unsealed == 0


def test_accounts_are_listed_page_by_page(db: Database) -> None:
    """Accounts with something to seal come in the order of their ids, each once; others do not come."""
    with db.write() as session:
        account_ids = [ledger.open_account(session, str(number)).id for number in range(6)]
    for account_id in account_ids[:5]:
        top_up(db, account_id)
    found: list[str] = []
    with db.read() as session:
        while page := unsealed_accounts(session, after=found[-1] if found else "", limit=2):
            found += page
    assert found == sorted(account_ids[:5])


def test_two_nodes_make_one_chain(db: Database, database_url: str, account_id: str, recompute: Recompute) -> None:
    """Two nodes of two threads each seal while entries are written: each entry has one seal, and the chain is right."""
    other = Database(database_url)
    done = threading.Event()

    def seal(node: Database) -> int:
        sealed = 0
        while not done.is_set():
            sealed += audit.seal(node)
        return sealed

    with ThreadPoolExecutor(6) as threads:
        nodes = [threads.submit(seal, node) for node in (db, db, other, other)]
        writers = [threads.submit(top_up, node, account_id, 40) for node in (db, other)]
        try:
            for writer in writers:
                writer.result()
        finally:
            done.set()
        sealed = sum(node.result() for node in nodes) + audit.seal(other)
    other.close()
    chain = digests(db, account_id)
    assert sealed == len(chain) == 83
    connection = db.engine.raw_connection()
    try:
        assert chain[-1] == (83, recompute(connection.driver_connection, account_id, 83))
    finally:
        connection.close()
    with db.read() as session:
        outcome = verify_ledger(session)
    assert (outcome.ok, outcome.unsealed) == (True, 0)


def test_a_chain_stops_at_a_gap_and_the_others_go_on(db: Database, account_id: str) -> None:
    """What was tampered with is not sealed as if it were whole; sealing all accounts neither hangs nor stops there."""
    with db.write() as session:
        others = [ledger.open_account(session, name).id for name in ("Bob", "Eve")]
    for other in others:
        top_up(db, other, 3)
    with db.write() as session:
        connection = session.connection()
        allow_changes(connection)
        connection.execute(text("DELETE FROM entry WHERE account_id = :ann AND seq = 2"), {"ann": account_id})
        # An account that counts entries which are not there.
        connection.execute(text("UPDATE account SET version = 99 WHERE id = :bob"), {"bob": others[0]})
    assert audit.seal(db) == 1 + 3 + 3
    assert audit.seal(db) == 0
    assert [seq for seq, _digest in digests(db, account_id)] == [1]
    with db.read() as session:
        found = {problem.account_id: (problem.code, problem.seq) for problem in verify_ledger(session).problems}
    assert found == {account_id: ("gap", 2), others[0]: ("stored_balance", 4)}


def test_heads(db: Database, account_id: str) -> None:
    """Every account with a seal has a head, its last; one without entries has none to export."""
    with db.write() as session:
        other = ledger.open_account(session, "Bob").id
    assert audit.seal(db) == 3
    chain = digests(db, account_id)
    with db.read() as session:
        assert list_heads(session) == [Head(account_id, *chain[-1])]
        assert get_head(session, other).seq == 0
        assert get_digest(session, account_id, 2) == chain[1][1]
        assert get_digest(session, account_id, 4) is None
    assert len({digest for _seq, digest in chain}) == 3


# Append-only --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE seal SET digest = 'x'",
        "UPDATE seal SET seq = seq + 100 WHERE seq = 3",
        "DELETE FROM seal",
        "DELETE FROM seal WHERE seq = 3",
        "UPDATE entry SET memo = 'x'",
        "DELETE FROM entry WHERE seq = 3",
    ],
)
def test_seals_and_entries_are_append_only(db: Database, account_id: str, statement: str) -> None:
    """The database itself refuses to change or delete them, and nothing has changed afterwards."""
    audit.seal(db)
    before = digests(db, account_id)
    with pytest.raises(DBAPIError, match="append-only"), db.write() as session:
        session.connection().execute(text(statement))
    assert digests(db, account_id) == before
    with db.read() as session:
        assert verify_ledger(session).ok


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite has no TRUNCATE
@pytest.mark.parametrize("tables", ["seal", "entry", "entry CASCADE", "account CASCADE"])
def test_truncate_is_refused(db: Database, account_id: str, tables: str) -> None:
    """PostgreSQL's short way around row triggers is closed, also through the tables that they refer to."""
    audit.seal(db)
    with pytest.raises(DBAPIError, match="append-only"), db.write() as session:
        session.connection().execute(text(f"TRUNCATE {tables}"))
    assert len(digests(db, account_id)) == 3
