"""Usage: what was spent on what, day by day, in any selection that its address names, and the CSV of what is shown."""

from collections import Counter
from collections.abc import Mapping
from datetime import date

import streamlit as st

from core.money import format_tokens
from core.services import usage_details, usage_report
from core.services.application import current
from core.usage.forecast import BAND_PERCENT
from ui import charts
from ui.format import local_day, money, time_zone, tokens
from ui.i18n import _, keep_language, ngettext
from ui.job_view import state_words
from ui.navigation import go_to
from ui.session import require_user
from ui.usage_tables import callers_table, days_table, show_table, table_csv
from ui.usage_view import BYS, choose_view, clear_filters

user = require_user()
app = current()
zone = time_zone()
CARD_PX = 167
CLASSES_SHOWN = 15
PLAIN = {"displaylogo": False, "displayModeBar": False}

st.title(_("Usage"))
models = usage_report.used_models(app, user)
if not models:
    st.info(
        _("Nothing has run yet. As soon as you have run a picture, here is what it cost, how long it took and more."),
        icon=":material/monitoring:",
    )
    if st.button(_("Run a picture"), type="primary"):
        go_to("detect")
    st.stop()
callers = usage_report.used_callers(app, user)
view = choose_view(models, callers, zone)
span = view.start, view.end
report = usage_report.report_usage(app, user, *span, zone=zone, which=view.which, by=view.by, before=view.before)
returns = usage_details.report_returns(app, user, *span, zone=zone, which=view.which)
returned_before = usage_details.report_returns(app, user, *view.before, zone=zone, which=view.which)


def change(now: int, before: int) -> str:
    """The change against the period before, in words where there is no percentage."""
    if now == before:
        return _("as before")
    return f"{(now - before) / before:+.0%}" if before else _("none before")


def whole(amount_mt: int) -> str:
    """Tokens that fit a card: exact while they are few, from ten thousand on without decimals."""
    return format_tokens(amount_mt) if amount_mt < 10**7 else format_tokens(amount_mt).partition(".")[0]


def average(amount_mt: int, pictures: int) -> int:
    """Milli-tokens for each picture; 0 without any."""
    return round(amount_mt / pictures) if pictures else 0


def show_card(label: str, value: str, now: int, before: int, series: Mapping[date, int], explanation: str = "") -> None:
    """One figure, its change and its days."""
    st.metric(
        label,
        value,
        change(now, before),
        delta_color="off",
        delta_arrow="auto" if before and now != before else "off",
        chart_data=[series.get(day, 0) for day in report.days],
        chart_type="bar",
        border=True,
        help=explanation or None,
        width=CARD_PX,
    )


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
mean_mt, mean_before_mt = average(totals.amount_mt, totals.charged), average(previous.amount_mt, previous.charged)
# Two rows, as one of eight would break anywhere: what tokens did, and what pictures did.
with st.container(horizontal=True):
    show_card(_("Tokens"), whole(totals.amount_mt), totals.amount_mt, previous.amount_mt, amounts)
    show_card(_("Worth"), money(totals.amount_mt), totals.amount_mt, previous.amount_mt, amounts)
    show_card(
        _("Given back"),
        whole(back_mt),
        back_mt,
        back_before_mt,
        back,
        _("Tokens that were held for pictures that failed or were cancelled. They were never taken."),
    )
    show_card(
        _("Refunded"),
        whole(refunded_mt),
        refunded_mt,
        refunded_before_mt,
        returns.refunded_mt,
        _("Tokens that had been taken and were credited again, by a rule of the price list or by the operator."),
    )
with st.container(horizontal=True):
    show_card(_("Pictures"), f"{totals.images:,}", totals.images, previous.images, images)
    show_card(_("Free pictures"), f"{totals.free:,}", totals.free, previous.free, free)
    show_card(_("Not charged"), f"{totals.failed:,}", totals.failed, previous.failed, failed, _("Failed or cancelled."))
    show_card(
        _("Mean price"),
        format_tokens(mean_mt),
        mean_mt,
        mean_before_mt,
        {day: average(amounts[day], charged[day]) for day in report.days},
        _("Tokens for a charged picture."),
    )

