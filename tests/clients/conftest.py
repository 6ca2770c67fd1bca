"""One real server for all tests of the client that need one, and customers on it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from visionmeter_client import VisionMeter

from tests.browser.conftest import free_port
from tests.clients.server import Gateway, Web


@pytest.fixture(scope="package")
def gateway(tmp_path_factory: pytest.TempPathFactory, photo_bytes: dict[str, bytes]) -> Iterator[Gateway]:
    """The server, with a web beside it that has the two photographs."""
    from tests.clients.server import Gateway

    web = Web(photo_bytes)
    with web.serve():
        gateway = Gateway(tmp_path_factory.mktemp("gateway"), free_port(), command="uvicorn", web=web)
        gateway.start()
        yield gateway
        gateway.stop()


@pytest.fixture(scope="package")
def keys(gateway: Gateway) -> dict[str, str]:
    """The key of somebody with tokens, and of somebody with hardly any."""
    return {
        "rich": gateway.add_customer("rich@example.com", Decimal(1000)),
        "poor": gateway.add_customer("poor@example.com", Decimal("0.1")),
    }


@pytest.fixture
def fresh_key(gateway: Gateway) -> str:
    """The key of a new account with 20 tokens."""
    return gateway.add_customer(f"{uuid.uuid4().hex}@example.com", Decimal(20))


@pytest.fixture
def client(gateway: Gateway, keys: dict[str, str]) -> Iterator[VisionMeter]:
    """A client with tokens."""
    with VisionMeter(gateway.url, keys["rich"]) as client:
        yield client


@pytest.fixture
def fresh(gateway: Gateway, fresh_key: str) -> Iterator[VisionMeter]:
    """A client of a new account with 20 tokens."""
    with VisionMeter(gateway.url, fresh_key) as client:
        yield client


@pytest.fixture
def photos(tmp_path: Path, photo_bytes: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the two photographs, which is the working folder."""
    for name, content in photo_bytes.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path
