"""How amounts and times are shown."""

from __future__ import annotations

from datetime import UTC, date, datetime, tzinfo
from decimal import Decimal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st
from babel.dates import format_date, format_skeleton, get_datetime_format
from babel.numbers import format_currency, format_decimal
from streamlit.delta_generator import DeltaGenerator

from core.money import format_tokens, from_minor, to_currency
from core.services.application import current
from ui.i18n import _, language


def money(amount_mt: int) -> str:
    """The currency's worth of an amount, such as `¥0.06`."""
    settings = current().settings
    value = to_currency(abs(amount_mt), settings.price_per_token)
    shown = format_decimal(value, "#,##0.00", locale=language())
    return f"{'−' if amount_mt < 0 and value else ''}{settings.currency_symbol}{shown}"


def paid(amount_minor: int, currency: str) -> str:
    """Money that was or is to be paid, in minor units, such as `¥1,000.00`; another currency by its code."""
    settings = current().settings
    own = currency == settings.currency.upper()
    sign = "−" if amount_minor < 0 else ""
    # A pattern without a sign of its own, and as many decimals as the currency has.
    shown = format_currency(from_minor(abs(amount_minor), currency), currency, "#,##0.00", locale=language())
    return f"{sign}{settings.currency_symbol if own else f'{currency} '}{shown}"


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
    """A moment in the reader's time zone and language, such as `Nov 23, 2026, 14:05`."""
    local = moment.astimezone(time_zone())
    joined = str(get_datetime_format("medium", locale=language()))
    return joined.replace("{1}", local_day(local.date())).replace("{0}", f"{local:%H:%M}")


def local_clock(moment: datetime) -> str:
    """The time of day alone, such as `14:05`."""
    return moment.astimezone(time_zone()).strftime("%H:%M")


def local_day(day: date) -> str:
    """A day in the reader's language, such as `Nov 23, 2026`."""
    return format_date(day, locale=language())


def local_month(day: date) -> str:
    """The month of a day in the reader's language, such as `November 2026`."""
    return format_skeleton("yMMMM", day, locale=language())


def table_time(moment: datetime) -> str:
    """A moment in a column, which has to sort: `2026-11-23 14:05` in the reader's time zone."""
    return moment.astimezone(time_zone()).strftime("%Y-%m-%d %H:%M")


def plain(name: str) -> str:
    """A file name as text, whatever Markdown it contains."""
    for character in "\\`*_{}[]()#+!|<>~:$@.":
        name = name.replace(character, f"\\{character}")
    return name


def tile_words(tile_px: int) -> str:
    """Tiles of a size, in words."""
    return _("tiles of {side} × {side} px").format(side=tile_px)


def task_words(task: str) -> str:
    """What a model of a task finds, in words."""
    words = {
        "detect": _("boxes"),
        "segment": _("masks"),
        "pose": _("key points"),
        "obb": _("oriented boxes"),
        "classify": _("classes of whole pictures"),
    }
    return words.get(task, task)
