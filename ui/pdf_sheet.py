"""The paper of our PDF files: A4 in the reader's language, with every glyph embedded, so that it opens anywhere.

Its fonts are subsets that lie in `assets/fonts`, so nothing is needed of the machine and nothing is fetched.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from fpdf import FPDF
from fpdf.enums import Align, XPos, YPos

from core.config import ROOT
from ui.i18n import _, language

# It tells at INFO how it cuts each table of a font.
logging.getLogger("fontTools").setLevel(logging.WARNING)

_FONTS = ROOT / "assets" / "fonts"
_SANS = "NotoSansCJKsc-Regular-subset.otf"  # Latin of Western Europe, Greek, Cyrillic, kana, Chinese
_MORE = "NotoSans-Regular-subset.ttf"  # the rest of Latin, and currencies
_WORDMARK = ROOT / "assets" / "wordmark.svg"

_MARGIN_MM, _FOOT_MM = 18, 20
TEXT_PT, SMALL_PT, TITLE_PT = 9, 8, 17
LINE_MM, _PADDING_MM = 4.6, 0.9
INK, GREY, _RULE, _TINT, TEAL = "#1B2A33", "#5B6B75", "#D5DDE1", "#EEF4F3", "#0B6B62"
# Stands for a digit of the number of pages; no text has it once it went through `_Sheet.words`.
_PAGES_DIGIT = "\ue000"
_WORDS_MAX = 500
# Where a line may break: behind spaces, and around each Chinese character with the closing marks that follow it.
_CHINESE = r"\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef"
_PIECES = re.compile(rf"[{_CHINESE}][、。，．；：？！）】》”’]*\s*|[^\s{_CHINESE}]+\s*|\s+")


class Sheet(FPDF):
    """A4 paper with our fonts and a foot on each page. `digits` is room for the number of pages."""

    def __init__(self, title: str, *, foot: str, made_at: datetime, digits: int) -> None:
        super().__init__(format="A4")
        self._foot = foot
        self.add_font("sans", fname=_FONTS / _SANS)
        self.add_font("more", fname=_FONTS / _MORE)
        self.set_fallback_fonts(["more"])
        # In thousandths of the font's size.
        self._advances = {
            code: self.fonts[font].cw[code] for font in ("more", "sans") for code in self.fonts[font].cmap
        }
        self.alias_nb_pages(_PAGES_DIGIT * digits)
        self.set_margins(_MARGIN_MM, _MARGIN_MM)
        self.set_auto_page_break(True, margin=_FOOT_MM)
        self.set_draw_color(_RULE)
        self.set_lang(language().replace("_", "-"))
        self.set_title(title)
        self.set_author("VisionMeter")
        self.set_creation_date(made_at)

    def footer(self) -> None:
        """What every page says, and its number."""
        self.set_y(8 - _FOOT_MM)
        self.style(SMALL_PT, GREY)
        pages = _("Page {page} of {pages}").format(page=self.page_no(), pages=self.str_alias_nb_pages)
        self.cell(self.epw / 2, LINE_MM, self._foot)
        self.cell(0, LINE_MM, pages, align=Align.R)

    def style(self, size_pt: int, colour: str = INK) -> None:
        """Size and colour of what is written next."""
        self.set_font("sans", size=size_pt)
        self.set_text_color(colour)

    def words(self, text: str) -> str:
        """Words that people typed, on one line; what our fonts cannot draw becomes □."""
        kept = []
        for character in unicodedata.normalize("NFC", text[:_WORDS_MAX]):
            category = unicodedata.category(character)
            if category in ("Cc", "Zs", "Zl", "Zp"):
                kept.append(" ")
            # Joiners, marks of direction and selectors of variants draw nothing by themselves.
            elif category != "Cf" and not 0xFE00 <= ord(character) <= 0xFE0F:
                kept.append(character if ord(character) in self._advances else "□")
        return " ".join("".join(kept).split()) + ("…" if len(text) > _WORDS_MAX else "")

    def letterhead(self, title: str, below: str) -> None:
        """The wordmark, and to its right what this is."""
        self.image(_WORDMARK, x=_MARGIN_MM, y=_MARGIN_MM, h=9)
        self.set_y(_MARGIN_MM - 1)
        self.style(TITLE_PT, TEAL)
        self.cell(0, 7, title, align=Align.R, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.style(TEXT_PT, GREY)
        self.cell(0, 5, below, align=Align.R, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.ln(5)

    def facts(self, facts: Iterable[tuple[str, str]]) -> None:
        """Labels with their values, one below the other."""
        for label, value in facts:
            self.style(TEXT_PT, GREY)
            self.cell(36, LINE_MM, label)
            self.style(TEXT_PT)
            self.multi_cell(0, LINE_MM, value, align=Align.L, new_x=XPos.LMARGIN, new_y=YPos.NEXT)

    def paragraph(self, text: str, size_pt: int = SMALL_PT, colour: str = GREY) -> None:
        """A text over the whole width."""
        self.style(size_pt, colour)
        self.multi_cell(0, LINE_MM, text, align=Align.L, new_x=XPos.LMARGIN, new_y=YPos.NEXT)

    def rows(
        self,
        columns: Sequence[tuple[int, Align]],
        head: Sequence[str],
        rows: Iterable[Sequence[str]],
        is_strong: Callable[[int], bool] = lambda _row: False,
    ) -> None:
        """A table whose head is repeated on each page; strong rows are tinted.

        Not `FPDF.table`: its time grows with the square of the rows, to a minute for a thousand.
        """
        self._head(columns, head)
        for number, row in enumerate(rows):
            self.style(TEXT_PT, TEAL if is_strong(number) else INK)
            folded = [self._fold(text, width) for text, (width, _align) in zip(row, columns, strict=True)]
            height_mm = max(map(len, folded)) * LINE_MM + 2 * _PADDING_MM
            if self.will_page_break(height_mm):
                self.add_page()
                self._head(columns, head)
                self.style(TEXT_PT, TEAL if is_strong(number) else INK)
            self._row(columns, folded, height_mm, is_tinted=is_strong(number))

    def _head(self, columns: Sequence[tuple[int, Align]], head: Sequence[str]) -> None:
        self.style(SMALL_PT, GREY)
        self._row(columns, [[text] for text in head], LINE_MM + 2 * _PADDING_MM)

    def _fold(self, text: str, width_mm: int) -> list[str]:
        """Break a text into lines that fit a cell: between words, between Chinese characters, else anywhere."""
        room_mm = width_mm - 2 * self.c_margin
        lines = [""]
        for piece in _PIECES.findall(text):
            if self._width_mm(lines[-1] + piece) <= room_mm:
                lines[-1] += piece
            elif self._width_mm(piece) <= room_mm:
                lines.append(piece.lstrip())
            else:
                for character in piece:
                    if self._width_mm(lines[-1] + character) > room_mm:
                        lines.append("")
                    lines[-1] += character
        return [line.rstrip() for line in lines]

    def _width_mm(self, text: str) -> float:
        """`FPDF.get_string_width` looks at every font for every character, which takes seconds for a long month."""
        return sum(self._advances.get(ord(character), 1000) for character in text) * self.font_size / 1000

    def _row(
        self,
        columns: Sequence[tuple[int, Align]],
        folded: Sequence[Sequence[str]],
        height_mm: float,
        *,
        is_tinted: bool = False,
    ) -> None:
        x, y = self.l_margin, self.get_y()
        if is_tinted:
            self.set_fill_color(_TINT)
            self.rect(x, y, self.epw, height_mm, style="F")
        for (width, align), lines in zip(columns, folded, strict=True):
            for number, text in enumerate(lines):
                self.set_xy(x, y + _PADDING_MM + number * LINE_MM)
                self.cell(width, LINE_MM, text, align=align)
            x += width
        self.line(self.l_margin, y + height_mm, x, y + height_mm)
        self.set_xy(self.l_margin, y + height_mm)
