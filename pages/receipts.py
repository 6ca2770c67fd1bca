"""Receipts: every charge of the account, newest first, and each one worked out again."""

from datetime import datetime, timedelta
from urllib.parse import urlencode

import streamlit as st

from core.errors import ReceiptNotFoundError
from core.money import format_tokens
from core.pricing.receipts import Cursor, ReceiptFilter
from core.services import account_view, receipts
from core.services.application import current
from core.slots import period_of
from ui.format import money, table_time, time_zone
from ui.i18n import _
from ui.messages import explain
from ui.navigation import find_page
from ui.receipt import show_receipt_page
from ui.session import require_user

user = require_user()
app = current()
zone = time_zone()
PERIODS = {"all": _("All"), "7": _("7 days"), "30": _("30 days"), "90": _("90 days"), "custom": _("Custom")}
WHAT_NEXT = _("Run a picture on the Detect page: every charge gets a receipt here.")


def choose_filter() -> ReceiptFilter | None:
    """What the search field and the period say; None while only the first day is chosen."""
    left, right = st.columns(2, vertical_alignment="bottom")
    text = left.text_input(
        _("Picture name or receipt number"),
        type="search",
        max_chars=200,
        placeholder=_("Search"),
        key="receipts_text",
        icon=":material/search:",
    )
    with right:
        period = st.segmented_control(
            _("Period"),
            list(PERIODS),
            format_func=PERIODS.__getitem__,
            default="all",
            required=True,
            key="receipts_period",
            wrap=True,
        )
    text = (text or "").strip()
    if period == "all":
        return ReceiptFilter(text)
    today = datetime.now(zone).date()
    first, last = today - timedelta(days=29 if period == "custom" else int(period) - 1), today
    if period == "custom":
        chosen = st.date_input(_("From – to"), (first, last), max_value=today, key="receipts_days")
        if len(chosen) != 2:
            st.info(_("Choose the last day too."))
            return None
        first, last = chosen
    return ReceiptFilter(
        text,
        *period_of(first, last, zone),
    )


def show_list() -> None:
    wanted = choose_filter()
    if wanted is None:
        return
    if st.session_state.get("receipts_filter") != wanted:
        st.session_state["receipts_filter"], st.session_state["receipts_trail"] = wanted, []
    trail: list[Cursor] = st.session_state["receipts_trail"]
    page = receipts.list_receipts(app, user, wanted, after=trail[-1] if trail else None)
    if not page.lines and not trail:
        show_nothing(wanted)
        return
    opened = st.session_state.get("receipts_opened", 0)
    event = st.dataframe(
        {
            _("Time"): [table_time(line.receipt.created_at) for line in page.lines],
            _("Tokens"): [format_tokens(line.receipt.amount_mt) for line in page.lines],
            _("Picture"): [line.receipt.image_name for line in page.lines],
            _("Model"): [line.receipt.model for line in page.lines],
            _("Network input"): [f"{line.receipt.input_width} × {line.receipt.input_height}" for line in page.lines],
            _("Refunded"): [format_tokens(line.refunded_mt) if line.refunded_mt else "" for line in page.lines],
            _("Worth"): [money(line.net_mt) for line in page.lines],
        },
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        # Row numbers mean nothing on another page, and coming back must not open the same receipt again.
        key=f"receipts_{opened}_{page.lines[0].receipt.id if page.lines else ''}",
    )
    for row in event.selection.rows:
        st.session_state["receipts_opened"] = opened + 1
        st.query_params["id"] = page.lines[row].receipt.id
        st.rerun()
    st.caption(_("Select a charge to see its receipt."))
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button(_("Newer"), icon=":material/chevron_left:", disabled=not trail):
            trail.pop()
            st.rerun()
        st.markdown(_("Page {n}").format(n=len(trail) + 1))
        if st.button(_("Older"), icon=":material/chevron_right:", icon_position="right", disabled=page.end is None):
            trail.append(page.end)
            st.rerun()
        st.space("stretch")
        st.link_button(_("CSV of all that match"), csv_address(wanted), icon=":material/download:")


def csv_address(wanted: ReceiptFilter) -> str:
    """Where the gateway streams the same receipts, however many they are."""
    query = {"text": wanted.text}
    if wanted.start is not None and wanted.end is not None:
        query |= {"start": wanted.start.isoformat(), "end": wanted.end.isoformat()}
    return f"/v1/receipts.csv?{urlencode(query)}"


def show_nothing(wanted: ReceiptFilter) -> None:
    if wanted != ReceiptFilter():
        st.info(_("No receipt matches: search for less, or choose a longer period."), icon=":material/search_off:")
        return
    if account_view.get_account(app, user).is_demo:
        st.info(_("Demonstration data has no receipts: nothing was run."), icon=":material/science:")
        return
    st.info(WHAT_NEXT, icon=":material/receipt_long:")
    st.page_link(find_page("detect"), label=_("Detect"), icon=":material/center_focus_strong:")


def show_one(receipt_id: str) -> None:
    st.page_link(find_page("receipts"), label=_("All receipts"), icon=":material/arrow_back:")
    try:
        view = receipts.get_receipt(app, user, receipt_id)
    except ReceiptNotFoundError as error:
        st.error(explain(error), icon=":material/search_off:")
        return
    show_receipt_page(app, user, view)


st.title(_("Receipts"))
if receipt_id := st.query_params.get("id"):
    show_one(receipt_id)
else:
    show_list()
