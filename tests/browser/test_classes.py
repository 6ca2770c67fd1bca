"""Classes of whole pictures in a real browser: the square's price, classes without boxes, and no format of boxes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import Server, balance, settle, sign_up
from tests.browser.test_journey import new_context, run_button, wait_for_results

pytestmark = pytest.mark.browser


def test_classes_of_a_photograph(browser: Browser, server: Server, artifacts: Path, class_weights: Path) -> None:
    """Quoted and charged for the square; classes are shown; COCO and YOLO labels say that they do not apply."""
    shutil.copy(class_weights, server.data_dir / "weights" / "yolov8n-cls.pt")
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "classes@example.com")
    page.get_by_role("button", name="zidane.jpg", exact=True).click()
    settle(page)
    page.get_by_role("combobox", name="Model", exact=True).click()
    page.get_by_role("option", name=re.compile("YOLOv8n-cls · classes of whole pictures")).click()
    settle(page)
    expect(run_button(page)).to_have_text(re.compile(r"Run — 0\.250 tokens"), timeout=30_000)
    run_button(page).click()
    wait_for_results(page)
    assert balance(page) == "19.750"
    expect(page.get_by_text("Show classes")).to_be_visible()
    expect(page.get_by_text(re.compile(r"^[1-5] class(es)?"))).to_be_visible()
    expect(page.get_by_text("they do not apply to classes of whole pictures")).to_be_visible()
    expect(page.get_by_role("button", name="CSV")).to_be_visible()
    expect(page.get_by_role("button", name="COCO")).to_have_count(0)
    page.screenshot(path=artifacts / "classes.png", full_page=True)
    context.close()
