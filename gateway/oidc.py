"""`GET /session/oidc` sends a browser to the identity provider, `GET /session/oidc/callback` takes it back.

What ends badly ends on the page that it began on, with one word of a closed list in the address. Nobody is sent
anywhere but to the provider and to pages of our own.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlencode

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from core.config import SESSION_COOKIE
from core.errors import OidcRefusedError, TooManyFromHereError, VisionMeterError
from core.identity.oidc_rows import START_TTL
from core.services import oidc_sign_in, sign_in
from core.services.application import current
from core.services.oidc_sign_in import Returned
from gateway.session import set_session_cookie

T = TypeVar("T")

log = logging.getLogger("visionmeter")

# Sign-ins that ask the provider, or the database, at a time.
PLACES = 16

START_COOKIE = "visionmeter_oidc"
COOKIE_PATH = "/session/oidc"
VALUE_CHARACTERS_MAX = 4096

_LINKS = re.compile(r"1|[A-Za-z0-9_-]{43}")
_INVITATION = re.compile(r"[A-Za-z0-9_-]{1,100}")
# A page of ours. Not `//host`, nor a backslash, which browsers take for a slash.
_PAGE = re.compile(r"/(?:[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*/?)?(?:\?[A-Za-z0-9_=&%.+-]*)?")
_PAGE_CHARACTERS_MAX = 500


@dataclass(frozen=True, slots=True)
class Wish:
    """What a sign-in is to end in. It comes from an address or a cookie, and is whatever somebody put there."""

    language: str
    links: str  # the permit of `oidc_sign_in.permit_link`, or "1" without one; empty to sign in
    invitation: str
    page: str

    @staticmethod
    def read(language: str, links: str, invitation: str, page: str) -> Wish:
        """What can be used of it."""
        is_page = len(page) <= _PAGE_CHARACTERS_MAX and _PAGE.fullmatch(page)
        return Wish(
            language="zh_CN" if language.startswith("zh") else "en",
            links=links if _LINKS.fullmatch(links) else "",
            invitation=invitation if _INVITATION.fullmatch(invitation) else "",
            page=page if is_page else "/",
        )

    def write(self) -> str:
        """As `read` takes it, between dots; the page, which may have dots, comes last."""
        return f"{self.language}.{self.links}.{self.invitation}.{self.page}"


class _Lane:
    """Threads of their own: a provider that hangs must not take those that all other requests share."""

    def __init__(self) -> None:
        self._limiter: anyio.CapacityLimiter | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """Run blocking work. Raises `OidcRefusedError` at once when all places are taken."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(PLACES)
        if self._limiter.available_tokens < 1:
            raise OidcRefusedError("Earlier questions to the identity provider hang.", reason="provider")
        return await anyio.to_thread.run_sync(work, limiter=self._limiter)


_lane = _Lane()


async def start(request: Request) -> Response:
    """303 to the provider, with the cookie that the callback asks for; 404 where none is configured."""
    app = current()
    if not oidc_sign_in.is_offered(app):
        return Response(status_code=404)
    asked = request.query_params
    wish = Wish.read(*(asked.get(name, "") for name in ("language", "link", "invite", "page")))
    if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        # Another site's link would sign somebody in who did not ask for it.
        return _go("/")
    try:
        url, secret = await _lane.run(lambda: oidc_sign_in.start(app, address=_client(request)))
    except VisionMeterError as error:
        return _refuse(error, wish)
    response = _go(url)
    response.set_cookie(
        START_COOKIE,
        f"{secret}.{wish.write()}",
        max_age=int(START_TTL.total_seconds()),
        httponly=True,
        # The provider's page sends the browser back with a link, which `Strict` would come without it.
        samesite="lax",
        secure=_is_secure(request),
        path=COOKIE_PATH,
    )
    return response


async def callback(request: Request) -> Response:
    """303 to a page of ours: with the session's cookie, with the identity linked, or with why there is neither."""
    app = current()
    if not oidc_sign_in.is_offered(app):
        return Response(status_code=404)
    secret, *wished = [*request.cookies.get(START_COOKIE, "").split(".", 4), "", "", "", ""][:5]
    wish = Wish.read(*wished)
    said = {name: request.query_params.get(name, "")[:VALUE_CHARACTERS_MAX] for name in ("state", "code")}
    if "error" in request.query_params:
        said["code"] = ""
    returned = Returned(secret, **said, issuer=request.query_params.get("iss"), address=_client(request))
    token = None
    try:
        if wish.links:
            await _lane.run(lambda: _link(returned, wish, request.cookies.get(SESSION_COOKIE)))
        else:
            token = await _lane.run(lambda: _sign_in(returned, wish, request.headers.get("user-agent", "")))
    except VisionMeterError as error:
        return _refuse(error, wish)
    response = _go(wish.page)
    if token is not None:
        set_session_cookie(response, token, is_secure=_is_secure(request))
    return _without_start(response)


def _sign_in(returned: Returned, wish: Wish, user_agent: str) -> str:
    app = current()
    ticket = oidc_sign_in.finish(app, returned, language=wish.language, invitation=wish.invitation or None)
    return sign_in.open_session(app, ticket, user_agent=user_agent)


def _link(returned: Returned, wish: Wish, token: str | None) -> None:
    app = current()
    user = sign_in.signed_in_user(app, token)
    if user is None:
        raise OidcRefusedError("Nobody is signed in here to link it to.", reason="state")
    oidc_sign_in.link(app, user, returned, permit=wish.links)


def _refuse(error: VisionMeterError, wish: Wish) -> Response:
    reason = "too_many" if isinstance(error, TooManyFromHereError) else str(error.details.get("reason", "state"))
    log.warning("a sign-in at the identity provider came to nothing: %s", error.message)
    # With its invitation: he may try again as somebody else, or with a password.
    why = {"sign_in_failed": reason, **({"invite": wish.invitation} if wish.invitation else {})}
    return _without_start(_go(f"{wish.page}{'&' if '?' in wish.page else '?'}{urlencode(why)}"))


def _go(address: str) -> Response:
    return RedirectResponse(address, 303, headers={"Cache-Control": "no-store"})


def _without_start(response: Response) -> Response:
    response.delete_cookie(START_COOKIE, path=COOKIE_PATH, httponly=True, samesite="lax")
    return response


def _client(request: Request) -> str | None:
    return request.client.host if request.client else None


def _is_secure(request: Request) -> bool:
    settings = current().settings
    return settings.cookie_secure or request.url.scheme == "https" or settings.public_url.startswith("https:")


def oidc_routes() -> list[Route]:
    """The routes to put beside the portal, before `/session`."""
    return [
        Route("/session/oidc", start, methods=["GET"]),
        Route(oidc_sign_in.CALLBACK_PATH, callback, methods=["GET"]),
    ]
