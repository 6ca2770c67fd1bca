"""Invoices to take along, and whom the next ones are made out to."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from core.errors import VisionMeterError
from core.identity.tables import User
from core.payments.invoice_tables import Invoice
from core.services import invoices
from core.services.application import Application
from ui.format import local_time, paid
from ui.i18n import _, keep_language
from ui.invoice_pdf import invoice_pdf, kind_words
from ui.messages import explain
from ui.session import may, require_user

# So many have a button each; more are chosen from a list.
BUTTONS_MAX = 3


def show_invoices(found: Sequence[Invoice], *, key: str) -> None:
    """Buttons that download them; nothing where there are none."""
    if not found:
        return
    if len(found) > BUTTONS_MAX:
        number = st.selectbox(
            _("Invoice"), range(len(found)), format_func=lambda one: _label(found[one]), key=f"{key}_choice", width=480
        )
        found = [found[number]]
    with st.container(horizontal=True):
        for invoice in found:
            st.download_button(
                f"{kind_words(invoice)} {invoice.number}",
                data=keep_language(lambda one=invoice: invoice_pdf(one)),  # type: ignore[misc]  # bound now, not later
                file_name=f"{invoice.number.replace('/', '-')}.pdf",
                mime="application/pdf",
                icon=":material/picture_as_pdf:",
                on_click="ignore",
                key=f"{key}_{invoice.number}",
            )


def _label(invoice: Invoice) -> str:
    money = paid(invoice.gross_minor, invoice.currency)
    return f"{kind_words(invoice)} {invoice.number} · {money} · {local_time(invoice.issued_at)}"


def show_billing(app: Application, user: User) -> None:
    """Name, address and tax number for the next invoices; the owner changes them."""
    if not invoices.are_issued(app):
        st.info(_("This installation issues no invoices: ask its operator for one."))
        return
    known, is_owner = invoices.get_billing(app, user), may(user, "owner")
    st.caption(_("Invoices that were issued before stay as they are; without a name here they name the account."))
    with st.form("billing", width=480):
        name = st.text_input(
            _("Name or company"), known.name, max_chars=invoices.NAME_LENGTH_MAX, disabled=not is_owner
        )
        address = st.text_area(
            _("Address"), known.address, max_chars=invoices.ADDRESS_LENGTH_MAX, height=120, disabled=not is_owner
        )
        tax_id = st.text_input(
            _("Tax number"), known.tax_id, max_chars=invoices.TAX_ID_LENGTH_MAX, disabled=not is_owner
        )
        submitted = st.form_submit_button(_("Save"), type="primary", disabled=not is_owner)
    if not is_owner:
        st.caption(_("Only an owner of the account changes this."))
    if submitted:
        try:
            invoices.set_billing(app, require_user(), name=name, address=address, tax_id=tax_id)
        except VisionMeterError as error:
            st.error(explain(error))
        else:
            st.success(_("Saved: the next invoice says it."))
