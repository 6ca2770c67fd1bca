"""Usage: what was spent on what, day by day, and the CSV of exactly what is shown."""

from datetime import datetime, time, timedelta

import streamlit as st

from core.money import format_tokens
from core.services import usage_report
from core.services.application import current
from ui import charts
from ui.format import money, time_zone
from ui.i18n import _
from ui.job_view import state_words
from ui.session import require_user

user = require_user()
app = current()
zone = time_zone()
CARD_PX = 150

st.title(_("Usage"))
PERIODS = {"7": _("7 days"), "30": _("30 days"), "90": _("90 days"), "custom": _("Custom")}
left, right = st.columns([2, 1], vertical_alignment="bottom")
with left:
    period = st.segmented_control(
        _("Period"), list(PERIODS), format_func=PERIODS.__getitem__, default="30", required=True, key="period"
    )
today = datetime.now(zone).date()
first, last = today - timedelta(days=int(period) - 1 if period != "custom" else 29), today
if period == "custom":
    chosen = right.date_input(_("From – to"), (first, last), max_value=today, key="custom_period")
    if len(chosen) != 2:
        st.info(_("Choose the last day too."))
        st.stop()
    first, last = chosen
else:
    right.caption(f"{first.isoformat()} – {last.isoformat()} ({zone})")
start = datetime.combine(first, time.min, tzinfo=zone)
end = datetime.combine(last + timedelta(days=1), time.min, tzinfo=zone)

models = usage_report.used_models(app, user)
chosen_models = (
    st.pills(_("Models"), models, selection_mode="multi", default=models, key="usage_models") if models else []
)
shown = chosen_models if set(chosen_models) != set(models) else None
report = usage_report.report_usage(app, user, start, end, zone=zone, models=shown)


def change(now: int, before: int) -> str | None:
    """The change against the period before, in per cent; None when there was nothing before."""
    return None if before == 0 else f"{(now - before) / before:+.0%}"


totals, previous = report.totals, report.previous
CARDS = (
    (_("Tokens"), format_tokens(totals.amount_mt), change(totals.amount_mt, previous.amount_mt)),
    (_("Worth"), money(totals.amount_mt), change(totals.amount_mt, previous.amount_mt)),
    (_("Pictures"), f"{totals.images:,}", change(totals.images, previous.images)),
    (_("Free pictures"), f"{totals.free:,}", change(totals.free, previous.free)),
    (_("Given back"), f"{totals.failed:,}", change(totals.failed, previous.failed)),
)
with st.container(horizontal=True):
    for label, value, delta in CARDS:
        st.metric(label, value, delta, delta_color="off", width=CARD_PX)

if not report.totals.images:
    st.info(
        _("Nothing ran in this period. Run a picture on the Detect page, or choose a longer period."),
        icon=":material/monitoring:",
    )
    st.stop()

st.subheader(_("Tokens by day"))
st.plotly_chart(
    charts.tokens_by_day(report.days, report.by_day, unit=_("tokens"), images=_("pictures")),
    width="stretch",
    config={"displaylogo": False, "displayModeBar": False},
    key="tokens_by_day",
)
left, right = st.columns(2)
with left:
    st.subheader(_("Outcomes"))
    st.plotly_chart(
        charts.outcomes(report.outcomes, {name: state_words(name) for name in report.outcomes}, unit=_("pictures")),
        width="stretch",
        config={"displaylogo": False, "displayModeBar": False},
        key="outcomes",
    )
with right:
    st.subheader(_("By day and model"))
    st.dataframe(
        [
            {
                _("Day"): item.day.isoformat(),
                _("Model"): item.model,
                _("Pictures"): item.images,
                _("Tokens"): format_tokens(item.amount_mt),
            }
            for item in reversed(report.by_day)
        ],
        hide_index=True,
        height=320,
    )
st.subheader(_("By API key and person"))
st.dataframe(
    [
        {
            _("API key or person"): caller.words,
            _("Pictures"): caller.totals.images,
            _("Free pictures"): caller.totals.free,
            _("Given back"): caller.totals.failed,
            _("Tokens"): format_tokens(caller.totals.amount_mt),
        }
        for caller in usage_report.report_callers(app, user, start, end, models=shown)
    ],
    hide_index=True,
)
st.download_button(
    _("CSV of what is shown"),
    # Only a click reads the records themselves.
    data=lambda: "".join(usage_report.records_csv(app, user, start, end, models=shown)),
    file_name=f"usage-{first.isoformat()}-{last.isoformat()}.csv",
    mime="text/csv",
    icon=":material/download:",
    on_click="ignore",
)
