"""Uploaded files on disk: content-addressed, whole or not there, each account by itself."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.jobs.blobs import DISK_BLOCK_BYTES, BlobStore, hash_bytes


def names(folder: Path) -> set[str]:
    """The names of all files below a folder."""
    return {path.name for path in folder.rglob("*") if path.is_file()}


def keep(store: BlobStore, quote_id: str, *pictures: bytes) -> None:
    """Let pictures of `acct_1` wait for a quote."""
    with store.collect("acct_1") as parcel:
        for data in pictures:
            parcel.put(data)
        store.keep(parcel, quote_id)


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


def test_a_parcel_is_kept_whole_or_leaves_nothing(tmp_path: Path) -> None:
    """What is put into a parcel waits for its quote once it is kept; a failure before that leaves none of it."""
    store = BlobStore(tmp_path)
    store.put("acct_1", b"before")

    def refuse_the_third() -> None:
        with store.collect("acct_1") as parcel:
            assert parcel.put(b"one") == hash_bytes(b"one")
            parcel.put(b"before")
            raise RuntimeError("refused")

    with pytest.raises(RuntimeError, match="refused"):
        refuse_the_third()
    assert names(tmp_path) == {hash_bytes(b"before")}
    with store.collect("acct_1") as parcel:
        for data in (b"one", b"one", b"two", b"before"):
            parcel.put(data)
        assert parcel.disk_bytes == 2 * DISK_BLOCK_BYTES
        store.keep(parcel, "quote_1")
    with pytest.raises(FileNotFoundError):
        store.get("acct_1", hash_bytes(b"one"))
    assert names(tmp_path) == {hash_bytes(data) for data in (b"before", b"one", b"two")}


def test_a_kept_picture_is_handed_over_once(tmp_path: Path) -> None:
    """A run takes what waits for its quote for good; forgetting the quote then takes nothing from it."""
    store = BlobStore(tmp_path)
    keep(store, "quote_1", b"one", b"two")
    kept = store.kept("acct_1", "quote_1")
    one, two, three = (hash_bytes(data) for data in (b"one", b"two", b"three"))
    assert not kept.hand_over([one, three])
    assert not store.path("acct_1", one).is_file()
    assert kept.hand_over([one])
    assert kept.hand_over([one])
    store.forget("quote_1")
    assert not kept.hand_over([one, two])
    assert store.get("acct_1", hash_bytes(b"one")) == b"one"
    assert names(tmp_path) == {hash_bytes(b"one")}


@pytest.mark.parametrize("links", [True, False])
def test_quotes_do_not_share_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    """The end of one quote takes nothing from one with the same pictures, on a disk without hard links too."""

    def refuse(_self: Path, _target: Path) -> None:
        raise PermissionError("Operation not permitted")

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    store = BlobStore(tmp_path)
    keep(store, "quote_1", b"one")
    assert store.keep_again("quote_1", "quote_2")
    assert not store.keep_again("quote_3", "quote_4")
    store.forget("quote_1")
    assert store.kept("acct_1", "quote_2").hand_over([hash_bytes(b"one")])
    assert store.get("acct_1", hash_bytes(b"one")) == b"one"


def test_tidying(tmp_path: Path) -> None:
    """Only what is older than was asked for is listed, or removed; nothing of a run ever is."""
    store, now = BlobStore(tmp_path), datetime.now(UTC)
    store.put("acct_1", b"run")
    keep(store, "quote_1", b"one")
    keep(store, "quote_2", b"two")
    folder, partial = tmp_path / ".incoming" / "1.a.partial", tmp_path / ".incoming" / "1.b.partial"
    folder.mkdir()
    for path in (folder / "x", partial, tmp_path / ".incoming" / "1.c.partial"):
        path.write_bytes(b"half")
    old = now.timestamp() - 100
    for path in (folder, partial, tmp_path / ".quotes" / "quote_1", tmp_path / "acct_1"):
        os.utime(path, (old, old))
    assert store.list_kept(now - timedelta(seconds=50)) == ["quote_1"]
    assert store.remove_abandoned(now - timedelta(seconds=200)) == 0
    assert store.remove_abandoned(now - timedelta(seconds=50)) == 2
    assert names(tmp_path) == {hash_bytes(b"run"), hash_bytes(b"one"), hash_bytes(b"two"), "1.c.partial"}
