"""What the start-up `gc.freeze()` is worth: p50 and p95 of a trivial Streamlit rerun with and without it.

Starts the real server twice, with VISIONMETER_GC_FREEZE=true and =false, each with the embedded model loaded,
and drives reruns of the signed-out page over Streamlit's own websocket, in turns, so that both see the same
machine. A rerun counts from its request to `script_finished`; each waits for the one before, so the collection
that Streamlit does after every script run is in the next one's time.

    python bench/rerun_latency.py [--rounds 7] [--reruns 40]
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import ClientConnection, connect

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 180
WARM_UP_RERUNS = 10


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(folder: Path, *, gc_freeze: bool) -> Iterator[int]:
    """A server of its own on a fresh database; gives its port, stops it at the end."""
    port = free_port()
    log = folder / "server.log"
    environment = {
        **os.environ,
        "VISIONMETER_GC_FREEZE": str(gc_freeze).lower(),
        "VISIONMETER_DATA_DIR": str(folder / "data"),
        "VISIONMETER_DEVICE": "cpu",
    }
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.headless", "true"]
    command += ["--server.address", "127.0.0.1", "--server.port", str(port)]
    with log.open("wb") as output:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _is_ready(port):
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server did not start:\n{log.read_text()}")
            time.sleep(0.2)
        yield port
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/readyz", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@contextmanager
def opened_tab(port: int) -> Iterator[ClientConnection]:
    """A browser tab as the server sees it, after its first script run."""
    with connect(
        f"ws://127.0.0.1:{port}/_stcore/stream",
        origin=f"http://127.0.0.1:{port}",
        subprotocols=["streamlit"],
        max_size=None,
    ) as tab:
        rerun(tab)
        yield tab


def rerun(tab: ClientConnection) -> float:
    """One rerun; milliseconds from the request to `script_finished`."""
    message = BackMsg()
    message.rerun_script.query_string = ""
    started = time.perf_counter()
    tab.send(message.SerializeToString())
    while True:
        data = tab.recv(timeout=60)
        answer = ForwardMsg.FromString(data if isinstance(data, bytes) else data.encode())
        if answer.WhichOneof("type") == "script_finished":
            if answer.script_finished != ForwardMsg.FINISHED_SUCCESSFULLY:
                raise SystemExit("the page did not finish: the figures would mean nothing")
            return (time.perf_counter() - started) * 1000


def percentile(values: list[float], percent: int) -> float:
    """The value below which `percent` % of the values lie."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--reruns", type=int, default=40, help="reruns of each kind in a round")
    arguments = parser.parse_args()
    times: dict[str, list[list[float]]] = {"with": [], "without": []}
    with ExitStack() as stack:
        tabs = {}
        for kind in times:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="visionmeter-bench-")))
            port = stack.enter_context(served(folder, gc_freeze=kind == "with"))
            tabs[kind] = stack.enter_context(opened_tab(port))
            for _ in range(WARM_UP_RERUNS):
                rerun(tabs[kind])
        for number in range(arguments.rounds):
            for kind in sorted(times, reverse=number % 2 == 1):
                times[kind].append([rerun(tabs[kind]) for _ in range(arguments.reruns)])

    print(f"trivial rerun, {arguments.rounds} rounds of {arguments.reruns} in turns, {os.cpu_count()} cores")
    for kind, rounds in times.items():
        everything = [value for one in rounds for value in one]
        p50, p95 = percentile(everything, 50), percentile(everything, 95)
        print(f"  {kind:>7} gc.freeze()   p50 {p50:6.1f} ms   p95 {p95:6.1f} ms")
    for percent in (50, 95):
        ratios = [
            percentile(without, percent) / percentile(frozen, percent)
            for frozen, without in zip(times["with"], times["without"], strict=True)
        ]
        print(
            f"  without / with, p{percent}: {statistics.median(ratios):.1f} × "
            f"(rounds {min(ratios):.1f} to {max(ratios):.1f})"
        )


if __name__ == "__main__":
    main()
