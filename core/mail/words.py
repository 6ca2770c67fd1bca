"""What each kind of mail says, in the language of whoever gets it. Plain text; no picture that reports its reader."""

from __future__ import annotations

import gettext
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from core.catalogue import load_catalogue

LOCALES = Path(__file__).with_name("locales")

_Say = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Words:
    """A subject of one line, and the text below it."""

    subject: str
    text: str


def write(kind: str, language: str, facts: Mapping[str, str]) -> Words:
    """The words of a kind of mail. `facts` are what it names: `email`, `link` and so on, as they are to be read."""
    say = _catalogue(language).gettext
    subject, paragraphs = _KINDS[kind](say)
    text = "\n\n".join(paragraph.format_map(facts) for paragraph in paragraphs)
    return Words(subject, text + "\n")


def _confirm(_: _Say) -> tuple[str, list[str]]:
    return _("Confirm your address"), [
        _("An account of VisionMeter was opened with this address, {email}."),
        _("Open this link, on any device, to confirm that it is yours:"),
        "{link}",
        _("The link works once, for three days. If tokens are given to new accounts, they come with it."),
        _("If you opened no account, do nothing: nobody can confirm it without this mail."),
    ]


def _sign_up(_: _Say) -> tuple[str, list[str]]:
    return _("Open your account"), [
        _("Somebody asked for an account of VisionMeter with this address, {email}."),
        _("If it was you, open this link, on any device, and choose a password:"),
        "{link}",
        _("The link works once, for three days. If tokens are given to new accounts, they come with it."),
        _("If it was not you, do nothing: there is no account, and nobody can open one without this mail."),
    ]


def _taken(_: _Say) -> tuple[str, list[str]]:
    subject, paragraphs = _taken_without_password(_)
    forgotten = [_("Forgotten your password? Choose a new one here:"), "{forgotten_link}"]
    return subject, [*paragraphs[:-1], *forgotten, paragraphs[-1]]


def _taken_without_password(_: _Say) -> tuple[str, list[str]]:
    return _("You have an account already"), [
        _("Somebody asked for an account of VisionMeter with this address, {email}, which has one already."),
        _("If it was you, sign in here:"),
        "{link}",
        _("If it was not you, do nothing: your account is as it was, and nobody was told that it is there."),
    ]


def _reset(_: _Say) -> tuple[str, list[str]]:
    return _("Choose a new password"), [
        _("Somebody asked for a new password of the account of {email} at VisionMeter."),
        _("If it was you, open this link and choose one:"),
        "{link}",
        _("The link works once, for one hour. With the new password you are signed out everywhere."),
        _("If it was not you, do nothing: your password stays as it is."),
    ]


def _low_balance(_: _Say) -> tuple[str, list[str]]:
    return _("The balance is low"), [
        _("The balance of your account at VisionMeter fell below {threshold} tokens: {balance} tokens were left."),
        _("When it is used up, nothing runs any more. Top up here:"),
        "{link}",
        _("You get one such mail each time the balance falls below your threshold. Change it or end it here:"),
        "{limits_link}",
    ]


_KINDS: Mapping[str, Callable[[_Say], tuple[str, list[str]]]] = {
    "confirm": _confirm,
    "sign_up": _sign_up,
    "taken": _taken,
    "taken_without_password": _taken_without_password,
    "reset": _reset,
    "low_balance": _low_balance,
}


@cache
def _catalogue(language: str) -> gettext.NullTranslations:
    # A language comes from a user's row.
    if not language.isidentifier():
        return gettext.NullTranslations()
    return load_catalogue(LOCALES / language / "mail.po", language)
