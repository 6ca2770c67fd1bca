"""The portal speaks English and 简体中文, wholly."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.extract import extract
from babel.messages.pofile import read_po

import core.errors
from core.errors import InsufficientTokensError, VisionMeterError
from core.inference.registry import Registry
from core.services.run_image import FIRST_ATTEMPT_FAILED
from tests.ui.source import FILES, ROOT, MessageId, bare_literals, computed_messages, messages
from ui import i18n
from ui.messages import explain, explain_code, known_codes

PO = ROOT / "ui" / "locales" / "zh_CN" / "visionmeter.po"

# Messages that are the same in both languages.
SAME_IN_CHINESE = {"VIP": "the Chinese say it, too"}

# Messages that the code computes; each is covered by a test of its own.
# The second is a dictionary of marked words.
COMPUTED = {"ready[name].classes", "KIND_WORDS[kind]", "TITLES[name]"}

# Literals that people read and that are not translated.
BARE = {
    "https://": "how an address begins",
    "VisionMeter": "the name of the product",
    "Language · 语言": "the name of the language switch, in both languages at once",
    "ABCD-EFGH-JKMN-PQRS": "the shape of a voucher code",
    "VM-7K3Q-9DHF": "the shape of a payment's reference",
    "PNG": "the name of a format",
    "JSON": "the name of a format",
    "PDF": "the name of a format",
    "CSV": "the name of a format",
    "SHA-256": "the name of a digest",
    "α": "the sign in the formula",
    "β": "the sign in the formula",
    "rcpt_… / hold_…": "the shape of a receipt's and a hold's number",
    "x1": "the name of the field in the JSON, as of the next three",
    "y1": "see x1",
    "x2": "see x1",
    "y2": "see x1",
}

# Words that must be chosen alike everywhere: where the English has the one, the Chinese has the other.
GLOSSARY = {
    r"\btokens?\b": "Token",
    r"\bvouchers?\b": "兑换码",
    r"\breceipt\b": "收据",
    r"\bheld\b|, holds\b": "预占",
    r"\bgiven back\b": "已退回",
    r"\btop[ -]ups?\b": "充值",
    r"\bbalance\b": "余额",
    r"\bnetwork input\b": "网络输入",
    r"\b(?:pictures?|photographs?)\b": "图片",
    r"\boperator\b": "运营方",
}
NEVER_IN_THE_PORTAL = {
    "error": "the base class; nothing raises it",
    "image_refused": "the base class of the refusals; each refusal has its own code",
    "charge_key_taken": "submit_quote turns it into a picture that waits for the first one",
    "oidc_refused": "the address of the sign-in page carries its reason, which ui/oidc.py has words for",
    "second_factor_needed": "the portal asks for the code instead",
    "unauthorized": "the portal shows its sign-in page instead",
    "calibration_refused": "an operator's command",
    "quantization_refused": "an operator's command",
    "backup_refused": "an operator's command",
    "config": "stops the start, before there is a portal",
    "invalid_request": "a program's body or parameters; the portal has widgets",
    "request_too_large": "a program's body; the portal's uploader has its own limit",
    "request_too_slow": "a program's body",
    "unsupported_body": "a program's body",
    "rate_limited": "limits for programs",
    "too_many_stored_pictures": "only programs let pictures wait with a quote",
    "bad_signature": "a message of Stripe's",
    "delivery_not_found": "only programs look at webhook messages",
    "result_not_found": "the portal reads results through their run",
    "key_model_not_allowed": "a limit of an API key",
    "key_network_not_allowed": "a limit of an API key",
    "key_may_not": "a limit of an API key",
}
# Codes without a class, which a run stores.
STORED_ONLY = {"internal", "restart", FIRST_ATTEMPT_FAILED}


def catalogue() -> Catalog:
    """The Chinese catalogue as it is in the repository."""
    with PO.open("rb") as file:
        return read_po(file, locale="zh_CN", abort_invalid=True)


def in_code() -> dict[MessageId, str]:
    """Every message of the portal with a file that has it."""
    return {message: str(file.relative_to(ROOT)) for file in FILES for message in messages(file.read_text("utf-8"))}


def parts(text: MessageId) -> tuple[str, ...]:
    """A message or its forms, as a tuple."""
    return (text,) if isinstance(text, str) else tuple(text)


def placeholders(text: str) -> list[str]:
    """The fields of a format string, sorted."""
    return sorted(name for _text, name, _spec, _conversion in string.Formatter().parse(text) if name is not None)


def faults(wanted: Iterable[MessageId], chinese: Catalog) -> Iterator[str]:
    """What is wrong with the translation of these messages, each fault with its message."""
    for message in wanted:
        entry = chinese.get(parts(message)[0])
        if entry is None or parts(entry.id) != parts(message):
            yield f"missing: {message}"
            continue
        translated = parts(entry.string)
        if len(translated) != 1 or not all(translated):
            yield f"empty: {message}"
            continue
        if entry.fuzzy:
            yield f"fuzzy: {message}"
        if translated[0] in parts(message) and translated[0] not in SAME_IN_CHINESE:
            yield f"English: {message}"
        if placeholders(translated[0]) != placeholders(parts(message)[-1]):
            yield f"placeholders: {message}"


# The catalogue -------------------------------------------------------------------------------------


def test_every_message_is_translated() -> None:
    """Each message of the code has a Chinese text that is not empty, not fuzzy and keeps the placeholders."""
    assert list(faults(in_code(), catalogue())) == []


def test_nothing_is_left_over() -> None:
    """The catalogue has no message that the code does not have, and keeps no obsolete ones."""
    chinese = catalogue()
    assert {parts(entry.id) for entry in chinese if entry.id} == {parts(message) for message in in_code()}
    assert not chinese.obsolete


def test_header() -> None:
    """The header says Chinese, one plural form, UTF-8."""
    chinese = catalogue()
    assert chinese.locale_identifier == "zh_CN"
    assert chinese.num_plurals == 1
    assert chinese.charset == "utf-8"
    assert not chinese.fuzzy
    assert '"Language: zh_CN\\n"' in PO.read_text("utf-8")
    assert '"Plural-Forms: nplurals=1; plural=0;\\n"' in PO.read_text("utf-8")


def test_babel_finds_nothing_more() -> None:
    """Our extractor finds everything that Babel's does, and the messages inside f-strings besides."""
    ours = in_code()
    for file in FILES:
        with file.open("rb") as source:
            for _line, message, _comments, _context in extract(
                "python", source, keywords={"_": None, "N_": None, "ngettext": (1, 2)}
            ):
                assert message in ours
    assert list(messages("""f"{_('in an f-string')}" """)) == ["in an f-string"]


