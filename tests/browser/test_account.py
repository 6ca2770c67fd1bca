"""The account in a real browser: limits that stop a run, a team that shares it, statements, and the check."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pypdfium2
import pytest
from playwright.sync_api import Browser, Page, expect

from core.services import limits, team
from tests.browser.conftest import Server, balance, free_port, settle, sign_up
from tests.browser.portal_data import behind, user_of
from tests.browser.test_journey import fits, new_context, run_button, wait_for_results
from tests.core.services.charges import charge

pytestmark = pytest.mark.browser
PASSWORD = "correct horse battery"


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page in a profile of its own."""
    context = new_context(browser)
    yield context.new_page()
    context.close()


def open_section(page: Page, server: Server, section: str) -> None:
    """Open one section of the account by its address."""
    page.goto(f"{server.url}/account?section={section}")
    expect(page.get_by_role("tab", selected=True)).to_be_visible(timeout=60_000)
    settle(page)


def save_limits(page: Page, *, day: str = "", month: str = "", alert: str = "") -> None:
    """Type the three limits and save."""
    for label, text in (("Cap a day", day), ("Cap a month", month), ("Warn below", alert)):
        page.get_by_label(label).fill(text)
    settle(page)
    page.get_by_role("button", name="Save limits").click()


# Limits --------------------------------------------------------------------------------------------


def test_a_cap_stops_a_run_until_it_is_raised(page: Page, server: Server, artifacts: Path) -> None:
    """A cap of 0.5 a day refuses a run of 0.600 in words; raised to 5 the same run goes, and the page shows its use."""
    sign_up(page, server.url, "caps@example.com")
    open_section(page, server, "limits")
    save_limits(page, day="0.5", month="1,000")
    expect(page.get_by_text("Saved. A day: 0.500 tokens · ¥0.01. A month: 1,000.000 tokens")).to_be_visible(
        timeout=30_000
    )
    page.get_by_role("link", name="Detect").click()
    page.get_by_role("button", name="zidane.jpg", exact=True).click()
    settle(page)
    expect(page.get_by_text("the account's cap of 0.500 a day leaves 0.500 for today")).to_be_visible(timeout=30_000)
    assert balance(page) == "20.000"
    page.screenshot(path=artifacts / "limits-refused.png")
    open_section(page, server, "limits")
    save_limits(page, day="5", month="1,000")
    expect(page.get_by_text("Saved. A day: 5.000 tokens")).to_be_visible(timeout=30_000)
    page.get_by_role("link", name="Detect").click()
    if run_button(page).count() == 0:
        page.get_by_role("button", name="zidane.jpg", exact=True).click()
    settle(page)
    run_button(page).click()
    wait_for_results(page)
    assert balance(page) == "19.400"
    open_section(page, server, "limits")
    expect(page.get_by_text("4.400 left of 5.000 tokens · ¥0.05")).to_be_visible()
    expect(page.get_by_text("999.400 left of 1,000.000 tokens · ¥10.00")).to_be_visible()
    page.screenshot(path=artifacts / "limits-used.png")
    save_limits(page, day="0.6", month="")
    expect(page.get_by_text("The cap is reached: nothing more runs before")).to_be_visible(timeout=30_000)
    expect(page.get_by_text("no cap").first).to_be_visible()


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("ten", "Enter tokens as a number"),
        ("1,5", "Enter tokens as a number"),
        ("0.0001", "Enter tokens as a number"),
        ("-1", "This amount is outside what is allowed"),
    ],
)
def test_wrong_limits_are_explained(browser: Browser, server: Server, typed: str, words: str) -> None:
    """What is no amount is explained, and nothing is saved."""
    email = f"typo{abs(hash(typed))}@example.com"
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, email)
    open_section(page, server, "limits")
    save_limits(page, day=typed)
    expect(page.get_by_text(words)).to_be_visible(timeout=30_000)
    with behind(server) as app:
        assert limits.get_limits(app, user_of(app, email)).day_cap_mt is None
    context.close()


