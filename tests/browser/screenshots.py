"""`make screenshots`: the pictures of the README, taken from a portal of their own that really runs the photographs."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from core.services import demo
from tests.browser.conftest import CHROMIUM_ARGS, ROOT, Server, find_chromium, free_port, settle, sign_in, sign_up
from tests.browser.portal_data import behind
from tests.browser.test_journey import new_context, run_button, wait_for_results

FOLDER = ROOT / "docs" / "images"
QUALITY = 82


def save(page: Page, name: str, *, height: int) -> None:
    """The upper part of the page, as WebP."""
    page.set_viewport_size({"width": 1280, "height": height})
    settle(page)
    page.mouse.move(1270, height - 10)
    page.wait_for_timeout(600)
    png = page.screenshot()
    Image.open(io.BytesIO(png)).convert("RGB").save(FOLDER / f"{name}.webp", quality=QUALITY, method=6)


def customer_pictures(browser: Browser, server: Server) -> None:
    """A new customer runs both samples: the price, the boxes, and the receipt of one of them."""
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "you@example.com")
    for name in ("bus.jpg", "zidane.jpg"):
        page.get_by_role("button", name=name).click()
        settle(page)
    expect(run_button(page)).to_be_visible(timeout=60_000)
    save(page, "price", height=1360)
    run_button(page).click()
    wait_for_results(page)
    page.set_viewport_size({"width": 1280, "height": 2000})
    settle(page)
    box = page.get_by_text("Run of").first.bounding_box()
    assert box is not None
    save(page, "detect", height=int(box["y"]) + 880)
    page.goto(f"{server.url}/receipts")
    table = page.get_by_test_id("stDataFrame").first
    expect(table).to_be_visible(timeout=60_000)
    settle(page)
    frame = table.bounding_box()
    assert frame is not None
    page.mouse.click(frame["x"] + 16, frame["y"] + 52)
    expect(page.get_by_role("heading", name="How the price came about")).to_be_visible(timeout=30_000)
    save(page, "receipt", height=960)
    context.close()


def demo_pictures(browser: Browser, server: Server) -> None:
    """The example customer's month, by day and dark, and the help in Chinese."""
    with behind(server) as app:
        password = demo.fill(app.db).password
    context = new_context(browser)
    page = context.new_page()
    page.goto(f"{server.url}/usage")
    expect(page.get_by_role("tab").first).to_be_visible(timeout=60_000)
    settle(page)
    sign_in(page, demo.EMAIL, password)
    expect(page.locator(".stPlotlyChart").nth(4)).to_be_visible(timeout=60_000)
    save(page, "usage", height=1260)
    page.emulate_media(color_scheme="dark")
    page.goto(f"{server.url}/savings")
    expect(page.locator(".stPlotlyChart").first).to_be_visible(timeout=60_000)
    page.get_by_role("radio", name="PCB factory").click()
    save(page, "savings", height=1220)
    context.close()
    context = new_context(browser, locale="zh-CN")
    page = context.new_page()
    page.goto(f"{server.url}/help?topic=prices")
    expect(page.get_by_role("heading", name="价格如何计算")).to_be_visible(timeout=60_000)
    save(page, "help-zh", height=1000)
    context.close()


def main() -> None:
    """Entry point."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = Server(Path(folder), free_port())
        server.start()
        try:
            browser = playwright.chromium.launch(executable_path=find_chromium(), args=CHROMIUM_ARGS)
            customer_pictures(browser, server)
            demo_pictures(browser, server)
            browser.close()
        finally:
            server.stop()


if __name__ == "__main__":
    main()
