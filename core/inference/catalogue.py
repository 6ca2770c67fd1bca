"""What an operator adds to the built-in catalogue: models of his own, and which models are retired."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.errors import WeightsFolderError
from core.inference.shared_json import SharedJson

log = logging.getLogger("visionmeter")

NAME_LENGTH_MAX = 60
TITLE_LENGTH_MAX = 80
# Also a file's and a folder's name: it begins with a letter or digit, so it is never `..`, and is no hidden file.
_NAME = re.compile(rf"[a-z0-9][a-z0-9.-]{{0,{NAME_LENGTH_MAX - 1}}}")


def is_name(name: str) -> bool:
    """Whether a model may be called this: lower case letters, digits, `-` and `.`."""
    return _NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The operator's part: entries in the form of the built-in catalogue, and the names that are not offered.

    `shadowed` entries have names that the built-in catalogue took later: they are kept, and not used.
    """

    models: tuple[Mapping[str, Any], ...] = ()
    retired: frozenset[str] = frozenset()
    shadowed: tuple[Mapping[str, Any], ...] = ()

    def with_model(self, entry: Mapping[str, Any]) -> Catalogue:
        """With a model more, or with another entry of its name."""
        others = tuple(item for item in self.models if item["name"] != entry["name"])
        return replace(self, models=(*others, entry))

    def without_model(self, name: str) -> Catalogue:
        """Without the model of a name."""
        return replace(self, models=tuple(item for item in self.models if item["name"] != name))

    def document(self) -> dict[str, Any]:
        """The content of the file."""
        return {"models": [dict(item) for item in (*self.models, *self.shadowed)], "retired": sorted(self.retired)}


class OperatorCatalogue:
    """The operator's catalogue at a path; its entries must not have the names of built-in models.

    Whoever changes it holds `core.inference.shared_json.change_folder`.
    """

    def __init__(self, path: Path, built_in: Collection[str]) -> None:
        self._built_in = built_in
        self._file = SharedJson(path, self._parse, Catalogue())

    def read(self) -> Catalogue:
        """What stands in it now."""
        return self._file.read()

    def put(self, entry: Mapping[str, Any]) -> None:
        """Let it have this entry. Raises `OSError` and `WeightsFolderError`."""
        self._file.write(self._load().with_model(entry).document())

    def remove(self, name: str) -> None:
        """Let it have no entry of this name. Raises `OSError` and `WeightsFolderError`."""
        catalogue = self._load()
        if any(item["name"] == name for item in catalogue.models):
            self._file.write(catalogue.without_model(name).document())

    def set_retired(self, name: str, *, retired: bool) -> None:
        """Offer a model no longer, or again. Raises `OSError` and `WeightsFolderError`."""
        catalogue = self._load()
        names = catalogue.retired | {name} if retired else catalogue.retired - {name}
        self._file.write(replace(catalogue, retired=names).document())

    def _load(self) -> Catalogue:
        """Strictly: what cannot be read must not be written over."""
        try:
            return self._file.load()
        except ValueError as error:
            raise WeightsFolderError(f"{self._file.path} cannot be read, so nothing was changed: {error}.") from None

    def _parse(self, data: Any) -> Catalogue:
        if not isinstance(data, dict):
            raise ValueError("it is no JSON object")
        models, retired = data.get("models", []), data.get("retired", [])
        if not isinstance(models, list) or not all(isinstance(item, dict) for item in models):
            raise ValueError("its models are no list of objects")
        if not isinstance(retired, list) or not all(isinstance(name, str) for name in retired):
            raise ValueError("its retired models are no list of names")
        names = [item.get("name") for item in models]
        for item, name in zip(models, names, strict=True):
            if not isinstance(name, str) or not is_name(name):
                raise ValueError(f"{name!r} is no name of a model")
            if names.count(name) > 1:
                raise ValueError(f"the name {name} is taken")
            # A file of another name could lie outside of the folder, or be another model's.
            if item.get("file") != f"{name}.pt":
                raise ValueError(f"the file of {name} must be {name}.pt")
            if not all(isinstance(item.get(field), str) for field in ("title", "classes")):
                raise ValueError(f"{name} lacks a title or its classes")
            if not isinstance(item.get("sha256"), str | None):
                raise ValueError(f"the sha256 of {name} is no text")
        own = tuple(item for item in models if item["name"] not in self._built_in)
        shadowed = tuple(item for item in models if item["name"] in self._built_in)
        if shadowed:
            log.error("%s: built in by now, so not used: %s", self._file.path, [item["name"] for item in shadowed])
        return Catalogue(own, frozenset(retired), shadowed)
