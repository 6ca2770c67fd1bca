"""The help says the same in both languages, and its figures are those of the price list and the settings."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from decimal import Decimal

import pytest

from core.config import ROOT, Settings
from core.pricing.book import read_book
from ui import i18n
from ui.help_text import FIGURE, FOLDER, TOPICS, figures, fill, read_topic, show_text

LANGUAGES = ("en", "zh_CN")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [*(ROOT / "pages").glob("*.py"), *(ROOT / "ui").glob("*.py")]


@pytest.fixture(params=LANGUAGES)
def language(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each language in turn, as the session's."""
    monkeypatch.setattr(i18n, "language", lambda: request.param)
    return str(request.param)


def published() -> dict[str, str]:
    """The figures of an installation as it is published."""
    return figures(read_book(), Settings(_env_file=None))


@pytest.mark.parametrize("topic", TOPICS)
def test_both_languages_have_the_same(topic: str) -> None:
    """A topic has as many headings of each level in both languages, the same figures, links and code."""
    english, chinese = (read_topic(topic, language) for language in LANGUAGES)
    chinese = chinese.replace("/api.zh_CN.md", "/api.md")
    for pattern in (r"^(#+) ", r"<!--=(\w+)-->", r"\]\(([^)]+)\)"):
        assert sorted(re.findall(pattern, english, re.MULTILINE)) == sorted(
            re.findall(pattern, chinese, re.MULTILINE)
        ), pattern
    assert [code for kind, code in FENCE.findall(english) if kind] == [
        code for kind, code in FENCE.findall(chinese) if kind
    ]


def test_there_are_no_other_files() -> None:
    """Every file is a topic, so that none is forgotten in the menu."""
    for language in LANGUAGES:
        assert {path.stem for path in (FOLDER / language).iterdir()} == set(TOPICS)


@pytest.mark.parametrize("topic", TOPICS)
def test_figures_are_those_of_the_price_list_and_the_settings(topic: str, language: str) -> None:
    """What stands in the files between the marks is what the portal would show on a new installation."""
    text = read_topic(topic, language)
    assert text == fill(text, published())


def test_every_figure_is_used() -> None:
    """No figure is computed for nothing."""
    used = {name for topic in TOPICS for name in re.findall(r"<!--=(\w+)-->", read_topic(topic, "en"))}
    assert used == set(published())


def test_the_figures_follow_another_price_list(language: str) -> None:
    """Another list and other settings are other figures, and without discounts the text says so."""
    book = read_book()
    dearer = replace(
        book, betas={**book.betas, "yolov8s": Decimal("2.5"), "helmets-2": Decimal(3)}, minimum=Decimal("0.200")
    )
    settings = Settings(_env_file=None, price_per_token=Decimal("0.02"), image_bytes_max=5_000_000)
    found = figures(replace(dearer, discounts=()), settings)
    assert found["example"] == "1.0 × (640 × 384 / 640²) × 2.5 = 1.500"
    assert found["example_thousand"] == "30.00"
    assert "- `helmets-2`: 3" in found["betas"]
    assert "s 2.5" in found["betas"]
    assert (found["minimum"], found["image_mb"], found["thousand"]) == ("0.200", "5", "20.00")
    assert "|" not in found["discounts"]
    assert found["discount_example"] == ""


@pytest.mark.parametrize("topic", TOPICS)
def test_what_is_shown(topic: str, language: str) -> None:
    """In the portal no mark is left, links lead to topics that exist, and calls go to this server."""
    title, text = show_text(read_topic(topic, language), published(), host="https://vision.example.com")
    assert title
    assert not title.startswith("#")
    assert "<!--" not in text
    assert FIGURE.search(text) is None
    assert "localhost" not in text
    reference = "/v1/docs" if language == "en" else "/v1/docs?lang=zh-CN"
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert link == reference or link.removeprefix("help?topic=") in TOPICS
    assert not re.search(r"^#{1,2} ", text, re.MULTILINE), "below the title of the page and that of the topic"


def test_links_of_the_portal_lead_to_topics() -> None:
    """`help_link` names topics that exist, wherever it stands."""
    named = {
        node.args[0].value
        for path in PAGES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "help_link"
        if isinstance(node.args[0], ast.Constant)
    }
    assert named <= set(TOPICS)
    assert {"start", "prices", "money", "api"} <= named
