"""The command `visionmeter` against the real server, as it is installed: prices, results, files, exit codes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from visionmeter_client import VisionMeter

from tests.clients.server import PICTURE_TOKENS, Gateway, new_picture

COMMAND = str(Path(sys.executable).with_name("visionmeter"))
DONE, SOME_FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
Run = Callable[..., subprocess.CompletedProcess[str]]


def settings(gateway: Gateway, key: str) -> dict[str, str]:
    """The environment that a person sets up once."""
    return {**os.environ, "VISIONMETER_HOST": gateway.url, "VISIONMETER_API_KEY": key, "COLUMNS": "120"}


@pytest.fixture
def run(gateway: Gateway, fresh_key: str, photos: Path) -> Run:
    """Runs `visionmeter …` in the folder of the photographs, without a terminal, for an account with 20 tokens."""

    def run(*arguments: str, key: str = fresh_key) -> subprocess.CompletedProcess[str]:
        outcome = subprocess.run(
            [COMMAND, *arguments],
            cwd=photos,
            env=settings(gateway, key),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in outcome.stderr
        assert not key or key not in outcome.stdout + outcome.stderr
        return outcome

    return run


def test_a_quote_without_a_terminal_runs_nothing(run: Run, fresh: VisionMeter) -> None:
    """Every price to the last digit, and a sentence that nothing was run; exit code 0."""
    outcome = run("detect", "bus.jpg", "zidane.jpg", "--quote")
    assert (outcome.returncode, outcome.stderr) == (DONE, "")
    assert [line.split() for line in outcome.stdout.splitlines() if ".jpg" in line] == [
        ["bus.jpg", "810×1080", "480×640", "0.750", "0.750"],
        ["zidane.jpg", "1280×720", "640×384", "0.600", "0.600"],
    ]
    assert "2 images with yolov8s-fall at 640: at most 1.350 tokens" in outcome.stdout
    assert outcome.stdout.endswith("Nothing was run: there is no terminal to ask on. Add --yes to run it.\n")
    assert fresh.balance().tokens == 20


def test_detect(run: Run, fresh: VisionMeter) -> None:
    """At once, or after its quote with --yes: a line for each image, what was taken and what is left."""
    outcome = run("detect", "bus.jpg", "--model", "yolov8s-fall", "--img-size", "640", "--confidence", "0.3")
    assert (outcome.returncode, outcome.stderr) == (DONE, "")
    first, last = outcome.stdout.splitlines()
    assert first == "bus.jpg: 4 Normal (0.750 tokens)"
    assert last.startswith("1 image: 0.750 tokens taken, 19.250 left. Job job_")
    outcome = run("detect", "bus.jpg", "zidane.jpg", "--quote", "--yes", "--classes", "Fall")
    assert outcome.returncode == DONE
    assert "free (processed)" in outcome.stdout
    assert (
        "\nbus.jpg: nothing found (free)\nzidane.jpg: nothing found (0.600 tokens)\n2 images: 0.600 " in outcome.stdout
    )
    assert str(fresh.balance().tokens) == "18.65"


def test_formats_and_files(run: Run, photos: Path) -> None:
    """The standard output is the document and nothing else; pictures and labels never take an original's name."""
    outcome = run("detect", "bus.jpg", "zidane.jpg", "bus.jpg", "--format", "json", "--output", "boxes")
    document = json.loads(outcome.stdout)
    assert [len(image["predictions"]) for image in document["results"]] == [4, 2, 4]
    assert "3 images: 1.350 tokens taken" in outcome.stderr
    names = {path.name for path in (photos / "boxes").iterdir()}
    assert names == {"bus.detected.png", "bus.2.detected.png", "zidane.detected.png"}
    assert Image.open(photos / "boxes" / "zidane.detected.png").size == (1280, 720)
    assert json.loads(run("detect", "bus.jpg", "--format", "coco").stdout)["images"][0]["file_name"] == "bus.jpg"
    assert run("detect", "bus.jpg", "--format", "csv").stdout.count("\nbus.jpg,") == 4
    assert len(run("detect", "bus.jpg", "--format", "yolo").stdout.splitlines()) == 4
    outcome = run("detect", "bus.jpg", "zidane.jpg", "--format", "yolo")
    assert (outcome.returncode, "say with --output DIR" in outcome.stderr) == (REFUSED, True)
    assert run("detect", "bus.jpg", "zidane.jpg", "--format", "yolo", "--output", ".").stdout == ""
    assert len((photos / "zidane.txt").read_text(encoding="utf-8").splitlines()) == 2


