"""Paying by card in a real browser: at the stand-in's page, with the tab closed before the way back."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Server, balance, click_row, find_chromium, free_port, settle, sign_up
from tests.browser.test_corrections import transactions
from tests.browser.test_journey import fits, new_context
from tests.stripe_stand_in import Stripe, settings_for, stand_in

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def stripe() -> Iterator[Stripe]:
    """Stripe's stand-in; it sends no events, so that what is credited was asked for."""
    with stand_in() as stripe:
        yield stripe


@pytest.fixture(scope="module")
def shop(stripe: Stripe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A portal whose operator takes cards."""
    if find_chromium() is None:
        pytest.skip("no Chromium here: install Debian's chromium, or set VISIONMETER_TEST_CHROMIUM")
    server = Server(tmp_path_factory.mktemp("shop"), free_port())
    settings = settings_for(stripe, public_url=server.url, stripe_check_after_s=2)
    names = {f"VISIONMETER_{name.upper()}": str(value) for name, value in settings.items()}
    os.environ.update(names)
    server.start()
    for name in names:
        del os.environ[name]
    yield server
    server.stop()


def pictures(page: Page, artifacts: Path, name: str) -> None:
    """The page on a desk and on a telephone; nothing may stick out."""
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 1000})
        settle(page)
        fits(page)
        page.screenshot(path=artifacts / f"card-{name}-{width}.png", full_page=True)
    page.set_viewport_size({"width": 1280, "height": 1000})


def open_payment(page: Page, url: str, amount: str) -> None:
    """Choose a preset, press Pay, and go to the page for cards in the same tab."""
    page.goto(f"{url}/top_up")
    expect(page.get_by_role("heading", name="Buy tokens")).to_be_visible(timeout=60_000)
    page.get_by_text(amount, exact=False).first.click()
    page.get_by_role("button", name=re.compile("^Pay .* by card$")).click()
    expect(page.get_by_text("waiting for the money")).to_have_count(1, timeout=30_000)


def test_pay_close_the_tab_and_come_back(browser: Browser, shop: Server, stripe: Stripe, artifacts: Path) -> None:
    """Credited once though nobody came back from Stripe's page and no event came; the transaction shows the payment."""
    street = new_context(browser)
    page = street.new_page()
    sign_up(page, shop.url, "operator@example.com")
    open_payment(page, shop.url, "¥100")
    pictures(page, artifacts, "pending")
    page.get_by_role("link", name="Go on to pay").click()
    expect(page).to_have_url(re.compile("^http://127.0.0.1:.*/pay/cs_test_"), timeout=30_000)
    assert len(street.pages) == 1
    other = street.new_page()
    other.goto(f"{shop.url}/top_up")
    expect(other.get_by_text("waiting for the money")).to_have_count(1, timeout=60_000)
    # Paid at Stripe, and the tab closed before the redirect could be followed.
    page.route(f"{shop.url}/**", lambda route: route.abort())
    page.get_by_role("button", name="Pay").click()
    page.wait_for_timeout(500)
    page.close()
    assert [one["payment_status"] for one in stripe.sessions.values()] == ["paid"]

    page = other
    # Stripe is asked every few seconds, and a page that is open notices by itself.
    expect(page.get_by_text("waiting for the money")).to_have_count(0, timeout=90_000)
    expect(page.get_by_text("Paid and credited: 10,000.000 tokens")).to_be_visible(timeout=30_000)
    settle(page)
    assert balance(page) == "10,020.000"
    rows = transactions(page, "Top-ups")
    assert [(row["type"], row["tokens"], row["actor"]) for row in rows] == [
        ("top_up", "10000.000", "stripe"),
        ("top_up", "20.000", "operator@example.com"),
    ]
    click_row(
        page.get_by_test_id("stMain").get_by_test_id("stDataFrame").last,
        then=page.get_by_text("¥100.00 by card · paid"),
    )
    pictures(page, artifacts, "paid")


def test_the_way_back_says_what_became_of_it(browser: Browser, shop: Server, stripe: Stripe, artifacts: Path) -> None:
    """Back unpaid, the payment is still there to go on with; paid, the way back says what was credited."""
    page = new_context(browser).new_page()
    sign_up(page, shop.url, "ann@example.com")
    open_payment(page, shop.url, "¥50")
    page.get_by_role("link", name="Go on to pay").click()
    page.get_by_role("link", name="Back").click()
    expect(page.get_by_text("This payment is not paid yet")).to_be_visible(timeout=60_000)
    pictures(page, artifacts, "back")
    page.get_by_role("link", name="Go on to pay").click()
    page.get_by_role("button", name="Pay").click()
    expect(page.get_by_text("Paid and credited: 5,000.000 tokens")).to_be_visible(timeout=60_000)
    settle(page)
    assert balance(page) == "5,020.000"
    pictures(page, artifacts, "credited")


def test_a_kept_card_tops_up_until_it_is_declined(
    browser: Browser, shop: Server, stripe: Stripe, artifacts: Path
) -> None:
    """Tick, pay, turn on: a low balance is topped up by itself; a declined card stops it, and every page says so."""
    page = new_context(browser).new_page()
    sign_up(page, shop.url, "auto@example.com")
    page.goto(f"{shop.url}/top_up")
    expect(page.get_by_text("To turn them on, pay once by card")).to_be_visible(timeout=60_000)
    page.get_by_text("Keep the card with Stripe").click()
    settle(page)
    page.get_by_role("button", name=re.compile("^Pay .* by card$")).click()
    page.get_by_role("link", name="Go on to pay").click()
    page.get_by_role("button", name="Pay").click()
    expect(page.get_by_text("Paid and credited: 5,000.000 tokens")).to_be_visible(timeout=60_000)
    page.wait_for_timeout(8_000)  # the keeper asks Stripe for the card
    page.reload()
    expect(page.get_by_text("Kept with Stripe: Visa ·· 4242")).to_be_visible(timeout=60_000)
    stripe.cards.update(dict.fromkeys(stripe.cards, "card_declined"))
    threshold = page.get_by_label("When fewer tokens are available than")
    threshold.fill("9000")
    page.get_by_label("buy for (CNY)").fill("100")
    page.get_by_label("and for no more in a month than (CNY)").fill("1000")
    pictures(page, artifacts, "auto")
    page.get_by_role("button", name="Turn on").click()
    expect(page.get_by_text("Saved.")).to_be_visible(timeout=30_000)
    page.wait_for_timeout(8_000)  # the keeper charges it
    page.goto(f"{shop.url}/usage")
    expect(page.get_by_text("the bank declined the saved card")).to_be_visible(timeout=60_000)
    page.goto(f"{shop.url}/top_up")
    expect(page.get_by_text("the bank declined the saved card")).to_have_count(2, timeout=60_000)
    pictures(page, artifacts, "auto-stopped")
    stripe.cards.update(dict.fromkeys(stripe.cards, "ok"))
    page.get_by_role("button", name="Turn on").click()
    expect(page.get_by_text("Saved.")).to_be_visible(timeout=30_000)
    page.wait_for_timeout(8_000)
    page.reload()
    settle(page)
    assert balance(page) == "15,020.000"
