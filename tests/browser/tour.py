"""A tour of the whole portal: an account with something on every page, and where a visit stops."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from playwright.sync_api import Page, expect
from sqlalchemy import update
from sqlmodel import col
from ultralytics.utils import ASSETS

from core.identity.tables import User
from core.pricing.receipts import ReceiptFilter
from core.services import account_view, api_keys, demo, limits, receipts, team, top_up
from core.services.api_key_settings import KeySettings
from tests.browser.conftest import Server, settle
from tests.browser.pictures import distinct_jpegs
from tests.browser.portal_data import behind, user_of
from ui.help_text import TOPICS

RUN_TIMEOUT_MS = 90_000
LANGUAGES = {"en": "en-US", "zh_CN": "zh-CN"}


@dataclass(frozen=True, slots=True)
class Stop:
    """One page, tab or state: `open` leads there and leaves it with what it shows on the screen."""

    name: str
    open: Callable[[Page, Server], None]


def furnish(server: Server) -> str:
    """Make the demo customer the operator, and give him something on each page; gives his password."""
    with behind(server) as app:
        made = demo.fill(app.db)
        with app.db.write() as session:
            session.execute(update(User).where(col(User.email) == demo.EMAIL).values(is_operator=True))
        user = user_of(app, demo.EMAIL)
        # The first run crosses the threshold, and from then on every page says so.
        alert_below_mt = account_view.get_balance(app, user).available_mt - 1_000
        limits.set_limits(app, user, day_cap_mt=90_000, month_cap_mt=9_000_000, alert_below_mt=alert_below_mt)
        api_keys.create_key(app, user, KeySettings(name="Line 7, camera", day_cap_mt=60_000, manages_keys=True))
        ended = api_keys.create_key(app, user, KeySettings(name="Line 6"))
        api_keys.revoke_key(app, user, ended.key.id)
        team.invite_member(app, user, "colleague@example.com", "viewer")
        top_up.make_vouchers(app, user, count=3, amount_mt=100_000, note="Trade fair")
    return made.password


def sign_in_stops() -> list[Stop]:
    """What somebody sees who is signed out."""

    def open_sign_in(page: Page, server: Server) -> None:
        page.goto(server.url)
        expect(page.get_by_role("tab").first).to_be_visible(timeout=60_000)

    return [
        Stop("help-signed-out", _by_address("help")),
        Stop("sign-in", open_sign_in),
        Stop("sign-up", lambda page, _server: page.get_by_role("tab").nth(1).click()),
    ]


def stops() -> list[Stop]:
    """All pages, their tabs and their most important states, in an order in which each one leads to the next."""
    return [
        Stop("detect", _open_detect),
        Stop("detect-preview", _open_preview),
        Stop("detect-results", _open_results),
        Stop("top-up", _by_address("top_up")),
        Stop("receipts", _by_address("receipts")),
        Stop("receipt", _open_receipt),
        Stop("usage", _open_usage),
        Stop("savings", _by_address("savings")),
        Stop("api-keys", _by_address("api_keys")),
        Stop("api-keys-create", _open_key_dialog),
        *(
            Stop(f"account-{section}", _by_address(f"account?section={section}"))
            for section in ("limits", "team", "statement", "verify", "profile", "security")
        ),
        *(Stop(f"help-{topic}", _by_address(f"help?topic={topic}")) for topic in TOPICS),
        *(Stop(f"admin-{number}-{name}", _admin_tab(number)) for number, name in enumerate(ADMIN_TABS)),
    ]


ADMIN_TABS = ("vouchers", "payments", "customers", "models", "prices", "ledger", "audit")


def _by_address(address: str) -> Callable[[Page, Server], None]:
    def open_page(page: Page, server: Server) -> None:
        page.goto(f"{server.url}/{address}")
        expect(page.get_by_test_id("stMain").get_by_role("heading").first).to_be_visible(timeout=60_000)

    return open_page


def _open_detect(page: Page, server: Server) -> None:
    page.goto(server.url)
    expect(page.locator("input[type=file]").first).to_be_attached(timeout=60_000)


def _open_preview(page: Page, _server: Server) -> None:
    pictures = distinct_jpegs((ASSETS / "bus.jpg").read_bytes(), 10)
    page.locator("input[type=file]").first.set_input_files(
        [
            *(
                {"name": f"gate-{number}.jpg", "mimeType": "image/jpeg", "buffer": data}
                for number, data in enumerate(pictures)
            ),
            {"name": "zidane.jpg", "mimeType": "image/jpeg", "buffer": (ASSETS / "zidane.jpg").read_bytes()},
            {"name": "letter.jpg", "mimeType": "image/jpeg", "buffer": b"Dear reader, this is no picture." * 20},
        ]
    )
    expect(page.locator("[class*=st-key-run_] button")).to_be_visible(timeout=60_000)


def _open_results(page: Page, _server: Server) -> None:
    page.locator("[class*=st-key-run_] button").click()
    expect(page.get_by_test_id("stImage").filter(has_text="gate-0.jpg")).to_be_visible(timeout=RUN_TIMEOUT_MS)
    settle(page)
    page.get_by_text(re.compile("Detections and downloads|检测结果与下载")).first.click()


def _open_receipt(page: Page, server: Server) -> None:
    with behind(server) as app:
        newest = receipts.list_receipts(app, user_of(app, demo.EMAIL), ReceiptFilter("")).lines[0].receipt.id
    _by_address(f"receipts?id={newest}")(page, server)


def _open_usage(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/usage")
    expect(page.locator(".stPlotlyChart").nth(4)).to_be_visible(timeout=60_000)


def _open_key_dialog(page: Page, _server: Server) -> None:
    page.get_by_role("button", name=re.compile("Create a key|创建密钥")).click()
    expect(page.get_by_role("dialog").get_by_role("textbox").first).to_be_visible(timeout=30_000)


def _admin_tab(number: int) -> Callable[[Page, Server], None]:
    def open_tab(page: Page, server: Server) -> None:
        if number == 0:
            _by_address("admin")(page, server)
        page.get_by_role("tab").nth(number).click()

    return open_tab
