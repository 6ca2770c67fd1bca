"""How long a rerun of each page takes with twenty people at work and a year of data, and where the time goes.

One server, as `make run` starts it, on a ledger of a year (`bench/history.py`), nearly all of it one customer's. His
pages are opened and rerun over Streamlit's own websocket, as a browser does. First by one tab alone, page by page: what
the server says of each rerun is the breakdown (script, its CPU time, its SQL). Then by twenty tabs at once: each opens
pages at random, reruns each a few times, and thinks in between. Meanwhile a picture of his is recorded every few
seconds, so what was drawn before it is drawn again. One more tab stays on the sign-in page: its rerun does next to
nothing, and is the baseline.

    python bench/pages.py [--entries 1000000] [--tabs 20] [--think 4] [--seconds 180]
        [--picture-every 10] [--first-paint]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402  # the path comes first
from streamlit.proto.BackMsg_pb2 import BackMsg  # noqa: E402  # the path comes first
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg  # noqa: E402  # the path comes first
from websockets.sync.client import ClientConnection, connect  # noqa: E402  # the path comes first

from bench.rerun_latency import percentile  # noqa: E402  # the path comes first
from bench.serving import free_port, plain_environment, running  # noqa: E402  # the path comes first

SIGN_IN = "sign-in"
# Detect is the page without a name.
PAGES = ("", "top_up", "receipts", "usage", "savings", "api_keys", "account", "admin")
RERUNS_A_VISIT = 4
ALONE = 15
GOAL_MS = 250


# In the process of the server -----------------------------------------------------------------------


def serve(port: int) -> None:
    """The whole application, and `/bench` beside it: what each script run took."""
    import uvicorn
    from sqlalchemy import event
    from sqlalchemy.engine import Engine
    from starlette.responses import JSONResponse
    from streamlit.runtime.scriptrunner.script_runner import ScriptRunner

    runs: list[dict[str, float]] = []
    here = threading.local()
    run_script = ScriptRunner._run_script

    def timed_run(self: ScriptRunner, rerun_data: Any) -> None:
        here.sql_s, here.statements = 0.0, 0
        wall, cpu = time.perf_counter(), time.thread_time()
        run_script(self, rerun_data)
        runs.append(
            {
                "script_ms": (time.perf_counter() - wall) * 1000,
                "cpu_ms": (time.thread_time() - cpu) * 1000,
                "sql_ms": here.sql_s * 1000,
                "statements": here.statements,
            }
        )

    def before(*_arguments: Any) -> None:
        here.began = time.perf_counter()

    def after(*_arguments: Any) -> None:
        if hasattr(here, "sql_s"):
            here.sql_s += time.perf_counter() - here.began
            here.statements += 1

    ScriptRunner._run_script = timed_run  # type: ignore[method-assign]  # a look at it from outside
    event.listen(Engine, "before_cursor_execute", before)
    event.listen(Engine, "after_cursor_execute", after)
    from app import app

    async def with_runs(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/bench":
            answer, runs[:] = list(runs), []
            await JSONResponse(answer)(scope, receive, send)
            return
        await app(scope, receive, send)

    uvicorn.run(with_runs, host="127.0.0.1", port=port, access_log=False, log_level="warning")


@contextmanager
def served(data_dir: Path) -> Iterator[tuple[int, psutil.Process]]:
    """A server on a folder of data; gives its port and its process, stops it at the end."""
    port = free_port()
    command = [sys.executable, str(Path(__file__).resolve()), "--serve", str(port)]
    environment = plain_environment({"VISIONMETER_DATA_DIR": str(data_dir)})
    with running(command, port, data_dir / "server.log", environment) as process:
        yield port, psutil.Process(process.pid)


@contextmanager
def memory_watched(process: psutil.Process, every_s: float) -> Iterator[list[float]]:
    """The process's resident megabytes, again and again; complete at the end."""
    megabytes: list[float] = []

    def look() -> None:
        megabytes.append(process.memory_info().rss / 1e6)

    look()
    with repeating(look, every_s):
        yield megabytes


