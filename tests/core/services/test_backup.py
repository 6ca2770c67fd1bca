"""A back-up that is taken while people work, and what becomes of it elsewhere."""

from __future__ import annotations

import io
import json
import secrets
import stat
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlmodel import func, select

from core.db import Database
from core.errors import BackupError
from core.identity.tables import User
from core.jobs.blobs import hash_bytes
from core.jobs.tables import JobImage
from core.ledger import ledger
from core.ledger.tables import Entry, Hold
from core.services import account_view, backup
from core.services.application import Application
from core.services.job_runner import JobRunner
from tests.conftest import POSTGRES_URL, OpenApp
from tests.core.services import helpers
from tests.core.services.helpers import balance


@contextmanager
def two_databases(kind: str, folder: Path) -> Iterator[tuple[str, str]]:
    """The URLs of two empty databases of a kind; on PostgreSQL databases of their own, as a schema has its name."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'here' / 'visionmeter.db'}", f"sqlite:///{folder / 'there' / 'visionmeter.db'}"
        return
    if not POSTGRES_URL:
        pytest.skip("no PostgreSQL: set VISIONMETER_TEST_POSTGRES_URL")
    server = create_engine(POSTGRES_URL, isolation_level="AUTOCOMMIT")
    names = [f"backup_{secrets.token_hex(5)}" for _ in range(2)]
    with server.connect() as connection:
        for name in names:
            connection.execute(text(f"CREATE DATABASE {name} TEMPLATE template0"))
    first, second = (make_url(POSTGRES_URL).set(database=name).render_as_string(hide_password=False) for name in names)
    yield first, second
    with server.connect() as connection:
        for name in names:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Where it is backed up, and where it is restored."""
    with two_databases(request.param, tmp_path) as both:
        yield both


@dataclass
class Traffic:
    """Top-ups and runs that go on until they are stopped; what was acknowledged, with its moment."""

    app: Application
    user: User
    top_ups: list[tuple[float, int]] = field(default_factory=list)
    runs: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._top_up, self._run)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _top_up(self) -> None:
        while not self._stopping.is_set():
            with self.app.db.write() as session:
                entry = ledger.post_top_up(session, self.user.account_id, 1000, source="house:test", actor="test")
            self.top_ups.append((time.monotonic(), entry.seq))
            time.sleep(0.002)

    def _run(self) -> None:
        number = 0
        while not self._stopping.is_set():
            number += 1
            files = helpers.pictures(1, seed=number)
            job = helpers.submit(self.app, self.user, helpers.quote(self.app, self.user, files), files)
            helpers.wait(self.app, self.user, job)
            self.runs.append((time.monotonic(), job.id))


def test_during_traffic(
    urls: tuple[str, str],
    open_app: OpenApp,
    sign_up: Callable[..., User],
    start_runner: Callable[[Application], JobRunner],
    tmp_path: Path,
) -> None:
    """What was acknowledged before the back-up began is there elsewhere, with its pictures; the ledger verifies; what
    was held at that moment is given back there."""
    app = open_app(database_url=urls[0], data_dir=tmp_path / "here")
    ann = sign_up(app)
    start_runner(app)
    target = tmp_path / "backup.tar"
    with Traffic(app, ann) as traffic:
        while len(traffic.runs) < 3 or len(traffic.top_ups) < 50:
            time.sleep(0.01)
        began = time.monotonic()
        made = backup.back_up(app.settings, app.db, target, with_weights=False)
        ended = len(traffic.top_ups)
        time.sleep(0.2)
    assert made.verification.ok, made.verification.problems
    assert len(traffic.top_ups) > ended, "nobody was stopped by it"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.tar", "here"]

    settings = app.settings.model_copy(update={"database_url": urls[1], "data_dir": tmp_path / "there"})
    elsewhere = Database(urls[1])
    restored = backup.restore(settings, elsewhere, target)
    assert restored.verification.ok, restored.verification.problems
    assert restored.verification.entries == made.verification.entries
    elsewhere.close()

    other = open_app(database_url=urls[1], data_dir=tmp_path / "there")
    with other.db.read() as session:
        seqs = set(session.exec(select(Entry.seq).where(Entry.account_id == ann.account_id)).all())
        images = session.exec(select(JobImage)).all()
        held = session.exec(select(func.count()).select_from(Hold).where(Hold.status == "held")).one()
    acknowledged = [seq for at, seq in traffic.top_ups if at < began]
    assert len(acknowledged) >= 50
    assert set(acknowledged) <= seqs
    assert len(seqs) == max(seqs), "no entry in between is missing"
    for at, job_id in traffic.runs:
        if at < began:
            view = account_view.get_job(other, ann, job_id)
            assert view.job.status == "finished"
            assert account_view.get_detections(other, ann, view.images[0].charge_key) is not None
    for image in images:
        assert hash_bytes(account_view.get_file(other, ann, image)) == image.file_sha256
    helpers.lapse(other)
    start_runner(other)
    deadline = time.monotonic() + 30
    while balance(other, ann)[1] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert balance(other, ann)[1] == 0, f"{held} holds were open at that moment"


