"""Loaded models: so many, and no more bytes than they may take; one that is in use stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from core.inference.backends.network import Network
from core.inference.backends.torch_network import open_torch
from core.inference.registry import ModelVersion
from core.inference.replicas import BYTES_PER_FILE_BYTE, Replicas, estimate_bytes
from core.inference.weights import hash_file
from tests.other_weights import make_other_weights


@pytest.fixture(scope="module")
def versions(version: ModelVersion, tmp_path_factory: pytest.TempPathFactory) -> list[ModelVersion]:
    """Three versions of one model, whose files are about as large."""
    folder, three = tmp_path_factory.mktemp("replicas"), [version]
    for number in (1, 2):
        path = folder / f"{number}.pt"
        make_other_weights(version.path, path, seed=number)
        three.append(ModelVersion(version.model, path, hash_file(path)))
    return three


def load(version: ModelVersion) -> Network:
    """In torch, which is the quickest to load."""
    return open_torch(version.path, version.sha256, device=torch.device("cpu"), cores=1)


def test_the_sum_of_bytes_is_kept(versions: list[ModelVersion]) -> None:
    """Two fit: the least recently used goes for a third, and one that is in use stays, also beyond the limit."""
    room = sum(map(estimate_bytes, versions)) - 1
    replicas = Replicas(load, loaded_max=10, bytes_max=room)

    def loaded() -> list[int]:
        return [versions.index(replica.version) for replica in replicas.loaded()]

    for number in (0, 1, 0, 2):
        with replicas.use(versions[number]):
            pass
    assert loaded() == [0, 2]
    with replicas.use(versions[0]), replicas.use(versions[2]), replicas.use(versions[1]):
        assert loaded() == [0, 2, 1]
    replicas.close()

    unlimited = Replicas(load, loaded_max=10)
    for version in versions:
        with unlimited.use(version):
            pass
    assert len(unlimited.loaded()) == 3
    unlimited.close()


def test_what_a_model_is_estimated_to_take(versions: list[ModelVersion], tmp_path: Path) -> None:
    """A stated factor of its file; nothing for a file that is gone."""
    assert estimate_bytes(versions[0]) == versions[0].path.stat().st_size * BYTES_PER_FILE_BYTE
    assert estimate_bytes(ModelVersion(versions[0].model, tmp_path / "gone.pt", "0" * 64)) == 0
