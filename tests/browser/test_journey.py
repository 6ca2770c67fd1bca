"""The main job in a real browser: sign up, see the price, run, see boxes, pay exactly that, redeem, look at usage."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect
from ultralytics.utils import ASSETS

from tests.browser.conftest import Server, balance, free_port, settle, sign_in, sign_up, wait_signed_out
from tests.browser.pictures import distinct_jpegs

pytestmark = pytest.mark.browser
RUN_TIMEOUT_MS = 90_000


def new_context(browser: Browser, **options: object) -> BrowserContext:
    """A fresh browser profile."""
    return browser.new_context(
        **{"viewport": {"width": 1280, "height": 1000}, "locale": "en-US", "timezone_id": "Asia/Shanghai", **options}
    )


def upload(page: Page, *files: Path | dict[str, object]) -> None:
    """Put files into the uploader and wait for the preview."""
    page.locator("input[type=file]").first.set_input_files(list(files))
    settle(page)


def upload_distinct(page: Page, count: int) -> None:
    """Upload `count` pictures that differ from one another, each priced 0.750."""
    pictures = distinct_jpegs((ASSETS / "bus.jpg").read_bytes(), count)
    upload(
        page,
        *({"name": f"p{i}.jpg", "mimeType": "image/jpeg", "buffer": data} for i, data in enumerate(pictures)),
    )


def run_button(page: Page):
    """The button that names the price."""
    return page.get_by_role("button", name=re.compile(r"^\S*\s*Run — "))


def wait_for_results(page: Page) -> None:
    """Wait until a run shows its pictures."""
    expect(page.get_by_text("Confidence at least").first).to_be_visible(timeout=RUN_TIMEOUT_MS)
    settle(page)


def set_confidence_to_half(page: Page) -> None:
    """Move the confidence slider from 0.25 to 0.50 with the keyboard."""
    thumb = page.get_by_test_id("stSlider").last.get_by_role("slider")
    thumb.focus()
    for _step in range(5):
        thumb.press("ArrowRight")
        page.wait_for_timeout(120)
    settle(page)
    expect(page.get_by_test_id("stSlider").last).to_contain_text("0.50")


def test_whole_journey(browser: Browser, server: Server, artifacts: Path) -> None:
    """A stranger does the whole main job, pays exactly the previewed price, and finds it all on the record."""
    context = new_context(browser)
    page = context.new_page()
    foreign: list[str] = []
    page.on(
        "request",
        lambda request: (
            foreign.append(request.url)
            if not request.url.startswith((server.url, f"ws://localhost:{server.port}", "data:", "blob:"))
            else None
        ),
    )
    sign_up(page, server.url, "founder@example.com")
    assert balance(page) == "20.000"

    upload(page, ASSETS / "bus.jpg", ASSETS / "zidane.jpg")
    expect(page.get_by_text("1.0 × (480 × 640 / 640²) × 1.0 = 0.750")).to_be_visible(timeout=30_000)
    expect(page.get_by_text("1.0 × (640 × 384 / 640²) × 1.0 = 0.600")).to_be_visible()
    expect(run_button(page)).to_have_text(re.compile(r"Run — 1\.350 tokens"))
    assert balance(page) == "20.000", "a preview takes nothing"
    page.screenshot(path=artifacts / "journey-preview.png")

    run_button(page).click()
    wait_for_results(page)
    assert Decimal(balance(page)) == Decimal("20.000") - Decimal("1.350")
    set_confidence_to_half(page)
    expect(page.get_by_text("6 objects")).to_be_visible()
    captions = page.get_by_test_id("stImage")
    expect(captions.filter(has_text="bus.jpg")).to_contain_text("Normal 4")
    expect(captions.filter(has_text="zidane.jpg")).to_contain_text("Normal 2")
    assert balance(page) == "18.650", "moving the slider costs nothing"
    page.get_by_text("Run of").first.scroll_into_view_if_needed()
    page.screenshot(path=artifacts / "journey-results.png")

    upload(page, ASSETS / "bus.jpg")
    expect(page.get_by_text("already processed — free")).to_be_visible(timeout=30_000)
    expect(run_button(page)).to_have_text(re.compile("Run — free"))

    page.get_by_role("link", name="Admin").click()
    page.get_by_role("button", name="Make vouchers").click()
    expect(page.get_by_text("1 voucher made.")).to_be_visible(timeout=30_000)
    code = page.get_by_test_id("stCode").locator("code").inner_text().strip()
    page.get_by_role("link", name="Top up").click()
    page.get_by_label("Voucher code").fill(code.lower())
    page.get_by_role("button", name="Redeem").click()
    expect(page.get_by_text("Credited: 100.000 tokens")).to_be_visible(timeout=30_000)
    settle(page)
    assert balance(page) == "118.650"
    page.get_by_label("Voucher code").fill(code)
    page.get_by_role("button", name="Redeem").click()
    expect(page.get_by_text("You have redeemed this voucher already")).to_be_visible(timeout=30_000)
    assert balance(page) == "118.650"
    page.get_by_role("button", name="Verify my balance").click()
    expect(page.get_by_text("entries replayed")).to_be_visible(timeout=30_000)
    page.screenshot(path=artifacts / "journey-top-up.png")

    page.get_by_role("link", name="Usage").click()
    cards = page.get_by_test_id("stMain").get_by_test_id("stMetricValue")
    expect(cards.nth(0)).to_have_text("1.350", timeout=30_000)
    expect(page.get_by_test_id("stMetric").filter(has=page.get_by_text("Pictures", exact=True))).to_contain_text("2")
    expect(page.locator(".js-plotly-plot").first).to_be_visible(timeout=30_000)
    expect(page.get_by_role("heading", name="By API key and person")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV of every picture shown").click()
    rows = Path(download.value.path()).read_text().splitlines()
    assert [row.split(",")[8] for row in rows] == ["tokens", "0.750", "0.600"] or sorted(
        row.split(",")[8] for row in rows[1:]
    ) == ["0.600", "0.750"]
    page.screenshot(path=artifacts / "journey-usage.png")
    assert foreign == [], "the portal loads nothing from another host"
    context.close()


def test_downloads(browser: Browser, server: Server) -> None:
    """The annotated PNG and the JSON of a run are whole files with the same boxes."""
    import io
    import json
    import zipfile

    from PIL import Image

    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "downloads@example.com")
    page.get_by_role("button", name="zidane.jpg", exact=True).click()
    settle(page)
    run_button(page).click()
    wait_for_results(page)
    page.get_by_text("Detections and downloads").first.click()
    settle(page)
    with page.expect_download(timeout=90_000) as png:
        page.get_by_role("button", name="PNG").click()
    assert Image.open(io.BytesIO(Path(png.value.path()).read_bytes())).size == (1280, 720)
    with page.expect_download(timeout=90_000) as all_json:
        page.get_by_role("button", name="All detections as JSON").click()
    (image,) = json.loads(Path(all_json.value.path()).read_text())
    assert image["image"] == "zidane.jpg"
    assert len(image["predictions"]) == 2
    with page.expect_download(timeout=90_000) as drawn:
        page.get_by_role("button", name="Drawn pictures (ZIP)").click()
    with zipfile.ZipFile(drawn.value.path()) as archive:
        assert archive.namelist() == ["zidane.png"]
        assert Image.open(archive.open("zidane.png")).size == (1280, 720)
    with page.expect_download(timeout=90_000) as labels:
        page.get_by_role("button", name="YOLO labels (ZIP)").click()
    with zipfile.ZipFile(labels.value.path()) as archive:
        assert archive.namelist() == ["data.yaml", "labels/zidane.txt"]
    for name, start in (("COCO", '{\n  "images"'), ("CSV", "image,class,name")):
        with page.expect_download(timeout=90_000) as download:
            page.get_by_role("button", name=name, exact=True).click()
        assert Path(download.value.path()).read_text().startswith(start)
    context.close()


def test_bad_files_are_refused_by_name_and_the_others_go_on(browser: Browser, server: Server) -> None:
    """Empty, broken and mislabelled files each get a sentence at preview; the good one keeps its price."""
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "badfiles@example.com")
    bus = (ASSETS / "bus.jpg").read_bytes()
    upload(
        page,
        {"name": "empty.jpg", "mimeType": "image/jpeg", "buffer": b""},
        {"name": "half.jpg", "mimeType": "image/jpeg", "buffer": bus[: len(bus) // 2]},
        {"name": "letter.jpg", "mimeType": "image/jpeg", "buffer": b"Dear reader, this is no picture." * 20},
        {"name": "bus.jpg", "mimeType": "image/jpeg", "buffer": bus},
    )
    expect(page.get_by_text("The file is empty")).to_be_visible(timeout=30_000)
    expect(page.get_by_text("The picture is damaged")).to_be_visible()
    expect(page.get_by_text("This is no JPEG, PNG, WebP, BMP or TIFF picture")).to_be_visible()
    expect(run_button(page)).to_have_text(re.compile(r"Run — 0\.750 tokens"))
    context.close()


def test_short_balance_offers_a_top_up(browser: Browser, server: Server) -> None:
    """When the balance is short the button says by how much, leads to Top up, and nothing is held."""
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "short@example.com")
    upload_distinct(page, 30)
    button = page.get_by_role("button", name=re.compile("Top up .* to run"))
    expect(button).to_have_text(re.compile(r"Top up 1\.390 tokens to run"), timeout=60_000)
    button.click()
    expect(page.get_by_role("heading", name="Top up")).to_be_visible(timeout=30_000)
    assert balance(page) == "20.000"
    context.close()


def test_run_goes_on_after_the_tab_is_closed(browser: Browser, server: Server) -> None:
    """A run started in a tab that is then closed is finished, charged once, and found again."""
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "closes@example.com")
    upload_distinct(page, 12)
    expect(run_button(page)).to_have_text(re.compile(r"Run — 8\.556 tokens"), timeout=60_000)
    run_button(page).click()
    expect(page.get_by_text(re.compile(r"of 12 pictures")).first).to_be_visible(timeout=30_000)
    page.close()
    page = context.new_page()
    page.goto(server.url)
    wait_for_results(page)
    assert balance(page) == "11.444"
    expect(page.get_by_test_id("stMain").get_by_test_id("stMetricValue").filter(has_text="8.556")).to_be_visible()
    context.close()


def test_cold_deep_link_shows_only_the_sign_in_page(browser: Browser, tmp_path: Path, artifacts: Path) -> None:
    """`/usage` first thing after a restart, signed out: the sign-in page and nothing else; then on to `/usage`."""
    server = Server(tmp_path, free_port())
    server.start()
    try:
        context = new_context(browser)
        sign_up(context.new_page(), server.url, "cold@example.com")
        context.close()
        server.stop()
        server.start()

        context = new_context(browser)
        page = context.new_page()
        page.goto(f"{server.url}/usage")
        expect(page.get_by_role("heading", name="Detection by the pixel")).to_be_visible(timeout=60_000)
        settle(page)
        assert page.get_by_role("heading", name="Usage").count() == 0
        assert page.get_by_text("Tokens by day").count() == 0
        assert page.get_by_role("link", name="Usage").count() == 0
        assert page.locator(".st-key-balance").count() == 0
        page.screenshot(path=artifacts / "cold-deep-link.png")
        sign_in(page, "cold@example.com")
        expect(page.get_by_role("heading", name="Usage")).to_be_visible(timeout=60_000)
        assert page.url.endswith("/usage")
        context.close()
    finally:
        server.stop()


def test_signing_out_ends_the_session_on_the_server(browser: Browser, server: Server) -> None:
    """After signing out, a copied cookie signs nobody in."""
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "leaves@example.com")
    copied = [cookie for cookie in context.cookies() if cookie["name"] == "visionmeter_session"]
    assert copied[0]["httpOnly"]
    assert copied[0]["sameSite"] == "Lax"
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Detection by the pixel")).to_be_visible(timeout=30_000)
    wait_signed_out(context)
    thief = new_context(browser)
    thief.add_cookies(copied)
    page = thief.new_page()
    page.goto(server.url)
    expect(page.get_by_role("heading", name="Detection by the pixel")).to_be_visible(timeout=60_000)
    thief.close()
    context.close()


def test_admin_is_for_the_operator(browser: Browser, server: Server) -> None:
    """A customer finds no Admin in the menu, and its address shows him a sentence and no data."""
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "first-on-this-server@example.com")
    if page.get_by_role("link", name="Admin").count():
        context.close()
        context = new_context(browser)
        page = context.new_page()
        sign_up(page, server.url, "second@example.com")
    assert page.get_by_role("link", name="Admin").count() == 0
    page.goto(f"{server.url}/admin")
    expect(page.get_by_text("Only the operator of this installation may do this.")).to_be_visible(timeout=60_000)
    assert page.get_by_text("Make vouchers").count() == 0
    context.close()


def test_wrong_password_and_duplicate_address_are_explained(browser: Browser, server: Server) -> None:
    """The two mistakes people make at the door each get a sentence."""
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "twice@example.com")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Detection by the pixel")).to_be_visible(timeout=30_000)
    sign_in(page, "twice@example.com", "not this password")
    expect(page.get_by_text("The address or the password is wrong.")).to_be_visible(timeout=30_000)
    page.get_by_role("tab").nth(1).click()
    form = page.get_by_role("tabpanel").filter(visible=True)
    form.get_by_role("textbox").nth(0).fill("Twice@Example.com ")
    form.locator("input[type=password]").fill("correct horse battery")
    form.get_by_role("button", name="Create account").click()
    expect(page.get_by_text("There is an account with this address")).to_be_visible(timeout=30_000)
    context.close()


def fits(page: Page) -> None:
    """Nothing sticks out to the right of the window, once the page has taken the window's width."""
    page.wait_for_function(
        "() => { const main = document.querySelector('[data-testid=stMain]');"
        " return Math.max(document.documentElement.scrollWidth - window.innerWidth,"
        " main.scrollWidth - main.clientWidth) <= 1; }",
        timeout=10_000,
    )


