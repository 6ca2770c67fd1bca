"""Traffic in a process of its own, to be killed in the middle, that writes down what it asks and what it is answered.

An operation is one transaction with an idempotency key, as in the services. It stands in the journal before it
begins, and its answer only after the commit returned: so the journal knows what a customer was promised.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session

from core.db import Database, utcnow
from core.errors import VisionMeterError
from core.ledger import corrections, ledger, seal
from core.ledger.idempotency import begin_idempotent, complete_idempotent

LEASE_S = 1
SWEEP_INTERVAL_S = 0.1
RETRY_PAUSE_S = 0.02
# Between an answer that comes too early and its commit, in the negative control.
HASTY_PAUSE_S = 0.005
BATCH = 3
# One hold in so many is forgotten by its client, and found by the sweeper.
FORGOTTEN = 8
WEIGHTS = {"top_up": 3, "hold": 5, "batch": 2, "capture": 5, "release": 2, "refund": 2, "adjustment": 1}


# Operations ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Operation:
    """What is asked under one key. Its entries carry the key as their memo; `hold_id` is the hold to end or refund."""

    key: str
    kind: str
    account_id: str
    amount_mt: int
    hold_id: str = ""

    @property
    def entries(self) -> int:
        """How many entries it makes, no matter how often it is asked."""
        return BATCH if self.kind == "batch" else 1


def perform(
    db: Database, operation: Operation, *, promise: Callable[[dict[str, Any]], None] | None = None
) -> tuple[dict[str, Any], bool]:
    """The answer, and whether it was stored before; in one transaction, as the services do it.

    `promise` is what must not be done: it hears the answer before the commit.
    """
    with db.write() as session:
        answer = begin_idempotent(session, operation.account_id, operation.kind, operation.key, asdict(operation))
        if answer is not None:
            return answer, True
        answer = _EFFECTS[operation.kind](session, operation)
        complete_idempotent(session, operation.account_id, operation.kind, operation.key, answer)
        if promise is not None:
            promise(answer)
            time.sleep(HASTY_PAUSE_S)
    return answer, False


def _top_up(session: Session, asked: Operation) -> dict[str, Any]:
    entry = ledger.post_top_up(
        session, asked.account_id, asked.amount_mt, source="house:test", actor="test", memo=asked.key
    )
    return {"seq": entry.seq}


def _hold(session: Session, asked: Operation) -> dict[str, Any]:
    holds = [
        ledger.place_hold(
            session,
            asked.account_id,
            asked.amount_mt,
            charge_key=f"{asked.key} {number}",
            lease_s=LEASE_S,
            actor="test",
            memo=asked.key,
        )
        for number in range(asked.entries)
    ]
    return {"hold_ids": [hold.id for hold in holds]}


def _capture(session: Session, asked: Operation) -> dict[str, Any]:
    return {"seq": ledger.capture_hold(session, asked.hold_id, asked.amount_mt, actor="test", memo=asked.key).seq}


def _release(session: Session, asked: Operation) -> dict[str, Any]:
    return {"seq": ledger.release_hold(session, asked.hold_id, actor="test", memo=asked.key).seq}


def _refund(session: Session, asked: Operation) -> dict[str, Any]:
    entry = corrections.refund_capture(session, asked.hold_id, asked.amount_mt, reason=asked.key, actor="test")
    return {"seq": entry.seq}


def _adjust(session: Session, asked: Operation) -> dict[str, Any]:
    entry = corrections.post_adjustment(session, asked.account_id, -asked.amount_mt, reason=asked.key, actor="test")
    return {"seq": entry.seq}


_EFFECTS: Mapping[str, Callable[[Session, Operation], dict[str, Any]]] = {
    "top_up": _top_up,
    "hold": _hold,
    "batch": _hold,
    "capture": _capture,
    "release": _release,
    "refund": _refund,
    "adjustment": _adjust,
}


def sweep(db: Database) -> None:
    """Give back what is due, account by account, as the keeper of the services does."""
    now = utcnow()
    with db.read() as session:
        due = ledger.due_accounts(session, now)
    for account_id in due:
        with db.write() as session:
            ledger.expire_holds(session, account_id, now=now)


# The journal --------------------------------------------------------------------------------------


@dataclass
class Record:
    """What journals say, by key: what was asked, answered, refused.

    `failures` are what a client hears when the database is away; `crashes` are what nobody expects.
    """

    asked: dict[str, Operation] = field(default_factory=dict)
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    # Keys whose answer had been stored by an attempt that was not told so.
    repeated: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)

    def add(self, other: Record) -> None:
        """Take in another journal's."""
        self.asked |= other.asked
        self.answers |= other.answers
        self.refused |= other.refused
        self.repeated |= other.repeated
        self.failures += other.failures
        self.crashes += other.crashes

    @property
    def in_hand(self) -> list[Operation]:
        """What was asked and neither answered nor refused."""
        return [asked for key, asked in self.asked.items() if key not in self.answers and key not in self.refused]


