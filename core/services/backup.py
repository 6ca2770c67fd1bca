"""Everything an installation has, in one file, taken while it works; and an installation made of that file.

The file is a TAR: the database's copy, the pictures, the operator's weights, and at the end `manifest.json` with a
SHA-256 of each of them and the heads of the ledger's chains. The copy is taken first. A picture is on the disk before
the transaction that names it commits, and stays there, so the copy names none that is missing from the file.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from core import database_copy
from core.config import Settings
from core.db import Database, utcnow
from core.errors import BackupError
from core.ledger.seal import Head, list_heads
from core.ledger.verify import Verification, verify_ledger

FORMAT = "visionmeter-backup/1"
MANIFEST, DATABASE, IMAGES, WEIGHTS = "manifest.json", "database", "images", "weights"
# Made again from the weights where they are missing; of the others no byte is to be had elsewhere.
_NOT_OURS = {"converted", ".incoming"}
CHUNK_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was backed up or restored: files and their bytes, and what the check of the ledger said of the copy."""

    files: int
    file_bytes: int
    verification: Verification


def back_up(settings: Settings, db: Database, target: Path, *, with_weights: bool = True) -> Outcome:
    """Write a back-up of a running installation to a file that is not there yet.

    Nothing is left at `target` unless it is whole. The ledger of the copy is verified; what disagrees is in the
    outcome, and the file is written all the same. Raises `BackupError`, `OSError` for a disk that is full.
    """
    if target.exists():
        raise BackupError(f"{target} is there already: choose another name.")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        # It has password digests and pictures: for nobody but its owner.
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with (
            os.fdopen(descriptor, "wb") as file,
            tempfile.TemporaryDirectory(prefix=".visionmeter-backup-", dir=target.resolve().parent) as folder,
        ):
            outcome = _write(settings, db, Path(folder) / DATABASE, file, with_weights=with_weights)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)
    return outcome


def restore(settings: Settings, db: Database, source: Path) -> Outcome:
    """Make an installation of a back-up: into an empty database and folders without pictures and weights of ours.

    The file is read and compared with its digests before anything is changed; then the database comes, is brought to
    this version's schema, and its ledger is verified, also against the heads of the day of the back-up. Raises
    `BackupError`.
    """
    database_copy.require_empty(db)
    images, weights = settings.data_dir / IMAGES, settings.weights_dir
    if images.exists() and any(images.iterdir()):
        raise BackupError(f"There are pictures in {images} already: restore to another VISIONMETER_DATA_DIR.")
    try:
        with source.open("rb") as file:
            manifest = _check(file)
            if manifest["database"] != db.engine.dialect.name:
                raise BackupError(
                    f"This is a back-up of {manifest['database']}, and VISIONMETER_DATABASE_URL names "
                    f"{db.engine.dialect.name}: restore it to the same kind of database."
                )
            if (manifest.get("revision") or "") > database_copy.newest_revision():
                raise BackupError("This back-up is of a newer version of VisionMeter: restore it with that one.")
            _refuse_other_weights(weights, manifest)
            file.seek(0)
            settings.data_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".visionmeter-restore-", dir=settings.data_dir) as folder:
                copy = Path(folder) / DATABASE
                try:
                    _extract(file, {IMAGES: images, WEIGHTS: weights}, copy)
                    database_copy.fill(db, copy)
                except BaseException:
                    # So that it can be tried again; weights that came are the same ones then.
                    shutil.rmtree(images, ignore_errors=True)
                    raise
    except tarfile.TarError as error:
        raise BackupError(f"{source} cannot be read as a back-up: {error}.") from None
    db.migrate()
    heads = [Head(one["account_id"], one["seq"], one["digest"]) for one in manifest["heads"]]
    with db.read() as session:
        verification = verify_ledger(session, heads=heads)
    files = manifest["files"].values()
    return Outcome(len(files), sum(one["bytes"] for one in files), verification)


# Writing --------------------------------------------------------------------------------------------


def _write(settings: Settings, db: Database, copy: Path, file: BinaryIO, *, with_weights: bool) -> Outcome:
    files: dict[str, dict[str, Any]] = {}
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        began_at = utcnow()
        with database_copy.copied(db, copy) as session:
            heads = list_heads(session)
            revision = database_copy.find_revision(session)
            verification = verify_ledger(session)
        _add(archive, DATABASE, copy, files)
        for name, path in _pictures(settings.data_dir / IMAGES):
            _add(archive, name, path, files)
        if with_weights:
            for name, path in _walk(settings.weights_dir, WEIGHTS):
                _add(archive, name, path, files)
        manifest = {
            "format": FORMAT,
            "created_at": began_at.isoformat(timespec="seconds"),
            "database": db.engine.dialect.name,
            "revision": revision,
            "heads": [asdict(head) for head in heads],
            "files": files,
        }
        data = json.dumps(manifest, indent=1).encode()
        member = tarfile.TarInfo(MANIFEST)
        member.size, member.mtime = len(data), began_at.timestamp()
        archive.addfile(member, io.BytesIO(data))
    return Outcome(len(files), sum(one["bytes"] for one in files.values()), verification)


