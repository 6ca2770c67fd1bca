"""The tables of the Usage page, each with its totals on top, and their CSV."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date

import pandas as pd
import streamlit as st

from core.csv_text import plain_cell
from core.money import from_millitokens
from core.services.usage_details import Returns
from core.services.usage_report import CallerReport
from core.usage.queries import By, DayUsage
from ui.i18n import _

ROWS_SHOWN = 11


def days_table(usage: Sequence[DayUsage], returns: Returns, by: By, names: Mapping[str, str]) -> pd.DataFrame:
    """A row for each day and model or caller, the newest first, below their totals."""
    given_back: Counter[tuple[date, str]] = Counter()
    for day, model, actor, amount_mt in returns.given_back_mt:
        given_back[day, model if by == "model" else actor] += amount_mt
    rows = [
        [
            one.day.isoformat(),
            names.get(one.group, one.group),
            *_sums(
                one.amount_mt,
                given_back[one.day, one.group],
                one.images,
                one.outcomes.get("charged", 0),
                one.outcomes.get("free", 0),
            ),
        ]
        for one in sorted(usage, key=lambda one: (-one.day.toordinal(), one.group))
    ]
    return _with_totals([_("Day"), _("Model") if by == "model" else _("API key or person")], rows, _amounts())


def callers_table(callers: Sequence[CallerReport], returns: Returns) -> pd.DataFrame:
    """A row for each API key and person, below their totals."""
    given_back: Counter[str] = Counter()
    for _day, _model, actor, amount_mt in returns.given_back_mt:
        given_back[actor] += amount_mt
    rows = [
        [
            one.words,
            *_sums(
                one.totals.amount_mt,
                given_back[one.actor],
                one.totals.images,
                one.totals.charged,
                one.totals.free,
            ),
        ]
        for one in callers
    ]
    return _with_totals([_("API key or person")], rows, _amounts())


def show_table(table: pd.DataFrame, *, key: str) -> None:
    """The table with its totals in bold."""
    bold = table.style.map(lambda _cell: "font-weight: 700", subset=pd.IndexSlice[[0], :])
    tokens, counts = _amounts()[:2], _amounts()[2:]
    st.dataframe(
        bold.format(dict.fromkeys(tokens, "{:,.3f}") | dict.fromkeys(counts, "{:,}")),
        hide_index=True,
        height="auto" if len(table) < ROWS_SHOWN else 400,
        column_config={name: st.column_config.NumberColumn(width="small") for name in counts},
        key=key,
    )


def table_csv(table: pd.DataFrame) -> str:
    """A table as it is shown, tokens with three decimals; names cannot begin a formula."""
    guarded = table.map(lambda value: plain_cell(value) if isinstance(value, str) else value)
    return guarded.to_csv(index=False, float_format="%.3f", lineterminator="\n")


def _amounts() -> list[str]:
    return [_("Tokens"), _("Tokens given back"), _("Pictures"), _("Charged"), _("Free"), _("Not charged")]


def _sums(amount_mt: int, given_back_mt: int, images: int, charged: int, free: int) -> tuple[float | int, ...]:
    return _tokens(amount_mt), _tokens(given_back_mt), images, charged, free, images - charged - free


def _tokens(amount_mt: int) -> float:
    return float(from_millitokens(amount_mt))


def _with_totals(labels: list[str], rows: list[list[object]], amounts: list[str]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=[*labels, *amounts])
    totals = [_("Total"), *["" for _label in labels[1:]], *(table[name].sum().item() for name in amounts)]
    return pd.concat([pd.DataFrame([totals], columns=table.columns), table], ignore_index=True)
