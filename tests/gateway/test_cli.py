"""The operator's command line: what it says, its exit codes, and that it never makes or spoils a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner, Result

from core.config import ROOT
from core.db import Database
from core.ledger import ledger
from core.services import audit
from gateway import cli, cli_database
from tests.core.ledger.tampering import allow_changes

AGREES, DISAGREES, NOT_CHECKED = 0, 1, 2
Run = Callable[..., Result]


@pytest.fixture
def account_id(db: Database) -> str:
    """An account with three sealed entries and one that is not."""
    with db.write() as session:
        account_id = ledger.open_account(session, "Ann").id
        ledger.post_top_up(session, account_id, 10_000, source="house:test", actor="test")
        hold = ledger.place_hold(session, account_id, 1000, charge_key="a", lease_s=60, actor="test")
        ledger.capture_hold(session, hold.id, 600, actor="test")
    audit.seal(db)
    top_up(db, account_id)
    return account_id


@pytest.fixture
def run(db: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs `visionmeter ledger …` on the database, in an empty folder."""
    monkeypatch.setenv("VISIONMETER_DATABASE_URL", db.url)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> Result:
        outcome = CliRunner().invoke(cli.app, ["ledger", *map(str, arguments)])
        assert "Traceback" not in outcome.output
        return outcome

    return run


def top_up(db: Database, account_id: str) -> None:
    """One more entry."""
    with db.write() as session:
        ledger.post_top_up(session, account_id, 1, source="house:test", actor="test")


def forge(db: Database, *statements: str) -> None:
    """Change the database behind the ledger's back."""
    with db.write() as session:
        allow_changes(session.connection())
        for statement in statements:
            session.connection().execute(text(statement))


# verify -------------------------------------------------------------------------------------------


def test_verify_agrees(run: Run, account_id: str) -> None:
    """One line with the counts, nothing on the error stream, exit code 0."""
    outcome = run("verify")
    assert outcome.exit_code == AGREES
    assert outcome.stdout == "1 account, 4 entries (1 not sealed yet), 0 heads: everything agrees.\n"
    assert outcome.stderr == ""


def test_verify_names_the_first_wrong_row(run: Run, db: Database, account_id: str) -> None:
    """Account, entry and code of the first wrong row of each account, exit code 1."""
    with db.write() as session:
        bob = ledger.open_account(session, "Bob").id
    forge(db, "UPDATE entry SET memo = 'x' WHERE seq IN (2, 3)", "UPDATE account SET version = 7 WHERE name = 'Bob'")
    outcome = run("verify")
    assert outcome.exit_code == DISAGREES
    lines = outcome.stdout.splitlines()
    assert f"{account_id}: entry 2 is not the one that was sealed [seal]" in lines
    assert next(line for line in lines if line.startswith(bob)).endswith("[stored_balance]")
    assert lines[-1] == "2 accounts, 4 entries (1 not sealed yet), 0 heads: THE LEDGER DISAGREES."
    assert len(lines) == 3
    assert run("verify", "--account", account_id).stdout.count("\n") == 2


def test_verify_as_json(run: Run, db: Database, account_id: str) -> None:
    """For programs: the counts and every problem with its code, account and entry; the exit codes stay."""
    outcome = run("verify", "--json")
    assert outcome.exit_code == AGREES
    assert json.loads(outcome.stdout) == {
        "ok": True,
        "accounts": 1,
        "entries": 4,
        "unsealed": 1,
        "ledger_sum_mt": 0,
        "problems": [],
        "heads": 0,
    }
    forge(db, "DELETE FROM entry WHERE seq = 2")
    outcome = run("verify", "--json")
    assert outcome.exit_code == DISAGREES
    document = json.loads(outcome.stdout)
    (problem,) = document["problems"]
    assert (document["ok"], problem["code"], problem["account_id"], problem["seq"]) == (False, "gap", account_id, 2)