def _pictures(folder: Path) -> Iterator[tuple[str, Path]]:
    """Pictures that wait for a quote come first: one that is run meanwhile is found again where runs have theirs."""
    yield from _walk(folder / ".quotes", f"{IMAGES}/.quotes")
    for name, path in _walk(folder, IMAGES):
        if not name.startswith(f"{IMAGES}/.quotes/"):
            yield name, path


def _walk(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    # Links are followed: weights on a shared disk are weights.
    for at, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(one for one in folders if one not in _NOT_OURS)
        for one in sorted(names):
            path = Path(at) / one
            if path.is_file():
                yield str(PurePosixPath(name, path.relative_to(folder).as_posix())), path


def _add(archive: tarfile.TarFile, name: str, path: Path, files: dict[str, dict[str, Any]]) -> None:
    try:
        opened = path.open("rb")
    except FileNotFoundError:
        return  # of a quote that was run or removed meanwhile, or of an account that was deleted
    with opened:
        member = archive.gettarinfo(arcname=name, fileobj=opened)
        # Who owned it there means nothing elsewhere.
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        hashed = _Hashed(opened)
        archive.addfile(member, hashed)
    files[name] = {"bytes": member.size, "sha256": hashed.digest.hexdigest()}


class _Hashed(io.RawIOBase):
    """A file that is read through, and its digest afterwards."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data


# Reading --------------------------------------------------------------------------------------------


def _check(file: BinaryIO) -> dict[str, Any]:
    """The manifest, once every file was read and is as it says. Raises `BackupError`."""
    found: dict[str, dict[str, Any]] = {}
    manifest: dict[str, Any] | None = None
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            if content is None or not _is_ours(member.name):
                raise BackupError(f"{member.name!r} has no place in a back-up: nothing was restored.")
            if member.name == MANIFEST:
                manifest = _read_manifest(content.read())
                continue
            digest = hashlib.sha256()
            while data := content.read(CHUNK_BYTES):
                digest.update(data)
            found[member.name] = {"bytes": member.size, "sha256": digest.hexdigest()}
    if manifest is None:
        raise BackupError("The file has no manifest.json at its end: it is no back-up, or not all of one.")
    if found != manifest["files"] or DATABASE not in found:
        different = sorted(
            name for name in {*found, *manifest["files"]} if found.get(name) != manifest["files"].get(name)
        )
        raise BackupError(f"The file is damaged: {', '.join(different[:3]) or DATABASE} is not what was written.")
    return manifest


def _read_manifest(data: bytes) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(data)
        if manifest["format"] != FORMAT:
            raise BackupError(f"This back-up has the format {manifest['format']!r}, and this version reads {FORMAT}.")
        dict(manifest["files"])
        list(manifest["heads"])
        str(manifest["database"])
    except (ValueError, KeyError, TypeError):
        raise BackupError("The file's manifest.json cannot be read: it is no back-up.") from None
    return manifest


def _is_ours(name: str) -> bool:
    parts = PurePosixPath(name).parts
    if set(name) & set("\\:\0"):
        return False  # what Windows takes for another folder or disk, and no name of ours has
    if name in (MANIFEST, DATABASE):
        return True
    return len(parts) > 1 and parts[0] in (IMAGES, WEIGHTS) and ".." not in parts and str(PurePosixPath(name)) == name


def _refuse_other_weights(folder: Path, manifest: dict[str, Any]) -> None:
    """What is there may stay if it is the same: a fresh installation has the embedded model already."""
    for name, entry in manifest["files"].items():
        if name.startswith(f"{WEIGHTS}/"):
            path = folder.joinpath(*PurePosixPath(name).parts[1:])
            if not path.exists():
                continue
            with path.open("rb") as there:
                is_same = hashlib.file_digest(there, "sha256").hexdigest() == entry["sha256"]
            if not is_same:
                raise BackupError(f"There is another {path} already: restore to another VISIONMETER_WEIGHTS_DIR.")


def _extract(file: BinaryIO, folders: dict[str, Path], copy: Path) -> None:
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is None or member.name == MANIFEST:
                continue
            first, *rest = PurePosixPath(member.name).parts
            path = copy if member.name == DATABASE else folders[first].joinpath(*rest)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as target:
                shutil.copyfileobj(content, target)
                target.flush()
                os.fsync(target.fileno())
