"""The same client for programs that await."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import date, datetime
from functools import partial
from itertools import count
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
import anyio.to_thread
import httpx

from visionmeter_client import _calls as calls
from visionmeter_client._connection import check_connection
from visionmeter_client._events import JobEvents
from visionmeter_client._images import ImageSource
from visionmeter_client._problems import error_of, unreachable
from visionmeter_client._request import Request
from visionmeter_client._retry import pause_before_retry_s
from visionmeter_client.answers import (
    Balance,
    Delivery,
    DeliveryPage,
    DetectionResult,
    Job,
    Model,
    Quote,
    Receipt,
    StoredResult,
    UsageByKey,
    UsageReport,
)
from visionmeter_client.errors import ApiError, UnreachableError

T = TypeVar("T")
Progress = Callable[[Job], Awaitable[None] | None]


class AsyncVisionMeter:
    """`VisionMeter` with the same methods and the same rules, each of them awaited. Files are read in a thread."""

    def __init__(
        self,
        host: str,
        api_key: str | None = None,
        *,
        timeout_s: float = 60.0,
        retries_max: int = 4,
        allow_http: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        connection = check_connection(host, api_key, timeout_s=timeout_s, allow_http=allow_http)
        self.host = connection.host
        self._retries_max = retries_max
        self._http = httpx.AsyncClient(transport=transport, **connection.arguments())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.host!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections that are kept open."""
        await self._http.aclose()

    async def detect(
        self,
        image: ImageSource,
        *,
        model: str | None = None,
        img_size: int | None = None,
        tile_px: int | None = None,
        confidence: float | None = None,
        classes: Sequence[str] | None = None,
        idempotency_key: str | None = None,
    ) -> DetectionResult:
        """Find objects in one image: a path, bytes, an http(s) address or an open file."""
        wanted = calls.parameters(model, img_size, confidence, classes, tile_px)
        return await self._send(await _in_thread(calls.detect, image, wanted, idempotency_key))

    async def annotated(
        self,
        image: ImageSource,
        *,
        model: str | None = None,
        img_size: int | None = None,
        tile_px: int | None = None,
        confidence: float | None = None,
        classes: Sequence[str] | None = None,
        idempotency_key: str | None = None,
    ) -> bytes:
        """The same, answered by a PNG of the image with the boxes drawn."""
        wanted = calls.parameters(model, img_size, confidence, classes, tile_px)
        return await self._send(await _in_thread(calls.annotated, image, wanted, idempotency_key))

    async def quote(
        self,
        images: Sequence[ImageSource],
        *,
        model: str | None = None,
        img_size: int | None = None,
        tile_px: int | None = None,
        confidence: float | None = None,
        classes: Sequence[str] | None = None,
    ) -> Quote:
        """The most that images can cost, image by image. It binds until it expires and takes nothing."""
        wanted = calls.parameters(model, img_size, confidence, classes, tile_px)
        return await self._send(await _in_thread(calls.quote, images, wanted))

    async def batch(
        self,
        images: Sequence[ImageSource] | None = None,
        *,
        quote: Quote | None = None,
        model: str | None = None,
        img_size: int | None = None,
        tile_px: int | None = None,
        confidence: float | None = None,
        classes: Sequence[str] | None = None,
        progress: Progress | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Run images, or the ones of a quote at its price, and wait for the job with its results.

        `progress` is called, and awaited where it can be, with the job whenever it has come further.
        """
        job = await self.create_job(
            images,
            quote=quote,
            model=model,
            img_size=img_size,
            tile_px=tile_px,
            confidence=confidence,
            classes=classes,
            idempotency_key=idempotency_key,
        )
        return await self.wait(job.id, progress=progress, confidence=confidence, classes=classes)

    async def create_job(
        self,
        images: Sequence[ImageSource] | None = None,
        *,
        quote: Quote | None = None,
        model: str | None = None,
        img_size: int | None = None,
        tile_px: int | None = None,
        confidence: float | None = None,
        classes: Sequence[str] | None = None,
        webhook_url: str | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Start the same without waiting. `webhook_url` is told when the job has finished."""
        return await self._send(
            await _in_thread(
                calls.create_job,
                images,
                calls.parameters(model, img_size, confidence, classes, tile_px),
                quote_id=quote.id if quote else None,
                webhook_url=webhook_url,
                idempotency_key=idempotency_key,
            )
        )

    async def job(self, job_id: str) -> Job:
        """How far a job is."""
        return await self._send(calls.job(job_id))

    async def wait(
        self,
        job_id: str,
        *,
        progress: Progress | None = None,
        confidence: float | None = None,
        classes: Sequence[str] | None = None,
    ) -> Job:
        """Wait until a job has finished, and give it with its results, those of a confidence and of some classes."""
        async for job in self.iter_events(job_id):
            if progress is not None:
                told = progress(job)
                if told is not None:
                    await told
        return await self._send(calls.job_results(job_id, confidence, classes))

    async def cancel(self, job_id: str) -> Job:
        """Stop what has not started and give its tokens back."""
        return await self._send(calls.cancel(job_id))

    async def iter_events(self, job_id: str) -> AsyncGenerator[Job]:
        """The states of a job as it goes on, to the finished one. A connection that breaks is made again."""
        request = calls.events(job_id)
        attempt = 0
        while True:
            try:
                async with aclosing(self._stream(request)) as states:
                    async for job in states:
                        attempt = 0
                        yield job
                        if job.is_finished:
                            return
                raise UnreachableError("The server ended the events of a job that has not finished.")
            except (ApiError, UnreachableError) as error:
                attempt += 1
                await anyio.sleep(pause_before_retry_s(error, attempt, self._retries_max))

    async def export(
        self,
        job_id: str,
        file_format: str,
        *,
        confidence: float | None = None,
        classes: Sequence[str] | None = None,
    ) -> bytes:
        """A job's results as one file: `json`, `csv`, `coco` or `yolo` (which tells images apart by nothing)."""
        return await self._send(calls.export(job_id, file_format, confidence, classes))

    async def result(
        self, result_id: str, *, confidence: float | None = None, classes: Sequence[str] | None = None
    ) -> StoredResult:
        """A stored result, free, also at another confidence."""
        return await self._send(calls.result(result_id, confidence, classes))

    async def annotated_result(
        self, result_id: str, *, confidence: float | None = None, classes: Sequence[str] | None = None
    ) -> bytes:
        """A PNG of the image of a stored result with the boxes drawn, free."""
        return await self._send(calls.annotated_result(result_id, confidence, classes))

    async def export_result(
        self,
        result_id: str,
        file_format: str,
        *,
        confidence: float | None = None,
        classes: Sequence[str] | None = None,
    ) -> bytes:
        """A stored result as a file, free: `json`, `csv`, `coco` or `yolo` (the image's label file)."""
        return await self._send(calls.export_result(result_id, file_format, confidence, classes))

    async def receipt(self, receipt_id: str) -> Receipt:
        """One charge with all that it takes to recompute its price."""
        return await self._send(calls.receipt(receipt_id))

    async def balance(self) -> Balance:
        """What can be spent."""
        return await self._send(calls.balance())

    async def usage(self, start: date | datetime | None = None, end: date | datetime | None = None) -> UsageReport:
        """What was used in `start` ≤ t < `end`."""
        return await self._send(calls.usage(start, end))

    async def usage_by_key(
        self, start: date | datetime | None = None, end: date | datetime | None = None
    ) -> UsageByKey:
        """The same by who asked: each API key, and each person on the portal."""
        return await self._send(calls.usage_by_key(start, end))

    async def deliveries(
        self, *, limit: int | None = None, before: str | None = None, status: str | None = None
    ) -> DeliveryPage:
        """The newest webhook messages, also only those that are `pending`, `delivered` or `given_up`."""
        return await self._send(calls.deliveries(limit, before, status))

    async def resend(self, delivery_id: str) -> Delivery:
        """Send a webhook message again that was delivered or given up, at once and under the same id."""
        return await self._send(calls.resend(delivery_id))

    async def models(self) -> tuple[Model, ...]:
        """The models that can be asked for; needs no key."""
        return await self._send(calls.models())

    async def _send(self, request: Request[T]) -> T:
        # Built once: a body that is sent again is the same to the last byte.
        message = self._http.build_request(request.method, request.path, **request.arguments())
        for attempt in count(1):
            try:
                return request.read(await self._exchange(message))
            except (ApiError, UnreachableError) as error:
                await anyio.sleep(pause_before_retry_s(error, attempt, self._retries_max))
        raise AssertionError("unreachable")

    async def _exchange(self, message: httpx.Request) -> httpx.Response:
        try:
            response = await self._http.send(message)
        except httpx.RequestError as error:
            raise unreachable(self.host, error) from error
        if not response.is_success:
            raise error_of(response)
        return response

    async def _stream(self, request: Request[None]) -> AsyncGenerator[Job]:
        message = self._http.build_request(request.method, request.path, **request.arguments())
        try:
            response = await self._http.send(message, stream=True)
            try:
                if not response.is_success:
                    await response.aread()
                    raise error_of(response)
                events = JobEvents()
                async for line in response.aiter_lines():
                    if (job := events.take(line)) is not None:
                        yield job
            finally:
                await response.aclose()
        except httpx.RequestError as error:
            raise unreachable(self.host, error) from error


async def _in_thread(build: Callable[..., Request[T]], *arguments: Any, **named: Any) -> Request[T]:
    return await anyio.to_thread.run_sync(partial(build, *arguments, **named))
