"""Networks in a process of their own: no telemetry, no deadlock of first calls, memory that stays and comes back."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from core.inference.backends.network import Network
from core.inference.registry import ModelVersion

ROOT = Path(__file__).parents[4]
PREPARE = """
import sys, threading
import numpy as np, torch, torchvision
from pathlib import Path
from core.inference.backends.openvino_network import open_openvino
weights, sha256, cache_dir = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
"""


@pytest.fixture
def run_afresh(version: ModelVersion, networks: dict[str, Network], cache_dir: Path):
    """Runs code in a new process in which the embedded model's converted network is at hand; gives what it prints."""
    assert "openvino" in networks

    def run(code: str) -> str:
        command = [sys.executable, "-c", PREPARE + textwrap.dedent(code)]
        arguments = [str(version.path), version.sha256, str(cache_dir)]
        done = subprocess.run(command + arguments, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_first_calls_at_once_do_not_wait_for_each_other_for_ever(run_afresh) -> None:
    """Four networks opened and called by four threads at once in a new process: all of them come back."""
    code = """
    picture = np.zeros((1, 3, 64, 64), np.float32)
    def work():
        network = open_openvino(weights, sha256, cache_dir=cache_dir, cores=2)
        threads = [threading.Thread(target=network.forward, args=(picture,)) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    print("all back")
    """
    assert run_afresh(code) == "all back"


def test_no_telemetry(run_afresh) -> None:
    """OpenVINO's stub stands where its telemetry would, and the package that sends is not loaded."""
    code = """
    open_openvino(weights, sha256, cache_dir=cache_dir, cores=2)
    from openvino.tools.ovc import telemetry_utils
    print(telemetry_utils.tm.__name__, [name for name in sys.modules if name.startswith("openvino_telemetry.")])
    """
    assert run_afresh(code) == "openvino.tools.ovc.telemetry_stub []"


def test_memory_stays_however_many_shapes(run_afresh) -> None:
    """After 30 shapes, the next 40 add less than 5 %: what is prepared for a shape does not pile up."""
    code = """
    import gc, psutil
    network = open_openvino(weights, sha256, cache_dir=cache_dir, cores=1)
    shapes = [(height * 32, width * 32) for height in range(2, 9) for width in range(2, 12)]
    np.random.default_rng(3).shuffle(shapes)
    shapes.sort(key=lambda shape: shape != (256, 352))
    used = []
    for number, (height, width) in enumerate(shapes):
        network.forward(np.zeros((1, 3, height, width), np.float32))
        if number in (29, 69):
            gc.collect()
            used.append(psutil.Process().memory_info().rss)
    print(used[1] / used[0])
    """
    assert float(run_afresh(code)) < 1.05


@pytest.mark.parametrize("backend", ["torch", "openvino", "onnxruntime"])
def test_a_closed_network_gives_its_memory_back(run_afresh, backend: str) -> None:
    """Of what two networks took one after the other, the second took what the first had given back."""
    code = f"""
    import gc, psutil
    from core.inference.backends.choose import open_backend
    from core.inference.registry import Model, ModelVersion
    model = Model("m", "m", weights.name, None, False, "")
    version = ModelVersion(model, weights, sha256)
    def used():
        gc.collect()
        return psutil.Process().memory_info().rss
    def work():
        network = open_backend("{backend}", version, device=torch.device("cpu"), cache_dir=cache_dir, cores=2)
        before_close = network.forward(np.zeros((1, 3, 640, 640), np.float32)) and used()
        network.close()
        return before_close
    work()
    idle, at_work = used(), work()
    print((used() - idle) / (at_work - idle))
    """
    assert float(run_afresh(code)) < 0.3
