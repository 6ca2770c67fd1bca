"""`visionmeter catalog quantize`, and the way of what it wrote: served, named by results, rolled back.

The embedded model is quantized once, for real, on pieces of two photographs.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from sqlmodel import select
from typer.testing import CliRunner, Result

from core.errors import WeightsRefusedError
from core.identity.tables import User
from core.inference.backends.choose import open_networks
from core.inference.backends.openvino_network import open_openvino, read_int8
from core.inference.compare import match_detections
from core.inference.images import DecodedImage
from core.inference.pipeline import DetectParams
from core.inference.quantized_file import read_manifest, read_quantized
from core.inference.registry import ModelVersion
from core.inference.replicas import Replica
from core.inference.weights import hash_file
from core.jobs.blobs import hash_bytes
from core.jobs.tables import Result as StoredResult
from core.services.account_view import JobView
from core.services.application import Application
from core.services.metered_detection import submit_quote
from core.services.model_watch import ModelWatcher
from core.services.quotes import prepare_image, quote_batch
from gateway import cli
from tests.conftest import MODEL, torch_cpu
from tests.core.services.helpers import pictures as customers_pictures
from tests.core.services.helpers import wait

DONE, REFUSED, NOT_TRIED = 0, 1, 2
OTHER = "yolov8s"  # in the built-in catalogue, and open to any weights
SIZES = (320, 416)


def visionmeter(*arguments: str | Path) -> Result:
    outcome = CliRunner().invoke(cli.app, ["catalog", *map(str, arguments)])
    assert "Traceback" not in outcome.output
    return outcome


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quantize")


@pytest.fixture(scope="module")
def crops(folder: Path, bus: DecodedImage, zidane: DecodedImage) -> Path:
    """A folder with 24 pieces of the photographs, and a file that is no picture."""
    target = folder / "crops"
    target.mkdir()
    draw = np.random.default_rng(20_261_127)
    for number in range(24):
        photo = (bus, zidane)[number % 2].pixels
        height, width = (int(side * draw.uniform(0.6, 1)) for side in photo.shape[:2])
        top, left = draw.integers(0, photo.shape[0] - height + 1), draw.integers(0, photo.shape[1] - width + 1)
        cv2.imwrite(str(target / f"{number}.jpg"), photo[top : top + height, left : left + width])
    (target / "broken.jpg").write_bytes(b"no picture")
    return target


@pytest.fixture(scope="module")
def said(folder: Path, crops: Path, weights_dir: Path) -> str:
    """What the command printed. The file is `yolov8s-int8.openvino` in the folder."""
    patch = pytest.MonkeyPatch()
    weights = folder / "weights"
    weights.mkdir()
    shutil.copy(weights_dir / f"{MODEL}.pt", weights / f"{OTHER}.pt")
    patch.setenv("VISIONMETER_WEIGHTS_DIR", str(weights))
    patch.setenv("VISIONMETER_DATA_DIR", str(folder / "data"))
    patch.chdir(folder)
    outcome = visionmeter("quantize", OTHER, crops, "--sizes", ",".join(map(str, SIZES * 11)))
    patch.undo()
    assert outcome.exit_code == DONE, outcome.output
    assert [path.name for path in weights.iterdir()] in (["converted", f"{OTHER}.pt"], [f"{OTHER}.pt", "converted"])
    return outcome.stdout


@pytest.fixture(scope="module")
def int8(folder: Path, said: str) -> Path:
    assert said
    return folder / f"{OTHER}-int8.openvino"


@pytest.fixture
def shop(
    open_app: Callable[..., Application], tmp_path: Path, weights_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Application:
    """A running service on a weights folder of its own, which the commands are for."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in (MODEL, OTHER):
        shutil.copy(weights_dir / f"{MODEL}.pt", folder / f"{name}.pt")
    app = open_app(weights_dir=folder)
    for name in ("data_dir", "weights_dir", "device"):
        monkeypatch.setenv(f"VISIONMETER_{name.upper()}", str(getattr(app.settings, name)))
    return app


def results(shop: Application, view: JobView) -> list[str]:
    """The versions that a run's stored results name."""
    with shop.db.read() as session:
        found = session.exec(select(StoredResult.model_version).where(StoredResult.img_size == view.job.img_size)).all()
    assert view.job.status == "finished"
    return list(found)


