"""A second version of a model: real weights that see a little differently."""

from __future__ import annotations

from pathlib import Path


def make_other_weights(source: Path, target: Path, *, seed: int) -> None:
    """The weights of `source` with a little noise, as another round of training would leave them."""
    import torch
    from ultralytics.models import YOLO

    torch.manual_seed(seed)
    other = YOLO(str(source))
    with torch.no_grad():
        for parameter in other.model.parameters():
            if parameter.numel() > 1:
                parameter.add_(torch.randn_like(parameter) * parameter.std() * 0.01)
    other.save(str(target))
