"""The processes that the gateway's benchmarks ask: the gateway with an engine that takes no time, and a bare endpoint.

The gateway is `gateway.main:app` under uvicorn, whole and unchanged but for `Engine.submit` and `warm`: it answers at
once with the same five detections in the input shape that the picture has, and no model is loaded or run. Beside it, at
`/bench`, it says how many SQL statements and commits it has made. The bare endpoint, in the same kind of process, reads
the same form, decodes the same picture in a thread and answers with JSON of the same size.

    python bench/gateway_server.py gateway|bare --port PORT [--model]

`--model` leaves the real engine in place. Settings come from the environment, as ever.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402  # the path comes first

from bench.serving import free_port, plain_environment, running  # noqa: E402  # the path comes first

# What the real model answers to a photograph of a street has about this length.
ANSWER_BYTES = 1500
NAMES = {0: "Normal", 1: "Fall"}


class ServerProcess:
    """A running server: its port, its log, and what it has used."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.port = port
        self.log = log
        self.popen = process
        self.process = psutil.Process(process.pid)

    def cpu_s(self) -> float:
        """Seconds of CPU that it has used so far, in the program and in the kernel for it."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def counts(self) -> Counter[str]:
        """SQL statements and commits of a gateway so far."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/bench", timeout=10) as answer:
            return Counter(json.load(answer))


@contextmanager
def started(
    kind: str, folder: Path, settings: Mapping[str, str] | None = None, *, model: bool = False
) -> Iterator[ServerProcess]:
    """A server of its own with settings (`VISIONMETER_…`), stopped at the end as an operator stops it."""
    port, log = free_port(), folder / f"{kind}.log"
    command = [
        sys.executable,
        str(Path(__file__).resolve()),
        kind,
        "--port",
        str(port),
        *(["--model"] if model else []),
    ]
    with running(command, port, log, plain_environment(settings or {})) as process:
        yield ServerProcess(process, port, log)


# In the process of the server -----------------------------------------------------------------------


def install_instant_engine() -> None:
    """Let every engine answer at once: five detections, in the input shape that the picture has."""
    import numpy as np

    from core.geometry import network_input
    from core.inference.detections import Detections
    from core.inference.engine import Engine
    from core.inference.images import Pixels
    from core.inference.pipeline import DetectParams
    from core.inference.registry import ModelVersion
    from core.inference.scheduler import Inference

    corners = np.array([(10, 20, 110, 220), (30, 40, 330, 240), (5, 5, 90, 45), (7, 8, 70, 80), (1, 2, 30, 40)])
    detections = Detections(
        corners.astype(np.float32),
        np.array([0.91, 0.84, 0.71, 0.52, 0.31], np.float32),
        np.array([0, 0, 1, 0, 1], np.int64),
        NAMES,
    )

    def submit(
        _engine: Engine, pixels: Pixels, _version: ModelVersion, params: DetectParams, **_options: object
    ) -> Future[Inference]:
        shape = network_input(pixels.shape[0], pixels.shape[1], params.img_size)
        future: Future[Inference] = Future()
        future.set_result(Inference(detections, (shape.height, shape.width), wait_ms=0.0, model_ms=0.0))
        return future

    def warm(_engine: Engine, _version: ModelVersion) -> None:
        """Nothing is loaded."""

    Engine.submit = submit  # type: ignore[method-assign]  # the one part that is not the gateway's own
    Engine.warm = warm  # type: ignore[method-assign]  # else it would load a model


def counting_app() -> Any:
    """The gateway, and `/bench` beside it."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine as SqlEngine
    from starlette.responses import JSONResponse

    from gateway.main import app

    counts: Counter[str] = Counter(statements=0, commits=0)
    mutex = threading.Lock()

    def count(name: str) -> Any:
        def add(*_arguments: Any) -> None:
            with mutex:
                counts[name] += 1

        return add

    event.listen(SqlEngine, "before_cursor_execute", count("statements"))
    event.listen(SqlEngine, "commit", count("commits"))

    async def with_counts(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/bench":
            await JSONResponse(dict(counts))(scope, receive, send)
            return
        await app(scope, receive, send)

    return with_counts


def bare_app() -> Any:
    """One route that reads a form, decodes its picture and answers with so many bytes of JSON."""
    from PIL import Image
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    def decode(data: bytes) -> tuple[int, int]:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB").size

    async def look(request: Request) -> JSONResponse:
        async with request.form() as form:
            data = await form["file"].read()  # type: ignore[union-attr]  # the benchmark sends a file
        size = await run_in_threadpool(decode, data)
        return JSONResponse({"size": size, "filling": "x" * ANSWER_BYTES})

    async def ready(_request: Request) -> JSONResponse:
        return JSONResponse({"status": "ready"})

    return Starlette(routes=[Route("/v1/detect", look, methods=["POST"]), Route("/v1/readyz", ready)])


def main() -> None:
    """Serve until told to stop."""
    import uvicorn

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("kind", choices=("gateway", "bare"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", action="store_true")
    arguments = parser.parse_args()
    if arguments.kind == "bare":
        app = bare_app()
    else:
        if not arguments.model:
            install_instant_engine()
        app = counting_app()
    uvicorn.run(app, host="127.0.0.1", port=arguments.port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
