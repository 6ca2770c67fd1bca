"""A month's statement: opening and closing balance, sums by type, and the files to keep."""

from __future__ import annotations

import streamlit as st

from core.errors import VisionMeterError
from core.identity.tables import User
from core.money import format_tokens
from core.services import statement
from core.services.application import Application
from ui.format import money, show_amount
from ui.i18n import _, keep_language
from ui.messages import explain
from ui.statement_pdf import statement_pdf
from ui.transactions import kind_words


def show_statement(app: Application, user: User) -> None:
    """Choose a month, see what it came to, take it along."""
    zone = app.settings.billing_zone
    months = statement.statement_months(app, user, zone=zone)
    year, month = st.selectbox(
        _("Month"), months, format_func=lambda chosen: f"{chosen[0]}-{chosen[1]:02}", key="statement_month", width=240
    )
    try:
        built = statement.build_statement(app, user, year, month, zone=zone)
    except VisionMeterError as error:
        st.error(explain(error))
        return
    opening, closing = st.columns(2)
    show_amount(opening.container(border=True), _("Opening balance"), built.opening_mt)
    show_amount(closing.container(border=True), _("Closing balance"), built.closing_mt)
    if built.totals:
        st.table(
            [
                {
                    _("Type"): kind_words(total.kind),
                    _("Count"): f"{total.count:,}",
                    _("Tokens"): format_tokens(total.amount_mt, signed=True),
                    _("Worth"): money(total.amount_mt),
                }
                for total in built.totals
            ],
            border="horizontal",
        )
    else:
        st.info(_("Nothing moved the balance in this month."), icon=":material/calendar_month:")
    notes = [_("Months are those of the time zone {zone}.").format(zone=app.settings.billing_time_zone)]
    if built.is_running:
        notes.append(_("This month is not over: the statement shows it so far."))
    st.caption(" ".join(notes))
    name = f"statement-{year}-{month:02}"
    with st.container(horizontal=True):
        st.download_button(
            "PDF",
            data=keep_language(lambda: statement_pdf(built)),
            file_name=f"{name}.pdf",
            mime="application/pdf",
            icon=":material/picture_as_pdf:",
            on_click="ignore",
        )
        st.download_button(
            "CSV",
            data=lambda: "".join(statement.statement_csv(app, user, year, month, zone=zone)),
            file_name=f"{name}.csv",
            mime="text/csv",
            icon=":material/download:",
            on_click="ignore",
        )