def take_runs(port: int) -> list[dict[str, float]]:
    """What the script runs since the last question took."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/bench", timeout=10) as answer:
        runs: list[dict[str, float]] = json.load(answer)
    return runs


# A year of data -------------------------------------------------------------------------------------


def write_year(data_dir: Path, entries: int, tabs: int) -> tuple[str, list[str]]:
    """Write it, and sign the heavy customer in so many times; gives his id and the tokens of his cookies."""
    from bench.history import Plan, write_history
    from core.config import Settings
    from core.db import Database, utcnow
    from core.identity import sessions
    from core.identity.tables import User
    from core.pricing.book import adopt_published, current_prices
    from core.services import audit, roll_ups

    data_dir.mkdir(parents=True, exist_ok=True)
    db = Database(Settings(_env_file=None, data_dir=data_dir).sqlalchemy_url)
    db.migrate()
    with db.write() as session:
        adopt_published(session)
        version = current_prices(session).version
    now = utcnow()
    plan = Plan(
        entries=entries,
        accounts=5,
        first_share=0.9,
        start=now - timedelta(days=365),
        end=now,
        with_runs=True,
        price_version=version,
    )
    heavy = write_history(db, plan)[0]
    # Else the keeper would do it meanwhile.
    roll_ups.roll_up(db)
    audit.seal(db)
    tokens = []
    with db.write() as session:
        user = session.get_one(User, heavy.user_id)
        user.is_operator = True
        session.add(user)
        session.flush()
        for _ in range(tabs):
            ticket = sessions.issue_ticket(session, heavy.user_id)
            tokens.append(sessions.exchange_ticket(session, ticket, session_ttl=timedelta(hours=10)))
    db.close()
    return heavy.user_id, tokens


@contextmanager
def pictures_coming(data_dir: Path, user_id: str, every_s: float) -> Iterator[None]:
    """Record a picture of this user again and again, as his runs would."""
    from core.config import Settings
    from core.db import Database
    from core.identity.tables import User
    from core.usage.records import add_record
    from core.usage.tables import UsageRecord

    db = Database(Settings(_env_file=None, data_dir=data_dir).sqlalchemy_url)

    def record() -> None:
        with db.write() as session:
            account_id = session.get_one(User, user_id).account_id
            add_record(
                session,
                UsageRecord(
                    account_id=account_id, actor=user_id, model="yolov8s", model_version="bench", img_size=640,
                    input_height=640, input_width=640, amount_mt=1000, outcome="charged", wait_ms=20, model_ms=200,
                    class_counts={"person": 2},
                ),
            )  # fmt: skip

    try:
        with repeating(record, every_s):
            yield
    finally:
        db.close()


@contextmanager
def repeating(deed: Callable[[], None], every_s: float) -> Iterator[None]:
    """Do something every so many seconds, in a thread of its own."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(every_s):
            deed()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# In a tab -------------------------------------------------------------------------------------------


class Tab:
    """A browser tab as the server sees it."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._hash, self._page = "", ""

    def go(self, page: str) -> float:
        """Open a page; milliseconds until its script has finished."""
        self._hash, self._page = "", page
        return self.rerun()

    def rerun(self) -> float:
        """Rerun the page that is open; milliseconds until its script has finished."""
        message = BackMsg()
        message.rerun_script.query_string = ""
        message.rerun_script.page_script_hash = self._hash
        message.rerun_script.page_name = self._page if not self._hash else ""
        started = time.perf_counter()
        self._connection.send(message.SerializeToString())
        while True:
            data = self._connection.recv(timeout=120)
            answer = ForwardMsg.FromString(data if isinstance(data, bytes) else data.encode())
            kind = answer.WhichOneof("type")
            if kind == "navigation":
                self._hash = answer.navigation.page_script_hash
            if kind == "script_finished":
                if answer.script_finished != ForwardMsg.FINISHED_SUCCESSFULLY:
                    raise SystemExit(f"page {self._page or 'detect'} did not finish: the figures would mean nothing")
                return (time.perf_counter() - started) * 1000


@contextmanager
def opened_tab(port: int, token: str | None) -> Iterator[Tab]:
    """A tab of somebody who is signed in by a cookie, or of nobody."""
    from core.config import SESSION_COOKIE

    with connect(
        f"ws://127.0.0.1:{port}/_stcore/stream",
        origin=f"http://127.0.0.1:{port}",
        subprotocols=["streamlit"],
        additional_headers={"Cookie": f"{SESSION_COOKIE}={token}"} if token else None,
        max_size=None,
    ) as connection:
        yield Tab(connection)


class Times:
    """Milliseconds by page and by what was done."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self.of: dict[tuple[str, str], list[float]] = defaultdict(list)

    def add(self, page: str, deed: str, milliseconds: float) -> None:
        """Keep one figure."""
        with self._mutex:
            self.of[page, deed].append(milliseconds)


def alone(port: int, token: str) -> tuple[Times, dict[str, dict[str, float]]]:
    """One tab, page by page; and the medians of what the server says of a rerun."""
    times, breakdown = Times(), {}
    with opened_tab(port, token) as tab, opened_tab(port, None) as outside:
        for _ in range(ALONE):
            times.add(SIGN_IN, "rerun", outside.rerun())
        for page in PAGES:
            times.add(page, "open", tab.go(page))
            take_runs(port)
            for _ in range(ALONE):
                times.add(page, "rerun", tab.rerun())
            runs = take_runs(port)
            breakdown[page] = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    return times, breakdown


