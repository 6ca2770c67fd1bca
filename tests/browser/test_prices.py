"""Prices in a real browser: discounts that add up, quotes that bind, and what stands in the way of a run."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import text
from ultralytics.utils import ASSETS

from core.db import Database, utcnow
from core.ledger import spending
from core.pricing.book import adopt_book, current_prices
from tests.browser.conftest import Server, balance, free_port, settle, sign_up
from tests.browser.pictures import distinct_jpegs
from tests.browser.test_journey import fits, new_context, run_button, upload, upload_distinct, wait_for_results
from tests.conftest import MODEL

pytestmark = pytest.mark.browser


@contextmanager
def database(server: Server) -> Iterator[Database]:
    """The running server's database, from outside."""
    opened = Database(f"sqlite:///{server.data_dir / 'visionmeter.db'}")
    yield opened
    opened.close()


def adopt(server: Server, version: str, beta: str) -> None:
    """Another price list, in force from now on."""
    with database(server) as db, db.write() as session:
        prices = current_prices(session)
        adopt_book(session, replace(prices, version=version, betas={**prices.betas, MODEL: Decimal(beta)}))


def change(server: Server, statement: str, **values: object) -> None:
    """Raw SQL."""
    with database(server) as db, db.write() as session:
        session.connection().execute(text(statement), values)


def expire_quotes(server: Server) -> None:
    """Let every quote run out, not so long ago that it is removed meanwhile."""
    change(
        server, "UPDATE quote SET expires_at = :moment", moment=f"{utcnow() - timedelta(hours=1):%Y-%m-%d %H:%M:%S.%f}"
    )


def preview_zidane(page: Page, server: Server, email: str) -> None:
    """Somebody new looks at the price of one sample: 0.600."""
    sign_up(page, server.url, email)
    page.get_by_role("button", name="zidane.jpg", exact=True).click()
    settle(page)
    expect(run_button(page)).to_have_text(re.compile(r"Run — 0\.600 tokens"), timeout=30_000)


def test_batch_discount_is_shown_as_a_sum_and_charged(browser: Browser, server: Server, artifacts: Path) -> None:
    """Nine pictures learn what one more brings; ten show list price, discount and total, and exactly that is taken."""
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "ten@example.com")
    upload_distinct(page, 9)
    expect(page.get_by_text("Add 1 picture and the batch gets 5 % off.")).to_be_visible(timeout=60_000)
    expect(run_button(page)).to_have_text(re.compile(r"Run — 6\.750 tokens"))
    page.get_by_role("button", name="zidane.jpg", exact=True).click()
    settle(page)
    expect(page.get_by_text("List price 7.350 − 0.363 (5 % batch discount) = 6.987 tokens")).to_be_visible(
        timeout=60_000
    )
    expect(page.get_by_text("1.0 × (480 × 640 / 640²) × 1.0 × (1 − 5 %) = 0.713").first).to_be_visible()
    expect(page.get_by_text("10 charged · 0 free")).to_be_visible()
    expect(run_button(page)).to_have_text(re.compile(r"Run — 6\.987 tokens"))
    run_button(page).scroll_into_view_if_needed()
    page.screenshot(path=artifacts / "prices-discount.png")
    run_button(page).click()
    wait_for_results(page)
    assert balance(page) == "13.013"
    context.close()


def test_floor_share_is_shown_and_explained(browser: Browser, server: Server, artifacts: Path) -> None:
    """A tiny tenth picture does not make the batch cheaper than the nine: the floor stands in the sum, in words."""
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "floor@example.com")
    strip = io.BytesIO()
    Image.new("RGB", (1080, 40), "grey").save(strip, "PNG")
    large = distinct_jpegs((ASSETS / "bus.jpg").read_bytes(), 9)
    upload(
        page,
        *({"name": f"p{i}.jpg", "mimeType": "image/jpeg", "buffer": data} for i, data in enumerate(large)),
        {"name": "strip.png", "mimeType": "image/png", "buffer": strip.getvalue()},
    )
    expect(
        page.get_by_text("List price 6.800 − 0.335 (5 % batch discount) + 0.285 floor = 6.750 tokens")
    ).to_be_visible(timeout=60_000)
    expect(page.get_by_text("a batch never costs less than a smaller one that it contains")).to_be_visible()
    expect(page.get_by_text(re.compile(r"\(1 − 5\s%\) \+ 0\.0\d\d floor = 0\.7\d\d")).first).to_be_visible()
    run_button(page).scroll_into_view_if_needed()
    page.screenshot(path=artifacts / "prices-floor.png")
    page.set_viewport_size({"width": 390, "height": 900})
    fits(page)
    context.close()


