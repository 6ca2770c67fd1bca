"""`visionmeter calibrate`: what it prints and writes, its exit codes, and that it changes prices only when asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from core.pricing.book import current_prices
from core.services.application import Application
from gateway import cli

MEASURED, NOT_ADOPTED, NOT_MEASURED = 0, 1, 2
SMALL = ("--models", "yolov8s-fall", "--sizes", "320", "--rounds", "1", "--clock", "processor")
Run = Callable[..., Result]


@pytest.fixture
def run(app: Application, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs `visionmeter calibrate …` with the settings of the application, in its folder."""
    for name in ("data_dir", "weights_dir", "device"):
        monkeypatch.setenv(f"VISIONMETER_{name.upper()}", str(getattr(app.settings, name)))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        outcome = CliRunner().invoke(cli.app, ["calibrate", *arguments])
        assert "Traceback" not in outcome.output
        return outcome

    return run


def versions(app: Application) -> str:
    """The list in force."""
    with app.db.read() as session:
        return current_prices(session).version


def test_a_table_for_people_and_everything_as_json(run: Run, app: Application, tmp_path: Path) -> None:
    """Device, fit, margins, worst cells, verdict and hash on the terminal; progress apart; prices as they were."""
    before = versions(app)
    outcome = run(*SMALL, "--json", "all.json")
    assert outcome.exit_code == MEASURED
    document = json.loads((tmp_path / "all.json").read_text())
    lines = outcome.stdout.splitlines()
    assert lines[0].startswith("cpu, ")
    assert "4 cells, rounds: 1, seed 0, processor clock; load " in lines[1]
    (fitted,) = [line for line in lines if line.startswith("yolov8s-fall   openvino fp32")]
    assert "1.00 (1.00…1.00)" in fitted
    assert [line.split(",")[0] for line in lines if "worst cell yolov8s-fall at " in line] == [
        "in force",
        "published",
        "proposed",
    ]
    assert document["verdict"] in lines
    assert lines[-1] == f"Measured table SHA-256 {document['table_sha256']}"
    assert "round 1 of 1" in outcome.stderr
    assert versions(app) == before


def test_a_list_that_is_not_adopted(run: Run, app: Application) -> None:
    """One model of them all is no measured list: exit code 1, a sentence, and the prices as they were."""
    before = versions(app)
    outcome = run(*SMALL, "--adopt", "--force", "--note", "x")
    assert outcome.exit_code == NOT_ADOPTED
    assert "all its models were measured: yolo11l, yolo11m, " in outcome.stderr
    assert "yolov8x-seg is missing" in outcome.stderr
    assert versions(app) == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--sizes", "large"), "--sizes is numbers with commas between them, such as 320,640, not large.\n"),
        (("--sizes", "100"), "A size is one of 320, 416, 512, 640, 768, 960, 1280.\n"),
        (("--models", "yolov99"), "There is no model yolov99: choose one of yolov8s-fall, "),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(run: Run, arguments: tuple[str, ...], sentence: str) -> None:
    """Exit code 2, and nothing on the terminal but the sentence."""
    outcome = run(*arguments)
    assert outcome.exit_code == NOT_MEASURED
    assert outcome.stdout == ""
    assert outcome.stderr.startswith(sentence)


def test_without_a_database(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It makes none, and says so before it measures anything."""
    monkeypatch.setenv("VISIONMETER_DATA_DIR", str(tmp_path / "nowhere"))
    outcome = run(*SMALL)
    assert outcome.exit_code == NOT_MEASURED
    assert outcome.stderr.startswith("There is no database ")
    assert not (tmp_path / "nowhere").exists()
