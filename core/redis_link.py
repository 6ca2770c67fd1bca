"""The way to Redis, which may be slow, hung or gone: a short time-out, no retry, and a breaker that no customer probes.

Redis only helps. Whatever it is asked for has an answer without it, and nothing here can authorise a debit.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MaxConnectionsError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from core.errors import ConfigError

log = logging.getLogger("visionmeter")

T = TypeVar("T")

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half_open"
_CONNECTIONS_MAX = 256


class RedisUnavailableError(Exception):
    """Redis gave no answer that can be used; the caller goes on without it. No customer ever sees this."""


class RedisLink:
    """One pool of connections behind a circuit breaker; made at start, used by all threads, closed at the end.

    `state` is `closed` (Redis is asked), `open` (it is not asked) or `half_open` (a thread of this link asks whether it
    answers again). `failures` counts the calls and probes that Redis did not serve, not those that were never sent.

    Redis that times out or refuses the connection opens the breaker: whoever is waiting then waits up to `timeout_ms`,
    all at the same time, and whoever comes later waits for nothing. After `open_s` a thread sends one PING, and again
    until it is answered. A Redis that answers with an error costs no time, so it leaves the breaker as it is.
    """

    def __init__(
        self, url: str, *, timeout_ms: int = 50, open_s: float = 5.0, connections_max: int = _CONNECTIONS_MAX
    ) -> None:
        """Probes once, so that no customer is the first to learn that Redis is dead. Raises `ConfigError`."""
        self.url = url
        self.pool = _make_pool(url, timeout_s=timeout_ms / 1000, connections_max=connections_max)
        self.failures = 0
        self._client = redis.Redis(connection_pool=self.pool)
        self._open_s = open_s
        self._lock = threading.Lock()
        self._state = CLOSED
        self._stopped = threading.Event()
        self._prober: threading.Thread | None = None
        try:
            self.call(lambda client: client.ping())
        except RedisUnavailableError:
            pass

    @property
    def state(self) -> str:
        """`closed`, `open` or `half_open`."""
        return self._state

    def call(self, work: Callable[[redis.Redis], T]) -> T:
        """What `work` makes of a client. Raises `RedisUnavailableError`, at once when the breaker is not closed.

        The time-out is that of each wait for the server, so `work` should send one command.
        """
        if self._state != CLOSED:
            raise RedisUnavailableError("the breaker is open")
        try:
            return work(self._client)
        except MaxConnectionsError as error:
            # Our own limit, and no sign that Redis is ill.
            self._count()
            raise RedisUnavailableError(str(error)) from error
        except (RedisConnectionError, RedisTimeoutError) as error:
            self._open(error)
            raise RedisUnavailableError(str(error)) from error
        except RedisError as error:
            self._count()
            raise RedisUnavailableError(str(error)) from error

    def close(self) -> None:
        """Stop asking: the prober ends, the connections are closed, further calls find the breaker open."""
        self._stopped.set()
        with self._lock:
            self._state = OPEN
            prober = self._prober
        if prober is not None:
            prober.join()
        self.pool.disconnect()

    def _count(self) -> None:
        with self._lock:
            self.failures += 1

    def _open(self, error: RedisError) -> None:
        with self._lock:
            self.failures += 1
            if self._state != CLOSED:
                return
            self._state = OPEN
            self._prober = threading.Thread(target=self._probe_until_it_answers, name="redis-prober", daemon=True)
            self._prober.start()
        log.warning("Redis does not answer and is not asked for %g s: %s", self._open_s, error)

    def _probe_until_it_answers(self) -> None:
        while not self._stopped.wait(self._open_s):
            if not self._move(OPEN, HALF_OPEN):
                return
            try:
                self._client.ping()
            except RedisError:
                self._count()
                self._move(HALF_OPEN, OPEN)
                continue
            if self._move(HALF_OPEN, CLOSED):
                log.warning("Redis answers again and is asked again")
            return

    def _move(self, before: str, after: str) -> bool:
        """Change the state unless the link was closed meanwhile."""
        with self._lock:
            if self._stopped.is_set() or self._state != before:
                return False
            self._state = after
            return True


def _make_pool(url: str, *, timeout_s: float, connections_max: int) -> redis.ConnectionPool:
    try:
        options: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]  # redis-py gives it no types
        # Ours come last: a query in the URL must not bring back retries or longer time-outs.
        options |= {
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            "retry": Retry(NoBackoff(), 0),
            "retry_on_timeout": False,
            "retry_on_error": [],
            "health_check_interval": 0,
            "max_connections": connections_max,
            # A new connection says nothing before the first command that is not needed: each answer can be waited for.
            "protocol": 2,
            "driver_info": None,
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        }
        pool = redis.ConnectionPool(**options)
        # Options that no connection knows show when the first one is made, which sends nothing yet.
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, TypeError, RedisError):
        # The text may hold a password, so it is not repeated.
        raise ConfigError(
            "VISIONMETER_REDIS_URL is no address of a Redis: give one such as redis://127.0.0.1:6379/0."
        ) from None
    return pool
