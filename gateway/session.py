"""`POST /session` sets the cookie, `DELETE /session` ends the session and clears it.

Streamlit cannot set cookies. A form in the portal verifies the password and gets a single-use ticket; a tiny
component in the page posts it here, same-origin. `Origin` is checked, so another site cannot sign anybody in.
"""

from __future__ import annotations

import json

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from core.config import SESSION_COOKIE
from core.errors import VisionMeterError
from core.services import sign_in
from core.services.application import current
from gateway.guard import same_origin

BODY_BYTES_MAX = 4096


async def open_session(request: Request) -> Response:
    """204 with the cookie; 403 from another origin; 400 for a ticket that is unknown, used or expired."""
    if not same_origin(request.headers):
        return JSONResponse({"code": "bad_origin", "title": "Sign in on the portal's own page."}, 403)
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            return JSONResponse({"code": "bad_ticket", "title": "The request is too large."}, 413)
    try:
        ticket = json.loads(body)["ticket"]
        if not (isinstance(ticket, str) and ticket.isascii()):
            raise TypeError("a ticket is plain text")
    except (ValueError, TypeError, KeyError, RecursionError):
        return JSONResponse({"code": "bad_ticket", "title": "Sign in again."}, 400)
    app = current()
    try:
        user_agent = request.headers.get("user-agent", "")
        token = await run_in_threadpool(sign_in.open_session, app, ticket, user_agent=user_agent)
    except VisionMeterError as error:
        return JSONResponse({"code": error.code, "title": error.message}, 400)
    response = Response(status_code=204)
    set_session_cookie(response, token, is_secure=request.url.scheme == "https")
    return response


def set_session_cookie(response: Response, token: str, *, is_secure: bool) -> None:
    """Give the browser its session; under TLS (`is_secure`, or as the settings say) it sends it under TLS alone."""
    settings = current().settings
    response.set_cookie(
        SESSION_COOKIE,
        token,
        max_age=settings.session_ttl_h * 3600,
        httponly=True,
        samesite="lax",
        secure=settings.cookie_secure or is_secure,
        path="/",
    )


async def close_session(request: Request) -> Response:
    """204; the session is revoked on the server, so a copied cookie is worth nothing."""
    if not same_origin(request.headers):
        return JSONResponse({"code": "bad_origin", "title": "Sign out on the portal's own page."}, 403)
    token = request.cookies.get(SESSION_COOKIE)
    if token:
        await run_in_threadpool(sign_in.sign_out, current(), token)
    response = Response(status_code=204)
    response.delete_cookie(SESSION_COOKIE, path="/", httponly=True, samesite="lax")
    return response


def session_routes() -> list[Route]:
    """The routes to put beside the portal."""
    return [
        Route("/session", open_session, methods=["POST"]),
        Route("/session", close_session, methods=["DELETE"]),
    ]
