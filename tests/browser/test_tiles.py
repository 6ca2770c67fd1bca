"""Tiles in a real browser: the grid and its price before the run, and the receipt that says what ran."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Server, balance, settle, sign_up
from tests.browser.test_journey import fits, new_context, run_button, wait_for_results

pytestmark = pytest.mark.browser


def choose(page: Page, label: str, option: str) -> None:
    """Choose from a list."""
    page.get_by_role("combobox", name=label).click()
    page.get_by_role("option", name=option, exact=True).click()
    settle(page)


def test_a_run_in_tiles(browser: Browser, server: Server, artifacts: Path) -> None:
    """Another tile size is another price at once; the run takes exactly that, and the receipt recomputes it."""
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "tiles@example.com")
    page.get_by_role("button", name="zidane.jpg", exact=True).click()
    settle(page)
    expect(run_button(page)).to_have_text(re.compile(r"Run — 0\.600 tokens"), timeout=30_000)
    choose(page, "Tiles for small objects", "tiles of 640 × 640 px")
    expect(run_button(page)).to_have_text(re.compile(r"Run — 6\.600 tokens"), timeout=30_000)
    expect(page.get_by_text("and 6 tiles, each 640 × 640, overlapping by 20 %")).to_be_visible()
    expect(page.get_by_text("1.0 × ((640 × 384 + 6 × 640 × 640) / 640²) × 1.0 = 6.600")).to_be_visible()
    page.screenshot(path=artifacts / "tiles-preview.png", full_page=True)
    choose(page, "Tiles for small objects", "no tiles")
    expect(run_button(page)).to_have_text(re.compile(r"Run — 0\.600 tokens"), timeout=30_000)
    choose(page, "Tiles for small objects", "tiles of 640 × 640 px")
    expect(run_button(page)).to_have_text(re.compile(r"Run — 6\.600 tokens"), timeout=30_000)
    run_button(page).click()
    wait_for_results(page)
    assert balance(page) == "13.400"
    expect(page.get_by_text(re.compile("Run of .* at 640 · tiles of 640 × 640 px"))).to_be_visible()
    page.goto(f"{server.url}/receipts")
    settle(page)
    page.screenshot(path=artifacts / "tiles-receipts.png", full_page=True)
    context.close()


@pytest.mark.parametrize(("language", "width", "scheme"), [("zh-CN", 390, "dark"), ("zh-CN", 1280, "light")])
def test_the_preview_of_tiles_fits(
    browser: Browser, server: Server, artifacts: Path, language: str, width: int, scheme: str
) -> None:
    """The grid and its formula fit on a phone, too."""
    context = new_context(browser, locale=language, viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    sign_up(page, server.url, f"tiles-{width}@example.com")
    page.get_by_role("button", name="zidane.jpg", exact=True).click()
    settle(page)
    page.get_by_role("combobox", name="用于小目标的切片").click()
    page.get_by_role("option", name="640 × 640 像素的切片", exact=True).click()
    settle(page)
    expect(page.get_by_text("另加 6 块切片")).to_be_visible(timeout=30_000)
    fits(page)
    page.screenshot(path=artifacts / f"tiles-{language}-{width}-{scheme}.png", full_page=True)
    context.close()
