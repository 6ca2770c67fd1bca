"""What one client does in a race (`racers`): as the services do it, and naively.

Every function gets the database, the client's number and the barrier before its own arguments. The naive ones look
first and then write what they decided; their pause stands for whatever a program does in between.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from sqlalchemy import text
from sqlmodel import Session, col, select

from core.db import Database, new_id, utcnow
from core.errors import ChargeKeyTakenError, HoldEndedError, IdempotencyConflictError, InsufficientTokensError
from core.ledger import corrections, ledger
from core.ledger.idempotency import begin_idempotent, complete_idempotent
from core.ledger.tables import Entry, Hold
from tests.core.ledger.racers import Barrier

PRICE_MT = 1000
NAIVE_PAUSE_S = 0.002
# The longest head start in a race of three ends, so that each of them wins some.
HEAD_START_S = 0.003
ENDS = ("capture", "release", "expire")
CONFLICT = "conflict"


# Spending -----------------------------------------------------------------------------------------


def spend(db: Database, number: int, start: Barrier, account_id: str, attempts: int) -> int:
    """Hold and capture, as a run does; how many succeeded."""
    start.wait()
    return sum(_spend(db, account_id, f"{number}-{index}") for index in range(attempts))


def _spend(db: Database, account_id: str, key: str) -> bool:
    try:
        with db.write() as session:
            hold = ledger.place_hold(session, account_id, PRICE_MT, charge_key=key, lease_s=60, actor="test")
    except InsufficientTokensError:
        return False
    with db.write() as session:
        ledger.capture_hold(session, hold.id, PRICE_MT, actor="test")
    return True


def spend_naively(db: Database, number: int, start: Barrier, account_id: str, attempts: int) -> int:
    """What must not be done: read the balance, decide, then write the difference."""
    start.wait()
    return sum(_spend_naively(db, account_id) for _ in range(attempts))


def _spend_naively(db: Database, account_id: str) -> bool:
    with db.read() as session:
        posted_mt = ledger.get_balance(session, account_id).posted_mt
    if posted_mt < PRICE_MT:
        return False
    time.sleep(NAIVE_PAUSE_S)
    with db.write() as session:
        session.connection().execute(
            text("UPDATE account SET posted_mt = :left WHERE id = :id"),
            {"left": posted_mt - PRICE_MT, "id": account_id},
        )
    return True


# The same work ------------------------------------------------------------------------------------


def hold_same_work(db: Database, number: int, start: Barrier, account_id: str, keys: Sequence[str]) -> int:
    """Hold each charge key, at the same moment as everybody else; how many holds were placed."""
    placed = 0
    for key in keys:
        start.wait()
        try:
            with db.write() as session:
                ledger.place_hold(session, account_id, PRICE_MT, charge_key=key, lease_s=60, actor="test")
        except ChargeKeyTakenError:
            continue
        placed += 1
    return placed


def hold_same_work_naively(db: Database, number: int, start: Barrier, account_id: str, keys: Sequence[str]) -> int:
    """What must not be done: look whether somebody holds the work, then hold it without the key that is unique."""
    placed = 0
    for key in keys:
        start.wait()
        with db.read() as session:
            taken = session.exec(
                select(Hold.id).where(Hold.account_id == account_id, col(Hold.charge_key).startswith(key))
            )
            if taken.first() is not None:
                continue
        time.sleep(NAIVE_PAUSE_S)
        with db.write() as session:
            ledger.place_hold(
                session, account_id, PRICE_MT, charge_key=f"{key} {new_id('own')}", lease_s=60, actor="test"
            )
        placed += 1
    return placed


# One idempotency key ------------------------------------------------------------------------------


def top_up(session: Session, account_id: str, _hold_id: str, amount_mt: int, memo: str) -> Entry:
    """As a voucher is credited."""
    return ledger.post_top_up(session, account_id, amount_mt, source="house:test", actor="test", memo=memo)


def hold(session: Session, account_id: str, _hold_id: str, amount_mt: int, memo: str) -> Entry:
    """As a run begins. The charge key is fresh, so that the idempotency key alone stands against a second one."""
    placed = ledger.place_hold(
        session, account_id, amount_mt, charge_key=new_id("work"), lease_s=60, actor="test", memo=memo
    )
    return session.exec(select(Entry).where(Entry.hold_id == placed.id)).one()


def refund(session: Session, _account_id: str, hold_id: str, amount_mt: int, memo: str) -> Entry:
    """As an operator gives some of a charge back."""
    return corrections.refund_capture(session, hold_id, amount_mt, reason=memo, actor="test")


OPERATIONS: dict[str, Callable[[Session, str, str, int, str], Entry]] = {
    "top_up": top_up,
    "hold": hold,
    "refund": refund,
}


def asks_otherwise(race: int, number: int) -> bool:
    """In every second race every fourth client asks for another amount under the same key."""
    return race % 2 == 1 and number % 4 == 0


def ask_with_same_keys(
    db: Database, number: int, start: Barrier, account_id: str, hold_id: str, asked: Sequence[tuple[str, str]]
) -> list[int | str]:
    """Ask each (operation, key) at the same moment as everybody else; the `seq` in each answer, or `conflict`."""
    answers: list[int | str] = []
    for race, (operation, key) in enumerate(asked):
        amount_mt = 2 if asks_otherwise(race, number) else 1
        start.wait()
        try:
            with db.write() as session:
                answer = begin_idempotent(session, account_id, operation, key, {"amount_mt": amount_mt})
                if answer is None:
                    entry = OPERATIONS[operation](session, account_id, hold_id, amount_mt, key)
                    answer = {"seq": entry.seq}
                    complete_idempotent(session, account_id, operation, key, answer)
            answers.append(answer["seq"])
        except IdempotencyConflictError:
            answers.append(CONFLICT)
    return answers


def ask_naively(db: Database, number: int, start: Barrier, account_id: str, keys: Sequence[str]) -> None:
    """What must not be done: look whether the key was there before, then act, with no row that is unique."""
    for key in keys:
        start.wait()
        with db.read() as session:
            if session.exec(select(Entry.seq).where(Entry.account_id == account_id, Entry.memo == key)).first():
                continue
        time.sleep(NAIVE_PAUSE_S)
        with db.write() as session:
            top_up(session, account_id, "", 1, key)


# The end of a hold --------------------------------------------------------------------------------


def end_holds(db: Database, number: int, start: Barrier, holds: Sequence[tuple[str, str]], seed: int) -> list[bool]:
    """End each (account, hold) in this client's own way, `ENDS[number % 3]`; whether it was this client who did."""
    kind = ENDS[number % len(ENDS)]
    draw = random.Random(seed * 1000 + number)
    won = []
    for account_id, hold_id in holds:
        start.wait()
        time.sleep(draw.random() * HEAD_START_S)
        try:
            with db.write() as session:
                if kind == "capture":
                    ledger.capture_hold(session, hold_id, PRICE_MT, actor="test")
                    won.append(True)
                elif kind == "release":
                    ledger.release_hold(session, hold_id, actor="test")
                    won.append(True)
                else:
                    won.append(bool(ledger.expire_holds(session, account_id, now=utcnow())))
        except HoldEndedError:
            won.append(False)
    return won
