"""Every operation of the API as a `Request`: built here once, sent by either client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from typing import Any
from urllib.parse import quote as quote_path

import httpx

from visionmeter_client._images import ImageSource, SentImage, open_image, open_images
from visionmeter_client._reading import load_json, read
from visionmeter_client._request import Request, reader, spending
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

Parameters = Mapping[str, Any]


def parameters(
    model: str | None,
    img_size: int | None,
    confidence: float | None,
    classes: Sequence[str] | None,
    tile_px: int | None = None,
) -> Parameters:
    """What a run is asked for; what is None is left to the server."""
    if isinstance(classes, str):
        classes = [classes]
    given = {
        "model": model,
        "img_size": img_size,
        "tile_px": tile_px,
        "confidence": confidence,
        "classes": classes and list(classes),
    }
    return {name: value for name, value in given.items() if value is not None}


def detect(image: ImageSource, wanted: Parameters, idempotency_key: str | None) -> Request[DetectionResult]:
    """One image, which waits."""
    return Request(
        "POST",
        "/detect",
        reader(DetectionResult),
        headers=spending(idempotency_key),
        **_one_image(open_image(image), wanted),
    )


def annotated(image: ImageSource, wanted: Parameters, idempotency_key: str | None) -> Request[bytes]:
    """The same, answered by a PNG with the boxes drawn."""
    return Request(
        "POST",
        "/detect",
        _content,
        headers=spending(idempotency_key),
        **_one_image(open_image(image), {**wanted, "annotated": "png"}),
    )


def quote(images: Sequence[ImageSource], wanted: Parameters) -> Request[Quote]:
    """What images would cost at most; nothing is taken."""
    return Request("POST", "/quotes", reader(Quote), **_many_images(open_images(images), wanted))


def create_job(
    images: Sequence[ImageSource] | None,
    wanted: Parameters,
    *,
    quote_id: str | None,
    webhook_url: str | None,
    idempotency_key: str | None,
) -> Request[Job]:
    """Images, or the quote that they are in, to run without waiting."""
    if (images is None) == (quote_id is None):
        raise ValueError("Give images, or the quote that they were given for, and not both.")
    if webhook_url is not None:
        wanted = {**wanted, "webhook_url": webhook_url}
    if images is None:
        body: dict[str, Any] = {"json": {**wanted, "quote_id": quote_id}}
    else:
        body = _many_images(open_images(images), wanted)
    return Request("POST", "/jobs", reader(Job), headers=spending(idempotency_key), **body)


def job(job_id: str) -> Request[Job]:
    """How far a job is."""
    return Request("GET", f"/jobs/{_segment(job_id)}", reader(Job))


def job_results(job_id: str, confidence: float | None, classes: Sequence[str] | None) -> Request[Job]:
    """A job with what was found."""
    return Request("GET", f"/jobs/{_segment(job_id)}/results", reader(Job), query=_filters(confidence, classes))


def export(job_id: str, file_format: str, confidence: float | None, classes: Sequence[str] | None) -> Request[bytes]:
    """What was found, in a format for other programs."""
    query = {"format": file_format, **_filters(confidence, classes)}
    return Request("GET", f"/jobs/{_segment(job_id)}/results", _content, query=query)


def cancel(job_id: str) -> Request[Job]:
    """Give back what has not started."""
    return Request("POST", f"/jobs/{_segment(job_id)}/cancel", reader(Job))


def events(job_id: str) -> Request[None]:
    """The stream of a job's states, read line by line."""
    return Request(
        "GET", f"/jobs/{_segment(job_id)}/events", lambda _response: None, headers={"Accept": "text/event-stream"}
    )


def result(result_id: str, confidence: float | None, classes: Sequence[str] | None) -> Request[StoredResult]:
    """A stored result, free."""
    query = _filters(confidence, classes)
    return Request("GET", f"/results/{_segment(result_id)}", reader(StoredResult), query=query)


def annotated_result(result_id: str, confidence: float | None, classes: Sequence[str] | None) -> Request[bytes]:
    """A stored result drawn on its image, free."""
    query = {"annotated": "png", **_filters(confidence, classes)}
    return Request("GET", f"/results/{_segment(result_id)}", _content, query=query)


def export_result(
    result_id: str, file_format: str, confidence: float | None, classes: Sequence[str] | None
) -> Request[bytes]:
    """A stored result, in a format for other programs."""
    query = {"format": file_format, **_filters(confidence, classes)}
    return Request("GET", f"/results/{_segment(result_id)}", _content, query=query)


def receipt(receipt_id: str) -> Request[Receipt]:
    """One charge, from which its price can be recomputed."""
    return Request("GET", f"/receipts/{_segment(receipt_id)}", _read_receipt)


def balance() -> Request[Balance]:
    """What is there and what of it is held."""
    return Request("GET", "/balance", reader(Balance))


def usage(start: date | datetime | None, end: date | datetime | None) -> Request[UsageReport]:
    """What was used in `start` ≤ t < `end`."""
    return Request("GET", "/usage", reader(UsageReport), query=_period(start, end))


def usage_by_key(start: date | datetime | None, end: date | datetime | None) -> Request[UsageByKey]:
    """The same by who asked."""
    return Request("GET", "/usage", reader(UsageByKey), query={"by": "key", **_period(start, end)})


def deliveries(limit: int | None, before: str | None, status: str | None) -> Request[DeliveryPage]:
    """The newest webhook messages."""
    given = {"limit": limit, "before": before, "status": status}
    query = {name: str(value) for name, value in given.items() if value is not None}
    return Request("GET", "/webhooks/deliveries", reader(DeliveryPage), query=query)


def resend(delivery_id: str) -> Request[Delivery]:
    """Send a webhook message again."""
    return Request("POST", f"/webhooks/deliveries/{_segment(delivery_id)}/resend", reader(Delivery))


def models() -> Request[tuple[Model, ...]]:
    """The models and their rates."""
    return Request("GET", "/models", reader(tuple[Model, ...]))


def _one_image(image: SentImage, wanted: Parameters) -> dict[str, Any]:
    if image.url is not None:
        return {"json": {**image.as_json(), **wanted}}
    return {"parts": [("file", image.as_part())], "form": _as_text(wanted)}


def _many_images(images: Sequence[SentImage], wanted: Parameters) -> dict[str, Any]:
    # Files travel as they are; Base64 makes them a third larger, but only JSON can hold an address beside a file.
    if any(image.url is not None for image in images):
        return {"json": {"images": [image.as_json() for image in images], **wanted}}
    return {"parts": [("files", image.as_part()) for image in images], "form": _as_text(wanted)}


def _as_text(wanted: Parameters) -> dict[str, str]:
    """Parameters for a form or a query."""
    return {name: ",".join(value) if isinstance(value, list) else str(value) for name, value in wanted.items()}


def _filters(confidence: float | None, classes: Sequence[str] | None) -> dict[str, str]:
    return _as_text(parameters(None, None, confidence, classes))


def _period(start: date | datetime | None, end: date | datetime | None) -> dict[str, str]:
    return {name: moment.isoformat() for name, moment in (("start", start), ("end", end)) if moment is not None}


def _segment(identifier: str) -> str:
    # An identifier from elsewhere must not lead to another operation.
    if identifier in ("", ".", ".."):
        raise ValueError("This is no identifier.")
    return quote_path(identifier, safe="")


def _read_receipt(response: httpx.Response) -> Receipt:
    document = load_json(response.content)
    return replace(read(Receipt, document, "the receipt"), document=document)


def _content(response: httpx.Response) -> bytes:
    return response.content