@pytest.fixture
def made(open_app: OpenApp, sign_up: Callable[..., User], tmp_path: Path) -> tuple[Application, Path]:
    """A back-up of a small installation with a picture that waits for its quote to be run."""
    app = open_app(data_dir=tmp_path / "here")
    ann = sign_up(app)
    app.blobs.put(ann.account_id, b"a picture")
    target = tmp_path / "backup.tar"
    backup.back_up(app.settings, app.db, target)
    return app, target


def restore(app: Application, tmp_path: Path, source: Path, name: str = "there") -> backup.Outcome:
    """Restore to another folder."""
    settings = app.settings.model_copy(update={"data_dir": tmp_path / name, "weights_dir": tmp_path / name / "weights"})
    db = Database(settings.sqlalchemy_url)
    try:
        return backup.restore(settings, db, source)
    finally:
        db.close()


def test_weights_come_along_and_what_can_be_made_again_does_not(made: tuple[Application, Path], tmp_path: Path) -> None:
    """The model's file is the same there; the converted one is not in the back-up."""
    app, target = made
    outcome = restore(app, tmp_path, target)
    assert outcome.verification.ok
    with tarfile.open(target) as archive:
        names = archive.getnames()
    assert names[-1] == "manifest.json"
    assert "weights/yolov8s-fall.pt" in names
    assert not [name for name in names if "converted" in name or ".incoming" in name]
    there = tmp_path / "there" / "weights" / "yolov8s-fall.pt"
    assert there.read_bytes() == (app.settings.weights_dir / "yolov8s-fall.pt").read_bytes()
    # Again to the same place: refused, and what is there stays.
    with pytest.raises(BackupError, match="already"):
        restore(app, tmp_path, target)


