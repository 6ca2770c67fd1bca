"""Weights are tried in a process of their own before they are loaded into this one.

What a checkpoint may name is inspected before (`core.inference.weights`). What is left can still be broken in ways
that end a process: then it is the child that ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.errors import WeightsRefusedError
from core.geometry import IMG_SIZES_PX
from core.inference.backends.network import Network
from core.inference.child_process import ROOT, last_words
from core.inference.onnx_file import expected_shapes, is_onnx
from core.inference.quantized_file import is_quantized
from core.inference.weights import inspect_weights, require_task

TRIAL_TIMEOUT_S = 180.0
# What the child may have beside its libraries, and for each byte of the file. At the end of their trials the smallest
# and the largest of each kind had 0.9 GB (yolov8n.pt) to 2.0 GB (yolov8x-seg.onnx of 286 MB, in both back ends at
# once): 1.1 GB and 3.5 times an ONNX file. This is twice that, and some. What can be written counts (RLIMIT_DATA): of
# addresses (RLIMIT_AS) torch's libraries reserve 2.6 GB more, and each thread 64 MB that it may never use.
MEMORY_BYTES = 3_000_000_000
MEMORY_A_BYTE = 8
PATCHWORK_PX = 128
# The child refuses in words; whatever else it ends with is a failure.
REFUSED = 3


class Tried(NamedTuple):
    """What weights that run are for, and the names of their classes."""

    task: str
    classes: list[str]


def try_weights(path: Path, sha256: str, task: str | None = None) -> Tried:
    """Inspect a file, load it in a child process and run one grey image there, for a model of `task` or of any served.

    A graph runs more: another shape, and the largest picture.

    Raises `WeightsRefusedError`.
    """
    inspect_weights(path)
    command = [sys.executable, "-m", "core.inference.trial", str(path.absolute()), sha256, task or ""]
    # With a thread for each core, what it takes would depend on the machine.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        outcome = subprocess.run(  # noqa: S603  # our own interpreter and module; the path is an argument
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TRIAL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _refuse(path, f"{path.name} does not load in time: it was not used.") from None
    if outcome.returncode != 0:
        last = last_words(outcome.stderr, outcome.returncode)
        if outcome.returncode == REFUSED:
            raise _refuse(path, **json.loads(last))
        raise _refuse(path, f"{path.name} does not run and was not used: {last[:300]}")
    # The last line, for a package may print before.
    found, classes = json.loads(outcome.stdout.splitlines()[-1])
    return Tried(str(found), [str(name) for name in classes])


def _refuse(path: Path, message: str, reason: str | None = None) -> WeightsRefusedError:
    reason = reason or ("quantized" if is_quantized(path) else None)
    return WeightsRefusedError(message, reason=reason) if reason else WeightsRefusedError(message)


def _limit_memory(path: Path) -> None:
    """Let this process fail before it takes the memory of the machine, as a file may ask for any amount of it."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        # Windows has no such limits; where one holds already that is lower, it stays.
        import resource

        limit = MEMORY_BYTES + MEMORY_A_BYTE * path.stat().st_size
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _try_here(path: Path, sha256: str, task: str) -> Tried:
    import torch

    from core.inference.backends.tolerance import make_patchwork
    from core.inference.backends.torch_network import open_torch
    from core.inference.decode import TASKS
    from core.inference.pipeline import grey_picture, to_batch

    network: Network
    if is_quantized(path):
        from core.inference.backends.openvino_network import open_openvino

        network = open_openvino(path, sha256, cache_dir=Path(), cores=1)  # which it does not use
    elif is_onnx(path):
        with tempfile.TemporaryDirectory() as cache_dir:
            network = _open_onnx(path, sha256, Path(cache_dir))
    else:
        network = open_torch(path, sha256, device=torch.device("cpu"), cores=1)
    found = network.facts.task
    if task:
        require_task(path, found, task)
    elif found not in TASKS:
        raise WeightsRefusedError(f"{path.name} holds a network for the task {found}, which is not served here.")
    grey = grey_picture()
    _run(network, path, to_batch([grey]))
    if is_onnx(path) or is_quantized(path):
        # What is open by its name only would fail at a customer's picture.
        _run(network, path, to_batch([np.concatenate((grey, grey), axis=1)]))
        # What it takes may grow with the picture.
        _run(network, path, make_patchwork(max(IMG_SIZES_PX), max(IMG_SIZES_PX)))
    return Tried(found, list(network.names.values()))


def _open_onnx(path: Path, sha256: str, cache_dir: Path) -> Network:
    """In ONNX Runtime, which has to run it; and once in OpenVINO, which may end a process, or compute other numbers."""
    from core.inference.backends.onnx_network import open_onnx
    from core.inference.backends.openvino_network import open_openvino
    from core.inference.backends.tolerance import difference, make_patchwork

    network = open_onnx(path, sha256, cache_dir=cache_dir, cores=1)
    picture = make_patchwork(PATCHWORK_PX, PATCHWORK_PX)
    expected = network.forward(picture)
    try:
        other = open_openvino(path, sha256, cache_dir=cache_dir, cores=1)
        found = other.forward(picture)
        other.close()
    except Exception as error:
        # Whatever it raises: the other one serves then.
        sys.stderr.write(f"OpenVINO does not run it: {error}\n")
        return network
    if difference(expected, found, network.facts) is not None:
        raise WeightsRefusedError(
            f"{path.name} does not give the same in OpenVINO and in ONNX Runtime: it was not used."
        )
    return network


def _run(network: Network, path: Path, batch: NDArray[np.float32]) -> None:
    outputs = network.forward(batch)
    if is_onnx(path) or is_quantized(path):
        shapes = expected_shapes(network.facts, *batch.shape[2:])
        if [output.shape for output in outputs] != shapes:
            raise WeightsRefusedError(
                f"{path.name} gives other numbers than its task says: "
                f"{'quantize it again' if is_quantized(path) else 'export it with Ultralytics'}."
            )
    if not all(np.isfinite(output).all() for output in outputs):
        raise WeightsRefusedError(f"{path.name} computes what is no number.")


if __name__ == "__main__":
    _limit_memory(Path(sys.argv[1]))
    try:
        found_here = _try_here(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
    except WeightsRefusedError as refusal:
        said = {"message": refusal.message, "reason": refusal.details.get("reason")}
        sys.stderr.write("\n" + json.dumps(said) + "\n")
        sys.exit(REFUSED)
    sys.stdout.write("\n" + json.dumps(found_here) + "\n")
