"""A ledger with one of everything, and what an attacker with the database's own rights can do to it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, text
from sqlmodel import Session

from core.db import Database, table_of, utcnow
from core.ledger import corrections, ledger
from core.ledger.seal import Head, chain_digest, entry_columns, first_digest, get_digest, list_heads, seal_entries
from core.ledger.tables import Entry
from core.ledger.verify import PROBLEM_CODES, Verification, verify_ledger


@dataclass(frozen=True)
class History:
    """Two accounts, the heads of their chains, and earlier heads of Ann's at entries 4 and 10.

    Ann's entries: 1 top-up, 2–3 charge, 4–5 charge of less than was held, 6 refund, 7–8 release, 9–10 expiry, 11–12
    adjustments, 13–14 freeze and unfreeze, 15 a hold that is open, 16–17 charge; 18–19 a charge that is not sealed.
    Bob's: 1 top-up, 2–3 charge, 4 hold.
    """

    ann: str
    bob: str
    heads: tuple[Head, ...]
    early: tuple[Head, ...]

    SEALED = 17
    ENTRIES = 19


def write_history(db: Database) -> History:
    """Make the history through the ledger's own functions."""
    with db.write() as session:
        ann, bob = ledger.open_account(session, "Ann").id, ledger.open_account(session, "Bob").id
        ledger.post_top_up(session, ann, 100_000, source="house:vouchers", actor="ann", memo="voucher 1")
        _charge(session, ann, 1000)
        charged = _charge(session, ann, 2000, take_mt=1500)
        corrections.refund_capture(session, charged, 500, reason="blurred", actor="operator")
        ledger.release_hold(session, _hold(session, ann, 3000), actor="ann")
        long_ago = utcnow() - timedelta(hours=1)
        ledger.place_hold(session, ann, 400, charge_key="old", lease_s=60, actor="ann", at=long_ago)
        assert len(ledger.expire_holds(session, ann)) == 1
        corrections.post_adjustment(session, ann, 250, reason="kindness", actor="operator")
        corrections.post_adjustment(session, ann, -50, reason="mistake", actor="operator")
        corrections.set_frozen(session, ann, frozen=True, reason="dispute", actor="operator")
        corrections.set_frozen(session, ann, frozen=False, reason="settled", actor="operator")
        _hold(session, ann, 700)
        _charge(session, ann, 800)
        ledger.post_top_up(session, bob, 5000, source="house:vouchers", actor="bob", memo="voucher 2")
        _charge(session, bob, 600)
        _hold(session, bob, 900)
    with db.write() as session:
        assert (seal_entries(session, ann), seal_entries(session, bob)) == (History.SEALED, 4)
        early = tuple(Head(ann, seq, get_digest(session, ann, seq) or "") for seq in (4, 10))
        heads = tuple(list_heads(session))
    with db.write() as session:
        _charge(session, ann, 900)
    return History(ann, bob, heads, early)


def _hold(session: Session, account_id: str, amount_mt: int) -> str:
    return ledger.place_hold(
        session, account_id, amount_mt, charge_key=f"key {amount_mt}", lease_s=600, actor="user", memo="Größe 6×9 🙂"
    ).id


def _charge(session: Session, account_id: str, amount_mt: int, *, take_mt: int | None = None) -> str:
    hold_id = _hold(session, account_id, amount_mt)
    ledger.capture_hold(session, hold_id, take_mt or amount_mt, actor="user")
    return hold_id


