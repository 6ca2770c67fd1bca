"""Before Streamlit sees a request: uploads need a session and have a size, files that pages show are for whom they were
shown to, and websockets come from our own pages."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from core.config import SESSION_COOKIE
from core.identity.tables import User
from core.services import media, sign_in
from core.services.application import current

UPLOADS = "/_stcore/upload_file"
# What pages show. Streamlit's own fonts lie in /static/media/, and are for everybody.
MEDIA = re.compile(r"(?<!/static)/media/([^/]+)$")
# Around a file are the lines of a form.
FORM_BYTES = 1_000_000

_NO_SUCH_FILE = JSONResponse(
    {"code": "not_found", "title": "There is no such file."}, 404, headers={"Cache-Control": "no-store"}
)


class PortalGuard:
    """ASGI middleware around the portal.

    Streamlit takes files from anybody who has opened a page, signed in or not, and keeps them in memory; it knows one
    largest size, which is that of an operator's weights; it gives the pictures and files of a page to anybody who has
    their address; and it lets every port of this host open a websocket, with our cookies. None of that is wanted here.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer an upload with 401, 411 or 413, a file of another's page with 404, or close a
        websocket of another origin."""
        if scope["type"] == "websocket" and not same_origin(Headers(scope=scope)):
            await WebSocketClose(code=1008, reason="another origin")(scope, receive, send)
            return
        if scope["type"] == "http" and UPLOADS in scope["path"] and scope["method"] != "OPTIONS":
            token = HTTPConnection(scope).cookies.get(SESSION_COOKIE)
            user = await run_in_threadpool(sign_in.signed_in_user, current(), token)
            refusal = _refuse_upload(user, Headers(scope=scope)) if scope["method"] != "DELETE" or not user else None
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        if scope["type"] == "http" and (shown := MEDIA.search(scope["path"])):
            token = HTTPConnection(scope).cookies.get(SESSION_COOKIE)
            if not await run_in_threadpool(_may_open, shown[1], token):
                await _NO_SUCH_FILE(scope, receive, send)
                return
            send = _privately(send)
        if scope["type"] == "http" and scope["path"].endswith("/_stcore/metrics"):
            # How many sessions there are, and what they take, is the operator's business: /v1/metrics asks for a token.
            await _NO_SUCH_FILE(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _privately(send: Send) -> Send:
    """What no cache between here and the browser may keep: it would give it to the next who asks."""

    async def send_privately(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Cache-Control"] = "private, max-age=60"
            headers.add_vary_header("Cookie")
        await send(message)

    return send_privately


def _may_open(name: str, token: str | None) -> bool:
    file_id = PurePosixPath(name).stem
    # The wordmark, which everybody sees, needs no look at who it is.
    if media.may_open(file_id, None):
        return True
    user = sign_in.signed_in_user(current(), token)
    return user is not None and media.may_open(file_id, user.id)


def _refuse_upload(user: User | None, headers: Headers) -> JSONResponse | None:
    if user is None:
        return JSONResponse({"code": "unauthorized", "title": "Sign in first."}, 401)
    if user.is_operator:
        return None
    length = headers.get("content-length", "")
    if not length.isdecimal():
        return JSONResponse({"code": "length_required", "title": "Say how long it is."}, 411)
    if int(length) > current().settings.image_bytes_max + FORM_BYTES:
        return JSONResponse({"code": "request_too_large", "title": "Choose a smaller file."}, 413)
    return None


def same_origin(headers: Headers) -> bool:
    """Whether a request says that it comes from a page of this very host and port."""
    origin = headers.get("origin")
    try:
        return origin is not None and urlsplit(origin).netloc == headers.get("host")
    except ValueError:
        return False
