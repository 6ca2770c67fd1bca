"""Runs that were broken off: no hold is left behind, and nothing is paid without a result."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event
from sqlmodel import select
from streamlit.runtime.scriptrunner_utils.exceptions import RerunException, StopException
from streamlit.runtime.scriptrunner_utils.script_requests import RerunData

from core.identity.tables import User
from core.jobs.tables import JobImage, Result
from core.ledger.tables import Entry, Hold
from core.services import account_view
from core.services.application import Application
from core.services.job_runner import cancel_job
from tests.conftest import OpenApp
from tests.core.services.helpers import balance, pictures, quote, submit

LEASE_S = 10
SEED = 20_261_124


class Interruption:
    """Raises into the script's thread at one of its statements, as a rerun or a closed tab does."""

    def __init__(self, app: Application, draw: random.Random) -> None:
        self.app, self.draw = app, draw

    def run(self, script: Callable[[], Any]) -> bool:
        """Whether the script was broken off; the place is drawn, and may be past its end."""
        left = self.draw.randint(1, 25)
        me = threading.get_ident()
        error = self.draw.choice([RerunException(RerunData()), StopException()])

        def strike(*_: Any) -> None:
            nonlocal left
            if threading.get_ident() == me:
                left -= 1
                if left == 0:
                    raise error

        event.listen(self.app.db.engine, "before_cursor_execute", strike)
        try:
            script()
        except (RerunException, StopException):
            return True
        finally:
            event.remove(self.app.db.engine, "before_cursor_execute", strike)
        return False


def wait_until_nothing_is_held(app: Application, user: User) -> None:
    """Until the account holds nothing and no image is open: lease and sweep, with time for a busy CPU."""
    started = time.monotonic()
    while account_view.get_balance(app, user).held_mt or account_view.count_open_images(app, user):
        assert time.monotonic() - started < 240, account_view.get_balance(app, user)
        time.sleep(0.02)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.soak)])
def test_cancellations_leave_no_hold(
    database_url: str,
    open_app: OpenApp,
    sign_up: Callable[..., User],
    start_runner: Callable[[Application], Any],
    count: int,
) -> None:
    """Half are reruns inside the click, three tenths disconnects from a running job, the rest time-outs of a model."""
    reruns, disconnects, timeouts = count // 2, count * 3 // 10, count // 5
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when the test fails
    draw = random.Random(SEED)
    app = open_app(database_url=database_url, hold_lease_s=LEASE_S, welcome_tokens="10000")
    hasty = open_app(database_url=database_url, hold_lease_s=LEASE_S, image_timeout_s=0.000_001)
    user = sign_up(app)
    runner = start_runner(app)
    outcomes: Counter[str] = Counter()
    interruption = Interruption(app, draw)
    for number in range(reruns):
        files = pictures(1, seed=1000 + number)
        quoted = quote(app, user, files)
        outcomes["rerun" if interruption.run(lambda: submit(app, user, quoted, files)) else "submitted"] += 1  # noqa: B023  # called at once
        if number % 20 == 0:
            continue  # the page comes back and forgets about it: what was submitted runs on
        cancel_job(app, user, submit(app, user, quoted, files).id)
        outcomes["cancelled"] += 1
    for number in range(disconnects):
        files = pictures(1, seed=5000 + number)
        job = submit(app, user, quote(app, user, files), files)
        if draw.random() < 0.1:
            time.sleep(draw.random() * 0.05)
        interruption.run(lambda: cancel_job(app, user, job.id))  # noqa: B023  # called at once
        cancel_job(app, user, job.id)
        outcomes["disconnected"] += 1
    wait_until_nothing_is_held(app, user)

    runner.stop()
    start_runner(hasty)
    for number in range(timeouts // 10):
        files = pictures(10, seed=9000 + number)
        submit(app, user, quote(app, user, files), files)
    wait_until_nothing_is_held(app, user)
    assert outcomes["rerun"] > reruns // 4

    posted_mt, held_mt = balance(app, user)
    with app.db.read() as session:
        statuses = Counter(session.exec(select(JobImage.status)).all())
        errors = Counter(session.exec(select(JobImage.error_code).where(JobImage.status == "failed")).all())
        holds = Counter(session.exec(select(Hold.status)).all())
        paid = session.exec(select(Entry).where(Entry.kind == "capture")).all()
        results = session.exec(select(Result.charge_key)).all()
        captured = session.exec(select(Hold.charge_key).where(Hold.status == "captured")).all()
    assert held_mt == 0
    # Nobody's picture fails because of somebody else's closed tab.
    assert errors == {"inference_failed": timeouts}
    assert holds["held"] == 0
    assert not {"queued", "running"} & set(statuses)
    assert sorted(results) == sorted(captured)
    assert posted_mt == 10_000_000 - sum(entry.amount_mt for entry in paid)
    print(dict(outcomes), dict(statuses))  # noqa: T201  # pytest shows it when the test fails
