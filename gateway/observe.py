"""Around every request of the gateway: an id, one log line, the metrics, and an answer when something breaks.

Pure ASGI: what is streamed passes message by message. The portal's own traffic passes by.
"""

from __future__ import annotations

import logging
import re
import time
from collections import deque

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.db import new_id
from core.logs import request_facts
from core.rates import RateLimiter
from gateway import metrics
from gateway.problems import make_problem

log = logging.getLogger("visionmeter.http")

PREFIXES = ("/v1", "/yolo")
# nginx's status of a request whose client left before it was answered; it is only logged and counted.
CLIENT_LEFT = 499
# Asked every few seconds by machines: their successes are written at DEBUG.
PROBES = frozenset({"/v1/healthz", "/v1/readyz", "/v1/metrics"})
INTERNAL = (
    "Something went wrong here. Send the request again with the same Idempotency-Key; if it fails again, tell the "
    "operator its request_id."
)

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PARAMETER = re.compile(r"\{(\w+)(:path)?[^}]*\}")


class Observe:
    """ASGI middleware, outermost. `scope["state"]["request_id"]` is set before anything else runs.

    Whoever authenticates puts `account_id` and `key_id` beside it, which from then on stand on every log line, and
    the `rates` that the key is limited by.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request of the gateway through an `_Exchange`, anything else by."""
        if scope["type"] != "http" or not _is_gateway(scope):
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"] = choose_request_id(Headers(scope=scope).get("x-request-id"))
        with request_facts(state):
            await _Exchange(scope, receive, send, state["request_id"]).run(self._app)


def choose_request_id(wanted: str | None) -> str:
    """The client's own id when it is 1 to 64 of `A-Za-z0-9_.-`, else a fresh one."""
    return wanted if wanted is not None and _REQUEST_ID.fullmatch(wanted) else new_id("req")


def route_template(scope: Scope) -> str:
    """The path of the route that matched, `/v1/jobs/{job_id}` say, or `other`: never what the caller wrote."""
    route = scope.get("route")
    below: str | None = getattr(route, "path", None)
    if below is None or isinstance(route, Mount):
        return metrics.OTHER
    parameters = _PARAMETER.findall(below)
    below = _PARAMETER.sub(r"{\1}", below)
    if any(is_path for _name, is_path in parameters):
        before = _own_root(scope).split("/")
    else:
        # A route knows the path below the routers that include it; before stands the start of the path called.
        called = _path(scope).rstrip("/").split("/")
        before = called[: max(0, len(called) - below.rstrip("/").count("/"))]
    own = {name for name, _is_path in parameters}
    outer = {str(value): name for name, value in scope.get("path_params", {}).items() if name not in own}
    template = "/".join(f"{{{outer[part]}}}" if part in outer else part for part in before) + below
    # A parameter that is not found may stand there as the caller wrote it; and the portal serves what is no route of
    # ours below these prefixes.
    return template if set(outer) <= set(before) and _is_ours(template) else metrics.OTHER


def _is_gateway(scope: Scope) -> bool:
    return _is_ours(_path(scope))


def _is_ours(path: str) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in PREFIXES)