class Journal:
    """A file of lines of JSON. A line is one `write`: it outlives the process that wrote it, whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)

    def note(self, what: str, **facts: Any) -> None:
        """Write a line."""
        os.write(self._descriptor, (json.dumps({"what": what, **facts}) + "\n").encode())

    def count_answers(self) -> int:
        """How many operations were answered so far."""
        return self.path.read_bytes().count(b'{"what": "answer"')

    def read(self) -> Record:
        """Everything so far."""
        record = Record()
        for line in self.path.read_bytes().decode().split("\n")[:-1]:
            facts = json.loads(line)
            match facts.pop("what"):
                case "ask":
                    record.asked[facts["key"]] = Operation(**facts)
                case "answer":
                    record.answers[facts["key"]] = facts["answer"]
                    record.repeated |= {facts["key"]} if facts["repeated"] else set()
                case "refusal":
                    record.refused[facts["key"]] = facts["code"]
                case "failure":
                    record.failures.append(facts["error"])
                case "crash":
                    record.crashes.append(facts["error"])
        return record

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


# The process --------------------------------------------------------------------------------------


class _Traffic:
    def __init__(self, url: str, journal: Path, account_ids: list[str], name: str, seed: int, *, hasty: bool) -> None:
        self.db = Database(url)
        self.journal = Journal(journal)
        self.stopping = threading.Event()
        self._account_ids, self._name, self._seed, self._hasty = account_ids, name, seed, hasty
        # Holds that a client will still end; their leases are renewed.
        self._mine: dict[str, Operation] = {}

    def live(self, work: Callable[[], None]) -> None:
        """Work, and leave a note if that ends by an error."""
        try:
            work()
        except BaseException:
            self.journal.note("crash", error=traceback.format_exc())
            raise

    def client(self, number: int) -> None:
        """One operation after the other, each asked until there is an answer."""
        draw = random.Random(self._seed * 100 + number)
        mine: list[str] = []
        charges: list[Operation] = []
        for index in count():
            if self.stopping.is_set():
                return
            asked = self._choose(draw, f"{self._name} {number}-{index}", mine, charges)
            self.journal.note("ask", **asdict(asked))
            answer = self._ask(asked)
            if answer is None:
                continue
            if asked.kind == "capture":
                charges.append(asked)
            for hold_id in answer.get("hold_ids", ()):
                if draw.randrange(FORGOTTEN):
                    self._mine[hold_id] = asked
                    mine.append(hold_id)

    def _choose(self, draw: random.Random, key: str, mine: list[str], charges: list[Operation]) -> Operation:
        (kind,) = draw.choices(list(WEIGHTS), list(WEIGHTS.values()))
        if (kind in ("capture", "release") and not mine) or (kind == "refund" and not charges):
            kind = "hold"
        amount_mt = draw.randint(10, 500)
        if kind in ("capture", "release"):
            hold_id = mine.pop(draw.randrange(len(mine)))
            held = self._mine.pop(hold_id)
            return Operation(key, kind, held.account_id, draw.randint(1, held.amount_mt), hold_id)
        if kind == "refund":
            charge = draw.choice(charges)
            return Operation(key, kind, charge.account_id, draw.randint(1, charge.amount_mt), charge.hold_id)
        return Operation(key, kind, draw.choice(self._account_ids), amount_mt)

    def _ask(self, asked: Operation) -> dict[str, Any] | None:
        note_answer = partial(self.journal.note, "answer", key=asked.key)
        promise = (lambda answer: note_answer(answer=answer, repeated=False)) if self._hasty else None
        while True:
            try:
                answer, repeated = perform(self.db, asked, promise=promise)
            except VisionMeterError as refusal:
                self.journal.note("refusal", key=asked.key, code=refusal.code)
                return None
            except SQLAlchemyError as error:
                # Nobody was told anything: the database is away, or its answer was lost.
                self.journal.note("failure", error=f"{asked.key}: {error!r}"[:500])
                time.sleep(RETRY_PAUSE_S)
            else:
                note_answer(answer=answer, repeated=repeated)
                return answer

    def keep(self) -> None:
        """Renew leases, sweep, and seal, as the keeper of the services does."""
        while not self.stopping.wait(SWEEP_INTERVAL_S):
            try:
                with self.db.write() as session:
                    ledger.renew_holds(session, list(self._mine), lease_s=LEASE_S)
                sweep(self.db)
                with self.db.read() as session:
                    unsealed = seal.unsealed_accounts(session)
                for account_id in unsealed:
                    with self.db.write() as session:
                        seal.seal_entries(session, account_id)
            except SQLAlchemyError as error:
                self.journal.note("failure", error=f"keeper: {error!r}"[:500])


def serve(
    url: str, journal: Path, account_ids: list[str], name: str, seed: int, clients: int, until: Connection, hasty: bool
) -> None:
    """The life of the process: until it is killed, or somebody closes the other end of `until`.

    `hasty` clients are answered before the commit, which is what must not be done.
    """
    traffic = _Traffic(url, journal, account_ids, name, seed, hasty=hasty)
    works = [*(partial(traffic.client, number) for number in range(clients)), traffic.keep]
    threads = [threading.Thread(target=traffic.live, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    until.poll(None)
    traffic.stopping.set()
    for thread in threads:
        thread.join()
    traffic.db.close()
