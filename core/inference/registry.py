"""The registry: which models are known, which weights stand behind each name, and whether they are here.

A model's file in the weights folder says which version its operator wants: `<model>.openvino`, where there is none
`<model>.onnx`, or else `<model>.pt`. Which one is served is another step (`switch`), taken when the new one is loaded
and warm; until then, and for runs that were priced with it, the old one stays (`core.services.model_watch`). Versions
that were served are kept under `versions/`, so that a run can end with the weights that it was priced for, and an
operator can go back. What an operator adds (models of his own, retired ones, a version for a share of the accounts)
stands in files of the same folder, and holds in all processes at once.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path

from core.errors import (
    ModelNotFoundError,
    ModelNotReadyError,
    ModelRetiredError,
    WeightsRefusedError,
)
from core.inference.canaries import PERCENT_MAX, Canaries, Canary
from core.inference.catalogue import Catalogue, OperatorCatalogue
from core.inference.weights import SUFFIXES, hash_file, inspect_weights

# Of each model: the one that is served and those before it.
VERSIONS_KEPT_MAX = 5
CATALOG = Path(__file__).with_name("catalog.json")


class ModelState(StrEnum):
    """Whether a model can run."""

    READY = "ready"  # its weights are here
    FETCHABLE = "fetchable"  # an operator can fetch them
    MISSING = "missing"  # a file must be put into the weights folder


@dataclass(frozen=True, slots=True)
class Model:
    """A name that customers call. `sha256` is None where any file an operator supplies is accepted.

    `task` is what its network is for: detect (boxes), segment, pose, obb (oriented boxes) or classify.
    """

    name: str
    title: str
    file: str
    sha256: str | None
    embedded: bool
    classes: str
    task: str = "detect"

    @property
    def sees_square(self) -> bool:
        """Whether its network input is a square of the image (`core.geometry.square_input`)."""
        return self.task == "classify"


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """The weights behind a model's name at one moment."""

    model: Model
    path: Path
    sha256: str

    @property
    def version(self) -> str:
        """The first 12 characters of the weights' SHA-256."""
        return self.sha256[:12]


