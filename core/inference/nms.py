"""torchvision's own NMS, without the package around it.

`import torchvision` brings PyTorch's compiler and sympy along: five seconds of a processor in every process, and all
that is wanted is one operator of its library (docs/adr/0005).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch


def _load_operators() -> None:
    spec = find_spec("torchvision")
    folders = spec.submodule_search_locations if spec else None
    libraries = [path for folder in folders or () for path in Path(folder).glob("_C*.so")]
    if len(libraries) == 1:
        torch.ops.load_library(libraries[0])  # type: ignore[no-untyped-call]  # torch leaves it without types
    else:
        # Built otherwise than its wheels for Linux and macOS: then the package finds its library.
        import torchvision  # noqa: F401  # for what it registers


_load_operators()


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_max: float) -> torch.Tensor:
    """The indices `(K,)` of the boxes that stay, by falling score, as `torchvision.ops.nms` gives them.

    `boxes` is `(N, 4)` as x1, y1, x2, y2 and `scores` `(N,)`, both float32; a box goes that overlaps a better one by
    more than `iou_max`.
    """
    kept: torch.Tensor = torch.ops.torchvision.nms(boxes, scores, iou_max)
    return kept


def nms_by_class(boxes: torch.Tensor, scores: torch.Tensor, class_id: torch.Tensor, iou_max: float) -> torch.Tensor:
    """The same where only boxes of one class, `(N,)` int, rule each other out; as `torchvision.ops.batched_nms`."""
    kept = [
        members[nms(boxes[members], scores[members], iou_max)]
        for members in (torch.nonzero(class_id == one).squeeze(1) for one in set(class_id.tolist()))
    ]
    together = torch.cat(kept) if kept else torch.empty(0, dtype=torch.int64)
    return together[scores[together].argsort(descending=True)]
