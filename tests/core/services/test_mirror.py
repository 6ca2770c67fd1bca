"""What Redis repeats: never older than it was, never believed about money, and no loss when it is gone."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from core.db import Database
from core.errors import InsufficientTokensError
from core.ledger import ledger
from core.ledger.tables import Account
from core.redis_link import CLOSED, RedisLink
from core.services.mirror import (
    KEPT_S,
    RESULT_BYTES_MAX,
    MirroredBalance,
    ResultCache,
    publish_balance,
    read_balance,
)
from tests.redis_server import PATIENCE_S, RedisServer, running_redis

SEED = 20260704
RESULT: dict[str, Any] = {"id": "res_1", "detections": [{"name": "Sturz 跌倒", "confidence": 0.91}]}


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis of the test's own."""
    with running_redis() as running:
        yield running


@pytest.fixture
def link(server: RedisServer) -> Iterator[RedisLink]:
    """A patient link to it: a busy machine may hold Redis up for 50 ms."""
    link = RedisLink(server.url, timeout_ms=PATIENCE_S * 1000)
    yield link
    link.close()


@pytest.fixture
def hasty_link(server: RedisServer) -> Iterator[RedisLink]:
    """A link with the time-out of the application, whose breaker closes soon."""
    link = RedisLink(server.url, open_s=0.1)
    yield link
    link.close()


def test_a_balance_is_repeated(link: RedisLink) -> None:
    """What was published is read, per account, and nothing is read of another one."""
    assert publish_balance(link, "acct_a", 3, 19_400)
    assert read_balance(link, "acct_a") == MirroredBalance(3, 19_400)
    assert read_balance(link, "acct_b") is None


@pytest.mark.parametrize(("version", "wins"), [(8, False), (9, False), (10, True), (11, True)])
def test_only_a_newer_version_is_written(link: RedisLink, version: int, wins: bool) -> None:
    """After version 9, versions 8 and 9 change nothing; 10 does, though its text sorts before 9."""
    publish_balance(link, "acct_a", 9, 900)
    assert publish_balance(link, "acct_a", version, 1) is wins
    assert read_balance(link, "acct_a") == (MirroredBalance(version, 1) if wins else MirroredBalance(9, 900))


def test_commits_that_are_published_in_any_order_leave_the_newest(link: RedisLink) -> None:
    """200 versions from 8 threads in a random order: what is read meanwhile never goes back, and 200 is left."""
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when the test fails
    versions = list(range(1, 201))
    random.Random(SEED).shuffle(versions)

    def publish(version: int) -> int:
        publish_balance(link, "acct_a", version, version * 1000)
        seen = read_balance(link, "acct_a")
        assert seen is not None
        assert seen.available_mt == seen.version * 1000
        assert seen.version >= version
        return seen.version

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(publish, versions))
    assert read_balance(link, "acct_a") == MirroredBalance(200, 200_000)


def test_large_amounts_stay_whole(link: RedisLink) -> None:
    """An amount above 2⁵³ is repeated to the last milli-token: Lua never makes a number of it."""
    publish_balance(link, "acct_a", 1, 2**53 + 1)
    assert read_balance(link, "acct_a") == MirroredBalance(1, 2**53 + 1)


def test_everything_is_ours_and_goes_away(link: RedisLink, server: RedisServer) -> None:
    """Keys begin with `vm:`, and none lives longer than an hour."""
    publish_balance(link, "acct_a", 1, 1)
    ResultCache(link).put("acct_a", "0" * 64, RESULT)
    with server.client() as client:
        keys = client.keys()
        assert len(keys) == 2
        assert all(key.startswith(b"vm:") and 0 < client.ttl(key) <= KEPT_S for key in keys)


def test_what_somebody_else_wrote_is_no_balance_and_no_result(link: RedisLink, server: RedisServer) -> None:
    """Half a balance, a balance of words, another type, broken JSON, a JSON number: none of it is found or raised."""
    cache = ResultCache(link)
    with server.client() as client:
        client.hset("vm:balance:half", mapping={"version": 1})
        client.hset("vm:balance:words", mapping={"version": "new", "available": "much"})
        client.set("vm:balance:text", "1")
        client.set("vm:result:acct_a:broken", b'{"id": "res')
        client.set("vm:result:acct_a:bytes", b"\xff\xfe")
        client.set("vm:result:acct_a:number", b"1")
        client.hset("vm:result:acct_a:hash", mapping={"id": 1})
    assert [read_balance(link, name) for name in ("half", "words", "text")] == [None] * 3
    assert [cache.get("acct_a", key) for key in ("broken", "bytes", "number", "hash")] == [None] * 4
    assert publish_balance(link, "words", 2, 2) is False
    assert link.state == CLOSED


