"""How amounts and times are shown."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.money import format_tokens, to_currency
from core.services.application import current
from ui.i18n import _


def money(amount_mt: int) -> str:
    """The currency's worth of an amount, such as `¥0.06`."""
    settings = current().settings
    value = to_currency(abs(amount_mt), settings.price_per_token)
    return f"{'−' if amount_mt < 0 and value else ''}{settings.currency_symbol}{value:,.2f}"


def tokens(amount_mt: int) -> str:
    """An amount in tokens with its unit, such as `5.625 tokens`."""
    return _("{amount} tokens").format(amount=format_tokens(amount_mt))


def tokens_and_money(amount_mt: int) -> str:
    """Tokens and money together, such as `5.625 tokens · ¥0.06`."""
    return f"{tokens(amount_mt)} · {money(amount_mt)}"


def percent(value: Decimal) -> str:
    """A percentage without idle zeros, such as `7.5 %`, which no line break parts."""
    return f"{value.normalize():f}\N{NO-BREAK SPACE}%"


def share(value: Decimal) -> str:
    """A share of a whole in percent with one decimal; what is neither all nor nothing never reads as 100 or 0."""
    rounded = value.quantize(Decimal("0.1"))
    if value < 100 <= rounded:
        rounded = Decimal("99.9")
    elif value > 0 >= rounded:
        rounded = Decimal("0.1")
    return percent(rounded)


def show_amount(place: DeltaGenerator, label: str, amount_mt: int) -> None:
    """An amount as a metric: tokens large, what they are worth below."""
    place.metric(label, tokens(amount_mt), delta=money(amount_mt), delta_color="off", delta_arrow="off")


def time_zone() -> tzinfo:
    """The reader's time zone: the one that he chose, else as his browser names it, else UTC."""
    try:
        return ZoneInfo(st.session_state.get("time_zone") or st.context.timezone or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        return UTC


def local_time(moment: datetime) -> str:
    """A moment in the reader's time zone, such as `2026-11-23 14:05`."""
    return moment.astimezone(time_zone()).strftime("%Y-%m-%d %H:%M")


def plain(name: str) -> str:
    """A file name as text, whatever Markdown it contains."""
    for character in "\\`*_{}[]()#+!|<>~:$@.":
        name = name.replace(character, f"\\{character}")
    return name


def task_words(task: str) -> str:
    """What a model of a task finds, in words."""
    words = {
        "detect": _("boxes"),
        "segment": _("masks"),
        "pose": _("key points"),
        "obb": _("oriented boxes"),
    }
    return words.get(task, task)
