"""`kill -9` of the server in the middle of a run of 20 images: nothing lost, nothing charged twice."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import httpx
from sqlmodel import select

from core.config import ROOT
from core.identity.tables import User
from core.inference.images import DecodedImage, encode_jpeg
from core.jobs import jobs
from core.jobs.tables import JobImage, Result
from core.ledger import ledger
from core.ledger.tables import Entry, Hold
from core.ledger.verify import verify_ledger
from core.pricing.tables import Receipt
from core.services import account_view
from core.services.application import Application
from core.services.job_runner import JobRunner, sweep
from tests.conftest import OpenApp
from tests.core.services.helpers import balance, lapse, quote, submit, wait

LEASE_S = 10
OPEN = ("queued", "running")


class Server:
    """The real server in a process of its own."""

    def __init__(self, data_dir: Path, weights_dir: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = data_dir.parent / f"server-{self.port}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", "app:app", "--host", "127.0.0.1", "--port", str(self.port)],
                cwd=ROOT,
                env={
                    **{k: v for k, v in os.environ.items() if not k.startswith("VISIONMETER_")},
                    "VISIONMETER_DATA_DIR": str(data_dir),
                    "VISIONMETER_WEIGHTS_DIR": str(weights_dir),
                    "VISIONMETER_HOLD_LEASE_S": str(LEASE_S),
                    "VISIONMETER_SWEEP_INTERVAL_S": "1",
                    "VISIONMETER_DEVICE": "cpu",
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_ready(self, timeout_s: float = 90) -> None:
        """Until `/v1/readyz` says that a model can run."""
        deadline = time.monotonic() + timeout_s
        while True:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/v1/readyz", timeout=2).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL: no handler, no `finally`, nothing is tidied up."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> None:
        """An orderly end, if it still runs."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()


def crops(images: list[DecodedImage], count: int) -> dict[str, bytes]:
    """Different crops of real photographs, as JPEG."""
    files = {}
    for number in range(count):
        pixels = images[number % len(images)].pixels
        cut = pixels[number * 5 :, number * 7 :]
        files[f"{number}.jpg"] = encode_jpeg(cv2.resize(cut, (640, 640)))
    return files


def test_kill_9_in_the_middle_of_a_run(
    open_app: OpenApp,
    tmp_path: Path,
    weights_dir: Path,
    sign_up: Callable[..., User],
    bus: DecodedImage,
    zidane: DecodedImage,
) -> None:
    """Killed after 3 of 20 images and restarted: charged ⇔ stored, every other hold back within 60 s, sum exact."""
    app: Application = open_app(hold_lease_s=LEASE_S, welcome_tokens="100")
    ann = sign_up(app)
    files = crops([bus, zidane], 20)
    first = Server(tmp_path / "data", weights_dir)
    second = None
    try:
        first.wait_ready()
        job = submit(app, ann, quote(app, ann, files, 640), files)
        assert balance(app, ann)[0] == 100_000
        deadline = time.monotonic() + 60
        while account_view.get_job(app, ann, job.id).progress.counts.get("charged", 0) < 3:
            assert time.monotonic() < deadline, first.log.read_text()
            time.sleep(0.005)
        first.kill()
        view = account_view.get_job(app, ann, job.id)
        before = {image.id for image in view.images if image.status == "charged"}
        still_open = [image for image in view.images if image.status in OPEN]
        assert len(before) >= 3
        assert len(still_open) >= 3, "the run was over before the kill: this proved nothing"
        # What a kill leaves behind: the rest is still held, and the books agree all the same.
        assert balance(app, ann)[1] == 950 * len(still_open)  # 1.000 less 5 %

        second = Server(tmp_path / "data", weights_dir)
        restarted = time.monotonic()
        second.wait_ready()
        while True:
            with app.db.read() as session:
                open_images = jobs.count_open_images(session, ann.account_id)
                held_mt = ledger.get_balance(session, ann.account_id).held_mt
            if not open_images and not held_mt:
                break
            assert time.monotonic() - restarted < 60, second.log.read_text()
            time.sleep(0.1)
    finally:
        first.stop()
        if second is not None:
            second.stop()

    view = account_view.get_job(app, ann, job.id)
    charged = [image for image in view.images if image.status == "charged"]
    assert view.job.status == "finished"
    assert before <= {image.id for image in charged}
    assert {image.status for image in view.images} == {"charged", "interrupted"}
    with app.db.read() as session:
        outcome = verify_ledger(session)
        captures = session.exec(select(Entry.hold_id).where(Entry.kind == "capture")).all()
        results = session.exec(select(Result.charge_key)).all()
        receipts = session.exec(select(Receipt.hold_id)).all()
        holds = session.exec(select(Hold.status)).all()
    paid = sorted(image.hold_id or "" for image in charged)
    assert sorted(hold_id or "" for hold_id in captures) == paid
    assert sorted(receipts) == paid
    assert sorted(results) == sorted(image.charge_key for image in charged)
    assert "held" not in holds
    assert outcome.ok, outcome.problems
    assert outcome.ledger_sum_mt == 0
    assert balance(app, ann) == (100_000 - sum(image.amount_mt for image in charged), 0)
    assert len(charged) < 20


def test_the_unfinished_can_be_run_again_for_their_price(
    open_app: OpenApp, sign_up: Callable[..., User], bus: DecodedImage
) -> None:
    """After an interruption the finished pictures are free in a new preview and the others have their old price."""
    app = open_app()
    ann = sign_up(app)
    files = crops([bus], 4)
    half = dict(list(files.items())[:2])
    runner = JobRunner(app)
    runner.start()
    wait(app, ann, submit(app, ann, quote(app, ann, half, 320), half))
    runner.stop()
    submit(app, ann, quote(app, ann, files, 320), files)
    lapse(app)
    sweep(app)
    again = quote(app, ann, files, 320)
    assert [line["amount_mt"] for line in again.lines] == [0, 0, 250, 250]
    with app.db.read() as session:
        assert len(session.exec(select(JobImage).where(JobImage.status == "interrupted")).all()) == 4
    assert balance(app, ann) == (20_000 - 500, 0)
