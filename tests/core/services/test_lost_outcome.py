"""The database is away just when an image's outcome should be stored: the money comes back while the runner lives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from core.identity.tables import User
from core.jobs import jobs
from core.services.application import Application
from core.services.job_runner import JobRunner
from tests.conftest import OpenApp
from tests.core.services.helpers import balance, pictures, quote, statuses, submit, wait

LEASE_S = 5


class Away:
    """A database that answers no runner's thread while it is away; everybody else is served."""

    def __init__(self, app: Application, *words: str) -> None:
        self.strikes, self._words = 0, words
        self.is_away = True
        event.listen(app.db.engine, "before_cursor_execute", self._strike)

    def _strike(self, _connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if (
            self.is_away
            and threading.current_thread().name.startswith("runner")
            and all(word in statement for word in self._words)
        ):
            self.strikes += 1
            raise OperationalError(statement, {}, Exception("the server closed the connection"))


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("UPDATE hold",), id="neither charged nor given back"),
        pytest.param(("UPDATE job_image", "error_code"), id="the end of an image"),
    ],
)
def test_an_outcome_that_could_not_be_stored_is_given_back(
    database_url: str,
    open_app: OpenApp,
    sign_up: Callable[..., User],
    start_runner: Callable[[Application], JobRunner],
    words: tuple[str, ...],
) -> None:
    """Neither capture nor release goes through; a lease later both pictures are given back, and nothing is held."""
    app = open_app(database_url=database_url, hold_lease_s=LEASE_S, runner_threads=2)
    ann = sign_up(app)
    away = Away(app, *words)
    start_runner(app)
    files = pictures(2)
    job = submit(app, ann, quote(app, ann, files), files)
    view = wait(app, ann, job, timeout_s=20 * LEASE_S)
    away.is_away = False
    assert away.strikes >= 4, "each picture's capture and its release were struck"
    assert statuses(view) == ["interrupted", "interrupted"]
    assert balance(app, ann) == (20_000, 0)
    again = wait(app, ann, submit(app, ann, quote(app, ann, files), files))
    assert statuses(again) == ["charged", "charged"]
    assert balance(app, ann) == (19_500, 0)


def test_a_free_answer_that_could_not_be_stored_ends_too(
    open_app: OpenApp, sign_up: Callable[..., User], start_runner: Callable[[Application], JobRunner]
) -> None:
    """The second copy of a picture waits for the first; when its answer is lost the run still ends."""
    app = open_app(hold_lease_s=LEASE_S, runner_threads=1)
    ann = sign_up(app)
    start_runner(app)
    first = pictures(1)
    wait(app, ann, submit(app, ann, quote(app, ann, first), first))
    away = Away(app, "UPDATE job_image", "error_code")
    view = wait(app, ann, submit(app, ann, quote(app, ann, first), first), timeout_s=20 * LEASE_S)
    away.is_away = False
    assert away.strikes >= 1
    assert statuses(view) == ["interrupted"]
    assert balance(app, ann) == (19_750, 0)


class Panic(BaseException):
    """What a native library raises that gives up, and no `except Exception` catches."""


def test_a_panic_ends_no_worker(
    open_app: OpenApp,
    sign_up: Callable[..., User],
    start_runner: Callable[[Application], JobRunner],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four pictures in whose engine something panics, two workers: all given back, and the next run is served."""
    app = open_app(hold_lease_s=LEASE_S, runner_threads=2)
    ann = sign_up(app)
    start_runner(app)
    with monkeypatch.context() as patch:
        patch.setattr("core.services.run_image._infer", _panic)
        files = pictures(4)
        view = wait(app, ann, submit(app, ann, quote(app, ann, files), files))
    assert set(statuses(view)) == {"failed"}
    assert balance(app, ann) == (20_000, 0)
    again = wait(app, ann, submit(app, ann, quote(app, ann, files), files))
    assert set(statuses(again)) == {"charged"}


def _panic(*_: object) -> None:
    raise Panic


def test_what_hangs_is_given_back(
    open_app: OpenApp,
    sign_up: Callable[..., User],
    start_runner: Callable[[Application], JobRunner],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A disk that hangs under every worker: what is in hand and what waits behind it is given back all the same."""
    app = open_app(hold_lease_s=LEASE_S, runner_threads=1, image_timeout_s=4)
    ann = sign_up(app)
    works_again = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr("core.services.run_image._infer", lambda *_: works_again.wait(120) and _panic())
        start_runner(app)
        files = pictures(3)
        view = wait(app, ann, submit(app, ann, quote(app, ann, files), files))
        works_again.set()
    assert set(statuses(view)) == {"interrupted"}
    assert balance(app, ann) == (20_000, 0)
    again = wait(app, ann, submit(app, ann, quote(app, ann, files), files))
    assert set(statuses(again)) == {"charged"}


def test_runners_that_stop_together(database_url: str, open_app: OpenApp, sign_up: Callable[..., User]) -> None:
    """Two runners with runs of the same eight customers stop at once: nothing stays held."""
    apps = [open_app(database_url=database_url, welcome_tokens="100") for _ in range(2)]
    people = [sign_up(apps[0], f"{number}@example.com") for number in range(8)]
    runners = [JobRunner(app) for app in apps]
    for number, runner in enumerate(runners):
        for person in people if number else reversed(people):
            files = pictures(4, seed=number + 1)
            submit(apps[0], person, quote(apps[0], person, files), files)
        with apps[0].db.write() as session:
            jobs.adopt_queued_jobs(session, runner.name, lease_s=600)
    threads = [threading.Thread(target=runner.stop) for runner in runners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [balance(apps[0], person) for person in people] == [(100_000, 0)] * len(people)
