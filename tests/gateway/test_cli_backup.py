"""`visionmeter backup`, `restore` and `doctor`: what they say, their exit codes, and that they spoil nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner, Result

from core.config import Settings
from core.db import Database
from core.ledger import ledger
from gateway import cli

DONE, DISAGREES, NOTHING_DONE = 0, 1, 2
Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs `visionmeter …` in an empty folder, with the installation in a folder of a name."""
    monkeypatch.chdir(tmp_path)

    def run(folder: str, *arguments: str) -> Result:
        monkeypatch.setenv("VISIONMETER_DATA_DIR", str(tmp_path / folder))
        monkeypatch.setenv("VISIONMETER_WEIGHTS_DIR", str(tmp_path / folder / "weights"))
        outcome = CliRunner().invoke(cli.app, arguments)
        assert "Traceback" not in outcome.output
        assert outcome.exception is None or isinstance(outcome.exception, SystemExit)
        return outcome

    return run


@pytest.fixture
def here(run: Run, tmp_path: Path) -> Database:
    """A ledger with one entry, in the folder `here`."""
    db = Database(Settings(_env_file=None, data_dir=tmp_path / "here").sqlalchemy_url)
    db.migrate()
    with db.write() as session:
        account_id = ledger.open_account(session, "Ann").id
        ledger.post_top_up(session, account_id, 10_000, source="house:test", actor="test")
    return db


def test_there_and_back(run: Run, here: Database) -> None:
    """Both say how much it is and that the ledger agrees; a second time neither touches what is there."""
    written = run("here", "backup", "kept.tar")
    assert written.exit_code == DONE, written.output
    assert "Wrote kept.tar: 1 files" in written.output
    assert "The ledger of 1 accounts agrees, 1 entries." in written.output
    again = run("here", "backup", "kept.tar")
    assert (again.exit_code, "is there already" in again.output) == (NOTHING_DONE, True)
    restored = run("there", "restore", "kept.tar")
    assert restored.exit_code == DONE, restored.output
    assert "The ledger of 1 accounts agrees, 1 entries." in restored.output
    again = run("there", "restore", "kept.tar")
    assert (again.exit_code, "already" in again.output) == (NOTHING_DONE, True)


def test_a_ledger_that_disagrees(run: Run, here: Database) -> None:
    """Exit code 1, the problem named, and the file written all the same: it may be the last there is."""
    with here.write() as session:
        session.execute(text("UPDATE account SET posted_mt = posted_mt + 1"))
    for folder, command in (("here", "backup"), ("there", "restore")):
        outcome = run(folder, command, "kept.tar")
        assert outcome.exit_code == DISAGREES, outcome.output
        assert "[" in outcome.output
    assert Path("kept.tar").is_file()


@pytest.mark.parametrize("name", ["missing.tar", "no-folder/kept.tar", "empty.tar", "text.tar"])
def test_no_back_up(run: Run, here: Database, name: str) -> None:
    """What cannot be read is said in a sentence, and no installation is made."""
    Path("empty.tar").touch()
    Path("text.tar").write_text("hello " * 1000)
    outcome = run("there", "restore", name)
    assert outcome.exit_code == NOTHING_DONE, outcome.output
    assert len(outcome.output.splitlines()) == 1
    assert not Path("there", "visionmeter.db").exists()


def test_nothing_to_back_up(run: Run) -> None:
    """An installation that is not there is not made, and no file is left."""
    outcome = run("nowhere", "backup", "kept.tar")
    assert outcome.exit_code == NOTHING_DONE
    assert not Path("kept.tar").exists()
    assert not Path("nowhere").exists()


def test_the_doctor(run: Run, here: Database) -> None:
    """`visionmeter doctor`: without a model 1, the problem named, as text and as JSON; wrong settings 2."""
    outcome = run("here", "doctor")
    assert outcome.exit_code == DISAGREES, outcome.output
    assert "PROBLEM  models    No model has its weights here" in outcome.output
    found = json.loads(run("here", "doctor", "--json").output)
    assert {"subject", "level", "sentence"} == set(found[0])
    assert [one["level"] for one in found if one["subject"] == "models"] == ["problem"]


def test_the_doctor_needs_settings(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that is none is named in a sentence."""
    monkeypatch.setenv("VISIONMETER_QUOTE_TTL_S", "soon")
    outcome = run("here", "doctor")
    assert (outcome.exit_code, "VISIONMETER_QUOTE_TTL_S" in outcome.output) == (NOTHING_DONE, True)


def test_a_folder_that_is_not_there(run: Run, here: Database) -> None:
    """Where it cannot be written is said."""
    outcome = run("here", "backup", "no-folder/kept.tar")
    assert (outcome.exit_code, "No back-up was made" in outcome.output) == (NOTHING_DONE, True), outcome.output
