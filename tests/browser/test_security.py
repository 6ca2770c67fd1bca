"""One's own sign-in in a real browser: sessions, password, time zone."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Server, settle, sign_in, sign_up
from tests.browser.test_account import PASSWORD, open_section
from tests.browser.test_journey import fits, new_context

pytestmark = pytest.mark.browser
EMAIL = "secure@example.com"
NEW_PASSWORD = "another horse battery"


def sign_in_again(page: Page, server: Server, password: str = PASSWORD) -> None:
    """Sign the same person in, in another browser."""
    page.goto(server.url)
    expect(page.get_by_role("tab").first).to_be_visible(timeout=60_000)
    settle(page)
    sign_in(page, EMAIL, password)


def test_sessions_password_and_time_zone(browser: Browser, server: Server, artifacts: Path) -> None:
    """Two browsers are listed and one is ended there; a new password ends the next one; times follow the zone."""
    here, there = new_context(browser), new_context(browser)
    page, other = here.new_page(), there.new_page()
    sign_up(page, server.url, EMAIL)
    sign_in_again(other, server)
    expect(other.locator(".st-key-balance")).to_be_visible(timeout=60_000)

    open_section(page, server, "security")
    expect(page.get_by_text(re.compile("Chrome · .* — this browser"))).to_be_visible(timeout=30_000)
    page.screenshot(path=artifacts / "security.png")
    page.get_by_role("button", name="Sign out there").click()
    expect(page.get_by_text("Signed out there")).to_be_visible(timeout=30_000)
    expect(page.get_by_role("button", name="Sign out there")).to_have_count(0)
    other.reload()
    expect(other.get_by_role("heading", name="Detection by the pixel")).to_be_visible(timeout=60_000)

    settle(other)
    sign_in(other, EMAIL, PASSWORD)
    expect(other.locator(".st-key-balance")).to_be_visible(timeout=60_000)
    page.get_by_label("Present password").fill("wrong horse battery")
    for label in ("New password", "New password again"):
        page.get_by_label(label, exact=True).fill(NEW_PASSWORD)
    page.get_by_role("button", name="Change the password").click()
    expect(page.get_by_text("The present password is wrong.")).to_be_visible(timeout=30_000)
    page.get_by_label("Present password").fill(PASSWORD)
    for label in ("New password", "New password again"):
        page.get_by_label(label, exact=True).fill(NEW_PASSWORD)
    page.get_by_role("button", name="Change the password").click()
    expect(page.get_by_text("The password was changed. 1 other sign-in ended.")).to_be_visible(timeout=30_000)
    other.reload()
    expect(other.get_by_role("heading", name="Detection by the pixel")).to_be_visible(timeout=60_000)

    open_section(page, server, "profile")
    expect(page.get_by_role("combobox")).to_have_value("As the browser says (Asia/Shanghai)")
    since = page.get_by_test_id("stMarkdown").filter(has_text="Since").last
    before = since.inner_text()
    page.get_by_role("combobox").click()
    page.get_by_role("combobox").fill("Kiritimati")
    page.get_by_role("option", name="Pacific/Kiritimati").click()
    expect(since).not_to_have_text(before, timeout=30_000)
    page.screenshot(path=artifacts / "profile-time-zone.png")

    link = page.get_by_role("link", name="Export my data (ZIP)").get_attribute("href")
    assert link is not None
    answer = page.request.get(f"{server.url}{link}")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/zip")
    with zipfile.ZipFile(io.BytesIO(answer.body())) as archive:
        assert json.loads(archive.read("profile.json"))["email"] == EMAIL
        assert json.loads(archive.read("profile.json"))["time_zone"] == "Pacific/Kiritimati"
    here.close()
    there.close()


def test_it_fits(browser: Browser, server: Server, artifacts: Path) -> None:
    """Both sections on a desk and on a phone, light and dark, in both languages: nothing runs off the page."""
    for width, scheme, language in ((1280, "light", "en"), (390, "dark", "zh-CN"), (390, "light", "en")):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, locale=language, timezone_id="Asia/Shanghai"
        )
        page = context.new_page()
        sign_up(page, server.url, f"fits{width}{scheme}@example.com")
        for section in ("security", "profile"):
            open_section(page, server, section)
            fits(page)
            page.screenshot(path=artifacts / f"{section}-{width}-{scheme}-{language}.png", full_page=True)
        context.close()


def test_deleting_the_account(browser: Browser, server: Server, artifacts: Path) -> None:
    """A wrong password and an open box change nothing; then it says goodbye, and neither browser is signed in."""
    here, there = new_context(browser), new_context(browser)
    page, other = here.new_page(), there.new_page()
    email = "goes@example.com"
    first = new_context(browser)
    # Somebody must run the installation.
    sign_up(first.new_page(), server.url, "stays@example.com")
    first.close()
    sign_up(page, server.url, email)
    other.goto(server.url)
    settle(other)
    sign_in(other, email, PASSWORD)
    expect(other.locator(".st-key-balance")).to_be_visible(timeout=60_000)

    open_section(page, server, "profile")
    page.get_by_role("button", name="Delete my account").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("Removed at once")).to_be_visible(timeout=30_000)
    dialog.get_by_label("Password", exact=True).fill(PASSWORD)
    dialog.get_by_role("button", name="Delete my account for good").click()
    expect(dialog.get_by_text("Tick the box above first")).to_be_visible(timeout=30_000)
    dialog.get_by_text(re.compile("I give up .* tokens")).click()
    dialog.get_by_label("Password", exact=True).fill("wrong horse battery")
    dialog.get_by_role("button", name="Delete my account for good").click()
    expect(dialog.get_by_text("The password is wrong. Nothing was changed.")).to_be_visible(timeout=30_000)
    page.screenshot(path=artifacts / "delete-account.png")
    page.set_viewport_size({"width": 390, "height": 900})
    page.screenshot(path=artifacts / "delete-account-390.png")
    dialog.get_by_label("Password", exact=True).fill(PASSWORD)
    dialog.get_by_role("button", name="Delete my account for good").click()
    expect(page.get_by_text("Your account was deleted.")).to_be_visible(timeout=60_000)
    page.screenshot(path=artifacts / "deleted.png")
    other.reload()
    expect(other.get_by_role("heading", name="Detection by the pixel")).to_be_visible(timeout=60_000)
    sign_in(other, email, PASSWORD)
    expect(other.get_by_text("The address or the password is wrong")).to_be_visible(timeout=30_000)
    here.close()
    there.close()
