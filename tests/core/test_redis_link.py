"""The link to Redis against a real server that is killed, frozen, flushed and restarted."""

from __future__ import annotations

import logging
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from core.errors import ConfigError
from core.redis_link import CLOSED, HALF_OPEN, OPEN, RedisLink, RedisUnavailableError
from tests.redis_server import PATIENCE_S, RedisServer, running_redis

# What a wait of 50 ms may take on a machine that does other things too.
pytestmark = pytest.mark.alone

SLOW_S = 0.06
NOISE_S = 0.5
OPEN_S = 0.3
# For what is not about those 50 ms: a busy machine may hold Redis up for as long.
PATIENT_MS = PATIENCE_S * 1000


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis of the test's own."""
    with running_redis() as running:
        yield running


@pytest.fixture
def open_link() -> Iterator[Callable[..., RedisLink]]:
    """Opens links, and closes them at the end."""
    links: list[RedisLink] = []

    def open_one(url: str, **options: float) -> RedisLink:
        links.append(RedisLink(url, **options))
        return links[-1]

    yield open_one
    for link in links:
        link.close()


def ping(link: RedisLink) -> bool:
    """Whether Redis answered through the link."""
    try:
        return bool(link.call(lambda client: client.ping()))
    except RedisUnavailableError:
        return False


def echo(link: RedisLink, text: str) -> object:
    """What Redis answered, or None."""
    try:
        return link.call(lambda client: client.echo(text))
    except RedisUnavailableError:
        return None


def timed(link: RedisLink) -> tuple[bool, float]:
    """The same, with the seconds that it took."""
    start = time.perf_counter()
    answered = ping(link)
    return answered, time.perf_counter() - start


def wait_for_state(link: RedisLink, state: str) -> None:
    """Until the breaker is there."""
    until = time.monotonic() + PATIENCE_S
    while link.state != state:
        assert time.monotonic() < until, f"the breaker stays {link.state}"
        time.sleep(0.005)


def test_a_healthy_redis_is_asked(server: RedisServer, open_link: Callable[..., RedisLink]) -> None:
    """An answer comes through, and nothing is counted."""
    link = open_link(server.url, timeout_ms=PATIENT_MS)
    link.call(lambda client: client.set("vm:x", "1"))
    assert link.call(lambda client: client.get("vm:x")) == b"1"
    assert (link.state, link.failures) == (CLOSED, 0)


def test_a_frozen_redis_costs_one_wait_of_50_ms(server: RedisServer, open_link: Callable[..., RedisLink]) -> None:
    """SIGSTOP: over seven freezes, the first call takes 50 to 60 ms more (median), the later ones less than 1 ms."""
    link = open_link(server.url, open_s=OPEN_S)
    baseline_s = statistics.median(timed(link)[1] for _ in range(50))
    first_s, later_s = [], []
    for _ in range(7):
        server.freeze()
        answered, took_s = timed(link)
        assert not answered
        assert link.state == OPEN
        first_s.append(took_s)
        later = [timed(link) for _ in range(20)]
        assert not any(answered for answered, _ in later)
        later_s += [took_s for _, took_s in later]
        server.thaw()
        wait_for_state(link, CLOSED)
    print(f"ms: {baseline_s * 1000=:.3f} {statistics.median(first_s) * 1000=:.1f} {max(first_s) * 1000=:.1f}")  # noqa: T201  # pytest shows it when the test fails
    print(f"ms: {statistics.median(later_s) * 1000=:.4f} {max(later_s) * 1000=:.3f}")  # noqa: T201  # pytest shows it when the test fails
    assert 0.045 <= statistics.median(first_s) <= baseline_s + SLOW_S
    assert max(first_s) <= NOISE_S
    assert statistics.median(later_s) <= 0.001
    assert max(later_s) <= SLOW_S


def test_a_dead_redis_costs_nothing_to_speak_of(server: RedisServer, open_link: Callable[..., RedisLink]) -> None:
    """SIGKILL: the first call learns of it from the refused connection, not from a time-out."""
    link = open_link(server.url, timeout_ms=PATIENT_MS)
    assert ping(link)
    server.kill()
    first, *later = [timed(link) for _ in range(21)]
    assert not any(answered for answered, _ in (first, *later))
    assert first[1] <= SLOW_S
    assert statistics.median(took_s for _, took_s in later) <= 0.001
    assert (link.state, link.failures) == (OPEN, 1)


