"""The cards, charts and tables of the Usage page. Whoever looks again while nothing happened gets what was drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta, tzinfo

import streamlit as st

from core.identity.tables import User
from core.money import format_tokens
from core.services import usage_details, usage_report
from core.services.application import current
from core.services.usage_details import Details, Month, Returns
from core.services.usage_report import CallerReport, UsageReport
from core.usage.forecast import BAND_PERCENT
from ui import charts
from ui.format import local_day, money, tokens
from ui.i18n import _, ngettext
from ui.job_view import state_words
from ui.usage_tables import callers_table, days_table, show_table
from ui.usage_view import View

CARD_PX = 167
CLASSES_SHOWN = 15
PLAIN = {"displaylogo": False, "displayModeBar": False}
# Streamlit keeps them in this process: a month is a hundred kilobytes, a year by fifty API keys some megabytes.
# Each of the four functions below keeps so much.
KEPT_SIZE = "32MB"
KEPT_FOR = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Edition:
    """All that what is drawn depends on: whose it is and in which state, the view of it, and who reads it.

    `version` is `usage_report.report_version`, `callers` is `used_callers`, as pairs.
    """

    account_id: str
    version: str
    view: View
    callers: tuple[tuple[str, str], ...]
    zone: tzinfo
    language: str
    dark: bool


@dataclass(frozen=True, slots=True)
class Figures:
    """What the database says of a view."""

    report: UsageReport
    returns: Returns
    returned_before: Returns
    month: Month
    details: Details
    callers: list[CallerReport]


kept = st.cache_data(max_size=KEPT_SIZE, ttl=KEPT_FOR, show_spinner=False, hash_funcs={Edition: repr})


@kept
def read_figures(edition: Edition, _user: User) -> Figures:
    """What the database says of an edition of this user's account."""
    app, view, zone = current(), edition.view, edition.zone
    span, which = (view.start, view.end), view.which
    return Figures(
        usage_report.report_usage(app, _user, *span, zone=zone, which=which, by=view.by, before=view.before),
        usage_details.report_returns(app, _user, *span, zone=zone, which=which),
        usage_details.report_returns(app, _user, *view.before, zone=zone, which=which),
        usage_details.report_month(app, _user, which=which),
        usage_details.report_details(app, _user, *span, zone=zone, which=which),
        usage_report.report_callers(app, _user, *span, which=which),
    )


@kept
def show_cards(edition: Edition, _figures: Figures) -> None:
    """Two rows of figures, each with its change and its days: what tokens did, and what pictures did."""
    report, returns, returned_before = _figures.report, _figures.returns, _figures.returned_before
    totals, previous = report.totals, report.previous
    amounts, images, free, failed, charged = (Counter[date]() for _series in range(5))
    for item in report.by_day:
        amounts[item.day] += item.amount_mt
        images[item.day] += item.images
        free[item.day] += item.outcomes.get("free", 0)
        charged[item.day] += item.outcomes.get("charged", 0)
        failed[item.day] += item.images - item.outcomes.get("free", 0) - item.outcomes.get("charged", 0)
    back = returns.given_back_by_day
    back_mt, back_before_mt = back.total(), returned_before.given_back_by_day.total()
    refunded_mt, refunded_before_mt = sum(returns.refunded_mt.values()), sum(returned_before.refunded_mt.values())
    mean_mt, mean_before_mt = _average(totals.amount_mt, totals.charged), _average(previous.amount_mt, previous.charged)

    def show(label: str, value: str, now: int, before: int, series: Mapping[date, int], explanation: str = "") -> None:
        st.metric(
            label,
            value,
            _change(now, before),
            delta_color="off",
            delta_arrow="auto" if before and now != before else "off",
            chart_data=[series.get(day, 0) for day in report.days],
            chart_type="bar",
            border=True,
            help=explanation or None,
            width=CARD_PX,
        )

    # One row of eight would break anywhere.
    with st.container(horizontal=True):
        show(_("Tokens"), _whole(totals.amount_mt), totals.amount_mt, previous.amount_mt, amounts)
        show(_("Worth"), money(totals.amount_mt), totals.amount_mt, previous.amount_mt, amounts)
        show(
            _("Given back"),
            _whole(back_mt),
            back_mt,
            back_before_mt,
            back,
            _("Tokens that were held for pictures that failed or were cancelled. They were never taken."),
        )
        show(
            _("Refunded"),
            _whole(refunded_mt),
            refunded_mt,
            refunded_before_mt,
            returns.refunded_mt,
            _("Tokens that had been taken and were credited again, by a rule of the price list or by the operator."),
        )
    with st.container(horizontal=True):
        show(_("Pictures"), f"{totals.images:,}", totals.images, previous.images, images)
        show(_("Free pictures"), f"{totals.free:,}", totals.free, previous.free, free)
        show(_("Not charged"), f"{totals.failed:,}", totals.failed, previous.failed, failed, _("Failed or cancelled."))
        show(
            _("Mean price"),
            format_tokens(mean_mt),
            mean_mt,
            mean_before_mt,
            {day: _average(amounts[day], charged[day]) for day in report.days},
            _("Tokens for a charged picture."),
        )


