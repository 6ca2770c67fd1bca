"""The HTTP gateway: health, models, the session's cookie, and the table of statuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from core import errors
from core.config import SESSION_COOKIE
from core.errors import VisionMeterError
from core.services import media, sign_in
from core.services.application import Application, set_current
from gateway.guard import FORM_BYTES, PortalGuard
from gateway.main import create_api
from gateway.problems import HTTP_STATUS, problem_response
from gateway.session import BODY_BYTES_MAX, session_routes
from tests.conftest import MODEL, PASSWORD, OpenApp

ORIGIN = "http://testserver"

# Codes that no program can meet over HTTP yet, or whose status is the plain 400 on purpose.
PLAIN_400 = {
    "backup_refused",
    "error",
    "bad_code",
    "bad_credentials",
    "bad_signature",
    "bad_ticket",
    "config",
    "email_taken",
    "image_refused",
    "invalid_amount",
    "invalid_email",
    "no_rate",
    "oidc_refused",
    "second_factor_needed",
    "sign_in_step_ended",
    "voucher_expired",
    "voucher_not_found",
    "voucher_used",
    "weak_password",
}


def serve(app: Application) -> TestClient:
    """A client of the gateway's routes as the launcher mounts them."""
    set_current(app)
    return TestClient(Starlette(routes=[*session_routes(), Mount("/v1", create_api())]), base_url=ORIGIN)


@pytest.fixture
def client(app: Application) -> Iterator[TestClient]:
    """The gateway on an application with the embedded model."""
    yield serve(app)
    set_current(None)


@pytest.fixture
def ticket(app: Application) -> str:
    """The ticket of somebody who just signed up."""
    return sign_in.sign_up(app, "ann@example.com", PASSWORD)


def all_errors(base: type[VisionMeterError] = VisionMeterError) -> list[type[VisionMeterError]]:
    """Every class of expected failure."""
    return [base, *(error for child in base.__subclasses__() for error in all_errors(child))]


def test_healthz(client: TestClient) -> None:
    """The process answers."""
    answer = client.get("/v1/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_readyz(client: TestClient, app: Application) -> None:
    """With a database, a model and a runner it is ready, and says on which device with which models and back ends."""
    app.engine.warm(app.registry.resolve(MODEL))
    assert client.get("/v1/readyz").json()["problems"] == ["runner"]
    app.hands.runner = "this test"
    answer = client.get("/v1/readyz")
    assert answer.status_code == 200
    said = answer.json()
    # The engine is that of all tests of this process: whoever was before may have left another network in it.
    assert "openvino fp32" in said.pop("backends")
    assert said == {"status": "ready", "problems": [], "device": "cpu", "models": [MODEL]}


def test_not_ready_without_a_model(open_app: OpenApp, tmp_path: Path) -> None:
    """With damaged weights it says 503 and names the models as the reason."""
    app = open_app(weights_dir=tmp_path / "weights")
    (tmp_path / "weights" / f"{MODEL}.pt").write_bytes(b"damaged")
    try:
        answer = serve(app).get("/v1/readyz")
    finally:
        set_current(None)
    assert (answer.status_code, answer.json()["problems"]) == (503, ["models", "runner"])


def test_models(client: TestClient, app: Application) -> None:
    """Every known model with its state, version and β as text; nothing is a float."""
    listed = {model["name"]: model for model in client.get("/v1/models").json()}
    assert set(listed) == {model.name for model in app.registry.models()}
    assert listed[MODEL]["state"] == "ready"
    assert listed[MODEL]["version"] == app.registry.resolve(MODEL).version
    assert (listed["yolov8x"]["state"], listed["yolov8x"]["version"], listed["yolov8x"]["beta"]) == (
        "missing",
        None,
        "4.0",
    )


@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", "http://testserver.evil.example", "http://testserver:81"]
)
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_another_origin_is_refused(
    client: TestClient, app: Application, ticket: str, method: str, origin: str | None
) -> None:
    """Without our own Origin nobody is signed in or out, and the ticket stays good."""
    headers = {} if origin is None else {"Origin": origin}
    answer = client.request(method, "/session", headers=headers, content=json.dumps({"ticket": ticket}))
    assert (answer.status_code, answer.json()["code"]) == (403, "bad_origin")
    assert "set-cookie" not in answer.headers
    assert sign_in.open_session(app, ticket)


@pytest.mark.parametrize(
    "body",
    ["", "no json", "[]", "{}", '{"ticket": 5}', '{"ticket": "unknown"}', '"ticket"', '{"ticket": null}', "\udcff"],
)
def test_bad_ticket(client: TestClient, body: str) -> None:
    """Anything that is not a ticket is a 400 and sets no cookie."""
    answer = client.post("/session", headers={"Origin": ORIGIN}, content=body.encode("utf-8", "surrogateescape"))
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_ticket")
    assert "set-cookie" not in answer.headers


