"""The Usage page in a real browser: a shared address shows the same view, filters narrow it, and it fits a phone."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, Page, expect

from core.db import utcnow
from core.services import api_keys, demo, limits
from core.services.api_key_settings import KeySettings
from core.services.profile import set_language
from core.usage.records import add_record
from core.usage.tables import UsageRecord
from tests.browser.conftest import Server, settle, sign_in, sign_up
from tests.browser.portal_data import behind, user_of
from tests.browser.test_journey import fits, new_context

pytestmark = pytest.mark.browser


class Customer(NamedTuple):
    """Who has four weeks of history; five pictures of it were an API key's."""

    password: str
    key_id: str


@pytest.fixture(scope="module")
def customer(server: Server) -> Iterator[Customer]:
    """The demo customer, with a cap, and with an API key that has used another model than he."""
    with behind(server) as app:
        made = demo.fill(app.db)
        user = user_of(app, demo.EMAIL)
        limits.set_limits(app, user, day_cap_mt=None, month_cap_mt=1_600_000, alert_below_mt=None)
        key = api_keys.create_key(app, user, KeySettings(name="Line 7, camera")).key
        with app.db.write() as session:
            for number in range(5):
                add_record(
                    session,
                    UsageRecord(
                        account_id=user.account_id, actor=key.id, model="yolov8x", model_version="v", img_size=640,
                        input_height=640, input_width=640, amount_mt=4000, outcome="charged", wait_ms=10, model_ms=900,
                        given_back_mt=0, class_counts={"solder bridge": 2},
                        created_at=utcnow() - timedelta(days=number),
                    ),
                )  # fmt: skip
        yield Customer(made.password, key.id)


def open_page(page: Page, server: Server, customer: Customer, query: str) -> None:
    """Open an address signed out, as whoever was sent it does, and sign in."""
    page.goto(f"{server.url}/usage{query}")
    expect(page.get_by_role("tab").first).to_be_visible(timeout=60_000)
    settle(page)
    sign_in(page, demo.EMAIL, customer.password)
    expect(page.locator(".stPlotlyChart").first).to_be_visible(timeout=60_000)
    settle(page)


def card(page: Page, label: str) -> str:
    """The value of a card."""
    metric = page.get_by_test_id("stMain").get_by_test_id("stMetric").filter(has_text=label).first
    return metric.get_by_test_id("stMetricValue").inner_text()


