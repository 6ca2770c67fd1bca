"""A month's statement as a PDF in the reader's language."""

from __future__ import annotations

from datetime import timedelta
from itertools import zip_longest

from fpdf.enums import Align

from core.ledger.seal import Head
from core.money import format_tokens
from core.services.application import current
from core.services.statement import Statement, StatementLine
from ui.format import local_month, money
from ui.i18n import _, ngettext
from ui.pdf_sheet import INK, TEAL, TEXT_PT, Sheet

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


def _compose(statement: Statement, head: Head | None, *, digits: int = 1) -> Sheet:
    title = f"{_('Monthly statement')} {statement.start:%Y-%m}"
    sheet = Sheet(title, foot=statement.account_id, made_at=statement.made_at, digits=digits)
    sheet.add_page()
    _write_letterhead(sheet, statement)
    _write_facts(sheet, statement)
    _write_sums(sheet, statement)
    _write_lines(sheet, statement)
    _write_notes(sheet, statement, head)
    return sheet


def _write_letterhead(sheet: Sheet, statement: Statement) -> None:
    sheet.letterhead(_("Monthly statement"), local_month(statement.start))


def _write_facts(sheet: Sheet, statement: Statement) -> None:
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
    sheet.facts(facts)
    if statement.is_running:
        sheet.ln(1.5)
        sheet.paragraph(_("The month is not over: entries after this moment are not in this statement."), TEXT_PT, TEAL)
    if statement.is_demo:
        sheet.ln(1.5)
        sheet.paragraph(_("Demonstration account: its history was generated and nobody was charged."), TEXT_PT, TEAL)
    sheet.ln(4)


def _write_sums(sheet: Sheet, statement: Statement) -> None:
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
        TEXT_PT,
        INK,
    )
    sheet.ln(5)


def _write_lines(sheet: Sheet, statement: Statement) -> None:
    if not statement.lines:
        sheet.paragraph(_("Nothing was booked in this month."), TEXT_PT, INK)
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


def _write_notes(sheet: Sheet, statement: Statement, head: Head | None) -> None:
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


def _description(sheet: Sheet, line: StatementLine) -> str:
    if line.at is None:
        return _counted(line.kind, line.count)
    known = {"welcome": _("welcome tokens")}
    parts = (_kind(line.kind), line.reason, known.get(line.reference, line.reference))
    return " – ".join(sheet.words(part) for part in parts if part)


def _kind(kind: str) -> str:
    words = {
        "top_up": _("Top-up"),
        "bonus": _("Bonus"),
        "refund": _("Refund"),
        "adjustment": _("Adjustment"),
        "capture": _("Charge"),
    }
    return words.get(kind, kind)


def _kinds(kind: str) -> str:
    words = {
        "top_up": _("Top-ups"),
        "bonus": _("Bonuses"),
        "refund": _("Refunds"),
        "adjustment": _("Adjustments"),
        "capture": _("Charges"),
    }
    return words.get(kind, kind)


def _counted(kind: str, count: int) -> str:
    return ngettext("{n} charge", "{n} charges", count) if kind == "capture" else f"{_kinds(kind)}: {count:,}"