def test_oversized_body(client: TestClient, ticket: str) -> None:
    """A body above the limit is a 413, although it holds a good ticket; one at the limit is read."""
    body = json.dumps({"ticket": ticket})
    answer = client.post("/session", headers={"Origin": ORIGIN}, content=body + " " * BODY_BYTES_MAX)
    assert answer.status_code == 413
    answer = client.post("/session", headers={"Origin": ORIGIN}, content=body.ljust(BODY_BYTES_MAX))
    assert answer.status_code == 204


def test_good_ticket_sets_the_cookie_once(client: TestClient, app: Application, ticket: str) -> None:
    """204 with an HttpOnly, SameSite=Lax cookie for the whole site, whose token signs in; a second use is refused."""
    answer = client.post("/session", headers={"Origin": ORIGIN}, json={"ticket": ticket})
    assert answer.status_code == 204
    name, _, rest = answer.headers["set-cookie"].partition("=")
    attributes = {part.strip().lower() for part in rest.split(";")[1:]}
    assert name == SESSION_COOKIE
    assert {"httponly", "samesite=lax", "path=/", f"max-age={14 * 24 * 3600}"} <= attributes
    assert "secure" not in attributes
    user = sign_in.signed_in_user(app, answer.cookies[SESSION_COOKIE])
    assert user is not None
    assert user.email == "ann@example.com"
    again = client.post("/session", headers={"Origin": ORIGIN}, json={"ticket": ticket})
    assert (again.status_code, again.json()["code"]) == (400, "bad_ticket")


@pytest.mark.parametrize(("base", "setting"), [("https://testserver", False), (ORIGIN, True)])
def test_cookie_is_secure_under_tls(open_app: OpenApp, base: str, setting: bool) -> None:
    """Under TLS, or where the operator says that TLS ends before us, the cookie is Secure."""
    app = open_app(cookie_secure=setting)
    ticket = sign_in.sign_up(app, "ann@example.com", PASSWORD)
    client = serve(app)
    client.base_url = base
    try:
        answer = client.post("/session", headers={"Origin": base}, json={"ticket": ticket})
    finally:
        set_current(None)
    assert "; Secure" in answer.headers["set-cookie"]


def test_sign_out_revokes(client: TestClient, app: Application, ticket: str) -> None:
    """DELETE ends the session on the server and clears the cookie; without a cookie it is harmless."""
    token = client.post("/session", headers={"Origin": ORIGIN}, json={"ticket": ticket}).cookies[SESSION_COOKIE]
    answer = client.delete("/session", headers={"Origin": ORIGIN})
    assert answer.status_code == 204
    assert "max-age=0" in answer.headers["set-cookie"].lower()
    assert sign_in.signed_in_user(app, token) is None
    client.cookies.clear()
    assert client.delete("/session", headers={"Origin": ORIGIN}).status_code == 204


def test_codes_are_unique() -> None:
    """A code names one class of failure."""
    codes = [error.code for error in all_errors()]
    assert sorted(codes) == sorted(set(codes))


def test_every_code_has_its_status() -> None:
    """Each code is in the table of statuses or is a plain 400 on purpose, and the table has no stranger."""
    codes = {error.code for error in all_errors()}
    assert set(HTTP_STATUS) <= codes
    assert codes - set(HTTP_STATUS) == PLAIN_400


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("insufficient_tokens", 402),
        ("role_needed", 403),
        ("spending_cap", 403),
        ("quote_grew", 409),
        ("image_too_many_bytes", 413),
        ("image_too_many_pixels", 413),
        ("image_unsupported", 415),
        ("image_empty", 422),
        ("image_broken", 422),
        ("image_animated", 422),
        ("too_many_attempts", 429),
        ("engine_busy", 503),
        ("idempotency_conflict", 409),
    ],
)
def test_published_statuses(code: str, status: int) -> None:
    """The statuses that the product promises."""
    assert HTTP_STATUS[code] == status


def test_problem_document() -> None:
    """A failure becomes an RFC 9457 document with the numbers that a program needs."""
    error = errors.InsufficientTokensError(required_mt=1500, available_mt=200)
    scope = {"type": "http", "scheme": "http", "path": "/", "headers": [(b"host", b"vision.example")]}
    # In a thread of its own: the browser tests leave an event loop running in this one.
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(asyncio.run, problem_response(Request(scope), error)).result()
    assert answer.status_code == 402
    assert answer.media_type == "application/problem+json"
    body = json.loads(bytes(answer.body))
    assert body["type"] == "http://vision.example/v1/errors#insufficient_tokens"
    assert (body["required"], body["available"], body["missing"]) == (1.5, 0.2, 1.3)
    assert (body["code"], body["status"], body["title"]) == ("insufficient_tokens", 402, "Not enough tokens")
    assert body["top_up_url"] == "http://vision.example/top_up"
    assert "1.300" in body["detail"]


