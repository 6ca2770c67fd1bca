"""Receipts in a real browser: found, opened, linked, recomputed, taken along."""

from __future__ import annotations

import csv
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from core.services import receipts, sign_in
from tests.browser.conftest import Server, click_row, free_port, settle, sign_up
from tests.browser.conftest import sign_in as fill_in_sign_in
from tests.browser.portal_data import behind, user_of
from tests.browser.test_journey import fits, new_context, run_button, wait_for_results
from tests.core.services.charges import charge

pytestmark = pytest.mark.browser
START = datetime(2026, 10, 1, tzinfo=UTC)


def open_receipts(page: Page) -> None:
    """Go to Receipts by the menu."""
    page.get_by_role("link", name=re.compile("Receipts|收据")).click()
    expect(page.get_by_role("heading", name=re.compile("^(Receipts|收据)$"))).to_be_visible(timeout=30_000)
    settle(page)


def charge_many(server: Server, email: str, count: int) -> list[str]:
    """Charges of a customer made behind the portal, one a minute; gives the receipts' numbers, oldest first."""
    with behind(server) as app:
        user = user_of(app, email)
        return [
            charge(app, user, f"cam{n % 2}/pcb-{n:03}.jpg", at=START + timedelta(minutes=n)).id for n in range(count)
        ]


def test_a_charge_leads_to_its_receipt(browser: Browser, server: Server, artifacts: Path) -> None:
    """Run, open Receipts, select the charge: the formula with its numbers, and the JSON that the gateway gives too."""
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "pays@example.com")
    open_receipts(page)
    expect(page.get_by_text("every charge gets a receipt here")).to_be_visible()
    page.get_by_role("link", name="Detect").first.click()
    page.get_by_role("button", name="zidane.jpg", exact=True).click()
    settle(page)
    run_button(page).click()
    wait_for_results(page)
    open_receipts(page)
    click_row(page.get_by_test_id("stDataFrame").first, then=page.get_by_role("heading", name="zidane.jpg"))
    expect(page.get_by_text("1.0 × (640 × 384 / 640²) × 1.0 → 0.600")).to_be_visible()
    expect(page.get_by_text("1280 × 720 px, longer side to 640")).to_be_visible()
    expect(page.get_by_text("Computed again just now: the same amount.")).to_be_visible()
    expect(page.get_by_text("pays@example.com").last).to_be_visible()
    page.screenshot(path=artifacts / "receipt.png")
    address = page.url
    number = address.split("id=")[1]
    deadline = time.monotonic() + 60
    while page.request.get(f"{server.url}/v1/receipts/{number}").json()["ledger_entry"]["digest"] is None:
        assert time.monotonic() < deadline, "the entry was not sealed"
        page.wait_for_timeout(200)
    with page.expect_download() as download:
        page.get_by_role("button", name="Receipt as JSON").click()
    assert download.value.suggested_filename == f"{number}.json"
    served = page.request.get(f"{server.url}/v1/receipts/{number}").text()
    assert Path(download.value.path()).read_text("utf-8") == served

    page.get_by_role("link", name="The run with its boxes").click()
    wait_for_results(page)
    page.go_back()
    expect(page.get_by_role("heading", name="zidane.jpg")).to_be_visible(timeout=30_000)
    assert page.url == address
    page.get_by_role("link", name="All receipts").click()
    expect(page.get_by_test_id("stDataFrame")).to_be_visible(timeout=30_000)
    settle(page)
    assert page.get_by_role("heading", name="zidane.jpg").count() == 0, "coming back opens nothing by itself"
    context.close()


def test_pages_search_and_csv(browser: Browser, server: Server) -> None:
    """70 charges on two pages; a name finds its own; the CSV holds all that match, not only the page."""
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "many@example.com")
    charge_many(server, "many@example.com", 70)
    open_receipts(page)
    older, newer = page.get_by_role("button", name="Older"), page.get_by_role("button", name="Newer")
    expect(newer).to_be_disabled()
    older.click()
    expect(page.get_by_text("Page 2")).to_be_visible(timeout=30_000)
    expect(older).to_be_disabled()
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV of all that match").click()
    rows = list(csv.DictReader(Path(download.value.path()).read_text("utf-8").splitlines()))
    assert [row["picture"][-7:] for row in rows] == [f"{n:03}.jpg" for n in reversed(range(70))]
    search = page.get_by_label("Picture name or receipt number")
    search.fill("CAM1/")
    search.press("Enter")
    expect(page.get_by_text("Page 1")).to_be_visible(timeout=30_000)
    settle(page)
    expect(older).to_be_disabled()
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV of all that match").click()
    assert len(Path(download.value.path()).read_text("utf-8").splitlines()) == 36
    search.fill("no such name")
    search.press("Enter")
    expect(page.get_by_text("No receipt matches")).to_be_visible(timeout=30_000)
    context.close()


