"""The second factor in a real browser, with codes as an authenticator app makes them."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import cv2
import numpy as np
import pyotp
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

from core.db import utcnow
from core.identity import users
from core.services import second_factor
from core.services import sign_in as sign_in_service
from tests.browser.conftest import Server, settle, sign_in, sign_up
from tests.browser.portal_data import behind, user_of
from tests.browser.test_account import PASSWORD, open_section
from tests.browser.test_corrections import open_customer
from tests.browser.test_journey import fits, new_context

pytestmark = pytest.mark.browser
PATIENCE_MS = 60_000


@pytest.mark.timeout(600)
@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_the_whole_way(locale: str, browser: Browser, server: Server, artifacts: Path) -> None:
    """On, out, in with a code, in with a recovery code, off; every state in both themes and widths, and axe's view."""
    folder = artifacts / "second-factor"
    folder.mkdir(exist_ok=True)
    email = f"careful-{locale.lower()}@example.com"
    context = new_context(browser, locale=locale)
    page = context.new_page()
    sign_up(page, server.url, email)

    open_section(page, server, "security")
    look(page, folder / f"{locale}-1-off")
    fill(page, "second_factor_password", PASSWORD)
    send(page, "second_factor_password")
    picture = page.locator("img[src^='data:image/png']")
    expect(picture).to_be_visible(timeout=PATIENCE_MS)
    settle(page)
    look(page, folder / f"{locale}-2-set-up")
    seed = page.get_by_test_id("stCode").inner_text().strip()
    assert re.fullmatch(r"[A-Z2-7]{32}", seed)
    assert picture.get_attribute("alt")
    assert pyotp.parse_uri(read_qr(picture)).secret == seed
    totp = pyotp.TOTP(seed)
    fill(page, "second_factor_first_code", "abcdef")
    send(page, "second_factor_first_code")
    expect(page.get_by_test_id("stAlert")).to_be_visible(timeout=PATIENCE_MS)
    fill(page, "second_factor_first_code", totp.at(utcnow()))
    send(page, "second_factor_first_code")
    kept = page.locator(".st-key-recovery_codes_kept button")
    expect(kept).to_be_visible(timeout=PATIENCE_MS)
    settle(page)
    look(page, folder / f"{locale}-3-codes")
    codes = page.get_by_test_id("stCode").inner_text().split()
    assert len(set(codes)) == 10
    with page.expect_download() as download:
        page.locator(".st-key-recovery_codes_file button").click()
    text = download.value.path().read_text()
    assert all(code in text for code in codes)
    kept.click()
    expect(page.locator(".st-key-second_factor_off button")).to_be_visible(timeout=PATIENCE_MS)
    settle(page)
    expect(page.get_by_text(codes[0])).to_have_count(0)
    look(page, folder / f"{locale}-4-on")

    sign_out(page)
    show_password(page, email)
    look(page, folder / f"{locale}-5-sign-in")
    fill(page, "sign_in_code_text", "wrong-code")
    send(page, "sign_in_code_text")
    expect(page.get_by_test_id("stAlert")).to_be_visible(timeout=PATIENCE_MS)
    # The code of the step that turned it on is used: the next one is taken before its time.
    fill(page, "sign_in_code_text", totp.at(utcnow(), counter_offset=1))
    send(page, "sign_in_code_text")
    expect(page.locator(".st-key-balance")).to_be_visible(timeout=PATIENCE_MS)
    settle(page)

    sign_out(page)
    show_password(page, email)
    page.locator(".st-key-sign_in_again button").click()
    expect(page.locator(".st-key-sign_in_email")).to_be_visible(timeout=PATIENCE_MS)
    show_password(page, email)
    page.reload()  # the password has to be shown again: what waits is this tab's alone
    expect(page.locator(".st-key-sign_in_email")).to_be_visible(timeout=PATIENCE_MS)
    settle(page)
    show_password(page, email)
    fill(page, "sign_in_code_text", codes[0])
    send(page, "sign_in_code_text")
    expect(page.locator(".st-key-balance")).to_be_visible(timeout=PATIENCE_MS)
    settle(page)

    open_section(page, server, "security")
    page.locator(".st-key-second_factor_renew button").click()
    prove(page, codes[1])
    expect(kept).to_be_visible(timeout=PATIENCE_MS)
    settle(page)
    renewed = page.get_by_test_id("stCode").inner_text().split()
    assert not set(renewed) & set(codes)
    kept.click()
    page.locator(".st-key-second_factor_off button").click()
    expect(page.get_by_role("dialog")).to_be_visible(timeout=PATIENCE_MS)
    settle(page)
    look(page, folder / f"{locale}-6-turn-off")
    prove(page, codes[2])
    expect(page.get_by_role("dialog").get_by_test_id("stAlert")).to_be_visible(timeout=PATIENCE_MS)
    prove(page, renewed[0])
    expect(page.locator(".st-key-second_factor_password")).to_be_visible(timeout=PATIENCE_MS)
    settle(page)
    sign_out(page)
    sign_in(page, email, PASSWORD)
    expect(page.locator(".st-key-balance")).to_be_visible(timeout=PATIENCE_MS)
    context.close()


