"""The ways by mail: an account, confirming an address for the welcome tokens, a new password for a forgotten one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from core.config import SESSION_COOKIE
from tests.browser.conftest import Server, balance, find_chromium, free_port, settle, sign_in, sign_up
from tests.browser.test_journey import new_context
from tests.mail_server import MailServer, mail_server

pytestmark = pytest.mark.browser
ANN, BOB = "ann@example.com", "bob@example.com"
NEW = "violet harbour kettle moss"
SIZES = {"wide": {"width": 1280, "height": 800}, "narrow": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def mail() -> Iterator[MailServer]:
    """A mail server on the loopback."""
    with mail_server() as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, mail: MailServer) -> Iterator[Server]:
    """A portal that sends its mails there."""
    if find_chromium() is None:
        pytest.skip("no Chromium here: install Debian's chromium, or set VISIONMETER_TEST_CHROMIUM")
    server = Server(tmp_path_factory.mktemp("mailing"), free_port())
    configured = {f"VISIONMETER_{name.upper()}": str(value) for name, value in mail.settings().items()}
    patch = pytest.MonkeyPatch()
    for name, value in {**configured, "VISIONMETER_PUBLIC_URL": server.url}.items():
        patch.setitem(os.environ, name, value)
    server.start()
    yield server
    server.stop()
    patch.undo()


def picture(page: Page, artifacts: Path, name: str) -> None:
    """The page as it is, wide and narrow."""
    for size, viewport in SIZES.items():
        page.set_viewport_size(viewport)
        settle(page)
        page.wait_for_timeout(400)
        page.screenshot(path=artifacts / f"mail-{name}-{size}.png")
    page.set_viewport_size(SIZES["wide"])
    settle(page)


def ask_for_link(page: Page, email: str) -> str:
    """Ask on the sign-in page for a link; gives what the page says."""
    page.get_by_role("button", name=re.compile("Forgotten|忘记")).click()
    address = page.get_by_role("textbox", name=re.compile("E-mail of the account|账户的邮箱"))
    address.fill(email)
    page.get_by_role("button", name=re.compile("Mail me|发送链接")).click()
    said = page.get_by_test_id("stAlert").filter(visible=True)
    expect(said).to_be_visible(timeout=30_000)
    return said.inner_text()


def ask_for_account(page: Page, url: str, email: str) -> str:
    """Ask on the sign-in page for an account; gives what the page says."""
    page.goto(url)
    settle(page)
    page.get_by_role("tab").nth(1).click()
    form = page.get_by_role("tabpanel").filter(visible=True)
    expect(form.locator("input[type=password]")).to_have_count(0)
    form.get_by_role("textbox").fill(email)
    form.get_by_role("button", name=re.compile("Create account|创建账户")).click()
    said = form.get_by_test_id("stAlert")
    expect(said).to_be_visible(timeout=30_000)
    settle(page)
    return said.inner_text()


def invite(page: Page, url: str, email: str) -> None:
    """Let somebody in whom no mail reaches, as the operator."""
    page.goto(f"{url}/admin")
    page.get_by_role("tab", name="Customers").click(timeout=60_000)
    expect(page.get_by_text("An invitation lets in whom no mail reaches")).to_be_visible(timeout=60_000)
    settle(page)
    page.get_by_role("textbox", name="E-mail of a new customer").fill(email)
    page.get_by_role("button", name="Make an invitation").click()
    expect(page.locator(".st-key-customer_invitation_made")).to_contain_text(f"{url}/?invite=", timeout=30_000)


def set_password(page: Page, password: str) -> None:
    """Fill in the form that a link opened."""
    fields = page.locator("input[type=password]")
    fields.nth(0).fill(password)
    fields.nth(1).fill(password)
    page.get_by_role("button", name=re.compile("Change the password|更改密码|修改密码|Create account|创建账户")).click()


def test_the_address_is_confirmed_on_another_device(
    browser: Browser, server: Server, mail: MailServer, artifacts: Path
) -> None:
    """Signed up, no tokens yet; the mail's link, opened elsewhere, gives them once; opened again it says what it is."""
    page = new_context(browser).new_page()
    sign_up(page, server.url, ANN)
    assert balance(page) == "0.000"
    expect(page.locator(".st-key-unconfirmed")).to_contain_text(ANN)
    first = mail.wait_for(ANN)
    picture(page, artifacts, "unconfirmed")
    page.locator(".st-key-unconfirmed").get_by_role("button").click()
    expect(page.get_by_text("Another mail is on its way")).to_be_visible(timeout=30_000)
    second = mail.wait_for(ANN, count=2)
    assert second.link.startswith(f"{server.url}/?confirm=")
    phone = new_context(browser).new_page()
    phone.goto(first.link)
    expect(phone.get_by_text("This link does not work")).to_be_visible(timeout=60_000)
    phone.goto(second.link)
    expect(phone.get_by_text(ANN)).to_be_visible(timeout=60_000)
    settle(phone)
    # The secret left the address at once.
    assert "confirm" not in phone.url
    picture(phone, artifacts, "confirm")
    phone.get_by_role("button", name="This address is mine").click()
    expect(phone.get_by_text("20.000 tokens were added")).to_be_visible(timeout=30_000)
    picture(phone, artifacts, "confirmed")
    page.reload()
    settle(page)
    assert balance(page) == "20.000"
    expect(page.locator(".st-key-unconfirmed")).to_have_count(0)
    phone.goto(second.link)
    expect(phone.get_by_text("This link was used already")).to_be_visible(timeout=60_000)
    phone.context.close()
    page.context.close()