def test_a_receipt_opens_with_the_keyboard(browser: Browser, server: Server) -> None:
    """Tab to the table, arrow to a row, select it: no mouse is needed."""
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "keyboard@example.com")
    charge_many(server, "keyboard@example.com", 3)
    open_receipts(page)
    page.get_by_test_id("stDataFrame").locator("canvas").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Shift+Space")
    expect(page.get_by_text("Computed again just now: the same amount.")).to_be_visible(timeout=30_000)
    context.close()


def test_cold_deep_link(browser: Browser, tmp_path: Path) -> None:
    """A receipt's address first thing after a restart: signed out, only the sign-in page; then the receipt itself."""
    server = Server(tmp_path, free_port())
    server.start()
    try:
        with behind(server) as app:
            sign_in.sign_up(app, "cold@example.com", "correct horse battery")
        (number,) = charge_many(server, "cold@example.com", 1)
        server.stop()
        server.start()
        context = new_context(browser)
        page = context.new_page()
        page.goto(f"{server.url}/receipts?id={number}")
        expect(page.get_by_role("heading", name="Detection by the pixel")).to_be_visible(timeout=60_000)
        settle(page)
        assert page.get_by_text("pcb-000.jpg").count() == 0
        assert page.get_by_text("Receipts").count() == 0
        assert page.request.get(f"{server.url}/v1/receipts/{number}").status == 401
        fill_in_sign_in(page, "cold@example.com")
        expect(page.get_by_role("heading", name="cam0/pcb-000.jpg")).to_be_visible(timeout=60_000)
        assert page.url.endswith(f"/receipts?id={number}")
        context.close()
    finally:
        server.stop()


def test_a_foreign_receipt_is_none(browser: Browser, server: Server) -> None:
    """Somebody else's number shows the words of an unknown one, and the way back."""
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "owns@example.com")
    (number,) = charge_many(server, "owns@example.com", 1)
    context.close()
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "curious@example.com")
    said = set()
    for wanted in (number, "rcpt_0123456789", "%00'--"):
        page.goto(f"{server.url}/receipts?id={wanted}")
        expect(page.get_by_text("There is no such receipt in your account")).to_be_visible(timeout=60_000)
        settle(page)
        said.add(page.get_by_test_id("stMain").inner_text())
        assert page.get_by_text("pcb-000.jpg").count() == 0
    assert len(said) == 1
    context.close()


@pytest.mark.parametrize(("scheme", "width", "locale"), [("light", 390, "zh-CN"), ("dark", 1280, "en-US")])
def test_receipts_fit(browser: Browser, server: Server, artifacts: Path, scheme: str, width: int, locale: str) -> None:
    """List and receipt fit the width with long names and digests (`test_accessibility` looks at all else)."""
    context = new_context(browser, viewport={"width": width, "height": 900}, locale=locale, color_scheme=scheme)
    page = context.new_page()
    tag = f"{locale}-{width}-{scheme}".lower()
    email = f"receipts-{tag}@example.com"
    sign_up(page, server.url, email)
    with behind(server) as app:
        user = user_of(app, email)
        charge(app, user, f"{'very-long-name-' * 8}.jpg", shape=(960, 480))
        number = receipts.list_receipts(app, user).lines[0].receipt.id
    for path, name in (("receipts", "list"), (f"receipts?id={number}", "one")):
        page.goto(f"{server.url}/{path}")
        expect(page.get_by_test_id("stDataFrame").or_(page.get_by_test_id("stTable")).first).to_be_visible(
            timeout=60_000
        )
        settle(page)
        fits(page)
        page.screenshot(path=artifacts / f"page-receipts-{name}-{tag}.png")
    context.close()
