"""Admin: vouchers, payments, customers, models, prices, the ledger's check and the audit log. For the operator."""

import csv
import io
from datetime import UTC, datetime, time

import streamlit as st

from core.csv_text import plain_cell
from core.errors import VisionMeterError
from core.money import format_tokens, parse_tokens
from core.payments.tables import Voucher
from core.services import admin, top_up
from core.services.application import current
from ui.audit_log import show_audit_log
from ui.customer_invitations import show_customer_invitations
from ui.customers import show_customers
from ui.format import percent, table_time, time_zone
from ui.i18n import _, ngettext
from ui.ledger_check import show_ledger
from ui.messages import explain
from ui.models import show_models
from ui.payment_desk import show_payment_desk
from ui.plans import late_words
from ui.price_what_if import show_what_if
from ui.sections import show_sections
from ui.session import require_operator

operator = require_operator()
app = current()
# Columns of the table of β.
PRICE_LISTS_SHOWN = 6


def voucher_state(voucher: Voucher) -> str:
    if voucher.redeemed_at is not None:
        return _("redeemed")
    if voucher.revoked_at is not None:
        return _("withdrawn")
    if voucher.expires_at is not None and voucher.expires_at <= datetime.now(UTC):
        return _("expired")
    return _("open")


def vouchers_csv(vouchers: list[Voucher]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["code", "tokens", "note", "expires_utc"])
    for voucher in vouchers:
        expires = voucher.expires_at.isoformat() if voucher.expires_at else ""
        writer.writerow(
            [voucher.code, format_tokens(voucher.amount_mt).replace(",", ""), plain_cell(voucher.note), expires]
        )
    return buffer.getvalue()


def show_vouchers() -> None:
    with st.form("make_vouchers"):
        left, middle, right = st.columns(3)
        amount = left.text_input(_("Tokens each"), value="100", key="voucher_tokens")
        count = middle.number_input(_("How many"), 1, 500, 1, key="voucher_count")
        expires = right.date_input(_("Valid until (optional)"), value=None, min_value="today", key="voucher_expires")
        note = st.text_input(_("Note (optional)"), max_chars=200, key="voucher_note")
        if st.form_submit_button(_("Make vouchers"), type="primary"):
            make(amount, int(count), note, expires)
    if made := st.session_state.get("made_vouchers"):
        st.success(ngettext("{n} voucher made.", "{n} vouchers made.", len(made)))
        st.code("\n".join(voucher.code for voucher in made), language=None)
        st.download_button(
            _("CSV of these vouchers"), vouchers_csv(made), "vouchers.csv", "text/csv", on_click="ignore"
        )
    vouchers = top_up.list_vouchers(app, operator)
    if not vouchers:
        st.info(_("No vouchers yet: make one above and give its code to a customer."))
        return
    event = st.dataframe(
        [
            {
                _("Code"): voucher.code,
                _("Tokens"): format_tokens(voucher.amount_mt),
                _("State"): voucher_state(voucher),
                _("Note"): voucher.note,
                _("Made"): table_time(voucher.created_at),
                _("Redeemed"): table_time(voucher.redeemed_at) if voucher.redeemed_at else "",
            }
            for voucher in vouchers
        ],
        hide_index=True,
        on_select="rerun",
        selection_mode="multi-row",
        # A selection is a list of row numbers: it must not outlive the list that it was made on.
        key=f"vouchers_{hash(tuple((voucher.id, voucher_state(voucher)) for voucher in vouchers))}",
    )
    chosen = [vouchers[row] for row in event.selection.rows if voucher_state(vouchers[row]) == _("open")]
    if chosen and st.button(
        ngettext("Withdraw {n} voucher", "Withdraw {n} vouchers", len(chosen)), icon=":material/block:"
    ):
        for voucher in chosen:
            top_up.revoke_voucher(app, require_operator(), voucher.id)
        st.rerun()


def make(amount: str, count: int, note: str, expires) -> None:
    try:
        amount_mt = parse_tokens(amount)
    except ValueError:
        st.error(_("Enter the tokens as a number with at most three decimals."))
        return
    end_of_day = datetime.combine(expires, time.max, tzinfo=time_zone()) if expires else None
    try:
        st.session_state["made_vouchers"] = top_up.make_vouchers(
            app, require_operator(), count=count, amount_mt=amount_mt, note=note, expires_at=end_of_day
        )
    except VisionMeterError as error:
        st.error(explain(error))


def show_prices() -> None:
    versions = admin.list_price_versions(app, operator)
    lists = [version.prices for version in versions]
    in_force = lists[0]
    st.caption(
        _("In force: {version}, α {alpha}, at least {minimum} tokens a picture.").format(
            version=in_force.version, alpha=in_force.alpha, minimum=in_force.minimum
        )
    )
    st.dataframe(
        [
            {
                _("Version"): version.prices.version,
                _("In force since"): table_time(version.since),
                "α": str(version.prices.alpha),
                _("Minimum"): str(version.prices.minimum),
                _("Discount from so many pictures"): " · ".join(
                    f"{tier.images_min}: {percent(tier.percent)}" for tier in version.prices.discounts
                )
                or "—",
                _("Given back when late"): " · ".join(map(late_words, version.prices.late_rules)) or "—",
                _("Note"): version.note,
            }
            for version in versions
        ],
        hide_index=True,
    )
    st.markdown(f"**{_('β by model')}**")
    st.dataframe(
        [
            {
                _("Model"): model,
                **{prices.version: str(prices.betas.get(model, "—")) for prices in lists[:PRICE_LISTS_SHOWN]},
            }
            for model in in_force.betas
        ],
        hide_index=True,
    )
    show_what_if(in_force)


def show_all_customers() -> None:
    show_customer_invitations()
    show_customers()


st.title(_("Admin"))
show_sections(
    {
        "vouchers": (_("Vouchers"), show_vouchers),
        "payments": (_("Payments"), show_payment_desk),
        "customers": (_("Customers"), show_all_customers),
        "models": (_("Models"), show_models),
        "prices": (_("Price list"), show_prices),
        "ledger": (_("Ledger and load"), show_ledger),
        "audit": (_("Audit log"), show_audit_log),
    },
    key="admin_section",
)
