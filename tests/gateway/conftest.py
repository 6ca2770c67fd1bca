"""Fixtures: the gateway on each kind of database, started once for a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from core.inference.engine import Engine
    from tests.gateway.calls import Gateway


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def gateway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, weights_dir: Path, engine: Engine
) -> Iterator[Gateway]:
    """The gateway with a runner and the real model, on SQLite and on PostgreSQL; the loopback may be called."""
    from tests.gateway.calls import open_gateway

    folder = tmp_path_factory.mktemp("gateway")
    with open_gateway(request.param, folder, weights_dir, engine, fetch_allowed_hosts="127.0.0.1") as served:
        yield served
