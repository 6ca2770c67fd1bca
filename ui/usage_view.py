"""Which view of the Usage page is meant: the filters, and the address that says them, so that a link shows the same."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from typing import Any

import streamlit as st

from core.slots import period_of
from core.usage.queries import By, Selection
from core.usage.tables import OUTCOMES
from ui.format import local_day, plain
from ui.i18n import _
from ui.job_view import state_words

PERIODS = ("7", "30", "90", "month", "last_month", "custom")
PERIOD_DEFAULT, BY_DEFAULT = "30", "model"
BYS = ("model", "key")
DAYS_MAX = 366
# Nothing ran before, and offsets of long ago are no whole quarters of an hour.
FIRST_DAY = date(2020, 1, 1)
# The filters by their names in the address.
FILTERS = ("model", "caller", "outcome")
_ARRIVED = "usage_address"


@dataclass(frozen=True, slots=True)
class Span:
    """Whole days `first` … `last`, and those that they are compared with."""

    first: date
    last: date
    before_first: date
    before_last: date


@dataclass(frozen=True, slots=True)
class View:
    """What was chosen, as the services take it."""

    span: Span
    start: datetime
    end: datetime
    before: tuple[datetime, datetime]
    which: Selection
    by: By

    @property
    def is_filtered(self) -> bool:
        """Whether anything is left out of the period."""
        return self.which != Selection()


def find_span(period: str, today: date, custom: tuple[date, date] | None = None) -> Span:
    """The days of a period. Months are compared with the month before, this one with as many days of it."""
    month = today.replace(day=1)
    before = (month - timedelta(days=1)).replace(day=1)
    if period == "month":
        return Span(month, today, before, min(before + (today - month), month - timedelta(days=1)))
    if period == "last_month":
        earlier = before - timedelta(days=1)
        return Span(before, month - timedelta(days=1), earlier.replace(day=1), earlier)
    if period == "custom" and custom:
        first, last = custom
    else:
        first, last = today - timedelta(days=int(period if period.isdigit() else PERIOD_DEFAULT) - 1), today
    return Span(first, last, first - (last - first) - timedelta(days=1), first - timedelta(days=1))


def read_address(
    params: Mapping[str, Sequence[str]], known: Mapping[str, Collection[str]], today: date
) -> tuple[dict[str, Any], list[str]]:
    """The values of the widgets that an address names, and what of it says nothing to this page, as `name=value`.

    `known` has the values that each of `FILTERS` may have.
    """
    values: dict[str, Any] = {"period": PERIOD_DEFAULT, "by": BY_DEFAULT, "custom": find_custom(today)}
    ignored = []
    for name, choices in (("period", PERIODS), ("by", BYS)):
        for text in params.get(name, ())[-1:]:
            if text in choices:
                values[name] = text
            else:
                ignored.append(f"{name}={text}")
    for name in FILTERS:
        wanted = list(dict.fromkeys(params.get(name, ())))
        values[name] = [text for text in wanted if text in known[name]]
        ignored += [f"{name}={text}" for text in wanted if text not in known[name]]
    if values["period"] == "custom":
        texts = [(name, text) for name in ("from", "to") for text in params.get(name, ())[-1:]]
        try:
            first, last = (date.fromisoformat(text) for _name, text in texts)
        except ValueError:
            first, last = today, today - timedelta(days=1)
        if FIRST_DAY <= first <= last <= today and (last - first).days < DAYS_MAX:
            values["custom"] = (first, last)
        else:
            values["period"] = PERIOD_DEFAULT
            ignored += [f"{name}={text}" for name, text in texts] or ["period=custom"]
    return values, ignored


def find_custom(today: date) -> tuple[date, date]:
    """The days that a custom period begins with."""
    return today - timedelta(days=29), today


def choose_view(models: Sequence[str], callers: Mapping[str, str], zone: tzinfo) -> View:
    """Show the filters, with what the address says, and write back what is chosen. May end the run."""
    today = datetime.now(zone).date()
    _take_address(models, callers, today)
    span = _choose_period(today, zone)
    left, middle, right = st.columns(3)
    chosen_models = left.multiselect(_("Models"), models, placeholder=_("All"), key="usage_model")
    chosen_callers = middle.multiselect(
        _("API keys and people"),
        list(callers),
        format_func=lambda actor: callers.get(actor, actor),
        placeholder=_("All"),
        key="usage_caller",
    )
    chosen_outcomes = right.multiselect(
        _("Outcomes"), OUTCOMES, format_func=state_words, placeholder=_("All"), key="usage_outcome"
    )
    _write_address(today)
    return View(
        span,
        *period_of(span.first, span.last, zone),
        before=period_of(span.before_first, span.before_last, zone),
        which=Selection(
            chosen_models or None,
            chosen_callers or None,
            chosen_outcomes or None,
            all_models=models,
            all_actors=callers,
        ),
        by="actor" if st.session_state["usage_by"] == "key" else "model",
    )


def clear_filters() -> None:
    """Everything of the period again."""
    for name in FILTERS:
        st.session_state[f"usage_{name}"] = []


def _choose_period(today: date, zone: tzinfo) -> Span:
    words = {
        "7": _("7 days"),
        "30": _("30 days"),
        "90": _("90 days"),
        "month": _("This month"),
        "last_month": _("Last month"),
        "custom": _("Custom"),
    }
    period = st.segmented_control(
        _("Period"), PERIODS, format_func=words.__getitem__, required=True, key="usage_period"
    )
    custom = None
    if period == "custom":
        chosen = st.date_input(_("From – to"), min_value=FIRST_DAY, max_value=today, key="usage_custom", width=320)
        if len(chosen) != 2:
            st.info(_("Choose the last day too."))
            st.stop()
        custom = chosen
        if (chosen[1] - chosen[0]).days >= DAYS_MAX:
            st.info(_("Choose {days} days at most.").format(days=DAYS_MAX))
            st.stop()
    span = find_span(period, today, custom)
    st.caption(
        _("{first} – {last} ({zone}), compared with {before_first} – {before_last}").format(
            first=local_day(span.first),
            last=local_day(span.last),
            zone=zone,
            before_first=local_day(span.before_first),
            before_last=local_day(span.before_last),
        )
    )
    return span


def _take_address(models: Sequence[str], callers: Mapping[str, str], today: date) -> None:
    """Set the widgets to what the address says, when somebody arrives at it; say what in it says nothing."""
    params = {name: st.query_params.get_all(name) for name in st.query_params}
    arrived, ignored = st.session_state.get(_ARRIVED, (None, []))
    if params != arrived or "usage_period" not in st.session_state:
        known = {"model": models, "caller": callers, "outcome": OUTCOMES}
        values, ignored = read_address(params, known, today)
        for name, value in values.items():
            st.session_state[f"usage_{name}"] = value
    # Widgets that the last run did not show have lost their values.
    st.session_state.setdefault("usage_by", BY_DEFAULT)
    st.session_state.setdefault("usage_custom", find_custom(today))
    st.session_state[_ARRIVED] = (params, ignored)
    if ignored:
        st.warning(
            _("The address says something that this page does not know; it was left out: {what}").format(
                what=plain(", ".join(ignored))[:400]
            ),
            icon=":material/link_off:",
        )


def _write_address(today: date) -> None:
    state = st.session_state
    params: dict[str, list[str]] = {}
    if state["usage_period"] != PERIOD_DEFAULT:
        params["period"] = [state["usage_period"]]
    if state["usage_period"] == "custom":
        params |= {name: [day.isoformat()] for name, day in zip(("from", "to"), state["usage_custom"], strict=True)}
    params |= {name: list(state[f"usage_{name}"]) for name in FILTERS if state[f"usage_{name}"]}
    if state["usage_by"] != BY_DEFAULT:
        params["by"] = [state["usage_by"]]
    arrived, ignored = state[_ARRIVED]
    if params != arrived:
        st.query_params.from_dict(params)
    # What was left out is told until something else is chosen.
    state[_ARRIVED] = (params, ignored if state.get("usage_told") in (None, params) or params == arrived else [])
    state["usage_told"] = params
