"""The command `visionmeter` before it has a server: usage, settings, and the commands of other packages."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result
from visionmeter_client import cli
from visionmeter_client.cli import extensions

from tests.clients.calling import KEY

DONE, REFUSED = 0, 2
NOWHERE = "http://127.0.0.1:1"


def run(*arguments: str, **environment: str) -> Result:
    """Runs `visionmeter …` in this process, with no settings but those given."""
    settings = {"VISIONMETER_HOST": None, "VISIONMETER_API_KEY": None, **environment}
    outcome = CliRunner().invoke(cli.app, arguments, env=settings)
    assert "Traceback" not in outcome.output
    assert KEY not in outcome.output
    return outcome


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        (["balance"], {}, "Say where VisionMeter is"),
        (["balance", "--host", NOWHERE], {}, "Give an API key"),
        (["balance"], {"VISIONMETER_HOST": NOWHERE}, "Give an API key"),
        (["balance", "--host", "example.com", "--key", KEY], {}, "The host is an address such as"),
        (["balance", "--host", "http://example.com", "--key", KEY], {}, "or say --allow-http on a network you trust"),
        (["models", "--host", "nowhere"], {}, "The host is an address such as"),
        (["detect", "no such.jpg", "--host", NOWHERE, "--key", KEY], {}, "There is no file no such.jpg."),
        (["detect", ".", "--host", NOWHERE, "--key", KEY], {}, "There is no file ."),
    ],
)
def test_what_is_missing_is_one_sentence(arguments: list[str], environment: dict[str, str], sentence: str) -> None:
    """Exit code 2, one line on the error stream, nothing sent and the key not repeated."""
    outcome = run(*arguments, **environment)
    assert (outcome.exit_code, outcome.stdout, outcome.stderr.count("\n")) == (REFUSED, "", 1)
    assert sentence in outcome.stderr


@pytest.mark.parametrize(
    "arguments",
    [["foo"], ["balance", "--nonsense"], ["detect"], ["detect", "a.jpg", "--format", "xml"], ["usage", "--start", "x"]],
)
def test_usage(arguments: list[str]) -> None:
    """A wrong command line is exit code 2 as well."""
    assert run(*arguments).exit_code == REFUSED


def test_help_names_every_command() -> None:
    """Its own and the server's, which is installed here; the help shows no key of the environment."""
    outcome = run("--help")
    assert outcome.exit_code == DONE
    for name in ("detect", "balance", "models", "usage", "ledger"):
        assert f"\n  {name} " in outcome.stdout
    assert KEY not in run("detect", "--help", VISIONMETER_API_KEY=KEY).stdout


def test_a_host_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its tries; what cannot be reached is named."""
    monkeypatch.setattr("visionmeter_client.client.time.sleep", lambda _seconds: None)
    outcome = run("balance", VISIONMETER_HOST=NOWHERE, VISIONMETER_API_KEY=KEY)
    assert outcome.exit_code == REFUSED
    assert outcome.stderr.startswith(f"{NOWHERE} cannot be reached: ")


# Commands of other packages ------------------------------------------------------------------------

extra = typer.Typer(help="Of another package.")


@extra.command()
def disagree() -> None:
    """Ends with a code of its own."""
    raise typer.Exit(1)


@extra.command()
def break_down() -> None:
    """Ends with a bug."""
    raise RuntimeError("a bug")


alone = typer.Typer(add_completion=False)


@alone.command("measure")
def measure(times: int = 1) -> None:
    """A package with one command."""
    typer.echo("measured " * times)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two packages with commands, one of which cannot be imported, and one that takes a name of ours."""

    def installed(*, group: str) -> list[EntryPoint]:
        values = {
            "extra": f"{__name__}:extra",
            "alone": f"{__name__}:alone",
            "lost": "no_such_package:app",
            "balance": f"{__name__}:extra",
        }
        return [EntryPoint(name, value, group) for name, value in values.items()]

    monkeypatch.setattr(extensions, "entry_points", installed)


@pytest.mark.usefixtures("installed")
def test_commands_of_other_packages() -> None:
    """They are called with their own exit codes, and cannot take the name of the client's commands."""
    assert run("extra", "disagree").exit_code == 1
    assert "Give an API key" in run("balance", "--host", NOWHERE).stderr
    assert run("--help").stdout.count("Of another package.") == 1


@pytest.mark.usefixtures("installed")
def test_a_single_command_goes_by_the_name_of_its_entry_point() -> None:
    """Its options come right after that name, and it stands in the help."""
    outcome = run("alone", "--times", "2")
    assert (outcome.exit_code, outcome.stdout) == (0, "measured measured \n")
    assert "COMMAND" not in run("alone", "--help").stdout
    assert "A package with one command." in run("--help").stdout


@pytest.mark.usefixtures("installed")
def test_a_package_that_cannot_be_loaded_is_one_sentence() -> None:
    """Also with options that nobody knows then; all other commands and the help go on working."""
    for arguments in (["lost"], ["lost", "verify", "--json"]):
        outcome = run(*arguments)
        assert (outcome.exit_code, outcome.stdout) == (REFUSED, "")
        assert outcome.stderr == "The command lost cannot be loaded: No module named 'no_such_package'.\n"
    assert "lost" in run("--help").stdout


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("arguments", "code"), [(["extra", "disagree"], 1), (["extra", "break-down"], REFUSED)])
def test_a_fault_of_the_program_is_no_outcome(
    arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unexpected exception shows where it came from and ends in 2; 1 keeps the meaning that the command gives it."""
    monkeypatch.setattr(sys, "argv", ["visionmeter", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code
    assert ("RuntimeError: a bug" in capsys.readouterr().err) == (code == REFUSED)


def test_one_command_for_both(tmp_path: Path) -> None:
    """The script that is installed is the client's, once, and the server's commands are in it from any folder."""
    (script,) = entry_points(group="console_scripts", name="visionmeter")
    assert script.value == "visionmeter_client.cli:main"
    command = Path(sys.executable).with_name("visionmeter")
    outcome = subprocess.run(
        [command, "ledger", "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert "verify" in outcome.stdout


def test_the_client_needs_nothing_of_the_server() -> None:
    """Whoever installs the client alone gets what it imports."""
    command = (
        "import sys, visionmeter_client.cli; "
        "print(sorted({'core', 'gateway', 'sqlmodel', 'pydantic', 'fastapi', 'numpy'} & set(sys.modules)))"
    )
    outcome = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert outcome.stdout.strip() == "[]"
