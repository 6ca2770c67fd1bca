"""The embedded network in each back end, opened once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from core.inference.backends.choose import open_backend
from core.inference.backends.network import Network
from core.inference.registry import ModelVersion

CORES = 2


@pytest.fixture(scope="package")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for converted networks, empty at first."""
    return tmp_path_factory.mktemp("converted")


@pytest.fixture(scope="package")
def networks(version: ModelVersion, cache_dir: Path) -> Iterator[dict[str, Network]]:
    """The embedded network by the name of its back end, for two cores."""
    device = torch.device("cpu")
    opened = {
        name: open_backend(name, version, device=device, cache_dir=cache_dir, cores=CORES)
        for name in ("torch", "openvino", "onnxruntime")
    }
    yield opened
    for network in opened.values():
        network.close()
