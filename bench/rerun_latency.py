"""What it is worth to collect garbage seldom: p50 and p95 of a trivial Streamlit rerun in three ways.

As shipped, no full collection follows a script run (`runner.postScriptGC` in `.streamlit/config.toml`), and what was
loaded at start is out of the collector's sight. Beside it the same with Streamlit's collection after every run, and
that without `gc.freeze()` (`VISIONMETER_GC_FREEZE`), which is Streamlit as it comes.

Starts the real server three times, each with the embedded model loaded, and drives reruns of the signed-out page over
Streamlit's own websocket, in turns, so that all see the same machine. A rerun counts from its request to
`script_finished`; each waits for the one before, so a collection after a script run is in the next one's time.

    python bench/rerun_latency.py [--rounds 7] [--reruns 40]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import ClientConnection, connect

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.serving import free_port, running  # the path comes first

WARM_UP_RERUNS = 10
SHIPPED = "as shipped"
KINDS = {
    SHIPPED: {},
    "collecting": {"STREAMLIT_RUNNER_POST_SCRIPT_GC": "true"},
    "and nothing frozen": {"STREAMLIT_RUNNER_POST_SCRIPT_GC": "true", "VISIONMETER_GC_FREEZE": "false"},
}


@contextmanager
def served(folder: Path, changes: Mapping[str, str]) -> Iterator[int]:
    """A server of its own on a fresh database; gives its port, stops it at the end."""
    port = free_port()
    environment = {
        **os.environ,
        **changes,
        "VISIONMETER_DATA_DIR": str(folder / "data"),
        "VISIONMETER_DEVICE": "cpu",
    }
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.headless", "true"]
    command += ["--server.address", "127.0.0.1", "--server.port", str(port)]
    with running(command, port, folder / "server.log", environment):
        yield port


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
    """The value below which `percent` % of the values lie; of none it is no number."""
    if len(values) < 2:
        return values[0] if values else float("nan")
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--reruns", type=int, default=40, help="reruns of each kind in a round")
    arguments = parser.parse_args()
    times: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    with ExitStack() as stack:
        tabs = {}
        for kind in times:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="visionmeter-bench-")))
            port = stack.enter_context(served(folder, KINDS[kind]))
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
        print(f"  {kind:18}   p50 {p50:6.1f} ms   p95 {p95:6.1f} ms", end="")
        for percent in (50, 95) if kind != SHIPPED else ():
            ratios = [
                percentile(other, percent) / percentile(shipped, percent)
                for shipped, other in zip(times[SHIPPED], rounds, strict=True)
            ]
            print(
                f"   p{percent} {statistics.median(ratios):.1f} (rounds {min(ratios):.1f} to {max(ratios):.1f})", end=""
            )
        print(" × as shipped" if kind != SHIPPED else "")


if __name__ == "__main__":
    main()