def test_what_it_says(said: str, int8: Path, crops: Path, weights_dir: Path) -> None:
    """The loss that stands in the file, what was left out, and how to put it live; all progress goes elsewhere."""
    manifest = read_manifest(int8)
    loss = manifest.loss
    left_out, first, second, *commands = said.splitlines()
    assert left_out == "Left out, for they are no pictures that are served here: 1 of the files."
    assert first.startswith(f"INT8 finds {loss.found} of the {loss.objects} objects of FP32 (")
    assert second == (
        f"{int8.name} has version {hash_file(int8)[:12]}. Nothing has changed for customers. To put it live:"
    )
    assert [line.split("   ")[0].strip() for line in commands] == [
        f"visionmeter catalog canary {OTHER} {int8.name} --percent 5",
        f"visionmeter catalog replace {OTHER} {int8.name}",
    ]
    worst = loss.worst
    assert (
        f"; of the worst class, {manifest.names[worst.class_id]}, {worst.found} of {worst.objects}; in 6 pic" in first
    )
    assert worst.found / worst.objects <= loss.found / loss.objects
    assert manifest.weights_sha256 == hash_file(weights_dir / f"{MODEL}.pt")
    assert (manifest.calibration_pictures, loss.pictures, loss.sizes) == (18, 6, SIZES)
    assert loss.objects >= 20
    assert loss.found / loss.objects >= 0.85
    assert loss.confidence_mean <= 0.05
    assert loss.iou_mean >= 0.93


