"""The threads that work on jobs, and the keeper that renews leases and sweeps what others left behind."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from core.db import utcnow
from core.identity.callers import Caller
from core.inference.scheduler import VIP_RUN_MAX
from core.jobs import jobs
from core.jobs.tables import Job, JobImage
from core.jobs.turns import ALL_PLANS, Turns
from core.ledger import ledger
from core.ledger.posting import lock_account
from core.payments import payments
from core.plans import Plan
from core.services.application import Application
from core.services.audit import seal_ledger
from core.services.closing import purge_closed
from core.services.retention import remove_unrun_quotes
from core.services.roll_ups import roll_up_ledger
from core.services.run_image import give_back, in_hand_until, run_image
from core.services.team import require_role

log = logging.getLogger("visionmeter")

RETENTION_PAUSE_S = 60.0


class JobRunner:
    """Adopts queued jobs from the database and runs their images. Any number of processes may have one."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self.name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self._stopping = threading.Event()
        self._turns = Turns(VIP_RUN_MAX)
        # The images that a thread works on at this moment, by id, and until when; those of the VIPs' thread apart.
        self._in_hand: dict[str, datetime] = {}
        self._vips_in_hand: dict[str, datetime] = {}
        self._threads = [
            threading.Thread(target=self._work, args=(ALL_PLANS, self._in_hand), name=f"runner-{index}", daemon=True)
            for index in range(app.settings.runner_threads)
        ]
        # One more for VIPs alone: all the others may wait in the engine's queue with other customers' images.
        vips = ((Plan.VIP,), self._vips_in_hand)
        self._threads.append(threading.Thread(target=self._work, args=vips, name="runner-vip", daemon=True))
        self._threads.append(threading.Thread(target=self._keep, name="keeper", daemon=True))

    def start(self) -> None:
        """Give back what a crash left behind, then start the threads."""
        sweep(self._app)
        for thread in self._threads:
            thread.start()
        self._app.hands.runner = self.name

    def stop(self, *, timeout_s: float = 15.0) -> None:
        """Let the images in hand finish, then give back everything that has not started."""
        if self._app.hands.runner == self.name:
            self._app.hands.runner = None
        self._stopping.set()
        self._app.hands.ring()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout_s)
        with self._app.db.read() as session:
            unfinished = jobs.running_jobs(session, self.name)
        for job in unfinished:
            try:
                # One account in a transaction: runners that stop together never wait for one another in a circle.
                with self._app.db.write() as session:
                    for image in jobs.open_images_of(session, job.id, ("queued",)):
                        give_back(session, job, image, "interrupted", "restart", actor=ledger.SYSTEM)
            except Exception:
                log.exception("what job %s holds comes back when its lease has run out", job.id)

    def _work(self, plans: Collection[str], in_hand: dict[str, datetime]) -> None:
        """Run image after image of runs under these plans."""
        while not self._stopping.is_set():
            try:
                claimed = self._claim(plans)
                if claimed is None:
                    self._app.hands.wait(self._app.settings.job_poll_interval_s)
                else:
                    self._run(*claimed, in_hand)
            except BaseException:
                # A database that is away for a moment must not end the thread, nor an engine that panics; the keeper
                # gives back.
                log.exception("the runner goes on after an error")
                self._stopping.wait(1.0)

    def _run(self, job: Job, image: JobImage, in_hand: dict[str, datetime]) -> None:
        in_hand[image.id] = in_hand_until(self._app, job, image)
        try:
            run_image(self._app, job, image)
        finally:
            in_hand.pop(image.id, None)

    def _claim(self, plans: Collection[str]) -> tuple[Job, JobImage] | None:
        with self._app.db.read() as session:
            if not jobs.has_work(session, self.name, plans):
                return None
        with self._app.db.write() as session:
            jobs.adopt_queued_jobs(session, self.name, lease_s=self._app.settings.hold_lease_s)
            claimed = jobs.claim_image(session, self.name, self._turns, plans)
            if claimed is not None:
                self._turns.note(claimed[0].account_id, claimed[0].plan)
            return claimed

    def _keep(self) -> None:
        settings = self._app.settings
        remove_at = time.monotonic()
        interval_s = min(settings.sweep_interval_s, settings.hold_lease_s / 4)
        while not self._stopping.wait(interval_s):
            try:
                with self._app.db.read() as session:
                    busy = bool(jobs.running_jobs(session, self.name)) or jobs.has_queued_jobs(session)
                # With every thread stuck nothing is promised any more: all leases run out, and the sweep gives back.
                if busy and len(_too_long(self._in_hand)) < settings.runner_threads:
                    with self._app.db.write() as session:
                        # Also here: with every thread busy, a new job would otherwise outlive its lease unheard.
                        jobs.adopt_queued_jobs(session, self.name, lease_s=settings.hold_lease_s)
                    with self._app.db.write() as session:
                        hold_ids = jobs.renew_jobs(session, self.name, lease_s=settings.hold_lease_s)
                    # Not in the transaction of the jobs: a capture takes its hold first and its job then.
                    with self._app.db.write() as session:
                        ledger.renew_holds(session, hold_ids, lease_s=settings.hold_lease_s)
                    self._give_back_lost()
                sweep(self._app)
                seal_ledger(self._app)
                roll_up_ledger(self._app)
                if time.monotonic() >= remove_at:
                    remove_at = time.monotonic() + RETENTION_PAUSE_S
                    if remove_unrun_quotes(self._app) | purge_closed(self._app):
                        remove_at = time.monotonic()
            except Exception:
                log.exception("the keeper goes on after an error")

    def _give_back_lost(self) -> None:
        """End what was begun and is in nobody's hand, or stuck in one: its outcome could not be stored, or never comes.

        The runner lives, so its leases are renewed and no sweeper would do it. A claim whose answer was lost looks the
        same; one that was made just now does too, so a lease's time must have passed.
        """
        lease = timedelta(seconds=self._app.settings.hold_lease_s)
        with self._app.db.read() as session:
            begun = jobs.images_started_before(session, self.name, utcnow() - lease)
        # Also those that a request runs in its own thread.
        in_hand = {**self._app.hands.carried(), **self._in_hand, **self._vips_in_hand}
        stuck = _too_long(in_hand)
        for job, image in begun:
            if image.id not in in_hand or image.id in stuck:
                with self._app.db.write() as session:
                    give_back(session, job, image, "interrupted", "internal", actor=ledger.SYSTEM)


