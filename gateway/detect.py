"""`POST /v1/detect`, advertised as `/yolo/detect`: one picture, answered at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from core.errors import EngineBusyError, InvalidRequestError
from core.identity.callers import ApiCaller
from core.inference.exports import Labelled, to_coco, to_csv, to_yolo
from core.services import detect as detection
from core.services import run_report
from core.services.application import Application, current
from core.services.run_exports import draw_found, require_format
from core.services.stages import Stages
from gateway import metrics, openapi
from gateway.answers import detect_answer, detect_headers, wanted
from gateway.auth import SenderDependency, read_idempotency_key
from gateway.bodies import (
    Body,
    BodyBudget,
    Picture,
    load_picture,
    parse_fields,
    picture_of_file,
    picture_of_json,
    read_body,
)
from gateway.openapi import problems
from gateway.shapes import DetectIn, DetectOut, ImageIn

T = TypeVar("T")
router = APIRouter()
# The address without a version that the service is known by.
advertised = APIRouter()
budget = BodyBudget()

# A picture in base64 is a third longer, and there is something around it.
_OVERHEAD_BYTES = 100_000
PNG = "image/png"
LANE_SHARE = 0.75


class Lane:
    """So many requests at once in threads of their own; one more is refused, not kept waiting.

    Of these, one account has at most `LANE_SHARE`: whoever sends and sends leaves room for the others. Used by the
    event loop alone.
    """

    def __init__(self) -> None:
        self._limiter: anyio.CapacityLimiter | None = None
        self._of_account: Counter[str] = Counter()

    async def run(self, app: Application, account_id: str, work: Callable[[], T]) -> T:
        """Run blocking work for an account. Raises `EngineBusyError` when the lane, or its share of it, is full."""
        places = app.settings.engine_queue_max
        if self._limiter is None or self._limiter.total_tokens != places:
            self._limiter = anyio.CapacityLimiter(places)
        if self._limiter.available_tokens < 1:
            raise EngineBusyError("The service is busy: send it again in a few seconds. Nothing was taken.")
        if self._of_account[account_id] >= max(1, int(places * LANE_SHARE)):
            raise EngineBusyError(
                "This account has too many requests under way: send it again in a few seconds. Nothing was taken."
            )
        self._of_account[account_id] += 1
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._limiter)
        finally:
            self._of_account[account_id] -= 1
            if not self._of_account[account_id]:
                del self._of_account[account_id]


lane = Lane()


@router.post(
    "/detect",
    summary="Detect objects in one picture",
    response_model=None,
    responses={
        **openapi.alternatives(
            "The detections, and what they cost.",
            DetectOut,
            **openapi.FORMATS,
            image_png={"type": "string", "format": "binary"},
        ),
        **problems(*openapi.SPENDING),
    },
    openapi_extra=openapi.spending(DetectIn, one=True),
)
@router.post("/yolo/detect", include_in_schema=False, response_model=None)
@advertised.post("/detect", response_model=None)
async def detect(request: Request, caller: SenderDependency) -> Response:
    """Send a picture as JSON (`image_url` or base64 `image`), as a form (`file`) or as the bare body.

    The price is held, the model runs, and the price is taken together with the result; any failure gives all of it
    back. A picture that the account has sent before, with the same model and size, is free.
    """
    app = current()
    stages = Stages()
    with budget.reserve(caller.account_id) as reservation:
        body = await read_body(request, reservation, app.settings.image_bytes_max * 4 // 3 + _OVERHEAD_BYTES)
        key = read_idempotency_key(request)
        return await lane.run(app, caller.account_id, lambda: _detect(app, caller, body, key, stages))


def _detect(app: Application, caller: ApiCaller, body: Body, key: str | None, stages: Stages) -> Response:
    options = parse_fields(DetectIn, body.fields)
    picture = _only_picture(body, options)
    facts = {
        "operation": "detect",
        "image": dict(picture.facts),
        **options.facts(without={"image", "image_url", "name"}),
    }
    outcome = detection.find_answered(app, caller, key, facts) if key is not None else None
    data = None
    if outcome is None:
        # Before anything is paid: a drawing needs no format.
        if options.annotated is None:
            require_format(app, options.model, options.format)
        app.rates.hit_images(caller.id, 1)
        data = load_picture(app, picture, stages)
        outcome = detection.detect(
            app,
            caller,
            data,
            name=picture.name,
            model=options.model,
            img_size=options.img_size,
            tile_px=options.tile_px,
            key=key,
            request=facts,
            stages=stages,
        )
    found = wanted(outcome.detections, options.confidence, options.classes)
    times_ms = stages.so_far()
    if not outcome.replayed:
        metrics.count_stages(times_ms)
    headers = detect_headers(outcome, times_ms)
    if options.annotated is not None:
        data = data or picture.data or _stored_picture(app, caller, outcome)
        return Response(draw_found(app, data, found), media_type=PNG, headers=headers)
    image = Labelled(outcome.image.name, outcome.image.width, outcome.image.height, found)
    return write(options.format, [image], detect_answer(outcome, found, times_ms), headers)


def _stored_picture(app: Application, caller: ApiCaller, outcome: detection.Detected) -> bytes:
    """The file that was charged: one that was free, because it has the same pixels, is not stored."""
    charged = run_report.get_stored_result(app, caller, outcome.result_id).image
    return app.blobs.get(caller.account_id, charged.file_sha256)


def _only_picture(body: Body, options: DetectIn) -> Picture:
    if body.files:
        if len(body.files) > 1 or options.image or options.image_url:
            raise InvalidRequestError(
                "One picture at a time here: send many to /v1/batch.",
                errors=[{"field": "file", "message": "one picture"}],
            )
        name, data = body.files[0]
        return picture_of_file(options.name or name, data)
    return picture_of_json(ImageIn(image_url=options.image_url, image=options.image, name=options.name))


def write(format: str, images: list[Labelled], answer: Any, headers: dict[str, str] | None = None) -> Response:
    """An answer in the format that was asked for: `json` as it is, the others from the labelled images."""
    if format == "coco":
        return JSONResponse(to_coco(images), headers=headers)
    if format == "yolo":
        return Response("".join(to_yolo(image) for image in images), media_type="text/plain", headers=headers)
    if format == "csv":
        return Response(to_csv(images), media_type="text/csv", headers=headers)
    return JSONResponse(answer, headers=headers)
