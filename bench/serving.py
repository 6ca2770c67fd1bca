"""A server in a process of its own, for as long as a benchmark asks it."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 300
STOP_TIMEOUT_S = 30


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def plain_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment without the settings of whoever runs the benchmark, and with these on a processor."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("VISIONMETER_")},
        "YOLO_OFFLINE": "true",
        "VISIONMETER_DEVICE": "cpu",
        "VISIONMETER_MODEL_FETCH": "false",
        **settings,
    }


@contextmanager
def running(
    command: Sequence[str], port: int, log: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """The process once it is ready on its port; stopped at the end as an operator stops it."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _is_ready(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server did not start:\n{log.read_text()}")
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/readyz", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False