def test_threads_that_ask_a_frozen_redis_wait_at_the_same_time(
    server: RedisServer, open_link: Callable[..., RedisLink], caplog: pytest.LogCaptureFixture
) -> None:
    """8 threads of 100 calls each, all in the freeze: each waits at most once, and all of them at the same time.

    They open the breaker once: one line, one thread that probes.
    """
    link = open_link(server.url, timeout_ms=200, open_s=PATIENCE_S)
    frozen, ready = threading.Event(), threading.Barrier(9)

    def ask(_number: int) -> list[float]:
        assert ping(link)
        ready.wait()
        frozen.wait()
        return [timed(link)[1] for _ in range(100)]

    with ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(ask, number) for number in range(8)]
        ready.wait()
        server.freeze()
        start = time.perf_counter()
        frozen.set()
        times_s = [future.result() for future in futures]
        took_s = time.perf_counter() - start
    print(f"ms: {took_s * 1000=:.1f}, waits: {[sum(one > 0.1 for one in times) for times in times_s]}")  # noqa: T201  # pytest shows it when the test fails
    assert all(sum(one >= 0.18 for one in times) <= 1 for times in times_s)
    assert statistics.median(one for times in times_s for one in times[1:]) <= 0.001
    assert took_s <= 0.2 + NOISE_S
    assert len([record for record in caplog.records if record.name == "visionmeter"]) == 1
    assert [one.name for one in threading.enumerate()].count("redis-prober") == 1


def test_redis_that_is_dead_at_the_start_costs_no_customer_anything(
    server: RedisServer, open_link: Callable[..., RedisLink]
) -> None:
    """The link is made with an open breaker, and finds Redis by itself when that is started."""
    server.kill()
    link = open_link(server.url, timeout_ms=PATIENT_MS, open_s=OPEN_S)
    assert link.state == OPEN
    server.start()
    wait_for_state(link, CLOSED)
    assert ping(link)


def test_a_probe_and_no_customer_waits_for_a_redis_that_is_still_frozen(
    server: RedisServer, open_link: Callable[..., RedisLink]
) -> None:
    """While probes fail, every call is refused at once, also in the moment of a probe; thawed, it is asked again."""
    link = open_link(server.url, open_s=0.05)
    server.freeze()
    assert not ping(link)
    seen, times_s = set(), []
    until = time.monotonic() + 0.6
    while time.monotonic() < until:
        seen.add(link.state)
        answered, took_s = timed(link)
        assert not answered
        times_s.append(took_s)
    assert seen == {OPEN, HALF_OPEN}
    assert statistics.median(times_s) <= 0.001
    assert sum(one >= 0.045 for one in times_s) <= len(times_s) // 100
    assert link.failures >= 3
    server.thaw()
    wait_for_state(link, CLOSED)


def test_no_answer_to_an_earlier_question_is_taken_for_a_later_one(
    server: RedisServer, open_link: Callable[..., RedisLink]
) -> None:
    """What a thawed Redis answers late was asked on a connection that nobody reads any more."""
    link = open_link(server.url, open_s=OPEN_S)
    for number in range(3):
        text = f"{number}"
        server.freeze()
        assert echo(link, "late") is None
        server.thaw()
        until = time.monotonic() + PATIENCE_S
        while (answer := echo(link, text)) is None:
            assert time.monotonic() < until, "Redis is not asked again"
            time.sleep(0.005)
        assert answer == text.encode()


def test_nothing_is_sent_twice(server: RedisServer, open_link: Callable[..., RedisLink]) -> None:
    """No retry: a frozen Redis that got INCR and is thawed has counted once."""
    link = open_link(server.url, open_s=OPEN_S)
    server.freeze()
    with pytest.raises(RedisUnavailableError):
        link.call(lambda client: client.incr("vm:n"))
    server.thaw()
    with server.client() as client:
        assert client.get("vm:n") == b"1"


def test_a_query_in_the_url_changes_neither_time_outs_nor_retries(
    server: RedisServer, open_link: Callable[..., RedisLink]
) -> None:
    """`?socket_timeout=9&retry_on_timeout=1` still waits as long as the link says, once; `db` counts."""
    query = "socket_timeout=9&socket_connect_timeout=9&retry_on_timeout=1&retry_on_error=x&max_connections=1&db=3"
    link = open_link(f"{server.url}?{query}", timeout_ms=500)
    link.call(lambda client: client.set("vm:x", 1))
    with server.client() as client:
        assert client.info("keyspace").keys() == {"db3"}
    server.freeze()
    answered, took_s = timed(link)
    assert not answered
    assert 0.45 <= took_s < 0.95


