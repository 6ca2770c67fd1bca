"""The fastest back end that finds what torch finds is taken; where none can be, torch serves."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from core.inference.backends.choose import open_networks
from core.inference.backends.network import Network
from core.inference.backends.openvino_network import OpenVinoNetwork
from core.inference.backends.probe import AS_FAST, choose_backend
from core.inference.registry import ModelVersion

CPU = torch.device("cpu")


def test_all_are_measured_and_a_fast_one_is_chosen(
    version: ModelVersion, networks: dict[str, Network], cache_dir: Path
) -> None:
    """Each back end has its times and no problem, and none is clearly faster than the chosen one."""
    assert networks
    report = choose_backend(version, device=CPU, cache_dir=cache_dir)
    measured = {result.backend: result for result in report.measured}
    assert set(measured) == {"torch", "openvino", "onnxruntime"}
    for result in measured.values():
        assert result.problem is None
        assert result.ms is not None
        assert result.ms > 0
        assert result.ms_alone is not None
    best = min(result.ms or 0.0 for result in measured.values())
    assert (measured[report.chosen].ms or 0.0) <= best * AS_FAST + 0.1


def test_one_that_finds_something_else_is_not_chosen(
    version: ModelVersion, networks: dict[str, Network], cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO whose confidences are off by 0.01 is reported with what differs, and torch is taken."""
    assert networks
    forward = OpenVinoNetwork.forward
    monkeypatch.setattr(
        OpenVinoNetwork, "forward", lambda self, batch: [output * 1.01 + 0.01 for output in forward(self, batch)]
    )
    report = choose_backend(version, device=CPU, cache_dir=cache_dir, candidates=["openvino"])
    assert report.chosen == "torch"
    assert "differs from torch by" in (report.measured[1].problem or "")
    assert report.measured[1].ms is None


@pytest.mark.parametrize(
    ("missing", "serves"),
    [((), "openvino"), (("openvino",), "onnxruntime"), (("openvino", "onnxruntime"), "torch")],
)
def test_what_is_not_installed_is_passed_over(
    version: ModelVersion,
    networks: dict[str, Network],
    cache_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    missing: tuple[str, ...],
    serves: str,
) -> None:
    """Without OpenVINO ONNX Runtime serves, and without both torch does; the report says what is missing."""
    assert networks
    for package in missing:
        monkeypatch.setitem(sys.modules, package, None)
    network = open_networks(CPU, cache_dir=cache_dir)(version)
    assert network.backend == serves
    network.close()
    if len(missing) == 2:
        report = choose_backend(version, device=CPU, cache_dir=cache_dir)
        assert report.chosen == "torch"
        assert ["ModuleNotFoundError" in (result.problem or "") for result in report.measured] == [False, True, True]


def test_a_folder_that_cannot_be_written_leaves_torch(version: ModelVersion, tmp_path: Path) -> None:
    """Where nothing can be kept, the model still runs."""
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    network = open_networks(CPU, cache_dir=blocked)(version)
    assert network.backend == "torch"
    network.close()
