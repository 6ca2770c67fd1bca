"""The short form of the soak: a real gateway under everything at once for a quarter of a minute keeps nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.alone

ROOT = Path(__file__).resolve().parents[2]


def test_a_little_of_everything(weights_dir: Path) -> None:
    """Right answers, no hold, job, thread, file or webhook left, a result for each charge, a ledger that verifies."""
    command = [sys.executable, str(ROOT / "bench" / "gateway_soak.py"), "--minutes", "0.25", "--rate", "8"]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert outcome.returncode == 0, f"{outcome.stdout}\n{outcome.stderr}"
    assert "all is well" in outcome.stdout
