"""The documentation says what the code does: settings, prices, commands and links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from core.config import ROOT
from core.money import format_tokens
from core.pricing.book import BatchPrice, read_book
from core.settings_table import settings_table

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]
    if path.is_file()
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def between(marker: str) -> str:
    """The README's text between two markers."""
    return README.split(f"<!-- {marker} -->\n")[1].split(f"<!-- /{marker} -->")[0]


def rows(marker: str) -> list[list[str]]:
    """The cells of the table between two markers, without its head."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in between(marker).splitlines()[2:]]


def slug(heading: str) -> str:
    """The anchor that a Markdown heading gets."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def test_the_api_is_described_alike_in_both_languages() -> None:
    """The same sections, examples, names, tables and links: what one reference says, the other says."""
    english, chinese = ((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("api.md", "api.zh_CN.md"))

    def shape(text: str) -> dict[str, list[str]]:
        prose = FENCE.sub("", text)
        # A table's cell by cell; of prose each name, in whatever order the language puts them.
        return {
            "headings": re.findall(r"^#+", prose, re.MULTILINE),
            "examples": FENCE.findall(text),
            "columns": [str(line.count("|")) for line in prose.splitlines() if line.startswith("|")],
            "first cells": [cell for cell in re.findall(r"^\| ([^|]+) \|", prose, re.MULTILINE) if cell.isascii()],
            "names": sorted({name for name in re.findall(r"`([^`]+)`", " ".join(prose.split())) if name.isascii()}),
            "links": LINK.findall(prose),
        }

    ours, theirs = shape(english), shape(chinese)
    for part in ("headings", "examples", "columns", "names", "links"):
        assert ours[part] == theirs[part], part
    statuses = [[cell for cell in one["first cells"] if cell[0].isdigit()] for one in (ours, theirs)]
    assert statuses[0] == statuses[1]


def test_settings_table() -> None:
    """The README's configuration table is the output of `python -m core.settings_table`."""
    assert between("settings") == settings_table()


def test_betas_are_those_of_the_price_book() -> None:
    """The README's β are the ones that the first price book is made of."""
    book = read_book()
    assert dict(rows("betas")) == {m: str(b) for m, b in book.betas.items()}
    assert f"α is {book.alpha}" in README


@pytest.mark.parametrize("row", rows("examples"), ids=lambda row: f"{row[0]} at {row[1]} {row[2]}")
def test_worked_examples_of_prices(row: list[str]) -> None:
    """Each price that the README works out is what a customer would be quoted."""
    image, img_size, model, network, _exact, tokens = row
    width, height = map(int, image.split("×"))
    plan, amount_mt = read_book().price_image(height, width, int(img_size), model)
    assert (f"{plan.whole.width}×{plan.whole.height}", format_tokens(amount_mt)) == (network, tokens)


@pytest.mark.parametrize("row", rows("tile-examples"), ids=lambda row: f"{row[0]} at {row[1]} in {row[2]}")
def test_worked_examples_of_tiles(row: list[str]) -> None:
    """The same for pictures in tiles."""
    image, img_size, tile_px, model, count, network, _exact, tokens = row
    width, height = map(int, image.split("×"))
    plan, amount_mt = read_book().price_image(height, width, int(img_size), model, tile_px=int(tile_px))
    inputs = f"{plan.whole.width}×{plan.whole.height}"
    if plan.tile is not None:
        inputs += f" + {len(plan.tiles)} × {plan.tile.width}×{plan.tile.height}"
    assert (str(len(plan.tiles)), inputs, format_tokens(amount_mt)) == (count, network, tokens)


def test_discounts_are_those_of_the_price_book() -> None:
    """The README's tiers are the ones that the first price book is made of."""
    assert rows("discounts") == [[str(tier.images_min), f"{tier.percent} %"] for tier in read_book().discounts]


@pytest.mark.parametrize("row", rows("discount-examples"), ids=lambda row: f"{row[0]} images")
def test_worked_examples_of_discounts(row: list[str]) -> None:
    """Each batch that the README works out is what a customer would be quoted, by the steps it shows."""

    def price(images: int) -> BatchPrice:
        return prices.price_batch([(640, 640)] * images, 640, "yolov8s", charged=[True] * images)

    prices, images = read_book(), int(row[0])
    batch = price(images)
    discounted_mt = sum(line.amount_mt - line.floor_mt for line in batch.lines)
    passed = [tier.images_min for tier in prices.discounts if tier.images_min <= images]
    least_mt = max((price(images_min - 1).total_mt for images_min in passed), default=0)
    assert row == [
        str(images),
        format_tokens(batch.list_mt),
        f"{batch.discount_percent} %",
        format_tokens(discounted_mt),
        format_tokens(least_mt),
        format_tokens(batch.total_mt),
    ]


def test_every_make_target_that_is_named_exists() -> None:
    """No document sends its reader to a command that is not there."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        commands = "\n".join([*re.findall(r"`([^`\n]+)`", FENCE.sub("", text)), *FENCE.findall(text)])
        named = set(re.findall(r"^make ([a-z][a-z-]*)", commands, re.MULTILINE))
        assert named <= targets, f"{document.name} names {sorted(named - targets)}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links(document: Path) -> None:
    """Every relative link and picture of a document leads to a file, and every anchor to a heading."""
    text = document.read_text(encoding="utf-8")
    for target in LINK.findall(FENCE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        assert path.exists(), f"{target} is not there"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), f"{target} has no such heading"


def test_named_settings_exist() -> None:
    """A document names no setting that the code does not know."""
    known = set(re.findall(r"`(VISIONMETER_[A-Z_]+)`", settings_table()))
    for document in DOCUMENTS:
        named = set(re.findall(r"\b(VISIONMETER_(?!TEST_)[A-Z_]+[A-Z])\b", document.read_text(encoding="utf-8")))
        assert named <= known, f"{document.name} names {sorted(named - known)}"