def test_language_is_switched_in_one_click_and_remembered(browser: Browser, server: Server) -> None:
    """One click changes the language; a reload keeps it, and so does the sign-in page after signing out."""
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "bilingual@example.com")
    page.get_by_test_id("stSidebar").get_by_text("简体中文").click()
    expect(page.get_by_role("heading", name="检测").first).to_be_visible(timeout=30_000)
    page.reload()
    expect(page.get_by_role("heading", name="检测").first).to_be_visible(timeout=60_000)
    settle(page)
    page.get_by_test_id("stSidebar").get_by_role("button").last.click()
    expect(page.get_by_role("tab").first).to_be_visible(timeout=30_000)
    page.reload()
    expect(page.get_by_role("tab").first).to_have_text("登录", timeout=60_000)
    context.close()


def test_uvicorn_serves_the_same_portal(browser: Browser, tmp_path: Path) -> None:
    """`uvicorn app:app` serves the same portal as `streamlit run app.py`."""
    server = Server(tmp_path, free_port(), command="uvicorn")
    server.start()
    try:
        context = new_context(browser)
        page = context.new_page()
        sign_up(page, server.url, "uvicorn@example.com")
        assert balance(page) == "20.000"
        expect(page.get_by_role("heading", name="Detect")).to_be_visible()
        context.close()
    finally:
        server.stop()