def test_balance_models_and_usage(run: Run) -> None:
    """In a sentence or a table, and as JSON with numbers."""
    assert run("balance").stdout == "20.000 tokens can be spent; 0.000 are held.\n"
    assert json.loads(run("balance", "--json").stdout)["remaining_tokens"] == 20
    assert ["yolov8s-fall", "1.0", "ready"] in [line.split()[:3] for line in run("models").stdout.splitlines()]
    assert json.loads(run("models", "--json", key="").stdout)[0]["name"]
    run("detect", "zidane.jpg")
    usage = run("usage").stdout.splitlines()
    assert usage[-2].split()[1:] == ["yolov8s-fall", "1", "0.600"]
    assert usage[-1].split() == ["together", "1", "0.600"]
    assert json.loads(run("usage", "--json", "--start", "2026-01-01", "--end", "2026-02-01").stdout)["days"] == []


def test_refusals_are_one_sentence(run: Run, keys: dict[str, str], photos: Path) -> None:
    """What the server says, its code and the request's id; exit code 2."""
    (photos / "broken.jpg").write_bytes(b"no picture")
    (photos / "new.png").write_bytes(new_picture())
    cases = [
        (["balance"], "vm_" + "x" * 40, "[unauthorized, request "),
        (["detect", "new.png", "--img-size", "320"], keys["poor"], "/top_up. [insufficient_tokens, request "),
        (["detect", "bus.jpg", "--model", "yolov99z"], keys["rich"], "[model_not_found, request "),
        (["detect", "bus.jpg", "broken.jpg"], keys["rich"], "[image_unsupported, request "),
        (["detect", "bus.jpg", "--confidence", "0.01"], keys["rich"], "[invalid_request, request "),
    ]
    for arguments, key, words in cases:
        outcome = run(*arguments, key=key)
        assert (outcome.returncode, outcome.stdout, outcome.stderr.count("\n")) == (REFUSED, "", 1), outcome.stderr
        assert words in outcome.stderr


# On a terminal -------------------------------------------------------------------------------------


class Terminal:
    """A command on a terminal of its own, with what it shows and what is typed."""

    def __init__(self, gateway: Gateway, key: str, folder: Path, *arguments: str) -> None:
        environment = settings(gateway, key)
        pid, self._master = pty.fork()
        if pid == 0:  # the command's own process, with a Ctrl-C also where the tests run in the background
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.chdir(folder)
            os.execve(COMMAND, [COMMAND, *arguments], environment)
        self._pid = pid
        self.shown = ""

    def wait_for(self, text: str, timeout_s: float = 60) -> None:
        """Read until something is shown."""
        deadline = time.monotonic() + timeout_s
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            self.shown += os.read(self._master, 4096).decode(errors="replace")

    def type(self, text: str) -> None:
        """Type something."""
        os.write(self._master, text.encode())

    def end(self) -> int:
        """Read to the end; gives the exit code."""
        try:
            while piece := os.read(self._master, 4096):
                self.shown += piece.decode(errors="replace")
        except OSError:
            pass  # how Linux tells that nobody is at the other end any more
        os.close(self._master)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


def test_a_person_is_asked(gateway: Gateway, fresh: VisionMeter, fresh_key: str, photos: Path) -> None:
    """No runs nothing; yes runs at the price that was shown, with a progress bar."""
    for answer, left in (("n", "20.0"), ("y", "19.4")):
        terminal = Terminal(gateway, fresh_key, photos, "detect", "zidane.jpg", "--quote")
        terminal.wait_for("Run it?")
        assert "at most 0.600 tokens" in terminal.shown
        terminal.type(f"{answer}\n")
        assert terminal.end() == DONE
        assert ("Nothing was run." in terminal.shown) == (answer == "n")
        assert ("images" in terminal.shown and "/1" in terminal.shown) == (answer == "y")
        assert str(fresh.balance().tokens) == left


def test_ctrl_c_gives_back_what_had_not_started(
    gateway: Gateway, fresh: VisionMeter, fresh_key: str, tmp_path: Path
) -> None:
    """It says how many were not run, and nothing stays held."""
    for number in range(100):
        (tmp_path / f"{number}.png").write_bytes(new_picture())
    names = sorted(path.name for path in tmp_path.glob("*.png"))
    terminal = Terminal(gateway, fresh_key, tmp_path, "detect", *names, "--img-size", "320")
    terminal.wait_for("/100")
    terminal.type("\x03")
    assert terminal.end() == INTERRUPTED
    assert "of 100 images were not run and are given back. Job job_" in terminal.shown.replace("\r\n", " ")
    deadline = time.monotonic() + 30
    while fresh.balance().held_tokens and time.monotonic() < deadline:
        time.sleep(0.1)
    balance = fresh.balance()
    assert balance.held_tokens == 0
    assert 20 - 100 * PICTURE_TOKENS < balance.tokens < 20
