"""The process that compiles a network for one shape (`core.inference.backends.compiled`).

python -m core.inference.backends.compile_shape WEIGHTS SHA256 DEVICE IMAGES HEIGHT WIDTH PACKAGE
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

# Behind whatever serves.
NICE = 10


def main(arguments: list[str]) -> None:
    """Compile, and write the package."""
    weights, sha256, device_name, images, height, width, package = arguments
    if hasattr(os, "nice"):
        os.nice(NICE)
    import torch
    from torch._inductor import aoti_compile_and_package

    from core.inference.backends.choose import count_cores
    from core.inference.backends.torch_network import open_torch

    device = torch.device(device_name)
    network = open_torch(Path(weights), sha256, device=device, cores=count_cores())
    compile_and_package: Any = aoti_compile_and_package  # it has no types
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        exported = network.export(int(images), int(height), int(width))
        # Weights that are constants are laid out as the processor reads them fastest.
        compile_and_package(exported, package_path=package, inductor_configs={"freezing": device.type == "cpu"})


if __name__ == "__main__":
    main(sys.argv[1:])
