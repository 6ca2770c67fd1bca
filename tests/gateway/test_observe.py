"""What the gateway tells its operator: request ids, log lines, metrics, and what a crash answers."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.exc import OperationalError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from starlette.types import Message

from core.config import Settings
from core.db import Database
from core.errors import InferenceError
from core.identity.tables import User
from core.jobs.blobs import hash_bytes
from core.ledger import ledger
from core.services.application import Application, set_current
from core.services.job_runner import JobRunner
from core.services.metered_detection import submit_quote
from core.services.quotes import prepare_image, quote_batch
from core.usage.records import add_record
from core.usage.tables import UsageRecord
from gateway import metrics
from gateway.metrics import REGISTRY, RedisState
from gateway.observe import Observe, choose_request_id
from gateway.problems import add_handlers
from tests.conftest import MODEL

SEED = 20_260_419
KEY = "vm_" + "aB3dE5gH7j" * 4
LINE = "visionmeter.http"
inner = logging.getLogger("visionmeter.test")


# A gateway in small --------------------------------------------------------------------------------


def authenticate(request: Request) -> None:
    """As a dependency that runs in a thread of its own does it."""
    request.scope["state"].update(key_id="key_1", account_id="acct_1")


def create_routes() -> FastAPI:
    """Routes of every kind that the middleware meets."""
    api = FastAPI()
    add_handlers(api)
    api.include_router(metrics.router)
    deep = APIRouter(prefix="/{result_id}")
    gate = SimpleNamespace(open=threading.Event())
    api.state.gate = gate

    @api.get("/jobs/{job_id}", dependencies=[Depends(authenticate)])
    def job(job_id: str, request: Request) -> dict[str, str]:
        inner.info("inside")
        return {"job": job_id, "request_id": request.state.request_id}

    @api.post("/echo")
    def echo(document: dict[str, Any]) -> dict[str, Any]:
        return document

    @api.get("/boom/{name}")
    def boom(name: str) -> None:
        raise RuntimeError(f"{name}: {KEY} of ann@example.com")

    @api.get("/expected")
    def expected() -> None:
        raise InferenceError("The model failed on this image. Nothing was taken: try again.")

    @api.get("/broken-stream")
    def broken_stream() -> StreamingResponse:
        def pieces() -> Iterator[bytes]:
            yield b"a" * 1000
            raise RuntimeError("in the middle")

        return StreamingResponse(pieces())

    @api.get("/failing-stream")
    def failing_stream() -> StreamingResponse:
        return StreamingResponse(iter([b"a", b"b"]), status_code=500)

    @api.get("/own-id")
    def own_id(request: Request) -> JSONResponse:
        return JSONResponse({}, headers={"X-Request-Id": request.state.request_id})

    @api.get("/wait")
    def wait() -> dict[str, str]:
        gate.open.wait(10)
        return {}

    @api.get("/events")
    def events() -> StreamingResponse:
        async def items() -> Any:
            for number in range(4):
                while not gate.open.is_set():
                    await asyncio.sleep(0.005)
                gate.open.clear()
                yield f"data: {number}\n\n"

        return StreamingResponse(items(), media_type="text/event-stream")

    @deep.get("/parts/{part_id}")
    def part(result_id: str, part_id: int) -> dict[str, int]:
        return {result_id: part_id}

    @api.get("/files/{rest:path}")
    def files(rest: str) -> dict[str, str]:
        return {"rest": rest}

    api.include_router(deep, prefix="/results")
    return api


async def detect(request: StarletteRequest) -> Response:
    """The address without a version."""
    if await request.body() == b"boom":
        raise RuntimeError(KEY)
    return PlainTextResponse("detected")


def portal(_request: StarletteRequest) -> Response:
    """Anything that is not the gateway's."""
    return PlainTextResponse("portal")


@pytest.fixture
def api() -> FastAPI:
    return create_routes()


@pytest.fixture
def site(api: FastAPI) -> Starlette:
    """The portal and the gateway side by side, as the launcher mounts them."""
    return Starlette(
        routes=[
            Route("/yolo/detect", detect, methods=["POST"]),
            Mount("/v1", api),
            Route("/{path:path}", portal, methods=["GET", "POST"]),
        ],
        middleware=[Middleware(Observe)],
    )


