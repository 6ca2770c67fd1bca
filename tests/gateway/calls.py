"""The gateway in the process of the tests, and customers who call it."""

from __future__ import annotations

import base64
import itertools
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from core.config import Settings
from core.fetch.fetch import Fetcher
from core.geometry import NetworkInput
from core.identity.tables import User
from core.inference.images import Pixels
from core.inference.pipeline import prepare
from core.inference.registry import Model
from core.inference.replicas import Replica
from core.services import account_view, api_keys, audit, sign_in
from core.services.api_key_settings import KeySettings
from core.services.application import Application, open_application, set_current
from core.services.job_runner import JobRunner
from gateway.main import gateway_routes
from gateway.observe import Observe
from gateway.problems import add_handlers
from tests.conftest import PASSWORD, migrated_database
from tests.listening import listening

if TYPE_CHECKING:
    from core.inference.engine import Engine

HOST = "http://testserver"
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Customer:
    """An account with one owner and one key; every call shows the key."""

    client: TestClient
    app: Application
    user: User
    secret: str
    key_id: str

    def call(self, method: str, path: str, *, secret: str | None = None, **request: Any) -> httpx.Response:
        """One request; `path` is below `/v1`."""
        headers = {"Authorization": f"Bearer {secret or self.secret}", **request.pop("headers", {})}
        answer: httpx.Response = self.client.request(method, f"/v1{path}", headers=headers, **request)
        return answer

    def get(self, path: str, **request: Any) -> httpx.Response:
        """GET."""
        return self.call("GET", path, **request)

    def post(self, path: str, **request: Any) -> httpx.Response:
        """POST."""
        return self.call("POST", path, **request)

    def detect(
        self, data: bytes, *, key: str | None = None, secret: str | None = None, **fields: Any
    ) -> httpx.Response:
        """One picture as JSON, at 320 unless told otherwise."""
        body = {"image": base64.b64encode(data).decode(), "img_size": 320, **fields}
        headers = {} if key is None else {"Idempotency-Key": key}
        return self.post("/detect", json=body, headers=headers, secret=secret)

    def run(self, path: str, files: dict[str, bytes], *, key: str | None = None, **fields: Any) -> httpx.Response:
        """Many pictures to `/quotes`, `/batch` or `/jobs`, at 320 unless told otherwise."""
        images = [{"name": name, "image": base64.b64encode(data).decode()} for name, data in files.items()]
        headers = {} if key is None else {"Idempotency-Key": key}
        return self.post(path, json={"images": images, "img_size": 320, **fields}, headers=headers)

    def wait(self, job_id: str, timeout_s: float = 60) -> Any:
        """A job when it is finished."""
        deadline = time.monotonic() + timeout_s
        while (job := self.get(f"/jobs/{job_id}").json())["status"] != "finished":
            assert time.monotonic() < deadline, job
            time.sleep(0.02)
        return job

    def make_key(self, **settings: Any) -> api_keys.NewKey:
        """Another key of the account, made on the portal by its owner."""
        return api_keys.create_key(self.app, self.user, replace(KeySettings("another"), **settings))

    def balance(self) -> tuple[float, float]:
        """Settled and held tokens as the API says, which the ledger's replay and the portal say as well."""
        told = self.get("/balance").json()
        now = account_view.get_balance(self.app, self.user)
        assert (told["tokens"], told["held_tokens"]) == (now.posted_mt / 1000, now.held_mt / 1000)
        assert told["remaining_tokens"] == now.available_mt / 1000
        replayed = audit.replay(self.app.db, self.user.account_id)
        assert replayed.ok, replayed.problems
        return told["tokens"], told["held_tokens"]


