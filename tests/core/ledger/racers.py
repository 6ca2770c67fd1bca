"""Clients in several processes that strike at the same moment, round after round."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, Protocol

from core.db import Database

PATIENCE_S = 120


class Barrier(Protocol):
    """Where all clients of a race wait for one another; of threads or of processes."""

    def wait(self, timeout: float | None = None) -> int: ...
    def abort(self) -> None: ...


# Gets the database, the client's number and the barrier; its answer must be picklable.
Client = Callable[..., Any]


class Racers:
    """`processes` with `threads` clients each. They live over many rounds, so that imports are paid for once."""

    def __init__(self, url: str, *, processes: int, threads: int) -> None:
        from tests.core.ledger.processes import context

        self.clients = processes * threads
        # Kept: with the last reference here its semaphores would go, before the processes have opened them.
        self._start = context.Barrier(self.clients, timeout=PATIENCE_S)
        self._pipes: list[Connection] = []
        self._processes = []
        for number in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(url, theirs, self._start, number * threads, threads), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def race(self, client: Client, *arguments: Any) -> list[Any]:
        """What `client(db, number, start, *arguments)` gave in each client, in their order."""
        for pipe in self._pipes:
            pipe.send((client, arguments))
        answers, failures = [], []
        for pipe in self._pipes:
            assert pipe.poll(PATIENCE_S), "a racing process does not answer"
            gave, failure = pipe.recv()
            answers += gave
            failures += [failure] * bool(failure)
        assert not failures, "\n".join(failures)
        return answers

    def close(self) -> None:
        """Let the processes end."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(10)
            process.kill()  # only one that hangs is left by now


def _serve(url: str, pipe: Connection, start: Barrier, first: int, threads: int) -> None:
    """The life of a process: a race after the other until the pipe is closed."""
    db = Database(url)
    with ThreadPoolExecutor(threads) as pool:
        while True:
            try:
                client, arguments = pipe.recv()
            except EOFError:
                break

            def run(number: int, client: Client = client, arguments: tuple[Any, ...] = arguments) -> Any:
                try:
                    return client(db, number, start, *arguments)
                except threading.BrokenBarrierError:
                    raise
                except BaseException:
                    start.abort()  # nobody waits for a client that failed
                    raise

            try:
                pipe.send((list(pool.map(run, range(first, first + threads))), None))
            except Exception:
                pipe.send(([], traceback.format_exc()))
    db.close()
