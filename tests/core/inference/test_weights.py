"""Weights are loaded only when they are the registered file and name nothing but network classes."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from core.errors import ModelNotFoundError, ModelNotReadyError, WeightsRefusedError
from core.inference.embedded import place_embedded_model
from core.inference.registry import ModelState, ModelVersion, Registry
from core.inference.weights import hash_file, inspect_weights, load_network

CPU = torch.device("cpu")


class Hostile:
    """Runs a shell command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.marker}",)


def short(text: str) -> bytes:
    """A SHORT_BINUNICODE opcode."""
    return b"\x8c" + bytes([len(text.encode())]) + text.encode()


def dotted(module: str, name: str, marker: Path) -> bytes:
    """A protocol-4 pickle that calls `module.name("touch marker")` through one STACK_GLOBAL."""
    return b"\x80\x04" + short(module) + short(name) + b"\x93" + short(f"touch {marker}") + b"\x85R."


def dotted_global(module: str, name: str, marker: Path) -> bytes:
    """The same through a GLOBAL opcode, which torch's own inspection reads on."""
    return b"\x80\x04c" + f"{module}\n{name}\n".encode() + short(f"touch {marker}") + b"\x85R."


def dotted_global_plain(module: str, name: str, marker: Path) -> bytes:
    """The same without any opcode of protocol 4 after the marker."""
    argument = f"touch {marker}".encode()
    text = b"X" + len(argument).to_bytes(4, "little") + argument
    return b"\x80\x04c" + f"{module}\n{name}\n".encode() + text + b"\x85R."


def checkpoint(pickled: bytes) -> bytes:
    """A file in the layout of `torch.save`, around any pickle."""
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(1)}, buffer)
    changed = io.BytesIO()
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(changed, "w", zipfile.ZIP_STORED) as target:
        for name in source.namelist():
            target.writestr(name, pickled if name.endswith("data.pkl") else source.read(name))
    return changed.getvalue()


def hostile_pickles(marker: Path) -> dict[str, bytes]:
    """Pickles that run code when they are loaded."""
    return {
        "reduce": pickle.dumps(Hostile(marker), protocol=2),
        "hidden in a dict": pickle.dumps({"model": [Hostile(marker)]}, protocol=2),
        "dotted": dotted("ultralytics.nn.tasks", "torch.os.system", marker),
        "dotted global": dotted_global("ultralytics.nn.tasks", "torch.os.system", marker),
        "dotted global, plain": dotted_global_plain("ultralytics.nn.tasks", "torch.os.system", marker),
        "dotted after a class": dotted("ultralytics.nn.tasks", "DetectionModel.__init__.__globals__", marker),
        "module alias": dotted("torch.nn.modules.module.torch.os", "system", marker),
    }


@pytest.mark.parametrize("name", ["reduce", "hidden in a dict", "dotted", "dotted global", "dotted global, plain"])
def test_the_hostile_files_are_hostile(tmp_path: Path, name: str) -> None:
    """Control: an ordinary load of these pickles does run the command."""
    marker = tmp_path / "marker"
    pickle.loads(hostile_pickles(marker)[name])
    assert marker.exists()


@pytest.mark.parametrize("name", list(hostile_pickles(Path("x"))))
def test_hostile_pickle_is_refused_unexecuted(tmp_path: Path, name: str) -> None:
    """A checkpoint that names code is refused by inspection and by loading, and nothing ran."""
    marker = tmp_path / "marker"
    path = tmp_path / "hostile.pt"
    path.write_bytes(checkpoint(hostile_pickles(marker)[name]))
    with pytest.raises(WeightsRefusedError):
        inspect_weights(path)
    with pytest.raises(WeightsRefusedError):
        load_network(path, hash_file(path), CPU)
    assert not marker.exists()


