"""A real server, a real Chromium. Skipped by name where there is no Chromium."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

from tests.conftest import place_weights

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 120
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def find_chromium() -> str | None:
    """The Chromium to drive: from the environment, else from the PATH."""
    return (
        os.environ.get("VISIONMETER_TEST_CHROMIUM")
        or shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """A portal in a process of its own, on its own data folder."""

    data_dir: Path
    port: int
    command: str = "streamlit"
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "VISIONMETER_DATA_DIR": str(self.data_dir),
            "VISIONMETER_WEIGHTS_DIR": str(self.data_dir / "weights"),
        }

    def start(self) -> None:
        """Start and wait until it is ready."""
        if self.command == "streamlit":
            args = ["streamlit", "run", "app.py", "--server.port", str(self.port), "--server.headless", "true"]
        else:
            args = ["uvicorn", "app:app", "--port", str(self.port), "--host", "localhost"]
        place_weights(self.data_dir / "weights")
        log = (self.data_dir / "server.log").open("ab")
        self.process = subprocess.Popen([sys.executable, "-m", *args], cwd=ROOT, env=self.env, stdout=log, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.url}/v1/readyz", timeout=2) as response:
                    if response.status == 200:
                        return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError((self.data_dir / "server.log").read_text()[-4000:])

    def stop(self) -> None:
        """Stop the process that `start` made."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no Chromium here: install Debian's chromium, or set VISIONMETER_TEST_CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGS)
        new_context = browser.new_context

        def watched_context(**options: Any) -> BrowserContext:
            context = new_context(**options)
            context.on("console", lambda message: _note(message.text))
            return context

        browser.new_context = watched_context  # type: ignore[method-assign]  # so that every journey is watched
        yield browser
        browser.close()


_violations: list[str] = []


def _note(text: str) -> None:
    if "Content Security Policy" in text or "Permissions policy" in text:
        _violations.append(text)


@pytest.fixture(autouse=True)
def violations() -> Iterator[list[str]]:
    """What a page did that our own policy forbids: nothing, unless a test takes it out of here."""
    _violations.clear()
    yield _violations
    assert not _violations, _violations


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if find_chromium() is None:
        pytest.skip("no Chromium here: install Debian's chromium, or set VISIONMETER_TEST_CHROMIUM")
    server = Server(tmp_path_factory.mktemp("portal"), free_port())
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def artifacts() -> Path:
    """Where the screenshots go."""
    folder = Path(os.environ.get("VISIONMETER_TEST_ARTIFACTS", ROOT / "test-artifacts"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def settle(page: Page) -> None:
    """Wait until Streamlit has finished the run in hand."""
    expect(page.get_by_test_id("stApp")).to_be_visible(timeout=60_000)
    page.wait_for_timeout(150)
    expect(page.get_by_test_id("stApp")).to_have_attribute(
        "data-test-script-state", re.compile("notRunning|initial"), timeout=60_000
    )
    page.wait_for_timeout(150)


def sign_up(page: Page, url: str, email: str, password: str = "correct horse battery") -> None:
    """Create an account through the form, as a person does."""
    page.goto(url)
    form = page.get_by_role("tabpanel").filter(visible=True)
    address = form.get_by_role("textbox").nth(0)
    button = form.get_by_role("button", name=re.compile("Create account|创建账户"))
    for _ in range(8):
        # A page that is still coming may draw the tabs anew, and with them an empty form.
        page.get_by_role("tab").nth(1).click()
        address.fill(email)
        form.locator("input[type=password]").fill(password)
        page.wait_for_timeout(300)
        if button.is_visible() and address.input_value() == email:
            break
    button.click()
    expect(page.get_by_test_id("stMetricValue").first).to_be_visible(timeout=60_000)
    settle(page)


def sign_in(page: Page, email: str, password: str = "correct horse battery") -> None:
    """Fill in the sign-in form that is on the page."""
    form = page.get_by_role("tabpanel").filter(visible=True)
    form.get_by_role("textbox").nth(0).fill(email)
    form.locator("input[type=password]").fill(password)
    form.get_by_role("button", name=re.compile("Sign in|登录")).click()


def click_row(table: Locator, row: int = 0, *, then: Locator) -> None:
    """Select a row of a dataframe until `then` is seen and can be used: its cells are drawn on a canvas, so there is
    nothing to wait for before the click, and a page that still moves lets it miss.
    """
    assert not (then.is_visible() and then.is_enabled()), "what is to follow the click is there before it"
    # An odd number: should a click that seemed to miss be late, the next takes the selection back.
    for last in (False, False, True):
        table.scroll_into_view_if_needed()
        box = table.bounding_box()
        assert box is not None
        table.page.mouse.click(box["x"] + 16, box["y"] + 52 + 35 * row)
        settle(table.page)
        try:
            expect(then).to_be_visible(timeout=15_000)
            expect(then).to_be_enabled(timeout=15_000)
            return
        except AssertionError:
            if last:
                raise


def wait_signed_out(context: BrowserContext) -> None:
    """Wait until the browser has dropped its session: the page asks for that once it is drawn."""
    deadline = time.monotonic() + 30
    while "visionmeter_session" in {one["name"] for one in context.cookies()}:
        assert time.monotonic() < deadline, "the cookie of the session is still there"
        time.sleep(0.1)


def balance(page: Page) -> str:
    """The balance in the sidebar, such as `20.000`."""
    return page.locator(".st-key-balance").get_by_test_id("stMetricValue").inner_text().split()[0]
