"""The doctor finds what is really wrong, says what to do, and changes nothing."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from sqlalchemy import text

from core.config import Settings
from core.db import Database
from core.ledger import ledger
from core.services import audit
from core.services.doctor import Finding, examine
from tests.conftest import MODEL
from tests.identity_provider import identity_provider
from tests.mail_server import mail_server
from tests.redis_server import running_redis
from tests.stripe_stand_in import settings_for, stand_in


def settings(tmp_path: Path, weights_dir: Path, **changes: object) -> Settings:
    """An installation in a folder, with the embedded model."""
    values = {"data_dir": tmp_path / "data", "weights_dir": weights_dir, "device": "cpu", **changes}
    return Settings(_env_file=None, **values)


def findings(chosen: Settings, subject: str) -> list[Finding]:
    """What is said of one part."""
    return [finding for finding in examine(chosen) if finding.subject == subject]


def levels(chosen: Settings, subject: str) -> list[str]:
    """How bad it is."""
    return [finding.level for finding in findings(chosen, subject)]


def test_a_sound_deployment(db: Database, tmp_path: Path, weights_dir: Path) -> None:
    """On both databases nothing is a problem; the model is named; what is not sealed yet is a warning."""
    chosen = settings(tmp_path, weights_dir, database_url=db.url, cookie_secure=True)
    assert {finding.level for finding in examine(chosen)} == {"ok"}
    assert MODEL in findings(chosen, "models")[0].sentence
    with db.write() as session:
        account_id = ledger.open_account(session, "Ann").id
        ledger.post_top_up(session, account_id, 1, source="house:test", actor="test")
    assert levels(chosen, "ledger") == ["warning"]
    audit.seal(db)
    assert levels(chosen, "ledger") == ["ok"]


def test_before_the_first_start(tmp_path: Path, weights_dir: Path) -> None:
    """Nothing is made by looking."""
    chosen = settings(tmp_path, weights_dir)
    assert "problem" not in {finding.level for finding in examine(chosen)}
    assert list(tmp_path.iterdir()) == []


def test_another_schema(db: Database, tmp_path: Path, weights_dir: Path) -> None:
    """One that is older is brought up to date by a start; one that is newer is not ours to touch."""
    chosen = settings(tmp_path, weights_dir, database_url=db.url)
    for revision, level in (("0001", "warning"), ("9999", "problem")):
        with db.write() as session:
            session.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
        assert levels(chosen, "database") == [level]
    assert "back it up first" not in findings(chosen, "database")[0].sentence


def test_a_database_that_is_away(tmp_path: Path, weights_dir: Path) -> None:
    """A port where nobody listens, a file that is no database, an address that is none."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "text.db").write_text("this is no database" * 100)
    for url in (
        f"postgresql+psycopg://nobody@127.0.0.1:{port}/none",
        f"sqlite:///{tmp_path / 'text.db'}",
        "nonsense",
    ):
        found = findings(settings(tmp_path, weights_dir, database_url=url), "database")
        assert [finding.level for finding in found] == ["problem"], url
        assert "password" not in found[0].sentence


def test_redis(tmp_path: Path, weights_dir: Path) -> None:
    """One that answers is well; one that is gone is a warning, as the service goes on; a wrong address is a problem."""
    with running_redis() as server:
        assert levels(settings(tmp_path, weights_dir, redis_url=server.url), "redis") == ["ok"]
        server.kill()
        assert levels(settings(tmp_path, weights_dir, redis_url=server.url), "redis") == ["warning"]
    assert levels(settings(tmp_path, weights_dir, redis_url="http://127.0.0.1/"), "redis") == ["problem"]


def test_models(tmp_path: Path, weights_dir: Path) -> None:
    """Without weights nothing can run; with a damaged file it is named."""
    empty = tmp_path / "weights"
    assert levels(settings(tmp_path, empty), "models") == ["problem"]
    empty.mkdir()
    (empty / f"{MODEL}.pt").write_bytes(b"not weights")
    found = findings(settings(tmp_path, empty), "models")
    assert [finding.level for finding in found] == ["problem"]


