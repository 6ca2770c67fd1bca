"""Buying tokens in a real browser: an amount, a pending payment, the operator's word, the credit."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Server, balance, click_row, find_chromium, free_port, settle, sign_in, sign_up
from tests.browser.test_corrections import transactions
from tests.browser.test_journey import fits, new_context

pytestmark = pytest.mark.browser
OPERATOR, CUSTOMER = "operator@example.com", "ann@example.com"
BANK = "Example Ltd\nBank of Examples, 6222 0000 1234 5678"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A portal whose operator takes bank transfers."""
    if find_chromium() is None:
        pytest.skip("no Chromium here: install Debian's chromium, or set VISIONMETER_TEST_CHROMIUM")
    os.environ["VISIONMETER_BANK_TRANSFER"] = BANK
    server = Server(tmp_path_factory.mktemp("shop"), free_port())
    server.start()
    del os.environ["VISIONMETER_BANK_TRANSFER"]
    yield server
    server.stop()


def everywhere(page: Page, artifacts: Path, name: str) -> None:
    """A picture of the page on a desk and on a telephone, light and dark; nothing may stick out."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 1000})
            settle(page)
            fits(page)
            page.screenshot(path=artifacts / f"top-up-{name}-{width}-{scheme}.png", full_page=True)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1280, "height": 1000})


def test_from_a_preset_to_the_credit(browser: Browser, shop: Server, artifacts: Path) -> None:
    """What is shown before paying is what is credited; the open payment outlives its tab; a double click opens one."""
    desk, street = new_context(browser), new_context(browser)
    operator, customer = desk.new_page(), street.new_page()
    sign_up(operator, shop.url, OPERATOR)
    sign_up(customer, shop.url, CUSTOMER)

    customer.get_by_role("link", name="Top up").click()
    expect(customer.get_by_role("heading", name="Buy tokens")).to_be_visible(timeout=30_000)
    customer.get_by_text("Other amount").click()
    settle(customer)
    field = customer.get_by_label(re.compile("^Amount, from"))
    for typed, answer in (
        ("9.99", "The amount lies outside the limits: from ¥10.00 to ¥50,000.00."),
        ("ten", "Enter the amount as a number"),
    ):
        field.fill(typed)
        field.press("Enter")
        expect(customer.get_by_text(answer)).to_be_visible(timeout=30_000)
    customer.get_by_text("¥1,000 · +5").click()
    expect(customer.get_by_text("105,000.000 tokens")).to_be_visible(timeout=30_000)
    expect(customer.get_by_text("From ¥5,000.00 on you get 8 % more tokens.")).to_be_visible()
    expect(customer.get_by_text("¥0.009524 a token")).to_be_visible()
    settle(customer)
    everywhere(customer, artifacts, "choose")
    customer.get_by_role("button", name="Pay ¥1,000.00 by bank transfer").dblclick()
    expect(customer.get_by_text("waiting for the money")).to_have_count(1, timeout=30_000)
    settle(customer)
    expect(customer.get_by_text("waiting for the money")).to_have_count(1)

    customer.close()
    customer = street.new_page()
    customer.goto(f"{shop.url}/top_up")
    expect(customer.get_by_text("6222 0000 1234 5678")).to_be_visible(timeout=60_000)
    reference = customer.get_by_test_id("stCode").locator("code").inner_text().strip()
    assert re.fullmatch(r"VM-[A-Z2-9]{4}-[A-Z2-9]{4}", reference)
    everywhere(customer, artifacts, "pending")

    operator.get_by_role("link", name="Admin").click()
    operator.get_by_role("tab", name="Payments").click()
    search = operator.get_by_label("Reference on the transfer")
    search.fill(reference.replace("-", "").lower())
    search.press("Enter")
    expect(operator.get_by_role("button", name="The money is there")).to_be_visible(timeout=30_000)
    everywhere(operator, artifacts, "desk")
    operator.get_by_role("button", name="The money is there").click()
    operator.get_by_role("dialog").get_by_role("button", name="Credit 105,000.000 tokens").dblclick()
    expect(operator.get_by_text(f"Credited: 105,000.000 tokens to {CUSTOMER}.")).to_be_visible(timeout=30_000)

    customer.reload()
    expect(customer.locator(".st-key-balance")).to_be_visible(timeout=60_000)
    settle(customer)
    assert balance(customer) == "105,020.000"
    rows = transactions(customer, "Top-ups")
    assert [(row["type"], row["tokens"], row["actor"]) for row in rows] == [
        ("bonus", "5000.000", "operator"),
        ("top_up", "100000.000", "operator"),
        ("top_up", "20.000", CUSTOMER),
    ]
    assert rows[0]["reference"] == rows[1]["reference"]
    click_row(
        customer.get_by_test_id("stMain").get_by_test_id("stDataFrame").last,
        row=1,
        then=customer.get_by_text("¥1,000.00 by bank transfer · paid"),
    )
    everywhere(customer, artifacts, "credited")
    for context in (desk, street):
        context.close()


def test_rejected_with_a_reason_and_cancelled(browser: Browser, shop: Server, artifacts: Path) -> None:
    """The customer reads why a payment was rejected; one that he cancels is gone from the open ones."""
    context = new_context(browser)
    page = context.new_page()
    page.goto(f"{shop.url}/top_up")
    settle(page)
    sign_in(page, OPERATOR)
    expect(page.get_by_role("heading", name="Buy tokens")).to_be_visible(timeout=60_000)
    for opened in (1, 2):
        page.get_by_role("button", name="Pay ¥50.00 by bank transfer").click()
        expect(page.get_by_text("waiting for the money")).to_have_count(opened, timeout=30_000)
        settle(page)
    page.get_by_role("button", name="Cancel this payment").first.click()
    expect(page.get_by_text("waiting for the money")).to_have_count(1, timeout=30_000)
    page.get_by_role("link", name="Admin").click()
    page.get_by_role("tab", name="Payments").click()
    panel = page.get_by_role("tabpanel").filter(visible=True)
    reject = page.get_by_role("button", name="Reject")
    click_row(panel.get_by_test_id("stDataFrame").first, then=reject)
    reject.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("only ¥5 came")
    dialog.get_by_role("button", name="Reject").click()
    expect(page.get_by_text("is rejected.")).to_be_visible(timeout=30_000)
    page.get_by_role("link", name="Top up").click()
    page.get_by_text("Earlier payments").click()
    settle(page)
    expect(page.get_by_text("waiting for the money")).to_have_count(0)
    page.screenshot(path=artifacts / "top-up-rejected.png", full_page=True)
    context.close()
