"""The policy of contents in a real browser: what a script that got into a page could not do."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import Server, sign_up
from tests.browser.test_journey import new_context

pytestmark = pytest.mark.browser
INLINE = "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s)"
ELSEWHERE = "fetch('http://127.0.0.1:9/stolen').then(() => 'sent', () => 'refused')"


def test_what_an_injected_script_cannot_do(browser: Browser, server: Server, violations: list[str]) -> None:
    """No inline script runs, no other host is called, no other site shows the page in a frame; each was noticed."""
    context = new_context(browser)
    page = context.new_page()
    sign_up(page, server.url, "policy@example.com")
    expect(page.locator(".st-key-balance")).to_be_visible(timeout=60_000)
    assert violations == []
    page.evaluate(INLINE)
    assert page.evaluate("window.ran") is None
    assert page.evaluate(ELSEWHERE) == "refused"
    page.wait_for_timeout(300)
    assert any("inline script" in text for text in violations), violations
    assert any("127.0.0.1:9" in text for text in violations), violations
    other = context.new_page()
    other.set_content(f"<iframe src='{server.url}' width='800' height='600'></iframe>")
    other.wait_for_timeout(1500)
    assert all("stApp" not in frame.content() for frame in other.frames[1:])
    violations.clear()
    context.close()