def test_folders_and_the_disk(tmp_path: Path, weights_dir: Path) -> None:
    """A folder that is a file cannot be written; a disk that is nearly full takes no pictures."""
    (tmp_path / "file").touch()
    assert "problem" in levels(settings(tmp_path, weights_dir, data_dir=tmp_path / "file" / "data"), "folders")
    (tmp_path / "data").mkdir()
    assert levels(settings(tmp_path, weights_dir, disk_free_bytes_min=10**18), "disk") == ["problem"]


@pytest.mark.parametrize(("device", "level"), [("cpu", "ok"), ("auto", "ok"), ("mps", "problem")])
def test_the_device(tmp_path: Path, weights_dir: Path, device: str, level: str) -> None:
    """A device that is not there is a problem, not a surprise at the first picture."""
    import torch

    if torch.backends.mps.is_available():
        level = "ok"
    assert levels(settings(tmp_path, weights_dir, device=device), "device")[0] == level


def test_stripe(tmp_path: Path, weights_dir: Path) -> None:
    """A key that works, one that does not, a half set-up, and a way back without TLS; none of them is named."""
    assert levels(settings(tmp_path, weights_dir), "stripe") == ["ok"]
    with stand_in() as stripe:
        sound = settings_for(stripe, public_url="https://vision.example.com")
        assert levels(settings(tmp_path, weights_dir, **sound), "stripe") == ["ok"]
        plain = settings_for(stripe)
        assert levels(settings(tmp_path, weights_dir, **plain), "stripe") == ["ok", "warning"]
        wrong = settings(tmp_path, weights_dir, **{**sound, "stripe_secret_key": "sk_test_wrong"})
        assert levels(wrong, "stripe") == ["problem"]
        assert "sk_test" not in findings(wrong, "stripe")[0].sentence
        half = settings(tmp_path, weights_dir, **{**sound, "stripe_webhook_secret": ""})
        assert "VISIONMETER_STRIPE_WEBHOOK_SECRET" in findings(half, "stripe")[0].sentence


def test_the_identity_provider(tmp_path: Path, weights_dir: Path) -> None:
    """One that answers is fine, one that does not is a problem, one that verifies no addresses is of little use."""
    assert findings(settings(tmp_path, weights_dir), "identity provider") == []
    with identity_provider() as provider:
        chosen = settings(
            tmp_path, weights_dir, oidc_issuer=provider.url, oidc_client_id="x", public_url="https://vision.example.com"
        )
        assert levels(chosen, "identity provider") == ["ok"]
        provider.document["claims_supported"] = ["sub", "email"]
        assert levels(chosen, "identity provider") == ["ok", "warning"]
    assert levels(chosen, "identity provider") == ["problem"]


def test_mail(tmp_path: Path, weights_dir: Path) -> None:
    """No server is well; one that lets us in is; a wrong setting, a wrong password and nobody there are problems."""
    assert levels(settings(tmp_path, weights_dir), "mail") == ["ok"]
    with mail_server() as server:
        assert levels(settings(tmp_path, weights_dir, **server.settings()), "mail") == ["ok"]
        plain = server.settings(public_url="http://vision.example.com")
        assert levels(settings(tmp_path, weights_dir, **plain), "mail") == ["ok", "warning"]
        assert levels(settings(tmp_path, weights_dir, **server.settings(smtp_from="")), "mail") == ["problem"]
        account = {"smtp_user": "mailer", "smtp_password": "wrong"}
        [finding] = findings(settings(tmp_path, weights_dir, **server.settings(**account)), "mail")
        assert finding.level == "problem"
        assert "wrong" not in finding.sentence
    assert levels(settings(tmp_path, weights_dir, **server.settings()), "mail") == ["problem"]
