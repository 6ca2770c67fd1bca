"""A month's statement as a PDF (A4) in the reader's language, with every glyph embedded: it opens anywhere.

Its fonts are subsets that lie in `assets/fonts`, so nothing is needed of the machine and nothing is fetched.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from itertools import zip_longest

from babel.dates import format_skeleton
from fpdf import FPDF
from fpdf.enums import Align, XPos, YPos

from core.config import ROOT
from core.ledger.seal import Head
from core.money import format_tokens
from core.services.application import current
from core.services.statement import Statement, StatementLine
from ui.format import money
from ui.i18n import _, language, ngettext

# It tells at INFO how it cuts each table of a font.
logging.getLogger("fontTools").setLevel(logging.WARNING)

_FONTS = ROOT / "assets" / "fonts"
_SANS = "NotoSansCJKsc-Regular-subset.otf"  # Latin of Western Europe, Greek, Cyrillic, kana, Chinese
_MORE = "NotoSans-Regular-subset.ttf"  # the rest of Latin, and currencies
_WORDMARK = ROOT / "assets" / "wordmark.svg"

_MARGIN_MM, _FOOT_MM = 18, 20
_TEXT_PT, _SMALL_PT, _TITLE_PT = 9, 8, 17
_LINE_MM, _PADDING_MM = 4.6, 0.9
_INK, _GREY, _RULE, _TINT, _TEAL = "#1B2A33", "#5B6B75", "#D5DDE1", "#EEF4F3", "#0B6B62"
# Stands for a digit of the number of pages; no text has it once it went through `_Sheet.words`.
_PAGES_DIGIT = "\ue000"
_WORDS_MAX = 500
# Where a line may break: behind spaces, and around each Chinese character with the closing marks that follow it.
_CHINESE = r"\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef"
_PIECES = re.compile(rf"[{_CHINESE}][、。，．；：？！）】》”’]*\s*|[^\s{_CHINESE}]+\s*|\s+")

# Widths in mm; they share the 174 mm between the margins.
_LINE_COLUMNS = ((30, Align.L), (55, Align.L), (30, Align.R), (28, Align.R), (31, Align.R))
_SUM_COLUMNS = ((74, Align.L), (24, Align.R), (36, Align.R), (40, Align.R))


def statement_pdf(statement: Statement, *, head: Head | None = None) -> bytes:
    """The statement as a PDF file. `head` is the end of the account's hash chain, printed below the sums."""
    sheet = _compose(statement, head)
    if (digits := len(str(sheet.pages_count))) > 1:
        # Room for the number of pages is left on each page before it is known.
        sheet = _compose(statement, head, digits=digits)
    return bytes(sheet.output())


def _compose(statement: Statement, head: Head | None, *, digits: int = 1) -> _Sheet:
    sheet = _Sheet(statement, digits)
    sheet.add_page()
    _write_letterhead(sheet, statement)
    _write_facts(sheet, statement)
    _write_sums(sheet, statement)
    _write_lines(sheet, statement)
    _write_notes(sheet, statement, head)
    return sheet


class _Sheet(FPDF):
    """A4 paper with our fonts and a foot on each page."""

    def __init__(self, statement: Statement, digits: int) -> None:
        super().__init__(format="A4")
        self._account_id = statement.account_id
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
        self.set_title(f"{_('Monthly statement')} {statement.start:%Y-%m}")
        self.set_author("VisionMeter")
        self.set_creation_date(statement.made_at)

    def footer(self) -> None:
        """The account and the page's number."""
        self.set_y(8 - _FOOT_MM)
        self.style(_SMALL_PT, _GREY)
        pages = _("Page {page} of {pages}").format(page=self.page_no(), pages=self.str_alias_nb_pages)
        self.cell(self.epw / 2, _LINE_MM, self._account_id)
        self.cell(0, _LINE_MM, pages, align=Align.R)

    def style(self, size_pt: int, colour: str = _INK) -> None:
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

    def paragraph(self, text: str, size_pt: int = _SMALL_PT, colour: str = _GREY) -> None:
        """A text over the whole width."""
        self.style(size_pt, colour)
        self.multi_cell(0, _LINE_MM, text, align=Align.L, new_x=XPos.LMARGIN, new_y=YPos.NEXT)

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
            self.style(_TEXT_PT, _TEAL if is_strong(number) else _INK)
            folded = [self._fold(text, width) for text, (width, _align) in zip(row, columns, strict=True)]
            height_mm = max(map(len, folded)) * _LINE_MM + 2 * _PADDING_MM
            if self.will_page_break(height_mm):
                self.add_page()
                self._head(columns, head)
                self.style(_TEXT_PT, _TEAL if is_strong(number) else _INK)
            self._row(columns, folded, height_mm, is_tinted=is_strong(number))

    def _head(self, columns: Sequence[tuple[int, Align]], head: Sequence[str]) -> None:
        self.style(_SMALL_PT, _GREY)
        self._row(columns, [[text] for text in head], _LINE_MM + 2 * _PADDING_MM)

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
                self.set_xy(x, y + _PADDING_MM + number * _LINE_MM)
                self.cell(width, _LINE_MM, text, align=align)
            x += width
        self.line(self.l_margin, y + height_mm, x, y + height_mm)
        self.set_xy(self.l_margin, y + height_mm)


