"""What an operator does in a real browser: refund, adjust, freeze, check the ledger; and what the customer sees."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlmodel import select

from core.db import Database
from core.identity.tables import User
from core.ledger import ledger
from core.ledger.verify import verify_ledger
from tests.browser.conftest import Server, balance, click_row, settle, sign_in, sign_up
from tests.browser.test_journey import fits, new_context, run_button, wait_for_results

pytestmark = pytest.mark.browser
OPERATOR = "operator@example.com"


@pytest.fixture
def operator(browser: Browser, server: Server) -> Page:
    """The operator, at Admin; the first test signs him up."""
    context = new_context(browser)
    page = context.new_page()
    if (server.data_dir / "operator").exists():
        page.goto(server.url)
        expect(page.get_by_role("tab").first).to_be_visible(timeout=60_000)
        settle(page)
        sign_in(page, OPERATOR)
        expect(page.locator(".st-key-balance")).to_be_visible(timeout=60_000)
    else:
        sign_up(page, server.url, OPERATOR)
        (server.data_dir / "operator").touch()
    page.get_by_role("link", name="Admin").click()
    expect(page.get_by_role("button", name="Make vouchers")).to_be_visible(timeout=60_000)
    settle(page)
    yield page
    context.close()


@pytest.fixture
def customer(browser: Browser, server: Server, operator: Page, request: pytest.FixtureRequest) -> Page:
    """A customer of this test who ran one picture for 0.600 tokens. The operator was there first."""
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, email_of(request.node.name))
    page.get_by_role("button", name="zidane.jpg", exact=True).click()
    settle(page)
    run_button(page).click()
    wait_for_results(page)
    yield page
    context.close()


def email_of(name: str) -> str:
    """The address of a test's customer."""
    return f"{name.removeprefix('test_').split('[')[0][:40]}@example.com".replace("_", "-")


def open_customer(operator: Page, email: str) -> None:
    """Admin → Customers → the one with this address."""
    operator.get_by_role("tab", name="Customers").click()
    field = operator.get_by_label("Find by address")
    field.fill(email)
    field.press("Enter")
    settle(operator)
    click_row(
        operator.get_by_role("tabpanel").filter(visible=True).get_by_test_id("stDataFrame").first,
        then=operator.get_by_role("heading", name=email),
    )


