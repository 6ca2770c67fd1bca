"""A statement as PDF: both languages, amounts as in the data, every glyph in the file, whatever names hold."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, timedelta
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pypdfium2
import pytest
from pypdfium2 import raw

from core.config import Settings
from core.identity.tables import User
from core.ledger.seal import Head
from core.money import format_tokens
from core.services.application import Application, set_current
from core.services.statement import KindTotal, Statement, StatementLine, build_statement, month_bounds
from ui import i18n, pdf_sheet, statement_pdf

SHANGHAI = ZoneInfo("Asia/Shanghai")
HEAD = Head("acct_1", 1_234_567, "ab" * 32)


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    """The currency and the price of a token are the settings'."""
    set_current(SimpleNamespace(settings=Settings(_env_file=None)))  # type: ignore[arg-type]  # all that is asked for
    yield
    set_current(None)


@pytest.fixture(params=["en", "zh_CN"])
def language(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each language of the portal."""
    monkeypatch.setattr(i18n, "language", lambda: request.param)
    monkeypatch.setattr("ui.format.language", lambda: request.param)
    monkeypatch.setattr(pdf_sheet, "language", lambda: request.param)
    return str(request.param)


# Day, hour of a single entry, kind, milli-tokens, number of entries, reason.
Line = tuple[int, int | None, str, int, int, str]


def line(day: int, kind: str, amount_mt: int, *, hour: int | None = None, count: int = 1, reason: str = "") -> Line:
    """A line of November 2026 without its balance."""
    return day, hour, kind, amount_mt, count, reason


LINES = (
    line(3, "top_up", 20_000, hour=9),
    line(3, "capture", -5_625, count=1),
    line(4, "refund", 5_625, hour=11, reason="wrong boxes"),
    line(4, "capture", -1_234, count=1_483_870),
    line(30, "adjustment", -1, hour=23, reason="counted twice"),
)


def a_statement(
    lines: Sequence[Line] = LINES,
    *,
    name: str = "Ann",
    opening_mt: int = 998_516_130_000,
    zone: ZoneInfo = SHANGHAI,
    made_after: timedelta = timedelta(days=31),
    is_demo: bool = False,
) -> Statement:
    """November 2026 with these lines."""
    start, end = month_bounds(2026, 11, zone)
    balance_mt, made = opening_mt, []
    for day, hour, kind, amount_mt, count, reason in lines:
        balance_mt += amount_mt
        at = None if hour is None else datetime(2026, 11, day, hour, 5, tzinfo=zone)
        reference = "hold_0123456789abcdef01234567" if kind == "refund" else ""
        made.append(StatementLine(date(2026, 11, day), at, kind, count, amount_mt, balance_mt, reference, reason))
    totals = [
        KindTotal(
            kind,
            sum(item.count for item in made if item.kind == kind),
            sum(item.amount_mt for item in made if item.kind == kind),
        )
        for kind in dict.fromkeys(item.kind for item in made)
    ]
    return Statement(
        account_id="acct_1",
        account_name=name,
        is_demo=is_demo,
        start=start,
        end=end,
        made_at=start + made_after,
        opening_mt=opening_mt,
        closing_mt=balance_mt,
        lines=tuple(made),
        totals=tuple(totals),
    )


def ends_of_days(statement: Statement) -> list[StatementLine]:
    """The last line of each day."""
    return list({line.day: line for line in statement.lines}.values())


def texts(data: bytes) -> list[str]:
    """The words of each page, with single spaces."""
    with pypdfium2.PdfDocument(data) as document:
        return [" ".join(page.get_textpage().get_text_range().split()) for page in document]


def fonts(data: bytes) -> dict[str, bool]:
    """Every font that draws text in the file, and whether it is embedded."""
    found = {}
    with pypdfium2.PdfDocument(data) as document:
        for page in document:
            for drawn in page.get_objects(filter=[raw.FPDF_PAGEOBJ_TEXT]):
                font = raw.FPDFTextObj_GetFont(drawn.raw)
                name = ctypes.create_string_buffer(200)
                raw.FPDFFont_GetBaseFontName(font, name, 200)
                found[name.value.decode()] = raw.FPDFFont_GetIsEmbedded(font) == 1
    return found


def test_every_amount_is_in_it(language: str) -> None:
    """Opening, each line with its running balance, totals and closing stand there, in tokens and in money."""
    made = a_statement()
    (text,) = texts(statement_pdf.statement_pdf(made))
    for item in made.lines:
        assert format_tokens(item.amount_mt, signed=True) in text
        # Charges stand last in their day, so only a day's last line has a balance that ever was.
        assert (format_tokens(item.balance_mt) in text) == (item in ends_of_days(made))
    for total in made.totals:
        assert f"{total.count:,}" in text
        assert format_tokens(total.amount_mt, signed=True) in text
    for money in ("¥9,985,161.30", "¥0.20", "−¥0.06", "−¥0.07", "¥0.00"):
        assert money in text
    assert "−¥0.00" not in text
    opening, closing = format_tokens(made.opening_mt), format_tokens(made.closing_mt)
    assert {
        "en": f"Opening balance {opening} + lines 18.765 = closing balance {closing} tokens.",
        "zh_CN": f"期初余额 {opening} + 各项合计 18.765 = 期末余额 {closing} Token。",
    }[language] in text


def test_it_speaks_the_language(language: str) -> None:
    """Title, month, words of the lines and the page's number are in the reader's language; so says the file."""
    data = statement_pdf.statement_pdf(a_statement())
    (text,) = texts(data)
    english = ["Monthly statement", "November 2026", "1 charge", "1,483,870 charges", "Refund – wrong boxes"]
    english += ["2026-11-01 to 2026-11-30, both included", "Closing balance", "Page 1 of 1"]
    chinese = ["月度账单", "2026年11月", "1 笔扣费", "1,483,870 笔扣费", "退款 – wrong boxes"]
    chinese += ["2026-11-01 至 2026-11-30（含首尾两日）", "期末余额", "第 1 页，共 1 页"]
    for words in {"en": english, "zh_CN": chinese}[language]:
        assert words in text
    assert "Asia/Shanghai (UTC+08:00)" in text
    assert (re.search(r"[\u4e00-\u9fff]", text) is not None) == (language == "zh_CN")
    assert f"/Lang ({language.replace('_', '-')})".encode() in data


def test_all_fonts_are_embedded(language: str) -> None:
    """Chinese, Polish and Turkish letters come from two subset fonts inside the file, not from the reader's machine."""
    data = statement_pdf.statement_pdf(a_statement(name="深圳市喆堃 Łukasz Şahin Иван Ελλάς ₹"))
    found = fonts(data)
    assert {name.split("+")[1] for name in found} == {"NotoSansCJKSC", "NotoSans"}
    assert all(found.values())
    assert "深圳市喆堃 Łukasz Şahin Иван Ελλάς ₹" in texts(data)[0]
    assert len(data) < 60_000


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("<script>alert(1)</script> & <b>x</b>", "<script>alert(1)</script> & <b>x</b>"),
        ("a 😀 b", "a □ b"),
        ("**bold** __x__ {nb} %s {0} \\n", "**bold** __x__ {nb} %s {0} \\n"),
        ("two\nlines\tand\x00 nul", "two lines and nul"),
        ("abc\u202edef\u200d\ufe0f\u00adg\ue000", "abcdefg□"),
        ("e\u0301a\u0308", "éä"),
        ("عربي", "□□□□"),
    ],
    ids=["markup", "emoji", "placeholders", "controls", "invisible", "composed", "other-script"],
)
def test_names_are_words_and_nothing_else(name: str, shown: str) -> None:
    """Nothing in a name or a reason is markup, a placeholder or a direction; what no font has is a box."""
    made = a_statement([line(3, "adjustment", 5, hour=1, reason=name)], name=name)
    (text,) = texts(statement_pdf.statement_pdf(made))
    assert f"Account {shown} Account number" in text
    assert f"Adjustment – {shown} +0.005" in text
    assert "Page 1 of 1" in text


