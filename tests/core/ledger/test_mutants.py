"""Slips of the pen in the ledger, each as a patch in `mutants/`, and the test that must find it.

A patch begins with one sentence, the wound that it would be to a customer or an operator, and then says
`killed-by: ` and a test (as pytest takes it; several lines: each alone must find it), and `database: postgresql` when
only several writers at once show it. It is applied to a fresh copy of the code, and the test must fail there, where
it passes on the copy without the patch. `-s` shows what killed each.

To add one, or to refresh one that no longer applies: make the slip in the code, let `git diff core migrations` write
the patch, put its head before it, and take the slip out again with `git apply -R` and the patch. A mutant that
survives is a test that is missing: write the test.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

from core.config import ROOT
from tests.conftest import POSTGRES_URL

PATCHES = sorted((Path(__file__).parent / "mutants").glob("*.patch"))
STATEFUL = "tests/core/ledger/test_stateful.py"
# What the ledger and its tests read.
COPIED = ("core", "migrations", "tests", "docs/adr", "pyproject.toml")
# The same few sequences each time, told as they are found: to make them short takes minutes.
STATEFUL_SETTINGS = {"EXAMPLES": "100", "SEED": "20261124", "SHRINK": "0"}
# In the root of every copy: a test of the checkout's code would prove nothing.
GUARD = """
from pathlib import Path
import core
assert Path(core.__file__).is_relative_to(Path(__file__).parent), f"the tests import {core.__file__}"
"""
# A test's own word, or a refusal in the wrong place; or a history that goes another way when Hypothesis repeats it, as
# it may where a slip chooses by ids, which are random. Anything else, such as an ImportError, is a broken patch.
DEATH = re.compile(
    r"AssertionError|assert |Failed: DID NOT RAISE|sqlalchemy\.exc\.IntegrityError: |core\.errors\."
    r"|hypothesis\.errors\.Flaky"
)
RUN_TIMEOUT_S = 240


@dataclass(frozen=True)
class Mutant:
    """A patch and what its head says of it."""

    path: Path
    wound: str
    killed_by: tuple[str, ...]
    database: str
    changed: tuple[str, ...]


def read_mutant(path: Path) -> Mutant:
    """A patch's head: sentence, `killed-by`, `database`; and the files that it changes."""
    head, _, diff = path.read_text(encoding="utf-8").partition("\ndiff --git ")
    sentence = " ".join(line for line in head.splitlines() if not re.match(r"(killed-by|database): ", line))
    return Mutant(
        path,
        sentence.strip(),
        tuple(re.findall(r"^killed-by: (\S+)$", head, re.MULTILINE)),
        "".join(re.findall(r"^database: (\S+)$", head, re.MULTILINE)) or "sqlite",
        tuple(re.findall(r"^\+\+\+ b/(\S+)$", diff, re.MULTILINE)),
    )


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code and the tests as they are now."""
    folder = tmp_path_factory.mktemp("code")
    for name in COPIED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(".*"))
        else:
            shutil.copy2(source, target)
    (folder / "conftest.py").write_text(GUARD)
    return folder


def run_tests(folder: Path, tests: Sequence[str], database: str) -> tuple[int, str, list[tuple[str, str, str]]]:
    """Run tests of a copy on one kind of database, until the first failure.

    Gives pytest's exit status, its output, and of each test that did not pass its name, `failure`, `error` or
    `skipped`, and the message.
    """
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    left_out = {"VISIONMETER_TEST_NOTHING_SKIPPED", "PYTEST_ADDOPTS", "PYTHONPATH", "PYTHONSAFEPATH"}
    if database == "sqlite":
        left_out.add("VISIONMETER_TEST_POSTGRES_URL")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {f"VISIONMETER_TEST_{name}": value for name, value in STATEFUL_SETTINGS.items()}
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis",
            f"--junitxml={report}", "-k", "not postgresql" if database == "sqlite" else "not sqlite", *tests,
        ],
        cwd=folder, env=environment | {"PYTHONDONTWRITEBYTECODE": "1"},
        check=False, capture_output=True, text=True, timeout=RUN_TIMEOUT_S,
    )  # fmt: skip
    outcomes = []
    if report.exists():
        for case in ElementTree.parse(report).getroot().iter("testcase"):
            for outcome in case:
                if outcome.tag in ("failure", "error", "skipped"):
                    outcomes.append((str(case.get("name")), outcome.tag, str(outcome.get("message"))))
    return done.returncode, done.stdout + done.stderr, outcomes


def apply_patch(mutant: Mutant, folder: Path, code: Path) -> None:
    """Change the copy; every file that the patch names must be another one afterwards."""
    # In a folder of some repository, or under one of its hooks, `git apply` would pass over the files without a word.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment["GIT_CEILING_DIRECTORIES"] = str(folder.parent)
    done = subprocess.run(
        ["git", "apply", str(mutant.path)], check=False, cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        pytest.fail(
            f"{mutant.path.name} does not apply any more: the code it changes was changed. Make the slip in the code "
            f"again ({mutant.wound}), and refresh the patch as the top of {Path(__file__).name} says.\n{done.stderr}"
        )
    for name in mutant.changed:
        assert (folder / name).read_bytes() != (code / name).read_bytes(), f"{mutant.path.name} changed nothing"


def require_database(database: str) -> None:
    """Skip what needs PostgreSQL where there is none."""
    if database == "postgresql" and not POSTGRES_URL:
        pytest.skip("no PostgreSQL: set VISIONMETER_TEST_POSTGRES_URL")


def test_every_patch_says_what_it_would_do_to_whom() -> None:
    """At least ten, each with a sentence, a test and files of the code; four or more are left to random histories."""
    mutants = [read_mutant(path) for path in PATCHES]
    assert len(mutants) >= 10
    assert sum(mutant.killed_by == (STATEFUL,) for mutant in mutants) >= 4
    for mutant in mutants:
        assert re.fullmatch(r"[A-Z].{40,}[^.]\.", mutant.wound), mutant.path.name
        assert mutant.killed_by, mutant.path.name
        assert mutant.database in ("sqlite", "postgresql"), mutant.path.name
        assert mutant.changed, mutant.path.name
        assert all(name.startswith(("core/", "migrations/")) for name in mutant.changed), mutant.path.name


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_control_nothing_fails_without_a_patch(code: Path, database: str) -> None:
    """Every test that kills a mutant passes on the copy as it is, and none of them is skipped there."""
    require_database(database)
    mutants = [read_mutant(path) for path in PATCHES]
    tests = sorted({test for mutant in mutants if mutant.database == database for test in mutant.killed_by})
    status, output, outcomes = run_tests(code, tests, database)
    assert (status, outcomes) == (0, []), output[-5000:]


@pytest.mark.parametrize("path", PATCHES, ids=lambda path: path.stem)
def test_mutant_is_killed(code: Path, tmp_path: Path, path: Path) -> None:
    """With the slip in the code the tests that its patch names fail, by what they say and not by a broken import."""
    mutant = read_mutant(path)
    require_database(mutant.database)
    folder = tmp_path / "mutant"
    shutil.copytree(code, folder)
    apply_patch(mutant, folder, code)
    for test in mutant.killed_by:
        status, output, outcomes = run_tests(folder, [test], mutant.database)
        assert status != 0, f"{path.name} survives {test}. {mutant.wound}"
        killers = [(name, message) for name, outcome, message in outcomes if outcome == "failure"]
        assert status == 1, f"{path.name} breaks the tests rather than failing one:\n{output[-5000:]}"
        assert len(killers) == 1, f"{path.name} fails outside of a test:\n{output[-5000:]}"
        ((name, message),) = killers
        assert DEATH.match(message), f"{path.name} ends in {message}\n{output[-5000:]}"
        print(f"{path.stem} is killed by {name}: {message.splitlines()[0][:100]}")  # noqa: T201  # which test it was
    shutil.rmtree(folder)
