"""Pictures on disk, named by the SHA-256 of their bytes: those of runs for good, those of quotes until they are run.

`<account>/<two digits>/<SHA-256>` holds the pictures of runs. Nothing is ever removed there but with a whole
account that was closed, so no run can lose a picture that it shows or is about to compute, whatever else happens at
the same moment.

`.quotes/<quote>/<SHA-256>` holds what waits for a quote to be run. Two quotes of one picture have a file each: so
removing a quote's folder takes nothing from another one, and nobody has to find out who else refers to a file.

`.incoming/` holds what is being written. A file or a folder leaves it by being renamed, so elsewhere all are whole.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

# What a file takes on most disks is a multiple of this; counting that bounds how many tiny files there can be, too.
DISK_BLOCK_BYTES = 4096


def hash_bytes(data: bytes) -> str:
    """SHA-256 as hexadecimal text."""
    return hashlib.sha256(data).hexdigest()


class Parcel:
    """Pictures on their way into a run: a folder with those that the account does not have for good already.

    `disk_bytes` is what `put` has taken on the disk.
    """

    def __init__(self, store: BlobStore, account_id: str, folder: Path) -> None:
        self._store, self._account_id, self.folder = store, account_id, folder
        self.disk_bytes = 0

    def put(self, data: bytes) -> str:
        """Store bytes and give their SHA-256. They wait on the disk, for together they may not fit into memory."""
        sha256 = hash_bytes(data)
        path = self.folder / sha256
        if not self._store.path(self._account_id, sha256).is_file() and not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(path, data)
            self.disk_bytes += -(-len(data) // DISK_BLOCK_BYTES) * DISK_BLOCK_BYTES
        return sha256

    def hand_over(self, sha256s: Collection[str]) -> bool:
        """Make pictures the account's for good; False, and none of them is, when one is not there."""
        paths = {self.folder / sha256: self._store.path(self._account_id, sha256) for sha256 in sha256s}
        if not all(path.is_file() or waiting.is_file() for waiting, path in paths.items()):
            # Another run of the same quote may have been quicker between the two looks: then it is where it belongs.
            return all(path.is_file() for path in paths.values())
        for waiting, path in paths.items():
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    waiting.replace(path)
                except FileNotFoundError:
                    if not path.is_file():
                        return False  # removed since that look
        return True


class BlobStore:
    """The files under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._incoming, self._quotes = root / ".incoming", root / ".quotes"

    def put(self, account_id: str, data: bytes) -> str:
        """Store bytes for good and give their SHA-256. A crash leaves either the whole file or none."""
        sha256 = hash_bytes(data)
        path = self.path(account_id, sha256)
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._incoming.mkdir(exist_ok=True)
            partial = self._fresh()
            try:
                _write(partial, data)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        return sha256

    def get(self, account_id: str, sha256: str) -> bytes:
        """The bytes; `FileNotFoundError` when they are not there."""
        return self.path(account_id, sha256).read_bytes()

    def path(self, account_id: str, sha256: str) -> Path:
        """Where a picture lies for good. Raises `ValueError` for what is no identifier."""
        if not (_is_identifier(account_id) and sha256.isalnum()):
            raise ValueError("not an identifier")
        return self.root / account_id / sha256[:2] / sha256

    def free_bytes(self) -> int:
        """What is left on the disk for us."""
        self.root.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self.root).free

    # What waits for a quote ------------------------------------------------------------------------

    @contextmanager
    def collect(self, account_id: str) -> Iterator[Parcel]:
        """An empty parcel. What was neither handed over nor kept when the block ends is gone."""
        parcel = Parcel(self, account_id, self._fresh())
        try:
            yield parcel
        finally:
            shutil.rmtree(parcel.folder, ignore_errors=True)

    def keep(self, parcel: Parcel, quote_id: str) -> None:
        """Let what is in a parcel wait for its quote; all of it in one step."""
        if parcel.folder.is_dir():
            self._quotes.mkdir(exist_ok=True)
            parcel.folder.replace(self._quote_folder(quote_id))

    def kept(self, account_id: str, quote_id: str) -> Parcel:
        """What waits for a quote; nothing, when nothing does."""
        return Parcel(self, account_id, self._quote_folder(quote_id))

    def keep_again(self, quote_id: str, other_id: str) -> bool:
        """Let what waits for one quote wait for another one too; False when nothing does."""
        folder, source = self._fresh(), self._quote_folder(quote_id)
        try:
            folder.mkdir(parents=True)
            for path in source.iterdir():
                _link(path, folder / path.name)
            folder.replace(self._quote_folder(other_id))
        except FileNotFoundError:
            return False  # removed, or run, meanwhile
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return True

    def forget(self, quote_id: str) -> None:
        """Remove what waits for a quote, if anything does."""
        shutil.rmtree(self._quote_folder(quote_id), ignore_errors=True)

    def remove_account(self, account_id: str) -> bool:
        """Remove all pictures of an account that is closed, and so has no runs any more; whether they are gone."""
        if not _is_identifier(account_id):
            raise ValueError("not an identifier")
        shutil.rmtree(self.root / account_id, ignore_errors=True)
        return not (self.root / account_id).exists()

    # Tidying ---------------------------------------------------------------------------------------

    def list_kept(self, before: datetime) -> list[str]:
        """The quotes for which something has been waiting since before a moment."""
        return [path.name for path in _older(self._quotes, before) if _is_identifier(path.name)]

    def remove_abandoned(self, before: datetime) -> int:
        """Remove what a crash left half written before a moment; gives the number of files and folders."""
        found = list(_older(self._incoming, before))
        for path in found:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        return len(found)

    def _fresh(self) -> Path:
        return self._incoming / f"{os.getpid()}.{os.urandom(6).hex()}.partial"

    def _quote_folder(self, quote_id: str) -> Path:
        if not _is_identifier(quote_id):
            raise ValueError("not an identifier")
        return self._quotes / quote_id


def _is_identifier(name: str) -> bool:
    return name.replace("_", "").isalnum()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _older(folder: Path, moment: datetime) -> Iterator[Path]:
    """What was last changed before a moment; who else tidies up here may be quicker."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        try:
            changed = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        if changed.st_mtime < moment.timestamp():
            yield Path(entry.path)
