"""Quotes, batches and jobs: many pictures, one price, one settlement."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated

import anyio
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from core.errors import (
    ImageEmptyError,
    InvalidRequestError,
    TooManyImagesError,
)
from core.identity.callers import ApiCaller
from core.inference.exports import Labelled
from core.jobs.tables import Job
from core.pricing.tables import Quote
from core.services import kept_quotes, metered_detection, quotes, run_report
from core.services.api_keys import budget_of, require_model
from core.services.application import Application, current
from core.services.job_runner import cancel_job
from core.services.quotes import PreparedImage
from core.services.run_exports import require_format
from core.services.run_report import RunReport
from core.services.stages import Stages
from core.services.team import require_role
from gateway import openapi
from gateway.answers import job_answer, quote_answer, wanted
from gateway.auth import CallerDependency, SenderDependency, read_idempotency_key
from gateway.bodies import (
    Body,
    Picture,
    load_picture,
    naming_picture,
    parse_fields,
    picture_of_file,
    picture_of_json,
    read_body,
)
from gateway.detect import budget, lane, write
from gateway.openapi import problems
from gateway.query import ClassNames
from gateway.shapes import (
    DEFAULT_CONFIDENCE,
    BatchIn,
    Confidence,
    Format,
    ImageIn,
    JobIn,
    JobList,
    JobOut,
    QuoteIn,
    QuoteOut,
    RunOptions,
)

router = APIRouter()

# Of a batch that is waited for, how often it is looked at: by and by less often.
WAIT_POLL_S = 0.05
WAIT_POLL_S_MAX = 0.5

# Quotes --------------------------------------------------------------------------------------------


@router.post(
    "/quotes",
    status_code=201,
    summary="The exact price of pictures, before anything runs",
    response_model=QuoteOut,
    responses=problems(*openapi.SPENDING),
    openapi_extra=openapi.body(QuoteIn, one=True, many=True),
)
async def make_quote(request: Request, caller: SenderDependency) -> Response:
    """Nothing is held. The quote binds until `expires_at`: running it can never take more.

    The pictures are kept for it, so that a batch or a job may name the quote alone, until a day after it has expired.
    There is a limit to what waits for the unrun quotes of an account: 409 says how much it is and when some of it goes.
    """
    app = current()
    with budget.reserve(caller.account_id) as reservation:
        body = await read_body(request, reservation, app.settings.request_bytes_max)
        quote = await lane.run(app, caller.account_id, lambda: _quote(app, caller, body))
    return JSONResponse(quote_answer(quote), status_code=201)


def _quote(app: Application, caller: ApiCaller, body: Body) -> Quote:
    options = parse_fields(QuoteIn, body.fields)
    one = ImageIn(image_url=options.image_url, image=options.image, name=options.name)
    named = [one] if options.image_url is not None or options.image is not None else []
    pictures = _pictures(app, body, [*named, *(options.images or [])])
    _require_priced(app, caller, pictures, options)
    images = _prepare(app, pictures)
    return kept_quotes.quote_and_keep(
        app, caller, images, model=options.model, img_size=options.img_size, tile_px=options.tile_px
    )


@router.get("/quotes/{quote_id}", response_model=QuoteOut, responses=problems(404), summary="A quote")
def get_quote(caller: CallerDependency, quote_id: str) -> Response:
    """A quote of the account, also when it has expired."""
    return JSONResponse(quote_answer(quotes.get_quote(current(), caller, quote_id)))


# Runs ----------------------------------------------------------------------------------------------


@router.post(
    "/batch",
    summary="Run many pictures and wait for all of them",
    response_model=None,
    responses={
        **openapi.alternatives("The finished job with the outcome of each picture.", JobOut, **openapi.FORMATS),
        **problems(*openapi.SPENDING),
    },
    openapi_extra=openapi.spending(BatchIn, many=True),
)
async def run_batch(request: Request, caller: SenderDependency) -> Response:
    """One quote with the discount of its size, one hold, an outcome for each picture; what fails costs nothing.

    The job goes on if the connection breaks: send the request again with the same `Idempotency-Key`, or look for it
    under `/v1/jobs`.
    """
    app = current()
    with budget.reserve(caller.account_id) as reservation:
        body = await read_body(request, reservation, app.settings.request_bytes_max)
        key = read_idempotency_key(request)
        options = parse_fields(BatchIn, body.fields)
        job, replayed = await lane.run(app, caller.account_id, lambda: _start(app, caller, body, options, key, None))
    pause_s = WAIT_POLL_S
    while job.status != "finished":
        await anyio.sleep(pause_s)
        pause_s = min(WAIT_POLL_S_MAX, pause_s * 1.1)
        job = await run_in_threadpool(run_report.get_run, app, caller, job.id)
    report = await run_in_threadpool(run_report.report_run, app, caller, job.id, with_outcomes=True)
    return _write_results(report, options.format, options.confidence, options.classes, replayed=replayed)


@router.post(
    "/jobs",
    status_code=202,
    summary="Run many pictures without waiting",
    response_model=JobOut,
    responses=problems(*openapi.SPENDING),
    openapi_extra=openapi.spending(JobIn, many=True),
)
async def create_job(request: Request, caller: SenderDependency) -> Response:
    """The same as a batch, answered at once. Follow it by `GET`, by events, or by a webhook."""
    app = current()
    with budget.reserve(caller.account_id) as reservation:
        body = await read_body(request, reservation, app.settings.request_bytes_max)
        key = read_idempotency_key(request)
        options = parse_fields(JobIn, body.fields)
        job, replayed = await lane.run(
            app, caller.account_id, lambda: _start(app, caller, body, options, key, options.webhook_url)
        )
    report = await run_in_threadpool(run_report.report_run, app, caller, job.id)
    headers = {"Location": f"/v1/jobs/{job.id}", **({"Idempotent-Replayed": "true"} if replayed else {})}
    return JSONResponse(job_answer(report, with_results=False), status_code=202, headers=headers)


@router.get("/jobs", response_model=JobList, responses=problems(404), summary="The newest jobs")
def list_jobs(
    caller: CallerDependency,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    before: Annotated[str | None, Query(max_length=64, description="A job's id: go on after it.")] = None,
) -> Response:
    """Newest first, without results."""
    app = current()
    start: tuple[datetime, str] | None = None
    if before is not None:
        last = run_report.get_run(app, caller, before)
        start = (last.created_at, last.id)
    reports = run_report.list_runs(app, caller, limit=limit, before=start)
    following = reports[-1].job.id if len(reports) == limit else None
    return JSONResponse({"jobs": [job_answer(report, with_results=False) for report in reports], "next": following})


@router.get("/jobs/{job_id}", response_model=JobOut, responses=problems(404), summary="A job")
def get_job(caller: CallerDependency, job_id: str) -> Response:
    """How far it is and what it cost so far."""
    return JSONResponse(job_answer(run_report.report_run(current(), caller, job_id), with_results=False))


@router.get(
    "/jobs/{job_id}/results",
    response_model=None,
    responses={
        **openapi.alternatives("The job with the outcome of each picture so far.", JobOut, **openapi.FORMATS),
        **problems(404),
    },
    summary="The outcomes of a job",
)
def get_job_results(
    caller: CallerDependency,
    job_id: str,
    names: ClassNames,
    format: Format = "json",
    confidence: Confidence = DEFAULT_CONFIDENCE,
) -> Response:
    """Free as often as it is read; another confidence or other classes are a filter, not a run."""
    report = run_report.report_run(current(), caller, job_id, with_outcomes=True)
    return _write_results(report, format, confidence, names)


@router.post(
    "/jobs/{job_id}/cancel",
    response_model=JobOut,
    responses=problems(404),
    summary="Cancel what has not started",
)
def cancel(caller: CallerDependency, job_id: str) -> Response:
    """Its price is given back at once; the picture in hand is finished. Cancelling again changes nothing."""
    app = current()
    cancel_job(app, caller, job_id)
    return JSONResponse(job_answer(run_report.report_run(app, caller, job_id), with_results=False))


# Starting one --------------------------------------------------------------------------------------


def _start(
    app: Application,
    caller: ApiCaller,
    body: Body,
    options: BatchIn,
    key: str | None,
    webhook_url: str | None,
) -> tuple[Job, bool]:
    """The job of a request, and whether its idempotency key had started it before."""
    require_role(caller, "member")
    if options.quote_id is not None and (body.files or options.images):
        raise InvalidRequestError(
            "Send a quote_id or pictures, and not both.", errors=[{"field": "quote_id", "message": "alone"}]
        )
    pictures = [] if options.quote_id is not None else _pictures(app, body, options.images or [])
    request = {
        "operation": "run",
        "images": [dict(picture.facts) for picture in pictures],
        **options.facts(without={"images", "format", "confidence", "classes"}),
    }
    if key is not None:
        earlier = metered_detection.find_run(app, caller, key, request)
        if earlier is not None:
            return earlier, True
    if webhook_url is not None:
        app.fetcher.check_webhook_url(webhook_url)
    runs_max = app.rates.limits.jobs_concurrent
    # Before a picture is fetched; what decides is the look in the transaction that stores the run.
    with app.db.read() as session:
        metered_detection.require_free_run(session, caller.account_id, runs_max)
    if options.quote_id is None:
        _require_priced(app, caller, pictures, options)
        require_format(app, options.model, options.format)
        images = _prepare(app, pictures)
        job = kept_quotes.quote_and_run(
            app,
            caller,
            images,
            model=options.model,
            img_size=options.img_size,
            tile_px=options.tile_px,
            idempotency_key=key,
            request=request,
            webhook_url=webhook_url,
            runs_max=runs_max,
        )
        return job, False
    quote = quotes.get_quote(app, caller, options.quote_id)
    _require_same(quote, options)
    require_model(caller, quote.model)
    require_format(app, quote.model, options.format)
    job = metered_detection.submit_quote(
        app,
        caller,
        quote.id,
        app.blobs.kept(quote.account_id, quote.id),
        idempotency_key=key,
        request=request,
        budget_id=budget_of(caller),
        webhook_url=webhook_url,
        runs_max=runs_max,
    )
    return job, False


def _require_same(quote: Quote, options: RunOptions) -> None:
    """Raise `InvalidRequestError` for a request that asks for another model or size than the quote that it names."""
    for name in ("model", "img_size", "tile_px"):
        asked, quoted = getattr(options, name), getattr(quote, name)
        if name in options.model_fields_set and asked != quoted:
            raise InvalidRequestError(
                f"The quote is for {name} {quoted}, not {asked}: leave {name} out, or quote anew.",
                errors=[{"field": name, "message": "another one than the quote's"}],
            )


def _pictures(app: Application, body: Body, images: list[ImageIn]) -> list[Picture]:
    count = len(body.files) + len(images)
    if count == 0:
        raise ImageEmptyError("There is no picture in the request: send one or more.")
    if count > app.settings.batch_images_max:
        raise TooManyImagesError(
            f"At most {app.settings.batch_images_max} images run in one batch: send fewer at once.",
            images_max=app.settings.batch_images_max,
        )
    pictures = [picture_of_file(name, data) for name, data in body.files]
    for image in images:
        with naming_picture(len(pictures), count):
            pictures.append(picture_of_json(image))
    return pictures


def _require_priced(app: Application, caller: ApiCaller, pictures: list[Picture], options: RunOptions) -> None:
    """Refuse what could not be quoted before a picture is fetched, and count the pictures."""
    require_model(caller, options.model)
    quotes.require_size(options.img_size)
    quotes.require_tiles([], app.registry.resolve(options.model).model, options.tile_px)
    app.rates.hit_images(caller.id, len(pictures))


def _prepare(app: Application, pictures: list[Picture]) -> Iterator[tuple[PreparedImage, bytes]]:
    """Each picture with its bytes, when its turn comes."""
    stages = Stages()
    for position, picture in enumerate(pictures):
        with naming_picture(position, len(pictures)):
            data = load_picture(app, picture, stages)
            image = quotes.prepare_image(app, picture.name, data)
        yield image, data


def _write_results(
    report: RunReport, format: str, confidence: float, classes: list[str] | None, *, replayed: bool = False
) -> Response:
    images = [
        Labelled(one.image.name, one.image.width, one.image.height, wanted(one.detections, confidence, classes))
        for one in report.outcomes
        if one.detections is not None
    ]
    answer = job_answer(report, with_results=True, confidence=confidence, classes=classes)
    return write(format, images, answer, {"Idempotent-Replayed": "true"} if replayed else None)
