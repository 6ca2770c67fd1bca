"""The Savings page in a real browser: both presets' published results, the honest answer, and a phone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import Server, settle, sign_up
from tests.browser.test_journey import fits, new_context

pytestmark = pytest.mark.browser


def test_both_presets_and_a_cheaper_gpu(browser: Browser, server: Server, artifacts: Path) -> None:
    """25 % and 40 % less come out; twice the pictures, and the page says that the GPU is cheaper."""
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "savings@example.com")
    page.goto(f"{server.url}/savings")
    expect(
        page.get_by_text(
            "With 50,000 pictures a day you pay ¥15,000.00 a month here and ¥20,000.00 for the GPU: 25 % less."
        )
    ).to_be_visible(timeout=30_000)
    settle(page)
    page.screenshot(path=artifacts / "savings-factory.png", full_page=True)
    page.get_by_role("radio", name="Smart campus").click()
    expect(page.get_by_text(re.compile("With 66,650 pictures a day .*: 40.% less"))).to_be_visible(timeout=30_000)
    expect(page.get_by_text("Assumed: 50 cameras, a day of 13 hours with 100 pictures an hour")).to_be_visible()
    pictures = page.get_by_role("spinbutton", name="Pictures a day")
    pictures.fill("200000")
    pictures.press("Enter")
    expect(page.get_by_text(re.compile("a GPU of your own is cheaper by 80.% of its price"))).to_be_visible(
        timeout=30_000
    )
    settle(page)
    page.screenshot(path=artifacts / "savings-dearer.png", full_page=True)
    context.close()


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_the_page_fits(browser: Browser, server: Server, artifacts: Path, width: int, scheme: str) -> None:
    """In Chinese, on a phone and a desk."""
    context = new_context(browser, locale="zh-CN", viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    sign_up(page, server.url, f"savings-{width}@example.com")
    page.goto(f"{server.url}/savings")
    expect(page.get_by_text("每天 50,000 张图片时")).to_be_visible(timeout=30_000)
    settle(page)
    fits(page)
    page.screenshot(path=artifacts / f"savings-zh-{width}-{scheme}.png", full_page=True)
    context.close()
