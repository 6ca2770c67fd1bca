"""What a detection costs beside the model: the whole gateway with an engine that takes no time, stage by stage.

Real requests go over real connections to a real uvicorn process, which authenticates, reads the form, decodes the
picture, quotes, holds, stores, captures and answers; only `Engine.submit` is replaced by one that answers at once with
fixed detections (bench/gateway_server.py). Each picture is a photograph of 640 × 640 pixels that its account has not
sent before, so each is charged. Each client is a process with one connection that is kept open. The baseline in the
same run, in turns, is a bare Starlette endpoint in the same kind of process: it reads the same form, decodes the same
JPEG and answers with JSON of the same size.

    python bench/gateway.py [--rounds 5] [--requests 320] [--only sqlite] [--postgres-url URL]

Closed loop: each client sends its next request when it has the answer to the last one, so many clients keep the machine
saturated, and what they wait for is each other. Paced: requests come at random times, whether others were answered or
not, at half the rate that the saturated machine managed; a request counts from the moment when it was due.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import postgres
from bench.gateway_server import ServerProcess, started
from bench.ledger import describe_machine, spread
from core.db import Database
from core.identity import api_keys
from core.identity.tables import ApiKey, User
from core.ledger import ledger, spending

SEED = 20261124
CLIENTS = 16
P99_MS_TARGET = 50
MEAN_MS_TARGET = 50
PHOTO_PX = 640
BALANCE_MT = 10**9
WARM_UP_REQUESTS = 40
BOUNDARY = "visionmeter-bench"
STAGES = ("fetch", "decode", "hold", "wait", "model", "capture")
MODEL = "yolov8s-fall"
# A limit that is not reached: how fast a key may ask is not what is measured.
SETTINGS = {"VISIONMETER_RATE_REQUESTS_PER_S": "10000", "VISIONMETER_RATE_IMAGES_PER_MINUTE": "100000"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer as its client saw it: seconds by the machine's clock, and the stages that the answer tells of."""

    due_at: float
    answered_at: float
    times_ms: dict[str, float]

    @property
    def ms(self) -> float:
        """What the client waited."""
        return (self.answered_at - self.due_at) * 1000


@dataclass(frozen=True, slots=True)
class Load:
    """Requests for one client: which secret it shows, which bodies it sends, and when, if it is paced."""

    secret: str
    bodies: Sequence[bytes]
    due_s: Sequence[float] | None = None


@dataclass
class Seen:
    """All samples of one kind of load, and what each round of it came to."""

    samples: list[Sample] = field(default_factory=list)
    means_ms: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


# Pictures -------------------------------------------------------------------------------------------


def make_bodies(count: int) -> list[bytes]:
    """Forms with so many photographs, all different: pieces of those in the ultralytics wheel, encoded anew."""
    import cv2
    from ultralytics.utils import ASSETS

    photos = [cv2.imread(str(Path(ASSETS) / name)) for name in ("bus.jpg", "zidane.jpg")]
    corners = [
        (index, top, left)
        for index, photo in enumerate(photos)
        for top in range(photo.shape[0] - PHOTO_PX + 1)
        for left in range(photo.shape[1] - PHOTO_PX + 1)
    ]
    bodies = []
    for index, top, left in random.Random(SEED).sample(corners, count):
        piece = photos[index][top : top + PHOTO_PX, left : left + PHOTO_PX]
        done, jpeg = cv2.imencode(".jpg", piece, [int(cv2.IMWRITE_JPEG_QUALITY), 88])
        assert done
        bodies.append(make_form(f"{index}-{top}-{left}.jpg", jpeg.tobytes()))
    return bodies


def make_form(name: str, data: bytes) -> bytes:
    """A form as an HTTP library makes it: one file and two fields."""
    form = io.BytesIO()
    for field_name, value in (("model", MODEL), ("img_size", "640")):
        form.write(f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field_name}"\r\n\r\n{value}\r\n'.encode())
    form.write(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: image/jpeg\r\n\r\n".encode()
    )
    form.write(data)
    form.write(f"\r\n--{BOUNDARY}--\r\n".encode())
    return form.getvalue()


# Customers ------------------------------------------------------------------------------------------


def open_customers(db: Database, count: int, *, balance_mt: int = BALANCE_MT) -> list[str]:
    """So many new accounts, by default with more than the benchmark takes; the secret of a key of each."""
    secrets = [api_keys.make_secret() for _ in range(count)]
    with db.write() as session:
        for secret in secrets:
            account_id = ledger.open_account(session, "bench").id
            ledger.post_top_up(session, account_id, balance_mt, source="house:bench", actor="bench")
            user = User(account_id=account_id, email=f"{account_id}@example.com", password_digest="none")
            session.add(user)
            session.flush()
            budget = spending.open_budget(session, account_id, day_cap_mt=None, month_cap_mt=None)
            key = ApiKey(
                account_id=account_id, created_by=user.id, name="bench", budget_id=budget.id, prefix="", digest=""
            )
            api_keys.store_key(session, secret, key)
    return secrets


