"""Pictures from a ZIP and from an address in a real browser: priced like files, refused in words."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from ultralytics.utils import ASSETS

from tests.browser.conftest import Server, balance, settle, sign_up
from tests.browser.test_journey import fits, new_context, run_button, upload, wait_for_results

pytestmark = pytest.mark.browser


def test_a_zip_is_as_good_as_its_files(browser: Browser, server: Server, artifacts: Path) -> None:
    """Two photographs and a text in folders: two prices and a reason by name; a file that is no ZIP is refused, too."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for folder, name in (("north", "bus.jpg"), ("south", "zidane.jpg")):
            archive.writestr(f"{folder}/{name}", (ASSETS / name).read_bytes())
        archive.writestr("notes.txt", "no picture")
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "zip@example.com")
    upload(page, {"name": "cameras.zip", "mimeType": "application/zip", "buffer": buffer.getvalue()})
    expect(run_button(page)).to_have_text(re.compile(r"Run — 1\.350 tokens"), timeout=60_000)
    expect(page.get_by_text(re.compile("notes.txt.*—"))).to_be_visible()
    run_button(page).click()
    wait_for_results(page)
    assert balance(page) == "18.650"
    upload(page, {"name": "broken.zip", "mimeType": "application/zip", "buffer": b"no zip"})
    expect(page.get_by_text("This ZIP, or a file in it, cannot be read").first).to_be_visible(timeout=30_000)
    context.close()


def test_words_of_choices_follow_the_language(browser: Browser, server: Server) -> None:
    """One click on the other language words anew what is chosen, and an opened section stays open."""
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "words@example.com")
    page.get_by_text("Or from an address, or the camera").click()
    page.get_by_role("textbox", name="Address of a picture").fill("https://example.com/bus.jpg")
    expect(page.get_by_role("combobox", name="Model")).to_have_value(re.compile("boxes"))
    page.get_by_test_id("stSidebar").get_by_text("简体中文").click()
    settle(page)
    expect(page.get_by_role("combobox", name="模型")).to_have_value(re.compile("检测框"))
    expect(page.get_by_role("combobox", name="用于小目标的切片")).to_have_value("不切片")
    expect(page.get_by_role("textbox", name="图片的网址")).to_be_visible()
    expect(page.get_by_role("textbox", name="图片的网址")).to_have_value("https://example.com/bus.jpg")
    context.close()


def test_an_address_is_refused_in_words(browser: Browser, server: Server, artifacts: Path) -> None:
    """An address inside the operator's network is not called, and the page says what to do; it fits on a phone."""
    context = new_context(browser, viewport={"width": 390, "height": 900})
    page = context.new_page()
    sign_up(page, server.url, "address@example.com")
    page.get_by_text("Or from an address, or the camera").click()
    address = page.get_by_role("textbox", name="Address of a picture")
    address.fill("http://127.0.0.1:1/bus.jpg")
    settle(page)
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_text("Pictures are fetched from public https and http addresses only")).to_be_visible(
        timeout=30_000
    )
    settle(page)
    expect(address).to_have_value("http://127.0.0.1:1/bus.jpg")
    fits(page)
    page.screenshot(path=artifacts / "sources-390.png", full_page=True)
    context.close()
