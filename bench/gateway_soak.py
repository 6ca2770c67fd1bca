"""The gateway under a bounded load of everything for a long time: does it keep anything that it should let go?

A real uvicorn process is asked, a few times a second, for single pictures (as a form, bare, base64 and by address, new
and sent before, annotated and in other formats), batches, jobs that are followed, cancelled or told of by webhook,
quotes and what was stored; in between come wrong requests, an account that cannot pay, and clients that leave in the
middle of what they send or before they are answered. Each answer must have the status that it should have. In the end:
memory flat since the warm-up, threads and open files as after the warm-up, no hold open, no job unfinished, as many
results as charges, and a ledger that verifies.

    python bench/gateway_soak.py [--minutes 30] [--rate 6] [--model] [--database-url URL] [--seed N]

Without `--model` an engine that takes no time answers (bench/gateway_server.py), so that the gateway is what is worn;
with it the embedded model runs, at 320 pixels.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import http.server
import json
import os
import random
import secrets
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sqlmodel import col, func, select

from bench.gateway import BOUNDARY, open_customers
from bench.gateway_server import ServerProcess, started
from core.db import Database
from core.jobs.tables import Job, Result, WebhookDelivery
from core.ledger.tables import Account, Entry, Hold
from core.ledger.verify import verify_ledger

WORKERS = 6
CUSTOMERS = 4
PHOTO_PX = (320, 256)
IMG_SIZE = 320
QUIET_S = 60
IDLE_S = 12.0
# A pool that grows to its size, a buffer that is kept: not what a leak of each request comes to.
THREADS_MORE_MAX = 8
FILES_MORE_MAX = 12
MEMORY_MORE_MAX_MB = 24
# While the pools of many threads fill, a run of a minute shows no more than that nothing runs away.
LONG_S = 300
MEMORY_MORE_MAX_SHORT_MB = 100


@dataclass(frozen=True, slots=True)
class Moment:
    """What the server's process had at some second of the load."""

    second: float
    requests: int
    rss_mb: float
    threads: int
    files: int


@dataclass
class Tally:
    """What was asked and answered. Used by all workers."""

    requests: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, action: str, status: int, wanted: tuple[int, ...], body: bytes) -> None:
        """One answer; what it should not be is kept to be told."""
        with self.lock:
            self.requests += 1
            self.statuses[status] += 1
            if status not in wanted:
                self.wrong.append(f"{action}: {status} instead of {wanted}: {body[:300]!r}")


class Pictures:
    """Photographs that are all different: pieces of those in the ultralytics wheel with some noise."""

    def __init__(self, seed: int) -> None:
        import cv2
        from ultralytics.utils import ASSETS

        self._photos = [cv2.imread(str(Path(ASSETS) / name)) for name in ("bus.jpg", "zidane.jpg")]
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._made = 0

    def new(self) -> bytes:
        """A JPEG that was never sent before."""
        import cv2

        with self._lock:
            self._made += 1
            made = self._made
            photo = self._random.choice(self._photos)
            width, height = PHOTO_PX
            top = self._random.randrange(photo.shape[0] - height)
            left = self._random.randrange(photo.shape[1] - width)
        piece = photo[top : top + height, left : left + width].copy()
        # A number in black and white squares, which the encoding keeps: no two pieces are the same.
        for bit in range(24):
            piece[:8, bit * 8 : bit * 8 + 8] = 255 * (made >> bit & 1)
        return cv2.imencode(".jpg", piece, [int(cv2.IMWRITE_JPEG_QUALITY), 88])[1].tobytes()


