"""The page of API keys in a real browser: a secret shown once, limits, rotation, an end, and calls that run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from ultralytics.utils import ASSETS

from core.errors import NotSignedInError
from core.services import api_keys, profile, sign_in, team
from core.services.api_key_settings import KeySettings
from tests.browser.conftest import Server, balance, find_chromium, free_port, settle, sign_up
from tests.browser.portal_data import behind, user_of
from tests.browser.test_journey import fits, new_context
from tests.listening import listening
from ui.code_samples import IMAGE_URL, KEY_VARIABLE

pytestmark = pytest.mark.browser
SECRET = re.compile(r"vm_[A-Za-z0-9]{40}")


@pytest.fixture(scope="module")
def image_url() -> Iterator[str]:
    """The address of a photograph on a web server of this machine."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(ASSETS))
    images = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    with listening(images):
        yield f"http://127.0.0.1:{images.server_port}/bus.jpg"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, image_url: str) -> Iterator[Server]:
    """A portal that may fetch pictures from this machine."""
    if find_chromium() is None:
        pytest.skip("no Chromium here: install Debian's chromium, or set VISIONMETER_TEST_CHROMIUM")
    server = Server(tmp_path_factory.mktemp("portal"), free_port())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISIONMETER_FETCH_ALLOWED_HOSTS", urlsplit(image_url).netloc)
        server.start()
    yield server
    server.stop()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page in a profile of its own."""
    context = new_context(browser)
    yield context.new_page()
    context.close()


def open_page(page: Page, server: Server) -> None:
    """Open the page of the keys by its address."""
    page.goto(f"{server.url}/api_keys")
    expect(page.get_by_role("heading", name=re.compile("^(API keys|API 密钥)"))).to_be_visible(timeout=60_000)
    settle(page)


def fresh_secret(page: Page) -> str:
    """The secret that is on the page now."""
    code = page.locator(".st-key-fresh_key").get_by_test_id("stCode").first
    expect(code).to_be_visible(timeout=30_000)
    settle(page)
    return code.inner_text().strip()


def cards(page: Page) -> Locator:
    """The cards of the keys that work."""
    return page.locator("[class*='st-key-key_key_']")


def test_a_secret_is_shown_once(page: Page, server: Server, artifacts: Path) -> None:
    """Empty page → form, whose mistakes keep what was typed → secret and calls with it → gone when it is dismissed."""
    sign_up(page, server.url, "keys@example.com")
    open_page(page, server)
    expect(page.get_by_text("No key yet. Make one for each program")).to_be_visible()
    page.screenshot(path=artifacts / "api-keys-empty.png", full_page=True)
    page.get_by_role("button", name="Create a key").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("Name")).to_be_visible(timeout=30_000)
    settle(page)
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0, timeout=10_000)
    page.get_by_role("button", name="Create a key").click()
    name = dialog.get_by_label("Name")
    # Streamlit draws the one that was closed for a moment more when it opens again.
    expect(name).to_have_count(1, timeout=30_000)
    name.fill("Line 3 *camera*")
    dialog.get_by_label("Cap a day").fill("a lot")
    dialog.get_by_label("Allowed addresses").fill("127.0.0.1\nnowhere")
    name.press("Enter")
    expect(dialog.get_by_text("Enter tokens as a number")).to_be_visible(timeout=30_000)
    dialog.get_by_label("Cap a day").fill("1,000")
    dialog.get_by_label("Cap a day").press("Enter")
    expect(dialog.get_by_text("Give addresses or networks such as")).to_be_visible(timeout=30_000)
    page.screenshot(path=artifacts / "api-keys-mistake.png")
    expect(name).to_have_value("Line 3 *camera*")
    expect(dialog.get_by_label("Allowed addresses")).to_have_value("127.0.0.1\nnowhere")
    dialog.get_by_label("Allowed addresses").fill("127.0.0.1\n::1")
    dialog.get_by_role("button", name="Create").click()
    secret = fresh_secret(page)
    expect(dialog).to_have_count(0)
    assert SECRET.fullmatch(secret)
    for code in page.locator(".st-key-fresh_key").get_by_test_id("stCode").filter(visible=True).all():
        expect(code).to_contain_text(secret)
    expect(page.get_by_text("it is shown this once")).to_be_visible()
    page.screenshot(path=artifacts / "api-keys-secret.png", full_page=True)
    with behind(server) as app:
        caller = api_keys.authenticate(app, secret, "127.0.0.1")
    assert (caller.key.name, caller.key.networks) == ("Line 3 *camera*", ["127.0.0.1/32", "::1/128"])
    card = cards(page)
    expect(card).to_contain_text("Line 3 *camera*")
    expect(card).to_contain_text(f"{secret[:11]}…")
    expect(card).to_contain_text("1,000.000 left of 1,000.000 tokens · ¥10.00")
    page.get_by_role("button", name="I have kept it").click()
    expect(page.locator(".st-key-fresh_key")).to_have_count(0, timeout=30_000)
    settle(page)
    assert secret not in page.content()
    expect(page.get_by_text("$VISIONMETER_API_KEY").first).to_be_visible()


def test_a_secret_does_not_come_back(page: Page, server: Server) -> None:
    """A secret that nobody dismissed is gone after a visit to another page, and after a reload."""
    sign_up(page, server.url, "gone@example.com")
    for leave in ("visit", "reload"):
        open_page(page, server)
        page.get_by_role("button", name="Create a key").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Name").fill(leave)
        dialog.get_by_label("Name").press("Enter")
        secret = fresh_secret(page)
        if leave == "visit":
            page.get_by_role("link", name="Usage").click()
            expect(page.get_by_role("heading", name="Usage")).to_be_visible(timeout=30_000)
            page.get_by_role("link", name="API keys").click()
        else:
            page.reload()
        expect(cards(page).filter(has_text=leave)).to_be_visible(timeout=60_000)
        settle(page)
        assert page.locator(".st-key-fresh_key").count() == 0
        assert secret not in page.content()


def test_a_key_is_rotated_and_revoked(page: Page, server: Server, artifacts: Path) -> None:
    """The old secret goes on for the chosen time and then ends; a revoked one ends at once, after a question."""
    sign_up(page, server.url, "turns@example.com")
    with behind(server) as app:
        made = api_keys.create_key(app, user_of(app, "turns@example.com"), KeySettings("camera"))
    open_page(page, server)
    dialog = page.get_by_role("dialog")
    page.get_by_role("button", name="Rotate").click()
    expect(dialog.get_by_text("after 24 hours")).to_be_visible(timeout=30_000)
    dialog.get_by_text("after 1 hour").click()
    page.screenshot(path=artifacts / "api-keys-rotate.png")
    dialog.get_by_role("button", name="Rotate").click()
    secret = fresh_secret(page)
    assert secret != made.secret
    expect(page.get_by_text("The old secret ends")).to_be_visible()
    expect(cards(page)).to_have_count(2)
    expect(cards(page).nth(1)).to_contain_text("being replaced until")
    expect(cards(page).nth(1).get_by_role("button", name="Rotate")).to_have_count(0)
    with behind(server) as app:
        old, new = (api_keys.authenticate(app, one, None) for one in (made.secret, secret))
    assert old.key.replaced_by == new.key.id
    assert old.key.expires_at is not None
    assert timedelta(minutes=58) < old.key.expires_at - new.key.created_at < timedelta(minutes=62)

    cards(page).nth(0).get_by_role("button", name="Revoke").click()
    expect(dialog.get_by_text("are refused from now on")).to_be_visible(timeout=30_000)
    page.screenshot(path=artifacts / "api-keys-revoke.png")
    dialog.get_by_role("button", name="Keep it").click()
    expect(dialog).to_have_count(0, timeout=30_000)
    expect(cards(page)).to_have_count(2)
    cards(page).nth(0).get_by_role("button", name="Revoke").click()
    dialog.get_by_role("button", name="Revoke this key").click()
    expect(page.get_by_text("was revoked.")).to_be_visible(timeout=30_000)
    expect(cards(page)).to_have_count(1)
    page.get_by_text("1 key that ended").click()
    expect(page.get_by_test_id("stDataFrame")).to_be_visible()
    with behind(server) as app:
        with pytest.raises(NotSignedInError):
            api_keys.authenticate(app, secret, None)
        api_keys.authenticate(app, made.secret, None)


def test_a_viewer_reads_the_list(page: Page, server: Server) -> None:
    """A viewer sees keys, what they spent and the calls, no button that changes one, and why."""
    sign_up(page, server.url, "reads@example.com")
    with behind(server) as app:
        reader = user_of(app, "reads@example.com")
        code = team.invite_member(app, reader, "second@example.com", "owner")
        sign_in.sign_up(app, "second@example.com", "correct horse battery", invitation=code)
        owner = user_of(app, "second@example.com")
        api_keys.create_key(app, owner, KeySettings("camera", day_cap_mt=5_000))
        team.set_member_role(app, owner, reader.id, "viewer")
    open_page(page, server)
    expect(cards(page)).to_contain_text("5.000 left of 5.000 tokens")
    expect(page.get_by_text("You may look at the keys and make or end none")).to_be_visible()
    assert page.get_by_role("button", name=re.compile("Create a key|Rotate|Revoke")).count() == 0
    expect(page.get_by_role("link", name="API reference")).to_have_attribute("href", re.compile(r"/v1/docs\?lang=en$"))
    expect(page.get_by_test_id("stCode").first).to_contain_text(f"curl {server.url}/yolo/detect")


def test_the_calls_run_as_they_stand(browser: Browser, server: Server, image_url: str, tmp_path: Path) -> None:
    """Each call, as the button copies it, finds the four people: with the secret in it, and with the variable."""
    for program, package in (("curl", "curl"), ("node", "nodejs")):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here: install Debian's {package}")
    shutil.copy(ASSETS / "bus.jpg", tmp_path / "photo.jpg")
    context = new_context(browser)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    sign_up(page, server.url, "calls@example.com")
    open_page(page, server)
    page.get_by_role("button", name="Create a key").click()
    page.get_by_role("dialog").get_by_label("Name").fill("calls")
    page.keyboard.press("Enter")
    secret = fresh_secret(page)
    with_secret = copied_calls(page.locator(".st-key-fresh_key"))
    page.get_by_role("button", name="I have kept it").click()
    expect(page.locator(".st-key-fresh_key")).to_have_count(0, timeout=30_000)
    settle(page)
    with_variable = copied_calls(page.get_by_test_id("stMain"))
    assert [language for language, _code in with_secret] == [
        language for language in ("cURL", "Python", "JavaScript", "Python client") for _way in range(2)
    ]
    assert all(secret in code and KEY_VARIABLE not in code for _language, code in with_secret)
    assert all(secret not in code and KEY_VARIABLE in code for _language, code in with_variable)
    # The address is another one, because this test reaches no other machine: everything else is as it was copied.
    # The second of each way differs from the first as its twin with the secret does.
    for language, code in [*with_secret, *with_variable[::2]]:
        assert code.count(IMAGE_URL) == ("photo.jpg" not in code)
        said = run_call(language, code.replace(IMAGE_URL, image_url), secret, tmp_path)
        assert said.count("Normal") + said.count("Fall") == 4, f"{language}: {said}"
        assert "19.25" in said, said
    open_page(page, server)
    assert balance(page) == "19.250", "the same picture is paid once, however often and by whichever way it comes"
    expect(cards(page)).to_contain_text("0.750 tokens")
    expect(cards(page)).to_contain_text("last used")
    context.close()


def copied_calls(place: Locator) -> list[tuple[str, str]]:
    """What the copy buttons of each tab put on the clipboard, with the tab's title, in their order."""
    copied = []
    for tab in place.get_by_role("tab").all():
        tab.click()
        codes = place.get_by_role("tabpanel").filter(visible=True).get_by_test_id("stCode")
        expect(codes).to_have_count(2)
        for code in codes.all():
            code.hover()
            code.get_by_role("button", name="Copy to clipboard").click()
            copied.append((tab.inner_text(), place.page.evaluate("navigator.clipboard.readText()")))
    return copied