def test_an_expired_price_that_grew_is_asked_about(browser: Browser, server: Server, artifacts: Path) -> None:
    """A click on an old price takes nothing when the list rose; "Not now" neither; "Run at" buys just what it says."""
    context = new_context(browser)
    page = context.new_page()
    try:
        preview_zidane(page, server, "grew@example.com")
        expire_quotes(server)
        adopt(server, "grew-1", "2.0")
        run_button(page).click()
        expect(page.get_by_text("The price went from 0.600 tokens to 1.200 tokens")).to_be_visible(timeout=30_000)
        page.screenshot(path=artifacts / "prices-grew.png")
        assert balance(page) == "20.000"
        page.get_by_role("button", name="Not now").click()
        expect(run_button(page)).to_have_text(re.compile(r"Run — 1\.200 tokens"), timeout=30_000)
        settle(page)
        assert balance(page) == "20.000"

        expire_quotes(server)
        adopt(server, "grew-2", "3.0")
        run_button(page).click()
        expect(page.get_by_text("The price went from 1.200 tokens to 1.800 tokens")).to_be_visible(timeout=30_000)
        adopt(server, "grew-3", "4.0")
        page.get_by_role("button", name=re.compile(r"Run at 1\.800 tokens")).click()
        wait_for_results(page)
        assert balance(page) == "18.200", "what was agreed binds, although the list rose again"
    finally:
        adopt(server, "back-1", "1.0")
    context.close()


def test_an_expired_price_that_did_not_grow_just_runs(browser: Browser, server: Server) -> None:
    """Nobody is asked twice about the same price."""
    context = new_context(browser)
    page = context.new_page()
    preview_zidane(page, server, "same@example.com")
    expire_quotes(server)
    run_button(page).click()
    wait_for_results(page)
    assert balance(page) == "19.400"
    context.close()


def test_an_idle_page_renews_its_price_quietly(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the shortest binding time, a rerun shows today's price on the button, and a click buys that."""
    monkeypatch.setenv("VISIONMETER_QUOTE_TTL_S", "30")
    server = Server(tmp_path, free_port())
    server.start()
    try:
        context = new_context(browser)
        page = context.new_page()
        preview_zidane(page, server, "idle@example.com")
        adopt(server, "idle-1", "2.0")
        page.get_by_test_id("stSidebar").get_by_text("简体中文").click()
        button = page.get_by_role("button", name=re.compile("运行 — "))
        expect(button).to_have_text(re.compile(r"1\.200 Token"), timeout=30_000)
        adopt(server, "idle-2", "3.0")
        button.click()
        expect(page.get_by_text("置信度").first).to_be_visible(timeout=90_000)
        settle(page)
        assert balance(page) == "18.800", "within its time the price on the button binds"
        context.close()
    finally:
        server.stop()


def test_a_cap_that_would_be_passed_blocks_the_button(browser: Browser, server: Server, artifacts: Path) -> None:
    """The page says what the cap leaves and what to do, before anything is pressed; raising it frees the button."""
    context = new_context(browser)
    page = context.new_page()
    preview_zidane(page, server, "capped@example.com")

    def set_cap(cap_mt: int | None) -> None:
        with database(server) as db, db.write() as session:
            account_id = session.connection().execute(
                text("SELECT account_id FROM user_ WHERE email = 'capped@example.com'")
            )
            spending.set_caps(session, account_id.scalar_one(), day_cap_mt=cap_mt, month_cap_mt=None)

    set_cap(500)
    page.get_by_role("button", name="bus.jpg", exact=True).click()
    settle(page)
    expect(page.get_by_text("the account's cap of 0.500 a day leaves 0.500 for today")).to_be_visible(timeout=30_000)
    blocked = page.get_by_role("button", name=re.compile(r"Run — 1\.350 tokens"))
    expect(blocked).to_be_disabled()
    blocked.scroll_into_view_if_needed()
    page.screenshot(path=artifacts / "prices-capped.png")
    set_cap(None)
    page.get_by_role("button", name="bus.jpg", exact=True).click()
    settle(page)
    expect(run_button(page)).to_be_enabled(timeout=30_000)
    set_cap(500)
    page.get_by_role("button", name="bus.jpg", exact=True).click()
    settle(page)
    page.get_by_role("button", name="Change the caps").click()
    expect(page.get_by_role("heading", name="Account")).to_be_visible(timeout=30_000)
    context.close()


def test_a_viewer_sees_the_price_and_cannot_run(browser: Browser, server: Server, artifacts: Path) -> None:
    """A viewer looks at the exact price; the button says that it is for members."""
    context = new_context(browser)
    page = context.new_page()
    preview_zidane(page, server, "viewer@example.com")
    change(server, "UPDATE user_ SET role = 'viewer' WHERE email = 'viewer@example.com'")
    page.get_by_role("button", name="bus.jpg", exact=True).click()
    settle(page)
    blocked = page.get_by_role("button", name=re.compile(r"Run — 1\.350 tokens \(members only\)"))
    expect(blocked).to_be_disabled(timeout=30_000)
    blocked.scroll_into_view_if_needed()
    page.screenshot(path=artifacts / "prices-viewer.png")
    context.close()


def test_a_click_on_a_button_of_before_the_rise_buys_nothing_dearer(browser: Browser, server: Server) -> None:
    """Two tabs of one customer: the price rose in one; a click in the other still takes its own price or asks."""
    context = new_context(browser)
    page = context.new_page()
    try:
        preview_zidane(page, server, "tabs@example.com")
        adopt(server, "tabs-1", "4.0")
        other = context.new_page()
        other.goto(server.url)
        expect(other.locator("input[type=file]")).to_have_count(1, timeout=60_000)
        other.get_by_role("button", name="zidane.jpg", exact=True).click()
        expect(run_button(other)).to_have_text(re.compile(r"Run — 2\.400 tokens"), timeout=30_000)
        run_button(page).click()
        wait_for_results(page)
        assert balance(page) == "19.400"
    finally:
        adopt(server, "back-2", "1.0")
    context.close()