def test_the_low_balance_is_said_once(page: Page, server: Server, artifacts: Path) -> None:
    """A crossing of the threshold puts a banner on every page; dismissed, it stays away until the next one."""
    sign_up(page, server.url, "low@example.com")
    open_section(page, server, "limits")
    save_limits(page, alert="19.9")
    expect(page.get_by_text("Warning below: 19.900 tokens")).to_be_visible(timeout=30_000)
    banner = page.locator(".st-key-low_balance")
    assert banner.count() == 0
    with behind(server) as app:
        user = user_of(app, "low@example.com")
        charge(app, user, "a.jpg")
    for name in ("usage", "receipts", "account"):
        page.goto(f"{server.url}/{name}")
        expect(banner).to_contain_text(
            "The balance fell below 19.900 tokens: 19.750 tokens · ¥0.20 left", timeout=60_000
        )
    page.screenshot(path=artifacts / "low-balance.png")
    banner.get_by_role("button", name="Top up").click()
    expect(page.get_by_role("heading", name="Top up")).to_be_visible(timeout=30_000)
    banner.get_by_role("button", name="Dismiss").click()
    expect(banner).to_have_count(0, timeout=30_000)
    with behind(server) as app:
        charge(app, user, "b.jpg")
    page.reload()
    expect(page.get_by_test_id("stMetricValue").first).to_be_visible(timeout=60_000)
    settle(page)
    assert banner.count() == 0, "one crossing, one warning"


# Team ----------------------------------------------------------------------------------------------


def invite(page: Page, server: Server, email: str, role: str) -> str:
    """Invite an address through the form; gives the link that is shown."""
    open_section(page, server, "team")
    page.get_by_test_id("stForm").get_by_role("textbox").first.fill(email)
    page.get_by_test_id("stForm").get_by_role("combobox").click()
    page.get_by_role("option", name=re.compile(f"^{role}")).click()
    page.get_by_role("button", name="Make an invitation").click()
    link = page.locator(".st-key-invitation_made").get_by_test_id("stCode")
    expect(link).to_be_visible(timeout=30_000)
    return link.inner_text().strip()


def test_a_viewer_joins_sees_everything_and_spends_nothing(
    browser: Browser, page: Page, server: Server, artifacts: Path
) -> None:
    """Invite → sign up in another browser → the same balance and receipts, no way to spend → removed, signed out."""
    sign_up(page, server.url, "boss@example.com")
    with behind(server) as app:
        charge(app, user_of(app, "boss@example.com"), "shared.jpg")
    open_section(page, server, "team")
    expect(page.get_by_text("Only you belong to this account.")).to_be_visible()
    link = invite(page, server, "looks@example.com", "viewer")
    assert link.startswith(f"{server.url}/?invite=")
    page.screenshot(path=artifacts / "team-invitation.png")
    page.reload()
    expect(page.get_by_text("looks@example.com")).to_be_visible(timeout=60_000)
    settle(page)
    assert page.locator(".st-key-invitation_made").count() == 0, "the link is shown once"

    context = new_context(browser)
    other = context.new_page()
    other.goto(link)
    expect(other.get_by_text("You were invited to an account")).to_be_visible(timeout=60_000)
    settle(other)
    other.screenshot(path=artifacts / "team-join.png")
    form = other.get_by_role("tabpanel").filter(visible=True)
    form.get_by_role("textbox").nth(0).fill("someone.else@example.com")
    form.locator("input[type=password]").fill(PASSWORD)
    form.get_by_role("button", name="Join the account").click()
    expect(other.get_by_text("This invitation cannot be used")).to_be_visible(timeout=30_000)
    form.get_by_role("textbox").nth(0).fill("looks@example.com")
    form.get_by_role("button", name="Join the account").click()
    expect(other.locator(".st-key-balance")).to_be_visible(timeout=60_000)
    settle(other)
    assert "invite" not in other.url, "a used code does not stay in the address"
    assert balance(other) == "19.750"
    other.get_by_role("button", name="zidane.jpg", exact=True).click()
    settle(other)
    expect(other.get_by_text("0.600").first).to_be_visible(timeout=30_000)
    clickable = [button for button in run_button(other).all() if button.is_enabled()]
    assert clickable == [], "a viewer is shown the price and offered no run"
    other.screenshot(path=artifacts / "team-viewer.png")
    other.goto(f"{server.url}/receipts")
    expect(other.get_by_test_id("stDataFrame")).to_be_visible(timeout=60_000)
    open_section(other, server, "limits")
    expect(other.get_by_label("Cap a day")).to_be_disabled()
    expect(other.get_by_text("Only an owner of the account changes its limits.")).to_be_visible()
    assert other.get_by_role("button", name="Save limits").count() == 0
    open_section(other, server, "team")
    expect(other.get_by_text("boss@example.com")).to_be_visible()
    expect(other.get_by_text("Only an owner of the account invites people and changes roles.")).to_be_visible()
    assert other.get_by_role("button", name=re.compile("Change|Make an invitation")).count() == 0

    open_section(page, server, "team")
    page.get_by_role("button", name="Change").nth(1).click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("looks@example.com")).to_be_visible(timeout=30_000)
    expect(dialog.get_by_role("button", name="Remove")).to_be_disabled()
    page.screenshot(path=artifacts / "team-change.png")
    dialog.get_by_text("member — runs pictures and tops up").click()
    dialog.get_by_role("button", name="Save role").click()
    expect(page.get_by_text("has the role “member” now")).to_be_visible(timeout=30_000)
    page.get_by_role("button", name="Change").nth(1).click()
    dialog.get_by_text("Yes, end this person's access").click()
    dialog.get_by_role("button", name="Remove").click()
    expect(page.get_by_text("looks@example.com was removed")).to_be_visible(timeout=30_000)
    other.goto(f"{server.url}/receipts")
    expect(other.get_by_role("heading", name="Detection by the pixel")).to_be_visible(timeout=60_000)
    context.close()