def test_a_result_is_found_by_account_and_charge_key(link: RedisLink) -> None:
    """It comes back as it was put, and to nobody else."""
    cache = ResultCache(link)
    assert cache.get("acct_a", "key") is None
    assert cache.put("acct_a", "key", RESULT)
    assert cache.get("acct_a", "key") == RESULT
    assert cache.get("acct_b", "key") is None
    assert cache.get("acct_a", "other") is None


def test_a_result_that_is_too_large_is_left_to_the_database(link: RedisLink) -> None:
    """256 KiB of JSON are kept, one byte more is not; what counts is bytes, not characters."""
    cache = ResultCache(link)
    room = RESULT_BYTES_MAX - len('{"x":""}')
    assert cache.put("acct_a", "fits", {"x": "a" * room})
    assert not cache.put("acct_a", "larger", {"x": "a" * (room + 1)})
    assert not cache.put("acct_a", "wider", {"x": "跌" * (room // 2)})
    assert cache.get("acct_a", "fits") == {"x": "a" * room}
    assert cache.get("acct_a", "larger") is None


def test_without_a_redis_nothing_is_found_and_nothing_raised() -> None:
    """No link at all, as on a laptop."""
    cache = ResultCache(None)
    assert not publish_balance(None, "acct_a", 1, 1)
    assert read_balance(None, "acct_a") is None
    assert not cache.put("acct_a", "key", RESULT)
    assert cache.get("acct_a", "key") is None


@pytest.mark.alone
@pytest.mark.parametrize("harm", ["kill", "freeze"])
def test_a_redis_that_is_gone_is_like_an_empty_one(hasty_link: RedisLink, server: RedisServer, harm: str) -> None:
    """Killed or frozen: every answer is the one of an empty Redis, and only the first takes time."""
    cache = ResultCache(hasty_link)
    getattr(server, harm)()

    def ask() -> float:
        start = time.perf_counter()
        assert not publish_balance(hasty_link, "acct_a", 1, 1)
        assert read_balance(hasty_link, "acct_a") is None
        assert not cache.put("acct_a", "key", {"x": 1})
        assert cache.get("acct_a", "key") is None
        return time.perf_counter() - start

    first_s, *later_s = [ask() for _ in range(20)]
    assert first_s <= 0.5
    assert statistics.median(later_s) <= 0.001


def test_redis_harmed_under_load_changes_no_decision(
    db: Database, account_id: str, hasty_link: RedisLink, server: RedisServer
) -> None:
    """8 threads hold while Redis is frozen, flushed, killed, restarted and told lies: money for 100, and 100 pass.

    Nobody is refused before the money is spent, and nobody passes after.
    """
    price_mt, over, cache = 100, threading.Event(), ResultCache(hasty_link)

    def lie() -> None:
        with server.client() as client:
            client.hset(f"vm:balance:{account_id}", mapping={"version": 2**52, "available": 0})

    def client(number: int) -> list[str]:
        outcomes: list[str] = []
        until = time.monotonic() + 60
        while (not over.is_set() or "refused" not in outcomes) and time.monotonic() < until:
            key = f"{number}-{len(outcomes)}"
            try:
                mirrored = read_balance(hasty_link, account_id)
                if mirrored is not None and mirrored.available_mt < price_mt:
                    with db.read() as session:
                        ledger.require_available(session, account_id, price_mt)
                with db.write() as session:
                    ledger.place_hold(session, account_id, price_mt, charge_key=key, lease_s=600, actor="test")
                    account = session.get_one(Account, account_id)
                    version, available_mt = account.version, account.posted_mt - account.held_mt
            except InsufficientTokensError as error:
                outcomes.append("refused" if error.available_mt == 0 else "refused with money left")
            else:
                publish_balance(hasty_link, account_id, version, available_mt)
                cache.put(account_id, key, {"key": key})
                assert cache.get(account_id, key) in ({"key": key}, None)
                outcomes.append("passed")
            time.sleep(0.1 if "refused" not in outcomes else 0.01)
        return outcomes

    with ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(client, number) for number in range(8)]
        steps = [lie, server.freeze, server.thaw, server.flush, lie, server.kill, server.start, server.restart, lie]
        for step in steps:
            time.sleep(0.12)
            step()
        over.set()
        outcomes = [outcome for future in futures for outcome in future.result()]
    assert outcomes.count("passed") == 100
    assert outcomes.count("refused") >= 8
    assert set(outcomes) == {"passed", "refused"}
