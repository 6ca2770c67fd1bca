"""A torch network whose outputs are a flat list of arrays, as Ultralytics' exporter makes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from core.inference.backends.network import NetworkFacts
from core.inference.weights import load_network


class NotConvertibleError(Exception):
    """A network that runs in torch only."""


class FlatNetwork(torch.nn.Module):
    """`(B, 3, H, W)` to a tuple of tensors, whatever lists and dictionaries the head makes."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """All outputs, in the order of the head."""
        return tuple(_flatten(self.network(batch)))


def load_flat(path: Path, expected_sha256: str, device: torch.device, *, form: str) -> tuple[FlatNetwork, NetworkFacts]:
    """A fused network, its head set as Ultralytics' exporter sets it for `form` ("torchscript", "openvino", "onnx").

    Raises `WeightsRefusedError` as `load_network` does, and `NotConvertibleError` where a converted one would fail.
    """
    network, names = load_network(path, expected_sha256, device)
    for module in network.modules():
        if hasattr(module, "export"):
            # The head alone has these: outputs for inference only, and anchors made anew for each shape.
            head: Any = module
            head.export, head.dynamic, head.format, head.shape = True, True, form, None
    known: Any = network
    points = getattr(known, "kpt_shape", None) if known.task == "pose" else None
    facts = NetworkFacts(
        names,
        str(known.task),
        bool(getattr(known, "end2end", False)),
        None if points is None else (int(points[0]), int(points[1])),
    )
    if facts.end2end and form != "torchscript":
        # Converted, it would take the best 300 candidates of any input, and a small one has fewer.
        raise NotConvertibleError(f"{path.name} ranks its detections itself: it runs in torch")
    return FlatNetwork(network).eval(), facts


def _flatten(output: Any) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, dict):
        for part in output.values():
            yield from _flatten(part)
    elif isinstance(output, list | tuple):
        for part in output:
            yield from _flatten(part)
