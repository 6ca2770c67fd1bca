"""Signing in at a provider on the loopback, in a real browser."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Server, find_chromium, free_port, settle, sign_in, sign_up, wait_signed_out
from tests.browser.test_journey import fits, new_context
from tests.identity_provider import CLIENT_ID, CLIENT_SECRET, IdentityProvider, identity_provider

pytestmark = pytest.mark.browser

BUTTON = "Sign in with Company account"


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    """Somebody sits there, and is let in at once."""
    with identity_provider() as one:
        yield one


@pytest.fixture
def portal(tmp_path: Path, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A portal that knows the provider."""
    if find_chromium() is None:
        pytest.skip("no Chromium here: install Debian's chromium, or set VISIONMETER_TEST_CHROMIUM")
    server = Server(tmp_path, free_port())
    settings = {
        "PUBLIC_URL": server.url,
        "OIDC_ISSUER": provider.url,
        "OIDC_CLIENT_ID": CLIENT_ID,
        "OIDC_CLIENT_SECRET": CLIENT_SECRET,
    }
    for name, value in settings.items():
        monkeypatch.setitem(os.environ, f"VISIONMETER_{name}", value)
    server.start()
    yield server
    server.stop()


def picture(page: Page, artifacts: Path, name: str) -> None:
    """The page on a desk and on a phone, which it fits."""
    settle(page)
    page.screenshot(path=artifacts / f"oidc-{name}.png")
    page.set_viewport_size({"width": 390, "height": 900})
    settle(page)
    fits(page)
    page.screenshot(path=artifacts / f"oidc-{name}-390.png")
    page.set_viewport_size({"width": 1280, "height": 900})


def press(page: Page, name: str = BUTTON) -> None:
    """The button, once the page stands still."""
    button = page.get_by_role("button", name=name)
    expect(button).to_be_visible(timeout=60_000)
    settle(page)
    button.click()


def is_in(page: Page, email: str) -> None:
    """Signed in as this address."""
    expect(page.locator(".st-key-balance")).to_be_visible(timeout=60_000)
    expect(page.get_by_text(email).first).to_be_visible()
    settle(page)


def test_in_out_and_in_again(browser: Browser, portal: Server, provider: IdentityProvider, artifacts: Path) -> None:
    """The button leads to the provider and back to the page that was asked for; after signing out it is the same
    account again; a used address, another state and an address that is not verified are sentences, in both languages.
    """
    context = new_context(browser)
    page = context.new_page()
    came_back: list[str] = []
    page.on("request", lambda request: came_back.append(request.url) if "/oidc/callback?" in request.url else None)
    page.goto(f"{portal.url}/usage")
    expect(page.get_by_role("button", name=BUTTON)).to_be_visible(timeout=60_000)
    picture(page, artifacts, "sign-in")
    press(page)
    is_in(page, "ann@example.com")
    assert urlsplit(page.url).path == "/usage"
    expect(page.locator(".st-key-balance")).to_contain_text("20")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("button", name=BUTTON)).to_be_visible(timeout=60_000)
    wait_signed_out(context)

    used = came_back[-1]
    page.goto(used)
    expect(page.get_by_role("alert").get_by_text("was used already")).to_be_visible(timeout=60_000)
    picture(page, artifacts, "used")
    page.goto(portal.url)
    provider.state = parse_qs(urlsplit(used).query)["state"][0]
    press(page)
    expect(page.get_by_role("alert").get_by_text("was used already")).to_be_visible(timeout=60_000)
    provider.state = None

    provider.claims.update(sub="bob-1", email="bob@example.com", email_verified=False)
    press(page)
    expect(page.get_by_role("alert").get_by_text("has not verified your e-mail address")).to_be_visible(timeout=60_000)
    picture(page, artifacts, "unverified")
    settle(page)
    page.get_by_text("简体中文").first.click()
    expect(page.get_by_role("alert").get_by_text("身份提供方尚未验证您的邮箱")).to_be_visible(timeout=60_000)
    picture(page, artifacts, "unverified-zh")
    provider.claims.update(sub="ann-1", email="ann@example.com", email_verified=True)
    press(page, "使用 Company account 登录")
    is_in(page, "ann@example.com")
    page.goto(f"{portal.url}/account?section=security")
    expect(page.get_by_text(provider.url)).to_be_visible(timeout=60_000)
    expect(page.get_by_text("Change the password").or_(page.get_by_text("更改密码"))).to_have_count(0)
    picture(page, artifacts, "security")
    page.goto(f"{portal.url}/account?section=profile")
    press(page, "Delete my account")
    page.get_by_label("Your e-mail address, to confirm").fill("bob@example.com")
    page.get_by_role("dialog").get_by_text("I give up").click()
    settle(page)
    page.get_by_role("button", name="Delete my account for good").click()
    expect(page.get_by_text("This is not the address that you sign in with")).to_be_visible(timeout=60_000)
    picture(page, artifacts, "delete")
    context.close()


def test_linking_an_account(browser: Browser, portal: Server, provider: IdentityProvider, artifacts: Path) -> None:
    """Who has a password is told to sign in with it, links the provider under Security, unlinks it again."""
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, portal.url, "ann@example.com")
    page.get_by_role("button", name="Sign out").click()
    press(page)
    expect(page.get_by_role("alert").get_by_text("sign in with it below")).to_be_visible(timeout=60_000)
    picture(page, artifacts, "password")
    sign_in(page, "ann@example.com")
    is_in(page, "ann@example.com")
    assert "sign_in_failed" not in page.url
    page.goto(f"{portal.url}/account?section=security")
    expect(page.get_by_role("button", name="Link Company account")).to_be_visible(timeout=60_000)
    picture(page, artifacts, "link")
    provider.claims.update(sub="bob-1", email="bob@example.com")
    press(page, "Link Company account")
    expect(page.get_by_role("alert").get_by_text("nothing was linked")).to_be_visible(timeout=60_000)
    picture(page, artifacts, "other")
    provider.claims.update(sub="ann-1", email="ann@example.com")
    press(page, "Link Company account")
    expect(page.get_by_text(f"You sign in through {provider.url}.")).to_be_visible(timeout=60_000)
    expect(page.get_by_text("nothing was linked")).to_have_count(0)
    picture(page, artifacts, "linked")
    page.get_by_role("button", name="Unlink").click()
    expect(page.get_by_text("Unlinked: sign in with your password.")).to_be_visible(timeout=60_000)
    expect(page.get_by_role("button", name=re.compile("Link Company account"))).to_be_visible()
    context.close()
