"""What Redis may repeat of the database: balances to look at, and stored results. It decides nothing.

Everything here is written after a commit and may be lost, late or old at any time. A missing answer is None, and the
caller reads the database, which alone says 402. Without a Redis (`link` is None) nothing is written and nothing found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.redis_link import RedisLink, RedisUnavailableError

KEPT_S = 3600
RESULT_BYTES_MAX = 256 * 1024

# One command, so that no older commit, which may arrive later, comes between the look and the writing.
_SET_IF_NEWER = """
local version = redis.call('HGET', KEYS[1], 'version')
if version and tonumber(version) >= tonumber(ARGV[1]) then
    return 0
end
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'available', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""


@dataclass(frozen=True, slots=True)
class MirroredBalance:
    """What an account had available when its row had this version."""

    version: int
    available_mt: int


def publish_balance(link: RedisLink | None, account_id: str, version: int, available_mt: int) -> bool:
    """Repeat a committed balance, unless a newer one is there. Says whether it was written."""
    if link is None:
        return False
    try:
        written = link.call(
            lambda client: client.eval(_SET_IF_NEWER, 1, _balance_key(account_id), version, available_mt, KEPT_S)
        )
    except RedisUnavailableError:
        return False
    return bool(written == 1)


def read_balance(link: RedisLink | None, account_id: str) -> MirroredBalance | None:
    """The balance as Redis repeats it: to be shown, or as a reason to ask the database before work is begun.

    It may be too low (a top-up that Redis missed) as well as too high, so it is never itself a reason for a 402.
    """
    if link is None:
        return None
    try:
        fields = link.call(lambda client: client.hmget(_balance_key(account_id), "version", "available"))
        return MirroredBalance(*(int(field) for field in fields if field is not None))
    except (RedisUnavailableError, ValueError, TypeError):
        return None


class ResultCache:
    """Stored results by account and charge key, for an hour. They never change, so one that is found is right.

    It saves reading a result. Whether an image is free because it was paid for is asked of the database.
    """

    def __init__(self, link: RedisLink | None) -> None:
        self._link = link

    def get(self, account_id: str, charge_key: str) -> dict[str, Any] | None:
        """The result as it was put, or None: then the database has it or not."""
        if self._link is None:
            return None
        try:
            text = self._link.call(lambda client: client.get(_result_key(account_id, charge_key)))
            result = json.loads(text) if text is not None else None
        except (RedisUnavailableError, ValueError):
            return None
        return result if isinstance(result, dict) else None

    def put(self, account_id: str, charge_key: str, result: Mapping[str, Any]) -> bool:
        """Repeat a committed result, unless it is larger than `RESULT_BYTES_MAX`. Says whether it was written."""
        if self._link is None:
            return False
        text = json.dumps(result, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) > RESULT_BYTES_MAX:
            return False
        try:
            self._link.call(lambda client: client.set(_result_key(account_id, charge_key), text, ex=KEPT_S))
        except RedisUnavailableError:
            return False
        return True


def _balance_key(account_id: str) -> str:
    return f"vm:balance:{account_id}"


def _result_key(account_id: str, charge_key: str) -> str:
    return f"vm:result:{account_id}:{charge_key}"