def test_a_restarted_redis_is_asked_on_new_connections(
    server: RedisServer, open_link: Callable[..., RedisLink]
) -> None:
    """Restarted while nobody asked: the dead connections in the pool are noticed, and no call fails."""
    link = open_link(server.url, timeout_ms=PATIENT_MS)
    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(lambda _: ping(link), range(40)))
        server.restart()
        assert all(threads.map(lambda _: ping(link), range(40)))
    assert (link.state, link.failures) == (CLOSED, 0)


def test_an_error_that_redis_answers_leaves_the_breaker_closed(
    server: RedisServer, open_link: Callable[..., RedisLink]
) -> None:
    """A wrong command is no sign of a slow Redis: this call goes without, the next one asks."""
    link = open_link(server.url, timeout_ms=PATIENT_MS)
    link.call(lambda client: client.set("vm:x", "text"))
    with pytest.raises(RedisUnavailableError, match="not an integer"):
        link.call(lambda client: client.incr("vm:x"))
    assert (link.state, link.failures) == (CLOSED, 1)
    assert ping(link)


def test_more_threads_than_connections_is_our_limit_and_no_failure_of_redis(
    server: RedisServer, open_link: Callable[..., RedisLink]
) -> None:
    """With two connections taken, a third call goes without Redis at once; the breaker stays closed."""
    link = open_link(server.url, timeout_ms=PATIENT_MS, connections_max=2)

    def taking_both(client: redis.Redis) -> bool:
        one, two = link.pool.get_connection(), link.pool.get_connection()
        try:
            return ping(link)
        finally:
            link.pool.release(one)
            link.pool.release(two)

    assert link.call(taking_both) is False
    assert (link.state, link.failures) == (CLOSED, 1)
    assert ping(link)


def test_a_fault_of_ours_is_not_hidden(server: RedisServer, open_link: Callable[..., RedisLink]) -> None:
    """What is no failure of Redis is raised as it is."""
    link = open_link(server.url, timeout_ms=PATIENT_MS)
    with pytest.raises(ZeroDivisionError):
        link.call(lambda _client: 1 // 0)
    assert (link.state, link.failures) == (CLOSED, 0)


def test_a_connection_that_is_never_answered_is_given_up(open_link: Callable[..., RedisLink]) -> None:
    """Something listens and never says a word, as a hung machine does: the link is made in time, its breaker open."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen(8)
        start = time.perf_counter()
        link = open_link(f"redis://:secret@127.0.0.1:{mute.getsockname()[1]}/0")
        assert time.perf_counter() - start <= NOISE_S
        assert link.state == OPEN


def test_one_line_for_each_change_of_state(
    server: RedisServer, open_link: Callable[..., RedisLink], caplog: pytest.LogCaptureFixture
) -> None:
    """Frozen for many calls and several probes, then thawed: two lines; the password is in neither."""
    with server.client() as client:
        client.config_set("requirepass", "s3cret")
    link = open_link(server.url.replace("://", "://:s3cret@"), timeout_ms=200, open_s=0.05)
    assert link.state == CLOSED
    with caplog.at_level(logging.DEBUG, logger="visionmeter"):
        server.freeze()
        for _ in range(20):
            ping(link)
        until = time.monotonic() + PATIENCE_S
        while link.failures < 4:
            assert time.monotonic() < until
            time.sleep(0.01)
        server.thaw()
        wait_for_state(link, CLOSED)
        link.close()  # which waits for the thread that writes the line
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert lines[0].startswith("Redis does not answer")
    assert lines[1].startswith("Redis answers again")
    assert "s3cret" not in caplog.text


def test_a_closed_link_asks_nobody_and_leaves_no_thread(
    server: RedisServer, open_link: Callable[..., RedisLink]
) -> None:
    """Closed while the breaker was open: the prober ends, no connection stays, calls are refused."""
    link = open_link(server.url)
    server.freeze()
    assert not ping(link)
    server.thaw()
    prober = link._prober
    assert prober is not None
    assert prober.is_alive()
    link.close()
    assert not prober.is_alive()
    assert not ping(link)
    assert link.state == OPEN
    with server.client() as client:
        until = time.monotonic() + PATIENCE_S
        while client.info("clients")["connected_clients"] != 1:
            assert time.monotonic() < until, "connections are left"
            time.sleep(0.01)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1", "127.0.0.1:6379", "redis://:s3cret@h:port/0", "redis://:s3cret@h?no_such_option=1"]
)
def test_an_address_that_is_none(url: str) -> None:
    """One sentence about the setting, which repeats no password."""
    with pytest.raises(ConfigError, match="VISIONMETER_REDIS_URL") as caught:
        RedisLink(url)
    assert "s3cret" not in caught.value.message