@pytest.mark.parametrize("form", ["bare pickle", "legacy torch", "text", "empty", "truncated"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, weights_dir: Path, form: str) -> None:
    """Other layouts, old ones and damaged files are refused, and nothing in them runs."""
    marker = tmp_path / "marker"
    path = tmp_path / "odd.pt"
    legacy = io.BytesIO()
    torch.save(Hostile(marker), legacy, _use_new_zipfile_serialization=False)
    path.write_bytes(
        {
            "bare pickle": pickle.dumps(Hostile(marker)),
            "legacy torch": legacy.getvalue(),
            "text": b"hello\n",
            "empty": b"",
            "truncated": next(weights_dir.glob("*.pt")).read_bytes()[:100_000],
        }[form]
    )
    with pytest.raises(WeightsRefusedError):
        load_network(path, hash_file(path), CPU)
    assert not marker.exists()


def test_wrong_hash_is_refused(tmp_path: Path, version: ModelVersion) -> None:
    """A file that is not the expected one is not even looked into."""
    path = tmp_path / version.path.name
    path.write_bytes(version.path.read_bytes() + b"\0")
    with pytest.raises(WeightsRefusedError) as caught:
        load_network(path, version.sha256, CPU)
    assert caught.value.details["expected"] == version.sha256
    with pytest.raises(WeightsRefusedError):
        Registry(tmp_path).resolve(version.model.name)


def test_vanished_file_is_refused(tmp_path: Path, version: ModelVersion) -> None:
    """A file removed after it was resolved is an expected error."""
    with pytest.raises(WeightsRefusedError):
        load_network(tmp_path / "gone.pt", version.sha256, CPU)


def test_the_real_weights_pass(version: ModelVersion) -> None:
    """The embedded weights pass the inspection and give a fused network with its two classes."""
    inspect_weights(version.path)
    network, names = load_network(version.path, version.sha256, CPU)
    assert sorted(names.values()) == ["Fall", "Normal"]
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())


def test_states_of_models(tmp_path: Path) -> None:
    """Missing without weights, fetchable where fetching is allowed, ready with a file; unknown names are errors."""
    assert Registry(tmp_path).state("yolov8n") is ModelState.MISSING
    registry = Registry(tmp_path, fetch_allowed=True)
    assert registry.state("yolov8n") is ModelState.FETCHABLE
    assert registry.state("yolov8s-fall") is ModelState.MISSING
    with pytest.raises(ModelNotReadyError):
        registry.resolve("yolov8n")
    (tmp_path / "yolov8n.pt").write_bytes(b"anything")
    assert registry.state("yolov8n") is ModelState.READY
    with pytest.raises(ModelNotFoundError, match="yolov8s-fall"):
        registry.get("yolov99")


def test_embedded_model_is_put_back(tmp_path: Path, version: ModelVersion) -> None:
    """Damaged embedded weights are replaced by the registered ones; no partial file stays behind."""
    registry = Registry(tmp_path)
    target = registry.weights_path(registry.embedded())
    target.write_bytes(b"damaged")
    assert place_embedded_model(registry) == target
    assert hash_file(target) == version.sha256
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_fetching_without_a_network_says_what_to_do(tmp_path: Path) -> None:
    """A download that fails leaves no file and an error that names the file and the folder."""
    with pytest.raises(ModelNotReadyError, match=r"yolov8n\.pt"):
        Registry(tmp_path, fetch_allowed=True).fetch("yolov8n")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ModelNotReadyError, match="switched off"):
        Registry(tmp_path).fetch("yolov8n")


class Rebuilt:
    """An allowed class with a configuration that Ultralytics would hand to `eval`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        from ultralytics.nn.tasks import DetectionModel

        command = f"__import__('os').system('touch {self.marker}')"
        configuration = {"nc": 1, "activation": command, "backbone": [[-1, 1, "Conv", [8, 3, 2]]], "head": []}
        return DetectionModel, (configuration,)


def test_a_configuration_that_would_be_evaluated_is_not(tmp_path: Path) -> None:
    """A checkpoint of allowed classes alone, whose configuration holds a command, runs nothing when loaded."""
    marker, path = tmp_path / "marker", tmp_path / "rebuilt.pt"
    torch.save({"model": Rebuilt(marker), "train_args": {}}, path)
    with pytest.raises(WeightsRefusedError):
        load_network(path, hash_file(path), CPU)
    assert not marker.exists()
    subprocess.run(
        [sys.executable, "-c", "import sys, torch; torch.load(sys.argv[1], weights_only=False)", str(path)],
        env={**os.environ, "ULTRALYTICS_SAFE_LOAD": "false"},
        check=False,
        capture_output=True,
    )
    assert marker.exists(), "control: an ordinary load does run it"
