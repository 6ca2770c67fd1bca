"""The help in a real browser: open to everybody, an address for each topic, and the way to it from the pages."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Server, settle, sign_in, sign_up
from tests.browser.test_journey import new_context, run_button, upload_distinct

pytestmark = pytest.mark.browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page in a profile of its own."""
    context = new_context(browser)
    yield context.new_page()
    context.close()


def is_open(page: Page, topic: str, title: str) -> None:
    """The help shows this topic, and the address says so."""
    expect(page.get_by_role("heading", name=title, exact=True)).to_be_visible(timeout=30_000)
    settle(page)
    assert page.url.endswith(f"/help?topic={topic}")


def test_the_help_is_open_to_everybody(page: Page, server: Server) -> None:
    """Signed out, an address shows its topic and nothing of the portal; it leads to the sign-in page and back."""
    page.goto(f"{server.url}/help?topic=prices")
    is_open(page, "prices", "How prices work")
    expect(page.get_by_text("1.0 × (640 × 384 / 640²) × 1.0 = 0.600")).to_be_visible()
    assert page.locator(".st-key-balance").count() == 0
    assert page.get_by_role("link", name="Detect").count() == 0
    page.get_by_role("radio", name="Money back").click()
    is_open(page, "money", "How to get your money back")
    page.reload()
    is_open(page, "money", "How to get your money back")
    page.get_by_text("简体中文").click()
    is_open(page, "money", "如何取回费用")
    page.get_by_text("English").click()
    page.get_by_role("link", name="Sign in").click()
    expect(page.get_by_role("heading", name="Detection by the pixel")).to_be_visible(timeout=30_000)
    page.get_by_role("link", name="How it works and what it costs").click()
    expect(page.get_by_role("heading", name="First run in five minutes")).to_be_visible(timeout=30_000)
    page.goto(f"{server.url}/help?topic=nonsense")
    is_open(page, "start", "First run in five minutes")


def test_pages_lead_to_their_topic(page: Page, server: Server) -> None:
    """The preview, a short balance, Top up and API keys each lead to what a customer wonders there."""
    sign_up(page, server.url, "wonders@example.com")
    page.get_by_role("button", name="zidane.jpg", exact=True).click()
    settle(page)
    page.get_by_role("link", name="How prices work").click()
    is_open(page, "prices", "How prices work")
    page.get_by_role("link", name="How to get your money back").click()
    page.get_by_role("link", name="Detect").click()
    expect(run_button(page)).to_have_text(re.compile(r"Run — 0\.600 tokens"), timeout=30_000)
    upload_distinct(page, 30)
    page.get_by_role("link", name="What to do when the balance is short").click(timeout=60_000)
    is_open(page, "money", "How to get your money back")
    page.get_by_role("link", name="Top up", exact=True).click()
    page.get_by_role("link", name="How to get tokens").click(timeout=30_000)
    is_open(page, "start", "First run in five minutes")
    page.get_by_role("link", name="API keys", exact=True).click()
    page.get_by_role("link", name="The API in five minutes").click(timeout=30_000)
    is_open(page, "api", "The API in five minutes")
    expect(page.get_by_text(f'host = "{server.url}"')).to_be_visible()


def test_the_language_goes_with_the_sign_in(browser: Browser, page: Page, server: Server) -> None:
    """Chosen under Account → Profile, it is spoken in another browser from the sign-in on."""
    sign_up(page, server.url, "speaks@example.com")
    page.goto(f"{server.url}/account?section=profile")
    page.get_by_test_id("stMain").get_by_text("简体中文").click(timeout=60_000)
    expect(page.get_by_role("heading", name="账户", exact=True)).to_be_visible(timeout=30_000)
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    context = new_context(browser)
    other = context.new_page()
    other.goto(server.url)
    settle(other)
    sign_in(other, "speaks@example.com")
    expect(other.get_by_role("heading", name="检测")).to_be_visible(timeout=60_000)
    expect(other.locator("html")).to_have_attribute("lang", "zh-CN")
    context.close()
