"""The sections of Admin and Account in a real browser: the address names the open one, and what was begun stays."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Server, settle, sign_up
from tests.browser.test_journey import new_context

pytestmark = pytest.mark.browser


def open_section(page: Page, name: str) -> None:
    """Click a tab and wait for it."""
    page.get_by_role("tab", name=name, exact=True).click()
    is_open(page, name)


def is_open(page: Page, name: str) -> None:
    """This section is the open one, and its panel is drawn."""
    expect(page.get_by_role("tab", name=name, exact=True)).to_have_attribute("aria-selected", "true", timeout=30_000)
    settle(page)
    expect(page.get_by_role("tabpanel").filter(visible=True)).not_to_be_empty()


def test_the_address_names_the_open_section(browser: Browser, server: Server) -> None:
    """Clicks, reload, the way back, a link, another language, an address that says nothing, and another page."""
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "operator@example.com")
    page.goto(f"{server.url}/admin")
    is_open(page, "Vouchers")

    open_section(page, "Customers")
    expect(page).to_have_url(re.compile(r"/admin\?section=customers$"))
    page.get_by_label("Find by address").fill("operator@")
    page.get_by_label("Find by address").press("Enter")
    settle(page)
    open_section(page, "Price list")
    expect(page).to_have_url(re.compile("section=prices$"))
    open_section(page, "Customers")
    expect(page.get_by_label("Find by address")).to_have_value("operator@")

    page.go_back()
    is_open(page, "Price list")
    expect(page).to_have_url(re.compile("section=prices$"))
    page.go_back()
    is_open(page, "Customers")
    page.go_back()
    is_open(page, "Vouchers")
    expect(page).to_have_url(re.compile("/admin$"))
    page.go_forward()
    is_open(page, "Customers")

    open_section(page, "Ledger and load")
    page.get_by_role("button", name="Check the ledger").click()
    agree = page.get_by_text("entries agree; the sum is 0.000 tokens")
    expect(agree).to_be_visible(timeout=60_000)
    open_section(page, "Audit log")
    open_section(page, "Ledger and load")
    expect(agree).to_be_visible()

    page.reload()
    is_open(page, "Ledger and load")
    page.get_by_test_id("stSidebar").get_by_text("简体中文").click()
    is_open(page, "账本与负载")
    expect(page).to_have_url(re.compile("section=ledger$"))
    page.get_by_test_id("stSidebar").get_by_text("English").click()
    is_open(page, "Ledger and load")

    page.goto(f"{server.url}/admin?section=models")
    is_open(page, "Models")
    page.goto(f"{server.url}/admin?section=nonsense")
    is_open(page, "Vouchers")
    expect(page).to_have_url(re.compile("/admin$"))

    page.get_by_role("link", name="Account").click()
    is_open(page, "Limits")
    open_section(page, "Team")
    expect(page).to_have_url(re.compile(r"/account\?section=team$"))
    page.get_by_role("link", name="Admin").click()
    is_open(page, "Vouchers")
    page.get_by_role("link", name="Account").click()
    is_open(page, "Limits")
    context.close()