if not totals.images:
    if view.is_filtered:
        st.info(_("Nothing in this period fits these filters."), icon=":material/filter_alt_off:")
        st.button(_("Clear the filters"), on_click=clear_filters, type="primary")
    else:
        st.info(
            _("Nothing ran in this period. Run a picture on the Detect page, or choose a longer period."),
            icon=":material/monitoring:",
        )
    st.stop()

by_words = {"model": _("by model"), "key": _("by API key and person")}
left, right = st.columns([3, 2], vertical_alignment="bottom")
left.subheader(_("Tokens by day"))
right.segmented_control(
    _("Stacked"), BYS, format_func=by_words.__getitem__, required=True, key="usage_by", label_visibility="collapsed"
)
st.plotly_chart(
    charts.tokens_by_day(
        report.days, report.by_day, names=callers, unit=_("tokens"), images=_("pictures"), others=_("others")
    ),
    config=PLAIN,
    key="tokens_by_day",
)

month = usage_details.report_month(app, user, which=view.which)
left, right = st.columns(2)
with left:
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
    elif view.is_filtered:
        notes.append(_("The cap counts the whole account, whatever is selected here."))
    st.caption(" ".join(notes))
found = usage_details.report_details(app, user, *span, zone=zone, which=view.which)
with right:
    st.subheader(_("Hours and weekdays"))
    weekdays = [_("Mon"), _("Tue"), _("Wed"), _("Thu"), _("Fri"), _("Sat"), _("Sun")]
    st.plotly_chart(
        charts.hours(found.hours, weekdays=weekdays, unit=_("pictures"), dark=st.context.theme.type == "dark"),
        config=PLAIN,
        key="hours",
    )
    st.caption(_("Hours of your time zone, {zone}.").format(zone=zone))

left, right = st.columns(2)
with left:
    st.subheader(_("Waiting and model time"))
    timed = report.days[-usage_details.LATENCY_DAYS_MAX :]
    in_timed = sum(images[day] for day in timed)
    measured = sum(one.images for one in found.latencies.values())
    if measured:
        st.plotly_chart(
            charts.latencies(timed, found.latencies, unit="ms", images=_("pictures")),
            config=PLAIN,
            key="latencies",
        )
    st.caption(
        _("Half of a day's pictures took no longer than p50, 95 of 100 no longer than p95, within 6 %.")
        + " "
        + ngettext(
            "{n} picture without a figure (free, given back or older) is left out.",
            "{n} pictures without a figure (free, given back or older) are left out.",
            max(0, in_timed - measured),
        )
        + (
            " " + _("Shown are the last {days} days of the period.").format(days=len(timed))
            if len(timed) < len(report.days)
            else ""
        )
    )
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

st.subheader(_("By day and model") if view.by == "model" else _("By day and API key or person"))
by_day = days_table(report.by_day, returns, view.by, callers)
show_table(by_day, key="days_table")
st.subheader(_("By API key and person"))
show_table(callers_table(usage_report.report_callers(app, user, *span, which=view.which), returns), key="callers_table")
name = f"{view.span.first.isoformat()}-{view.span.last.isoformat()}"
with st.container(horizontal=True):
    st.download_button(
        _("CSV of the days shown"),
        data=keep_language(lambda: table_csv(by_day)),
        file_name=f"usage-days-{name}.csv",
        mime="text/csv",
        icon=":material/download:",
        on_click="ignore",
    )
    st.download_button(
        _("CSV of every picture shown"),
        # Only a click reads the records themselves.
        data=lambda: "".join(usage_report.records_csv(app, user, *span, which=view.which)),
        file_name=f"usage-{name}.csv",
        mime="text/csv",
        icon=":material/download:",
        on_click="ignore",
    )
st.caption(_("Both follow the period and the filters; the address of this page shows the same view to your team."))
