"""Limits: what may be spent a day and a month, how much of it is used, and the alert before the balance runs out."""

from __future__ import annotations

from datetime import date, timedelta

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.errors import VisionMeterError
from core.identity.tables import User
from core.ledger.spending import Spending
from core.money import format_tokens, from_millitokens, parse_tokens
from core.services import limits
from core.services.application import Application, current
from core.services.metered_detection import billing_day
from ui.format import local_day, local_month, money, show_amount, tokens_and_money
from ui.i18n import _
from ui.messages import explain
from ui.session import may, require_user

# Streamlit sends what was typed after this pause, so that the worth beside it follows.
TYPING_PAUSE = "300ms"


def show_limits(app: Application, user: User) -> None:
    """Progress for everybody; the form for an owner, and the same form greyed out for others."""
    spending, today = limits.get_limits(app, user), billing_day(app)
    day, month = st.columns(2)
    _show_used(day.container(border=True), _("Today"), local_day(today), spending.day_spent_mt, spending.day_cap_mt)
    _show_used(
        month.container(border=True),
        _("This month"),
        local_month(today),
        spending.month_spent_mt,
        spending.month_cap_mt,
    )
    st.caption(
        _(
            "Days and months are those of the time zone {zone}. What is held for a run counts at once, and no longer "
            "when it is given back or refunded."
        ).format(zone=app.settings.billing_time_zone)
    )
    _warn_if_reached(spending, today)
    st.fragment(_show_form)()
    if may(user, "owner"):
        st.fragment(_show_alert_url)()


def _show_used(place: DeltaGenerator, label: str, period: str, spent_mt: int, cap_mt: int | None) -> None:
    show_amount(place, f"{label} · {period}", spent_mt)
    if cap_mt is None:
        place.progress(0.0, text=_("no cap"))
        return
    left = format_tokens(max(0, cap_mt - spent_mt))
    place.progress(
        min(1.0, spent_mt / cap_mt) if cap_mt else 1.0,
        text=_("{left} left of {cap}").format(left=left, cap=tokens_and_money(cap_mt)),
    )


def _warn_if_reached(spending: Spending, today: date) -> None:
    if spending.month_cap_mt is not None and spending.month_spent_mt >= spending.month_cap_mt:
        again = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
    elif spending.day_cap_mt is not None and spending.day_spent_mt >= spending.day_cap_mt:
        again = today + timedelta(days=1)
    else:
        return
    st.warning(
        _("The cap is reached: nothing more runs before {day}, unless an owner raises it.").format(
            day=local_day(again)
        ),
        icon=":material/block:",
    )


def _show_form() -> None:
    user, app = require_user(), current()
    if saved := st.session_state.pop("limits_saved", None):
        # Here, so that it goes away when the next attempt fails.
        st.success(saved, icon=":material/check_circle:")
    spending = limits.get_limits(app, user)
    is_owner = may(user, "owner")
    fields = (
        (_("Cap a day (tokens)"), spending.day_cap_mt, _("no cap")),
        (_("Cap a month (tokens)"), spending.month_cap_mt, _("no cap")),
        (_("Warn below (tokens)"), spending.alert_below_mt, _("no warning")),
    )
    typed = []
    for number, (place, (label, stored_mt, nothing)) in enumerate(zip(st.columns(3), fields, strict=True)):
        with place:
            text = st.text_input(
                label,
                value=_shown(stored_mt),
                placeholder=nothing,
                max_chars=24,
                # What somebody else saved meanwhile takes the place of what stood here.
                key=f"limit_{number}_{stored_mt}",
                live=TYPING_PAUSE,
                disabled=not is_owner,
            )
            typed.append(text or "")
            st.caption(_worth(text or ""))
    if not is_owner:
        st.caption(_("Only an owner of the account changes its limits."))
    elif st.button(_("Save limits"), type="primary"):
        _save(app, typed)


def _show_alert_url() -> None:
    """The webhook beside the warning on the pages, and who gets a mail."""
    user, app = require_user(), current()
    if app.smtp is not None:
        st.caption(_("Owners whose address is confirmed also get a mail when the balance falls below the warning."))
    stored = limits.get_alert_url(app, user)
    typed = st.text_input(
        _("Call this address, too, when the balance falls below the warning (webhook)"),
        value=stored or "",
        placeholder="https://",
        max_chars=2000,
        key=f"alert_url_{stored}",
        help=_("A signed message, once for each time it falls: see Webhooks in the API's documentation."),
    )
    if saved := st.session_state.pop("alert_url_saved", None):
        st.success(saved, icon=":material/check_circle:")
    if not st.button(_("Save the address"), key="alert_url_save"):
        return
    try:
        limits.set_alert_url(app, user, (typed or "").strip() or None)
    except VisionMeterError as error:
        st.error(explain(error))
        return
    st.session_state["alert_url_saved"] = _("Saved.")
    st.rerun(scope="fragment")


def _shown(amount_mt: int | None) -> str:
    """A stored amount as it would be typed."""
    if amount_mt is None:
        return ""
    return f"{from_millitokens(amount_mt):,f}".rstrip("0").rstrip(".")


def _worth(text: str) -> str:
    if not text.strip():
        return "\u00a0"
    try:
        return f"= {money(parse_tokens(text))}"
    except ValueError:
        return _("not a number yet")


def _save(app: Application, typed: list[str]) -> None:
    try:
        day_cap_mt, month_cap_mt, alert_below_mt = (parse_tokens(text) if text.strip() else None for text in typed)
    except ValueError:
        st.error(
            _(
                "Enter tokens as a number such as 1,000 or 12.5, with at most three decimals; leave a field empty "
                "for none."
            )
        )
        return
    try:
        limits.set_limits(
            app, require_user(), day_cap_mt=day_cap_mt, month_cap_mt=month_cap_mt, alert_below_mt=alert_below_mt
        )
    except VisionMeterError as error:
        st.error(explain(error))
        return
    st.session_state["limits_saved"] = _("Saved. A day: {day}. A month: {month}. Warning below: {alert}.").format(
        day=_amount_or(day_cap_mt, _("no cap")),
        month=_amount_or(month_cap_mt, _("no cap")),
        alert=_amount_or(alert_below_mt, _("no warning")),
    )
    st.rerun()


def _amount_or(amount_mt: int | None, nothing: str) -> str:
    return nothing if amount_mt is None else tokens_and_money(amount_mt)
