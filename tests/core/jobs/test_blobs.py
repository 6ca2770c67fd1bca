"""Uploaded files on disk: content-addressed, whole or not there, each account by itself."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.jobs.blobs import BlobStore, hash_bytes


def test_there_and_back(tmp_path: Path) -> None:
    """The same bytes are stored once, and come back."""
    store = BlobStore(tmp_path)
    assert store.put("acct_1", b"picture") == store.put("acct_1", b"picture") == hash_bytes(b"picture")
    assert store.get("acct_1", hash_bytes(b"picture")) == b"picture"
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 1


def test_accounts_do_not_share(tmp_path: Path) -> None:
    """A file of one account is not there for another."""
    store = BlobStore(tmp_path)
    sha256 = store.put("acct_1", b"picture")
    with pytest.raises(FileNotFoundError):
        store.get("acct_2", sha256)


@pytest.mark.parametrize(("account", "name"), [("..", "ab"), ("acct_1", "../../etc/passwd"), ("a/b", "ab"), ("", "ab")])
def test_no_way_out_of_the_folder(tmp_path: Path, account: str, name: str) -> None:
    """What is no identifier never becomes a path."""
    with pytest.raises(ValueError, match="identifier"):
        BlobStore(tmp_path / "images").get(account, name)


def test_racing_writers_leave_one_whole_file(tmp_path: Path) -> None:
    """Eight threads writing the same bytes: one file, no partial one."""
    data = bytes(range(256)) * 4000
    store = BlobStore(tmp_path)
    with ThreadPoolExecutor(8) as clients:
        names = set(clients.map(lambda _n: store.put("acct_1", data), range(8)))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == list(names)
    assert store.get("acct_1", names.pop()) == data


def test_all_or_none(tmp_path: Path) -> None:
    """Files that are put together are there when the block ends; a failure in it leaves none."""
    store = BlobStore(tmp_path)
    store.put("acct_1", b"before")

    def refuse_the_third() -> None:
        with store.all_or_none("acct_1") as put:
            assert put(b"one") == hash_bytes(b"one")
            put(b"before")
            raise RuntimeError("refused")

    with pytest.raises(RuntimeError, match="refused"):
        refuse_the_third()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [hash_bytes(b"before")]
    with store.all_or_none("acct_1") as put:
        put(b"one")
        put(b"one")
        put(b"two")
    assert store.get("acct_1", hash_bytes(b"one")) == b"one"
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 3
