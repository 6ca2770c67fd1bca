"""Stored results by their id: free as often as they are read."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from core.identity.callers import ApiCaller
from core.inference.exports import Labelled
from core.services.application import Application, current
from core.services.run_exports import draw_found
from core.services.run_report import get_stored_result
from gateway import openapi
from gateway.answers import result_answer, wanted
from gateway.auth import CallerDependency
from gateway.detect import PNG, lane, write
from gateway.openapi import problems
from gateway.query import ClassNames
from gateway.shapes import DEFAULT_CONFIDENCE, Confidence, Format, ResultOut

router = APIRouter()


@router.get(
    "/results/{result_id}",
    summary="A stored result",
    response_model=None,
    responses={
        **openapi.alternatives(
            "The detections.", ResultOut, **openapi.FORMATS, image_png={"type": "string", "format": "binary"}
        ),
        **problems(404, 503),
    },
)
async def get_result(
    caller: CallerDependency,
    result_id: str,
    names: ClassNames,
    format: Format = "json",
    confidence: Confidence = DEFAULT_CONFIDENCE,
    annotated: Literal["png"] | None = None,
) -> Response:
    """Detections are stored down to a confidence of 0.05: another confidence is a filter, not a run."""
    app = current()
    if annotated is None:
        return await run_in_threadpool(_read_result, app, caller, result_id, format, confidence, names)
    # Drawing takes as long as a detection: it stands in the same lane, and is refused when that is full.
    return await lane.run(app, caller.account_id, lambda: _draw_result(app, caller, result_id, confidence, names))


def _read_result(
    app: Application, caller: ApiCaller, result_id: str, format: str, confidence: float, names: list[str] | None
) -> Response:
    stored = get_stored_result(app, caller, result_id)
    found = wanted(stored.detections, confidence, names)
    image = Labelled(stored.image.name, stored.image.width, stored.image.height, found)
    return write(format, [image], result_answer(stored, found))


def _draw_result(
    app: Application, caller: ApiCaller, result_id: str, confidence: float, names: list[str] | None
) -> Response:
    stored = get_stored_result(app, caller, result_id)
    data = app.blobs.get(caller.account_id, stored.image.file_sha256)
    return Response(draw_found(app, data, wanted(stored.detections, confidence, names)), media_type=PNG)
