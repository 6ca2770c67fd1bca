"""How often a key may ask: the limits, and a limiter that counts in this process and, if there is one, in Redis.

Both counts must agree to let something pass. So Redis adds what other processes let pass, and a Redis that is dead,
hung, flushed or restarted never lets pass more than this process would by itself.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TypeVar

from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import MovingWindowRateLimiter

from core.config import Settings
from core.errors import RateLimitedError, TooManyFromHereError, TooManyImagesError, TooManyInvitationsError
from core.redis_link import RedisLink, RedisUnavailableError

log = logging.getLogger("visionmeter")

T = TypeVar("T")

# Each says whether an address has an account, and is kept for a week.
INVITATIONS_AN_HOUR_MAX = 20


@dataclass(frozen=True, slots=True)
class RateLimits:
    """What a customer may do at most: a second and a minute for each API key, unfinished jobs for an account.

    `sign_ins` in 15 minutes, `sign_ups` and `resets` of passwords in an hour are those of one network address.
    """

    requests_per_s: int
    images_per_minute: int
    jobs_concurrent: int
    sign_ins: int = 50
    sign_ups: int = 20
    resets: int = 20


def read_limits(settings: Settings) -> RateLimits:
    """The limits of everybody, under whatever plan."""
    return RateLimits(
        requests_per_s=settings.rate_requests_per_s,
        images_per_minute=settings.rate_images_per_minute,
        jobs_concurrent=settings.rate_jobs_concurrent,
        sign_ins=settings.rate_sign_ins,
        sign_ups=settings.rate_sign_ups,
        resets=settings.rate_resets,
    )


def client_of(address: str | None) -> str | None:
    """Whom a network address stands for where people are counted; None for nobody that can be told apart.

    Of IPv6 a household has a whole /64, and IPv4 written as IPv6 is IPv4. What comes over the loopback is this machine
    itself, or everybody behind a proxy that does not name them: counted as one, any of them would lock out the others.
    """
    try:
        ip = ip_address(address or "")
    except ValueError:
        return None
    if isinstance(ip, IPv6Address):
        ip = ip.ipv4_mapped or ip
    if ip.is_loopback:
        return None
    return str(ip_network((ip, 64), strict=False)) if isinstance(ip, IPv6Address) else str(ip)


@dataclass(frozen=True, slots=True)
class Window:
    """One limit as its key finds it: `remaining` of `limit`; in `reset_s` seconds its oldest hit counts no more."""

    limit: int
    remaining: int
    reset_s: int


@dataclass(frozen=True, slots=True)
class Remaining:
    """Both limits of a key, for headers."""

    requests: Window
    images: Window


class RateLimiter:
    """Moving windows over the requests of the last second and the images of the last minute; used by all threads.

    `fallbacks` counts the decisions made without a Redis that should have been asked.
    """

    def __init__(self, limits: RateLimits, link: RedisLink | None = None) -> None:
        self.limits = limits
        self.fallbacks = 0
        self._link = link
        self._is_shared = True
        self._requests = RateLimitItemPerSecond(limits.requests_per_s, namespace="requests")
        self._images = RateLimitItemPerMinute(limits.images_per_minute, namespace="images")
        self._from_clients = {
            "sign_in": RateLimitItemPerMinute(limits.sign_ins, 15, namespace="sign_in"),
            # A sign-in at a provider is two requests, and counts once in each.
            "sign_in_return": RateLimitItemPerMinute(limits.sign_ins, 15, namespace="sign_in_return"),
            "sign_in_code": RateLimitItemPerMinute(limits.sign_ins, 15, namespace="sign_in_code"),
            "sign_up": RateLimitItemPerHour(limits.sign_ups, namespace="sign_up"),
            "reset": RateLimitItemPerHour(limits.resets, namespace="reset"),
        }
        self._invitations = RateLimitItemPerHour(INVITATIONS_AN_HOUR_MAX, namespace="invitations")
        # The storage's own locks are thrown away by its clean-up, while somebody may wait for one.
        self._lock = threading.Lock()
        self._memory = MemoryStorage()
        self._in_memory = MovingWindowRateLimiter(self._memory)
        if link is not None:
            # The link's pool: its time-outs, no retry. A script that Redis forgot is sent again by redis-py.
            self._redis = RedisStorage(link.url, connection_pool=link.pool, key_prefix="vm:rate")
            self._in_redis = MovingWindowRateLimiter(self._redis)

    def hit_request(self, key_id: str) -> None:
        """Count one request. Raises `RateLimitedError`, and then counts nothing."""
        wait_s = self._hit(self._requests, key_id, 1)
        if wait_s is not None:
            raise RateLimitedError(
                f"This key may send {self.limits.requests_per_s} requests a second: wait {_seconds(wait_s)} and send "
                "it again.",
                limit="requests_per_s",
                limit_max=self.limits.requests_per_s,
                retry_after_s=wait_s,
            )

    def hit_images(self, key_id: str, count: int) -> None:
        """Count all of so many images, or none: then `RateLimitedError` is raised.

        Raises `TooManyImagesError` when they are more than a whole minute's, which no waiting helps against.
        """
        allowed = f"{self.limits.images_per_minute} images a minute"
        if count > self.limits.images_per_minute:
            raise TooManyImagesError(
                f"This key may send {allowed}, and these are {count} at once: send them in smaller parts.",
                images_max=self.limits.images_per_minute,
            )
        if count < 1:
            return
        wait_s = self._hit(self._images, key_id, count)
        if wait_s is not None:
            raise RateLimitedError(
                f"This key may send {allowed}: wait {_seconds(wait_s)} and send these {count} again.",
                limit="images_per_minute",
                limit_max=self.limits.images_per_minute,
                retry_after_s=wait_s,
            )

    def hit_client(self, deed: str, address: str | None) -> None:
        """Count a `sign_in`, `sign_in_return`, `sign_in_code`, `sign_up` or `reset` from an address.

        Raises `TooManyFromHereError`, and then counts nothing.
        """
        client = client_of(address)
        wait_s = None if client is None else self._hit(self._from_clients[deed], client, 1)
        if wait_s is not None:
            raise TooManyFromHereError(
                f"Too many attempts from your network address: wait {_seconds(wait_s)} and try again.",
                retry_after_s=wait_s,
            )

    def hit_invitation(self, account_id: str) -> None:
        """Count one invitation into an account. Raises `TooManyInvitationsError`, and then counts nothing."""
        wait_s = self._hit(self._invitations, account_id, 1)
        if wait_s is not None:
            raise TooManyInvitationsError(
                f"An account invites at most {INVITATIONS_AN_HOUR_MAX} addresses an hour: wait {_seconds(wait_s)} and "
                "try again.",
                invitations_max=INVITATIONS_AN_HOUR_MAX,
                retry_after_s=wait_s,
            )

    def remaining(self, key_id: str) -> Remaining:
        """What the key has left, which two requests at once may both be told."""
        here = self.remaining_here(key_id)
        shared = self._ask(
            lambda: [_look(self._in_redis, item, key_id) for item in (self._requests, self._images)], decides=False
        )
        if shared is None:
            return here
        requests, images = shared
        return Remaining(_less(here.requests, requests), _less(here.images, images))

    def remaining_here(self, key_id: str) -> Remaining:
        """What the key has left by what this process let pass; asks nobody, so it never waits."""
        with self._lock:
            return Remaining(*(_look(self._in_memory, item, key_id) for item in (self._requests, self._images)))

    def _hit(self, item: RateLimitItem, key_id: str, count: int) -> int | None:
        """None when it passes; else in how many seconds as many would."""
        key, index = item.key_for(key_id), item.amount - count
        with self._lock:
            if not self._in_memory.test(item, key_id, cost=count):
                return self._wait_in_memory(item, key, index)
        passes = self._ask(lambda: self._in_redis.hit(item, key_id, cost=count), decides=True)
        if passes is False:
            return self._wait_in_redis(item, key, index)
        with self._lock:
            if not self._in_memory.hit(item, key_id, cost=count):
                return self._wait_in_memory(item, key, index)
        return None

    def _ask(self, question: Callable[[], T], *, decides: bool) -> T | None:
        """Redis' answer, or None without one."""
        if self._link is None:
            return None
        try:
            answer = self._link.call(lambda _client: question())
        except RedisUnavailableError as error:
            self._note(shared=False, decides=decides, why=error)
            return None
        self._note(shared=True, decides=decides)
        return answer

    def _note(self, *, shared: bool, decides: bool, why: Exception | None = None) -> None:
        with self._lock:
            changed, self._is_shared = self._is_shared != shared, shared
            if decides and not shared:
                self.fallbacks += 1
        if changed and shared:
            log.warning("Rate limits count what all processes let pass again")
        elif changed:
            log.warning("Rate limits count only what this process lets pass: %s", why)

    def _wait_in_memory(self, item: RateLimitItem, key: str, index: int) -> int:
        """The hit at `index`, from the newest, is the one that has to leave the window."""
        hits = self._memory.events.get(key, [])
        return _wait_s(hits[index].atime if index < len(hits) else None, item)

    def _wait_in_redis(self, item: RateLimitItem, key: str, index: int) -> int:
        assert self._link is not None
        try:
            hit = self._link.call(lambda client: client.lindex(self._redis.prefixed_key(key), index))
        except RedisUnavailableError:
            hit = None
        return _wait_s(float(hit) if hit is not None else None, item)


def _look(limiter: MovingWindowRateLimiter, item: RateLimitItem, key_id: str) -> Window:
    stats = limiter.get_window_stats(item, key_id)
    if stats.remaining == item.amount:
        return Window(item.amount, item.amount, 0)
    return Window(item.amount, stats.remaining, _wait_s(stats.reset_time - item.get_expiry(), item))


def _less(one: Window, other: Window) -> Window:
    return min(one, other, key=lambda window: window.remaining)


def _wait_s(hit_at: float | None, item: RateLimitItem) -> int:
    """Whole seconds, at least one, until a hit leaves the window; 1 when it has left already."""
    if hit_at is None:
        return 1
    return min(max(1, math.ceil(hit_at + item.get_expiry() - time.time())), item.get_expiry())


def _seconds(count: int) -> str:
    return "a second" if count == 1 else f"{count} seconds"
