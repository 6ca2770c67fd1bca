"""`visionmeter catalog`: what it prints, its exit codes, and that a running service finds what was done."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from core.config import ROOT
from core.identity.audit_log import list_events
from core.services import model_overview
from core.services.application import Application
from core.services.model_watch import ModelWatcher
from core.services.models import COMMAND
from gateway import cli
from tests.conftest import MODEL
from tests.core.services.test_calibrate import calibrated
from tests.other_weights import make_other_weights

DONE, REFUSED, NOT_TRIED = 0, 1, 2
OTHER = "yolov8s"
Run = Callable[..., Result]


@pytest.fixture
def shop(open_app: Callable[..., Application], tmp_path: Path, weights_dir: Path) -> Application:
    """A running service on a weights folder of its own."""
    folder = tmp_path / "weights"
    folder.mkdir()
    shutil.copy(weights_dir / f"{MODEL}.pt", folder)
    shutil.copy(weights_dir / f"{MODEL}.pt", folder / f"{OTHER}.pt")
    return open_app(weights_dir=folder)


@pytest.fixture
def run(shop: Application, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs `visionmeter catalog …` with the settings of the service."""
    for name in ("data_dir", "weights_dir", "device"):
        monkeypatch.setenv(f"VISIONMETER_{name.upper()}", str(getattr(shop.settings, name)))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> Result:
        outcome = CliRunner().invoke(cli.app, ["catalog", *map(str, arguments)])
        assert "Traceback" not in outcome.output
        return outcome

    return run


def test_from_adding_to_rolling_back(run: Run, shop: Application, weights_dir: Path, tmp_path: Path) -> None:
    """Each command says what it did, on one line or as JSON; the service's registry agrees, and the log names who."""
    new = tmp_path / "new.pt"
    make_other_weights(weights_dir / f"{MODEL}.pt", new, seed=5)
    added = run("add", "helmets", new, "--title", "Helmets", "--beta", "1.5")
    assert added.exit_code == DONE, added.output
    assert added.stdout.startswith("Helmets is offered as helmets at β 1.5. It finds: ")
    version = shop.registry.resolve("helmets")

    listed = json.loads(run("list", "--json").stdout)
    (line,) = [line for line in listed["models"] if line["name"] == "helmets"]
    assert (line["own"], line["beta"], line["sha256"], line["retired"]) == (True, "1.5", version.sha256, False)

    old = shop.registry.keep(shop.registry.resolve(OTHER))
    assert (
        run("canary", OTHER, new, "--percent", "5").stdout
        == f"5 % of the accounts meet {version.version} of {OTHER}.\n"
    )
    assert "canary 5 %" in next(row for row in run("list").stdout.splitlines() if row.startswith(f"{OTHER} "))
    assert f"{version.version}  " in run("versions", OTHER).stdout
    assert run("stop-canary", OTHER).stdout == f"Nobody meets the canary of {OTHER} any more.\n"
    assert run("canary", OTHER, new, "--percent", "5").exit_code == DONE
    assert run("canary", OTHER, "--percent", "50").exit_code == DONE
    assert run("promote", OTHER).stdout == f"Everybody meets {version.version} of {OTHER}.\n"
    assert shop.registry.look(OTHER).sha256 == version.sha256

    outcome = json.loads(run("roll-back", OTHER, old.version, "--json").stdout)
    assert outcome == {"name": OTHER, "sha256": old.sha256}
    assert [view["served"] for view in json.loads(run("versions", OTHER, "--json").stdout)].count(True) == 1
    assert run("replace", OTHER, new).stdout == f"{OTHER} has the weights {version.version}.\n"

    assert run("retire", MODEL).stdout == f"{MODEL} is retired.\n"
    assert shop.registry.is_retired(MODEL)
    assert run("offer", MODEL).stdout == f"{MODEL} is offered.\n"
    with shop.db.read() as session:
        events = [event for event in list_events(session, limit=100) if event.action.startswith("model.")]
    assert {event.actor for event in events} == {COMMAND}
    assert [event.action.removeprefix("model.") for event in reversed(events)] == [
        *("add", "canary", "stop_canary", "canary", "canary", "promote", "roll_back", "replace", "retire", "offer"),
    ]


