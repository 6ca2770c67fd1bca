"""Where Stripe tells of payments by card. It has no API key: its signature over the raw body is what counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from core.errors import RequestTooSlowError
from core.services.application import current
from core.services.card_events import receive_event
from gateway.bodies import BodyBudget, read_bytes

router = APIRouter()
# Stripe's events have some kilobytes, sent in one piece.
EVENT_BYTES_MAX = 256_000
EVENT_TIMEOUT_S = 10.0
EVENTS_MAX = 64


class WaitingRoom:
    """The bodies that are on their way; used by the event loop alone.

    Who sent one is only known when all of it is there. So nobody is turned away at the door: when the room is full, the
    network address that has most in it loses the oldest. Stripe's come in a moment and are never the oldest for long,
    also where a proxy makes all of them come from one address.
    """

    def __init__(self, bodies_max: int) -> None:
        self._bodies_max = bodies_max
        self._scopes: dict[str, list[anyio.CancelScope]] = {}

    @contextmanager
    def enter(self, address: str) -> Iterator[anyio.CancelScope]:
        """A place until the block ends, or is cancelled for one who came later."""
        if sum(map(len, self._scopes.values())) >= self._bodies_max:
            crowd = max(self._scopes, key=lambda one: len(self._scopes[one]))
            oldest = self._scopes[crowd][0]
            self._leave(crowd, oldest)
            oldest.cancel()
        with anyio.move_on_after(EVENT_TIMEOUT_S) as scope:
            self._scopes.setdefault(address, []).append(scope)
            try:
                yield scope
            finally:
                self._leave(address, scope)

    def _leave(self, address: str, scope: anyio.CancelScope) -> None:
        scopes = self._scopes.get(address, [])
        if scope in scopes:
            scopes.remove(scope)
        if not scopes:
            self._scopes.pop(address, None)


_room = WaitingRoom(EVENTS_MAX)
# Its own: strangers who send bodies here take no room from customers' pictures. The waiting room sets the bound; those
# who lost their place may still be there for a moment.
_budget = BodyBudget(4 * EVENTS_MAX * EVENT_BYTES_MAX)


# For Stripe alone, so it is not in the documentation of the API.
@router.post("/stripe/webhook", include_in_schema=False)
async def stripe_webhook(request: Request) -> Response:
    """An event: 200 when it is done or no concern of ours; for any other answer Stripe sends it again."""
    body: bytes | None = None
    address = request.client.host if request.client else ""
    with _budget.reserve("stripe") as reservation, _room.enter(address):
        body = await read_bytes(request, reservation, EVENT_BYTES_MAX)
    if body is None:
        raise RequestTooSlowError("The event did not come in time: send it again.")
    await run_in_threadpool(receive_event, current(), body, request.headers.get("stripe-signature", ""))
    return JSONResponse({"received": True})