def test_a_shared_address_shows_the_same_view(
    browser: Browser, server: Server, customer: Customer, artifacts: Path
) -> None:
    """Filters chosen by one are in the address, whoever opens it sees the same; bad values are told."""
    context = new_context(browser)
    page = context.new_page()
    open_page(page, server, customer, "")
    all_pictures = card(page, "Pictures")
    page.get_by_role("radio", name="90 days").click()
    settle(page)
    page.get_by_role("radio", name="by API key and person").click()
    settle(page)
    page.get_by_role("combobox", name="API keys and people").click()
    page.get_by_role("option", name=re.compile("Line 7, camera")).click()
    page.keyboard.press("Escape")
    settle(page)
    assert card(page, "Pictures") == "5" != all_pictures
    assert card(page, "Tokens") == "20.000"
    expect(page.get_by_text("The cap counts the whole account")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV of every picture shown").click()
    rows = list(csv.DictReader(Path(download.value.path()).read_text("utf-8").splitlines()))
    assert [row["model"] for row in rows] == ["yolov8x"] * 5
    assert {row["caller_id"] for row in rows} == {customer.key_id}
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV of the days shown").click()
    rows = list(csv.DictReader(Path(download.value.path()).read_text("utf-8").splitlines()))
    assert (rows[0]["Day"], rows[0]["Pictures"], rows[0]["Tokens"], len(rows)) == ("Total", "5", "20.000", 6)
    query = page.url.partition("/usage")[2]
    assert query == f"?period=90&caller={customer.key_id}&by=key"
    context.close()

    context = new_context(browser)
    other = context.new_page()
    open_page(other, server, customer, query)
    assert (card(other, "Pictures"), card(other, "Tokens")) == ("5", "20.000")
    expect(other.get_by_role("radio", name="90 days")).to_be_checked()
    expect(other.get_by_role("radio", name="by API key and person")).to_be_checked()
    assert other.url.partition("/usage")[2] == query
    other.screenshot(path=artifacts / "usage-shared.png", full_page=True)

    other.goto(f"{server.url}/usage?period=400&model=mine&model=yolov8x&outcome=free")
    expect(other.get_by_text("period=400, model=mine")).to_be_visible(timeout=60_000)
    expect(other.get_by_text("Nothing in this period fits these filters.")).to_be_visible()
    settle(other)
    assert other.url.endswith("/usage?model=yolov8x&outcome=free")
    other.get_by_role("button", name="Clear the filters").click()
    expect(other.locator(".stPlotlyChart").first).to_be_visible(timeout=30_000)
    settle(other)
    assert card(other, "Pictures") == all_pictures
    assert other.url.endswith("/usage")
    context.close()


def record_picture(server: Server, email: str, *, outcome: str, amount_mt: int) -> None:
    """A picture of this customer ended just now."""
    with behind(server) as app:
        user = user_of(app, email)
        with app.db.write() as session:
            add_record(
                session,
                UsageRecord(
                    account_id=user.account_id, actor=user.id, model="yolov8n", model_version="v", img_size=640,
                    input_height=640, input_width=640, amount_mt=amount_mt, outcome=outcome, class_counts={},
                ),
            )  # fmt: skip


def test_what_happens_meanwhile_is_shown(browser: Browser, server: Server, customer: Customer) -> None:
    """The next click on an open page shows the picture that came since, in cards, charts and tables; the same view of
    somebody else shows his own.
    """
    context = new_context(browser)
    page = context.new_page()
    open_page(page, server, customer, "?period=7")
    before = int(card(page, "Pictures").replace(",", ""))
    record_picture(server, demo.EMAIL, outcome="free", amount_mt=0)
    page.get_by_role("radio", name="by API key and person").click()
    settle(page)
    assert int(card(page, "Pictures").replace(",", "")) == before + 1
    # The very view that was drawn before.
    page.get_by_role("radio", name="by model").click()
    settle(page)
    assert int(card(page, "Pictures").replace(",", "")) == before + 1
    expect(page.locator(".stPlotlyChart").first).to_contain_text("yolov8n")
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV of the days shown").click()
    total = next(csv.DictReader(Path(download.value.path()).read_text("utf-8").splitlines()))
    assert int(total["Pictures"]) == before + 1
    context.close()

    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "other@example.com")
    record_picture(server, "other@example.com", outcome="charged", amount_mt=1300)
    page.goto(f"{server.url}/usage?period=7&by=key")
    expect(page.locator(".stPlotlyChart").first).to_be_visible(timeout=60_000)
    settle(page)
    assert (card(page, "Pictures"), card(page, "Tokens")) == ("1", "1.300")
    expect(page.get_by_text("yolov8x")).to_have_count(0)
    context.close()


def test_without_any_usage_the_page_says_what_to_do(browser: Browser, server: Server, customer: Customer) -> None:
    """A new account is sent to its first picture."""
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "new@example.com")
    page.goto(f"{server.url}/usage")
    page.get_by_role("button", name="Run a picture").click(timeout=60_000)
    expect(page.get_by_role("heading", name="Detect").first).to_be_visible(timeout=30_000)
    context.close()


@pytest.mark.parametrize(
    ("width", "scheme", "locale"),
    [(390, "dark", "zh-CN"), (1280, "light", "en-US")],
)
def test_the_page_fits(
    browser: Browser, server: Server, customer: Customer, artifacts: Path, width: int, scheme: str, locale: str
) -> None:
    """Nothing sticks out on a phone or a desk, light or dark, in either language."""
    with behind(server) as app:
        set_language(app, user_of(app, demo.EMAIL), locale.replace("en-US", "en").replace("-", "_"))
    context = new_context(browser, locale=locale, viewport={"width": width, "height": 3600}, color_scheme=scheme)
    page = context.new_page()
    open_page(page, server, customer, "?period=90&by=key")
    expect(page.get_by_role("heading", name="运行结果" if locale == "zh-CN" else "Outcomes")).to_be_visible()
    heat = page.evaluate(
        "() => [...document.querySelectorAll('.js-plotly-plot')].map((plot) => plot.data[0])"
        ".find((trace) => trace.type === 'heatmap').colorscale[1][1]"
    )
    assert heat == ("rgba(86, 180, 233, 1)" if scheme == "dark" else "rgba(0, 114, 178, 1)")
    fits(page)
    page.screenshot(path=artifacts / f"usage-{locale}-{width}-{scheme}.png".lower())
    context.close()
