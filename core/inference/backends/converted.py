"""Converted networks on disk, so that a second start converts nothing. What is damaged or out of date is made again."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from core.inference.backends.network import NetworkFacts

log = logging.getLogger("visionmeter")

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a converted network was made from, and with what: if any of it differs, it is another one."""

    weights_sha256: str
    form: str  # "openvino" or "onnx"
    precision: str
    versions: Mapping[str, str]

    def folder(self, cache_dir: Path) -> Path:
        """Where it belongs. One place whatever the versions are, so that an upgrade replaces and does not add."""
        return cache_dir / f"{self.weights_sha256[:16]}-{self.form}-{self.precision}"


def converted(recipe: Recipe, cache_dir: Path, convert: Callable[[Path], NetworkFacts]) -> tuple[Path, NetworkFacts]:
    """The folder of the converted network, and its facts; `convert` writes it into a folder where there is none.

    Every file is compared with its SHA-256: a flipped bit in weights gives wrong boxes, and no error. Raises `OSError`
    where the folder cannot be written, and whatever `convert` raises.
    """
    folder = recipe.folder(cache_dir)
    facts = _read(recipe, folder)
    if facts is not None:
        return folder, facts
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir, prefix=".partial-", ignore_cleanup_errors=True) as name:
        fresh = Path(name) / folder.name
        fresh.mkdir()
        facts = convert(fresh)
        _write(recipe, fresh, facts)
        # Another process may have been quicker: what it put there may be in use.
        if _read(recipe, folder) is None:
            shutil.rmtree(folder, ignore_errors=True)
            fresh.replace(folder)
    return folder, facts


def _read(recipe: Recipe, folder: Path) -> NetworkFacts | None:
    """The facts of a whole and right one, or None."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["recipe"] != asdict(recipe):
            return None
        for name, sha256 in manifest["files"].items():
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    log.warning("the converted network %s is damaged and made again", folder.name)
                    return None
        facts = manifest["facts"]
        names = {int(key): str(name) for key, name in facts["names"].items()}
        # Manifests of other tasks have none, from before there were poses.
        points = tuple(facts["keypoint_shape"]) if facts["task"] == "pose" else None
        return NetworkFacts(names, facts["task"], facts["end2end"], points)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        log.warning("the converted network %s cannot be read and is made again", folder.name)
        return None


def _write(recipe: Recipe, folder: Path, facts: NetworkFacts) -> None:
    files = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            files[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    manifest = {
        "recipe": asdict(recipe),
        "facts": {
            "names": dict(facts.names),
            "task": facts.task,
            "end2end": facts.end2end,
            "keypoint_shape": facts.keypoint_shape,
        },
        "files": files,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
