"""Quantizing: what is refused before minutes are spent, each with a sentence that says what to do."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from core.config import Settings
from core.errors import InvalidImageSizeError, ModelNotFoundError, QuantizationRefusedError
from core.inference.registry import Registry
from core.services.quantize import Quantized, quantize_model
from tests.conftest import MODEL
from tests.quantized import make_small

OTHER = "yolov8s"
Quantize = Callable[..., Quantized]


@pytest.fixture
def pictures(tmp_path: Path, bus) -> Path:
    """A folder with 25 pictures, 19 of them different, and what is none."""
    folder = tmp_path / "pictures"
    (folder / "deeper").mkdir(parents=True)
    for number in range(19):
        cv2.imwrite(str(folder / f"{number}.jpg"), bus.pixels[: 200 + number, :200])
    for number in range(6):
        shutil.copy(folder / f"{number}.jpg", folder / "deeper" / f"again-{number}.JPG")
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("of the pictures")
    return folder


@pytest.fixture
def quantize(tmp_path: Path, weights_dir: Path, pictures: Path) -> Quantize:
    """Tries it, with a weights folder of its own in which nothing may change."""
    folder = tmp_path / "weights"
    folder.mkdir()
    shutil.copy(weights_dir / f"{MODEL}.pt", folder / f"{OTHER}.pt")

    def try_it(
        name: str = OTHER,
        given: Sequence[Path] = (pictures,),
        output: Path = tmp_path / "new.openvino",
        **changes: object,
    ) -> Quantized:
        settings = Settings(_env_file=None, weights_dir=folder, data_dir=tmp_path / "data")
        return quantize_model(settings, Registry(folder), name, given, output, **changes)

    return try_it


def test_too_few_pictures(quantize: Quantize, pictures: Path, tmp_path: Path) -> None:
    """Those that are there twice count once, and those that cannot be read do not count; nothing is written."""
    with pytest.raises(QuantizationRefusedError, match=r"^19 different pictures are too few: give at least 20, "):
        quantize()
    with pytest.raises(QuantizationRefusedError, match=r"broken.png: "):
        quantize(given=[pictures / "broken.png"])
    with pytest.raises(QuantizationRefusedError, match=r"gone.jpg cannot be read: No such file"):
        quantize(given=[pictures / "gone.jpg"])
    assert not list(tmp_path.glob("*.openvino"))


def test_a_cache_that_cannot_be_written(
    quantize: Quantize, pictures: Path, tmp_path: Path, bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named, and not the file that was asked for. Beside a GPU it was said before that the time does not hold."""
    monkeypatch.setenv("VISIONMETER_DEVICE", "cuda")
    told: list[str] = []
    cv2.imwrite(str(pictures / "more.jpg"), bus.pixels[:300, :300])
    (tmp_path / "data").mkdir()
    (tmp_path / "weights" / "converted").write_text("no folder")
    (tmp_path / "data" / "converted").write_text("no folder")
    with pytest.raises(QuantizationRefusedError, match=r"converted.* cannot be written: "):
        quantize(tell=told.append)
    assert told[0].startswith("Here FP32 serves on cuda, and INT8 would on the processor.")
    assert len(told) == 2


@pytest.mark.parametrize("package", ["nncf", "openvino"])
def test_what_is_not_installed(
    quantize: Quantize, pictures: Path, bus, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    """The sentence names it, and for NNCF the command that installs it."""
    cv2.imwrite(str(pictures / "more.jpg"), bus.pixels[:300, :300])
    monkeypatch.setitem(sys.modules, package, None)
    sentences = {
        "nncf": r"^Quantizing needs NNCF, which is not installed here: .* -r requirements-int8.txt -c constraints.txt$",
        "openvino": "^Quantizing needs OpenVINO, which is not installed here",
    }
    with pytest.raises(QuantizationRefusedError, match=sentences[package]):
        quantize()


def test_models_that_are_not_quantized(quantize: Quantize, tmp_path: Path, weights_dir: Path) -> None:
    """Unknown ones, those of other tasks, and those that are quantized already."""
    with pytest.raises(ModelNotFoundError):
        quantize("mine")
    shutil.copy(weights_dir / f"{MODEL}.pt", tmp_path / "weights" / "yolov8n-seg.pt")
    with pytest.raises(QuantizationRefusedError, match=r"^yolov8n-seg is for the task segment: only models that find "):
        quantize("yolov8n-seg")
    make_small(tmp_path / "weights" / f"{OTHER}.openvino")
    with pytest.raises(QuantizationRefusedError, match=r"^The weights of yolov8s are quantized already: roll back "):
        quantize()


def test_where_it_is_written(quantize: Quantize, tmp_path: Path) -> None:
    """Over nothing that is there, only under its own suffix, only where there is a folder, and not where it would be
    served."""
    taken = tmp_path / "taken.openvino"
    taken.write_bytes(b"kept")
    with pytest.raises(QuantizationRefusedError, match="is there already"):
        quantize(output=taken)
    assert taken.read_bytes() == b"kept"
    with pytest.raises(QuantizationRefusedError, match=r"does not end in \.openvino"):
        quantize(output=tmp_path / "new.pt")
    with pytest.raises(QuantizationRefusedError, match="is not there or cannot be written"):
        quantize(output=tmp_path / "nowhere" / "new.openvino")
    for inside in (
        tmp_path / "weights" / "new.openvino",
        tmp_path / "pictures" / ".." / "weights" / "yolov8s.openvino",
    ):
        with pytest.raises(QuantizationRefusedError, match="lies in the weights folder, where it could come into"):
            quantize(output=inside)
    with pytest.raises(InvalidImageSizeError, match="A size is one of 320, "):
        quantize(sizes=(333,))


def test_a_picture_is_not_decoded_beyond_the_limits(tmp_path: Path, quantize: Quantize) -> None:
    """A picture that is refused from customers is refused here."""
    large = tmp_path / "large.png"
    cv2.imwrite(str(large), np.zeros((8_000, 8_000), np.uint8))
    with pytest.raises(QuantizationRefusedError, match=r"large.png: .*pixels"):
        quantize(given=[large])
