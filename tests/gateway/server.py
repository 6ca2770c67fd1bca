"""The real gateway, `uvicorn gateway.main:app`, in a process of its own on its own data folder."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from core.config import Settings
from core.services import api_keys, sign_in
from core.services.api_key_settings import KeySettings
from core.services.application import open_application
from tests.conftest import PASSWORD, place_weights

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 30
_numbers = itertools.count(1)


@dataclass
class GatewayServer:
    """A running gateway. `key` is the secret of a key that manages keys, of an account with 20 tokens."""

    url: str
    data_dir: Path
    env: dict[str, str]
    process: subprocess.Popen[bytes]
    key: str = ""

    @property
    def pid(self) -> int:
        """The process, for those who stop it with SIGSTOP or look at its files."""
        return self.process.pid

    @property
    def headers(self) -> dict[str, str]:
        """What a request with `key` sends."""
        return {"Authorization": f"Bearer {self.key}"}

    @property
    def log(self) -> str:
        """What the process has written so far."""
        return (self.data_dir / "server.log").read_text(errors="replace")

    def rss_bytes(self) -> int:
        """The memory that the process has resident now."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        """End it as an operator does, and wait."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End it as a crash does (SIGKILL)."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


@contextmanager
def gateway_server(
    folder: Path, *, host: str = "127.0.0.1", port: int = 0, instant: bool = False, **settings: Any
) -> Iterator[GatewayServer]:
    """A gateway on CPU and SQLite in `folder`; `settings` become VISIONMETER_… variables (`rate_requests_per_s=1000`).

    With `instant` its engine answers at once with five made-up boxes, as in `bench/gateway.py`: for tests of everything
    else under more load than two cores can run a model.

    A second one on the same folder (and `database_url`) goes on where the first one ended.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "data_dir": folder,
        "weights_dir": folder / "weights",
        "device": "cpu",
        "model_fetch": "false",
        "job_poll_interval_s": 0.05,
        "sweep_interval_s": 0.5,
        **settings,
    }
    env = {**os.environ, "YOLO_OFFLINE": "true", **{f"VISIONMETER_{k.upper()}": str(v) for k, v in values.items()}}
    place_weights(Path(values["weights_dir"]))
    port = port or _free_port()
    arguments = ["uvicorn", "gateway.main:app", "--host", host, "--port", str(port), "--no-access-log"]
    command = ["-m", *arguments] if not instant else ["bench/gateway_server.py", "gateway", "--port", str(port)]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=env, stdout=log, stderr=log)
    server = GatewayServer(f"http://{host}:{port}", folder, env, process)
    try:
        _wait_until_ready(server)
        server.key = make_key(server)
        yield server
    finally:
        server.stop()


def make_key(
    server: GatewayServer,
    *,
    email: str | None = None,
    tokens: Decimal | int = 20,
    **key: Any,
) -> str:
    """The secret of a new key on a new account with so many tokens; `key` are fields of `KeySettings`."""
    with _environment(server.env):
        app = open_application(Settings(_env_file=None, welcome_tokens=Decimal(tokens)))
    try:
        email = email or f"customer{next(_numbers)}.{os.getpid()}.{time.time_ns()}@example.com"
        user = sign_in.signed_in_user(app, sign_in.open_session(app, sign_in.sign_up(app, email, PASSWORD)))
        assert user is not None
        settings = replace(KeySettings("test", manages_keys=True), **key)
        return api_keys.create_key(app, user, settings).secret
    finally:
        app.close()


@contextmanager
def _environment(env: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(env)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(server: GatewayServer) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            with urllib.request.urlopen(f"{server.url}/v1/readyz", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"the gateway did not start:\n{server.log[-4000:]}")
