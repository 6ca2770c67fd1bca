"""A real redis-server for one test, on a free loopback port, which can be killed, frozen, flushed and started again.

`VISIONMETER_TEST_REDIS_SERVER` names the program, or it is looked for on the path; without it the test is skipped.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

PROGRAM = os.environ.get("VISIONMETER_TEST_REDIS_SERVER") or shutil.which("redis-server")
PATIENCE_S = 20


class RedisServer:
    """The server's process; `url` stays the same over a restart, which loses all data."""

    def __init__(self, program: str, folder: str) -> None:
        self._program, self._folder = program, folder
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start, and wait until it answers."""
        assert self._process is None
        options = {"port": str(self.port), "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": self._folder}
        self._process = subprocess.Popen(
            [self._program, *(word for name, value in options.items() for word in (f"--{name}", value))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + PATIENCE_S
        while True:
            assert self._process.poll() is None, f"redis-server ended with {self._process.returncode}"
            try:
                with self.client() as client:
                    client.ping()
                return
            except redis.RedisError:
                assert time.monotonic() < until, "redis-server does not answer"
                time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL, also of a frozen one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill and start: empty, and it knows no script."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP: the kernel still takes connections, nobody answers. Returns when the process has stopped."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)

    def thaw(self) -> None:
        """SIGCONT: it answers what it was asked meanwhile."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def flush(self) -> None:
        """All data and all scripts are gone."""
        with self.client() as client:
            client.flushall()
            client.script_flush()

    def client(self) -> redis.Redis:
        """A patient client of the test's own."""
        return redis.Redis.from_url(self.url, socket_timeout=PATIENCE_S)


@contextmanager
def running_redis() -> Iterator[RedisServer]:
    """A started server, ended at the end; skips where there is no program."""
    if PROGRAM is None:
        pytest.skip("no redis-server: install it, or set VISIONMETER_TEST_REDIS_SERVER")
    with tempfile.TemporaryDirectory(prefix="visionmeter-redis-") as folder:
        server = RedisServer(PROGRAM, folder)
        try:
            server.start()
            yield server
        finally:
            server.kill()
