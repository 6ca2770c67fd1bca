"""Settings: wrong ones are named, in one sentence each."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from core.config import ROOT, Settings, load_settings
from core.db import Database
from core.errors import ConfigError


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No `.env` of a developer is read."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DEVICE", "quantum"),
        ("WELCOME_TOKENS", "-1"),
        ("WELCOME_TOKENS", "0.0001"),
        ("WELCOME_TOKENS", "many"),
        ("PRICE_PER_TOKEN", "0"),
        ("CURRENCY_SYMBOL", ""),
        ("QUOTE_TTL_S", "29"),
        ("HOLD_LEASE_S", "4"),
        ("SWEEP_INTERVAL_S", "0"),
        ("IMAGE_BYTES_MAX", "999"),
        ("BATCH_IMAGES_MAX", "0"),
        ("ENGINE_QUEUE_MAX", "0"),
        ("RUNNER_THREADS", "1.5"),
        ("COOKIE_SECURE", "perhaps"),
        ("LOG_LEVEL", "LOUD"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """The message names the variable as it is set, once, on one line."""
    monkeypatch.setenv(f"VISIONMETER_{name}", value)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert caught.value.message.count("VISIONMETER_") == 1
    assert f"VISIONMETER_{name}: " in caught.value.message
    assert "\n" not in caught.value.message


def test_all_wrong_settings_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two wrong settings give two sentences, not one after the other."""
    monkeypatch.setenv("VISIONMETER_DEVICE", "quantum")
    monkeypatch.setenv("VISIONMETER_HOLD_LEASE_S", "1")
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert "VISIONMETER_DEVICE" in caught.value.message
    assert "VISIONMETER_HOLD_LEASE_S" in caught.value.message


def test_defaults_are_those_of_one_laptop() -> None:
    """Nothing set: SQLite beside the code, 20 welcome tokens, ¥0.01 a token."""
    settings = load_settings()
    assert settings.sqlalchemy_url == f"sqlite:///{ROOT / 'data' / 'visionmeter.db'}"
    assert (settings.welcome_tokens, settings.price_per_token) == (Decimal(20), Decimal("0.01"))


def test_relative_folders_are_those_of_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative folder does not depend on where the server was started from."""
    monkeypatch.setenv("VISIONMETER_DATA_DIR", "elsewhere")
    assert load_settings().data_dir == ROOT / "elsewhere"


def test_settings_cannot_be_changed_at_run_time() -> None:
    """A setting is read once."""
    with pytest.raises(ValueError, match="frozen"):
        Settings(_env_file=None).welcome_tokens = Decimal(5)


@pytest.mark.parametrize("url", ["no url", "mongodb://localhost/x"])
def test_wrong_database_url(url: str) -> None:
    """A URL that SQLAlchemy cannot use is a sentence about the setting, not a traceback."""
    with pytest.raises(ConfigError, match="VISIONMETER_DATABASE_URL"):
        Database(url)


@pytest.mark.parametrize(
    ("named", "values"),
    [
        ("OIDC_ISSUER", {"OIDC_ISSUER": "http://login.example.com"}),
        ("OIDC_ISSUER", {"OIDC_ISSUER": "login.example.com"}),
        ("PUBLIC_URL", {"OIDC_ISSUER": "https://login.example.com", "PUBLIC_URL": "javascript:alert(1)"}),
        ("OIDC_CLIENT_ID", {"OIDC_ISSUER": "https://login.example.com", "PUBLIC_URL": "https://vision.example.com"}),
        ("PUBLIC_URL", {"OIDC_ISSUER": "https://login.example.com", "OIDC_CLIENT_ID": "visionmeter"}),
        ("OIDC_CLIENT_SECRET_FILE", {"OIDC_CLIENT_SECRET_FILE": "/nowhere/secret"}),
    ],
)
def test_half_an_identity_provider(monkeypatch: pytest.MonkeyPatch, named: str, values: dict[str, str]) -> None:
    """An issuer without TLS, or with something missing, is named at the start."""
    for name, value in values.items():
        monkeypatch.setenv(f"VISIONMETER_{name}", value)
    with pytest.raises(ConfigError, match=f"VISIONMETER_{named}"):
        load_settings()


def test_the_secret_of_a_file(tmp_path: Path) -> None:
    """It is read from the file, and never among what settings show of themselves."""
    (tmp_path / "secret").write_text("of-the-file\n")
    read = Settings(_env_file=None, oidc_client_secret_file=str(tmp_path / "secret"))
    assert read.oidc_client_secret.get_secret_value() == "of-the-file"
    assert "of-the-file" not in repr(read)
