"""The one writer that a process has on a SQLite database: transactions in turn, one commit for all that wait.

A transaction runs in its caller's thread, as ever. When it is done and another one waits, the turn is handed on
and both are committed together, so that sixteen threads share one `fsync` instead of queueing for sixteen. Each
transaction after the first of a group stands in a SAVEPOINT: one that fails takes nobody along. Nobody is told
that his transaction succeeded before the commit of his group did.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session

try:
    import fcntl
except ImportError:  # Windows: SQLite's own lock does, processes just poll it
    fcntl = None  # type: ignore[assignment]

GROUP_MEMBERS_MAX = 128


class GroupCommitError(SQLAlchemyError):
    """The commit that this transaction was part of failed; nothing of it is stored."""


class _Group:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.members = 0
        self.error: BaseException | None = None
        self.done = threading.Event()


class GroupWriter:
    """Serialises the write transactions of this process, first come, first served.

    Between processes two file locks beside the database hand the turn on: SQLite's own is polled with growing
    pauses, so that a busy process could keep another one waiting until its time-out. Who waits for the turn holds
    the queue meanwhile, so whoever just had the turn cannot be quicker than he is.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._mutex = threading.Lock()
        self._busy = False
        self._waiting: deque[threading.Event] = deque()
        self._group: _Group | None = None
        self._queue_file: IO[bytes] | None = None
        self._turn_file: IO[bytes] | None = None
        database = engine.url.database
        self._shared = Path(database) if database and database != ":memory:" and fcntl else None

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A transaction that is committed when the block has ended and this call returns."""
        self._await_turn()
        group = None
        try:
            group = self._join_group()
            with self._member_session(group) as session:
                yield session
            group.members += 1
        finally:
            # Also after a failure: those of the group who are done wait for their commit.
            led = self._leave(group)
        if not led and group is not None:
            group.done.wait()
        if group is not None and group.error is not None:
            raise GroupCommitError("The changes could not be stored: try again.") from group.error

    def close(self) -> None:
        """Close the files of the queue and the turn."""
        for file in (self._queue_file, self._turn_file):
            if file is not None:
                file.close()
        self._queue_file = self._turn_file = None

    def _await_turn(self) -> None:
        with self._mutex:
            if not self._busy:
                self._busy = True
                return
            turn = threading.Event()
            self._waiting.append(turn)
        try:
            turn.wait()
        except BaseException:
            # Ctrl-C: whoever leaves the queue must not take the turn along.
            with self._mutex:
                if not turn.is_set():
                    self._waiting.remove(turn)
                    raise
            self._leave(self._group)
            raise

    def _pass_turn_on(self) -> None:
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._busy = False

    def _join_group(self) -> _Group:
        if self._group is None:
            self._take_process_turn()
            try:
                connection = self._engine.connect().execution_options(vm_write=True)
                try:
                    connection.begin()
                except BaseException:
                    connection.close()
                    raise
            except BaseException:
                self._give_process_turn()
                raise
            self._group = _Group(connection)
        return self._group

    @contextmanager
    def _member_session(self, group: _Group) -> Iterator[Session]:
        # The first of a group needs no savepoint: if it fails there is nothing else to keep.
        mode = "create_savepoint" if group.members else "rollback_only"
        with (
            Session(group.connection, expire_on_commit=False, join_transaction_mode=mode) as session,  # type: ignore[arg-type]  # a literal of two
            session.begin(),
        ):
            yield session

    def _leave(self, group: _Group | None) -> bool:
        """Commit the group, or hand the turn on to the next of it; whether this thread ended the group."""
        if group is None:
            self._pass_turn_on()
            return True
        alive = group.connection.in_transaction() and _is_open(group.connection)
        if alive and group.members:
            with self._mutex:
                if self._waiting and group.members < GROUP_MEMBERS_MAX:
                    self._waiting.popleft().set()
                    return False
        self._end(group, alive=alive)
        return True

    def _end(self, group: _Group, *, alive: bool) -> None:
        self._group = None
        try:
            if alive and group.members:
                group.connection.commit()
            elif group.members:
                # SQLite gave the whole transaction up (a full disk, say), not only one statement.
                group.error = RuntimeError("the transaction of the group was rolled back")
            elif alive:
                group.connection.rollback()
        except BaseException as error:
            group.error = error
            # A COMMIT that failed may leave the transaction open: this connection is not used again.
            group.connection.invalidate()
            if not isinstance(error, Exception):
                raise
        finally:
            try:
                group.connection.close()
            finally:
                self._give_process_turn()
                group.done.set()
                self._pass_turn_on()

    def _take_process_turn(self) -> None:
        if self._shared is None:
            return
        if self._queue_file is None or self._turn_file is None:
            self._queue_file = Path(f"{self._shared}.queue").open("ab")  # noqa: SIM115  # kept open; `close` closes it
            self._turn_file = Path(f"{self._shared}.turn").open("ab")  # noqa: SIM115  # the same
        fcntl.flock(self._queue_file, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._turn_file, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._queue_file, fcntl.LOCK_UN)

    def _give_process_turn(self) -> None:
        if self._turn_file is not None:
            fcntl.flock(self._turn_file, fcntl.LOCK_UN)


def _is_open(connection: Connection) -> bool:
    """Whether SQLite itself still has the transaction open.

    It ends one by itself after some errors, and SQLAlchemy gives a connection up when a `BaseException` strikes in
    the middle of a statement.
    """
    if connection.invalidated:
        return False
    driver = connection.connection.dbapi_connection
    return bool(driver is not None and driver.in_transaction)