@pytest.fixture
def client(site: Starlette) -> TestClient:
    """A client that would see an exception that gets out."""
    return TestClient(site, client=("127.0.0.1", 50000))


@pytest.fixture
def url(site: Starlette) -> Iterator[str]:
    """The site on a real server."""
    server = uvicorn.Server(uvicorn.Config(site, port=0, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "visionmeter")


def until(happened: Callable[[], Any], timeout_s: float = 10) -> Any:
    """Wait for something true and give it."""
    deadline = time.monotonic() + timeout_s
    while not (value := happened()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)
    return value


def request_lines(caplog: pytest.LogCaptureFixture) -> list[Any]:
    """The records of requests so far."""
    return [record for record in caplog.records if record.name == LINE]


def sample(name: str, **labels: str) -> float:
    """The value of a sample now, 0 when there is none."""
    return REGISTRY.get_sample_value(name, labels) or 0


def call(app: Any, path: str, headers: list[tuple[bytes, bytes]], **changes: Any) -> list[Message]:
    """One GET straight into an ASGI application, with headers that no client would send."""
    sent: list[Message] = []
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": headers, **changes}

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


# Request ids ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", ["a", "order-17.retry_2", "x" * 64, "0"])
def test_a_clients_id_is_echoed(client: TestClient, wanted: str) -> None:
    """It is the one in the header, in the route's state and nowhere twice."""
    answer = client.get("/v1/jobs/job_1", headers={"X-Request-Id": wanted})
    assert answer.headers.get_list("x-request-id") == [wanted]
    assert answer.json()["request_id"] == wanted
    assert client.get("/v1/own-id", headers={"X-Request-Id": wanted}).headers.get_list("x-request-id") == [wanted]


HOSTILE = {
    "empty": b"",
    "too long": b"x" * 65,
    "10 kB": b"x" * 10_240,
    "newline": b"a\nb",
    "newline at the end": b"a\n",
    "header": b"a\r\nSet-Cookie: x=1",
    "space": b"a b",
    "unicode": "идентификатор".encode(),
    "other digits": "١٢٣".encode(),
    "nul": b"a\x00",
    "markup": b"<script>",
    "slash": b"../etc",
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_id_is_replaced(site: Starlette, hostile: bytes) -> None:
    """Nothing of it is sent back; the answer carries a fresh id of ours."""
    start = call(site, "/v1/jobs/job_1", [(b"x-request-id", hostile)])[0]
    (given,) = [value for name, value in start["headers"] if name.lower() == b"x-request-id"]
    assert given.startswith(b"req_")
    assert len(given) == 28
    assert given != hostile


def test_without_an_id_everybody_gets_his_own(client: TestClient) -> None:
    """Fresh ids differ and would be accepted from a client."""
    given = [client.get("/v1/nothing").headers["x-request-id"] for _ in range(50)]
    assert len(set(given)) == 50
    assert [choose_request_id(one) for one in given] == given


def test_the_portal_is_left_alone(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    """No id, no line and no count for what is not the gateway's, names that begin alike among it."""
    before = generate_counts()
    for path in ("/", "/usage", "/v1x/jobs", "/v10", "/yolox", "/_stcore/health", "/static/v1/detect"):
        answer = client.get(path)
        assert (answer.text, "x-request-id" in answer.headers) == ("portal", False)
    assert request_lines(caplog) == []
    assert generate_counts() == before


# Log lines -----------------------------------------------------------------------------------------


def test_one_line_for_a_request(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    """Method, template, status, time, bytes of both bodies; not the id in the path, nor the query."""
    body = b'{"image": "abc"}'
    client.post("/v1/echo?token=secret", content=body, headers={"Content-Type": "application/json"})
    (line,) = request_lines(caplog)
    assert (line.levelno, line.getMessage(), line.exc_info) == (logging.INFO, "request", None)
    assert (line.method, line.route, line.status, line.bytes_in) == ("POST", "/v1/echo", 200, len(body))
    assert line.bytes_out == len(b'{"image":"abc"}')
    assert 0 < line.ms < 60_000
    assert "secret" not in str(vars(line))


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/v1/jobs/job_123", "/v1/jobs/{job_id}", 200),
        ("POST", "/v1/jobs/job_123", "/v1/jobs/{job_id}", 405),
        ("GET", "/v1/results/res_1/parts/7", "/v1/results/{result_id}/parts/{part_id}", 200),
        ("GET", "/v1/results/res_1/parts/x", "/v1/results/{result_id}/parts/{part_id}", 422),
        ("GET", "/v1/results/parts/parts/7", "/v1/results/{result_id}/parts/{part_id}", 200),
        ("GET", "/v1/files/a/b/c.txt", "/v1/files/{rest}", 200),
        ("POST", "/yolo/detect", "/yolo/detect", 200),
        ("GET", "/v1/nothing/ann@example.com", "other", 404),
        ("GET", "/v1", "other", 200),
        ("GET", "/yolo/nothing", "other", 200),
        ("GET", "/v1/jobs/job_1/", "other", 307),
    ],
)
def test_the_route_is_a_template(
    client: TestClient, caplog: pytest.LogCaptureFixture, method: str, path: str, route: str, status: int
) -> None:
    """Whatever routers lie between; what no route serves is `other`."""
    assert client.request(method, path, follow_redirects=False).status_code == status
    (line,) = request_lines(caplog)
    assert (line.route, line.status) == (route, status)


def test_a_path_before_ours_is_no_part_of_the_route(site: Starlette, caplog: pytest.LogCaptureFixture) -> None:
    """A proxy's own prefix (`uvicorn --root-path`) neither hides the gateway nor stands in a label."""
    call(site, "/vision/v1/jobs/job_1", [], root_path="/vision")
    call(site, "/vision/v1/results/a/parts/1", [], root_path="/vision")
    assert [line.route for line in request_lines(caplog)] == [
        "/v1/jobs/{job_id}",
        "/v1/results/{result_id}/parts/{part_id}",
    ]


def test_who_asked_is_on_the_lines(
    client: TestClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The id, and the key and account once they are known, stand on lines from inside and on the request's own."""
    from core import logs

    seen: list[tuple[str, dict[str, Any]]] = []

    class Look(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append((record.name, dict(logs._add_facts(None, "info", {}))))

    handler = Look()
    monkeypatch.setattr(logging.getLogger("visionmeter"), "handlers", [handler])
    client.get("/v1/jobs/job_1", headers={"X-Request-Id": "mine"})
    client.get("/v1/nothing", headers={"X-Request-Id": "other"})
    known = {"request_id": "mine", "account_id": "acct_1", "key_id": "key_1"}
    assert seen == [(inner.name, known), (LINE, known), (LINE, {"request_id": "other"})]


def test_probes_are_quiet_while_they_succeed(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    """A scrape every few seconds is a line at DEBUG, a refused one at INFO."""
    set_current(SimpleNamespace(settings=Settings(_env_file=None, metrics_token="t0ken-of-metrics")))  # type: ignore[arg-type]  # all that the route asks
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(metrics._Gauges, "_collect_application", staticmethod(lambda: iter(())))
            client.get("/v1/metrics", headers={"Authorization": "Bearer t0ken-of-metrics"})
        client.get("/v1/metrics")
    finally:
        set_current(None)
    assert [(line.status, line.levelname) for line in request_lines(caplog)] == [(200, "DEBUG"), (401, "INFO")]


# What breaks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "content"), [("GET", "/v1/boom/street.jpg", b""), ("POST", "/yolo/detect", b"boom")]
)
def test_an_exception_is_a_problem_document(
    client: TestClient, caplog: pytest.LogCaptureFixture, method: str, path: str, content: bytes
) -> None:
    """A 500 that names its request and tells nothing of the exception; one line has the traceback; nothing gets out."""
    answer = client.request(method, path, content=content, headers={"X-Request-Id": "mine"})
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert answer.headers.get_list("x-request-id") == ["mine"]
    document = answer.json()
    assert document.pop("detail").startswith("Something went wrong here.")
    assert document == {
        "type": "http://testserver/v1/errors#internal",
        "title": "Internal error",
        "status": 500,
        "code": "internal",
        "request_id": "mine",
    }
    for leak in (KEY, "RuntimeError", "example.com", "street", "Traceback", ".py"):
        assert leak not in answer.text
    (line,) = request_lines(caplog)
    assert (line.levelname, line.status, line.exc_info[0]) == ("ERROR", 500, RuntimeError)
    assert [record.exc_info for record in caplog.records if record is not line and record.exc_info] == []


def test_a_problem_without_a_host(site: Starlette) -> None:
    """Without a Host header the type is a relative address."""
    start, body = call(site, "/v1/boom/x", [])
    assert start["status"] == 500
    assert b'"type":"/v1/errors#internal"' in body["body"]


@pytest.mark.parametrize("host", [b"[", b"[::1", b"a b", "ä".encode(), b"x" * 10_000, b"//"])
def test_a_host_that_is_none(site: Starlette, host: bytes) -> None:
    """A Host header that no address can have makes no error of ours out of the client's."""
    assert call(site, "/v1/nothing", [(b"host", host)])[0]["status"] == 404
    assert call(site, "/v1/boom/x", [(b"host", host)])[0]["status"] == 500


def test_an_expected_500_passes(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    """An answer that a route meant is not replaced, be it whole or streamed; it is logged as a warning."""
    assert client.get("/v1/expected").json()["code"] == "inference_failed"
    assert client.get("/v1/failing-stream").text == "ab"
    assert [(line.status, line.levelname, line.exc_info) for line in request_lines(caplog)] == [
        (500, "WARNING", None)
    ] * 2


def test_a_stream_that_breaks_is_cut_off(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """When the answer is under way its client notices the break, and the operator has the traceback."""
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{url}/v1/broken-stream")
    (line,) = until(lambda: request_lines(caplog))
    assert (line.status, line.exc_info[0]) == (500, RuntimeError)


def test_a_route_without_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    """An application that says nothing is answered for."""

    async def silent(*_: Any) -> None:
        pass

    assert call(Observe(silent), "/v1/x", [])[0]["status"] == 500
    assert request_lines(caplog)[0].status == 500


def test_a_cancelled_request_stays_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    """A server that ends takes its requests back: the cancellation goes on, the line says that nobody was answered."""

    async def cancelled(*_: Any) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        call(Observe(cancelled), "/v1/x", [])
    (line,) = request_lines(caplog)
    assert (line.status, line.exc_info) == (499, None)


# Streams and clients that leave --------------------------------------------------------------------


def test_events_arrive_one_by_one(url: str, api: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    """The next event is made only after the one before has arrived, so anything that kept one back would hang."""
    gate = api.state.gate.open
    with httpx.stream("GET", f"{url}/v1/events", timeout=10) as answer:
        assert answer.headers["x-request-id"].startswith("req_")
        gate.set()
        seen = []
        for line in answer.iter_lines():
            if line:
                seen.append(line)
                gate.set()
    assert seen == [f"data: {number}" for number in range(4)]
    (line,) = until(lambda: request_lines(caplog))
    assert (line.route, line.status, line.bytes_out) == ("/v1/events", 200, 4 * len("data: 0\n\n"))


def test_who_leaves_a_stream_is_a_499(url: str, api: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    """Closed after the first event: no error, no traceback, counted as 499."""
    before = sample("visionmeter_http_requests_total", route="/v1/events", method="GET", status="499")
    with httpx.stream("GET", f"{url}/v1/events", timeout=10) as answer:
        api.state.gate.open.set()
        next(answer.iter_lines())
    (line,) = until(lambda: request_lines(caplog))
    assert (line.status, line.levelname, line.exc_info) == (499, "INFO", None)
    assert sample("visionmeter_http_requests_total", route="/v1/events", method="GET", status="499") == before + 1


def test_who_leaves_while_a_route_works_is_a_499(url: str, api: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    """The route does not listen for it and answers; the line says that nobody was there."""
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{url}/v1/wait", timeout=0.2)
    time.sleep(0.1)
    api.state.gate.open.set()
    (line,) = until(lambda: request_lines(caplog))
    assert (line.route, line.status, line.exc_info) == ("/v1/wait", 499, None)


def test_who_leaves_in_the_middle_of_an_upload_is_a_499(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A body that never ends: what came is counted, and it is nobody's fault."""
    host, port = url.removeprefix("http://").split(":")
    for path in ("/v1/echo", "/yolo/detect"):
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
            connection.sendall(head.encode() + b'{"a"')
            time.sleep(0.2)
    echo, plain = until(lambda: len(request_lines(caplog)) == 2 and request_lines(caplog))
    for line in (echo, plain):
        assert (line.status, line.exc_info, line.bytes_in) == (499, None, 4)


@pytest.mark.parametrize("reads", [0, 2])
def test_a_look_at_the_client_takes_nothing_away(caplog: pytest.LogCaptureFixture, reads: int) -> None:
    """A server that tells each thing once: whoever reads gets the body and the end, and the line says 499 anyway."""
    told: list[Message] = [{"type": "http.request", "body": b""}, {"type": "http.disconnect"}]
    seen: list[str] = []

    async def answers_first(_scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(reads):
            seen.append((await receive())["type"])
        await send({"type": "http.response.body", "body": b"late"})

    async def receive() -> Message:
        return told.pop(0)

    async def send(_message: Message) -> None:
        pass

    scope = {"type": "http", "method": "GET", "path": "/v1/x", "headers": []}
    asyncio.run(Observe(answers_first)(scope, receive, send))
    assert seen == ["http.request", "http.disconnect"][:reads]
    assert [line.status for line in request_lines(caplog)] == [499]


def test_a_streamed_500_is_not_kept_back() -> None:
    """What is more than one piece goes on as it comes, whatever its status."""
    arrived: list[int] = []

    async def streams(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        for piece in (b"a", b"b"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            arrived.append(len(sent))
        await send({"type": "http.response.body", "body": b""})

    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/v1/x", "headers": []}
    asyncio.run(Observe(streams)(scope, receive, send))
    assert (arrived, len(sent)) == ([2, 3], 4)


def test_the_body_arrives_whole(url: str) -> None:
    """Looking for the client before the answer takes nothing away from a route: twice over one connection."""
    with httpx.Client() as client:
        for number in range(2):
            document = {"image": "x" * 1_000_000, "number": number}
            assert client.post(f"{url}/v1/echo", json=document).json() == document
            assert client.get(f"{url}/v1/jobs/job_1").status_code == 200


# Metrics -------------------------------------------------------------------------------------------


def generate_counts() -> dict[tuple[str, ...], float]:
    """Every counter of requests, by its labels."""
    families = text_string_to_metric_families(generate_latest(REGISTRY).decode())
    return {
        tuple(one.labels[name] for name in ("route", "method", "status")): one.value
        for family in families
        if family.name == "visionmeter_http_requests"
        for one in family.samples
    }


def test_requests_are_counted_by_template(client: TestClient) -> None:
    """Two ids, one series; the time is in the route's histogram."""
    labels = {"route": "/v1/jobs/{job_id}", "method": "GET", "status": "200"}
    before = sample("visionmeter_http_requests_total", **labels)
    timed = sample("visionmeter_http_request_seconds_count", route=labels["route"])
    client.get("/v1/jobs/job_1")
    client.get("/v1/jobs/job_2")
    assert sample("visionmeter_http_requests_total", **labels) == before + 2
    assert sample("visionmeter_http_request_seconds_count", route=labels["route"]) == timed + 2


def test_labels_are_bounded(client: TestClient) -> None:
    """A thousand invented paths and methods add a handful of series, and nothing of them is in a label."""
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when the test fails
    rng = random.Random(SEED)
    before = set(generate_counts())
    letters = "abcdefghijklmnopqrstuvwxyz0123456789-_.@%"
    for _ in range(1000):
        word = "".join(rng.choices(letters, k=12)).replace("%", "%25")
        shapes = ["/v1/{0}", "/yolo/{0}", "/v1/jobs/{0}", "/v1/results/{0}/parts/{0}", "/v1/{0}/{0}"]
        path = rng.choice(shapes).format(word)
        client.request(rng.choice(["GET", "POST", "PROPFIND", word[:3].upper().strip("@%.") or "X"]), path)
    added = set(generate_counts()) - before
    assert len(added) <= 20
    assert {route for route, _method, _status in added} <= {
        "other",
        "/v1/jobs/{job_id}",
        "/v1/results/{result_id}/parts/{part_id}",
    }
    assert {method for _route, method, _status in added} <= {"GET", "POST", "other"}


def test_images_are_counted_once_committed(any_app: Application) -> None:
    """Outcome, model, milli-tokens, wait and model's time of a record; nothing of a transaction that was undone."""

    def record(**changes: Any) -> UsageRecord:
        facts = {"account_id": account_id, "actor": "key_1", "model": MODEL, "model_version": "v"}
        sizes = {"img_size": 640, "input_height": 384, "input_width": 640}
        return UsageRecord(**{**facts, **sizes, "outcome": "charged", "amount_mt": 600, **changes})

    def undo_a_record() -> None:
        with any_app.db.write() as session:
            add_record(session, record())
            session.flush()
            raise RuntimeError("undone")

    def seen() -> list[float]:
        return [
            sample("visionmeter_images_total", outcome="charged", model=MODEL),
            sample("visionmeter_images_total", outcome="failed", model=MODEL),
            sample("visionmeter_tokens_charged_millitokens_total"),
            sample("visionmeter_stage_seconds_count", stage="wait"),
            sample("visionmeter_stage_seconds_sum", stage="model"),
        ]

    with any_app.db.write() as session:
        account_id = ledger.open_account(session, "Ann").id
    before = seen()
    with any_app.db.write() as session:
        add_record(session, record(wait_ms=5, model_ms=250))
        add_record(session, record(outcome="failed", amount_mt=0))
        assert seen() == before
    with pytest.raises(RuntimeError):
        undo_a_record()
    assert [now - then for now, then in zip(seen(), before, strict=True)] == pytest.approx([1, 1, 600, 1, 0.25])


def test_what_the_runner_does_is_counted(
    any_app: Application,
    sign_up: Callable[..., User],
    start_runner: Callable[[Application], JobRunner],
    photo_bytes: dict[str, bytes],
) -> None:
    """A picture of a job counts like one of a request: once, with its price."""
    ann, data = sign_up(any_app), photo_bytes["bus.jpg"]
    quote = quote_batch(any_app, ann, [prepare_image(any_app, "bus.jpg", data)], model=MODEL, img_size=320)
    images = sample("visionmeter_images_total", outcome="charged", model=MODEL)
    charged_mt = sample("visionmeter_tokens_charged_millitokens_total")
    submit_quote(any_app, ann, quote.id, {hash_bytes(data): data})
    start_runner(any_app)
    until(lambda: sample("visionmeter_images_total", outcome="charged", model=MODEL) > images, timeout_s=60)
    assert sample("visionmeter_images_total", outcome="charged", model=MODEL) == images + 1
    assert sample("visionmeter_tokens_charged_millitokens_total") == charged_mt + quote.total_mt


def test_stages_deliveries_and_limits() -> None:
    """Each count goes where its name says; an invented name is passed over or becomes `other`."""
    hold = sample("visionmeter_stage_seconds_sum", stage="hold")
    model = sample("visionmeter_stage_seconds_count", stage="model")
    delivered = sample("visionmeter_webhook_deliveries_total", outcome="delivered")
    limited = sample("visionmeter_rate_limited_total")
    metrics.count_stages({"hold": 20.0, "model": 250.0, "invented": 1.0, "total": 300.0})
    metrics.count_delivery("delivered")
    metrics.count_delivery("https://example.com/hook")
    metrics.count_rate_limited()
    assert sample("visionmeter_stage_seconds_sum", stage="hold") == pytest.approx(hold + 0.02)
    assert sample("visionmeter_stage_seconds_count", stage="model") == model
    assert sample("visionmeter_webhook_deliveries_total", outcome="delivered") == delivered + 1
    assert sample("visionmeter_rate_limited_total") == limited + 1
    text = generate_latest(REGISTRY).decode()
    assert not [word for word in ("invented", "example.com", 'stage="total"') if word in text]


def test_gauges_are_read_at_the_scrape(any_app: Application, client: TestClient) -> None:
    """What is held and waits, of both kinds of database; Redis once somebody says how it is."""
    with any_app.db.write() as session:
        account_id = ledger.open_account(session, "Ann").id
        ledger.post_top_up(session, account_id, 10_000, source="house:test", actor="test")
        ledger.place_hold(session, account_id, 600, charge_key="a", lease_s=30, actor="test")
        ended = ledger.place_hold(session, account_id, 700, charge_key="b", lease_s=30, actor="test")
        ledger.capture_hold(session, ended.id, 700, actor="test")
    set_current(any_app)
    metrics.set_redis_probe(lambda: RedisState(up=False, failures=3, fallbacks=2))
    try:
        answer = client.get("/v1/metrics")
    finally:
        metrics.set_redis_probe(None)
        set_current(None)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    values = {
        one.name: one.value
        for family in text_string_to_metric_families(answer.text)
        for one in family.samples
        if not one.labels
    }
    expected = {
        "visionmeter_open_holds": 1,
        "visionmeter_held_millitokens": 600,
        "visionmeter_open_images": 0,
        "visionmeter_engine_queue_depth": 0,
        "visionmeter_engine_streams_lost_total": 0,
        "visionmeter_engine_queue_max": any_app.settings.engine_queue_max,
        "visionmeter_database_up": 1,
        "visionmeter_redis_up": 0,
        "visionmeter_redis_failures_total": 3,
        "visionmeter_redis_fallbacks_total": 2,
    }
    assert {name: values[name] for name in expected} == expected
    assert min(values[name] for name in ("visionmeter_threads", "process_resident_memory_bytes")) > 0
    assert values["process_open_fds"] > 0


def test_a_scrape_survives_the_database(app: Application, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the database is away the rest is still told, and that it is away."""

    def away(_self: Database) -> Any:
        raise OperationalError("SELECT 1", {}, Exception("away"))

    monkeypatch.setattr(Database, "read", away)
    set_current(app)
    try:
        answer = client.get("/v1/metrics")
    finally:
        set_current(None)
    assert answer.status_code == 200
    assert "visionmeter_database_up 0.0" in answer.text
    assert "visionmeter_engine_queue_depth" in answer.text
    assert "visionmeter_open_holds" not in answer.text


def test_metrics_in_both_formats(app: Application, client: TestClient) -> None:
    """Prometheus asks for OpenMetrics and gets what its strict parser takes."""
    set_current(app)
    try:
        plain = client.get("/v1/metrics")
        strict = client.get("/v1/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    finally:
        set_current(None)
    assert plain.headers["content-type"].startswith("text/plain")
    assert strict.headers["content-type"].startswith("application/openmetrics-text")
    names = {family.name for family in parse_openmetrics(strict.text)}
    assert {"visionmeter_http_requests", "visionmeter_tokens_charged_millitokens", "visionmeter_threads"} <= names


@pytest.mark.parametrize(
    ("host", "headers", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("127.8.8.8", {}, 200),
        ("::1", {}, 200),
        ("::ffff:127.0.0.1", {}, 200),
        ("192.0.2.7", {}, 403),
        ("10.0.0.1", {}, 403),
        ("::ffff:192.0.2.7", {}, 403),
        ("localhost", {}, 403),
        ("", {}, 403),
        ("127.0.0.1", {"X-Forwarded-For": "192.0.2.7"}, 403),
        ("127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, 403),
        ("127.0.0.1", {"Forwarded": "for=192.0.2.7"}, 403),
        ("127.0.0.1", {"Via": "1.1 proxy"}, 403),
    ],
)
def test_without_a_token_only_this_machine(
    app: Application, site: Starlette, host: str, headers: dict[str, str], status: int
) -> None:
    """Loopback in any writing; not what a proxy on this machine passes on."""
    set_current(app)
    try:
        answer = TestClient(site, client=(host, 50000)).get("/v1/metrics", headers=headers)
    finally:
        set_current(None)
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["code"] == "not_allowed"
        assert "visionmeter_http" not in answer.text


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Bearer a-long-metrics-token", 200),
        ("bearer a-long-metrics-token", 200),
        (None, 401),
        ("", 401),
        ("Bearer ", 401),
        ("Bearer a-long-metrics-toke", 401),
        ("Basic a-long-metrics-token", 401),
        ("Bearer é".encode("latin-1"), 401),
    ],
)
def test_with_a_token_whoever_has_it(
    app: Application, site: Starlette, authorization: str | bytes | None, status: int
) -> None:
    """From anywhere with it, from nowhere without it, this machine included."""
    settings = app.settings.model_copy(update={"metrics_token": "a-long-metrics-token"})
    set_current(replace(app, settings=settings))
    headers: Any = {} if authorization is None else {"Authorization": authorization}
    try:
        statuses = {
            TestClient(site, client=(host, 50000)).get("/v1/metrics", headers=headers).status_code
            for host in ("127.0.0.1", "192.0.2.7")
        }
    finally:
        set_current(None)
    assert statuses == {status}