@pytest.mark.parametrize("body", ['{"ticket":"\\ud800"}', "[" * 4000, "7", "null"])
def test_malformed_sign_ins_are_bad_requests(client: TestClient, body: str) -> None:
    """Whatever is posted as a ticket, the answer is a 400 and not an error of ours."""
    answer = client.post("/session", headers={"Origin": ORIGIN}, content=body)
    assert answer.status_code == 400


def test_malformed_origin_is_refused(client: TestClient) -> None:
    """An Origin that is no URL is another origin."""
    assert client.post("/session", headers={"Origin": "http://[x"}, content="{}").status_code == 403


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).accept()
        return
    await PlainTextResponse("passed on")(scope, receive, send)


def test_uploads_need_a_session(client: TestClient, ticket: str) -> None:
    """A file from somebody who is not signed in never reaches Streamlit; a signed-in user's does."""
    guarded = TestClient(PortalGuard(_echo), base_url=ORIGIN)
    assert guarded.put("/_stcore/upload_file/s/f", content=b"x").status_code == 401
    assert guarded.put("/base/_stcore/upload_file/s/f", content=b"x").status_code == 401
    assert guarded.get("/").text == "passed on"
    token = client.post("/session", headers={"Origin": ORIGIN}, content=json.dumps({"ticket": ticket})).cookies[
        SESSION_COOKIE
    ]
    guarded.cookies.set(SESSION_COOKIE, token)
    assert guarded.put("/_stcore/upload_file/s/f", content=b"x").text == "passed on"


def test_only_an_operator_uploads_more_than_a_picture(client: TestClient, app: Application, ticket: str) -> None:
    """Weights are large, and only the operator (who signed up first) brings some; others name a picture's size."""
    guarded = TestClient(PortalGuard(_echo), base_url=ORIGIN)
    large = str(app.settings.image_bytes_max + FORM_BYTES + 1)
    second = sign_in.sign_up(app, "bob@example.com", PASSWORD)
    for who, expected in ((ticket, 200), (second, 413)):
        answer = client.post("/session", headers={"Origin": ORIGIN}, content=json.dumps({"ticket": who}))
        guarded.cookies.set(SESSION_COOKIE, answer.cookies[SESSION_COOKIE])
        answer = guarded.put("/_stcore/upload_file/s/f", headers={"Content-Length": large}, content=b"x")
        assert answer.status_code == expected
    assert guarded.put("/_stcore/upload_file/s/f", content=iter([b"x"])).status_code == 411
    assert guarded.put("/_stcore/upload_file/s/f", headers={"Content-Length": "1"}, content=b"x").status_code == 200
    assert guarded.delete("/_stcore/upload_file/s/f").status_code == 200


def test_websockets_come_from_our_own_pages() -> None:
    """Another port of this host shares our cookies, and still opens no websocket."""
    guarded = TestClient(PortalGuard(_echo), base_url=ORIGIN)
    with guarded.websocket_connect("/_stcore/stream", headers={"Origin": ORIGIN}):
        pass
    for origin in ("http://testserver:9999", "http://evil.example", "null"):
        with (
            pytest.raises(WebSocketDisconnect),
            guarded.websocket_connect("/_stcore/stream", headers={"Origin": origin}),
        ):
            pass


def test_files_of_pages_are_for_whom_they_were_shown_to(client: TestClient, app: Application, ticket: str) -> None:
    """Signed out, and signed in as another, there is no such file; fonts, and what everybody is shown, open for all."""
    mine, theirs, outside = (TestClient(PortalGuard(_echo), base_url=ORIGIN) for _ in range(3))
    for guarded, who in ((mine, ticket), (theirs, sign_in.sign_up(app, "bob@example.com", PASSWORD))):
        answer = client.post("/session", headers={"Origin": ORIGIN}, content=json.dumps({"ticket": who}))
        guarded.cookies.set(SESSION_COOKIE, answer.cookies[SESSION_COOKIE])
    owner = sign_in.signed_in_user(app, mine.cookies[SESSION_COOKIE])
    assert owner is not None
    media.note_shown("1" * 56, owner.id)
    media.note_shown("2" * 56, None)
    media.note_same("1" * 56, "3" * 56)
    for name, expected in (("1", (200, 404, 404)), ("2", (200, 200, 200)), ("3", (200, 404, 404)), ("4", (404,) * 3)):
        for path in (f"/media/{name * 56}.png", f"/base/media/{name * 56}.csv", f"/media/{name * 56}"):
            assert tuple(one.get(path).status_code for one in (mine, theirs, outside)) == expected, path
    assert outside.get("/static/media/icons.woff2").text == "passed on"
    assert mine.get(f"/media/{'1' * 56}.png").headers["Cache-Control"].startswith("private")
    assert theirs.get(f"/media/{'1' * 56}.png").headers["Cache-Control"] == "no-store"
    assert mine.get("/_stcore/metrics").status_code == 404