def test_words_are_chosen_alike() -> None:
    """One Chinese word for each idea, wherever the English names it."""
    for entry in catalogue():
        if entry.id:
            for english, chinese in GLOSSARY.items():
                if re.search(english, parts(entry.id)[0], re.IGNORECASE):
                    assert chinese in parts(entry.string)[0], entry.id


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("_('No such words anywhere')", "missing: No such words anywhere"),
        ("f'**{_(\"Not in the catalogue\")}**'", "missing: Not in the catalogue"),
        ("ngettext('{n} cat', '{n} cats', 2)", "missing: ('{n} cat', '{n} cats')"),
        ("N_('Marked, not translated')", "missing: Marked, not translated"),
        ("_('Empty')", "empty: Empty"),
        ("_('Doubtful')", "fuzzy: Doubtful"),
        ("_('Still English')", "English: Still English"),
        ("_('Costs {amount}')", "placeholders: Costs {amount}"),
        ("_('Fine')", None),
    ],
)
def test_the_check_reports(source: str, fault: str | None) -> None:
    """The check is no rubber stamp: each kind of fault is found in a source text made to have it."""
    chinese = Catalog(locale="zh_CN")
    chinese.add("Empty", "")
    chinese.add("Doubtful", "存疑", flags=["fuzzy"])
    chinese.add("Still English", "Still English")
    chinese.add("Costs {amount}", "价格 {sum}")
    chinese.add("Fine", "好")
    assert list(faults(messages(source), chinese)) == ([fault] if fault else [])


