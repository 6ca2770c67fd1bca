"""An operator looks after models: his own ones, new weights, ways back, a share of the accounts, and retirement.

Weights are a stranger's file until they were tried. They are written beside the others, looked into without running
anything, and run once in a process of their own; only then do they get a name. What fails leaves nothing behind, and
what is done is written into the audit log.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlmodel import Session

from core.db import Database
from core.errors import (
    CanaryNotFoundError,
    InvalidModelError,
    ModelNameTakenError,
    VisionMeterError,
    WeightsRefusedError,
)
from core.identity.audit_log import record_event
from core.identity.tables import User
from core.inference.canaries import PERCENT_MAX, Canary
from core.inference.catalogue import TITLE_LENGTH_MAX, is_name
from core.inference.quantized_file import Manifest, is_quantized, read_manifest
from core.inference.registry import Model, ModelVersion, Registry
from core.inference.shared_json import change_folder, writing_to
from core.inference.trial import Tried, try_weights
from core.inference.weights import HEAD_BYTES, SUFFIXES, hash_file, suffix_of
from core.pricing.book import add_rate
from core.services.application import Application
from core.services.top_up import require_operator

COMMAND = "command:catalog"
BETA_MAX = Decimal(1000)
CLASSES_NAMED_MAX = 6
CLASS_LENGTH_MAX = 40


@dataclass(frozen=True, slots=True)
class ModelDesk:
    """Who looks after the models, and with what. `warm` loads a version here; None where nothing is served."""

    db: Database
    registry: Registry
    actor: str
    bytes_max: int
    warm: Callable[[ModelVersion], None] | None = None


@dataclass(frozen=True, slots=True)
class VersionView:
    """A version that is kept: when it was last put in service, and to whom it is served, if to anybody.

    `manifest` is that of a quantized one, with what it says that it loses; `origin_known` whether the version that it
    says it was made from is known here.
    """

    version: ModelVersion
    used_at: datetime
    served: bool
    canary_percent: int | None
    manifest: Manifest | None
    origin_known: bool


def open_desk(app: Application, operator: User) -> ModelDesk:
    """The desk of an operator in the portal. Raises `NotAllowedError`."""
    require_operator(operator)
    return ModelDesk(app.db, app.registry, operator.id, app.settings.weights_bytes_max, app.engine.warm)


def add_model(desk: ModelDesk, *, name: str, title: str, weights: bytes | Path, beta: Decimal) -> Model:
    """A model more, and a version of the price list that has its β; customers find both from now on.

    Raises `InvalidModelError`, `ModelNameTakenError`, `WeightsRefusedError` and `WeightsFolderError`.
    """
    registry, title = desk.registry, title.strip()
    if not is_name(name):
        raise InvalidModelError(
            "A model's name is lower case letters, digits, - and ., and begins with a letter or a digit.", field="name"
        )
    _require_free(registry, name)
    if not 1 <= len(title) <= TITLE_LENGTH_MAX or not title.isprintable():
        raise InvalidModelError(f"Give the model a title of 1 to {TITLE_LENGTH_MAX} characters.", field="title")
    beta = _require_beta(beta)
    with _stage(desk, name, weights) as staged:
        tried = try_weights(staged, hash_file(staged))
        entry = _entry(name, title, f"{name}.pt", tried)
        with change_folder(registry.weights_dir):
            _require_free(registry, name)
            sha256, target = hash_file(staged), registry.weights_dir / f"{name}{staged.suffix}"
            staged.replace(target)
            try:
                with desk.db.write() as session:
                    prices = add_rate(session, name, beta, note=f"{title} was added, β {beta}.")
                    details = {"sha256": sha256, "beta": str(beta), "price_version": prices.version}
                    _record(desk, session, "model.add", name, details)
                    # Before the commit: a rate in force leads to its model.
                    registry.catalogue.put(entry)
            except BaseException:
                # Whatever went wrong, also an interrupt: there is no model yet.
                target.unlink(missing_ok=True)
                registry.catalogue.remove(name)
                raise
    return registry.get(name)


def _entry(name: str, title: str, file: str, tried: Tried) -> dict[str, Any]:
    classes = describe_classes(tried.classes)
    return {"name": name, "title": title, "file": file, "sha256": None, "classes": classes, "task": tried.task}


def replace_weights(desk: ModelDesk, name: str, weights: bytes | Path) -> str:
    """New weights in the place of a model's; each process serves them when they are warm there. Gives their SHA-256.

    Raises `ModelNotFoundError`, `WeightsRefusedError` and `WeightsFolderError`.
    """
    registry, model = desk.registry, desk.registry.get(name)
    _require_changeable(model)
    target = registry.weights_path(model)
    with _stage(desk, name, weights) as staged:
        sha256 = hash_file(staged)
        if target.is_file() and hash_file(target) == sha256:
            raise InvalidModelError("These are the weights that the model has already.", field="weights")
        tried = try_weights(staged, sha256, model.task)
        with change_folder(registry.weights_dir), desk.db.write() as session:
            _record(desk, session, "model.replace", name, {"sha256": sha256})
            if registry.is_own(name):
                registry.catalogue.put(_entry(name, model.title, model.file, tried))
            registry.move_in_place(model, staged, staged.suffix)
    return sha256


def list_versions(desk: ModelDesk, name: str) -> list[VersionView]:
    """The kept versions of a model, the one that was put in service last first. Raises `ModelNotFoundError`."""
    registry, canary = desk.registry, desk.registry.canaries.running(name)
    try:
        now = registry.now(name).sha256
    except VisionMeterError:
        now = ""  # without a file none is served, and those that were are a way back all the same
    views, known = [], _known_versions(registry, name)
    for version in registry.list_versions(name):
        manifest = find_manifest(version.path)
        views.append(
            VersionView(
                version,
                datetime.fromtimestamp(version.path.stat().st_mtime, UTC),
                version.sha256 == now,
                canary.percent if canary is not None and canary.sha256 == version.sha256 else None,
                manifest,
                manifest is not None and manifest.weights_sha256 in known,
            )
        )
    return views


def is_origin_known(registry: Registry, name: str, manifest: Manifest) -> bool:
    """Whether what a quantized version says it was made from is a version of its model, or comes with the installation.

    Raises `ModelNotFoundError`.
    """
    return manifest.weights_sha256 in _known_versions(registry, name)


def _known_versions(registry: Registry, name: str) -> set[str | None]:
    known = {version.sha256 for version in registry.list_versions(name)} | {model.sha256 for model in registry.models()}
    with suppress(VisionMeterError):
        known.add(registry.now(name).sha256)
    return known


def find_manifest(path: Path) -> Manifest | None:
    """What quantized weights say about themselves; None for others, and for a file that is damaged or gone."""
    if not is_quantized(path):
        return None
    try:
        return read_manifest(path)
    except (WeightsRefusedError, OSError):
        return None  # whoever loads it says so


def roll_back(desk: ModelDesk, name: str, version: str) -> ModelVersion:
    """A kept version, by its first 12 characters, takes the place of the model's file.

    Raises `ModelNotFoundError`, `ModelNotReadyError`, `WeightsRefusedError` and `WeightsFolderError`.
    """
    desk.registry.get(name)
    with change_folder(desk.registry.weights_dir), desk.db.write() as session:
        back = desk.registry.roll_back(name, version)
        _record(desk, session, "model.roll_back", name, {"sha256": back.sha256})
    return back


def start_canary(desk: ModelDesk, name: str, weights: bytes | Path | None, *, percent: int) -> ModelVersion:
    """A version for `percent` of the accounts; without weights, another share for the one that is tried already.

    Each process serves it when it is warm there. Raises `ModelNotFoundError`, `ModelNotReadyError` for a model without
    a version to compare with, `InvalidModelError`, `CanaryNotFoundError`, `WeightsRefusedError` and
    `WeightsFolderError`.
    """
    registry, model = desk.registry, desk.registry.get(name)
    _require_changeable(model)
    if not 1 <= percent <= PERCENT_MAX:
        raise InvalidModelError("A share is a whole number of percent from 1 to 100.", field="percent")
    now = registry.now(name)
    if weights is None:
        with change_folder(registry.weights_dir), desk.db.write() as session:
            version = _require_canary(registry, name)
            registry.canaries.put(name, Canary(version.sha256, percent))
            _record(desk, session, "model.canary", name, {"sha256": version.sha256, "percent": percent})
        return version
    with _stage(desk, name, weights) as staged:
        sha256 = hash_file(staged)
        if sha256 == now.sha256:
            raise InvalidModelError("These are the weights that the model has already.", field="weights")
        try_weights(staged, sha256, model.task)
        found = ModelVersion(model, staged, sha256)
        with change_folder(registry.weights_dir):
            known = registry.is_kept(found)
            version = registry.keep(found)
        try:
            if desk.warm is not None:
                desk.warm(version)
            with change_folder(registry.weights_dir), desk.db.write() as session:
                registry.canaries.put(name, Canary(version.sha256, percent))
                _record(desk, session, "model.canary", name, {"sha256": sha256, "percent": percent})
                registry.prune(name)
        except BaseException:
            if not known:
                registry.forget(version)
            raise
    if desk.warm is not None:
        registry.canaries.admit(name, sha256)
    return version


def promote(desk: ModelDesk, name: str) -> ModelVersion:
    """The version that was tried on a share becomes everybody's.

    Raises `ModelNotFoundError`, `CanaryNotFoundError` and `WeightsFolderError`.
    """
    with change_folder(desk.registry.weights_dir), desk.db.write() as session:
        version = _require_canary(desk.registry, name)
        _record(desk, session, "model.promote", name, {"sha256": version.sha256})
        desk.registry.promote(version)
    return version


def stop_canary(desk: ModelDesk, name: str) -> None:
    """Everybody meets the model's own version again.

    Raises `ModelNotFoundError`, `CanaryNotFoundError` and `WeightsFolderError`.
    """
    registry = desk.registry
    registry.get(name)
    with change_folder(registry.weights_dir), desk.db.write() as session:
        canary = registry.canaries.running(name)
        if canary is None:
            raise _no_canary(name)
        _record(desk, session, "model.stop_canary", name, {"sha256": canary.sha256})
        registry.canaries.remove(name)


def retire_model(desk: ModelDesk, name: str) -> None:
    """Offer a model no longer: no new quotes. What was quoted, run and paid stays as it is.

    Raises `ModelNotFoundError` and `WeightsFolderError`.
    """
    _set_retired(desk, name, retired=True)


def offer_model(desk: ModelDesk, name: str) -> None:
    """Offer a retired model again. Raises `ModelNotFoundError` and `WeightsFolderError`."""
    _set_retired(desk, name, retired=False)


def _set_retired(desk: ModelDesk, name: str, *, retired: bool) -> None:
    registry = desk.registry
    registry.get(name)
    with change_folder(registry.weights_dir):
        if registry.is_retired(name) == retired:
            return
        with desk.db.write() as session:
            _record(desk, session, "model.retire" if retired else "model.offer", name, {})
            registry.catalogue.set_retired(name, retired=retired)


def describe_classes(names: Sequence[str]) -> str:
    """The names of classes as customers read them: the first few, and how many there are.

    They come out of a stranger's file: whatever is no letter, digit, space, `-` or `_` becomes a space.
    """
    shown = [
        " ".join("".join(sign if sign.isalnum() or sign in "-_" else " " for sign in name).split())[:CLASS_LENGTH_MAX]
        for name in names[:CLASSES_NAMED_MAX]
    ]
    listed = ", ".join(name for name in shown if name)
    return listed if len(names) <= CLASSES_NAMED_MAX else f"{listed}, … ({len(names)})"


def _require_free(registry: Registry, name: str) -> None:
    if any(model.name == name for model in registry.models()):
        raise ModelNameTakenError(f"There is a model {name} already: choose another name.", name=name)
    for file in (f"{name}{suffix}" for suffix in SUFFIXES):
        if (registry.weights_dir / file).exists():
            raise ModelNameTakenError(
                f"There is a file {file} in the weights folder already: choose another name, or take it away.",
                name=name,
            )


def _require_beta(beta: Decimal) -> Decimal:
    if not beta.is_finite() or not 0 < beta <= BETA_MAX or beta != round(beta, 4):
        raise InvalidModelError(f"β is a number above 0, at most {BETA_MAX}, with at most 4 decimals.", field="beta")
    return beta


def _require_changeable(model: Model) -> None:
    if model.sha256 is not None:
        raise WeightsRefusedError(
            f"The weights of {model.name} are registered by their SHA-256 and cannot be others: add a model of your "
            "own instead.",
            model=model.name,
            reason="registered",
        )


def _require_canary(registry: Registry, name: str) -> ModelVersion:
    model, canary = registry.get(name), registry.canaries.running(name)
    kept = {version.sha256: version for version in registry.list_versions(name)}
    if canary is None or canary.sha256 not in kept:
        raise _no_canary(model.name)
    return kept[canary.sha256]


def _no_canary(name: str) -> CanaryNotFoundError:
    return CanaryNotFoundError(f"No version of {name} is being tried on a share: start one first.", model=name)


@contextmanager
def _stage(desk: ModelDesk, name: str, weights: bytes | Path) -> Iterator[Path]:
    """The weights in a file of their own in the weights folder, which is gone after the block unless it was moved."""
    folder = desk.registry.weights_dir
    try:
        size = weights.stat().st_size if isinstance(weights, Path) else len(weights)
        if isinstance(weights, Path):
            with weights.open("rb") as file:
                suffix = suffix_of(file.read(HEAD_BYTES))
        else:
            suffix = suffix_of(weights[:HEAD_BYTES])
    except OSError as error:
        raise WeightsRefusedError(f"The file cannot be read: {error.strerror}.", reason="unreadable") from None
    if size > desk.bytes_max:
        raise WeightsRefusedError(
            f"The file has {size:,} bytes, and weights may have at most {desk.bytes_max:,}: raise "
            "VISIONMETER_WEIGHTS_BYTES_MAX, or take a smaller model.",
            reason="too_large",
            bytes_max=desk.bytes_max,
        )
    staged = folder / f".{name}.{secrets.token_hex(4)}.new{suffix}"
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with writing_to(folder):
            if isinstance(weights, Path):
                shutil.copyfile(weights, staged)
            else:
                staged.write_bytes(weights)
        try:
            yield staged
        except WeightsRefusedError as error:
            # The operator knows his file by the model's name, not by that of the copy.
            raise WeightsRefusedError(error.message.replace(staged.name, f"{name}{suffix}"), **error.details) from error
    finally:
        staged.unlink(missing_ok=True)


def _record(desk: ModelDesk, session: Session, action: str, name: str, details: Mapping[str, object]) -> None:
    record_event(session, actor=desk.actor, action=action, subject=name, details=details)
