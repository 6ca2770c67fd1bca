"""Converted networks are kept on disk, used again, and made again when they are damaged or out of date."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from core.errors import WeightsRefusedError
from core.inference.backends import onnx_network, openvino_network
from core.inference.backends.choose import open_backend
from core.inference.backends.converted import MANIFEST, Recipe, converted
from core.inference.backends.network import Network, NetworkFacts
from core.inference.registry import ModelVersion

MODULES: dict[str, ModuleType] = {"openvino": openvino_network, "onnxruntime": onnx_network}
FACTS = NetworkFacts({0: "Normal", 1: "Fall"}, "detect", end2end=False)
RECIPE = Recipe("5f" * 32, "openvino", "fp32", {"openvino": "1"})


class Converter:
    """Writes two small files where a network would be, and counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, folder: Path) -> NetworkFacts:
        self.count += 1
        (folder / "model.xml").write_text("<net/>", encoding="utf-8")
        (folder / "model.bin").write_bytes(bytes(range(256)))
        return FACTS


@pytest.fixture(scope="module")
def filled(networks: dict[str, Network], cache_dir: Path) -> Path:
    """A folder in which each back end has put its converted network."""
    assert networks
    return cache_dir


@pytest.mark.parametrize("backend", sorted(MODULES))
def test_second_start_converts_nothing(
    version: ModelVersion,
    networks: dict[str, Network],
    filled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
) -> None:
    """The second start loads no weights into torch and traces nothing; one flipped bit, and it does, once."""
    cache = tmp_path / "converted"
    shutil.copytree(filled, cache)
    conversions: list[Path] = []
    load_flat = MODULES[backend].load_flat

    def counting(path: Path, *args: Any, **kwargs: Any) -> Any:
        conversions.append(path)
        return load_flat(path, *args, **kwargs)

    monkeypatch.setattr(MODULES[backend], "load_flat", counting)
    batch = np.random.default_rng(5).random((1, 3, 160, 96), dtype=np.float32)
    expected = networks[backend].forward(batch)[0]

    def start() -> None:
        network = open_backend(backend, version, device=torch.device("cpu"), cache_dir=cache, cores=2)
        np.testing.assert_allclose(network.forward(batch)[0], expected, atol=0.05)
        assert network.names == {0: "Normal", 1: "Fall"}
        network.close()

    start()
    assert len(conversions) == 0
    form, file = {"openvino": ("openvino", "model.bin"), "onnxruntime": ("onnx", "model.onnx")}[backend]
    largest = cache / f"{version.sha256[:16]}-{form}-fp32" / file
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 0x40
    largest.write_bytes(content)
    start()
    assert len(conversions) == 1
    start()
    assert len(conversions) == 1


@pytest.mark.parametrize("backend", sorted(MODULES))
def test_weights_that_changed_are_refused_although_converted(
    version: ModelVersion, filled: Path, tmp_path: Path, backend: str
) -> None:
    """What was converted from the right weights does not stand in for a file that is another now."""
    changed = tmp_path / version.path.name
    changed.write_bytes(version.path.read_bytes()[:-1])
    other = ModelVersion(version.model, changed, version.sha256)
    with pytest.raises(WeightsRefusedError):
        open_backend(backend, other, device=torch.device("cpu"), cache_dir=filled, cores=2)


def test_converted_once_and_the_facts_come_back(tmp_path: Path) -> None:
    """The second time gives the same folder and facts and does not convert."""
    convert = Converter()
    first, second = converted(RECIPE, tmp_path, convert), converted(RECIPE, tmp_path, convert)
    assert first == second == (RECIPE.folder(tmp_path), FACTS)
    assert convert.count == 1
    assert [path.name for path in tmp_path.iterdir()] == [first[0].name]


@pytest.mark.parametrize("name", ["model.xml", "model.bin", MANIFEST])
@pytest.mark.parametrize("damage", ["cut", "emptied", "removed", "other"])
def test_damaged_is_made_again(tmp_path: Path, name: str, damage: str) -> None:
    """Whichever file is damaged, and however: it is converted once more, and then it is right."""
    convert = Converter()
    folder, _ = converted(RECIPE, tmp_path, convert)
    file = folder / name
    right = file.read_bytes()
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes({"cut": right[: len(right) // 2], "emptied": b"", "other": b"[" + right[1:]}[damage])
    assert converted(RECIPE, tmp_path, convert) == (folder, FACTS)
    assert convert.count == 2
    assert file.read_bytes() == right


def test_another_version_replaces_and_does_not_add(tmp_path: Path) -> None:
    """After an upgrade of a package the network is converted anew, in the place of the old one."""
    convert = Converter()
    converted(RECIPE, tmp_path, convert)
    newer = Recipe(RECIPE.weights_sha256, RECIPE.form, RECIPE.precision, {"openvino": "2"})
    folder, _ = converted(newer, tmp_path, convert)
    assert convert.count == 2
    assert len(list(tmp_path.iterdir())) == 1
    assert json.loads((folder / MANIFEST).read_text())["recipe"]["versions"] == {"openvino": "2"}


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """What broke off is neither used nor kept."""

    def fail(folder: Path) -> NetworkFacts:
        (folder / "model.bin").write_bytes(b"half")
        raise RuntimeError("no space")

    with pytest.raises(RuntimeError, match="no space"):
        converted(RECIPE, tmp_path, fail)
    assert list(tmp_path.iterdir()) == []


def test_another_process_was_quicker(tmp_path: Path) -> None:
    """What it has put there meanwhile stays, as it may be in use."""
    theirs, ours = Converter(), Converter()

    def convert_while_they_do(folder: Path) -> NetworkFacts:
        converted(RECIPE, tmp_path, theirs)
        return ours(folder)

    folder, _ = converted(RECIPE, tmp_path, convert_while_they_do)
    inode = (folder / "model.bin").stat().st_ino
    assert (theirs.count, ours.count) == (1, 1)
    assert converted(RECIPE, tmp_path, ours) == (folder, FACTS)
    assert (folder / "model.bin").stat().st_ino == inode
    assert len(list(tmp_path.iterdir())) == 1