def _too_long(in_hand: Mapping[str, datetime]) -> set[str]:
    """The images that are in hand for longer than they may be: a disk that hangs, say."""
    now = utcnow()
    return {image_id for image_id, until in list(in_hand.items()) if until < now}


def sweep(app: Application) -> int:
    """Give back every hold whose lease ran out, close the jobs that lost their runner, give up late payments.

    Safe to call from any number of processes; gives the number of holds that went back.
    """
    now = utcnow()
    with app.db.read() as session:
        account_ids = ledger.due_accounts(session, now)
        lapsed = jobs.lapsed_jobs(session, now)
        payments_due = payments.has_due(session, now)
    given_back = 0
    for account_id in account_ids:
        with app.db.write() as session:
            given_back += len(ledger.expire_holds(session, account_id, now=now))
    for job in lapsed:
        with app.db.write() as session:
            if not jobs.is_lapsed(session, job.id, now):
                continue  # its runner was heard of meanwhile, or another sweeper was here
            for image in jobs.open_images_of(session, job.id):
                give_back(session, job, image, "interrupted", "restart", actor=ledger.SYSTEM)
            jobs.finish_job_if_done(session, job.id)
    if payments_due:
        with app.db.write() as session:
            payments.expire_due(session, now)
    if given_back:
        log.info("gave back %d holds whose runner was lost", given_back)
    return given_back


def cancel_job(app: Application, user: Caller, job_id: str) -> int:
    """Give back at once what has not started; the image in hand is finished. Gives the milli-tokens returned.

    Raises `JobNotFoundError` for a job of another account, `RoleNeededError` for a viewer.
    """
    require_role(user, "member")
    with app.db.write() as session:
        job = jobs.get_job(session, user.account_id, job_id)
        # Before looking: what is charged or begun meanwhile is not given back.
        lock_account(session, user.account_id)
        queued = jobs.open_images_of(session, job_id, ("queued",))
        for image in queued:
            give_back(session, job, image, "cancelled", None, actor=user.id)
        return sum(image.amount_mt for image in queued)