def test_a_forgotten_password(browser: Browser, server: Server, mail: MailServer, artifacts: Path) -> None:
    """The same words for anybody; the link, opened in two tabs, sets one password; the old session is out."""
    before = new_context(browser).new_page()
    before.goto(server.url)
    settle(before)
    sign_in(before, ANN)
    expect(before.locator(".st-key-balance")).to_be_visible(timeout=60_000)
    page = new_context(browser).new_page()
    page.goto(server.url)
    settle(page)
    unknown = ask_for_link(page, "nobody@example.com")
    page.reload()
    settle(page)
    assert ask_for_link(page, ANN) == unknown
    picture(page, artifacts, "forgotten")
    mailed = mail.wait_for(ANN, count=3)
    assert mailed.message["Subject"] == "Choose a new password"
    other = page.context.new_page()
    for tab in (page, other):
        tab.goto(mailed.link)
        expect(tab.locator("input[type=password]").nth(1)).to_be_visible(timeout=60_000)
        settle(tab)
        assert "reset" not in tab.url
    picture(page, artifacts, "reset")
    set_password(page, "password123!")
    expect(page.get_by_test_id("stAlert").filter(visible=True)).to_contain_text("easy to guess", timeout=30_000)
    set_password(page, NEW)
    expect(page.get_by_text("The password was changed.")).to_be_visible(timeout=30_000)
    set_password(other, "another harbour kettle moss")
    expect(other.get_by_text("This link was used already")).to_be_visible(timeout=30_000)
    before.reload()
    settle(before)
    expect(before.get_by_role("tab", name="Sign in")).to_be_visible(timeout=60_000)
    page.get_by_role("button", name="Go on").click()
    settle(page)
    sign_in(page, ANN, NEW)
    expect(page.locator(".st-key-balance")).to_be_visible(timeout=60_000)
    log = (server.data_dir / "server.log").read_text("utf-8")
    for secret in (mailed.secret, ANN):
        assert secret not in log
    before.context.close()
    page.context.close()


