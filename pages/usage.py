"""Usage: what was spent on what, day by day, in any selection that its address names, and the CSV of what is shown."""

import streamlit as st

from core.services import usage_report
from core.services.application import current
from ui.format import time_zone
from ui.i18n import _, keep_language, language
from ui.navigation import go_to
from ui.session import require_user
from ui.usage_figures import Edition, read_figures, show_cards, show_charts, show_tables
from ui.usage_tables import days_table, table_csv
from ui.usage_view import BYS, choose_view, clear_filters

user = require_user()
app = current()
zone = time_zone()

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
edition = Edition(
    account_id=user.account_id,
    version=usage_report.report_version(app, user, models),
    view=view,
    callers=tuple(callers.items()),
    zone=zone,
    language=language(),
    dark=st.context.theme.type == "dark",
)
figures = read_figures(edition, user)
show_cards(edition, figures)

if not figures.report.totals.images:
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
    _("Stacked"),
    BYS,
    format_func=by_words.__getitem__,
    required=True,
    key="usage_by",
    label_visibility="collapsed",
    wrap=True,
)
show_charts(edition, figures)
show_tables(edition, figures)
name = f"{view.span.first.isoformat()}-{view.span.last.isoformat()}"
with st.container(horizontal=True):
    st.download_button(
        _("CSV of the days shown"),
        data=keep_language(lambda: table_csv(days_table(figures.report.by_day, figures.returns, view.by, callers))),
        file_name=f"usage-days-{name}.csv",
        mime="text/csv",
        icon=":material/download:",
        on_click="ignore",
    )
    st.download_button(
        _("CSV of every picture shown"),
        # Only a click reads the records themselves.
        data=lambda: "".join(usage_report.records_csv(app, user, view.start, view.end, which=view.which)),
        file_name=f"usage-{name}.csv",
        mime="text/csv",
        icon=":material/download:",
        on_click="ignore",
    )
st.caption(_("Both follow the period and the filters; the address of this page shows the same view to your team."))