# Clients --------------------------------------------------------------------------------------------


def run_client(port: int, load: Load, pipe: Connection) -> None:
    """One client: connect, wait for the start, send, and report."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.connect()
    headers = {
        "Authorization": f"Bearer {load.secret}",
        "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
    }
    samples = []
    pipe.send("ready")
    start = pipe.recv()
    for index, body in enumerate(load.bodies):
        due_at = time.monotonic()
        if load.due_s is not None:
            due_at = start + load.due_s[index]
            time.sleep(max(0.0, due_at - time.monotonic()))
        connection.request("POST", "/v1/detect", body=body, headers=headers)
        answer = connection.getresponse()
        content = answer.read()
        answered_at = time.monotonic()
        if answer.status != 200:
            raise SystemExit(f"the server answered {answer.status}: {content[:500]!r}")
        usage = json.loads(content).get("usage", {})
        if usage.get("cached"):
            raise SystemExit("a picture was free: the figures would mean nothing")
        samples.append(Sample(due_at, answered_at, usage.get("times_ms", {})))
    pipe.send(samples)


def run_clients(server: ServerProcess, loads: Sequence[Load], seen: Seen, *, counted: bool = False) -> None:
    """All clients at once, each in a process of its own."""
    fork = multiprocessing.get_context("fork")  # the bodies are shared, not copied
    pipes, processes = [], []
    for load in loads:
        ours, theirs = fork.Pipe()
        processes.append(fork.Process(target=run_client, args=(server.port, load, theirs)))
        processes[-1].start()
        theirs.close()
        pipes.append(ours)
    try:
        for pipe in pipes:
            pipe.recv()
        before = server.counts() if counted else Counter()
        cpu_s = server.cpu_s()
        start = time.monotonic()
        for pipe in pipes:
            pipe.send(start)
        samples = [sample for pipe in pipes for sample in pipe.recv()]
    except EOFError:
        raise SystemExit(f"a client failed; the server's log ends:\n{server.log.read_text()[-2000:]}") from None
    finally:
        for process in processes:
            process.join(5)
            process.kill()
    seen.samples += samples
    seen.means_ms.append(statistics.mean(sample.ms for sample in samples))
    seen.rates.append(len(samples) / (max(sample.answered_at for sample in samples) - start))
    seen.cpu_ms.append((server.cpu_s() - cpu_s) * 1000 / len(samples))
    if counted:
        seen.counts += server.counts() - before


def deal(bodies: Sequence[bytes], secrets: Sequence[str], *, rate: float | None = None) -> list[Load]:
    """Bodies dealt out to clients like cards; at random times of so many a second when there is a rate."""
    clients = len(secrets)
    moments: list[float] | None = None
    if rate is not None:
        gaps = random.Random(SEED)
        moment, moments = 0.0, []
        for _ in bodies:
            moment += gaps.expovariate(rate)
            moments.append(moment)
    return [
        Load(secret, bodies[index::clients], moments and moments[index::clients])
        for index, secret in enumerate(secrets)
    ]


# Measuring ------------------------------------------------------------------------------------------


def measure(
    name: str, gateway: ServerProcess, bare: ServerProcess, db: Database, bodies: list[bytes], rounds: int
) -> None:
    """One client, many, many on one account, many paced; each against the bare endpoint, in turns; prints figures."""
    print(f"{name}, an engine that takes no time, {rounds} rounds of {len(bodies)} requests in turns")
    run_clients(gateway, deal(bodies[:WARM_UP_REQUESTS], open_customers(db, 4)), Seen())
    run_clients(bare, deal(bodies[:WARM_UP_REQUESTS], ["none"] * 4), Seen())
    kinds = {
        "1 client": 1,
        f"{CLIENTS} clients, an account each": CLIENTS,
        f"{CLIENTS} clients of one account": CLIENTS,
    }
    seen = {kind: Seen() for kind in kinds}
    plain = {kind: Seen() for kind in kinds}
    for _ in range(rounds):
        for kind, clients in kinds.items():
            run_clients(bare, deal(bodies, ["none"] * clients), plain[kind])
            secrets = open_customers(db, 1) * clients if "one account" in kind else open_customers(db, clients)
            run_clients(gateway, deal(bodies, secrets), seen[kind], counted=True)
    for kind in kinds:
        report(kind, seen[kind], plain[kind])
    saturated = seen[f"{CLIENTS} clients, an account each"]
    rate = statistics.median(saturated.rates) / 2
    paced, paced_plain = Seen(), Seen()
    for _ in range(rounds):
        run_clients(bare, deal(bodies, ["none"] * CLIENTS, rate=rate), paced_plain)
        run_clients(gateway, deal(bodies, open_customers(db, CLIENTS), rate=rate), paced, counted=True)
    report(f"{CLIENTS} clients, an account each, paced: {rate:.0f} a second", paced, paced_plain)
    alone = cut(seen["1 client"], 99)
    print(f"  p99 with 1 client: {verdict(alone, P99_MS_TARGET)}")
    for words, one in ((f"{CLIENTS} clients", saturated), (f"{CLIENTS} clients, paced", paced)):
        print(f"  mean with {words}: {verdict(statistics.mean(sample.ms for sample in one.samples), MEAN_MS_TARGET)}")


def report(kind: str, seen: Seen, plain: Seen) -> None:
    """What clients waited and where it went, against the bare endpoint."""
    print(f"  {kind}")
    for words, one in (("gateway", seen), ("bare endpoint", plain)):
        print(
            f"    {words:<14} mean {statistics.mean(sample.ms for sample in one.samples):7.1f} ms   "
            f"p50 {cut(one, 50):7.1f}   p95 {cut(one, 95):7.1f}   p99 {cut(one, 99):7.1f}   "
            f"{statistics.median(one.rates):6.0f} a second   {statistics.median(one.cpu_ms):5.1f} ms of CPU each"
        )
    means = [one / other for one, other in zip(seen.means_ms, plain.means_ms, strict=True)]
    cpus = [one / other for one, other in zip(seen.cpu_ms, plain.cpu_ms, strict=True)]
    print(f"    gateway / bare, mean: {spread(means)}; CPU: {spread(cpus)}")
    stages = {stage: _mean_stage(seen, stage) for stage in STAGES}
    handler = _mean_stage(seen, "total") - sum(stages.values())
    outside = statistics.mean(sample.ms for sample in seen.samples) - _mean_stage(seen, "total")
    parts = {**stages, "rest": handler, "outside": outside}
    print("    mean ms by stage: " + "  ".join(f"{name} {ms:.1f}" for name, ms in parts.items()))
    answers = len(seen.samples)
    print(
        f"    for each answer: {seen.counts['statements'] / answers:.1f} SQL statements, "
        f"{seen.counts['commits'] / answers:.2f} commits"
    )


def cut(seen: Seen, percent: int) -> float:
    """The milliseconds below which so many percent of the answers lie."""
    return statistics.quantiles([sample.ms for sample in seen.samples], n=100, method="inclusive")[percent - 1]


def verdict(value_ms: float, target_ms: float) -> str:
    """A figure beside its target."""
    return f"{value_ms:.1f} ms, {'below' if value_ms < target_ms else 'NOT below'} {target_ms} ms"


def _mean_stage(seen: Seen, stage: str) -> float:
    return statistics.mean(sample.times_ms.get(stage, 0.0) for sample in seen.samples)


# Databases ------------------------------------------------------------------------------------------


@contextmanager
def opened_database(url: str) -> Iterator[Database]:
    """A migrated database."""
    db = Database(url)
    try:
        db.migrate()
        yield db
    finally:
        db.close()


def measure_database(name: str, url: str, folder: Path, bare: ServerProcess, bodies: list[bytes], rounds: int) -> None:
    """A gateway of its own on a database."""
    folder.mkdir()
    settings = {**SETTINGS, "VISIONMETER_DATA_DIR": str(folder / "data"), "VISIONMETER_DATABASE_URL": url}
    with opened_database(url) as db, started("gateway", folder, settings) as gateway:
        measure(name, gateway, bare, db, bodies, rounds)


def main() -> None:
    """Measure and print."""
    import sqlite3

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=320, help="requests of each kind in a round")
    parser.add_argument("--folder", type=Path, help="where to write; the folder of temporary files by default")
    parser.add_argument("--postgres-url", help="a server to make a database on; else a throw-away cluster")
    parser.add_argument("--only", choices=("sqlite", "postgresql"))
    arguments = parser.parse_args()
    bodies = make_bodies(arguments.requests)
    with (
        tempfile.TemporaryDirectory(prefix="visionmeter-bench-", dir=arguments.folder) as name,
        started("bare", Path(name)) as bare,
    ):
        folder = Path(name)
        size = statistics.mean(map(len, bodies))
        print(f"{describe_machine(folder)}, seed {SEED}; a ratio is a median (least to greatest of the rounds)")
        print(f"photographs of {PHOTO_PX} × {PHOTO_PX}, {size / 1000:.0f} kB each; CPU is that of the server alone")
        if arguments.only != "postgresql":
            words = f"SQLite {sqlite3.sqlite_version} WAL synchronous=FULL"
            url = f"sqlite:///{folder}/sqlite/bench.db"
            measure_database(words, url, folder / "sqlite", bare, bodies, arguments.rounds)
        if arguments.only != "sqlite":
            with postgres.durable_server(arguments.postgres_url, arguments.folder) as server:
                if server is None:
                    print("PostgreSQL: not measured, no initdb here and no --postgres-url")
                else:
                    database = f"bench_{os.urandom(6).hex()}"
                    url = postgres.add_database(server, database)
                    try:
                        measure_database(
                            postgres.describe(server), url, folder / "postgresql", bare, bodies, arguments.rounds
                        )
                    finally:
                        postgres.drop_database(server, database)
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
