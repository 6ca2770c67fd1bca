"""Two hundred impatient clients whose connections break: each request three times under one key, and paid for once."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
from PIL import Image
from sqlalchemy import text

from core.db import Database
from core.services import audit
from tests.conftest import migrated_database
from tests.gateway.hostile_images import png
from tests.gateway.server import GatewayServer, gateway_server, make_key

pytestmark = pytest.mark.alone

SEED = 61_807
# In two halves, so that what the second one leaves open beyond the first is a leak.
CLIENTS = 200
COPIES = 3
TOKENS = 1_000
# How a connection goes: to its end, or cut within the request, or while the answer is waited for or read.
FATES = ("whole", "whole", "cut in the request", "cut in the answer")
LEFT_OPEN_MAX = 5
PATIENCE_S = 60


@dataclass(frozen=True)
class Client:
    """Somebody with one picture and one key for it."""

    number: int
    request: bytes


@pytest.fixture(params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GatewayServer]:
    """The gateway on each kind of database with an engine that takes no time; so many wait that some must come back."""
    with migrated_database(request.param, tmp_path) as url:
        settings = {"rate_requests_per_s": 10_000, "rate_images_per_minute": 100_000, "engine_queue_max": 128}
        with gateway_server(tmp_path / "data", instant=True, database_url=url, log_level="ERROR", **settings) as server:
            yield server


def test_one_charge_each(server: GatewayServer) -> None:
    """Every client has one answer however often he asked, one charge and one receipt; nothing is held or left open."""
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when the test fails
    draw = random.Random(SEED)
    secret = make_key(server, tokens=TOKENS)
    clients = [_make_client(server, secret, number, draw) for number in range(CLIENTS)]
    process = psutil.Process(server.pid)
    began = time.monotonic()
    fates: Counter[str] = Counter()
    answers: dict[int, list[Any]] = {}
    open_after = []
    for half in (clients[: CLIENTS // 2], clients[CLIENTS // 2 :]):
        answers |= asyncio.run(_storm(server, half, draw, fates))
        open_after.append(_left_open(process, open_after[0] if open_after else None))
    print(f"{time.monotonic() - began:.1f} s, {dict(fates)}, left open {open_after}")  # noqa: T201  # figures
    assert fates["cut in the request"] > 50
    assert fates["cut in the answer"] > 50

    for number, same in answers.items():
        assert len(same) >= 1
        assert all(answer == same[0] for answer in same), (number, same)
    assert sum(len(same) for same in answers.values()) > CLIENTS
    charged_mt = sum(round(same[0]["usage"]["tokens"] * 1000) for same in answers.values())
    assert all(same[0]["usage"]["tokens"] > 0 for same in answers.values())
    assert len({same[0]["usage"]["receipt_id"] for same in answers.values()}) == CLIENTS
    db = Database(server.env["VISIONMETER_DATABASE_URL"])
    try:
        _require_one_charge_each(db, charged_mt)
    finally:
        db.close()
    for kind, first, second in zip(("threads", "files", "connections"), *open_after, strict=True):
        assert second <= first + LEFT_OPEN_MAX, (kind, open_after)


def _require_one_charge_each(db: Database, charged_mt: int) -> None:
    with db.read() as session:

        def count(statement: str) -> Any:
            return session.connection().execute(text(statement)).scalar_one()

        assert count("SELECT count(*) FROM entry WHERE kind = 'capture'") == CLIENTS
        assert count("SELECT count(*) FROM receipt") == CLIENTS
        assert count("SELECT count(*) FROM usage_record WHERE outcome = 'charged'") == CLIENTS
        assert count("SELECT count(*) FROM hold WHERE status = 'captured'") == CLIENTS
        # An attempt that was cut while another one ran may have its own run; never a second charge.
        assert count("SELECT count(*) FROM hold WHERE status = 'held'") == 0
        assert count("SELECT sum(held_mt) FROM account") == 0
        posted_mt = count("SELECT max(posted_mt) FROM account")
    assert posted_mt == TOKENS * 1000 - charged_mt
    replayed = audit.replay(db)
    assert replayed.ok, replayed.problems


def _make_client(server: GatewayServer, secret: str, number: int, draw: random.Random) -> Client:
    noise = np.frombuffer(draw.randbytes(64 * 64 * 3), np.uint8).reshape(64, 64, 3)
    picture = base64.b64encode(png(np.asarray(Image.fromarray(noise)))).decode()
    body = json.dumps({"image": picture, "img_size": 320, "name": f"{number}.png"}).encode()
    head = (
        f"POST /v1/detect HTTP/1.1\r\nHost: {urlsplit(server.url).netloc}\r\nAuthorization: Bearer {secret}\r\n"
        f"Content-Type: application/json\r\nIdempotency-Key: storm-{number}\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return Client(number, head.encode() + body)


async def _storm(
    server: GatewayServer, clients: list[Client], draw: random.Random, fates: Counter[str]
) -> dict[int, list[Any]]:
    """All copies of all clients at once; then each client asks until he is answered. Gives the answers of each."""
    sent = []
    for client in clients:
        for _ in range(COPIES):
            fate = draw.choice(FATES)
            fates[fate] += 1
            sent.append((client, _send(server, client.request, fate, draw.random())))
    outcomes = await asyncio.gather(*(sending for _client, sending in sent))
    answers: dict[int, list[Any]] = {client.number: [] for client in clients}
    for (client, _), outcome in zip(sent, outcomes, strict=True):
        _keep(answers[client.number], outcome)
    await asyncio.gather(*(_ask_until_answered(server, client, answers[client.number]) for client in clients))
    return answers


async def _ask_until_answered(server: GatewayServer, client: Client, answers: list[Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not _keep(answers, await _send(server, client.request, "whole", 0)):
        assert time.monotonic() < deadline, client.number
        await asyncio.sleep(0.2)


def _keep(answers: list[Any], outcome: tuple[int, Any] | None) -> bool:
    """Add an answer to those of its client; one that says to come back later is none."""
    if outcome is None or outcome[0] == 503:
        return False
    status, body = outcome
    assert status == 200, body
    # The times are those of the request that ran it.
    del body["usage"]["times_ms"]
    answers.append(body)
    return True


async def _send(server: GatewayServer, request: bytes, fate: str, share: float) -> tuple[int, Any] | None:
    """Status and body, or None where the connection was cut; `share` says where."""
    address = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        if fate == "cut in the request":
            writer.write(request[: int(len(request) * share)])
            await writer.drain()
            await asyncio.sleep(share / 10)
            return None
        writer.write(request)
        await writer.drain()
        if fate == "cut in the answer":
            try:
                await asyncio.wait_for(reader.read(1 + int(400 * share)), timeout=share)
            except TimeoutError:
                pass  # cut before there is an answer
            return None
        answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
    finally:
        # At once, with whatever is still on its way.
        writer.transport.abort()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def _left_open(process: psutil.Process, at_most: tuple[int, int, int] | None) -> tuple[int, int, int]:
    """Threads, files and connections of the server once it is quiet: idle threads of a burst end after ten seconds."""
    deadline = time.monotonic() + 12
    while True:
        now = (process.num_threads(), process.num_fds(), len(process.net_connections()))
        quiet = at_most is not None and all(one <= limit for one, limit in zip(now, at_most, strict=True))
        if quiet or time.monotonic() > deadline:
            return now
        time.sleep(0.2)