@pytest.mark.parametrize("name", ["x" * 5000, "深圳" * 2500, "word " * 1000], ids=["letters", "chinese", "words"])
def test_long_names_wrap_and_end(name: str) -> None:
    """A name of thousands of characters is cut to 500, and all of these are inside the page."""
    data = statement_pdf.statement_pdf(a_statement([line(3, "adjustment", 5, hour=1, reason=name)], name=name))
    text = "".join("".join(texts(data)).split())
    assert text.count("…") == 2
    assert text.count(name[0]) >= 900 / (len(set(name)))
    with pypdfium2.PdfDocument(data) as document:
        for page in document:
            for drawn in page.get_objects(filter=[raw.FPDF_PAGEOBJ_TEXT]):
                left, bottom, right, top = drawn.get_bounds()
                assert 40 < left <= right < page.get_width() - 40
                assert 20 < bottom <= top < page.get_height() - 40


def test_long_months_go_on_with_their_heads(language: str) -> None:
    """Hundreds of lines go over several pages, each with the table's head and its own number; no line is lost."""
    lines = [line(day, "adjustment", day, hour=hour, reason="goodwill") for day in range(1, 31) for hour in range(12)]
    made = a_statement(lines)
    pages = texts(statement_pdf.statement_pdf(made, head=HEAD))
    assert len(pages) > 5
    head = {"en": "Date Description Tokens Worth Balance after", "zh_CN": "日期 摘要 Token 折合金额 变动后余额"}[
        language
    ]
    for number, text in enumerate(pages, start=1):
        assert head in text
        number_words = {"en": f"Page {number} of {len(pages)}", "zh_CN": f"第 {number} 页，共 {len(pages)} 页"}
        assert number_words[language] in text
    everything = " ".join(pages)
    assert all(format_tokens(item.balance_mt) in everything for item in ends_of_days(made))
    assert everything.count("goodwill") == 360


