"""Account, job, usage: whoever ends an image takes the rows in this order, so that nobody waits in a circle."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import text

from core.errors import HoldEndedError, SignInTicketError
from core.identity import sessions, users
from core.identity.tables import User
from core.inference.detections import Detections
from core.inference.engine import Inference
from core.jobs import jobs
from core.jobs.tables import Job, JobImage
from core.ledger import ledger
from core.ledger.posting import lock_account
from core.services import closing, run_image, sign_in, team
from core.services.application import Application
from tests.conftest import PASSWORD
from tests.core.services.helpers import balance, pictures, quote, submit

# Long enough for another thread to run into the rows that are taken, which it cannot tell us.
MEETING_S = 0.5
PATIENCE_S = 60


def job_of(app: Application, user: User, count: int, seed: int) -> tuple[Job, list[JobImage]]:
    """A submitted job of that many pictures, with its images in order."""
    files = pictures(count, seed=seed)
    job = submit(app, user, quote(app, user, files), files)
    with app.db.read() as session:
        return job, list(jobs.list_images(session, job.id))


def capture(app: Application, job: Job, image: JobImage) -> None:
    """Charge an image, with an answer that no model gave."""
    with app.db.write() as session:
        run_image._capture(session, job, image, Inference(Detections.from_json([]), (320, 320), 1.0, 1.0))


def test_a_cancelled_batch_and_a_charge_of_it(any_app: Application, sign_up: Callable[..., User]) -> None:
    """The batch begins with an image that another job pays for, so its cancelling has no hold to begin with."""
    app, user = any_app, sign_up(any_app)
    job_of(app, user, 1, seed=1)
    job, (waiting, paying) = job_of(app, user, 2, seed=1)
    assert (waiting.hold_id, paying.hold_id is None) == (None, False)
    began = threading.Event()

    def cancel() -> None:
        with app.db.write() as session:
            run_image.give_back(session, job, waiting, "cancelled", None, actor=user.id)
            began.set()
            threading.Event().wait(MEETING_S)
            run_image.give_back(session, job, paying, "cancelled", None, actor=user.id)

    def charge() -> str:
        assert began.wait(PATIENCE_S)
        try:
            capture(app, job, paying)
        except HoldEndedError:
            return "too late"
        return "charged"

    with ThreadPoolExecutor() as threads:
        cancelled, charged = threads.submit(cancel), threads.submit(charge)
        assert (cancelled.result(PATIENCE_S), charged.result(PATIENCE_S)) == (None, "too late")
    posted_mt, held_mt = balance(app, user)
    assert held_mt == 250
    assert posted_mt == 20_000


def test_a_charge_and_a_free_answer_of_one_job(any_app: Application, sign_up: Callable[..., User]) -> None:
    """Both count in one slot of usage and both end an image of the same job."""
    app, user = any_app, sign_up(any_app)
    first, (done,) = job_of(app, user, 1, seed=1)
    capture(app, first, done)
    job, (free, paying) = job_of(app, user, 2, seed=1)
    began = threading.Event()

    def answer_free() -> None:
        with app.db.write() as session:
            assert jobs.end_image(session, free.id, "free")
            began.set()
            threading.Event().wait(MEETING_S)
            run_image._record(session, job, free, "free")

    def charge() -> None:
        assert began.wait(PATIENCE_S)
        capture(app, job, paying)

    with ThreadPoolExecutor() as threads:
        for future in (threads.submit(answer_free), threads.submit(charge)):
            future.result(PATIENCE_S)
    assert balance(app, user) == (19_500, 0)
    with app.db.read() as session:
        assert ledger.get_balance(session, user.account_id).available_mt == 19_500
        assert jobs.get_job(session, user.account_id, job.id).status == "finished"


def test_a_ticket_and_whoever_ends_it(any_app: Application, sign_up: Callable[..., User]) -> None:
    """A sign-in that becomes a session while every sign-in of its user ends: one of them waits, neither in a circle."""
    user = sign_up(any_app)
    ticket = sign_in.sign_in(any_app, user.email, PASSWORD)
    began = threading.Event()

    def end_all() -> None:
        with any_app.db.write() as session:
            users.lock_user(session, user.id)
            began.set()
            threading.Event().wait(MEETING_S)
            sessions.revoke_all(session, user.id)

    def exchange() -> str:
        assert began.wait(PATIENCE_S)
        try:
            sign_in.open_session(any_app, ticket)
        except SignInTicketError:
            return "too late"
        return "open"

    with ThreadPoolExecutor() as threads:
        ending, exchanging = threads.submit(end_all), threads.submit(exchange)
        assert (ending.result(PATIENCE_S), exchanging.result(PATIENCE_S)) == (None, "too late")


def test_leaving_takes_the_account_first(any_app: Application, sign_up: Callable[..., User]) -> None:
    """Whoever leaves an account that bears his name waits for who has it, and has nothing yet that this one wants."""
    ann = sign_up(any_app)
    code = team.invite_member(any_app, ann, "bob@example.com", "owner")
    sign_in.sign_up(any_app, "op@example.com", PASSWORD)
    sign_in.sign_up(any_app, "bob@example.com", PASSWORD, invitation=code)
    with any_app.db.write() as session:
        session.connection().execute(text("UPDATE user_ SET is_operator = (email = 'op@example.com')"))
    began = threading.Event()

    def change_both() -> None:
        with any_app.db.write() as session:
            lock_account(session, ann.account_id)
            began.set()
            threading.Event().wait(2 * MEETING_S)
            users.set_role(session, ann.id, "owner")

    def leave() -> None:
        assert began.wait(PATIENCE_S)
        closing.leave_account(any_app, ann, PASSWORD)

    with ThreadPoolExecutor() as threads:
        for future in (threads.submit(change_both), threads.submit(leave)):
            future.result(PATIENCE_S)