def test_the_last_owner_stays(page: Page, server: Server) -> None:
    """The only owner can neither step down nor remove himself, and is told why."""
    sign_up(page, server.url, "alone@example.com")
    open_section(page, server, "team")
    page.get_by_role("button", name="Change").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("viewer — looks at everything").click()
    expect(dialog.get_by_text("You will no longer be an owner")).to_be_visible(timeout=30_000)
    dialog.get_by_role("button", name="Save role").click()
    expect(dialog.get_by_text("This is the only owner of the account")).to_be_visible(timeout=30_000)


def test_an_invitation_is_withdrawn(browser: Browser, page: Page, server: Server) -> None:
    """After Withdraw the link lets nobody in; somebody who is signed in already is told what it is for."""
    sign_up(page, server.url, "changes@example.com")
    link = invite(page, server, "late@example.com", "member")
    page.get_by_role("button", name="Withdraw").click()
    expect(page.get_by_text("The invitation of late@example.com was withdrawn.")).to_be_visible(timeout=30_000)
    expect(page.get_by_text("None: whoever was invited has joined, or the invitation ended.")).to_be_visible()
    page.goto(link)
    expect(page.get_by_text("An invitation is for somebody without an account")).to_be_visible(timeout=60_000)
    context = new_context(browser)
    other = context.new_page()
    other.goto(link)
    # The page is drawn again once it has read the link; what is typed before that is lost.
    expect(other.get_by_text("You were invited to an account")).to_be_visible(timeout=60_000)
    settle(other)
    form = other.get_by_role("tabpanel").filter(visible=True)
    form.get_by_role("textbox").nth(0).fill("late@example.com")
    form.locator("input[type=password]").fill(PASSWORD)
    form.get_by_role("button", name="Join the account").click()
    expect(other.get_by_text("This invitation cannot be used")).to_be_visible(timeout=60_000)
    context.close()


# Statement and check -------------------------------------------------------------------------------


def test_a_statement_is_taken_along(page: Page, server: Server) -> None:
    """Opening and closing balance on the page; the PDF is one, and the CSV ends with the same closing balance."""
    sign_up(page, server.url, "books@example.com")
    with behind(server) as app:
        charge(app, user_of(app, "books@example.com"), "a.jpg")
    open_section(page, server, "statement")
    values = page.get_by_test_id("stMain").get_by_test_id("stMetricValue")
    expect(values.nth(0)).to_have_text("0.000 tokens")
    expect(values.nth(1)).to_have_text("19.750 tokens")
    with page.expect_download() as pdf:
        page.get_by_role("button", name="PDF").click()
    assert Path(pdf.value.path()).read_bytes().startswith(b"%PDF-")
    assert re.fullmatch(r"statement-\d{4}-\d{2}\.pdf", pdf.value.suggested_filename)
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    rows = list(csv.DictReader(Path(download.value.path()).read_text("utf-8").splitlines()))
    assert (rows[-1]["type"], rows[-1]["balance_after"]) == ("closing", "19.750")
    assert "Monthly statement" in first_page(Path(pdf.value.path()))
    page.get_by_text("简体中文").click()
    expect(page.get_by_role("tab", name="对账单")).to_be_visible(timeout=30_000)
    settle(page)
    with page.expect_download() as pdf:
        page.get_by_role("button", name="PDF").click()
    assert "月度账单" in first_page(Path(pdf.value.path()))