def test_an_empty_month(language: str) -> None:
    """Without lines there are the two balances and a sentence, and no table of lines."""
    (text,) = texts(statement_pdf.statement_pdf(a_statement([], opening_mt=12_345)))
    assert text.count("12.345") == 4
    assert {"en": "Nothing was booked in this month.", "zh_CN": "本月没有入账记录。"}[language] in text
    assert {"en": "Description", "zh_CN": "摘要"}[language] not in text


def test_the_ledger_head_is_printed_when_there_is_one(language: str) -> None:
    """The head's number and digest stand at the end; without a head nothing is said of it."""
    words = {"en": "Ledger head at the time of printing: entry 1,234,567", "zh_CN": "打印时的账本末端：第 1,234,567 条"}
    (with_head,) = texts(statement_pdf.statement_pdf(a_statement(), head=HEAD))
    (without,) = texts(statement_pdf.statement_pdf(a_statement()))
    assert words[language] in with_head
    assert HEAD.digest in with_head
    assert "SHA-256" not in without


def test_running_months_and_demonstrations_say_so(language: str) -> None:
    """A month that is not over, and an account that was made up, are marked; others are not."""
    marks = {
        "en": ("The month is not over", "Demonstration account"),
        "zh_CN": ("本月尚未结束", "演示账户"),
    }[language]
    (marked,) = texts(statement_pdf.statement_pdf(a_statement(made_after=timedelta(days=3), is_demo=True)))
    (plain,) = texts(statement_pdf.statement_pdf(a_statement()))
    assert [mark in marked for mark in marks] == [True, True]
    assert [mark in plain for mark in marks] == [False, False]


def test_both_offsets_where_the_clocks_change() -> None:
    """A month in which summer time ends names both offsets of its zone."""
    (text,) = texts(statement_pdf.statement_pdf(a_statement([], zone=ZoneInfo("America/New_York"))))
    assert "America/New_York (UTC-04:00 / UTC-05:00)" in text


def test_something_is_drawn() -> None:
    """Drawn as Chromium does, the page has the wordmark's colours and ink, and white paper at its edges."""
    with pypdfium2.PdfDocument(statement_pdf.statement_pdf(a_statement())) as document:
        picture = document[0].render(scale=1).to_pil().convert("RGB")
    colours = {colour for _count, colour in picture.getcolors(1_000_000)}
    assert {(0x0B, 0x6B, 0x62), (255, 255, 255)} <= colours
    assert picture.crop((0, 0, picture.width, 40)).getcolors() == [(picture.width * 40, (255, 255, 255))]


def test_from_the_ledger_to_paper(any_app: Application, sign_up: Callable[..., User], language: str) -> None:
    """A new account's welcome tokens, through the service into the file, on both databases."""
    set_current(any_app)
    user = sign_up(any_app)
    now = datetime.now(SHANGHAI)
    made = build_statement(any_app, user, now.year, now.month, zone=SHANGHAI)
    (text,) = texts(statement_pdf.statement_pdf(made))
    assert {"en": "Top-up – welcome tokens +20.000", "zh_CN": "充值 – 新用户赠送 Token +20.000"}[language] in text
    assert user.account_id in text