def together(port: int, tokens: list[str], *, think_s: float, seconds: float) -> Times:
    """Every tab on its own path through the pages, thinking `think_s` on the mean between two clicks."""
    times = Times()
    ends_at = time.monotonic() + seconds
    failures: list[BaseException] = []

    def work(number: int, token: str | None) -> None:
        draw = random.Random(number)
        try:
            with opened_tab(port, token) as tab:
                tab.rerun()
                while time.monotonic() < ends_at:
                    page = draw.choice(PAGES) if token else SIGN_IN
                    if token:
                        times.add(page, "open", tab.go(page))
                    for _ in range(RERUNS_A_VISIT):
                        time.sleep(draw.expovariate(1 / think_s))
                        times.add(page, "rerun", tab.rerun())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=item) for item in enumerate([*tokens, None])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return times


def first_paint(port: int, token: str) -> dict[str, float]:
    """Milliseconds in a real browser from the address of Detect, signed in, to paints and to the finished page."""
    from playwright.sync_api import sync_playwright

    from core.config import SESSION_COOKIE

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("VISIONMETER_TEST_CHROMIUM"), args=["--no-sandbox"]
        )
        figures: dict[str, list[float]] = defaultdict(list)
        for number in range(6):
            context = browser.new_context()
            context.add_cookies([{"name": SESSION_COOKIE, "value": token, "url": f"http://127.0.0.1:{port}"}])
            page = context.new_page()
            for kind in ("cold cache", "warm cache"):
                started = time.perf_counter()
                page.goto(f"http://127.0.0.1:{port}/")
                page.locator(".st-key-balance").wait_for()
                balance = (time.perf_counter() - started) * 1000
                paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
                if number:  # the first browser of all reads everything from the disk
                    figures[f"{kind}, first contentful paint"].append(paint)
                    figures[f"{kind}, balance shown"].append(balance)
            context.close()
        browser.close()
    return {name: statistics.median(values) for name, values in figures.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--entries", type=int, default=1_000_000, help="entries of the ledger in that year")
    parser.add_argument("--tabs", type=int, default=20)
    parser.add_argument("--think", type=float, default=4.0, help="mean seconds between two clicks in a tab")
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--picture-every", type=float, default=10.0, help="seconds between two new pictures of his")
    parser.add_argument("--first-paint", action="store_true", help="in Chromium, by Playwright")
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    with ExitStack() as stack:
        data_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="visionmeter-bench-"))) / "data"
        user_id, tokens = write_year(data_dir, arguments.entries, arguments.tabs)
        port, process = stack.enter_context(served(data_dir))
        one, breakdown = alone(port, tokens[0])
        painted = first_paint(port, tokens[0]) if arguments.first_paint else {}
        load_before = os.getloadavg()[0]
        with pictures_coming(data_dir, user_id, arguments.picture_every), memory_watched(process, 30) as megabytes:
            many = together(port, tokens, think_s=arguments.think, seconds=arguments.seconds)

    print(
        f"{arguments.entries:,} entries in a year, nine tenths of them his; {os.cpu_count()} cores, "
        f"load {load_before:.1f} before\n{arguments.tabs} tabs, a click every {arguments.think:.0f} s on the mean in "
        f"each, {arguments.seconds:.0f} s; a new picture of his every {arguments.picture_every:.0f} s"
    )
    print(f"{'':10}{'a tab alone, median ms':>40}{'':6}{'all tabs, rerun ms':>22}{'opened':>10}")
    print(f"{'page':10}{'rerun':>8}{'script':>8}{'CPU':>8}{'SQL':>8}{'queries':>8}{'':6}", end="")
    print(f"{'p50':>8}{'p95':>8}{'n':>6}{'p95':>10}{'p95 ÷ sign-in':>16}")
    base = percentile(many.of[SIGN_IN, "rerun"], 95)
    worst = 0.0
    for page in (SIGN_IN, *PAGES):
        detail = breakdown.get(page, {})
        reruns, opened = many.of[page, "rerun"], many.of[page, "open"]
        p95 = percentile(reruns, 95)
        worst = max(worst, p95)
        print(f"{page or 'detect':10}{statistics.median(one.of[page, 'rerun']):8.1f}", end="")
        for name in ("script_ms", "cpu_ms", "sql_ms", "statements"):
            print(f"{detail.get(name, float('nan')):8.1f}", end="")
        print(f"{'':6}{percentile(reruns, 50):8.1f}{p95:8.1f}{len(reruns):6}{percentile(opened, 95):10.1f}", end="")
        print(f"{p95 / base:16.1f}")
    print(f"goal: p95 of every page below {GOAL_MS} ms: {'met' if worst < GOAL_MS else 'missed'} ({worst:.0f} ms)")
    print(f"  memory of the server, every 30 s: {', '.join(f'{one:,.0f}' for one in megabytes)} MB")
    for name, milliseconds in painted.items():
        print(f"  after sign-in, {name}: {milliseconds:.0f} ms")


if __name__ == "__main__":
    main()
