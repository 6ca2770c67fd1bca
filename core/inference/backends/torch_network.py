"""torch: serves every device, and is what the other back ends are compared with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from core.inference.backends.compiled import CompiledShapes, Source
from core.inference.backends.head import FlatNetwork, load_flat
from core.inference.backends.network import Arrays, NetworkFacts
from core.inference.images import Pixels
from core.inference.memory import return_freed

# A plain network, or a compiled package.
Compute = Callable[[torch.Tensor], Sequence[torch.Tensor]]


class TorchNetwork:
    """A network in torch, one call at a time on all cores or on the whole device. Half precision on CUDA."""

    backend = "torch"
    streams = 1

    def __init__(
        self, network: FlatNetwork, facts: NetworkFacts, *, device: torch.device, half: bool, cores: int
    ) -> None:
        self.facts = facts
        self.precision = "fp16" if half else "fp32"
        self.compiled: CompiledShapes | None = None
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
        return self._compute(lambda: self._upload(batch))

    def forward_pixels(self, padded: Sequence[Pixels]) -> Arrays:
        """See `TakesPixels.forward_pixels`: a quarter of the bytes go to the device, and it does the dividing."""
        images = torch.from_numpy(np.stack(padded))
        return self._compute(lambda: self._to_batch(images.to(self._device)))

    def forward_by(self, network: Compute, batch: NDArray[np.float32]) -> Arrays:
        """`forward` by another network in the place of this one's."""
        return self._compute(lambda: self._upload(batch), network)

    def export(self, images: int, height: int, width: int) -> torch.export.ExportedProgram:
        """What torch compiles for one shape."""
        example = torch.zeros(images, 3, height, width, device=self._device, dtype=self._dtype)
        with torch.no_grad():
            return torch.export.export(self._network, (example,), strict=False)

    def close(self) -> None:
        """Give back its memory."""
        if self.compiled is not None:
            self.compiled.close()
            self.compiled = None
        del self._network
        return_freed()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _compute(self, make_batch: Callable[[], torch.Tensor], network: Compute | None = None) -> Arrays:
        with self._mutex, torch.inference_mode():
            # Kept for each thread; Ultralytics leaves one for two cores.
            if self._device.type == "cpu" and torch.get_num_threads() != self._cores:
                torch.set_num_threads(self._cores)
            batch = make_batch()
            shape = (batch.shape[0], batch.shape[2], batch.shape[3])
            compiled = self.compiled if network is None else None
            if compiled is not None and (package := compiled.find(shape)) is not None:
                try:
                    return _to_arrays(package(batch))
                except Exception as error:
                    # Whatever a kernel raises: what cannot compute serves no more, and this batch is the plain one's.
                    compiled.give_up(shape, error)
            return _to_arrays((network or self._network)(batch))

    def _upload(self, batch: NDArray[np.float32]) -> torch.Tensor:
        return torch.from_numpy(batch).to(self._device, self._dtype)

    def _to_batch(self, images: torch.Tensor) -> torch.Tensor:
        """`(B, H, W, 3)` uint8 BGR to what `to_batch` makes of it, to the last bit."""
        planes = images.flip(-1).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return planes.div_(255).to(self._dtype)


def open_torch(
    path: Path,
    sha256: str,
    *,
    device: torch.device,
    cores: int,
    cache_dir: Path | None = None,
    compiled_shapes_max: int = 0,
) -> TorchNetwork:
    """The network of a weights file on a device. Raises `WeightsRefusedError`, also for an ONNX file.

    In half precision on CUDA, but for poses and oriented boxes: their points and angles are decoded in the head, and
    half precision knows no half pixels beyond 1024 of them. Shapes that come often are compiled, so many at most,
    and kept in `cache_dir`.
    """
    flat, facts = load_flat(path, sha256, device, form="torchscript")
    half = device.type == "cuda" and facts.task not in ("pose", "obb")
    network = TorchNetwork(flat, facts, device=device, half=half, cores=cores)
    # Rankings of two that agree may differ, so a head that ranks by itself could not be compared.
    if compiled_shapes_max and cache_dir is not None and not facts.end2end:
        source = Source(path, sha256, facts, device, network.precision, cache_dir)
        network.compiled = CompiledShapes(source, flat, network.forward_by, shapes_max=compiled_shapes_max)
    return network


def _to_arrays(outputs: Sequence[torch.Tensor]) -> Arrays:
    return [output.float().cpu().numpy() for output in outputs]


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