def run_call(language: str, code: str, secret: str, folder: Path) -> str:
    """Run a call in a folder, as whoever pasted it does; gives what it said."""
    if language == "cURL":
        command = ["bash", "-c", code]
    else:
        script = folder / ("detect.mjs" if language == "JavaScript" else "detect.py")
        script.write_text(code, encoding="utf-8")
        command = ["node" if language == "JavaScript" else sys.executable, script.name]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, KEY_VARIABLE: secret},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{language}: {done.stdout}{done.stderr}"
    return done.stdout


def test_the_page_fits(browser: Browser, server: Server, artifacts: Path) -> None:
    """Secret, calls, list and dialogs fit both widths, in both languages and both themes, long names included."""
    context = new_context(browser)
    page = context.new_page()
    email = "fits@example.com"
    sign_up(page, server.url, email)
    signed_in = context.storage_state()
    context.close()
    with behind(server) as app:
        user = user_of(app, email)
        api_keys.create_key(
            app,
            user,
            KeySettings(
                "a-long-name-without-any-blank-" * 2 + "of-eighty-characters",
                models=["yolov8s-fall", "yolov8l", "yolov8x"],
                networks=[f"2001:db8:{part:x}::/48" for part in range(1, 9)],
                day_cap_mt=9_000_000_000,
                month_cap_mt=90_000_000_000,
                manages_keys=True,
            ),
        )
        ended = api_keys.create_key(app, user, KeySettings("ended"))
        api_keys.revoke_key(app, user, ended.key.id)
    for language, locale, width, scheme in (
        ("en", "en-US", 390, "dark"),
        ("zh_CN", "zh-CN", 1280, "light"),
    ):
        with behind(server) as app:
            profile.set_language(app, user, language)
        context = new_context(
            browser,
            viewport={"width": width, "height": 900},
            locale=locale,
            color_scheme=scheme,
            storage_state=signed_in,
        )
        page = context.new_page()
        open_page(page, server)
        tag = f"{locale}-{width}-{scheme}".lower()
        fits(page)
        shoot(page, artifacts / f"page-api-keys-{tag}.png")
        page.get_by_role("button", name=re.compile("Rotate|轮换")).first.click()
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_role("radiogroup")).to_be_visible(timeout=30_000)
        settle(page)
        page.screenshot(path=artifacts / f"page-api-keys-rotate-{tag}.png")
        page.keyboard.press("Escape")
        page.get_by_role("button", name=re.compile("Create a key|创建密钥")).click()
        box = dialog.get_by_role("textbox").first
        expect(box).to_be_visible(timeout=30_000)
        settle(page)
        page.screenshot(path=artifacts / f"page-api-keys-create-{tag}.png")
        box.fill(tag)
        box.press("Enter")
        secret = page.locator(".st-key-fresh_key").get_by_test_id("stCode").first
        assert SECRET.fullmatch(fresh_secret(page))
        fits(page)
        frame, inner = secret.bounding_box(), secret.locator("code").first.bounding_box()
        assert frame is not None
        assert inner is not None
        assert inner["width"] <= frame["width"] <= width, "the secret wraps"
        shoot(page, artifacts / f"page-api-keys-secret-{tag}.png")
        context.close()


def shoot(page: Page, path: Path) -> None:
    """A picture of the whole page: Streamlit scrolls inside it, so the window grows first."""
    size = page.viewport_size
    assert size is not None
    height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": size["width"], "height": height + 40})
    page.wait_for_timeout(400)
    page.screenshot(path=path)
    page.set_viewport_size(size)
