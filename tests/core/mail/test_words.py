"""What mails say, in both languages."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from babel.messages.extract import extract_from_file
from babel.messages.pofile import read_po

from core.mail import words

FACTS = {
    "email": "ann@example.com",
    "link": "https://vision.example.com/?x=1",
    "forgotten_link": "https://vision.example.com/?forgotten=1",
    "threshold": "5.000",
    "balance": "4.500",
    "limits_link": "https://vision.example.com/account",
}


def placeholders(text: str) -> set[str]:
    """The fields of a format string."""
    return {name for _text, name, _spec, _conversion in string.Formatter().parse(text) if name is not None}


def test_every_sentence_is_translated() -> None:
    """The Chinese catalogue has every sentence of the code and no other, with the same placeholders."""
    spoken = {found[1] for found in extract_from_file("python", Path(words.__file__).as_posix())}
    with (words.LOCALES / "zh_CN" / "mail.po").open("rb") as file:
        chinese = {entry.id: entry for entry in read_po(file, locale="zh_CN", abort_invalid=True) if entry.id}
    assert spoken == set(chinese)
    assert len(spoken) > 10
    for english, entry in chinese.items():
        assert entry.string
        assert entry.string != english
        assert not entry.fuzzy
        assert placeholders(entry.string) == placeholders(english)


@pytest.mark.parametrize("kind", ["confirm", "sign_up", "taken", "taken_without_password", "reset", "low_balance"])
def test_a_mail_names_what_it_is_about(kind: str) -> None:
    """Each language has its words, one line of subject, and the link on a line of its own."""
    english, chinese = (words.write(kind, language, FACTS) for language in ("en", "zh_CN"))
    assert english.subject != chinese.subject
    for one in (english, chinese):
        assert "\n" not in one.subject
        assert FACTS["link"] in one.text.split("\n")
        assert "{" not in one.text
    assert words.write(kind, "../zh_CN", FACTS) == english


def test_an_address_is_no_pattern() -> None:
    """Braces in an address stay braces."""
    assert "{0}@example.com" in words.write("confirm", "en", {**FACTS, "email": "{0}@example.com"}).text