def test_verify_against_heads(run: Run, db: Database, account_id: str, tmp_path: Path) -> None:
    """A head that was kept finds what was cut off without a trace; several files are all looked at."""
    kept, newer = tmp_path / "kept.json", tmp_path / "newer.json"
    assert run("head", "--output", kept).exit_code == AGREES
    top_up(db, account_id)
    assert run("head", "--output", newer).exit_code == AGREES
    outcome = run("verify", "--head", kept, "--head", newer)
    assert (outcome.exit_code, "2 heads" in outcome.stdout) == (AGREES, True)
    forge(
        db,
        "DELETE FROM entry WHERE seq = 5",
        "DELETE FROM seal WHERE seq = 5",
        "UPDATE account SET version = 4, posted_mt = posted_mt - 1",
    )
    assert run("verify").exit_code == AGREES
    assert run("verify", "--head", kept).exit_code == AGREES
    for arguments in (["--head", newer], ["--head", newer, "--head", kept], ["--head", newer, "--account", account_id]):
        outcome = run("verify", *arguments)
        assert outcome.exit_code == DISAGREES
        assert f"{account_id}: entry 5 is covered by a head and is not there [truncated]" in outcome.stdout


def test_verify_finds_a_deleted_account(run: Run, db: Database, account_id: str, tmp_path: Path) -> None:
    """Without the head there is no such account to check; with it, it is missed."""
    run("head", "--output", tmp_path / "kept.json")
    forge(db, *(f"DELETE FROM {table}" for table in ("seal", "entry", "hold", "account")))
    outcome = run("verify", "--account", account_id)
    assert (outcome.exit_code, outcome.stderr) == (NOT_CHECKED, f"There is no account {account_id}.\n")
    for arguments in ([], ["--account", account_id]):
        outcome = run("verify", "--head", tmp_path / "kept.json", *arguments)
        assert (outcome.exit_code, "[account_missing]" in outcome.stdout) == (DISAGREES, True)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read: No such file or directory."),
        (b"{}", "is no exported head of a ledger: give the file as `visionmeter ledger head` wrote it."),
        (b"\xff\xfe", "is no exported head of a ledger: give the file as `visionmeter ledger head` wrote it."),
    ],
)
def test_an_unreadable_head_is_one_sentence(
    run: Run, account_id: str, tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    """Exit code 2, on the error stream, and nothing that could be taken for an outcome."""
    kept = tmp_path / "kept.json"
    if content is not None:
        kept.write_bytes(content)
    outcome = run("verify", "--head", kept)
    assert (outcome.exit_code, outcome.stdout, outcome.stderr) == (NOT_CHECKED, "", f"{kept} {sentence}\n")


def test_a_head_of_others_checks_nothing(run: Run, db: Database, account_id: str, tmp_path: Path) -> None:
    """A file that does not cover the account would prove nothing, so it is refused."""
    with db.write() as session:
        bob = ledger.open_account(session, "Bob").id
    run("head", "--output", tmp_path / "kept.json")
    outcome = run("verify", "--account", bob, "--head", tmp_path / "kept.json")
    assert outcome.exit_code == NOT_CHECKED
    assert f"does not cover the account {bob}" in outcome.stderr


# head ---------------------------------------------------------------------------------------------


def test_head_seals_and_prints(run: Run, db: Database, account_id: str) -> None:
    """Without a file the document is the whole output; it covers the newest entry."""
    outcome = run("head")
    assert outcome.exit_code == AGREES
    (head,) = audit.read_heads(outcome.stdout)
    assert (head.account_id, head.seq) == (account_id, 4)
    assert run("head", "--account", account_id).exit_code == AGREES
    outcome = run("head", "--account", "acct_none")
    assert (outcome.exit_code, outcome.stdout) == (NOT_CHECKED, "")


def test_head_replaces_one_that_it_extends(run: Run, db: Database, account_id: str, tmp_path: Path) -> None:
    """The same file day after day: the newer head takes the place of the older, and nothing is left beside it."""
    kept = tmp_path / "kept.json"
    for seq in (4, 5, 6):
        outcome = run("head", "--output", kept)
        assert (outcome.exit_code, outcome.stdout) == (AGREES, f"Wrote the heads of 1 account to {kept}.\n")
        assert [head.seq for head in audit.read_heads(kept.read_text(encoding="utf-8"))] == [seq]
        top_up(db, account_id)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["kept.json"]


@pytest.mark.parametrize(
    "statements",
    [
        [
            "DELETE FROM entry WHERE seq = 4",
            "DELETE FROM seal WHERE seq = 4",
            "UPDATE account SET version = 3, posted_mt = posted_mt - 1",
        ],
        ["UPDATE entry SET memo = 'x' WHERE seq = 4", "DELETE FROM seal WHERE seq = 4"],
        ["UPDATE entry SET memo = 'x' WHERE seq = 2"],
        ["UPDATE account SET posted_mt = posted_mt + 1"],
    ],
    ids=["cut off", "rewritten", "edited", "balance"],
)
def test_head_keeps_one_that_convicts(
    run: Run, db: Database, account_id: str, tmp_path: Path, statements: list[str]
) -> None:
    """The proof is not overwritten by a ledger that disagrees with it, unless the operator insists."""
    kept = tmp_path / "kept.json"
    run("head", "--output", kept)
    before = kept.read_bytes()
    os.utime(kept, (0, 0))
    forge(db, *statements)
    outcome = run("head", "--output", kept)
    assert outcome.exit_code == DISAGREES
    assert "was left as it is" in outcome.stderr
    assert account_id in outcome.stderr
    assert (outcome.stdout, kept.read_bytes()) == ("", before)
    assert run("head", "--output", kept, "--force").exit_code == AGREES
    assert kept.stat().st_mtime > 0


def test_head_overwrites_nothing_else(run: Run, db: Database, account_id: str, tmp_path: Path) -> None:
    """A file that is no head, a head that covers more accounts, and a folder are left alone."""
    with db.write() as session:
        bob = ledger.open_account(session, "Bob").id
    top_up(db, bob)
    other, kept = tmp_path / "notes.txt", tmp_path / "kept.json"
    other.write_text("notes", encoding="utf-8")
    run("head", "--output", kept)
    before = kept.read_bytes()
    for arguments in (["--output", other], ["--output", kept, "--account", bob], ["--output", tmp_path]):
        outcome = run("head", *arguments)
        assert (outcome.exit_code, outcome.stdout, outcome.stderr.count("\n")) == (NOT_CHECKED, "", 1)
    outcome = run("head", "--output", tmp_path / "missing" / "kept.json")
    assert (outcome.exit_code, "cannot be written" in outcome.stderr) == (NOT_CHECKED, True)
    assert (other.read_text(encoding="utf-8"), kept.read_bytes()) == ("notes", before)


def test_head_through_a_link(run: Run, account_id: str, tmp_path: Path) -> None:
    """A link to where the heads are kept stays a link."""
    (tmp_path / "safe").mkdir()
    link, target = tmp_path / "kept.json", tmp_path / "safe" / "kept.json"
    link.symlink_to(target)
    assert run("head", "--output", link).exit_code == AGREES
    assert link.is_symlink()
    assert len(audit.read_heads(target.read_text(encoding="utf-8"))) == 1


# seal, and what keeps a command from working ------------------------------------------------------


def test_seal(run: Run, account_id: str) -> None:
    """It tells how many entries it sealed."""
    assert [run("seal").stdout for _ in range(2)] == ["Sealed 1 entry.\n", "Sealed 0 entries.\n"]


COMMANDS = [["verify"], ["head"], ["seal"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_database_is_made(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SQLite file that is not there is an error, and is not there afterwards either."""
    monkeypatch.setenv("VISIONMETER_DATA_DIR", str(tmp_path / "data"))
    outcome = CliRunner().invoke(cli.app, ["ledger", *command])
    assert (outcome.exit_code, outcome.stdout) == (NOT_CHECKED, "")
    assert f"There is no database {tmp_path / 'data' / 'visionmeter.db'}" in outcome.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_nothing_is_migrated(
    empty_database_url: str, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database without a ledger is an error with the next step, and gets no table."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "visionmeter.db").touch()
    monkeypatch.setenv("VISIONMETER_DATABASE_URL", empty_database_url)
    outcome = CliRunner().invoke(cli.app, ["ledger", *command])
    assert (outcome.exit_code, outcome.stdout) == (NOT_CHECKED, "")
    assert "start VisionMeter once" in outcome.stderr
    db = Database(empty_database_url)
    with db.read() as session:
        query = (
            "sqlite_master" if db.engine.dialect.name == "sqlite" else "pg_tables WHERE schemaname = current_schema()"
        )
        assert session.connection().execute(text(f"SELECT count(*) FROM {query}")).scalar_one() == 0
    db.close()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("no url", "VISIONMETER_DATABASE_URL is no SQLAlchemy database URL."),
        ("postgresql+psycopg://ann:hunter2@127.0.0.1:1/x", "The database cannot be read: connection failed"),
        ("mysql+missing_driver://ann:hunter2@127.0.0.1:1/x", "VISIONMETER_DATABASE_URL is no SQLAlchemy database URL."),
        ("oracle+oracledb://ann:hunter2@127.0.0.1:1/x", "The driver of this database is not installed (oracledb)"),
        (f"sqlite:///{ROOT / 'README.md'}", "The database cannot be read: file is not a database"),
    ],
)
def test_a_database_that_cannot_be_read_is_one_sentence(
    url: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2, one line, and never the password."""
    monkeypatch.setenv("VISIONMETER_DATABASE_URL", url)
    outcome = CliRunner().invoke(cli.app, ["ledger", "verify"])
    assert (outcome.exit_code, outcome.stdout, outcome.stderr.count("\n")) == (NOT_CHECKED, "", 1)
    assert outcome.stderr.startswith(sentence)
    assert "hunter2" not in outcome.output


@pytest.mark.parametrize("arguments", [["foo"], ["verify", "--nonsense"], ["verify", "extra"], ["head", "--output"]])
def test_usage(run: Run, arguments: list[str]) -> None:
    """A wrong command line is exit code 2 as well."""
    assert run(*arguments).exit_code == NOT_CHECKED


def test_a_wrong_setting_is_one_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are checked as at start, and the wrong one is named."""
    monkeypatch.setenv("VISIONMETER_HOLD_LEASE_S", "soon")
    outcome = run("verify")
    assert (outcome.exit_code, "VISIONMETER_HOLD_LEASE_S" in outcome.stderr) == (NOT_CHECKED, True)


def test_a_fault_of_the_program_is_not_one_of_the_ledger(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unexpected exception shows where it came from, and does not exit with the code of a disagreement."""

    def fail() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(cli_database, "load_settings", fail)
    monkeypatch.setattr(sys, "argv", ["visionmeter", "ledger", "verify"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == NOT_CHECKED
    assert "RuntimeError: a bug" in capsys.readouterr().err


# As it is installed -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["command", "module"])
def test_the_installed_command(db: Database, account_id: str, how: str, tmp_path: Path) -> None:
    """`.venv/bin/visionmeter`, from any folder, and `python -m gateway.cli` do the same."""
    command = (
        [str(Path(sys.executable).with_name("visionmeter"))]
        if how == "command"
        else [sys.executable, "-m", "gateway.cli"]
    )
    folder = tmp_path if how == "command" else ROOT
    environment = {"VISIONMETER_DATABASE_URL": db.url, "PATH": ""}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, "ledger", *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    outcome = run("verify")
    assert (outcome.returncode, outcome.stderr) == (AGREES, "")
    assert "1 account, 4 entries" in outcome.stdout
    forge(db, "UPDATE entry SET actor = 'x' WHERE seq = 3")
    outcome = run("verify")
    assert (outcome.returncode, "entry 3 is not the one that was sealed" in outcome.stdout) == (DISAGREES, True)
    assert run("verify", "--head", "none.json").returncode == NOT_CHECKED


def test_it_starts_without_what_it_does_not_need() -> None:
    """No torch, no web framework, no migrations: a command that cron runs starts at once."""
    heavy = ("torch", "cv2", "numpy", "pandas", "streamlit", "fastapi", "alembic")
    command = f"import sys, gateway.cli; print([name for name in {heavy!r} if name in sys.modules])"
    outcome = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == "[]"
