"""Weights are tried in a process of their own before they are loaded into this one.

What a checkpoint may name is inspected before (`core.inference.weights`). What is left can still be broken in ways
that end a process: then it is the child that ends.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from core.errors import WeightsRefusedError
from core.inference.weights import inspect_weights, require_task

TRIAL_TIMEOUT_S = 180.0
_ROOT = Path(__file__).resolve().parents[2]


class Tried(NamedTuple):
    """What weights that run are for, and the names of their classes."""

    task: str
    classes: list[str]


def try_weights(path: Path, sha256: str, task: str | None = None) -> Tried:
    """Inspect a file, load it in a child process and run one grey image there, for a model of `task` or of any served.

    Raises `WeightsRefusedError`.
    """
    inspect_weights(path)
    command = [sys.executable, "-m", "core.inference.trial", str(path), sha256, task or ""]
    try:
        outcome = subprocess.run(  # noqa: S603  # our own interpreter and module; the path is an argument
            command, cwd=_ROOT, capture_output=True, text=True, timeout=TRIAL_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise WeightsRefusedError(f"{path.name} does not load in time: it was not used.") from None
    if outcome.returncode != 0:
        last = outcome.stderr.strip().splitlines()[-1:] or [f"the process ended with {outcome.returncode}"]
        raise WeightsRefusedError(f"{path.name} does not run and was not used: {last[0][:300]}")
    # The last line, for a package may print before.
    found, classes = json.loads(outcome.stdout.splitlines()[-1])
    return Tried(str(found), [str(name) for name in classes])


def _try_here(path: Path, sha256: str, task: str) -> Tried:
    import numpy as np
    import torch

    from core.inference.backends.torch_network import open_torch
    from core.inference.decode import TASKS
    from core.inference.pipeline import grey_picture, to_batch

    network = open_torch(path, sha256, device=torch.device("cpu"), cores=1)
    found = network.facts.task
    if task:
        require_task(path, found, task)
    elif found not in TASKS:
        raise WeightsRefusedError(f"{path.name} holds a network for the task {found}, which is not served here.")
    outputs = network.forward(to_batch([grey_picture()]))
    if not all(np.isfinite(output).all() for output in outputs):
        raise WeightsRefusedError(f"{path.name} computes what is no number.")
    return Tried(found, list(network.names.values()))


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(_try_here(Path(sys.argv[1]), sys.argv[2], sys.argv[3])) + "\n")
