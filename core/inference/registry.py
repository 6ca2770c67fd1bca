"""The registry: which models are known, which weights stand behind each name, and whether they are here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from core.errors import ModelNotFoundError, ModelNotReadyError, WeightsRefusedError
from core.inference.weights import hash_file, inspect_weights

CATALOG = Path(__file__).with_name("catalog.json")


class ModelState(StrEnum):
    """Whether a model can run."""

    READY = "ready"  # its weights are here
    FETCHABLE = "fetchable"  # an operator can fetch them
    MISSING = "missing"  # a file must be put into the weights folder


@dataclass(frozen=True, slots=True)
class Model:
    """A name that customers call. `sha256` is None where any file an operator supplies is accepted."""

    name: str
    title: str
    file: str
    sha256: str | None
    embedded: bool
    classes: str


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
    """Models of the catalogue and their weights in one folder. Reads the folder afresh at each call."""

    def __init__(self, weights_dir: Path, *, fetch_allowed: bool = False, catalog: Path = CATALOG) -> None:
        self.weights_dir = weights_dir
        self.fetch_allowed = fetch_allowed
        data = json.loads(catalog.read_text(encoding="utf-8"))
        self._models = {item["name"]: Model(**item) for item in data["models"]}

    def models(self) -> Sequence[Model]:
        """All known models, the embedded one first."""
        return tuple(self._models.values())

    def get(self, name: str) -> Model:
        """A model by name; `ModelNotFoundError` lists the names there are."""
        try:
            return self._models[name]
        except KeyError:
            raise ModelNotFoundError(
                f"There is no model {name}: choose one of {', '.join(self._models)}.", model=name
            ) from None

    def embedded(self) -> Model:
        """The model that needs no download."""
        return next(model for model in self._models.values() if model.embedded)

    def weights_path(self, model: Model) -> Path:
        """Where the weights of a model belong."""
        return self.weights_dir / model.file

    def state(self, name: str) -> ModelState:
        """Ready, fetchable or missing."""
        model = self.get(name)
        if self.weights_path(model).is_file():
            return ModelState.READY
        return ModelState.FETCHABLE if self.fetch_allowed and not model.embedded else ModelState.MISSING

    def resolve(self, name: str) -> ModelVersion:
        """The version that a name stands for now.

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

    def fetch(self, name: str) -> ModelVersion:
        """Download the published weights of a model with Ultralytics' own downloader (operators only).

        Raises `ModelNotReadyError` when the network does not give them.
        """
        model = self.get(name)
        if self.state(name) is ModelState.READY:
            return self.resolve(name)
        if not self.fetch_allowed:
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
        return self.resolve(name)