class Registry:
    """Models of the catalogue and their weights in one folder; thread-safe.

    Where nothing was switched to, the file in the folder counts, and is looked at afresh at each call.
    """

    def __init__(self, weights_dir: Path, *, fetch_allowed: bool = False, catalog: Path = CATALOG) -> None:
        self.weights_dir = weights_dir
        self.fetch_allowed = fetch_allowed
        data = json.loads(catalog.read_text(encoding="utf-8"))
        self._built_in = {item["name"]: Model(**item) for item in data["models"]}
        self.catalogue = OperatorCatalogue(weights_dir / "catalog.json", self._built_in)
        self._own: tuple[Catalogue | None, Mapping[str, Model]] = (None, {})
        self._served: dict[str, ModelVersion] = {}
        self.canaries = Canaries(weights_dir / "versions")
        self._mutex = threading.Lock()

    def models(self) -> Sequence[Model]:
        """All known models, the embedded one first, retired ones too; the operator's own ones last."""
        return (*self._built_in.values(), *self._own_models().values())

    def get(self, name: str) -> Model:
        """A model by name; `ModelNotFoundError` lists the names there are."""
        model = self._built_in.get(name) or self._own_models().get(name)
        if model is None:
            names = ", ".join(model.name for model in self.models() if not self.is_retired(model.name))
            raise ModelNotFoundError(f"There is no model {name}: choose one of {names}.", model=name)
        return model

    def embedded(self) -> Model:
        """The model that needs no download."""
        return next(model for model in self._built_in.values() if model.embedded)

    def is_own(self, name: str) -> bool:
        """Whether an operator added the model."""
        return name in self._own_models()

    def is_retired(self, name: str) -> bool:
        """Whether the model is no longer offered for new quotes."""
        return name in self.catalogue.read().retired

    def _own_models(self) -> Mapping[str, Model]:
        catalogue, models = self.catalogue.read(), self._own[1]
        if catalogue is not self._own[0]:
            known = {field.name for field in fields(Model)}
            models = {
                item["name"]: Model(
                    **{"sha256": None, **{key: value for key, value in item.items() if key in known}, "embedded": False}
                )
                for item in catalogue.models
            }
            self._own = (catalogue, models)
        return models

    def weights_path(self, model: Model) -> Path:
        """Where the weights of a model are, or belong: the first of `SUFFIXES`, unless a pickle is registered."""
        pickled = self.weights_dir / model.file
        return pickled if model.sha256 is not None else _first_there(pickled)

    def hidden_paths(self, model: Model) -> Sequence[Path]:
        """Files of a model that are there and not its weights, for one of another kind goes before them."""
        if model.sha256 is not None:
            return []
        there = [path for suffix in SUFFIXES if (path := (self.weights_dir / model.file).with_suffix(suffix)).is_file()]
        return there[1:]

    def state(self, name: str) -> ModelState:
        """Ready, fetchable or missing."""
        model = self.get(name)
        if self.weights_path(model).is_file():
            return ModelState.READY
        # What is published under the name of an operator's own model is not that model.
        published = not model.embedded and not self.is_own(name)
        return ModelState.FETCHABLE if self.fetch_allowed and published else ModelState.MISSING

    def resolve(self, name: str, *, account_id: str | None = None) -> ModelVersion:
        """The version that a name stands for now, for an account: its canary, or else what `now` gives.

        Raises `ModelRetiredError`, and what `now` raises.
        """
        model = self.get(name)
        if self.is_retired(name):
            raise ModelRetiredError(
                f"{model.title} is no longer offered: choose another model. Results and receipts stay.", model=name
            )
        return self._meets_canary(name, account_id) or self.now(name)

    def now(self, name: str) -> ModelVersion:
        """The version of a model, retired or not: the one that was switched to, or else that of the file.

        Raises what `look` raises.
        """
        self.get(name)
        return self._served.get(name) or self.look(name)

    def look(self, name: str) -> ModelVersion:
        """The version of the file that lies in the folder now.

        Raises `ModelNotReadyError` without weights, `WeightsRefusedError` when a file is not the registered one.
        """
        model = self.get(name)
        path = self.weights_path(model)
        if not path.is_file():
            raise ModelNotReadyError(
                f"{model.title} is not installed on this machine: choose another model, or ask the operator to add "
                f"{model.file}.",
                model=name,
                file=model.file,
            )
        sha256 = hash_file(path)
        if model.sha256 is not None and sha256 != model.sha256:
            raise WeightsRefusedError(
                f"The weights {model.file} are not the registered ones: ask the operator to put them back.", model=name
            )
        return ModelVersion(model, path, sha256)

    # Versions side by side --------------------------------------------------------------------------

    def served(self, name: str) -> ModelVersion | None:
        """The version that was switched to, if any was."""
        return self._served.get(name)

    def switch(self, version: ModelVersion) -> None:
        """Let a model's name stand for a version from this moment on, in one step."""
        with self._mutex:
            self._served[version.model.name] = version

    def withdraw(self, name: str) -> None:
        """Let the file in the folder count again; without one, the model cannot run."""
        with self._mutex:
            self._served.pop(name, None)

    def keep(self, version: ModelVersion) -> ModelVersion:
        """The same version in a file of its own, which nobody replaces.

        Raises `WeightsRefusedError` when the file changes while it is copied, and `OSError`.
        """
        kept = self._kept_path(version.model.name, version.sha256, version.path.suffix)
        if not kept.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            partial = kept.with_name(f"{kept.name}.{os.getpid()}.partial")
            try:
                shutil.copyfile(version.path, partial)
                if hash_file(partial) != version.sha256:
                    raise WeightsRefusedError(
                        f"The weights {version.path.name} change while they are read: they are looked at again.",
                        model=version.model.name,
                    )
                partial.replace(kept)
            finally:
                partial.unlink(missing_ok=True)
        os.utime(kept)  # the newest is the one that was served last
        return ModelVersion(version.model, kept, version.sha256)

    def is_kept(self, version: ModelVersion) -> bool:
        """Whether it was kept before, which means that it could be served."""
        return self._find_kept(version.model.name, version.sha256).is_file()

    def forget(self, version: ModelVersion) -> None:
        """Keep a version no more."""
        self._find_kept(version.model.name, version.sha256).unlink(missing_ok=True)

    def list_versions(self, name: str) -> list[ModelVersion]:
        """The kept versions of a model, the one that was served last first. Raises `ModelNotFoundError`."""
        model = self.get(name)
        folder = self.weights_dir / "versions" / name
        paths = sorted(
            (path for suffix in SUFFIXES for path in folder.glob(f"*{suffix}")),
            key=lambda path: path.stat().st_mtime_ns,
            reverse=True,
        )
        return [ModelVersion(model, path, path.stem) for path in paths]

    def prune(self, name: str) -> None:
        """Forget the oldest of more than `VERSIONS_KEPT_MAX` versions, but none that is served to anybody."""
        canary, served = self.canaries.get(name), self._served.get(name)
        needed = {canary and canary.sha256, served and served.sha256, self._file_sha256(name)}
        # Sorting is stable: those first, then the newest.
        kept = sorted(self.list_versions(name), key=lambda version: version.sha256 not in needed)
        for version in kept[VERSIONS_KEPT_MAX:]:
            self.forget(version)

    def find_version(self, name: str, version: str) -> ModelVersion:
        """A version by its first 12 characters: the one that is served, or one that is kept.

        Raises `ModelNotFoundError`, `ModelNotReadyError` for a version that is not here any more, and
        `WeightsRefusedError` when what lies in its place is refused.
        """
        refusal: WeightsRefusedError | None = None
        try:
            now = self.now(name)
            if now.version == version:
                return now
        except ModelNotReadyError:
            pass  # its file is gone: the version may be kept all the same
        except WeightsRefusedError as error:
            refusal = error
        for kept in self.list_versions(name):
            if kept.version == version:
                return kept
        if refusal is not None:
            raise refusal
        raise ModelNotReadyError(
            f"The weights {version} of {name} are not here any more: preview again for those of today.",
            model=name,
            version=version,
        )

    def roll_back(self, name: str, version: str) -> ModelVersion:
        """Put a kept version's file in the place of the model's. Raises what `find_version` raises, and `OSError`."""
        wanted = self.find_version(name, version)
        self._put_in_place(wanted)
        return wanted

    def _put_in_place(self, version: ModelVersion) -> None:
        target = self.weights_dir / version.model.file
        partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
        try:
            shutil.copyfile(version.path, partial)
            self.move_in_place(version.model, partial, version.path.suffix)
        finally:
            partial.unlink(missing_ok=True)

    def move_in_place(self, model: Model, weights: Path, suffix: str) -> None:
        """Let a file of the weights folder be a model's from this moment on. Raises `OSError`."""
        target = (self.weights_dir / model.file).with_suffix(suffix)
        weights.replace(target)
        # Those that stand before it: the first of them goes last, and with it the old weights in one step.
        for before in reversed(SUFFIXES[: SUFFIXES.index(suffix)]):
            target.with_suffix(before).unlink(missing_ok=True)

    def _kept_path(self, name: str, sha256: str, suffix: str) -> Path:
        return self.weights_dir / "versions" / name / f"{sha256}{suffix}"

    def _find_kept(self, name: str, sha256: str) -> Path:
        """Where a version is kept, whichever kind of file it is."""
        return _first_there(self._kept_path(name, sha256, ".pt"))

    def _file_sha256(self, name: str) -> str | None:
        try:
            return hash_file(self.weights_path(self.get(name)))
        except OSError:
            return None

    # A version for a share of the accounts ------------------------------------------------------------

    def find_canary(self, name: str) -> ModelVersion | None:
        """The canary's version, promoted ones too while their file is the model's; None where there is none.

        Raises `ModelNotReadyError` when its file is gone.
        """
        canary = self.canaries.get(name)
        if canary is None or (canary.promoted and self._file_sha256(name) != canary.sha256):
            return None
        version = ModelVersion(self.get(name), self._find_kept(name, canary.sha256), canary.sha256)
        if not version.path.is_file():
            raise ModelNotReadyError(f"The canary {version.version} of {name} is not here any more.", model=name)
        return version

    def promote(self, version: ModelVersion) -> None:
        """Let everybody meet the canary's version: its file becomes the model's. Raises `OSError`.

        Each process that has it warm serves it from this moment, before its watch has seen the file.
        """
        self._put_in_place(version)
        self.canaries.put(version.model.name, Canary(version.sha256, PERCENT_MAX, promoted=True))

    def _meets_canary(self, name: str, account_id: str | None) -> ModelVersion | None:
        canary = self.canaries.get(name)
        if canary is None or not self.canaries.is_warm(name, canary.sha256):
            return None
        if not canary.promoted and (account_id is None or not canary.takes(account_id)):
            return None
        try:
            return self.find_canary(name)
        except ModelNotReadyError:
            return None  # somebody took its file away: everybody meets the model's own version

    def fetch(self, name: str) -> ModelVersion:
        """Download the published weights of a model with Ultralytics' own downloader (operators only).

        Raises `ModelNotReadyError` when the network does not give them.
        """
        model = self.get(name)
        state = self.state(name)
        if state is ModelState.READY:
            return self.now(name)
        if state is not ModelState.FETCHABLE:
            raise ModelNotReadyError(f"Fetching is switched off: put {model.file} into {self.weights_dir}.", model=name)
        from ultralytics.utils.downloads import attempt_download_asset

        self.weights_dir.mkdir(parents=True, exist_ok=True)
        path = self.weights_path(model)
        try:
            attempt_download_asset(str(path))
            if not path.is_file():
                raise FileNotFoundError(path)
        except Exception as error:
            # requests, urllib and Ultralytics raise their own types; for the operator they are one.
            path.unlink(missing_ok=True)
            raise ModelNotReadyError(
                f"{model.file} could not be fetched from here: download it elsewhere and put it into "
                f"{self.weights_dir}.",
                model=name,
            ) from error
        try:
            inspect_weights(path)
        except WeightsRefusedError:
            path.unlink(missing_ok=True)
            raise
        return self.now(name)


def _first_there(pickled: Path) -> Path:
    """The first of `SUFFIXES` that a file has, or the pickle where there is none."""
    there = (pickled.with_suffix(suffix) for suffix in SUFFIXES)
    return next((path for path in there if path.is_file()), pickled)
