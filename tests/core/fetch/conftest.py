"""A canary: a server on loopback that nobody may ever reach."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.core.fetch.servers import LoopbackNetwork, Server, ok, says, serving


@pytest.fixture
def canary() -> Iterator[Server]:
    """A server that counts who connects."""
    with serving(says(ok(b"secret of the house"))) as server:
        yield server


@pytest.fixture
def to_canary(canary: Server) -> LoopbackNetwork:
    """A network where every address, whichever is dialled, is the canary."""
    return LoopbackNetwork(canary.port)