# The code ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_is_shown_untranslated(file: Path) -> None:
    """No words reach a widget without `_()`, except the listed ones."""
    assert [text for text in bare_literals(file.read_text("utf-8")) if text not in BARE] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("st.title('Hello')", ["Hello"]),
        ("left.metric('Sum', 3)", ["Sum"]),
        ("st.caption(f'{amount} left')", [" left"]),
        ("st.text_input(_('Code'), help='Type it')", ["Type it"]),
        ("st.tabs([_('One'), 'Two'])", ["Two"]),
        ("st.dataframe([{'Day': day, _('Sum'): 'x'} for day in days])", ["Day"]),
        ("st.caption(_('Free') + ' of charge')", [" of charge"]),
        ("st.error('No' if bad else _('Yes'))", ["No"]),
        ("st.info('Up to {n}'.format(n=3))", ["Up to {n}"]),
        ("show_amount(place, 'Total', 3)", ["Total"]),
        ("st.Page(ROOT / 'pages' / file, title='Home')", ["Home"]),
        ("log.error('for the operator')", []),
        ("st.caption(f'{_(\"Free\")} · {width} × {height} px')", []),
        ("st.markdown(f':green-badge[{_(\"free\")}]')", []),
    ],
)
def test_the_literal_check_reports(source: str, found: list[str]) -> None:
    """The check of literals finds bare words in every place it claims to look at, and no punctuation."""
    assert list(bare_literals(source)) == found


def test_computed_messages_are_known() -> None:
    """`_()` gets literals, except where a test of its own covers what is computed."""
    assert {text for file in FILES for text in computed_messages(file.read_text("utf-8"))} <= COMPUTED


def test_classes_of_every_model_are_translated(tmp_path: Path) -> None:
    """What the catalogue of models says of classes is in the Chinese catalogue."""
    assert list(faults({model.classes for model in Registry(tmp_path).models()}, catalogue())) == []


# Errors --------------------------------------------------------------------------------------------


def error_codes() -> set[str]:
    """The codes of all classes in `core.errors`."""
    return {
        value.code
        for value in vars(core.errors).values()
        if isinstance(value, type) and issubclass(value, VisionMeterError)
    }


def test_every_error_code_has_words() -> None:
    """Each code that a person can meet in the portal has words; each other code is listed with its reason."""
    assert (error_codes() | STORED_ONLY) - known_codes() == set(NEVER_IN_THE_PORTAL)
    assert known_codes() <= error_codes() | STORED_ONLY, "words for a code that nothing raises"


@pytest.mark.parametrize("language", ["en", "zh_CN"])
@pytest.mark.parametrize(
    "code",
    sorted(
        {
            *STORED_ONLY,
            *(code for code in error_codes() if code.startswith(("image_", "model_", "engine_", "weights_"))),
            "inference_failed",
            "account_not_active",
            "invalid_amount",
        }
        - set(NEVER_IN_THE_PORTAL)
    ),
)
def test_stored_codes_need_no_details(code: str, language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run stores only the code of a failure: its words are complete without the error's details."""
    monkeypatch.setattr(i18n, "language", lambda: language)
    words = explain_code(code)
    assert words
    assert not placeholders(words)
    assert (re.search(r"[\u4e00-\u9fff]", words) is not None) == (language == "zh_CN")


def test_errors_are_explained_in_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error's numbers stand in the Chinese words."""
    monkeypatch.setattr(i18n, "language", lambda: "zh_CN")
    assert explain(InsufficientTokensError(required_mt=5625, available_mt=1000)) == (
        "本次运行需要 5.625 Token，可用余额为 1.000 Token。请充值 4.625 Token 后重新运行。未扣费。"
    )


# At run time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("language", "expected"), [("en", ["Detect", "1 picture", "1,234 pictures"]),
                                                    ("zh_CN", ["检测", "1 张图片", "1,234 张图片"])])  # fmt: skip
def test_the_portal_reads_the_catalogue(language: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`_()` and `ngettext()` answer in the session's language from the file in the repository."""
    monkeypatch.setattr(i18n, "language", lambda: language)
    plural = ("{n} picture", "{n} pictures")
    assert [i18n._("Detect"), i18n.ngettext(*plural, 1), i18n.ngettext(*plural, 1234)] == expected
