"""The operator that is used without its package is the package's own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from core.inference.nms import nms, nms_by_class


@pytest.mark.parametrize("count", [0, 1, 50, 1000])
def test_as_torchvision(count: int) -> None:
    """The same boxes in the same order, with and without classes."""
    from torchvision.ops import batched_nms
    from torchvision.ops import nms as theirs

    random = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, generator=random) * 600
    boxes = torch.cat((corners, corners + 20 + torch.rand(count, 2, generator=random) * 80), dim=1)
    scores = torch.rand(count, generator=random)
    class_id = torch.randint(0, 3, (count,), generator=random)
    for iou_max in (0.3, 0.7):
        kept = nms(boxes, scores, iou_max)
        assert torch.equal(kept, theirs(boxes, scores, iou_max))
        apart = nms_by_class(boxes, scores, class_id, iou_max)
        assert torch.equal(apart, batched_nms(boxes, scores, class_id, iou_max))
    assert count < 1000 or len(kept) < len(apart) < count


def test_a_server_starts_without_the_compiler() -> None:
    """What serves does not load what compiles networks: that takes five seconds of a processor at every start."""
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import app, sys; print([name for name in ('torch._dynamo', 'sympy') if name in sys.modules])",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    assert told.stdout.split("\n")[-2] == "[]"