@kept
def show_charts(edition: Edition, _figures: Figures) -> None:
    """Days, the month and its forecast, hours, times, outcomes, classes."""
    report, found = _figures.report, _figures.details
    st.plotly_chart(
        charts.tokens_by_day(
            report.days,
            report.by_day,
            names=dict(edition.callers),
            unit=_("tokens"),
            images=_("pictures"),
            others=_("others"),
        ),
        config=PLAIN,
        key="tokens_by_day",
    )
    left, right = st.columns(2)
    with left:
        _show_month(_figures.month, is_filtered=edition.view.is_filtered)
    with right:
        st.subheader(_("Hours and weekdays"))
        weekdays = [_("Mon"), _("Tue"), _("Wed"), _("Thu"), _("Fri"), _("Sat"), _("Sun")]
        st.plotly_chart(
            charts.hours(found.hours, weekdays=weekdays, unit=_("pictures"), dark=edition.dark),
            config=PLAIN,
            key="hours",
        )
        st.caption(_("Hours of your time zone, {zone}.").format(zone=edition.zone))
    left, right = st.columns(2)
    with left:
        _show_times(report, found)
    with right:
        st.subheader(_("Outcomes"))
        st.plotly_chart(
            charts.outcomes(report.outcomes, {name: state_words(name) for name in report.outcomes}, unit=_("pictures")),
            config=PLAIN,
            key="outcomes",
        )
    st.subheader(_("Detected classes"))
    if found.classes:
        shown = dict(list(found.classes.items())[:CLASSES_SHOWN])
        if len(found.classes) > len(shown):
            shown[_("others")] = sum(found.classes.values()) - sum(shown.values())
        st.plotly_chart(charts.classes(shown, unit=_("objects")), config=PLAIN, key="classes")
        st.caption(_("Objects in charged pictures with a confidence of 0.25 or more."))
    else:
        st.caption(_("No objects were found in charged pictures of this selection."))


@kept
def show_tables(edition: Edition, _figures: Figures) -> None:
    """The same as rows: days, and who asked."""
    by, names = edition.view.by, dict(edition.callers)
    st.subheader(_("By day and model") if by == "model" else _("By day and API key or person"))
    show_table(days_table(_figures.report.by_day, _figures.returns, by, names), key="days_table")
    st.subheader(_("By API key and person"))
    show_table(callers_table(_figures.callers, _figures.returns), key="callers_table")


def _show_month(month: Month, *, is_filtered: bool) -> None:
    st.subheader(_("This month"))
    st.plotly_chart(
        charts.month(
            month,
            words={
                "used": _("used"),
                "forecast": _("forecast"),
                "band": _("{percent} % band").format(percent=BAND_PERCENT),
                "cap": _("cap a month"),
                "unit": _("tokens"),
            },
        ),
        config=PLAIN,
        key="month",
    )
    notes = []
    if month.forecast is None:
        notes.append(_("A forecast needs 14 full days since the first use; there are not that many yet."))
    else:
        notes.append(
            _(
                "Forecast for the month's end: {expected}, between {low} and {high} with a chance of {percent} %. Each "
                "day to come counts as the mean of its weekday in the last {days} full days; the band is how far those "
                "days strayed from it."
            ).format(
                expected=tokens(month.forecast.expected_mt[-1]),
                low=tokens(month.forecast.low_mt[-1]),
                high=tokens(month.forecast.high_mt[-1]),
                percent=BAND_PERCENT,
                days=month.forecast.history_days,
            )
        )
        if month.cap_mt is not None and (day := month.forecast.first_day_at(month.cap_mt)):
            notes.append(_("At this pace the cap is reached on {day}.").format(day=local_day(day)))
    if month.cap_mt is None:
        notes.append(_("The account has no cap a month."))
    elif is_filtered:
        notes.append(_("The cap counts the whole account, whatever is selected here."))
    st.caption(" ".join(notes))


def _show_times(report: UsageReport, found: Details) -> None:
    st.subheader(_("Waiting and model time"))
    timed = report.days[-usage_details.LATENCY_DAYS_MAX :]
    in_timed = sum(item.images for item in report.by_day if item.day >= timed[0])
    measured = sum(one.images for one in found.latencies.values())
    if measured:
        st.plotly_chart(
            charts.latencies(timed, found.latencies, unit="ms", images=_("pictures")),
            config=PLAIN,
            key="latencies",
        )
    st.caption(
        _("Half of a day's pictures took no longer than p50, 95 of 100 no longer than p95, within 6 %.")
        + (
            " "
            + ngettext(
                "{n} picture without a figure (free, given back or older) is left out.",
                "{n} pictures without a figure (free, given back or older) are left out.",
                in_timed - measured,
            )
            if in_timed > measured
            else ""
        )
        + (
            " " + _("Shown are the last {days} days of the period.").format(days=len(timed))
            if len(timed) < len(report.days)
            else ""
        )
    )


def _change(now: int, before: int) -> str:
    """The change against the period before, in words where there is no percentage."""
    if now == before:
        return _("as before")
    return f"{(now - before) / before:+.0%}" if before else _("none before")


def _whole(amount_mt: int) -> str:
    """Tokens that fit a card: exact while they are few, from ten thousand on without decimals."""
    return format_tokens(amount_mt) if amount_mt < 10**7 else format_tokens(amount_mt).partition(".")[0]


def _average(amount_mt: int, pictures: int) -> int:
    """Milli-tokens for each picture; 0 without any."""
    return round(amount_mt / pictures) if pictures else 0
