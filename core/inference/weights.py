"""Weights files: their hash, a look inside before they are loaded, and loading.

An `.onnx` file can run no code (`core.inference.onnx_file`), nor can a quantized `.openvino` file
(`core.inference.quantized_file`). A `.pt` file is a pickle, and loading a pickle can run any code. So a file is loaded
only when its SHA-256 is the registered one (or an operator put it into the weights folder himself) *and* everything it
names is a network class of torch or Ultralytics.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from core.errors import WeightsRefusedError
from core.inference import onnx_file, quantized_file
from core.inference.onnx_file import inspect_onnx, is_onnx
from core.inference.quantized_file import begins_quantized, is_quantized, read_quantized

# Of a model with files of several kinds the first of these is its weights.
SUFFIXES = (quantized_file.SUFFIX, onnx_file.SUFFIX, ".pt")
# So many bytes of a file say of which kind it is.
HEAD_BYTES = quantized_file.HEAD_BYTES

# Ultralytics would run pip at whatever moment it misses an optional package; it reads this when imported.
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
# A checkpoint of allowed classes alone can still carry a configuration that Ultralytics hands to `eval` while it
# rebuilds the network. With this, torch loads tensors and state only (docs/adr/0009). Not a default: always, in child
# processes too; `_load_safely` does the same where Ultralytics was imported before this.
os.environ["ULTRALYTICS_SAFE_LOAD"] = "true"

# What a YOLO checkpoint may name: network classes, and plain containers. A dotted name such as
# `ultralytics.nn.tasks.os.system` does not match: the last part must be a class right in the module.
_ALLOWED = re.compile(
    r"ultralytics\.nn\.(tasks|modules(\.\w+)?)\.[A-Z]\w*"
    r"|torch\.nn\.modules\.\w+\.[A-Z]\w*"
    r"|ultralytics\.utils\.(IterableSimpleNamespace|loss\.[A-Z]\w*|tal\.[A-Z]\w*)"
    r"|builtins\.(set|frozenset|slice|complex)|collections\.(OrderedDict|defaultdict)"
    r"|types\.SimpleNamespace|pathlib\.(PosixPath|WindowsPath|Path|PurePosixPath|PureWindowsPath)"
)


def hash_file(path: Path) -> str:
    """SHA-256 of a file as hexadecimal text; remembered while its size and time stay the same."""
    stat = path.stat()
    return _hash_file(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _hash_file(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def suffix_of(head: bytes) -> str:
    """The suffix that weights belong under, by their first `HEAD_BYTES`, whatever the file is called.

    An ONNX file begins with the number of its format.
    """
    if begins_quantized(head):
        return quantized_file.SUFFIX
    return onnx_file.SUFFIX if head[:1] == b"\x08" else ".pt"


def inspect_weights(path: Path) -> None:
    """Raise `WeightsRefusedError` when the file names anything outside the allow-list. Nothing is executed."""
    if is_quantized(path):
        read_quantized(path)
        return
    if is_onnx(path):
        inspect_onnx(path)
        return
    try:
        foreign = [name for name in get_unsafe_globals_in_checkpoint(path) if not _ALLOWED.fullmatch(name)]
    except Exception as error:
        # torch raises many types for files that are no checkpoint; each means: do not load it.
        raise WeightsRefusedError(f"{path.name} is no PyTorch checkpoint: put the right file there.") from error
    if foreign:
        raise WeightsRefusedError(
            f"{path.name} names code that no detection model needs ({', '.join(sorted(foreign)[:3])}): "
            "it was not loaded.",
            names=sorted(foreign),
        )


def require_weights(path: Path, expected_sha256: str) -> None:
    """Raise `WeightsRefusedError` when the file cannot be read or is not the expected one."""
    try:
        found = hash_file(path)
    except OSError:
        raise WeightsRefusedError(f"The weights {path.name} cannot be read: put the file back.") from None
    if found != expected_sha256:
        raise WeightsRefusedError(
            f"The weights {path.name} have changed since they were registered: put the right file back.",
            expected=expected_sha256,
            found=found,
        )


def require_task(path: Path, found: str, wanted: str) -> None:
    """Raise `WeightsRefusedError` when weights are for another task than the model that they are to stand for."""
    if found != wanted:
        raise WeightsRefusedError(
            f"{path.name} holds a network for the task {found}, and the model is one for {wanted}: put the right file "
            "there.",
            task=found,
            wanted=wanted,
        )


def load_network(path: Path, expected_sha256: str, device: torch.device) -> tuple[torch.nn.Module, Mapping[int, str]]:
    """The network on `device`, fused and in evaluation mode, and the names of its classes.

    Raises `WeightsRefusedError` when the file is not the expected one or fails the inspection.
    """
    require_weights(path, expected_sha256)
    inspect_weights(path)
    try:
        yolo = _load_safely(path)
    except Exception as error:
        # Ultralytics and torch refuse in many types; each means that this is not a network to run.
        raise WeightsRefusedError(f"{path.name} does not load as a model: it was not used.") from error
    model = cast(Any, yolo.model)  # typed as a name or nothing; after loading a file it is its network
    network: torch.nn.Module = model.float().fuse(verbose=False).eval().to(device)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network, {int(key): str(name) for key, name in yolo.names.items()}


def _load_safely(path: Path) -> Any:
    from ultralytics.models import YOLO
    from ultralytics.nn import tasks

    tasks.SAFE_LOAD = True  # type: ignore[attr-defined]  # Ultralytics declares no exports
    # What the network is for stands in the file; `require_task` compares it with what the model is for.
    return YOLO(str(path))