@dataclass(frozen=True)
class Gateway:
    """The gateway's routes on an application."""

    app: Application
    client: TestClient

    def customer(self, tokens: Decimal | int | str = 20, **key: Any) -> Customer:
        """A new account with so many tokens; `key` are fields of `KeySettings`."""
        welcome = self.app.settings.model_copy(update={"welcome_tokens": Decimal(tokens)})
        ticket = sign_in.sign_up(replace(self.app, settings=welcome), f"c{next(_numbers)}@example.com", PASSWORD)
        user = sign_in.signed_in_user(self.app, sign_in.open_session(self.app, ticket))
        assert user is not None
        settings = replace(KeySettings("test", manages_keys=True), **key)
        made = api_keys.create_key(self.app, user, settings)
        return Customer(self.client, self.app, user, made.secret, made.key.id)

    def change(self, statement: str, **values: object) -> None:
        """Raw SQL: what only time or an operator brings about."""
        with self.app.db.write() as session:
            session.connection().execute(text(statement), values)


def make_asgi() -> Starlette:
    """What `gateway.main` serves, without its start and stop."""
    asgi = Starlette(routes=gateway_routes(), middleware=[Middleware(Observe)])
    add_handlers(asgi)
    return asgi


@contextmanager
def serve(app: Application) -> Iterator[Gateway]:
    """The gateway on an application, for the length of the block. A crash is answered, as it is outside of tests."""
    set_current(app)
    try:
        with TestClient(make_asgi(), base_url=HOST, raise_server_exceptions=False) as client:
            yield Gateway(app, client)
    finally:
        set_current(None)


@contextmanager
def open_gateway(
    kind: str, folder: Path, weights_dir: Path, engine: Engine, *, fetcher: Fetcher | None = None, **changes: Any
) -> Iterator[Gateway]:
    """The gateway with a runner on `sqlite` or `postgresql`; rates are out of the way unless `changes` say more."""
    with migrated_database(kind, folder) as database_url:
        values: dict[str, Any] = {
            "data_dir": folder / "data",
            "weights_dir": weights_dir,
            "database_url": database_url,
            "device": "cpu",
            "model_fetch": False,
            "job_poll_interval_s": 0.05,
            "sweep_interval_s": 0.5,
            "rate_requests_per_s": 10_000,
            "rate_images_per_minute": 100_000,
            **changes,
        }
        app = replace(open_application(Settings(_env_file=None, **values)), engine=engine)
        if fetcher is not None:
            app = replace(app, fetcher=fetcher)
        runner = JobRunner(app)
        runner.start()
        try:
            with serve(app) as served:
                yield served
        finally:
            runner.stop()
            app.close()


@contextmanager
def blocked_model() -> Iterator[None]:
    """No model gets on while the block lasts; what is running or waits goes on after it."""
    gate, forward = threading.Event(), Replica.forward

    def wait_and_run(self: Replica, padded: list[Pixels]) -> Any:
        assert gate.wait(60)
        return forward(self, padded)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Replica, "forward", wait_and_run)
        try:
            yield
        finally:
            gate.set()


@contextmanager
def failing_model(side_px: int) -> Iterator[None]:
    """The network raises for pictures of this width while the block lasts, as it does when memory runs out."""
    forward = Replica.forward
    doomed: list[Pixels] = []

    def remember(pixels: Pixels, img_size: int, model: Model) -> tuple[Pixels, NetworkInput]:
        padded, shape = prepare(pixels, img_size, model)
        if pixels.shape[1] == side_px:
            doomed.append(padded)
        return padded, shape

    def fail_or_run(self: Replica, padded: list[Pixels]) -> Any:
        if any(one is bad for one in padded for bad in doomed):
            raise RuntimeError("out of memory")
        return forward(self, padded)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.inference.engine.prepare", remember)
        patch.setattr(Replica, "forward", fail_or_run)
        yield


@contextmanager
def serve_files(files: Mapping[str, bytes]) -> Iterator[str]:
    """A web server on the loopback with some files; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = files.get(self.path.lstrip("/").split("?")[0])
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *_arguments: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with listening(server):
        yield f"http://127.0.0.1:{server.server_port}"


def events(text_: str) -> list[tuple[str, Any]]:
    """A stream of server-sent events, taken apart."""
    found = []
    for block in text_.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found
