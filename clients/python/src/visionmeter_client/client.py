"""The client for programs that wait for each answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from datetime import date, datetime
from itertools import count
from types import TracebackType
from typing import Self, TypeVar

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
Progress = Callable[[Job], None]


class VisionMeter:
    """A connection to one VisionMeter host with one API key; threads may share it.

    `timeout_s` bounds each wait for the network, `retries_max` how often a request is sent again after a fault that
    may pass: no connection, a time-out, 429, 500, 502, 503 and 504. Whatever spends carries an idempotency key, the
    same at every try, so that it is done once. Plain `http` is for this machine, unless `allow_http` says otherwise.
    Every method raises `ApiError` for an answer that is an error and `UnreachableError` where there is none.
    """

    def __init__(
        self,
        host: str,
        api_key: str | None = None,
        *,
        timeout_s: float = 60.0,
        retries_max: int = 4,
        allow_http: bool = False,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        connection = check_connection(host, api_key, timeout_s=timeout_s, allow_http=allow_http)
        self.host = connection.host
        self._retries_max = retries_max
        self._http = httpx.Client(transport=transport, **connection.arguments())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.host!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._http.close()

    def detect(
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
        return self._send(
            calls.detect(image, calls.parameters(model, img_size, confidence, classes, tile_px), idempotency_key)
        )

    def annotated(
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
        return self._send(
            calls.annotated(image, calls.parameters(model, img_size, confidence, classes, tile_px), idempotency_key)
        )

    def quote(
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
        return self._send(calls.quote(images, calls.parameters(model, img_size, confidence, classes, tile_px)))

    def batch(
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

        `progress` is called with the job whenever it has come further.
        """
        job = self.create_job(
            images,
            quote=quote,
            model=model,
            img_size=img_size,
            tile_px=tile_px,
            confidence=confidence,
            classes=classes,
            idempotency_key=idempotency_key,
        )
        return self.wait(job.id, progress=progress, confidence=confidence, classes=classes)

    def create_job(
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
        return self._send(
            calls.create_job(
                images,
                calls.parameters(model, img_size, confidence, classes, tile_px),
                quote_id=quote.id if quote else None,
                webhook_url=webhook_url,
                idempotency_key=idempotency_key,
            )
        )

    def job(self, job_id: str) -> Job:
        """How far a job is."""
        return self._send(calls.job(job_id))

    def wait(
        self,
        job_id: str,
        *,
        progress: Progress | None = None,
        confidence: float | None = None,
        classes: Sequence[str] | None = None,
    ) -> Job:
        """Wait until a job has finished, and give it with its results, those of a confidence and of some classes."""
        for job in self.iter_events(job_id):
            if progress is not None:
                progress(job)
        return self._send(calls.job_results(job_id, confidence, classes))

    def cancel(self, job_id: str) -> Job:
        """Stop what has not started and give its tokens back."""
        return self._send(calls.cancel(job_id))

    def iter_events(self, job_id: str) -> Generator[Job]:
        """The states of a job as it goes on, to the finished one. A connection that breaks is made again."""
        request = calls.events(job_id)
        attempt = 0
        while True:
            try:
                for job in self._stream(request):
                    attempt = 0
                    yield job
                    if job.is_finished:
                        return
                raise UnreachableError("The server ended the events of a job that has not finished.")
            except (ApiError, UnreachableError) as error:
                attempt += 1
                time.sleep(pause_before_retry_s(error, attempt, self._retries_max))

    def export(
        self,
        job_id: str,
        file_format: str,
        *,
        confidence: float | None = None,
        classes: Sequence[str] | None = None,
    ) -> bytes:
        """A job's results as one file: `json`, `csv`, `coco` or `yolo` (which tells images apart by nothing)."""
        return self._send(calls.export(job_id, file_format, confidence, classes))

    def result(
        self, result_id: str, *, confidence: float | None = None, classes: Sequence[str] | None = None
    ) -> StoredResult:
        """A stored result, free, also at another confidence."""
        return self._send(calls.result(result_id, confidence, classes))

    def annotated_result(
        self, result_id: str, *, confidence: float | None = None, classes: Sequence[str] | None = None
    ) -> bytes:
        """A PNG of the image of a stored result with the boxes drawn, free."""
        return self._send(calls.annotated_result(result_id, confidence, classes))

    def export_result(
        self,
        result_id: str,
        file_format: str,
        *,
        confidence: float | None = None,
        classes: Sequence[str] | None = None,
    ) -> bytes:
        """A stored result as a file, free: `json`, `csv`, `coco` or `yolo` (the image's label file)."""
        return self._send(calls.export_result(result_id, file_format, confidence, classes))

    def receipt(self, receipt_id: str) -> Receipt:
        """One charge with all that it takes to recompute its price."""
        return self._send(calls.receipt(receipt_id))

    def balance(self) -> Balance:
        """What can be spent."""
        return self._send(calls.balance())

    def usage(self, start: date | datetime | None = None, end: date | datetime | None = None) -> UsageReport:
        """What was used in `start` ≤ t < `end`."""
        return self._send(calls.usage(start, end))

    def usage_by_key(self, start: date | datetime | None = None, end: date | datetime | None = None) -> UsageByKey:
        """The same by who asked: each API key, and each person on the portal."""
        return self._send(calls.usage_by_key(start, end))

    def deliveries(
        self, *, limit: int | None = None, before: str | None = None, status: str | None = None
    ) -> DeliveryPage:
        """The newest webhook messages, also only those that are `pending`, `delivered` or `given_up`."""
        return self._send(calls.deliveries(limit, before, status))

    def resend(self, delivery_id: str) -> Delivery:
        """Send a webhook message again that was delivered or given up, at once and under the same id."""
        return self._send(calls.resend(delivery_id))

    def models(self) -> tuple[Model, ...]:
        """The models that can be asked for; needs no key."""
        return self._send(calls.models())

    def _send(self, request: Request[T]) -> T:
        # Built once: a body that is sent again is the same to the last byte.
        message = self._http.build_request(request.method, request.path, **request.arguments())
        for attempt in count(1):
            try:
                return request.read(self._exchange(message))
            except (ApiError, UnreachableError) as error:
                time.sleep(pause_before_retry_s(error, attempt, self._retries_max))
        raise AssertionError("unreachable")

    def _exchange(self, message: httpx.Request) -> httpx.Response:
        try:
            response = self._http.send(message)
        except httpx.RequestError as error:
            raise unreachable(self.host, error) from error
        if not response.is_success:
            raise error_of(response)
        return response

    def _stream(self, request: Request[None]) -> Generator[Job]:
        message = self._http.build_request(request.method, request.path, **request.arguments())
        try:
            response = self._http.send(message, stream=True)
            try:
                if not response.is_success:
                    response.read()
                    raise error_of(response)
                events = JobEvents()
                for line in response.iter_lines():
                    if (job := events.take(line)) is not None:
                        yield job
            finally:
                response.close()
        except httpx.RequestError as error:
            raise unreachable(self.host, error) from error