def _write_letterhead(sheet: _Sheet, statement: Statement) -> None:
    sheet.image(_WORDMARK, x=_MARGIN_MM, y=_MARGIN_MM, h=9)
    sheet.set_y(_MARGIN_MM - 1)
    sheet.style(_TITLE_PT, _TEAL)
    sheet.cell(0, 7, _("Monthly statement"), align=Align.R, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    sheet.style(_TEXT_PT, _GREY)
    month = format_skeleton("yMMMM", statement.start, locale=language())
    sheet.cell(0, 5, month, align=Align.R, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    sheet.ln(5)


def _write_facts(sheet: _Sheet, statement: Statement) -> None:
    last = statement.end - timedelta(microseconds=1)
    offsets = dict.fromkeys(f"UTC{moment.isoformat()[-6:]}" for moment in (statement.start, last))
    facts = (
        (_("Account"), sheet.words(statement.account_name)),
        (_("Account number"), statement.account_id),
        (
            _("Statement period"),
            _("{first} to {last}, both included").format(
                first=statement.start.date().isoformat(), last=last.date().isoformat()
            ),
        ),
        (_("Time zone"), f"{statement.start.tzinfo} ({' / '.join(offsets)})"),
        (_("Made at"), f"{statement.made_at:%Y-%m-%d %H:%M}"),
    )
    for label, value in facts:
        sheet.style(_TEXT_PT, _GREY)
        sheet.cell(36, _LINE_MM, label)
        sheet.style(_TEXT_PT)
        sheet.multi_cell(0, _LINE_MM, value, align=Align.L, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    if statement.is_running:
        sheet.ln(1.5)
        sheet.paragraph(
            _("The month is not over: entries after this moment are not in this statement."), _TEXT_PT, _TEAL
        )
    if statement.is_demo:
        sheet.ln(1.5)
        sheet.paragraph(_("Demonstration account: its history was generated and nobody was charged."), _TEXT_PT, _TEAL)
    sheet.ln(4)


def _write_sums(sheet: _Sheet, statement: Statement) -> None:
    sums = [(_("Opening balance"), "", statement.opening_mt)]
    sums += [(_kinds(total.kind), f"{total.count:,}", total.amount_mt) for total in statement.totals]
    sums += [(_("Closing balance"), "", statement.closing_mt)]
    last = len(sums) - 1
    sheet.rows(
        _SUM_COLUMNS,
        (_("Summary"), _("Entries"), _("Worth"), _("Tokens")),
        [
            (label, count, money(amount_mt), format_tokens(amount_mt, signed=0 < number < last))
            for number, (label, count, amount_mt) in enumerate(sums)
        ],
        is_strong=lambda number: number in (0, last),
    )
    sheet.ln(2)
    sheet.paragraph(
        _("Opening balance {opening} + lines {lines} = closing balance {closing} tokens.").format(
            opening=format_tokens(statement.opening_mt),
            lines=format_tokens(statement.closing_mt - statement.opening_mt),
            closing=format_tokens(statement.closing_mt),
        ),
        _TEXT_PT,
        _INK,
    )
    sheet.ln(5)


def _write_lines(sheet: _Sheet, statement: Statement) -> None:
    if not statement.lines:
        sheet.paragraph(_("Nothing was booked in this month."), _TEXT_PT, _INK)
        return
    sheet.rows(
        _LINE_COLUMNS,
        (_("Date"), _("Description"), _("Tokens"), _("Worth"), _("Balance after")),
        [
            (
                line.day.isoformat() if line.at is None else f"{line.at:%Y-%m-%d %H:%M}",
                _description(sheet, line),
                format_tokens(line.amount_mt, signed=True),
                money(line.amount_mt),
                # Within a day the charges' sum stands last, and not where each charge was: only its end is a balance.
                "" if following is not None and following.day == line.day else format_tokens(line.balance_mt),
            )
            for line, following in zip_longest(statement.lines, statement.lines[1:])
        ],
    )


def _write_notes(sheet: _Sheet, statement: Statement, head: Head | None) -> None:
    settings = current().settings
    sheet.ln(4)
    sheet.paragraph(
        _(
            "Charges are summed by day and stand last in it, and the balance is that of the day's end; the CSV of this "
            "month has each of them."
        )
        + "\n"
        + _("A token is {price}. Amounts of money are rounded one by one; tokens are exact.").format(
            price=sheet.words(f"{settings.currency_symbol}{settings.price_per_token}")
        )
    )
    if head is not None:
        sheet.ln(1.5)
        sheet.paragraph(
            _("Ledger head at the time of printing: entry {seq}, SHA-256 {digest}").format(
                seq=f"{head.seq:,}", digest=head.digest
            )
        )


def _description(sheet: _Sheet, line: StatementLine) -> str:
    if line.at is None:
        return _counted(line.kind, line.count)
    known = {"welcome": _("welcome tokens")}
    parts = (_kind(line.kind), line.reason, known.get(line.reference, line.reference))
    return " – ".join(sheet.words(part) for part in parts if part)


def _kind(kind: str) -> str:
    words = {"top_up": _("Top-up"), "refund": _("Refund"), "adjustment": _("Adjustment"), "capture": _("Charge")}
    return words.get(kind, kind)


def _kinds(kind: str) -> str:
    words = {"top_up": _("Top-ups"), "refund": _("Refunds"), "adjustment": _("Adjustments"), "capture": _("Charges")}
    return words.get(kind, kind)


def _counted(kind: str, count: int) -> str:
    return ngettext("{n} charge", "{n} charges", count) if kind == "capture" else f"{_kinds(kind)}: {count:,}"
