"""torch: serves every device, and is what the other back ends are compared with."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from core.inference.backends.head import FlatNetwork, load_flat
from core.inference.backends.network import Arrays, NetworkFacts
from core.inference.memory import return_freed


class TorchNetwork:
    """A network in torch, one call at a time on all cores or on the whole device. Half precision on CUDA."""

    backend = "torch"
    streams = 1

    def __init__(
        self, network: FlatNetwork, facts: NetworkFacts, *, device: torch.device, half: bool, cores: int
    ) -> None:
        self.facts = facts
        self.precision = "fp16" if half else "fp32"
        self._network = _halve(network) if half else network
        self._device = device
        self._dtype = torch.float16 if half else torch.float32
        self._cores = cores
        # The head keeps the anchors of the last shape in itself: two calls at once would take each other's.
        self._mutex = threading.Lock()

    @property
    def names(self) -> Mapping[int, str]:
        """Class ids and their names."""
        return self.facts.names

    def forward(self, batch: NDArray[np.float32]) -> Arrays:
        """See `Network.forward`."""
        with self._mutex, torch.inference_mode():
            # Kept for each thread; Ultralytics leaves one for two cores.
            if self._device.type == "cpu" and torch.get_num_threads() != self._cores:
                torch.set_num_threads(self._cores)
            tensor = torch.from_numpy(batch).to(self._device, self._dtype)
            return [output.float().cpu().numpy() for output in self._network(tensor)]

    def close(self) -> None:
        """Give back its memory."""
        del self._network
        return_freed()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def open_torch(path: Path, sha256: str, *, device: torch.device, cores: int) -> TorchNetwork:
    """The network of a weights file on a device. Raises `WeightsRefusedError`, also for an ONNX file.

    In half precision on CUDA, but for poses and oriented boxes: their points and angles are decoded in the head, and
    half precision knows no half pixels beyond 1024 of them.
    """
    network, facts = load_flat(path, sha256, device, form="torchscript")
    half = device.type == "cuda" and facts.task not in ("pose", "obb")
    return TorchNetwork(network, facts, device=device, half=half, cores=cores)


class _InFloat32(torch.nn.Module):
    """Distances are decoded in float32: half precision knows no half pixels beyond 1024 of them."""

    def __init__(self, decode: torch.nn.Module) -> None:
        super().__init__()
        self.decode = decode.float()

    def forward(self, distances: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.decode(distances.float())
        return result


def _halve(network: FlatNetwork) -> FlatNetwork:
    network.half()
    for module in list(network.modules()):
        decode = getattr(module, "dfl", None)
        if isinstance(decode, torch.nn.Module):
            module.dfl = _InFloat32(decode)
    return network