def test_an_account_begins_with_its_mail(browser: Browser, server: Server, mail: MailServer, artifacts: Path) -> None:
    """The form says the same for a new address and a taken one; the mails tell, and the link opens the account."""
    page = new_context(browser).new_page()
    said = ask_for_account(page, server.url, BOB)
    assert BOB in said
    picture(page, artifacts, "sign-up")
    arrived = len(mail.received)
    assert ask_for_account(page, server.url, ANN) == said.replace(BOB, ANN)
    assert SESSION_COOKIE not in {cookie.get("name") for cookie in page.context.cookies(server.url)}
    received = mail.wait_for(BOB)
    assert received.link.startswith(f"{server.url}/?sign_up=")
    # On another device, where somebody else is signed in.
    phone = new_context(browser).new_page()
    phone.goto(server.url)
    settle(phone)
    sign_in(phone, ANN, NEW)
    expect(phone.locator(".st-key-balance")).to_be_visible(timeout=60_000)
    settle(phone)
    invite(phone, server.url, "unreached@example.com")
    phone.goto(received.link)
    expect(phone.get_by_text(BOB)).to_be_visible(timeout=60_000)
    settle(phone)
    assert "sign_up" not in phone.url
    expect(phone.get_by_text(f"You are signed in as {ANN}")).to_be_visible()
    picture(phone, artifacts, "open-account")
    set_password(phone, "password123!")
    alerts = phone.get_by_test_id("stAlert").filter(visible=True)
    expect(alerts.filter(has_text="easy to guess")).to_be_visible(timeout=30_000)
    set_password(phone, NEW)
    expect(phone.locator(".st-key-balance")).to_be_visible(timeout=60_000)
    settle(phone)
    assert balance(phone) == "20.000"
    expect(phone.get_by_text(BOB).first).to_be_visible()
    expect(phone.locator(".st-key-unconfirmed")).to_have_count(0)
    picture(phone, artifacts, "opened")
    phone.goto(received.link)
    expect(phone.get_by_text("Your account is open: sign in.")).to_be_visible(timeout=60_000)
    anns = mail.wait_for(ANN, count=sum(one.to == [ANN] for one in mail.received[:arrived]) + 1)
    assert anns.message["Subject"] == "You have an account already"
    page.goto(re.findall(r"https?://\S+", anns.text)[1])
    expect(page.get_by_role("textbox", name="E-mail of the account")).to_be_visible(timeout=60_000)
    settle(page)
    assert "forgotten" not in page.url
    picture(page, artifacts, "taken")
    sign_in(page, BOB, NEW)
    expect(page.locator(".st-key-balance")).to_be_visible(timeout=60_000)
    log = (server.data_dir / "server.log").read_text("utf-8")
    for secret in (received.secret, BOB):
        assert secret not in log
    phone.context.close()
    page.context.close()


def test_in_chinese(browser: Browser, server: Server, mail: MailServer, artifacts: Path) -> None:
    """The pages and the mail speak the customer's language; a poisoned Host header leads no link astray."""
    page = new_context(browser, locale="zh-CN").new_page()
    # The portal is asked for under another name, as whoever poisons a link would.
    page.goto(server.url.replace("localhost", "127.0.0.1"))
    settle(page)
    ask_for_link(page, "nobody@example.com")
    picture(page, artifacts, "forgotten-zh")
    said = ask_for_account(page, server.url.replace("localhost", "127.0.0.1"), "li@example.com")
    assert "邮件正在发往 li@example.com" in said
    picture(page, artifacts, "sign-up-zh")
    received = mail.wait_for("li@example.com")
    assert received.message["Subject"] == "请创建您的账户"
    assert received.link.startswith(f"{server.url}/")
    page.goto(received.link)
    expect(page.get_by_role("button", name="创建账户")).to_be_visible(timeout=60_000)
    picture(page, artifacts, "open-account-zh")
    set_password(page, NEW)
    expect(page.locator(".st-key-balance")).to_be_visible(timeout=60_000)
    settle(page)
    assert balance(page) == "20.000"
    picture(page, artifacts, "opened-zh")
    page.context.close()
