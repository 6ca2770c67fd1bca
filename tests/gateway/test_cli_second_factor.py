"""The key of second factors in `visionmeter backup`, `restore` and `doctor`; and `visionmeter reset-second-factor`."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from core import seed_key
from core.config import Settings, load_settings
from core.db import Database
from core.errors import ConfigError
from core.identity import second_factors, users
from core.identity.tables import SecondFactor
from core.ledger import ledger
from tests.gateway.test_cli_backup import DONE, NOTHING_DONE, Run, here, run

__all__ = ["here", "run"]
ANN = "ann@example.com"


@pytest.fixture
def settings(here: Database, tmp_path: Path) -> Settings:
    """The installation in the folder `here`, where Ann has a second factor and Bob has none."""
    settings = Settings(_env_file=None, data_dir=tmp_path / "here")
    key = seed_key.make_key(settings)
    with here.write() as session:
        account_id = ledger.open_account(session, "Bob").id
        for email in (ANN, "bob@example.com"):
            user = users.add_user(session, account_id=account_id, email=email, password_digest="", role="owner")
            if email == ANN:
                sealed = key.seal(second_factors.make_seed(), bound_to=user.id)
                second_factors.add(
                    session, SecondFactor(user_id=user.id, sealed_seed=sealed, key_id=key.id, last_step=0)
                )
    return settings


def test_a_back_up_has_no_key_and_says_so(run: Run, settings: Settings, tmp_path: Path) -> None:
    """`backup` names the file to keep, `restore` the file to bring; the doctor until it was brought."""
    written = run("here", "backup", "kept.tar")
    kept = seed_key.key_file(settings)
    assert kept is not None
    assert (written.exit_code, str(kept) in written.output) == (DONE, True), written.output
    assert kept.read_bytes().strip() not in Path("kept.tar").read_bytes()
    restored = run("there", "restore", "kept.tar")
    brought = tmp_path / "there" / seed_key.FILE_NAME
    assert (restored.exit_code, f"bring {brought}" in restored.output) == (DONE, True), restored.output
    assert doctor(run)["level"] == "problem"
    brought.write_bytes(kept.read_bytes())
    brought.chmod(0o644)
    assert doctor(run)["level"] == "ok"
    assert "chmod 600" in run("there", "doctor").output


def doctor(run: Run) -> dict[str, str]:
    """What the doctor says first of the key in the folder `there`."""
    found = json.loads(run("there", "doctor", "--json").stdout)
    return next(one for one in found if one["subject"] == "sign-in")


def test_a_back_up_before_the_migration(run: Run, here: Database) -> None:
    """A database that has no such table yet is backed up as ever."""
    with here.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE second_factor")
    assert run("here", "backup", "kept.tar").exit_code == DONE


def test_reset(run: Run, settings: Settings) -> None:
    """By address; a second time, for Bob, and for nobody, nothing is done, and it is said."""
    done = run("here", "reset-second-factor", f" {ANN.upper()} ")
    assert (done.exit_code, "password alone" in done.output) == (DONE, True), done.output
    for email in (ANN, "bob@example.com", "nobody@example.com"):
        refused = run("here", "reset-second-factor", email)
        assert (refused.exit_code, f"as {email} with" in refused.output) == (NOTHING_DONE, True)


@pytest.mark.parametrize("text", ["short", "c2hvcnQ=", "é" * 44])
def test_a_setting_that_is_no_key(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It stops the start with a sentence that does not repeat it, given itself or in a file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VISIONMETER_SECOND_FACTOR_KEY", text)
    with pytest.raises(ConfigError, match="openssl rand -base64 32") as refused:
        load_settings()
    assert text not in refused.value.message
    monkeypatch.delenv("VISIONMETER_SECOND_FACTOR_KEY")
    Path("key").write_text(text, "utf-8")
    monkeypatch.setenv("VISIONMETER_SECOND_FACTOR_KEY_FILE", "key")
    with pytest.raises(ConfigError, match="openssl rand -base64 32"):
        load_settings()


def test_a_key_from_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Given itself or in a file it is the same key, in either alphabet of base64; no file is needed."""
    monkeypatch.chdir(tmp_path)
    data = b"\xfb\xff" * 16
    Path("key").write_bytes(base64.b64encode(data) + b"\n")
    found = []
    for name, text in (
        ("VISIONMETER_SECOND_FACTOR_KEY", base64.urlsafe_b64encode(data).decode()),
        ("VISIONMETER_SECOND_FACTOR_KEY", base64.b64encode(data).decode()),
        ("VISIONMETER_SECOND_FACTOR_KEY_FILE", "key"),
    ):
        monkeypatch.setenv(name, text)
        settings = load_settings()
        found.append(seed_key.read_key(settings))
        assert seed_key.key_file(settings) is None
        monkeypatch.delenv(name)
    assert found == [seed_key.SeedKey(data)] * 3
    assert repr(data) not in repr(found)
