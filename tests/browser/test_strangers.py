"""Nobody sees another's pictures, runs, receipts or files, whatever addresses he knows; signed out, even less."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Server, settle, sign_up
from tests.browser.test_journey import new_context, run_button, upload, wait_for_results

pytestmark = pytest.mark.browser
OWNER, STRANGER = "owner@example.com", "stranger@example.com"
FILE = "my-secret-picture.jpg"
PAGES = ("", "receipts", "usage", "top_up", "account", "admin", "api_keys", "savings")


@dataclass
class Known:
    """What there is to know of a run."""

    run: str
    receipt: str
    media: str


def run_picture(page: Page, server: Server, picture: Path) -> Known:
    """The owner runs a picture, and lets slip all its addresses."""
    sign_up(page, server.url, OWNER)
    expect(page.locator(".st-key-balance")).to_be_visible(timeout=60_000)
    upload(page, picture)
    run_button(page).click(timeout=60_000)
    wait_for_results(page)
    page.wait_for_url(re.compile("run=job_"))
    drawn = page.locator("img[src*='/media/']:not([src$='.svg'])")
    expect(drawn.first).to_be_visible(timeout=60_000)
    run = page.url.partition("run=")[2].partition("&")[0]
    media = str(drawn.first.evaluate("image => image.src"))
    answer = page.request.get(f"{server.url}/v1/my-data.zip")
    with zipfile.ZipFile(io.BytesIO(answer.body())) as archive:
        receipts = list(csv.DictReader(io.StringIO(archive.read("receipts.csv").decode())))
    return Known(run, next(iter(receipts[0].values())), media)


def test_every_address_of_anothers(
    browser: Browser, server: Server, artifacts: Path, tmp_path: Path, photo_bytes: dict[str, bytes]
) -> None:
    """The owner opens them; to a stranger who knows them there is nothing; signed out it is the sign-in page."""
    mine, theirs, nobodys = new_context(browser), new_context(browser), new_context(browser)
    owner, stranger, outside = mine.new_page(), theirs.new_page(), nobodys.new_page()
    (tmp_path / FILE).write_bytes(photo_bytes["bus.jpg"])
    known = run_picture(owner, server, tmp_path / FILE)
    assert known.receipt.startswith("rcpt_")
    assert owner.request.get(known.media).status == 200

    sign_up(stranger, server.url, STRANGER)
    expect(stranger.locator(".st-key-balance")).to_be_visible(timeout=60_000)
    for page in (stranger, outside):
        assert page.request.get(known.media).status == 404, "a picture of another's page"
        assert page.request.head(known.media).status == 404
    for address, words in (
        (f"?run={known.run}", "There is no such run in your account"),
        (f"receipts?id={known.receipt}", "There is no such receipt in your account"),
    ):
        stranger.goto(f"{server.url}/{address}")
        expect(stranger.get_by_text(words)).to_be_visible(timeout=60_000)
    stranger.screenshot(path=artifacts / "stranger-receipt.png")
    for address in PAGES:
        stranger.goto(f"{server.url}/{address}")
        expect(stranger.locator(".st-key-balance")).to_be_visible(timeout=60_000)
        settle(stranger)
        text = stranger.inner_text("body")
        assert STRANGER in text
        assert OWNER not in text
        assert FILE not in text
    for address in (*PAGES, f"?run={known.run}", f"receipts?id={known.receipt}"):
        outside.goto(f"{server.url}/{address}")
        expect(outside.get_by_role("tab", name="Sign in")).to_be_visible(timeout=60_000)
        assert FILE not in outside.inner_text("body")
    assert outside.request.get(f"{server.url}/v1/my-data.zip").status == 401

    # Who signs out has no more of it, with the same browser.
    owner.goto(server.url)
    owner.get_by_role("button", name="Sign out").click(timeout=60_000)
    expect(owner.get_by_role("tab", name="Sign in")).to_be_visible(timeout=60_000)
    assert owner.request.get(known.media).status == 404
    for context in (mine, theirs, nobodys):
        context.close()
