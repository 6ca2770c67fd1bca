"""New weights go live without dropping a request; what is refused changes nothing; a way back is there."""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from sqlmodel import select

from core.errors import ModelNotReadyError
from core.identity.tables import AuditEvent, User
from core.inference.backends.torch_network import open_torch
from core.inference.detections import Detections
from core.inference.images import DecodedImage, Pixels
from core.inference.pipeline import DetectParams
from core.inference.registry import VERSIONS_KEPT_MAX, ModelVersion
from core.inference.replicas import Replica
from core.inference.trial import try_weights
from core.jobs.blobs import hash_bytes
from core.services import model_watch
from core.services.application import Application
from core.services.metered_detection import submit_quote
from core.services.model_watch import ModelWatcher
from core.services.quotes import prepare_image, quote_batch
from tests.core.services.helpers import pictures, statuses, wait
from tests.detections import is_same
from tests.other_weights import make_other_weights

# Any weights that an operator supplies are accepted under this name.
NAME = "yolov8s"
SEED = 20_261_126
SIZE_PX = 96


@pytest.fixture(scope="module")
def weights(weights_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three versions of a model."""
    folder = tmp_path_factory.mktemp("three")
    first = weights_dir / "yolov8s-fall.pt"
    paths = [folder / f"{number}.pt" for number in range(3)]
    shutil.copy(first, paths[0])
    for number in (1, 2):
        make_other_weights(first, paths[number], seed=SEED + number)
    return paths


@dataclass
class Shop:
    """An application of its own, whose operator puts files into its folder; its watch looks when it is told to."""

    app: Application
    watcher: ModelWatcher
    folder: Path

    def put(self, path: Path) -> None:
        """As a careful operator: beside it first, then in its place."""
        fresh = self.folder / f"{NAME}.pt.new"
        shutil.copy(path, fresh)
        fresh.replace(self.folder / f"{NAME}.pt")

    def events(self) -> list[AuditEvent]:
        """What the audit log says of switches."""
        with self.app.db.read() as session:
            return list(session.exec(select(AuditEvent).where(AuditEvent.action == "model.switch")))


@pytest.fixture
def shop(
    open_app: Callable[..., Application], tmp_path: Path, weights: list[Path], weights_dir: Path
) -> Iterator[Shop]:
    """The first version is served."""
    folder = tmp_path / "weights"
    folder.mkdir()
    shutil.copy(weights[0], folder / f"{NAME}.pt")
    (weights_dir / "converted").mkdir(exist_ok=True)
    (folder / "converted").symlink_to(weights_dir / "converted")  # what other tests converted need not be again
    app = open_app(own_engine=True, weights_dir=folder, models_loaded_max=2)
    app.engine.start()
    watcher = ModelWatcher(app)
    watcher.check()
    yield Shop(app, watcher, folder)
    watcher.stop()
    app.engine.stop()


def test_a_newer_file_that_another_goes_before_is_told_once(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """Who copies a `.pt` beside an `.onnx` that is served would wait in vain: the log says why, once for each file."""
    caplog.set_level("WARNING", logger="visionmeter")
    before = shop.folder / f"{NAME}.onnx"
    before.write_bytes(b"no network")
    os.utime(before, (1, 1))
    for _ in range(3):
        shop.watcher.check()
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 1
    assert told[0].startswith(f"{NAME}: {NAME}.pt is newer and not served, for {NAME}.onnx goes before it")
    os.utime(before)
    os.utime(shop.folder / f"{NAME}.pt", (2, 2))
    shop.watcher.check()
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


def test_a_new_file_goes_live_and_the_old_one_is_a_way_back(
    shop: Shop, weights: list[Path], sign_up: Callable[..., User], start_runner: Callable[[Application], object]
) -> None:
    """Until somebody looked the old version, after it the new one, loaded already, and the audit log says so.

    What was priced with the old one runs with it and is charged. A roll-back serves the old one again.
    """
    app, registry = shop.app, shop.app.registry
    ann, files = sign_up(app), pictures(2)
    old = registry.resolve(NAME)
    images = [prepare_image(app, name, data) for name, data in files.items()]
    quoted = quote_batch(app, ann, images, model=NAME, img_size=320)
    shop.put(weights[1])
    assert registry.resolve(NAME).sha256 == old.sha256

    (new,) = shop.watcher.check()
    assert new.sha256 == registry.resolve(NAME).sha256 != old.sha256
    assert new.sha256 in app.engine.backends
    (event,) = shop.events()
    assert (event.subject, event.details["from"], event.details["to"]) == (NAME, old.version, new.version)
    assert shop.watcher.check() == []

    job = submit_quote(app, ann, quoted.id, {hash_bytes(data): data for data in files.values()})
    start_runner(app)
    view = wait(app, ann, job)
    assert statuses(view) == ["charged"] * 2
    assert view.job.model_version == quoted.model_version == old.version

    registry.roll_back(NAME, old.version)
    (back,) = shop.watcher.check()
    assert back.sha256 == old.sha256 == registry.resolve(NAME).sha256
    with pytest.raises(ModelNotReadyError):
        registry.roll_back(NAME, "0" * 12)


@pytest.mark.parametrize("content", ["nothing", "text", "half a file"])
def test_a_bad_file_changes_nothing(
    shop: Shop, weights: list[Path], content: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What is no checkpoint, or still being copied, is said once; the old version is served also by a later look."""
    old = shop.app.registry.resolve(NAME)
    data = weights[1].read_bytes()
    bad = {"nothing": b"", "text": b"no checkpoint at all", "half a file": data[: len(data) // 2]}
    (shop.folder / f"{NAME}.pt").write_bytes(bad[content])
    for _ in range(3):
        assert shop.watcher.check() == []
        assert shop.app.registry.resolve(NAME) == old
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
    assert [version.sha256 for version in shop.app.registry.list_versions(NAME)] == [old.sha256]


def test_one_that_breaks_the_watch_is_refused_alone(
    shop: Shop, weights: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of a kind that nobody expected: the next model is watched, and the file is neither kept nor loaded."""
    registry, other = shop.app.registry, "yolov8n"  # looked at before the shop's own
    shutil.copy(weights[0], shop.folder / f"{other}.pt")
    shop.watcher.check()
    old = registry.resolve(other)

    def breaks(path: Path, sha256: str, task: str) -> object:
        if path.name.startswith(other):
            raise AttributeError("a list has no get")
        return try_weights(path, sha256, task)

    monkeypatch.setattr(model_watch, "try_weights", breaks)
    shutil.copy(weights[2], shop.folder / f"{other}.pt")
    shop.put(weights[1])
    (switched,) = shop.watcher.check()
    assert (switched.model.name, switched.sha256) == (NAME, _sha256(weights[1]))
    assert shop.watcher.check() == []
    assert registry.resolve(other) == old
    assert registry.list_versions(other) == [old]
    assert _sha256(weights[2]) not in shop.app.engine.backends
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1


def test_a_trial_that_was_broken_off_is_made_again(
    shop: Shop, weights: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies in the trial leaves nothing that another one takes for tried."""

    def dies(*_arguments: object) -> object:
        raise SystemExit  # nothing after it happens, as after SIGKILL

    shop.put(weights[1])
    with monkeypatch.context() as patch:
        patch.setattr(model_watch, "try_weights", dies)
        with pytest.raises(SystemExit):
            shop.watcher.check()
    tried: list[str] = []

    def records(path: Path, sha256: str, task: str) -> object:
        tried.append(sha256)
        return try_weights(path, sha256, task)

    monkeypatch.setattr(model_watch, "try_weights", records)
    (switched,) = ModelWatcher(shop.app).check()
    assert tried == [switched.sha256] == [_sha256(weights[1])]


def test_a_file_taken_away_takes_its_model_away(shop: Shop) -> None:
    """Without a file no new quote; what was priced finds its version among those that are kept."""
    old = shop.app.registry.resolve(NAME)
    (shop.folder / f"{NAME}.pt").unlink()
    shop.watcher.check()
    with pytest.raises(ModelNotReadyError):
        shop.app.registry.resolve(NAME)
    assert shop.app.registry.find_version(NAME, old.version).sha256 == old.sha256


def test_so_many_versions_are_kept(shop: Shop, weights: list[Path]) -> None:
    """The one that is served and the newest; the oldest of the others go."""
    registry = shop.app.registry
    (served,) = registry.list_versions(NAME)
    kept = []
    for number in range(VERSIONS_KEPT_MAX + 1):
        path = shop.folder / f"v{number}.pt"
        path.write_bytes(weights[0].read_bytes() + bytes([number]))
        version = registry.resolve(NAME)
        kept.append(registry.keep(ModelVersion(version.model, path, _sha256(path))))
        registry.prune(NAME)
    assert registry.list_versions(NAME) == [*reversed(kept[-VERSIONS_KEPT_MAX + 1 :]), served]


@pytest.mark.alone
@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", [240, pytest.param(1000, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])])
def test_three_swaps_and_a_way_back_under_load(
    shop: Shop, weights: list[Path], bus: DecodedImage, zidane: DecodedImage, count: int
) -> None:
    """Four threads ask without a pause: no request fails, and each answer is that of the version that it names."""
    app = shop.app
    images = [cv2.resize(image.pixels, (200, 200)) for image in (bus, zidane, bus)]
    images[2] = np.ascontiguousarray(images[2][:, ::-1])
    first = app.registry.resolve(NAME)
    over = threading.Event()
    answers: list[tuple[int, ModelVersion, Detections]] = []

    def client(number: int) -> None:
        draw = random.Random(SEED + number)
        while not over.is_set() or len(answers) < count:
            index = draw.randrange(len(images))
            version = app.registry.resolve(NAME)
            future = app.engine.submit(images[index], version, DetectParams(SIZE_PX), customer=str(number))
            answers.append((index, version, future.result(120).detections))
            time.sleep(0.04)  # customers pause; else two cores would have nothing left for loading

    def wait_for_answers_of(version: ModelVersion) -> None:
        deadline, start = time.monotonic() + 120, len(answers)
        while sum(asked.sha256 == version.sha256 for _index, asked, _found in answers[start:]) < count // 5:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def operator() -> None:
        try:
            for step in (1, 2, 1, 0):
                wait_for_answers_of(app.registry.resolve(NAME))
                if step:
                    shop.put(weights[step])
                else:
                    app.registry.roll_back(NAME, first.version)
                assert len(shop.watcher.check()) == 1
        finally:
            over.set()

    with ThreadPoolExecutor(5) as pool:
        futures = [pool.submit(operator), *(pool.submit(client, number) for number in range(4))]
        for future in futures:
            future.result()
    assert len(answers) >= count
    versions = {version.sha256: version for _index, version, _found in answers}
    assert len(versions) == 3
    alone = {sha256: _answers_alone(version, images) for sha256, version in versions.items()}
    assert len({tuple(found[0].confidence.round(3).tolist()) for found in alone.values()}) == 3
    # Thousands of answers, most of them the same to the last bit: each different one is compared.
    different = {
        (index, version.sha256, found.xyxy.tobytes(), found.confidence.tobytes()): (index, version, found)
        for index, version, found in answers
    }
    for index, version, found in different.values():
        assert is_same(alone[version.sha256][index], found, 0.05)
    assert len(shop.events()) == 4


def _answers_alone(version: ModelVersion, images: list[Pixels]) -> list[Detections]:
    replica = Replica(version, open_torch(version.path, version.sha256, device=torch.device("cpu"), cores=2))
    return [replica.run(image, DetectParams(SIZE_PX))[0] for image in images]


def _sha256(path: Path) -> str:
    from core.inference.weights import hash_file

    return hash_file(path)
