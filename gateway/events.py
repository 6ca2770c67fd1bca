"""Following a job by server-sent events."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Literal

import anyio
from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from core.errors import JobNotFoundError, NotSignedInError, RateLimitedError
from core.identity.callers import ApiCaller
from core.services import api_keys, run_report
from core.services.application import Application, current
from core.services.run_report import RunReport
from gateway import openapi
from gateway.answers import job_answer
from gateway.auth import CallerDependency
from gateway.openapi import problems

router = APIRouter()

EVENT_POLL_S = 0.25
# An empty comment now and then, so that nothing between takes a quiet stream for a dead one.
HEARTBEAT_S = 15.0
STREAMS_MAX = 200
STREAMS_ACCOUNT_MAX = 20


class Streams:
    """How many streams are open in this process, and whose; used by the event loop alone."""

    def __init__(self) -> None:
        self._of_account: Counter[str] = Counter()

    def open(self, account_id: str) -> None:
        """Count one more until `close`. Raises `RateLimitedError` when the account, or the process, has enough."""
        if self._of_account[account_id] >= STREAMS_ACCOUNT_MAX:
            raise self._refuse("This account has as many streams open as it may", STREAMS_ACCOUNT_MAX)
        if self._of_account.total() >= STREAMS_MAX:
            raise self._refuse("Too many streams are open", STREAMS_MAX)
        self._of_account[account_id] += 1

    def close(self, account_id: str) -> None:
        """The end of one that was opened."""
        self._of_account[account_id] -= 1
        if not self._of_account[account_id]:
            del self._of_account[account_id]

    def _refuse(self, what: str, limit_max: int) -> RateLimitedError:
        return RateLimitedError(
            f"{what} ({limit_max}): close one, or ask for the job by GET instead.",
            limit="streams",
            limit_max=limit_max,
            retry_after_s=5,
        )


_streams = Streams()


class EventStream(StreamingResponse):
    """A stream of events that counts as open until it has ended, however it ends."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[str], account_id: str) -> None:
        super().__init__(events)
        self._account_id = account_id
        _streams.open(account_id)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            _streams.close(self._account_id)


@router.get(
    "/jobs/{job_id}/events",
    response_model=None,
    responses={
        200: {
            "description": "`progress` at each change and `finished` at the end; the data is the job.",
            "content": {"text/event-stream": {"schema": openapi.EVENT}},
        },
        **problems(404),
    },
    summary="Follow a job by server-sent events",
)
async def follow_job(caller: CallerDependency, job_id: str) -> Response:
    """The stream ends with the job, or with the key."""
    app = current()
    report = await run_in_threadpool(run_report.report_run, app, caller, job_id)
    return EventStream(_events(app, caller, report), caller.account_id)


async def _events(app: Application, caller: ApiCaller, report: RunReport) -> AsyncIterator[str]:
    told: Any = None
    told_at = time.monotonic()
    while True:
        finished = report.job.status == "finished"
        if finished or report.progress != told:
            told, told_at = report.progress, time.monotonic()
            yield _event("finished" if finished else "progress", report)
        elif time.monotonic() - told_at > HEARTBEAT_S:
            told_at = time.monotonic()
            yield ":\n\n"
        if finished:
            return
        await anyio.sleep(EVENT_POLL_S)
        try:
            report = await run_in_threadpool(_look_again, app, caller, report.job.id)
        except (JobNotFoundError, NotSignedInError):
            return


def _look_again(app: Application, caller: ApiCaller, job_id: str) -> RunReport:
    api_keys.require_usable(app, caller)
    return run_report.report_run(app, caller, job_id)


def _event(kind: Literal["progress", "finished"], report: RunReport) -> str:
    data = JSONResponse(job_answer(report, with_results=False)).body
    return f"event: {kind}\ndata: {bytes(data).decode()}\n\n"