def transactions(page: Page, view: str) -> list[dict[str, str]]:
    """The rows of the CSV of a view of the transactions."""
    page.get_by_role("link", name="Top up").click()
    expect(page.get_by_role("heading", name="Transactions")).to_be_visible(timeout=30_000)
    page.get_by_text(view, exact=True).click()
    settle(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV of this list").click()
    with Path(download.value.path()).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_refund(operator: Page, customer: Page, server: Server, artifacts: Path, request) -> None:
    """Part of a charge is refunded once, although Confirm is clicked twice; what is left is the most that follows."""
    email = email_of(request.node.name)
    open_customer(operator, email)
    charges = operator.get_by_role("tabpanel").filter(visible=True).get_by_test_id("stDataFrame").nth(1)
    refund = operator.get_by_role("button", name="Refund this charge")
    click_row(charges, then=refund)
    refund.click()
    dialog = operator.get_by_role("dialog")
    expect(dialog.get_by_text("Left to refund: 0.600 tokens")).to_be_visible(timeout=30_000)
    dialog.get_by_label("Tokens to refund").fill("0.700")
    dialog.get_by_label("Reason").fill("=1+1 the picture was ours")
    dialog.get_by_role("button", name="Continue").click()
    expect(dialog.get_by_text("0.700 tokens are more than the 0.600")).to_be_visible(timeout=30_000)
    dialog.get_by_label("Tokens to refund").fill("0.200")
    operator.screenshot(path=artifacts / "corrections-refund-form.png")
    dialog.get_by_role("button", name="Continue").click()
    expect(dialog.get_by_text(f"Refund 0.200 tokens · ¥0.00 to {email}?")).to_be_visible(timeout=30_000)
    operator.screenshot(path=artifacts / "corrections-refund-question.png")
    dialog.get_by_role("button", name="Refund 0.200 tokens").dblclick()
    expect(operator.get_by_text(f"Refunded 0.200 tokens to {email}.")).to_be_visible(timeout=30_000)
    settle(operator)
    operator.screenshot(path=artifacts / "corrections-refunded.png", full_page=True)

    movements = operator.get_by_role("tabpanel").filter(visible=True).get_by_test_id("stDataFrame").nth(2)
    show = operator.get_by_role("button", name="Show the charge that was refunded")
    click_row(movements, then=show)
    operator.screenshot(path=artifacts / "corrections-movements.png", full_page=True)
    show.click()
    expect(operator.get_by_label("Receipt or reference")).to_have_value(re.compile("hold_"), timeout=30_000)
    settle(operator)
    refund = operator.get_by_role("button", name="Refund this charge")
    click_row(charges, then=refund)
    refund.click()
    expect(operator.get_by_role("dialog").get_by_text("Left to refund: 0.400 tokens")).to_be_visible(timeout=30_000)
    rows = transactions(customer, "Refunds and corrections")
    assert [(row["type"], row["tokens"], row["reason"]) for row in rows] == [
        ("refund", "0.200", "'=1+1 the picture was ours")
    ]
    assert balance(customer) == "19.600"
    customer.get_by_text("All that moved the balance").click()
    settle(customer)
    customer.screenshot(path=artifacts / "corrections-customer.png", full_page=True)
    click_row(
        customer.get_by_test_id("stMain").get_by_test_id("stDataFrame").first,
        row=1,
        then=customer.get_by_text("Refunded of this charge: 0.200 tokens."),
    )


def test_adjust(operator: Page, customer: Page, artifacts: Path, request) -> None:
    """Without a reason nothing is asked; tokens are added and taken; more than there is, is refused in words."""
    email = email_of(request.node.name)
    open_customer(operator, email)
    for amount, answer in (
        ("5", f"The balance of {email} is now 24.400 tokens."),
        ("−4.4", f"The balance of {email} is now 20.000 tokens."),
    ):
        operator.get_by_role("button", name="Adjust the balance").click()
        dialog = operator.get_by_role("dialog")
        dialog.get_by_label("Tokens to add").fill(amount)
        dialog.get_by_role("button", name="Continue").click()
        expect(dialog.get_by_text("Say why")).to_be_visible(timeout=30_000)
        dialog.get_by_label("Reason").fill("for the trouble")
        dialog.get_by_role("button", name="Continue").click()
        dialog.get_by_role("button", name=re.compile("^(Add|Take) ")).click()
        expect(operator.get_by_text(answer)).to_be_visible(timeout=30_000)
        settle(operator)
    operator.get_by_role("button", name="Adjust the balance").click()
    dialog = operator.get_by_role("dialog")
    dialog.get_by_label("Tokens to add").fill("-1,000")
    dialog.get_by_label("Reason").fill("too much")
    dialog.get_by_role("button", name="Continue").click()
    dialog.get_by_role("button", name="Take 1,000.000 tokens").click()
    expect(dialog.get_by_text("At most 20.000 tokens can be taken")).to_be_visible(timeout=30_000)
    rows = transactions(customer, "Refunds and corrections")
    assert [(row["type"], row["tokens"]) for row in rows] == [("adjustment", "-4.400"), ("adjustment", "5.000")]


def test_freeze(operator: Page, customer: Page, artifacts: Path, request) -> None:
    """A frozen customer sees why he cannot run; afterwards he can again; both stand in his transactions."""
    email = email_of(request.node.name)
    open_customer(operator, email)
    operator.get_by_role("button", name="Freeze the account").click()
    dialog = operator.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("card stolen?")
    dialog.get_by_role("button", name="Continue").click()
    dialog.get_by_role("button", name="Freeze the account").click()
    expect(operator.get_by_text(f"The account of {email} is frozen.")).to_be_visible(timeout=30_000)
    settle(operator)
    operator.screenshot(path=artifacts / "corrections-frozen.png", full_page=True)
    operator.set_viewport_size({"width": 390, "height": 900})
    fits(operator)
    operator.set_viewport_size({"width": 1280, "height": 1000})
    customer.get_by_role("button", name="bus.jpg", exact=True).click()
    expect(customer.get_by_text("This account cannot spend at present")).to_be_visible(timeout=30_000)
    expect(customer.get_by_text("The reason given: card stolen?")).to_be_visible()
    customer.screenshot(path=artifacts / "corrections-frozen-customer.png")
    expect(customer.get_by_role("button", name=re.compile(r"Run — 0\.750 tokens"))).to_be_disabled()
    operator.get_by_role("button", name="Let it spend again").click()
    dialog = operator.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("he called")
    dialog.get_by_role("button", name="Continue").click()
    dialog.get_by_role("button", name="Let it spend again").click()
    expect(operator.get_by_text(f"The account of {email} can spend again.")).to_be_visible(timeout=30_000)
    rows = transactions(customer, "Refunds and corrections")
    assert [(row["type"], row["reason"]) for row in rows] == [("unfreeze", "he called"), ("freeze", "card stolen?")]


def test_plan(operator: Page, customer: Page, server: Server, artifacts: Path, request) -> None:
    """With a reason the customer becomes a VIP and reads what that is; it is taken back; the audit log has both."""
    email = email_of(request.node.name)
    open_customer(operator, email)
    operator.get_by_role("button", name="Make it a VIP").click()
    dialog = operator.get_by_role("dialog")
    promise = "A picture that is not done 10 s after its run was started gives back 50"
    expect(dialog.get_by_text(promise)).to_be_visible(timeout=30_000)
    dialog.get_by_role("button", name="Continue").click()
    expect(dialog.get_by_text("Say why")).to_be_visible(timeout=30_000)
    dialog.get_by_label("Reason, for the audit log").fill("signed a contract")
    dialog.get_by_role("button", name="Continue").click()
    expect(dialog.get_by_text(f"Make {email} a VIP?")).to_be_visible(timeout=30_000)
    dialog.get_by_role("button", name="Make it a VIP").click()
    expect(operator.get_by_text(f"{email} is a VIP now.")).to_be_visible(timeout=30_000)
    settle(operator)
    operator.screenshot(path=artifacts / "plan-vip.png", full_page=True)
    operator.set_viewport_size({"width": 390, "height": 900})
    fits(operator)
    operator.set_viewport_size({"width": 1280, "height": 1000})
    customer.goto(f"{server.url}/account?section=profile")
    expect(customer.get_by_text("your pictures go before those of other customers.")).to_be_visible(timeout=60_000)
    expect(customer.get_by_text(promise)).to_be_visible()
    settle(customer)
    customer.screenshot(path=artifacts / "plan-customer.png", full_page=True)
    operator.get_by_role("button", name="Back to the standard plan").click()
    dialog = operator.get_by_role("dialog")
    dialog.get_by_label("Reason, for the audit log").fill("it ended")
    dialog.get_by_role("button", name="Continue").click()
    dialog.get_by_role("button", name="Back to the standard plan").click()
    expect(operator.get_by_text(f"{email} has the standard plan now.")).to_be_visible(timeout=30_000)
    operator.get_by_role("tab", name="Audit log").click()
    settle(operator)
    with operator.expect_download() as download:
        operator.get_by_role("button", name="Audit log as CSV").click()
    with Path(download.value.path()).open(encoding="utf-8") as file:
        changes = [row for row in csv.DictReader(file) if row["action"] == "account.plan"]
    assert [(row["actor"], json.loads(row["details"])) for row in changes[:2]] == [
        (OPERATOR, {"plan": "standard", "reason": "it ended"}),
        (OPERATOR, {"plan": "vip", "reason": "signed a contract"}),
    ]


def test_a_voucher_redeemed_with_a_double_click(operator: Page, customer: Page) -> None:
    """Two clicks on Redeem are one request: credited once, and no complaint about a used voucher."""
    operator.get_by_role("button", name="Make vouchers").click()
    expect(operator.get_by_text("1 voucher made.")).to_be_visible(timeout=30_000)
    code = operator.get_by_test_id("stCode").locator("code").inner_text().strip()
    customer.get_by_role("link", name="Top up").click()
    customer.get_by_label("Voucher code").fill(code)
    customer.get_by_role("button", name="Redeem").dblclick()
    expect(customer.get_by_text("Credited: 100.000 tokens")).to_be_visible(timeout=30_000)
    settle(customer)
    assert customer.get_by_text("You have redeemed this voucher already").count() == 0
    assert balance(customer) == "119.400"


def test_many_transactions_come_page_by_page(customer: Page, server: Server, artifacts: Path, request) -> None:
    """120 entries are three pages; every page begins where the one before ended, and the CSV has all of them."""
    database = Database(f"sqlite:///{server.data_dir / 'visionmeter.db'}")
    with database.write() as session:
        user = session.exec(select(User).where(User.email == email_of(request.node.name))).one()
        for _number in range(120):
            ledger.post_top_up(session, user.account_id, 1000, source="house:vouchers", actor=user.id, memo="paged")
    database.close()
    rows = transactions(customer, "Top-ups")
    assert len(rows) == 121
    expect(customer.get_by_text("Page 1", exact=False)).to_be_visible()
    expect(customer.get_by_role("button", name="Newer")).to_be_disabled()
    for number in (2, 3):
        customer.get_by_role("button", name="Older").click()
        expect(customer.get_by_text(f"Page {number}")).to_be_visible(timeout=30_000)
        settle(customer)
    expect(customer.get_by_role("button", name="Older")).to_be_disabled()
    customer.screenshot(path=artifacts / "corrections-page-3.png", full_page=True)
    customer.get_by_text("7 days").click()
    expect(customer.get_by_text("Page 1")).to_be_visible(timeout=30_000)


def test_what_if(operator: Page, customer: Page, artifacts: Path, request) -> None:
    """Unchanged prices give what was charged; a double α doubles it and names who pays most more; nothing is stored."""
    operator.get_by_role("tab", name="Price list").click()
    panel = operator.get_by_role("tabpanel").filter(visible=True)
    panel.get_by_text("Last 30 days").click()
    settle(operator)
    panel.get_by_role("button", name="Price anew").click()
    expect(panel.get_by_text("+¥0.00").or_(panel.get_by_text("¥0.00 · 0 %")).first).to_be_visible(timeout=30_000)
    panel.get_by_label("α").fill("2")
    panel.get_by_label("Price of a token").fill("x")
    panel.get_by_role("button", name="Price anew").click()
    expect(panel.get_by_text("α, β and the price are numbers above 0.")).to_be_visible(timeout=30_000)
    panel.get_by_label("Price of a token").fill("0.02")
    panel.get_by_role("button", name="Price anew").click()
    expect(panel.get_by_text("+300 %").first).to_be_visible(timeout=30_000)
    expect(panel.get_by_text("Customers who would pay more")).to_be_visible()
    settle(operator)
    for scheme in ("light", "dark"):
        operator.emulate_media(color_scheme=scheme)
        for width in (1280, 390):
            operator.set_viewport_size({"width": width, "height": 1900})
            settle(operator)
            fits(operator)
            operator.screenshot(path=artifacts / f"corrections-what-if-{width}-{scheme}.png", full_page=True)
    operator.reload()
    expect(operator.locator(".st-key-balance")).to_be_visible(timeout=60_000)
    operator.get_by_role("tab", name="Price list").click()
    expect(operator.get_by_text("In force:")).to_contain_text("α 1.0")


def test_ledger_check_against_an_exported_head(
    operator: Page, customer: Page, server: Server, artifacts: Path, tmp_path: Path, request
) -> None:
    """Check, export, check against the export; an entry changed behind our back is then found, in words."""
    operator.get_by_role("tab", name="Price list").click()
    expect(operator.get_by_text("In force:")).to_be_visible(timeout=30_000)
    operator.screenshot(path=artifacts / "corrections-prices.png")
    operator.get_by_role("tab", name="Ledger and load").click()
    operator.get_by_role("button", name="Check the ledger").click()
    expect(operator.get_by_text("entries agree; the sum is 0.000 tokens")).to_be_visible(timeout=60_000)
    with operator.expect_download() as download:
        operator.get_by_role("button", name="Export the heads").click()
    kept = tmp_path / "heads.json"
    kept.write_bytes(Path(download.value.path()).read_bytes())
    accounts = len(json.loads(kept.read_text())["accounts"])
    assert accounts >= 2

    panel = operator.get_by_role("tabpanel").filter(visible=True)
    panel.locator("input[type=file]").set_input_files(
        {"name": "no.json", "mimeType": "application/json", "buffer": b"{}"}
    )
    settle(operator)
    operator.get_by_role("button", name="Check against these heads").click()
    expect(operator.get_by_text("This is no exported head of the ledger")).to_be_visible(timeout=30_000)
    panel.locator("input[type=file]").set_input_files(kept)
    settle(operator)
    operator.get_by_role("button", name="Check against these heads").click()
    expect(operator.get_by_text("contain their exported heads.")).to_be_visible(timeout=60_000)
    operator.screenshot(path=artifacts / "corrections-ledger.png", full_page=True)

    with sqlite3.connect(server.data_dir / "visionmeter.db", timeout=20) as raw:
        triggers = raw.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'entry'"
        ).fetchall()
        assert triggers
        for (name,) in triggers:
            raw.execute(f"DROP TRIGGER {name}")
        raw.execute("UPDATE entry SET memo = 'welcome!' WHERE seq = 1")
    operator.get_by_role("button", name="Check the ledger").click()
    expect(operator.get_by_text(re.compile(r"The ledger disagrees in \d+ accounts?\."))).to_be_visible(timeout=60_000)
    operator.screenshot(path=artifacts / "corrections-ledger-wrong.png", full_page=True)
    database = Database(f"sqlite:///{server.data_dir / 'visionmeter.db'}")
    with database.read() as session:
        assert {problem.code for problem in verify_ledger(session).problems} == {"seal"}
    database.close()
