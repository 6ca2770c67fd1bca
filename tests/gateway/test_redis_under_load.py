"""Redis frozen, killed, flushed and started again under a loaded gateway: no decision about money changes."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from sqlalchemy import text

from core.db import Database
from core.services import audit
from tests.gateway.hostile_images import png
from tests.gateway.server import GatewayServer, gateway_server, make_key
from tests.redis_server import RedisServer, running_redis

pytestmark = pytest.mark.alone

SEED = 20_261_124
THREADS = 8
# The account can pay for so many of the pictures that are sent; each costs 0.250 at 320 pixels.
PAID, SENT = 120, 200
PRICE_MT = 250
# What the issue asks, and what a shared machine may add to a single call.
FIRST_MS_MAX, NOISE_MS = 60, 60
LATER_MS_MAX = 1.0


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A Redis of the test's own."""
    with running_redis() as running:
        yield running


def test_nothing_is_decided_otherwise(redis_server: RedisServer, tmp_path: Path) -> None:
    """While Redis is frozen, thawed, flushed, killed and restarted, exactly what can be paid is paid, each once."""
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when the test fails
    draw = random.Random(SEED)
    settings = {"redis_url": redis_server.url, "rate_requests_per_s": 10_000, "rate_images_per_minute": 100_000}
    with gateway_server(tmp_path / "data", instant=True, **settings) as server:
        secret = make_key(server, tokens=PAID * PRICE_MT // 1000)
        over = threading.Event()
        harm = threading.Thread(target=_harm, args=(redis_server, over, random.Random(SEED)))
        harm.start()
        try:
            pictures = [png(_noise(draw)) for _ in range(SENT)]
            with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {secret}"}, timeout=60) as client:

                def send(picture: bytes) -> int:
                    answer = client.post(
                        "/v1/detect?img_size=320", content=picture, headers={"Content-Type": "image/png"}
                    )
                    return answer.status_code

                with ThreadPoolExecutor(THREADS) as pool:
                    statuses = Counter(pool.map(send, pictures))
                    # Once more: what was paid is free, and what was not still cannot be.
                    again = Counter(pool.map(send, pictures))
        finally:
            over.set()
            harm.join()
        assert statuses == again == {200: PAID, 402: SENT - PAID}
        _require_books(server)
        metrics = httpx.get(f"{server.url}/v1/metrics").text
        fallbacks = next(line for line in metrics.splitlines() if line.startswith("visionmeter_redis_fallbacks"))
        assert float(fallbacks.split()[-1]) > 0, "Redis was never missed, so nothing was shown"
        log = server.log
    assert log.count("Redis does not answer") >= 1
    assert log.count("Redis does not answer") < 20, "it says so once each time, not at each request"
    assert "Traceback" not in log


def test_who_waits_for_a_frozen_redis(redis_server: RedisServer, tmp_path: Path) -> None:
    """The first request after it froze takes some 50 ms more, and the later ones no more than with a Redis."""
    settings = {"redis_url": redis_server.url, "rate_requests_per_s": 10_000}
    with (
        gateway_server(tmp_path / "data", instant=True, **settings) as server,
        httpx.Client(base_url=server.url, headers=server.headers, timeout=60) as client,
    ):

        def ask() -> float:
            began = time.perf_counter()
            assert client.get("/v1/balance").status_code == 200
            return (time.perf_counter() - began) * 1000

        for _ in range(50):
            ask()
        healthy = [ask() for _ in range(200)]
        firsts: list[float] = []
        later: list[float] = []
        # Up to three times: a single call may wait for something else on a shared machine.
        while len(firsts) < 3 and (not firsts or min(firsts) > FIRST_MS_MAX + NOISE_MS):
            _wait_until_asked(server)
            redis_server.freeze()
            firsts.append(ask())
            later += [ask() for _ in range(200)]
            redis_server.thaw()
    usual, first = statistics.median(healthy), min(firsts)
    extra = statistics.median(later) - usual
    print(f"usual {usual:.2f} ms, first {first:.1f} ms, later {extra:+.2f} ms")  # noqa: T201  # figures
    assert 40 < first < usual + FIRST_MS_MAX + NOISE_MS
    assert extra < LATER_MS_MAX


def _wait_until_asked(server: GatewayServer) -> None:
    """Until the gateway asks Redis again."""
    until = time.monotonic() + 30
    while "visionmeter_redis_up 1.0" not in httpx.get(f"{server.url}/v1/metrics").text:
        assert time.monotonic() < until, "Redis is back and not asked"
        time.sleep(0.1)


def _noise(draw: random.Random) -> np.ndarray:
    return np.frombuffer(draw.randbytes(64 * 64 * 3), np.uint8).reshape(64, 64, 3)


def _harm(redis_server: RedisServer, over: threading.Event, draw: random.Random) -> None:
    """One thing after another happens to Redis until the load is over; it is left running."""
    while not over.is_set():
        deed = draw.choice(("freeze", "flush", "restart", "kill"))
        if deed == "freeze":
            redis_server.freeze()
            over.wait(0.3)
            redis_server.thaw()
        elif deed == "flush":
            redis_server.flush()
        elif deed == "restart":
            redis_server.restart()
        else:
            redis_server.kill()
            over.wait(0.3)
            redis_server.start()
        over.wait(0.2)


def _require_books(server: GatewayServer) -> None:
    db = Database(f"sqlite:///{server.data_dir / 'visionmeter.db'}")
    try:
        with db.read() as session:

            def count(statement: str) -> int:
                return int(session.connection().execute(text(statement)).scalar_one())

            assert count("SELECT count(*) FROM entry WHERE kind = 'capture'") == PAID
            assert count("SELECT sum(held_mt) FROM account") == 0
        assert audit.replay(db).ok
    finally:
        db.close()
