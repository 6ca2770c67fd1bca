"""English and 简体中文 through gettext catalogues, which are read from their `.po` files at start."""

from __future__ import annotations

import gettext
from collections.abc import Callable
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import TypeVar

import streamlit as st

from core.catalogue import load_catalogue

LOCALES = Path(__file__).with_name("locales")
LANGUAGES = {"en": "English", "zh_CN": "简体中文"}
LANGUAGE_COOKIE = "visionmeter_language"

Made = TypeVar("Made")
_kept: ContextVar[str | None] = ContextVar("language", default=None)


@cache
def _catalogue(language: str) -> gettext.NullTranslations:
    return load_catalogue(LOCALES / language / "visionmeter.po", language)


def language() -> str:
    """The language of this session: `en` or `zh_CN`."""
    return _kept.get() or str(st.session_state.get("language", "en"))


def keep_language(make: Callable[[], Made]) -> Callable[[], Made]:
    """The same function for later, in today's language: Streamlit makes a download without the session's state."""
    chosen = language()

    def make_in_language() -> Made:
        token = _kept.set(chosen)
        try:
            return make()
        finally:
            _kept.reset(token)

    return make_in_language


def guess_language() -> str:
    """The language of the cookie, else of the browser, else English."""
    remembered = st.context.cookies.get(LANGUAGE_COOKIE)
    if remembered in LANGUAGES:
        return str(remembered)
    return "zh_CN" if (st.context.locale or "").lower().startswith("zh") else "en"


def _(message: str) -> str:
    """A message in the session's language."""
    return _catalogue(language()).gettext(message)


def N_(message: str) -> str:  # noqa: N802  # the name that gettext tools look for
    """Mark a message for the catalogue that is translated where it is shown."""
    return message


# What the model catalogue says of classes.
MODEL_CLASSES = (
    N_("people, as Normal or Fall"),
    N_("80 COCO classes"),
    N_("people with 17 key points"),
    N_("15 DOTA classes"),
    N_("1000 ImageNet classes"),
)


def ngettext(singular: str, plural: str, count: int) -> str:
    """A message that depends on a number, in the session's language, with `{n}` filled in."""
    return _catalogue(language()).ngettext(singular, plural, count).format(n=f"{count:,}")