def test_the_operators_way_out(browser: Browser, server: Server, artifacts: Path) -> None:
    """For a customer with a second factor, and nobody else, Admin has a button; he then signs in by password alone."""
    email = "lost-phone@example.com"
    context, theirs = new_context(browser), new_context(browser)
    page, customer = context.new_page(), theirs.new_page()
    with behind(server) as app, app.db.read() as session:
        is_operated = users.has_operator(session)
    if is_operated:
        page.goto(server.url)
        settle(page)
        sign_in(page, "careful-en-us@example.com", PASSWORD)
        expect(page.locator(".st-key-balance")).to_be_visible(timeout=PATIENCE_MS)
    else:
        sign_up(page, server.url, "careful-en-us@example.com")
    sign_up(customer, server.url, email)
    with behind(server) as app:
        user = user_of(app, email)
        token = sign_in_service.open_session(app, sign_in_service.sign_in(app, email, PASSWORD))
        enrolment = second_factor.begin(app, user, PASSWORD)
        second_factor.turn_on(app, user, token, enrolment, pyotp.TOTP(enrolment.seed).at(utcnow()))
    customer.reload()
    expect(customer.locator(".st-key-sign_in_email")).to_be_visible(timeout=PATIENCE_MS)
    page.get_by_role("link", name="Admin").click()
    expect(page.get_by_role("button", name="Make vouchers")).to_be_visible(timeout=PATIENCE_MS)
    settle(page)
    open_customer(page, email)
    page.locator(".st-key-second_factor_reset button").click()
    expect(page.get_by_role("dialog")).to_be_visible(timeout=PATIENCE_MS)
    settle(page)
    page.screenshot(path=artifacts / "second-factor-reset.png")
    page.locator(".st-key-second_factor_reset_now button").click()
    expect(page.get_by_text("The second factor was removed")).to_be_visible(timeout=PATIENCE_MS)
    settle(page)
    expect(page.locator(".st-key-second_factor_reset")).to_have_count(0)
    sign_in(customer, email, PASSWORD)
    expect(customer.locator(".st-key-balance")).to_be_visible(timeout=PATIENCE_MS)
    context.close()
    theirs.close()


def show_password(page: Page, email: str) -> None:
    """Fill in the sign-in form, and wait for the code's."""
    sign_in(page, email, PASSWORD)
    expect(page.locator(".st-key-sign_in_code_text")).to_be_visible(timeout=PATIENCE_MS)
    settle(page)


def sign_out(page: Page) -> None:
    """By the button of the sidebar."""
    page.get_by_role("button", name=re.compile("^(logout )?(Sign out|退出登录|退出)$")).click()
    expect(page.locator(".st-key-sign_in_email")).to_be_visible(timeout=PATIENCE_MS)
    settle(page)


def fill(page: Page, key: str, text: str) -> None:
    """Type into the field of this key."""
    page.locator(f".st-key-{key} input").fill(text)


def send(page: Page, key: str) -> None:
    """Press the button of the form that has the field of this key."""
    page.get_by_test_id("stForm").filter(has=page.locator(f".st-key-{key}")).get_by_test_id(
        "stFormSubmitButton"
    ).locator("button").click()


def prove(page: Page, code: str) -> None:
    """Password and code, in the dialog that asks for them."""
    expect(page.locator(".st-key-second_factor_proof_code")).to_be_visible(timeout=PATIENCE_MS)
    settle(page)
    fill(page, "second_factor_proof_password", PASSWORD)
    fill(page, "second_factor_proof_code", code)
    send(page, "second_factor_proof_code")


def read_qr(picture: Locator) -> str:
    """What a camera reads from a picture that the page has."""
    source = picture.get_attribute("src") or ""
    data = np.frombuffer(base64.b64decode(source.partition(",")[2]), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
    assert image is not None
    return cv2.QRCodeDetector().detectAndDecode(image)[0]


def look(page: Page, path: Path) -> None:
    """A picture in each theme and width; nothing sticks out, and axe finds nothing serious."""
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 1100})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            page.wait_for_timeout(400)
            fits(page)
            page.screenshot(path=f"{path}-{width}-{scheme}.png", full_page=True)
            found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
            serious = [
                (one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")
            ]
            assert not serious, (path.name, width, scheme, serious)
    page.set_viewport_size({"width": 1280, "height": 1000})
    page.emulate_media(color_scheme="light")
    page.wait_for_timeout(300)
