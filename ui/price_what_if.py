"""Admin, Price list: what customers would have paid under other prices. Nothing that is typed here is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

import pandas as pd
import streamlit as st

from core.errors import ConfigError
from core.money import format_tokens, parse_number
from core.pricing.book import Prices
from core.pricing.discounts import BatchDiscount
from core.services.application import current
from core.services.what_if import Both, WhatIf, price_anew
from core.slots import period_of
from ui.format import percent, plain
from ui.i18n import _, ngettext
from ui.session import require_operator

_CENT = Decimal("0.01")
_TENTH = Decimal("0.1")


@dataclass(frozen=True, slots=True)
class Proposal:
    """Prices to try, and the period whose charges they are tried on: `start` ≤ t < `end`."""

    prices: Prices
    price_per_token: Decimal
    start: datetime
    end: datetime


def show_what_if(in_force: Prices) -> None:
    """The form, filled with the prices in force, and what the last one sent came to."""
    st.subheader(_("What if the prices were others?"))
    st.caption(
        _("A period's real charges, priced anew picture by picture. Nothing is stored, and nobody's price changes.")
    )
    settings = current().settings
    with st.form("what_if"):
        period = st.segmented_control(
            _("Period"), list(_periods()), format_func=_periods().__getitem__, default="last_month", required=True
        )
        alpha, token, discounts = st.columns([1, 1, 2])
        alpha_text = alpha.text_input("α", value=str(in_force.alpha), max_chars=20)
        token_text = token.text_input(_("Price of a token"), value=str(settings.price_per_token), max_chars=20)
        tiers_text = discounts.text_input(
            _("Discount from so many pictures, in percent"), value=_tiers_text(in_force.discounts), max_chars=400
        )
        texts = [str(beta) for beta in in_force.betas.values()]
        rows = {"model": list(in_force.betas), "now": texts, "beta": texts}
        columns = {
            "model": st.column_config.TextColumn(_("Model"), disabled=True),
            "now": st.column_config.TextColumn(_("β now"), disabled=True),
            "beta": st.column_config.TextColumn("β", max_chars=20),
        }
        betas = st.data_editor(
            pd.DataFrame(rows),
            column_config=columns,
            hide_index=True,
            height=250,
            key=f"what_if_betas_{in_force.version}",
        )
        sent = st.form_submit_button(_("Price anew"), type="primary")
    if not sent:
        return
    try:
        prices = replace(
            in_force,
            alpha=_positive(alpha_text),
            betas=dict(zip(betas["model"], map(_positive, betas["beta"].fillna("")), strict=True)),
            discounts=_read_tiers(tiers_text),
        )
        price_per_token = _positive(token_text)
    except (ValueError, ConfigError):
        st.error(
            _(
                "α, β and the price are numbers above 0. Discounts are written as 10: 5, 50: 10: numbers of pictures "
                "from 2 on, with percents below 100, both rising."
            )
        )
        return
    start, end = _bounds(period)
    _show_outcome(price_anew(current(), require_operator(), prices, price_per_token, start, end))


def _show_outcome(outcome: WhatIf) -> None:
    total = outcome.total
    if not total.images:
        st.info(_("Nothing was charged in this period: choose another."))
        return
    was, would, who = st.columns(3)
    was.metric(_("Charged"), _money(total.before), delta=_pictures(total), delta_color="off", delta_arrow="off")
    would.metric(
        _("Under these prices"), _money(total.after), delta=_change(total), delta_color="off", delta_arrow="off"
    )
    who.metric(
        _("Customers who would pay more"),
        _("{n} of {all}").format(n=outcome.accounts_paying_more, all=outcome.accounts),
        delta=_("at most {amount} more").format(amount=_money(outcome.largest[1].increase)) if outcome.largest else "",
        delta_color="off",
        delta_arrow="off",
    )
    if outcome.largest:
        name, most = outcome.largest
        st.caption(
            _("Most for {customer}: {before} → {after}.").format(
                customer=plain(name), before=plain(_money(most.before)), after=plain(_money(most.after))
            )
        )
    rows = [*outcome.models.items(), (_("All models"), total)]
    st.dataframe(
        {
            _("Model"): [name for name, _sums in rows],
            _("Pictures"): [f"{sums.images:,}" for _name, sums in rows],
            _("Tokens"): [format_tokens(sums.before_mt) for _name, sums in rows],
            _("Tokens then"): [format_tokens(sums.after_mt) for _name, sums in rows],
            _("Charged"): [_money(sums.before) for _name, sums in rows],
            _("Under these prices"): [_money(sums.after) for _name, sums in rows],
            _("Difference"): [_change(sums) for _name, sums in rows],
        },
        hide_index=True,
    )
    words = _("Charges before refunds, at today's price of a token; demonstration data has none.")
    if len(outcome.versions) > 1:
        words += " " + _("They were made under these price lists: {versions}.").format(
            versions=", ".join(map(plain, outcome.versions))
        )
    st.caption(words)


def _periods() -> Mapping[str, str]:
    return {"last_month": _("Last month"), "this_month": _("This month"), "30": _("Last 30 days")}


def _bounds(period: str) -> tuple[datetime, datetime]:
    """The first moment of a period and the one after it, in the zone of bills."""
    zone = current().settings.billing_zone
    today = datetime.now(zone).date()
    first_of_month = today.replace(day=1)
    first, last = {
        "last_month": ((first_of_month - timedelta(days=1)).replace(day=1), first_of_month - timedelta(days=1)),
        "this_month": (first_of_month, today),
        "30": (today - timedelta(days=29), today),
    }[period]
    return period_of(first, last, zone)


def _positive(text: str) -> Decimal:
    number = parse_number(text)
    if number <= 0:
        raise ValueError(f"{text} is not above 0")
    return number


def _tiers_text(discounts: tuple[BatchDiscount, ...]) -> str:
    return ", ".join(f"{tier.images_min}: {tier.percent.normalize():f}" for tier in discounts)


def _read_tiers(text: str) -> tuple[BatchDiscount, ...]:
    """`10: 5, 50: 10` as tiers, which `Prices` checks. Raises `ValueError` for anything else."""
    pairs = [pair.partition(":") for pair in text.split(",") if pair.strip()]
    return tuple(BatchDiscount(int(images), parse_number(tier)) for images, _colon, tier in pairs)


def _money(amount: Decimal) -> str:
    sign = "−" if amount < 0 else ""
    return f"{sign}{current().settings.currency_symbol}{abs(amount).quantize(_CENT):,}"


def _change(sums: Both) -> str:
    rounded = sums.increase.quantize(_CENT)
    sign = "+" if rounded > 0 else ""
    share = "" if sums.percent is None else f" · {sign}{percent(sums.percent.quantize(_TENTH))}"
    return f"{sign}{_money(rounded)}{share}"


def _pictures(sums: Both) -> str:
    return ngettext("{n} picture", "{n} pictures", sums.images)
