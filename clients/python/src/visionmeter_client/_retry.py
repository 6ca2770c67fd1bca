"""Whether and when a request is sent again: a pure decision that both transports ask for.

Written out instead of taken from a library such as stamina: the decision needs the answer's status and its
`Retry-After`, gives up on one that is too long, and that is all there is to it.
"""

from __future__ import annotations

import random

from visionmeter_client.errors import ApiError, UnreachableError

RETRIED_STATUSES = frozenset({429, 500, 502, 503, 504})
FIRST_PAUSE_S = 0.5
PAUSE_S_MAX = 20.0
# A server that asks for a longer wait than this is not waited for: the caller decides.
RETRY_AFTER_S_MAX = 60.0


def pause_before_retry_s(error: ApiError | UnreachableError, attempt: int, retries_max: int) -> float:
    """Seconds to wait after failed attempt 1, 2, …; raises the error when it is not to be tried again.

    Exponential with full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/), on top
    of what the server asks for.
    """
    asked_s = 0.0
    if isinstance(error, ApiError):
        asked_s = error.retry_after_s or 0.0
        if error.status not in RETRIED_STATUSES or asked_s > RETRY_AFTER_S_MAX:
            raise error
    if attempt > retries_max:
        raise error
    spread_s = min(PAUSE_S_MAX, FIRST_PAUSE_S * 2 ** (attempt - 1))
    return asked_s + random.uniform(0, spread_s)  # noqa: S311  # it spreads load and guards nothing