def test_a_click_never_buys_another_price(browser: Browser, server: Server) -> None:
    """Changing the size and clicking Run at once starts nothing at a price that was not on the button."""
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "quick@example.com")
    page.get_by_role("button", name="zidane.jpg", exact=True).click()
    settle(page)
    expect(run_button(page)).to_have_text(re.compile(r"Run — 0\.600 tokens"), timeout=30_000)
    stale = run_button(page).element_handle()
    thumb = page.get_by_test_id("stSlider").first.get_by_role("slider")
    thumb.focus()
    for _step in range(3):
        thumb.press("ArrowRight")
    stale.evaluate("button => button.click()")
    settle(page)
    page.wait_for_timeout(2000)
    assert Decimal(balance(page)) in {Decimal("20.000"), Decimal("19.400")}, "only what the button said may be taken"
    context.close()


def test_the_batch_is_still_there_after_another_page(browser: Browser, server: Server) -> None:
    """Leaving for Top up and coming back loses no picture; the batch can be cleared."""
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "returns@example.com")
    upload(page, ASSETS / "bus.jpg", ASSETS / "zidane.jpg")
    expect(run_button(page)).to_have_text(re.compile(r"Run — 1\.350 tokens"), timeout=30_000)
    page.get_by_role("link", name="Top up").click()
    expect(page.get_by_role("heading", name="Top up")).to_be_visible(timeout=30_000)
    page.get_by_role("link", name="Detect").click()
    expect(run_button(page)).to_have_text(re.compile(r"Run — 1\.350 tokens"), timeout=30_000)
    page.get_by_role("button", name="Clear these pictures").click()
    expect(run_button(page)).to_have_count(0, timeout=30_000)
    context.close()


def test_withdrawing_hits_the_voucher_that_was_selected(browser: Browser, tmp_path: Path) -> None:
    """A selection does not slip to another voucher when a new one is made above it."""
    server = Server(tmp_path, free_port())
    server.start()
    try:
        context = new_context(browser)
        page = context.new_page()
        sign_up(page, server.url, "operator@example.com")
        page.get_by_role("link", name="Admin").click()
        for tokens in ("11", "22"):
            page.get_by_label("Tokens each").fill(tokens)
            page.get_by_role("button", name="Make vouchers").click()
            expect(page.get_by_text("1 voucher made.")).to_be_visible(timeout=30_000)
            settle(page)
        table = page.get_by_test_id("stDataFrame").first
        box = table.bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + 16, box["y"] + 52)
        expect(page.get_by_role("button", name="Withdraw 1 voucher")).to_be_visible(timeout=30_000)
        page.get_by_label("Tokens each").fill("33")
        page.get_by_role("button", name="Make vouchers").click()
        settle(page)
        expect(page.get_by_role("button", name="Withdraw 1 voucher")).to_have_count(0, timeout=30_000)
        context.close()
    finally:
        server.stop()