def first_page(path: Path) -> str:
    """The words of a PDF's first page."""
    with pypdfium2.PdfDocument(path.read_bytes()) as document:
        return str(document[0].get_textpage().get_text_range())


def test_a_kept_head_proves_that_nothing_was_changed(page: Page, tmp_path: Path, artifacts: Path) -> None:
    """The check passes with a head kept earlier, refuses other files, and names the entry that was changed later."""
    server = Server(tmp_path, free_port())
    server.start()
    try:
        sign_up(page, server.url, "checks@example.com")
        with behind(server) as app:
            charge(app, user_of(app, "checks@example.com"), "a.jpg")
        open_section(page, server, "verify")
        with page.expect_download() as download:
            page.get_by_role("button", name="Download the head").click()
        kept = Path(download.value.path()).read_bytes()
        assert [head["seq"] for head in json.loads(kept)["accounts"].values()] == [3]

        def verify(data: bytes) -> None:
            open_section(page, server, "verify")
            page.locator("input[type=file]").set_input_files(
                {"name": "head.json", "mimeType": "application/json", "buffer": data}
            )
            settle(page)
            page.locator(".st-key-verify_balance").get_by_role("button").click()

        verify(kept)
        expect(page.get_by_text("All 3 entries replayed: they give exactly 19.750 tokens.")).to_be_visible(
            timeout=30_000
        )
        expect(page.get_by_text("entries 1 to 3 are what they were")).to_be_visible()
        page.screenshot(path=artifacts / "verify.png")
        verify(b'{"no": "head"}')
        expect(page.get_by_text("This is no exported head of the ledger")).to_be_visible(timeout=30_000)
        verify(re.sub(rb"acct_\w+", b"acct_another", kept))
        expect(page.get_by_text("This file holds no head of your account")).to_be_visible(timeout=30_000)

        with sqlite3.connect(tmp_path / "visionmeter.db") as database:
            database.execute("DROP TRIGGER entry_no_update")
            database.execute("UPDATE entry SET memo = 'nothing to see' WHERE seq = 2")
        verify(kept)
        expect(page.get_by_text("Entry 2 is not the one that was sealed")).to_be_visible(timeout=30_000)
        page.get_by_test_id("stSidebar").get_by_text("简体中文").click()
        expect(page.get_by_role("heading", name="账户", exact=True)).to_be_visible(timeout=30_000)
        settle(page)
        page.locator(".st-key-verify_balance").get_by_role("button").click()
        expect(page.get_by_text("第 2 条分录与封存时不符")).to_be_visible(timeout=30_000)
        page.screenshot(path=artifacts / "verify-tampered.png")
    finally:
        server.stop()


# Everywhere ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheme", "width", "locale"), [("light", 1280, "zh-CN"), ("dark", 390, "en-US")])
def test_the_account_fits(
    browser: Browser, server: Server, artifacts: Path, scheme: str, width: int, locale: str
) -> None:
    """Every section and the banner fit the width with long addresses (`test_accessibility` looks at all else)."""
    context = new_context(browser, viewport={"width": width, "height": 900}, locale=locale, color_scheme=scheme)
    page = context.new_page()
    tag = f"{locale}-{width}-{scheme}".lower()
    email = f"a.rather.long.name.of.somebody.{tag}@quality-assurance.example.com"
    sign_up(page, server.url, email)
    with behind(server) as app:
        user = user_of(app, email)
        team.invite_member(app, user, f"guest-{tag}@quality-assurance.example.com", "viewer")
        limits.set_limits(app, user, day_cap_mt=1_000_000_000, month_cap_mt=9_000_000_000, alert_below_mt=19_900)
        charge(app, user, "a.jpg")
    for section in ("limits", "team", "statement", "verify", "profile"):
        open_section(page, server, section)
        fits(page)
        page.screenshot(path=artifacts / f"page-account-{section}-{tag}.png")
    context.close()
