"""The HTTP gateway: everything that a program may ask, under `/v1`.

`app.py` mounts it beside the portal. `uvicorn gateway.main:app` serves it alone, for those who split the two.
"""

from __future__ import annotations

import gc
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.config import load_settings
from core.inference.memory import return_large_blocks
from core.logs import configure_logging
from core.services import admin, application
from core.services.application import Application, current
from core.services.card_keeper import CardKeeper
from core.services.job_runner import JobRunner
from core.services.mails import MailKeeper
from core.services.model_watch import ModelWatcher
from core.services.webhooks import WebhookSender
from gateway import (
    account,
    account_shapes,
    detect,
    docs,
    events,
    metrics,
    my_data,
    openapi,
    receipts,
    results,
    runs,
    shapes,
    stripe_events,
    webhooks,
)
from gateway.answers import webhook_body
from gateway.bodies import require_text
from gateway.headers import SecurityHeaders
from gateway.observe import Observe
from gateway.problems import add_handlers

DESCRIPTION = (
    "Metered YOLO detection. Every amount is in tokens, every price is known before anything runs, and every request "
    "that spends may be repeated under one `Idempotency-Key`."
)


def create_api() -> FastAPI:
    """The FastAPI application, mounted at `/v1`."""
    api = FastAPI(
        title="VisionMeter",
        version="1",
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(require_text)],
    )
    add_handlers(api)
    for module in (detect, runs, events, results, receipts, account, my_data, webhooks, stripe_events, metrics, docs):
        api.include_router(module.router)
    api.add_middleware(HeadAsGet)

    @api.get("/healthz", summary="The process answers")
    def healthz() -> dict[str, str]:
        """No more than that: ask /readyz whether it can work."""
        return {"status": "ok"}

    @api.get("/readyz", summary="Whether it can work", responses={503: {"description": "It says what is missing."}})
    def readyz() -> JSONResponse:
        """The database answers and a model can run; 503 with the reason otherwise."""
        app = current()
        problems = []
        try:
            with app.db.read() as session:
                session.connection().execute(text("SELECT 1"))
        except SQLAlchemyError:
            problems.append("database")
        ready = [view.model.name for view in admin.list_models(app) if view.version is not None]
        if not ready:
            problems.append("models")
        if app.hands.runner is None:
            problems.append("runner")
        if app.engine.is_stuck:
            problems.append("engine")
        return JSONResponse(
            {
                "status": "ready" if not problems else "not ready",
                "problems": problems,
                "device": app.engine.device_name,
                "backends": sorted(set(app.engine.backends.values())),
                "models": ready,
            },
            status_code=503 if problems else 200,
        )

    openapi.install(api, [*shapes.NAMED, account_shapes.KeyIn, account_shapes.RotateIn])
    return api


def gateway_routes() -> list[BaseRoute]:
    """`/v1`, and the advertised `/yolo/detect` beside it, which is the same operation."""
    api = create_api()
    advertised = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        dependencies=[Depends(require_text)],
    )
    add_handlers(advertised)
    advertised.include_router(detect.advertised)
    return [Route("/v1", _to_documentation), _mount("/v1", api), _mount("/yolo", advertised)]


class HeadAsGet:
    """ASGI middleware: HEAD is answered as GET is, without the body. A stream has no end to wait for: not it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let routes that know GET answer HEAD."""
        if scope["type"] != "http" or scope["method"] != "HEAD" or scope["path"].endswith("/events"):
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app({**scope, "method": "GET"}, receive, send_head)


async def _to_documentation(_request: Request) -> Response:
    """Whoever opens the bare address gets to know the API, not the portal's page."""
    return RedirectResponse("v1/docs")


def _mount(path: str, api: FastAPI) -> Mount:
    """A mount that also takes a path with a line break in it: to Starlette's own, such a path is not below it."""
    mount = Mount(path, api)
    mount.path_regex = re.compile(mount.path_regex.pattern, re.DOTALL)
    return mount


def _redis_probe(app: Application) -> Callable[[], metrics.RedisState] | None:
    """How Redis is, from what is known; None without one."""
    link = app.redis
    if link is None:
        return None
    return lambda: metrics.RedisState(link.state == "closed", link.failures, app.rates.fallbacks)


@asynccontextmanager
async def lifespan(_app: Any) -> AsyncIterator[dict[str, Any]]:
    """Open the database, start engine, runner and webhooks; stop them in reverse."""
    settings = load_settings()
    configure_logging(settings)
    return_large_blocks()
    vision_meter = application.open_application(settings)
    vision_meter.engine.start()
    watcher = ModelWatcher(vision_meter)
    watcher.start()
    application.warm_models(vision_meter)
    runner = JobRunner(vision_meter)
    runner.start()
    sender = WebhookSender(vision_meter, webhook_body, told=metrics.count_delivery)
    sender.start()
    cards = CardKeeper(vision_meter)
    cards.start()
    mails = MailKeeper(vision_meter, told=metrics.count_mail)
    mails.start()
    application.set_current(vision_meter)
    metrics.set_redis_probe(_redis_probe(vision_meter))
    # Streamlit runs a full collection after every script run. What is loaded by now never becomes garbage,
    # so it is taken out of the collector's sight (bench/rerun_latency.py shows what that is worth).
    gc.collect()
    if settings.gc_freeze:
        gc.freeze()
    application.log.info("VisionMeter is ready; models run on %s", vision_meter.engine.device_name)
    try:
        yield {}
    finally:
        watcher.stop()
        mails.stop()
        cards.stop()
        sender.stop()
        runner.stop()
        vision_meter.engine.stop()
        application.set_current(None)
        vision_meter.close()


app = Starlette(
    routes=gateway_routes(), lifespan=lifespan, middleware=[Middleware(Observe), Middleware(SecurityHeaders)]
)
add_handlers(app)