def test_it_is_int8(int8: Path) -> None:
    """Weights are kept in 8 bits, a quarter of the bytes, and OpenVINO computes all convolutions but one in 8 bits."""
    _, graph, constants = read_quantized(int8)
    assert graph.count(b'element_type="i8"') >= 60
    assert graph.count(b'type="FakeQuantize"') >= 60
    assert len(constants) < 12_000_000
    import openvino

    compiled = openvino.Core().compile_model(read_int8(graph, constants), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    notes = [operation.get_rt_info() for operation in compiled.get_runtime_model().get_ops()]
    kinds = [note["runtimePrecision"].astype(str) for note in notes if note["layerType"].astype(str) == "Convolution"]
    assert len([kind for kind in kinds if kind in ("u8", "i8")]) >= 60
    assert [kind for kind in kinds if kind not in ("u8", "i8")] == ["f32"]  # which makes boxes of the head's numbers


@pytest.mark.parametrize("name", ["bus", "zidane"])
def test_it_finds_what_fp32_finds(
    int8: Path, version: ModelVersion, weights_dir: Path, request: pytest.FixtureRequest, name: str
) -> None:
    """In whole photographs at a size that it was not calibrated at."""
    image: DecodedImage = request.getfixturevalue(name)
    cache_dir = weights_dir / "converted"
    found = []
    for path in (version.path, int8):
        network = open_openvino(path, hash_file(path), cache_dir=cache_dir, cores=1)
        found.append(Replica(version, network).run(image.pixels, DetectParams(640))[0].filter(confidence_min=0.25))
        network.close()
    matching = match_detections(*found)
    assert len(found[0]) >= 2
    assert len(matching.only_first) == len(matching.only_second) == 0


def test_it_goes_live_and_back(
    shop: Application,
    int8: Path,
    sign_up: Callable[..., User],
    start_runner: Callable[[Application], object],
) -> None:
    """Tried on a share and promoted it computes in INT8 and results name it; rolled back they name the old version, and
    what was quoted before runs as it was quoted. Each command tells its loss."""
    customer, watcher = sign_up(shop), ModelWatcher(shop)
    start_runner(shop)
    watcher.check()
    old, new = shop.registry.resolve(OTHER), hash_file(int8)
    files = customers_pictures(1)
    images = [prepare_image(shop, name, data) for name, data in files.items()]
    by_hash = {hash_bytes(data): data for data in files.values()}

    canary = visionmeter("canary", OTHER, int8, "--percent", "5")
    assert canary.stdout.startswith(
        f"5 % of the accounts meet {new[:12]} of {OTHER}.\nIts file says that it was made from {old.version}: "
    ), canary.output
    assert shop.registry.look(OTHER).sha256 == old.sha256
    assert "known here" not in canary.stdout
    promoted = json.loads(visionmeter("promote", OTHER, "--json").stdout)
    assert (promoted["sha256"], promoted["loss"]["found"]) == (new, read_manifest(int8).loss.found)
    assert shop.registry.look(OTHER).path.name == f"{OTHER}.openvino"
    assert [version.sha256 for version in watcher.check()] == [new]
    assert shop.engine.backends[new] == "openvino int8"
    assert visionmeter("versions", OTHER).stdout.splitlines()[1].startswith("  Its file says that it was made from ")
    (served, before) = json.loads(visionmeter("versions", OTHER, "--json").stdout)
    assert (served["sha256"], served["served"], before["loss"]) == (new, True, None)
    assert (served["made_from_sha256"], served["made_from_known"]) == (old.sha256, True)
    assert served["loss"]["objects"] == read_manifest(int8).loss.objects

    quoted = [quote_batch(shop, customer, images, model=OTHER, img_size=size) for size in (320, 416)]
    view = wait(shop, customer, submit_quote(shop, customer, quoted[0].id, by_hash))
    assert results(shop, view) == [new[:12]]

    back = visionmeter("roll-back", OTHER, old.version)
    assert back.stdout == f"{OTHER} has the weights {old.version} again.\n"
    assert [version.sha256 for version in watcher.check()] == [old.sha256]
    assert not list(shop.settings.weights_dir.glob("*.openvino"))
    after = quote_batch(shop, customer, images, model=OTHER, img_size=512)
    for one, version in ((quoted[1], new[:12]), (after, old.version)):
        view = wait(shop, customer, submit_quote(shop, customer, one.id, by_hash))
        assert results(shop, view) == [version]


def test_a_gpu_and_no_openvino(int8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It computes on the processor, whatever the device and the setting are; without OpenVINO the error says so."""
    import torch

    model = ModelVersion(_model(), int8, hash_file(int8))
    network = open_networks(torch.device("cuda"), cache_dir=tmp_path, backend="torch")(model)
    assert (network.backend, network.precision) == ("openvino", "int8")
    network.close()
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(WeightsRefusedError, match="is quantized and runs in OpenVINO only, which is not installed"):
        open_networks(torch_cpu(), cache_dir=tmp_path)(model)


def _model():
    from core.inference.registry import Model

    return Model(OTHER, "YOLOv8s", f"{OTHER}.pt", None, False, "")


def test_what_is_refused_is_one_sentence(shop: Application, crops: Path, int8: Path) -> None:
    """On the error stream, with the exit code that says whether it was tried."""
    few = visionmeter("quantize", OTHER, crops / "1.jpg")
    assert (few.exit_code, few.stdout) == (REFUSED, "")
    assert few.stderr.startswith("1 different pictures are too few: give at least 20, ")
    wrong = visionmeter("quantize", OTHER, crops, "--sizes", "large")
    assert (wrong.exit_code, wrong.stdout) == (NOT_TRIED, "")
    assert wrong.stderr == "--sizes is numbers with commas between them, such as 320,640, not large.\n"
    wrong = visionmeter("quantize", OTHER, crops, "--sizes", "333")
    assert (wrong.exit_code, wrong.stdout) == (NOT_TRIED, "")
    assert wrong.stderr.startswith("--sizes: A size is one of 320, ")
    damaged = bytearray(int8.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path = shop.settings.data_dir / "damaged.openvino"
    path.write_bytes(damaged)
    refused = visionmeter("replace", OTHER, path)
    assert (refused.exit_code, refused.stderr) == (
        REFUSED,
        f"{OTHER}.openvino has a damaged model.bin. It was not used.\n",
    )


def test_a_model_with_registered_weights_gets_another_name(
    shop: Application, int8: Path, version: ModelVersion
) -> None:
    """Its own weights cannot be others: what was made of it is added as a model of its own."""
    added = visionmeter("add", f"{MODEL}-int8", int8, "--title", "Fall INT8", "--beta", "0.4")
    assert added.exit_code == DONE, added.output
    assert added.stdout.splitlines()[1].startswith(
        f"Its file says that it was made from {version.version}: INT8 finds "
    )
    assert "known here" not in added.stdout
    assert shop.registry.resolve(f"{MODEL}-int8").sha256 == hash_file(int8)