def test_the_commands_of_the_documentation(run: Run, shop: Application, weights_dir: Path, tmp_path: Path) -> None:
    """Each line of deploy/README.md, in its order, with a version that there is in the place of the example's."""
    for number, name in enumerate(("helmets.pt", "better.pt", "newer.pt")):
        make_other_weights(weights_dir / f"{MODEL}.pt", tmp_path / name, seed=10 + number)
    lines = re.findall(r"^visionmeter catalog ([^#\n]+)", (ROOT / "deploy" / "README.md").read_text("utf-8"), re.M)
    assert len(lines) == 9
    watcher = ModelWatcher(shop)
    for line in lines:
        watcher.check()
        versions = shop.registry.list_versions("helmets") if "helmets" in str(shop.registry.models()) else []
        outcome = run(*line.replace("0123456789ab", versions[-1].version if versions else "").split())
        assert outcome.exit_code == DONE, (line, outcome.output)
    watcher.check()
    assert len(shop.registry.list_versions("helmets")) == 3
    assert shop.registry.is_retired("helmets")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "sentence"),
    [
        (("add", MODEL, "x.pt", "--title", "X", "--beta", "1"), REFUSED, f"There is a model {MODEL} already: "),
        (("add", "mine", "x.pt", "--title", "X", "--beta", "1"), REFUSED, "The file cannot be read: "),
        (("add", "mine", "x.pt", "--title", "X", "--beta", "dear"), NOT_TRIED, "--beta is a number such as 1.5, not "),
        (("add", "Mine", "x.pt", "--title", "X", "--beta", "1"), REFUSED, "A model's name is lower case letters, "),
        (("versions", "mine"), REFUSED, "There is no model mine: choose one of "),
        (("roll-back", OTHER, "0" * 12), REFUSED, "The weights 000000000000 of yolov8s are not here any more: "),
        (("promote", OTHER), REFUSED, "No version of yolov8s is being tried on a share: "),
        (("canary", OTHER, "--percent", "0"), REFUSED, "A share is a whole number of percent from 1 to 100."),
        (("replace", MODEL, "x.pt"), REFUSED, f"The weights of {MODEL} are registered by their SHA-256 "),
    ],
)
def test_what_is_refused_is_one_sentence(run: Run, arguments: tuple[str, ...], exit_code: int, sentence: str) -> None:
    """On the error stream, with nothing on the other."""
    outcome = run(*arguments)
    assert (outcome.exit_code, outcome.stdout) == (exit_code, "")
    assert outcome.stderr.startswith(sentence)
    assert outcome.stderr.count("\n") == 1


def test_margins_are_those_of_the_list_in_force(run: Run, shop: Application) -> None:
    """Without a calibration a hint; after one β as measured and how far the price is above; a broken report is none."""
    assert run("list").stdout.endswith("What each model earns is not known here: run visionmeter calibrate.\n")
    model_overview.keep_report(calibrated(shop), shop.settings.data_dir)
    lines = run("list").stdout.splitlines()
    assert [line.split()[-3:] for line in lines if line.startswith("yolov8l ")] == [["2.5", "5.27", "-53%"]]
    assert [line.split()[-3:] for line in lines if line.startswith("yolov8n ")] == [["0.7", "0.35", "+100%"]]
    assert lines[-1] == "Measured on cpu, 2026-11-26 10:00 UTC."
    (shop.settings.data_dir / "calibrations" / "last.json").write_text('{"table": {"cells": []}}')
    assert json.loads(run("list", "--json").stdout)["calibration"] is None