def _path(scope: Scope) -> str:
    """The path without what a proxy puts before it."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("app_root_path", scope.get("root_path", "")))


def _own_root(scope: Scope) -> str:
    root: str = scope.get("root_path", "")
    return root.removeprefix(scope.get("app_root_path", root))


class _Exchange:
    """One request and its answer, watched from outside."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._request_id = request_id
        self._started_at = time.perf_counter()
        self._bytes_in = 0
        self._bytes_out = 0
        self._status: int | None = None
        self._finished = False
        self._left = False
        headers = Headers(scope=scope)
        self._body_read = "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"
        self._early: deque[Message] = deque()
        self._kept_back: list[Message] = []

    async def run(self, app: ASGIApp) -> None:
        """Run the application; an exception becomes a problem document, and never leaves here."""
        failure: BaseException | None = None
        try:
            await app(self._scope, self.receive, self.send)
            await self._let_go()
            if self._status is None and not self._left:
                raise RuntimeError("a route ended without an answer")
        except Exception as error:
            # Whatever a route raises, its client gets an answer and the operator the traceback.
            if self._is_departure(error):
                self._left = True
            else:
                failure = error
                await self._answer_failure()
        except anyio.get_cancelled_exc_class():
            self._left = True  # the server ends, or takes back a request whose client left
            raise
        except BaseException as error:
            failure = error  # an interrupt, or Rust that panicked: it goes on to the server
            raise
        finally:
            self._record(failure)

    async def receive(self) -> Message:
        """The server's next message, counted."""
        if self._early:
            return self._early.popleft()
        return self._watch(await self._receive())

    def _watch(self, message: Message) -> Message:
        if message["type"] == "http.request":
            self._bytes_in += len(message.get("body", b""))
            self._body_read = not message.get("more_body", False)
        elif message["type"] == "http.disconnect" and not self._finished:
            self._left = True
        return message

    async def send(self, message: Message) -> None:
        """Pass a message of the answer on, with the request's id at its start."""
        if message["type"] == "http.response.start":
            await self._look_for_client()
            self._add_headers(MutableHeaders(scope=message))
            if message["status"] == 500:
                # Starlette answers a crash with a text before it lets us see the exception; ours is the better answer.
                self._kept_back.append(message)
                return
        elif self._kept_back:
            self._kept_back.append(message)
            if message.get("more_body", False):
                await self._let_go()
            return
        await self._pass_on(message)

    def _add_headers(self, headers: MutableHeaders) -> None:
        """What every answer carries: its id; what the key may still do; and that nothing keeps or guesses at it."""
        headers["X-Request-Id"] = self._request_id
        headers.setdefault("Cache-Control", "no-store")
        headers.setdefault("X-Content-Type-Options", "nosniff")
        state = self._scope["state"]
        rates: RateLimiter | None = state.get("rates")
        if rates is not None:
            # https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/
            left = rates.remaining_here(state["key_id"])
            windows = (("requests_per_s", 1, left.requests), ("images_per_minute", 60, left.images))
            headers["RateLimit-Policy"] = ", ".join(f'"{name}";q={one.limit};w={width}' for name, width, one in windows)
            headers["RateLimit"] = ", ".join(f'"{name}";r={one.remaining};t={one.reset_s}' for name, _w, one in windows)

    async def _pass_on(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        elif message["type"] == "http.response.body":
            self._bytes_out += len(message.get("body", b""))
            self._finished = not message.get("more_body", False)
        elif message["type"] == "http.response.pathsend":
            self._finished = True
        try:
            await self._send(message)
        except OSError:
            self._left = True  # how some servers say it
            raise

    async def _let_go(self) -> None:
        messages, self._kept_back = self._kept_back, []
        for message in messages:
            await self._pass_on(message)

    async def _look_for_client(self) -> None:
        """Notice a client that left while a route worked that does not listen for it.

        Only once the body was read: asking earlier would fetch a piece of it.
        """
        if not self._body_read or self._left:
            return
        with anyio.CancelScope() as moment:
            moment.cancel()
            for _ in range(2):  # the empty body of a request that nobody read, then what is asked for
                self._early.append(self._watch(await self._receive()))

    def _is_departure(self, error: Exception) -> bool:
        """Whether an exception only says that the client left."""
        if isinstance(error, ExceptionGroup):
            return all(map(self._is_departure, error.exceptions))
        return isinstance(error, ClientDisconnect) or (self._left and isinstance(error, OSError))

    async def _answer_failure(self) -> None:
        self._kept_back = []
        if self._status is not None or self._left:
            return  # the answer is under way: the server cuts it off, which its client notices
        problem = make_problem(HTTPConnection(self._scope), 500, "internal", INTERNAL)
        self._add_headers(problem.headers)
        try:
            await problem(self._scope, self.receive, self._pass_on)
        except OSError:
            pass  # the client left meanwhile; what is logged is why there was nothing to send

    def _record(self, failure: BaseException | None) -> None:
        """The log line and the counts."""
        seconds = time.perf_counter() - self._started_at
        status = self._status_seen(failure)
        route = route_template(self._scope)
        method = self._scope["method"]
        metrics.count_request(route, method, status, seconds)
        if failure is not None:
            level = logging.ERROR
        elif status >= 500:
            level = logging.WARNING
        else:
            level = logging.DEBUG if route in PROBES and status < 400 else logging.INFO
        log.log(
            level,
            "request",
            exc_info=failure,
            extra={
                "method": method,
                "route": route,
                "status": status,
                "ms": round(seconds * 1000, 1),
                "bytes_in": self._bytes_in,
                "bytes_out": self._bytes_out,
            },
        )

    def _status_seen(self, failure: BaseException | None) -> int:
        if failure is not None and not self._finished:
            return 500
        if self._left or self._status is None:
            return CLIENT_LEFT
        return self._status
