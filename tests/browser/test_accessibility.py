"""Every page in both languages, light and dark, on a desk and on a phone: axe finds nothing serious, it fits, and it
is drawn for whoever wants to look (`every-page/` among the artifacts)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, TimeoutError, expect

from core.services import demo
from core.services.profile import set_language
from tests.browser.conftest import Server, settle, sign_in
from tests.browser.portal_data import behind, user_of
from tests.browser.test_journey import new_context
from tests.browser.tour import LANGUAGES, Stop, furnish, sign_in_stops, stops

pytestmark = pytest.mark.browser

# Only the width or only the theme changes from one look to the next.
LOOKS = ((1280, "light"), (1280, "dark"), (390, "dark"), (390, "light"))
# Where axe looks: each width and each theme in each language; all four looks of both take a minute more.
CHECKED = {"en": {(1280, "light"), (390, "dark")}, "zh_CN": {(1280, "dark"), (390, "light")}}
HEIGHT_MIN, HEIGHT_MAX = 900, 7000
SERIOUS = {"serious", "critical"}

# Streamlit's own markup that cannot be mended from here: selector and reason.
EXCLUDED = {
    # Vega calls its empty group of highlighted points an image. The small bars repeat what the card says in words.
    "[data-testid=stMetricChart] svg": "the small bars of a card, which repeat its words",
}
AXE_OPTIONS = {"resultTypes": ["violations"]}


@pytest.fixture(scope="module")
def password(server: Server) -> str:
    """The password of the customer who has something on every page."""
    return furnish(server)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_page(browser: Browser, server: Server, artifacts: Path, password: str, language: str) -> None:
    """No serious or critical violation, nothing that sticks out, on any page in any look; and a picture of each."""
    with behind(server) as app:
        set_language(app, user_of(app, demo.EMAIL), language)
    folder = artifacts / "every-page"
    folder.mkdir(exist_ok=True)
    context = new_context(browser, locale=LANGUAGES[language])
    page = context.new_page()
    found: list[str] = []
    for stop in sign_in_stops():
        found += look_at(page, server, stop, folder, language)
    page.get_by_role("tab").first.click()
    sign_in(page, demo.EMAIL, password)
    expect(page.locator(".st-key-balance")).to_be_visible(timeout=60_000)
    for stop in stops():
        found += look_at(page, server, stop, folder, language)
    context.close()
    assert not found, "\n".join(found)


def look_at(page: Page, server: Server, stop: Stop, folder: Path, language: str) -> Iterator[str]:
    """Go there, and look in every width and theme; gives what is wrong."""
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": LOOKS[0][0], "height": HEIGHT_MIN})
    stop.open(page, server)
    settle(page)
    expect(page.locator("html")).to_have_attribute("lang", language.replace("_", "-"))
    for width, scheme in LOOKS:
        page.emulate_media(color_scheme=scheme)
        fit_height(page, width)
        place = f"{stop.name}-{language}-{width}-{scheme}".lower()
        page.screenshot(path=folder / f"{place}.png")
        # Of the document and of what scrolls in it, in pixels.
        if sticks_out := page.evaluate(
            "() => { const main = document.querySelector('[data-testid=stMain]'), all = document.documentElement;"
            " return Math.max(all.scrollWidth - all.clientWidth, main.scrollWidth - main.clientWidth); }"
        ):
            yield f"{place}: {sticks_out} px stick out"
        if (width, scheme) in CHECKED[language]:
            yield from (f"{place}: {fault}" for fault in faults(page))


def fit_height(page: Page, width: int) -> None:
    """Make the window as high as the page, because Streamlit scrolls inside it."""
    page.set_viewport_size({"width": width, "height": HEIGHT_MIN})
    page.wait_for_timeout(120)
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning", timeout=60_000)
    height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": width, "height": min(max(HEIGHT_MIN, height + 20), HEIGHT_MAX)})
    page.wait_for_timeout(180)


def faults(page: Page) -> Iterator[str]:
    """The serious and critical violations that axe finds on a page, one for each element."""
    answer = Axe().run(page, context={"exclude": [[selector] for selector in EXCLUDED]}, options=AXE_OPTIONS)
    for violation in answer.response["violations"]:
        if violation["impact"] in SERIOUS:
            for node in violation["nodes"]:
                yield f"{violation['id']}: {node['html'][:200]} {node['failureSummary']}"


# What the tab key leads to: all that can be used and seen. Of a group of choices one is; the arrows lead to the others.
# What lies behind a dialog and Streamlit's own menu are not the page's.
REACHABLE = """() => {
  const groups = new Set();
  return [...(document.querySelector('[role=dialog]') ?? document).querySelectorAll(
    'a[href], button, input, select, textarea, summary, [tabindex]')].filter(one => {
    if (one.tabIndex < 0 || one.disabled || !one.checkVisibility({visibilityProperty: true})) return false;
    if (!one.getBoundingClientRect().width) return false;
    if (one.closest('[inert], [aria-hidden=true], [data-testid=stToolbar], [data-testid=stHeader]')) return false;
    const group = one.closest('[role=radiogroup], [role=toolbar]') ?? (one.type === 'radio' && one.name);
    return !group || !groups.has(group) && groups.add(group);
  });
}"""
# How an element and what stands around it are drawn.
DRAWN = """one => [one, one.parentElement, one.parentElement?.parentElement,
  one.parentElement?.parentElement?.parentElement, one.nextElementSibling, one.previousElementSibling,
].filter(Boolean).map(node => {
    const style = getComputedStyle(node);
    return [style.outlineStyle, style.outlineWidth, style.outlineColor, style.boxShadow, style.borderColor,
      style.backgroundColor, style.color, style.textDecorationLine, style.opacity].join();
  }).join(';')"""
REMEMBER = f"""reachable => {{
  document.activeElement.blur();
  const drawn = reachable.map({DRAWN});
  reachable[0].focus();
  return drawn;
}}"""
FOCUSED = """reachable => {
  const one = document.activeElement, group = one.closest('[role=radiogroup], [role=toolbar]');
  let at = reachable.indexOf(one);
  if (at < 0 && group) at = reachable.findIndex(other => group.contains(other));
  return {at, tabIndex: one.tabIndex, html: one.outerHTML.slice(0, 200), isBody: one === document.body};
}"""
# Streamlit's own: the part of the page that scrolls takes the arrows without a frame, a table draws its cell inside.
FRAMELESS = ("<main ", "<canvas ")
# The frame fades in.
SHOWS = f"""([reachable, at, unfocused]) => ({DRAWN})(reachable[at]) !== unfocused"""
WALKED = ("detect-preview", "top-up", "usage", "api-keys-create", "account-security")


@pytest.mark.timeout(600)
def test_the_tab_key(browser: Browser, server: Server, password: str) -> None:
    """The tab key goes through all that can be used, in the order of the page, shows where it is and comes out."""
    with behind(server) as app:
        set_language(app, user_of(app, demo.EMAIL), "en")
    context = new_context(browser)
    page = context.new_page()
    found: list[str] = []
    for stop in sign_in_stops():
        stop.open(page, server)
        found += walk(page, stop.name)
    page.get_by_role("tab").first.click()
    sign_in(page, demo.EMAIL, password)
    expect(page.locator(".st-key-balance")).to_be_visible(timeout=60_000)
    for stop in stops():
        if stop.name in (*WALKED, "detect", "api-keys"):
            stop.open(page, server)
        if stop.name in WALKED:
            found += walk(page, stop.name)
    context.close()
    assert not found, "\n".join(found)


def walk(page: Page, place: str) -> Iterator[str]:
    """Press Tab until it is back at the beginning; gives what is wrong."""
    settle(page)
    reachable = page.evaluate_handle(REACHABLE)
    unfocused = page.evaluate(REMEMBER, reachable)
    seen = [0]
    for _step in range(2 * len(unfocused) + 20):
        page.keyboard.press("Tab")
        focused = page.evaluate(FOCUSED, reachable)
        at, html = focused["at"], focused["html"]
        if at == seen[-1] and html.startswith("<canvas "):
            # Inside a table the key goes from cell to cell; from the last one it goes on.
            page.keyboard.press("Control+End")
            continue
        if focused["isBody"] or at in seen:
            break
        if focused["tabIndex"] > 0:
            yield f"{place}: out of the order of the page: {html}"
        if at >= 0:
            seen.append(at)
            if not html.startswith(FRAMELESS):
                try:
                    page.wait_for_function(SHOWS, arg=[reachable, at, unfocused[at]], timeout=3_000)
                except TimeoutError:
                    yield f"{place}: does not show that it has the focus: {html}"
    else:
        yield f"{place}: never comes back to the beginning"
    if seen != sorted(seen):
        yield f"{place}: out of order: {seen}"
    for missed in sorted(set(range(len(unfocused))) - set(seen)):
        html = page.evaluate("([reachable, at]) => reachable[at].outerHTML.slice(0, 200)", [reachable, missed])
        yield f"{place}: not reached: {html}"


def test_the_check_reports(page_without_help: Page) -> None:
    """The check is no rubber stamp: a picture without words and faded text are found."""
    page_without_help.set_content(
        "<html lang=en><title>x</title><main><h1>x</h1><img src='data:,'><p style='color:#aaa;background:#fff'>pale</p>"
    )
    assert {fault.partition(":")[0] for fault in faults(page_without_help)} == {"image-alt", "color-contrast"}


@pytest.fixture
def page_without_help(browser: Browser) -> Iterator[Page]:
    """An empty page outside the portal."""
    context = new_context(browser)
    yield context.new_page()
    context.close()