class Attacker:
    """Somebody with the rights of the database's owner, inside one transaction that is rolled back in the end."""

    def __init__(self, connection: Connection, history: History) -> None:
        self.connection, self.history = connection, history
        self.is_sqlite = connection.dialect.name == "sqlite"
        allow_changes(connection)

    def run(self, statement: str, **values: Any) -> int:
        """Execute SQL in which `:ann` and `:bob` are the accounts; gives the number of rows it changed."""
        known = {"ann": self.history.ann, "bob": self.history.bob, **values}
        statement_ = text(statement)
        return self.connection.execute(statement_, {k: v for k, v in known.items() if f":{k}" in statement}).rowcount

    def change(self, statement: str, **values: Any) -> None:
        """The same, and at least one row must have changed: an attack that misses would prove nothing."""
        assert self.run(statement, **values) > 0, f"nothing changed: {statement}"

    def hold_of(self, account_id: str, seq: int) -> str:
        """The hold that an entry tells of."""
        statement = text("SELECT hold_id FROM entry WHERE account_id = :account AND seq = :seq")
        return str(self.connection.execute(statement, {"account": account_id, "seq": seq}).scalar_one())

    def shift(self, account_id: str, first_seq: int, by: int) -> None:
        """Renumber the entries from one on, past the unique key."""
        for sign in ("-", "+"):
            where = "seq >= :first" if sign == "-" else "seq < 0"
            new = "-(seq)" if sign == "-" else "-(seq) + :by"
            statement = f"UPDATE entry SET seq = {new} WHERE account_id = :account AND {where}"
            self.run(statement, account=account_id, first=first_seq, by=by)

    def insert_entry(self, account_id: str, **values: Any) -> None:
        """Insert a forged entry; what is not given is a top-up of 7,000 by nobody."""
        row = {
            "account_id": account_id,
            "kind": "top_up",
            "debit_account": "house:vouchers",
            "credit_account": f"account:{account_id}",
            "amount_mt": 7000,
            "posted_change_mt": 7000,
            "held_change_mt": 0,
            "hold_id": None,
            "actor": "nobody",
            "memo": "",
            "created_at": utcnow(),
            **values,
        }
        self.connection.execute(table_of(Entry).insert(), row)

    def balance_after(self, account_id: str, seq: int) -> tuple[int, int]:
        """Both balances after an entry."""
        statement = text("SELECT posted_after_mt, held_after_mt FROM entry WHERE account_id = :account AND seq = :seq")
        return tuple(self.connection.execute(statement, {"account": account_id, "seq": seq}).one())  # type: ignore[return-value]

    def reseal(self, account_id: str) -> None:
        """Write the whole chain anew over whatever the entries are now, as if it had always been so."""
        digest = first_digest(account_id)
        entry = table_of(Entry)
        query = entry.select().with_only_columns(*entry_columns(self.connection.dialect.name))
        rows = self.connection.execute(query.where(entry.c.account_id == account_id).order_by(entry.c.seq)).all()
        last = self.connection.execute(
            text("SELECT max(seq) FROM seal WHERE account_id = :account"), {"account": account_id}
        ).scalar_one()
        self.run("DELETE FROM seal WHERE account_id = :account", account=account_id)
        for row in rows[:last]:
            digest = chain_digest(digest, tuple(row))
            self.change(
                "INSERT INTO seal VALUES (:account, :seq, :digest)", account=account_id, seq=row[1], digest=digest
            )

    def without_foreign_keys(self) -> None:
        """Let rows refer to rows that are not there."""
        if self.is_sqlite:
            self.run("PRAGMA defer_foreign_keys = ON")
            return
        for table in ("entry", "hold", "seal"):
            names = self.connection.execute(
                text("SELECT conname FROM pg_constraint WHERE contype = 'f' AND conrelid = CAST(:name AS regclass)"),
                {"name": table},
            ).scalars()
            for name in names.all():
                self.run(f"ALTER TABLE {table} DROP CONSTRAINT {name}")

    def verify(self, account_id: str | None = None, heads: tuple[Head, ...] = ()) -> Verification:
        """What the check says of it all; every code that it gives is a known one."""
        with Session(self.connection) as session:
            outcome = verify_ledger(session, account_id, heads=heads)
        assert {problem.code for problem in outcome.problems} <= PROBLEM_CODES
        return outcome

    def first_problem(self, account_id: str | None = None, heads: tuple[Head, ...] = ()) -> tuple[str, str, int | None]:
        """Code, account and `seq` of the only account that the check names."""
        problems = self.verify(account_id, heads).problems
        assert len(problems) == 1, problems
        (problem,) = problems
        assert problem.account_id in problem.message
        return problem.code, problem.account_id, problem.seq


def allow_changes(connection: Connection) -> None:
    """Drop the triggers that keep entries and seals append-only."""
    if connection.dialect.name == "sqlite":
        for table in ("entry", "seal"):
            for action in ("update", "delete"):
                connection.execute(text(f"DROP TRIGGER {table}_no_{action}"))
        return
    for table in ("entry", "seal"):
        connection.execute(text(f"DROP TRIGGER {table}_append_only ON {table}"))
        connection.execute(text(f"DROP TRIGGER {table}_no_truncate ON {table}"))
