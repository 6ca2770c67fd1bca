"""`visionmeter reset-password`: what it prints, and that the link works."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from core import errors
from core.services import password_reset, sign_in
from gateway import cli
from tests.conftest import PASSWORD, OpenApp

NEW = "violet harbour kettle moss"


@pytest.mark.parametrize("public_url", ["https://vision.example.com/", ""])
def test_a_link_to_hand_over(
    public_url: str, open_app: OpenApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a mail server, the operator prints a link; its secret is not in the database, and it works once."""
    app = open_app()
    sign_in.sign_up(app, "ann@example.com", PASSWORD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VISIONMETER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("VISIONMETER_PUBLIC_URL", public_url)
    outcome = CliRunner().invoke(cli.app, ["reset-password", "Ann@Example.com"])
    assert outcome.exit_code == 0, outcome.output
    link = outcome.stdout.strip()
    assert link.startswith(f"{public_url.rstrip('/')}/?reset=")
    assert ("VISIONMETER_PUBLIC_URL" in outcome.stderr) is not bool(public_url)
    secret = link.partition("=")[2]
    with app.db.read() as session:
        assert secret not in repr(session.connection().execute(text("SELECT * FROM email_link")).all())
    password_reset.set_password(app, secret, NEW)
    sign_in.sign_in(app, "ann@example.com", NEW)
    with pytest.raises(errors.EmailLinkError):
        password_reset.set_password(app, secret, PASSWORD)


def test_nobody_of_that_name(open_app: OpenApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown address is an error without a link."""
    open_app()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VISIONMETER_DATA_DIR", str(tmp_path / "data"))
    for email in ("eve@example.com", "not an address"):
        outcome = CliRunner().invoke(cli.app, ["reset-password", email])
        assert (outcome.exit_code, outcome.stdout) == (1, "")
