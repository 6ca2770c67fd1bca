"""JSON files that several processes share: read again when they change, written whole, changed by one at a time."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from core.errors import WeightsFolderError

try:
    import fcntl
except ImportError:  # Windows: there the threads of one process take turns, and processes do not
    fcntl = None  # type: ignore[assignment]  # a module is typed as itself, never as nothing

log = logging.getLogger("visionmeter")

T = TypeVar("T")
_turn = threading.Lock()


class SharedJson(Generic[T]):
    """A file and what `parse` makes of it; `missing` where there is none. `parse` raises `ValueError`."""

    def __init__(self, path: Path, parse: Callable[[Any], T], missing: T) -> None:
        self.path = path
        self._parse = parse
        self._missing = missing
        # Replaced as one: a reader in another thread sees the value that belongs to the stamp.
        self._seen: tuple[tuple[int, ...] | None, T] = (None, missing)

    def read(self) -> T:
        """What stands in the file now. A file that cannot be read counts as it was before, and is logged once."""
        stamp = self._stamp()
        if stamp == self._seen[0]:
            return self._seen[1]
        try:
            value = self.load()
        except OSError as error:
            # It may pass: the file is read again next time.
            log.error("%s cannot be read now: %s", self.path, error)
            return self._seen[1]
        except ValueError as error:
            log.error("%s is not used: %s", self.path, error)
            value = self._seen[1]
        self._seen = (stamp, value)
        return value

    def load(self) -> T:
        """What stands in the file, for whoever changes it. Raises `OSError` and `ValueError`."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return self._missing
        return self._parse(json.loads(text))

    def write(self, data: Any) -> None:
        """Replace the file in one step. Raises `OSError`."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        try:
            with partial.open("w", encoding="utf-8") as file:
                file.write(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.path)
        finally:
            partial.unlink(missing_ok=True)

    def remove(self) -> None:
        """Let there be no file."""
        self.path.unlink(missing_ok=True)

    def _stamp(self) -> tuple[int, ...] | None:
        try:
            stat = self.path.stat()
        except OSError:
            self._seen = (None, self._missing)
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino


@contextmanager
def change_folder(folder: Path) -> Iterator[None]:
    """One thread of one process at a time changes a folder; whatever does so is done in this block, never nested.

    Raises `WeightsFolderError` when it cannot be written.
    """
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _take_turn(folder):
            yield


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Raise `WeightsFolderError` where the block raises `OSError`."""
    try:
        yield
    except OSError as error:
        raise WeightsFolderError(
            f"The folder {folder} cannot be written ({error.strerror}): let this process write there.",
        ) from error


@contextmanager
def _take_turn(folder: Path) -> Iterator[None]:
    with _turn:
        if fcntl is None:
            yield
            return
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)  # and with it the lock