class Neighbour:
    """A web server of the customer's: gives pictures by address and takes webhooks."""

    def __init__(self, pictures: Pictures) -> None:
        told = Counter[str]()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(pictures.new(), "image/jpeg")

            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["content-length"])))
                told[message["data"]["id"]] += 1
                self._answer(b"", "text/plain")

            def _answer(self, data: bytes, media_type: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", media_type)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.told = told
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop it."""
        self._server.shutdown()
        self._server.server_close()


class Worker:
    """One client that does one thing after another."""

    def __init__(
        self,
        port: int,
        customers: list[str],
        poor: str,
        pictures: Pictures,
        neighbour: Neighbour,
        tally: Tally,
        seed: int,
    ) -> None:
        self._port = port
        self._customers = customers
        self._poor = poor
        self._pictures = pictures
        self._neighbour = neighbour
        self._tally = tally
        self._random = random.Random(seed)
        self._secret = customers[0]
        self._sent = [pictures.new()]
        self._results: list[str] = []
        self.actions: list[tuple[int, Callable[[], None]]] = [
            (8, self.form),
            (6, self.bare),
            (6, self.in_json),
            (3, self.by_address),
            (4, self.again),
            (3, self.twice_with_a_key),
            (2, self.annotated),
            (2, self.another_format),
            (3, self.batch),
            (3, self.followed_job),
            (2, self.cancelled_job),
            (2, self.job_with_webhook),
            (2, self.quote),
            (3, self.read),
            (4, self.wrong),
            (1, self.cannot_pay),
            (2, self.leaves_while_sending),
            (2, self.leaves_unanswered),
            (1, self.leaves_a_stream),
        ]

    def act(self) -> None:
        """One thing, chosen by its weight, of a customer chosen at random."""
        self._secret = self._random.choice(self._customers)
        weights, actions = zip(*self.actions, strict=True)
        (action,) = self._random.choices(actions, weights)
        with self._tally.lock:
            self._tally.actions[action.__name__] += 1
        try:
            action()
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            with self._tally.lock:
                self._tally.wrong.append(f"{action.__name__}: {error!r}")

    # Single pictures

    def form(self) -> None:
        """A form with one file."""
        self._keep(self._post_files("form", "/v1/detect", [self._new()], 200))

    def bare(self) -> None:
        """The bytes alone, at the advertised address."""
        self._keep(
            self._ask("bare", "POST", f"/yolo/detect?img_size={IMG_SIZE}", self._new(), {"Content-Type": "image/jpeg"})
        )

    def in_json(self) -> None:
        """Base64 in JSON."""
        self._keep(self._post("in_json", "/v1/detect", {"image": base64.b64encode(self._new()).decode()}))

    def by_address(self) -> None:
        """By an address on the customer's own server."""
        self._post("by_address", "/v1/detect", {"image_url": f"http://{self._neighbour.host}/{secrets.token_hex(4)}"})

    def again(self) -> None:
        """What this client has sent before, perhaps for another customer."""
        self._post("again", "/v1/detect", {"image": base64.b64encode(self._random.choice(self._sent)).decode()})

    def twice_with_a_key(self) -> None:
        """The same request twice at once under one key."""
        document = {"image": base64.b64encode(self._new()).decode()}
        headers = {"Idempotency-Key": secrets.token_hex(8)}
        both = [
            threading.Thread(target=self._post, args=("twice_with_a_key", "/v1/detect", document, 200, headers))
            for _ in range(2)
        ]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()

    def annotated(self) -> None:
        """A picture with its boxes."""
        self._post_files("annotated", "/v1/detect?annotated=png", [self._new()], 200)

    def another_format(self) -> None:
        """CSV, COCO or YOLO."""
        form = self._random.choice(("csv", "coco", "yolo"))
        self._post_files("another_format", f"/v1/detect?format={form}", [self._new()], 200)

    # Many pictures

    def batch(self) -> None:
        """Some pictures, waited for."""
        self._post_files("batch", "/v1/batch", [self._new() for _ in range(self._random.randint(1, 4))], 200)

    def followed_job(self) -> None:
        """A job, its events to the end, its results."""
        job = self._start_job("followed_job")
        if job is None:
            return
        status, body = self._ask("followed_job", "GET", f"/v1/jobs/{job}/events")
        if status == 200 and b"event: finished" not in body:
            raise ValueError(f"a stream ended before its job: {body[-200:]!r}")
        self._ask("followed_job", "GET", f"/v1/jobs/{job}/results")

    def cancelled_job(self) -> None:
        """A job that is cancelled at once."""
        job = self._start_job("cancelled_job")
        if job is not None:
            self._ask("cancelled_job", "POST", f"/v1/jobs/{job}/cancel")

    def job_with_webhook(self) -> None:
        """A job that tells of its end."""
        self._start_job("job_with_webhook", webhook_url=f"http://{self._neighbour.host}/hook")

    def quote(self) -> None:
        """A price, looked at again, and sometimes run."""
        images = [{"image": base64.b64encode(self._new()).decode()} for _ in range(2)]
        status, body = self._post("quote", "/v1/quotes", {"images": images}, 201)
        if status != 201:
            return
        quote_id = json.loads(body)["id"]
        self._ask("quote", "GET", f"/v1/quotes/{quote_id}")
        if self._random.random() < 0.5:
            self._post("quote", "/v1/batch", {"quote_id": quote_id}, 200, size=False)

    def read(self) -> None:
        """What is stored."""
        paths = ["/v1/balance", "/v1/usage", "/v1/jobs?limit=5", "/v1/models", "/v1/metrics", "/v1/readyz"]
        self._ask("read", "GET", self._random.choice(paths))
        if self._results:
            # Another customer's result is not there.
            self._ask("read", "GET", f"/v1/results/{self._random.choice(self._results)}", wanted=(200, 404))

    # What goes wrong

    def wrong(self) -> None:
        """A request that is refused."""
        picture = self._new()
        document = {"image": base64.b64encode(picture).decode()}
        jpeg = {"Content-Type": "image/jpeg"}
        refused: list[Callable[[], Any]] = [
            lambda: self._ask("wrong", "POST", "/v1/detect", picture[:2000], jpeg, wanted=(422,)),
            lambda: self._ask("wrong", "POST", "/v1/detect", b"", jpeg, wanted=(422,)),
            lambda: self._ask("wrong", "POST", "/v1/detect", b"GIF89a" + bytes(99), jpeg, wanted=(415,)),
            lambda: self._ask("wrong", "POST", "/v1/detect", b"{", {"Content-Type": "application/json"}, (422,)),
            lambda: self._ask("wrong", "POST", "/v1/detect", b"x", {"Content-Type": "text/plain"}, (415,)),
            lambda: self._post("wrong", "/v1/detect", {**document, "img_size": 641}, 422, size=False),
            lambda: self._post("wrong", "/v1/detect", {**document, "model": "yolov99"}, 404),
            lambda: self._post("wrong", "/v1/detect", {"image_url": "http://169.254.169.254/latest"}, 422),
            lambda: self._ask("wrong", "GET", "/v1/jobs/job_nowhere", wanted=(404,)),
            lambda: self._ask("wrong", "GET", "/v1/nowhere", wanted=(404,)),
            lambda: self._ask("wrong", "GET", "/v1/balance", headers={"Authorization": "Bearer vm_x"}, wanted=(401,)),
        ]
        self._random.choice(refused)()

    def cannot_pay(self) -> None:
        """An account with next to nothing."""
        headers = {"Authorization": f"Bearer {self._poor}"}
        self._post("cannot_pay", "/v1/detect", {"image": base64.b64encode(self._new()).decode()}, 402, headers)

    def leaves_while_sending(self) -> None:
        """Announces a picture, sends half of it, and goes."""
        data = self._new()
        self._leave(self._head("/v1/detect", len(data), "image/jpeg") + data[: len(data) // 2])

    def leaves_unanswered(self) -> None:
        """Sends all of it, and goes before the answer."""
        data = self._new()
        self._leave(self._head(f"/v1/detect?img_size={IMG_SIZE}", len(data), "image/jpeg") + data)

    def leaves_a_stream(self) -> None:
        """Goes in the middle of the events of a job."""
        job = self._start_job("leaves_a_stream")
        if job is not None:
            self._leave(self._head(f"/v1/jobs/{job}/events", 0, "text/plain", method="GET"), wait_s=0.1)

    # How

    def _new(self) -> bytes:
        data = self._pictures.new()
        self._sent = [*self._sent[-20:], data]
        return data

    def _keep(self, answer: tuple[int, bytes]) -> None:
        status, body = answer
        if status == 200:
            self._results = [*self._results[-20:], json.loads(body)["id"]]

    def _start_job(self, action: str, **more: Any) -> str | None:
        images = [{"image": base64.b64encode(self._new()).decode()} for _ in range(self._random.randint(1, 4))]
        # An account has so many jobs at once.
        status, body = self._post(action, "/v1/jobs", {"images": images, **more}, (202, 429))
        return json.loads(body)["id"] if status == 202 else None

    def _post(
        self,
        action: str,
        path: str,
        document: dict[str, Any],
        wanted: int | tuple[int, ...] = 200,
        headers: dict[str, str] | None = None,
        *,
        size: bool = True,
    ) -> tuple[int, bytes]:
        if size:
            document = {"img_size": IMG_SIZE, **document}
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        body = json.dumps(document).encode()
        return self._ask(action, "POST", path, body, {"Content-Type": "application/json", **(headers or {})}, wanted)

    def _post_files(self, action: str, path: str, pictures: list[bytes], wanted: int) -> tuple[int, bytes]:
        form = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="img_size"\r\n\r\n{IMG_SIZE}\r\n'.encode()
        for index, data in enumerate(pictures):
            form += (
                f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{index}.jpg"\r\n'
                "Content-Type: image/jpeg\r\n\r\n"
            ).encode()
            form += data + b"\r\n"
        form += f"--{BOUNDARY}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        return self._ask(action, "POST", path, form, headers, (wanted,))

    def _ask(
        self,
        action: str,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        wanted: tuple[int, ...] = (200,),
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request(
                method, path, body=body, headers={"Authorization": f"Bearer {self._secret}", **(headers or {})}
            )
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        self._tally.count(action, answer.status, wanted, content)
        return answer.status, content

    def _head(self, path: str, length: int, media_type: str, *, method: str = "POST") -> bytes:
        return (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self._secret}\r\n"
            f"Content-Type: {media_type}\r\nContent-Length: {length}\r\n\r\n"
        ).encode()

    def _leave(self, sent: bytes, *, wait_s: float = 0.0) -> None:
        with socket.create_connection(("127.0.0.1", self._port), timeout=60) as connection:
            connection.sendall(sent)
            time.sleep(wait_s or self._random.random() * 0.05)
        with self._tally.lock:
            self._tally.requests += 1


# Watching -------------------------------------------------------------------------------------------


def look(server: ServerProcess, tally: Tally, began: float) -> Moment:
    """What the server has now."""
    with server.process.oneshot():
        return Moment(
            time.monotonic() - began,
            tally.requests,
            server.process.memory_info().rss / 1e6,
            server.process.num_threads(),
            server.process.num_fds(),
        )


def held_mt(db: Database) -> int:
    """What all accounts together hold."""
    with db.read() as session:
        return int(session.exec(select(func.coalesce(func.sum(Account.held_mt), 0))).one())


def open_ends(db: Database) -> dict[str, int]:
    """Holds, jobs and webhooks without an end."""
    with db.read() as session:
        return {
            "holds": session.exec(select(func.count()).select_from(Hold).where(Hold.status == "held")).one(),
            "jobs": session.exec(select(func.count()).select_from(Job).where(Job.status != "finished")).one(),
            "webhooks": session.exec(
                select(func.count())
                .select_from(WebhookDelivery)
                .where(col(WebhookDelivery.delivered_at).is_(None), col(WebhookDelivery.given_up_at).is_(None))
            ).one(),
        }


def wait_until_quiet(db: Database, server: ServerProcess, tally: Tally, began: float, idle_s: float) -> Moment:
    """Until nothing is open any more and idle threads have gone, at most a minute; what the server has then."""
    deadline = time.monotonic() + QUIET_S
    while time.monotonic() < deadline and any(open_ends(db).values()):
        time.sleep(0.2)
    threads = server.process.num_threads()
    quiet_since = time.monotonic()
    # Threads of requests end by themselves after ten idle seconds, when the next request comes by; a short run goes on
    # with those that it has.
    while time.monotonic() < min(deadline, quiet_since + idle_s):
        with contextlib.suppress(OSError):
            server.counts()
        if server.process.num_threads() != threads:
            threads, quiet_since = server.process.num_threads(), time.monotonic()
        time.sleep(1)
    return look(server, tally, began)


def run_workers(workers: list[Worker], rate: float, until: float) -> list[threading.Thread]:
    """Each does something at random moments, `rate` of them a second together."""

    def work(worker: Worker, pauses: random.Random) -> None:
        while time.monotonic() < until:
            worker.act()
            time.sleep(min(pauses.expovariate(rate / len(workers)), max(0.0, until - time.monotonic())))

    threads = [
        threading.Thread(target=work, args=(worker, random.Random(index)), daemon=True)
        for index, worker in enumerate(workers)
    ]
    for thread in threads:
        thread.start()
    return threads


def soak(
    server: ServerProcess, db: Database, neighbour: Neighbour, pictures: Pictures, arguments: argparse.Namespace
) -> bool:
    """The load, a line each minute, and the verdict."""
    tally = Tally()
    customers = open_customers(db, CUSTOMERS)
    (poor,) = open_customers(db, 1, balance_mt=1)
    workers = [
        Worker(server.port, customers, poor, pictures, neighbour, tally, arguments.seed + index)
        for index in range(WORKERS)
    ]
    seconds = arguments.minutes * 60
    warm_up_s = min(120.0, seconds * 0.25)
    idle_s = min(IDLE_S, seconds / 10)
    began = time.monotonic()
    for thread in run_workers(workers, arguments.rate, began + warm_up_s):
        thread.join()
    before = wait_until_quiet(db, server, tally, began, idle_s)
    print(f"  warm-up  {_line(before)}, quiet again", flush=True)
    start = time.monotonic()
    threads = run_workers(workers, arguments.rate, start + seconds - warm_up_s)
    moments: list[Moment] = []
    next_line = start + 60
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.5)
        moments.append(look(server, tally, began))
        if time.monotonic() >= next_line:
            next_line += 60
            print(
                f"  {(time.monotonic() - start) / 60:4.0f} min {_line(moments[-1])}, {held_mt(db)} mt held", flush=True
            )
    after = wait_until_quiet(db, server, tally, began, idle_s)
    print(f"  end      {_line(after)}, quiet again")
    print("  " + ", ".join(f"{count} × {name}" for name, count in sorted(tally.actions.items())))
    print("  answers: " + ", ".join(f"{count} × {status}" for status, count in sorted(tally.statuses.items())))
    return judge(server, db, neighbour, tally, before, after, moments)


def judge(
    server: ServerProcess,
    db: Database,
    neighbour: Neighbour,
    tally: Tally,
    before: Moment,
    after: Moment,
    moments: list[Moment],
) -> bool:
    """Print what was looked at, each with its verdict; whether all of it is well."""
    part = max(1, len(moments) // 5)
    early, late = (statistics.median(one.rss_mb for one in some) for some in (moments[:part], moments[-part:]))
    requests = moments[-1].requests - moments[0].requests
    ends = open_ends(db)
    with db.read() as session:
        accounts = session.exec(select(Account.id)).all()
        problems = [problem for account in accounts for problem in verify_ledger(session, account).problems]
        entries = session.exec(select(func.count()).select_from(Entry)).one()
        captures = session.exec(select(func.count()).select_from(Entry).where(Entry.kind == "capture")).one()
        results = session.exec(select(func.count()).select_from(Result)).one()
        delivered = session.exec(
            select(WebhookDelivery.job_id).where(col(WebhookDelivery.delivered_at).is_not(None))
        ).all()
    log = server.log.read_text(errors="replace")
    slope = _slope_mb_h(moments)
    is_long = moments[-1].second - moments[0].second >= LONG_S
    checks = [
        (f"every answer as it should be ({len(tally.wrong)} were not)", not tally.wrong),
        ("no traceback in the log", "Traceback" not in log),
        (
            f"memory: {early:.1f} MB in the first fifth of the load, {late:.1f} MB in the last; "
            f"{slope:+.1f} MB an hour, "
            f"{(late - early) * 1000 / max(1, requests):+.2f} kB a request",
            late - early <= (MEMORY_MORE_MAX_MB if is_long else MEMORY_MORE_MAX_SHORT_MB),
        ),
        (
            f"threads: {before.threads} after the warm-up, {after.threads} at the end",
            after.threads <= before.threads + THREADS_MORE_MAX,
        ),
        (
            f"open files: {before.files} after the warm-up, {after.files} at the end",
            after.files <= before.files + FILES_MORE_MAX,
        ),
        (f"nothing open at the end: {ends}, {held_mt(db)} mt held", not any(ends.values()) and held_mt(db) == 0),
        (f"{captures} charges and {results} results", captures == results),
        (
            f"{len(delivered)} webhooks delivered, each received",
            all(neighbour.told[job_id] >= 1 for job_id in delivered),
        ),
        (f"ledger of {entries} entries verifies", not problems),
    ]
    for words, is_well in checks:
        print(f"  {'ok ' if is_well else 'NOT'}  {words}")
    for line in [*tally.wrong[:10], *map(str, problems[:10])]:
        print(f"       {line}")
    return all(is_well for _words, is_well in checks)


def _line(moment: Moment) -> str:
    return (
        f"{moment.requests:7,} requests   {moment.rss_mb:7.1f} MB   {moment.threads:3} threads   {moment.files:3} files"
    )


def _slope_mb_h(moments: list[Moment]) -> float:
    """Megabytes an hour, by least squares."""
    if len(moments) < 2:
        return 0.0
    return statistics.linear_regression([one.second for one in moments], [one.rss_mb for one in moments]).slope * 3600


@contextmanager
def opened(arguments: argparse.Namespace) -> Iterator[tuple[ServerProcess, Database, Neighbour, Pictures]]:
    """A server with its database, and a neighbour that it may call."""
    with tempfile.TemporaryDirectory(prefix="visionmeter-soak-", dir=arguments.folder) as name:
        folder = Path(name)
        url = arguments.database_url or f"sqlite:///{folder}/soak.db"
        pictures = Pictures(arguments.seed)
        neighbour = Neighbour(pictures)
        settings = {
            "VISIONMETER_DATA_DIR": str(folder / "data"),
            "VISIONMETER_DATABASE_URL": url,
            "VISIONMETER_FETCH_ALLOWED_HOSTS": neighbour.host,
            "VISIONMETER_RATE_REQUESTS_PER_S": "1000",
            "VISIONMETER_RATE_IMAGES_PER_MINUTE": "10000",
            "VISIONMETER_HOLD_LEASE_S": "10",
        }
        db = Database(url)
        db.migrate()
        try:
            with started("gateway", folder, settings, model=arguments.model) as server:
                yield server, db, neighbour, pictures
        finally:
            db.close()
            neighbour.close()


def main() -> None:
    """Run it and print the verdict; the exit status says it too."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=float, default=6, help="actions a second, of all clients together")
    parser.add_argument("--model", action="store_true", help="run the embedded model")
    parser.add_argument("--seed", type=int, default=20261124)
    parser.add_argument("--database-url", help="an empty database; SQLite in a temporary folder by default")
    parser.add_argument("--folder", type=Path, help="where to write; the folder of temporary files by default")
    arguments = parser.parse_args()
    engine = f"the embedded model at {IMG_SIZE} pixels" if arguments.model else "an engine that takes no time"
    print(
        f"{arguments.minutes:g} minutes, {arguments.rate:g} actions a second of {WORKERS} clients, {engine}, "
        f"seed {arguments.seed}, load {os.getloadavg()[0]:.1f} at the start",
        flush=True,
    )
    with opened(arguments) as parts:
        is_well = soak(*parts, arguments)
    print(f"{'all is well' if is_well else 'NOT well'}, load {os.getloadavg()[0]:.1f} at the end")
    raise SystemExit(0 if is_well else 1)


if __name__ == "__main__":
    main()
