"""Back ends measured at start: the one that was the fastest serves, and a start never fails for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from core.config import Settings
from core.inference.backends.onnx_network import OnnxNetwork
from core.inference.backends.openvino_network import OpenVinoNetwork
from core.inference.backends.probe import Measured, ProbeReport
from core.inference.images import DecodedImage
from core.inference.pipeline import DetectParams
from core.inference.registry import ModelVersion, Registry
from core.services.application import open_application
from core.services.serving import measure_backends, open_serving

CPU = torch.device("cpu")


def test_what_was_the_fastest_serves(tmp_path: Path, weights_dir: Path, bus: DecodedImage) -> None:
    """An application that measures at start serves with the back end that its report chose, and finds the people."""
    app = open_application(Settings(data_dir=tmp_path, weights_dir=weights_dir, device="cpu", backend="measured"))
    try:
        assert app.backends_measured is not None
        assert {one.backend for one in app.backends_measured.measured} == {"torch", "openvino", "onnxruntime"}
        app.engine.start()
        version = app.registry.resolve("yolov8s-fall")
        found = app.engine.submit(bus.pixels, version, DetectParams(640)).result(60).detections
        assert len(found.filter(confidence_min=0.5)) == 4
        assert app.engine.backends[version.sha256].split()[0] == app.backends_measured.chosen
    finally:
        app.engine.stop()
        app.close()


def test_one_that_differs_does_not_serve(
    tmp_path: Path, weights_dir: Path, version: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO and ONNX Runtime that find something else than torch are passed over, and torch serves."""
    for network in (OpenVinoNetwork, OnnxNetwork):
        forward = network.forward
        monkeypatch.setattr(
            network, "forward", lambda self, batch, forward=forward: [output + 0.1 for output in forward(self, batch)]
        )
    settings = Settings(data_dir=tmp_path, weights_dir=weights_dir, device="cpu", backend="measured")
    report = measure_backends(settings, Registry(weights_dir), CPU, cache_dir=weights_dir / "converted")
    assert report is not None
    assert (report.chosen, report.preferred) == ("torch", ())
    network = open_serving(settings, CPU, cache_dir=weights_dir / "converted", report=report)(version)
    assert network.backend == "torch"
    network.close()


def test_without_a_model_nothing_is_measured(tmp_path: Path) -> None:
    """An empty weights folder, or one with a file that is no model, keeps no application from starting."""
    settings = Settings(data_dir=tmp_path, weights_dir=tmp_path / "weights", device="cpu", backend="measured")
    settings.weights_dir.mkdir()
    registry = Registry(settings.weights_dir)
    assert measure_backends(settings, registry, CPU, cache_dir=tmp_path / "converted") is None
    (settings.weights_dir / "yolov8n.pt").write_bytes(b"no weights")
    assert measure_backends(settings, registry, CPU, cache_dir=tmp_path / "converted") is None


@pytest.mark.parametrize(
    ("chosen", "preferred"),
    [("openvino", ("openvino", "onnxruntime")), ("onnxruntime", ("onnxruntime", "openvino")), ("torch", ())],
)
def test_the_others_follow_by_their_time(chosen: str, preferred: tuple[str, ...]) -> None:
    """A network that the chosen back end cannot convert is served by the next fastest, and torch is always last."""
    measured = (Measured("torch", ms=90.0), Measured("openvino", ms=50.0), Measured("onnxruntime", ms=60.0))
    assert ProbeReport(chosen, "cpu", 2, measured).preferred == preferred
