"""The engine's queue: bounded, refusing when it stops, one bad request never takes the thread along."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from core.errors import EngineBusyError, EngineStoppedError, InferenceError, WeightsRefusedError
from core.inference.backends.choose import open_networks
from core.inference.engine import Engine
from core.inference.images import DecodedImage
from core.inference.pipeline import DetectParams
from core.inference.registry import ModelVersion

OpenEngine = Callable[..., Engine]


@pytest.fixture
def open_engine(weights_dir: Path) -> OpenEngine:
    """What opens an engine of one's own, not started yet."""
    device = torch.device("cpu")
    load = open_networks(device, cache_dir=weights_dir / "converted")
    return lambda **options: Engine(load, device=device, **options)


def test_full_queue_is_refused(version: ModelVersion, bus: DecodedImage, open_engine: OpenEngine) -> None:
    """The queue is bounded: one more than fits is refused at once, and stopping fails those that wait."""
    engine = open_engine(queue_max=2)
    futures = [engine.submit(bus.pixels, version, DetectParams(320)) for _ in range(2)]
    with pytest.raises(EngineBusyError):
        engine.submit(bus.pixels, version, DetectParams(320))
    assert engine.queue_depth == 2
    engine.stop()
    for future in futures:
        with pytest.raises(EngineStoppedError):
            future.result(timeout=1)
    with pytest.raises(EngineStoppedError):
        engine.submit(bus.pixels, version, DetectParams(320))


def test_a_failing_request_leaves_the_others(engine: Engine, version: ModelVersion, bus: DecodedImage) -> None:
    """Pixels that no network takes and weights that are not there fail alone; the next image is served."""
    for pixels in (np.zeros((64, 64, 1), np.uint8), np.zeros((64, 64), np.uint8), np.zeros((0, 9, 3), np.uint8)):
        with pytest.raises(InferenceError):
            engine.submit(pixels, version, DetectParams(320))
    gone = replace(version, path=Path("/nowhere.pt"), sha256="0" * 64)
    missing = engine.submit(bus.pixels, gone, DetectParams(320))
    good = engine.submit(bus.pixels, version, DetectParams(320))
    with pytest.raises(WeightsRefusedError):
        missing.result(timeout=60)
    assert len(good.result(timeout=60).detections) > 0


def test_cancelled_request_does_not_run(version: ModelVersion, bus: DecodedImage, open_engine: OpenEngine) -> None:
    """A request cancelled while it waits is skipped, and the one after it is answered."""
    engine = open_engine(queue_max=8)
    first = engine.submit(bus.pixels, version, DetectParams(320))
    assert first.cancel()
    second = engine.submit(bus.pixels, version, DetectParams(320))
    engine.start()
    try:
        assert second.result(timeout=60).input_shape == (320, 256)
        assert first.cancelled()
    finally:
        engine.stop()
