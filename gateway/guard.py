"""Before Streamlit sees a request: uploads need a session and have a size, and websockets come from our own pages."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from core.config import SESSION_COOKIE
from core.identity.tables import User
from core.services import sign_in
from core.services.application import current

UPLOADS = "/_stcore/upload_file"
# Around a file are the lines of a form.
FORM_BYTES = 1_000_000


class PortalGuard:
    """ASGI middleware around the portal.

    Streamlit takes files from anybody who has opened a page, signed in or not, and keeps them in memory; it knows one
    largest size, which is that of an operator's weights; and it lets every port of this host open a websocket, with our
    cookies. None of that is wanted here.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer an upload with 401, 411 or 413, or close a websocket of another origin."""
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
        await self._app(scope, receive, send)


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
