"""Uploaded files on disk, named by the SHA-256 of their bytes, one folder an account."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def hash_bytes(data: bytes) -> str:
    """SHA-256 as hexadecimal text."""
    return hashlib.sha256(data).hexdigest()


class BlobStore:
    """Content-addressed files under one folder. Writing the same bytes twice writes once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, account_id: str, data: bytes) -> str:
        """Store bytes and give their SHA-256. A crash leaves either the whole file or none."""
        with self.all_or_none(account_id) as put:
            return put(data)

    @contextmanager
    def all_or_none(self, account_id: str) -> Iterator[Callable[[bytes], str]]:
        """What is put by the function that this gives can be read when the block has ended; if it raises, nothing is.

        The bytes wait on the disk meanwhile, for together they may be more than fits into memory.
        """
        partials: dict[Path, Path] = {}

        def put(data: bytes) -> str:
            sha256 = hash_bytes(data)
            path = self._path(account_id, sha256)
            if path not in partials and not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                partials[path] = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}.partial")
                with partials[path].open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            return sha256

        try:
            yield put
            for path, partial in partials.items():
                partial.replace(path)
        finally:
            for partial in partials.values():
                partial.unlink(missing_ok=True)

    def get(self, account_id: str, sha256: str) -> bytes:
        """The bytes; `FileNotFoundError` when they are not there."""
        return self._path(account_id, sha256).read_bytes()

    def _path(self, account_id: str, sha256: str) -> Path:
        if not (account_id.replace("_", "").isalnum() and sha256.isalnum()):
            raise ValueError("not an identifier")
        return self.root / account_id / sha256[:2] / sha256