def rewritten(source: Path, target: Path, change: Callable[[tarfile.TarInfo, bytes], tuple[str, bytes] | None]) -> Path:
    """The back-up with some members changed or left out."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old:
            content = old.extractfile(member)
            assert content is not None
            changed = change(member, content.read())
            if changed is not None:
                info = tarfile.TarInfo(changed[0])
                info.size = len(changed[1])
                new.addfile(info, io.BytesIO(changed[1]))
    return target


def other_manifest(**changes: object) -> Callable[[tarfile.TarInfo, bytes], tuple[str, bytes]]:
    """Another manifest."""
    return lambda member, data: (
        (member.name, json.dumps({**json.loads(data), **changes}).encode())
        if member.name == "manifest.json"
        else (member.name, data)
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m, d: None if m.name == "manifest.json" else (m.name, d), "no manifest.json"),
        (lambda m, d: (m.name, b"A picture" if d == b"a picture" else d), "is damaged: images/"),
        (lambda m, d: None if d == b"a picture" else (m.name, d), "is damaged: images/"),
        (lambda m, d: (m.name.replace("images/", "images/../../"), d), "has no place"),
        (lambda m, d: (m.name.replace("images/", "/"), d), "has no place"),
        (lambda m, d: (m.name, b"[]" if m.name == "manifest.json" else d), "no back-up"),
        (other_manifest(format="visionmeter-backup/9"), "format"),
        (other_manifest(database="postgresql"), "same kind of database"),
        (other_manifest(revision="9999"), "newer version"),
        (lambda m, d: (m.name.replace("images/", "images/..\\..\\"), d), "has no place"),
    ],
)  # fmt: skip
def test_a_bad_file_changes_nothing(
    made: tuple[Application, Path],
    tmp_path: Path,
    change: Callable[[tarfile.TarInfo, bytes], tuple[str, bytes] | None],
    words: str,
) -> None:
    """It is refused with the reason, and neither database nor picture is made."""
    app, target = made
    bad = rewritten(target, tmp_path / "bad.tar", change)
    with pytest.raises(BackupError, match=words):
        restore(app, tmp_path, bad)
    assert not (tmp_path / "there" / "visionmeter.db").exists()
    assert not (tmp_path / "there" / "images").exists()


def test_half_a_file_changes_nothing(made: tuple[Application, Path], tmp_path: Path) -> None:
    """A copy that was cut off, and a file that is something else."""
    app, target = made
    data = target.read_bytes()
    for number, piece in enumerate((data[: len(data) // 2], b"PK\x03\x04 something else", b"")):
        bad = tmp_path / f"{number}.tar"
        bad.write_bytes(piece)
        with pytest.raises(BackupError):
            restore(app, tmp_path, bad)
    assert not (tmp_path / "there" / "visionmeter.db").exists()


def test_a_ledger_that_disagrees_is_told(made: tuple[Application, Path], tmp_path: Path) -> None:
    """A balance that somebody changed is in the back-up as it is, and both commands say so."""
    app, _target = made
    helpers.change(app, "UPDATE account SET posted_mt = posted_mt + 1")
    target = tmp_path / "changed.tar"
    assert not backup.back_up(app.settings, app.db, target).verification.ok
    assert not restore(app, tmp_path, target).verification.ok


def test_a_file_that_is_there_is_not_overwritten(made: tuple[Application, Path]) -> None:
    """And nothing half-written is left beside it."""
    app, target = made
    before = target.read_bytes()
    with pytest.raises(BackupError, match="already"):
        backup.back_up(app.settings, app.db, target)
    assert target.read_bytes() == before
    assert [
        path.name for path in target.parent.iterdir() if "partial" in path.name or ".visionmeter" in path.name
    ] == []


def test_links_are_followed(made: tuple[Application, Path], tmp_path: Path) -> None:
    """Weights on another disk, by a link, come along."""
    app, _target = made
    elsewhere = tmp_path / "shared-disk"
    elsewhere.mkdir()
    (elsewhere / "helmets.pt").write_bytes(b"weights of ours")
    weights = tmp_path / "linked"
    weights.mkdir()
    (weights / "helmets.pt").symlink_to(elsewhere / "helmets.pt")
    (weights / "versions").symlink_to(elsewhere)
    settings = app.settings.model_copy(update={"weights_dir": weights})
    target = tmp_path / "linked.tar"
    backup.back_up(settings, app.db, target)
    restore(app, tmp_path, target, "other")
    for name in ("helmets.pt", "versions/helmets.pt"):
        assert (tmp_path / "other" / "weights" / name).read_bytes() == b"weights of ours"


def test_what_failed_can_be_tried_again(
    made: tuple[Application, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full at the last moment leaves nothing in the way of a second try."""
    app, target = made
    with monkeypatch.context() as full:
        full.setattr("core.database_copy._copy_sqlite", _fill_up)
        with pytest.raises(OSError, match="full"):
            restore(app, tmp_path, target)
    assert restore(app, tmp_path, target).verification.ok


def _fill_up(_source: Path, target: Path) -> None:
    target.write_bytes(b"half")
    raise OSError("the disk is full")
