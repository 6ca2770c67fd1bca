"""Which back end computes: the one that was asked for, or the first that works on this device."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from core.errors import WeightsRefusedError
from core.inference.backends.network import Network
from core.inference.onnx_file import is_onnx
from core.inference.quantized_file import is_quantized
from core.inference.registry import ModelVersion
from core.inference.weights import require_task

log = logging.getLogger("visionmeter")

Backend = Literal["auto", "openvino", "onnxruntime", "torch"]
# In the order of preference where nothing was measured.
ON_PROCESSORS = ("openvino", "onnxruntime")


def count_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def name_device(device: torch.device) -> str:
    """A device in words, for example `cpu` or `cuda (NVIDIA H100)`."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def open_backend(
    name: str,
    version: ModelVersion,
    *,
    device: torch.device,
    cache_dir: Path,
    cores: int,
    compiled_shapes_max: int = 0,
) -> Network:
    """The network of a version in one back end.

    Raises `WeightsRefusedError`, also when the weights are for another task than the model, and whatever a package
    raises.
    """
    network = _open(
        name, version, device=device, cache_dir=cache_dir, cores=cores, compiled_shapes_max=compiled_shapes_max
    )
    try:
        require_task(version.path, network.facts.task, version.model.task)
    except WeightsRefusedError:
        network.close()
        raise
    return network


def _open(
    name: str, version: ModelVersion, *, device: torch.device, cache_dir: Path, cores: int, compiled_shapes_max: int
) -> Network:
    if name == "openvino":
        from core.inference.backends.openvino_network import open_openvino

        return open_openvino(version.path, version.sha256, cache_dir=cache_dir, cores=cores)
    if name == "onnxruntime":
        from core.inference.backends.onnx_network import open_onnx

        return open_onnx(version.path, version.sha256, cache_dir=cache_dir, cores=cores)
    from core.inference.backends.torch_network import open_torch

    return open_torch(
        version.path,
        version.sha256,
        device=device,
        cores=cores,
        cache_dir=cache_dir,
        compiled_shapes_max=compiled_shapes_max,
    )


def open_networks(
    device: torch.device,
    *,
    cache_dir: Path,
    backend: Backend = "auto",
    preferred: Sequence[str] = ON_PROCESSORS,
    compiled_shapes_max: int = 0,
) -> Callable[[ModelVersion], Network]:
    """What opens the network of a version on a device; converted ones are kept in `cache_dir`.

    `auto` takes the first of the `preferred` that works on a processor, and torch where none does and on every other
    device. `core.inference.backends.probe` measures which is the fastest here. An ONNX file, which torch does not run,
    computes on the processor in one of `ON_PROCESSORS`, whatever the device and the setting are; a quantized one in
    OpenVINO alone. `compiled_shapes_max` is of networks in torch (`core.inference.backends.compiled`).
    """
    open_by = partial(
        open_backend,
        device=device,
        cache_dir=cache_dir,
        cores=count_cores(),
        compiled_shapes_max=compiled_shapes_max,
    )

    def names_for(version: ModelVersion) -> Sequence[str]:
        wanted = (backend,) if backend != "auto" else (*(preferred if device.type == "cpu" else ()), "torch")
        if is_quantized(version.path):
            return ("openvino",)
        if is_onnx(version.path):
            return tuple(dict.fromkeys((*(name for name in wanted if name in ON_PROCESSORS), *ON_PROCESSORS)))
        return wanted

    def open_network(version: ModelVersion) -> Network:
        *names, last = names_for(version)
        for name in names:
            try:
                return open_by(name, version)
            except WeightsRefusedError:
                raise
            except Exception as error:
                # A package that is not there, a network that it cannot convert, a folder that cannot be written: the
                # next one serves.
                log.warning("%s cannot run %s: %s", name, version.model.name, error)
        return open_by(last, version)

    return open_network
