"""An operator's models in a real browser: one is added by upload, gets new weights, and goes back."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from core.inference.weights import hash_file
from tests.browser.conftest import Server, click_row, settle, sign_up
from tests.browser.test_journey import fits, new_context
from tests.conftest import MODEL
from tests.other_weights import make_other_weights
from tests.quantized import make_small

pytestmark = pytest.mark.browser
OWN = "helmets-2"
# Below the embedded one, which is installed as well, and above all that are not.
OWN_ROW = 1


def panel(page: Page) -> Locator:
    """What the tab Models shows."""
    return page.get_by_role("tabpanel").filter(visible=True)


def wait_for_version(server: Server, *, after: str = "") -> str:
    """The version that new quotes of the model name, once it is another one."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        with urllib.request.urlopen(f"{server.url}/v1/models", timeout=10) as response:
            versions = {model["name"]: model["version"] for model in json.load(response)}
        if (version := versions[OWN]) != after:
            return version
        time.sleep(0.3)
    raise AssertionError(f"still {after}")


def test_a_model_is_added_replaced_and_rolled_back(
    browser: Browser, server: Server, artifacts: Path, tmp_path: Path
) -> None:
    """A file that is no checkpoint is refused in words, and so is a damaged quantized one; a real one is offered; its
    second version goes back; of a quantized version the page says what it loses."""
    weights = [tmp_path / f"{number}.pt" for number in (1, 2)]
    for number, path in enumerate(weights):
        make_other_weights(server.data_dir / "weights" / f"{MODEL}.pt", path, seed=number)
    wrong = tmp_path / "wrong.pt"
    wrong.write_bytes(b"no checkpoint")
    small = make_small(tmp_path / "small.openvino")
    damaged = tmp_path / "damaged.openvino"
    damaged.write_bytes(small.read_bytes() + b"x")
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "operator@example.com")
    page.get_by_role("link", name="Admin").click()
    page.get_by_role("tab", name="Models").click()
    settle(page)
    expect(panel(page).get_by_text("run visionmeter calibrate on an idle machine")).to_be_visible()

    panel(page).get_by_text("Add a model", exact=True).click()
    panel(page).get_by_label("Name for programs").fill(OWN)
    panel(page).get_by_label("Title for people").fill("Helmets")
    panel(page).get_by_label("β in the price list").fill("1.5")
    panel(page).locator("input[type=file]").set_input_files(wrong)
    panel(page).get_by_role("button", name="Add the model").click()
    expect(panel(page).get_by_text("This file does not run as a detection model here.")).to_be_visible(timeout=60_000)
    panel(page).locator("input[type=file]").set_input_files(damaged)
    expect(panel(page).get_by_text("damaged.openvino")).to_be_visible(timeout=60_000)
    panel(page).get_by_role("button", name="Add the model").click()
    expect(panel(page).get_by_text("This quantized file is not one that is served here: ")).to_be_visible(
        timeout=60_000
    )
    panel(page).locator("input[type=file]").set_input_files(weights[0])
    expect(panel(page).get_by_text("1.pt")).to_be_visible(timeout=60_000)
    panel(page).get_by_role("button", name="Add the model").click()
    expect(panel(page).get_by_text("Helmets is offered at β 1.5.")).to_be_visible(timeout=120_000)
    first = wait_for_version(server)

    helmets = panel(page).get_by_role("heading", name="Helmets")
    click_row(panel(page).get_by_test_id("stDataFrame").first, OWN_ROW, then=helmets)
    panel(page).get_by_role("button", name="Replace the weights").click()
    dialog = page.get_by_role("dialog")
    dialog.locator("input[type=file]").set_input_files(weights[1])
    expect(dialog.get_by_text("2.pt")).to_be_visible(timeout=60_000)
    dialog.get_by_role("button", name="Replace the weights").click()
    expect(panel(page).get_by_text("The new weights of Helmets are served as soon as they are warm.")).to_be_visible(
        timeout=120_000
    )
    second = wait_for_version(server, after=first)

    quantized = hash_file(small)
    kept = server.data_dir / "weights" / "versions" / OWN / f"{quantized}.openvino"
    shutil.copyfile(small, kept)
    os.utime(kept, (1, 1))  # the oldest, so the last
    page.reload()
    page.get_by_role("tab", name="Models").click()
    settle(page)
    click_row(panel(page).get_by_test_id("stDataFrame").first, OWN_ROW, then=helmets)
    roll_back = panel(page).get_by_role("button", name="Roll back")
    expect(roll_back).to_be_disabled(timeout=30_000)
    expect(
        panel(page).get_by_text(
            f"Version {quantized[:12]} is INT8. Its file says that it was made from 5f5f5f5f5f5f, and finds 41 of 43"
        )
    ).to_be_visible()
    page.screenshot(path=artifacts / "models-int8.png", full_page=True)
    click_row(panel(page).get_by_test_id("stDataFrame").nth(1), 1, then=roll_back)
    roll_back.click()
    expect(dialog.get_by_text(f"Put version {first} of Helmets in service again?")).to_be_visible()
    page.screenshot(path=artifacts / "models-roll-back.png")
    dialog.get_by_role("button", name="Roll back").click()
    expect(panel(page).get_by_text(re.compile(f"Helmets goes back to version {first}"))).to_be_visible(timeout=30_000)
    assert wait_for_version(server, after=second) == first
    panel(page).get_by_role("button", name="Retire").click()
    dialog.get_by_role("button", name="Retire").click()
    expect(panel(page).get_by_text("Helmets is no longer offered.")).to_be_visible(timeout=30_000)
    expect(panel(page).get_by_role("button", name="Offer it again")).to_be_visible()
    page.screenshot(path=artifacts / "models-retired.png", full_page=True)
    page.set_viewport_size({"width": 390, "height": 900})
    fits(page)
    context.close()
