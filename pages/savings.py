"""Savings: what a GPU rented by the month would cost instead, answered in one sentence, also when it is cheaper."""

from dataclasses import replace
from decimal import Decimal

import streamlit as st

from core.geometry import IMG_SIZES_PX
from core.services import account_view, savings
from core.services.application import current
from core.services.savings import DAYS_A_MONTH, FLAT_MONTH, PCB_FACTORY, SMART_CAMPUS, Comparison, Workload
from ui import charts
from ui.format import share, tokens
from ui.i18n import _, ngettext
from ui.session import require_user

user = require_user()
app = current()
prices = account_view.get_prices(app)
symbol, price_per_token = app.settings.currency_symbol, app.settings.price_per_token
IMAGES_DAY_MAX, SIDE_MAX_PX = 10_000_000, 20_000

OWN, FACTORY, CAMPUS = "own", "factory", "campus"
PRESETS = {FACTORY: PCB_FACTORY, CAMPUS: SMART_CAMPUS}


def amount(value: Decimal) -> str:
    """An amount of money."""
    return f"{symbol}{value:,.2f}"


def describe(workload: Workload) -> str:
    """What a preset assumes."""
    hours = " · ".join(
        _("{hours} with {images}").format(
            hours=ngettext("{n} hour", "{n} hours", part.hours),
            images=ngettext("{n} picture an hour", "{n} pictures an hour", part.images_hour),
        )
        for part in workload.hours
    )
    return _("Assumed: {cameras}, a day of {hours} each.").format(
        cameras=ngettext("{n} camera", "{n} cameras", workload.cameras), hours=hours
    )


def show_answer(comparison: Comparison) -> None:
    """Metered, flat and the answer."""
    left, middle, right = st.columns(3)
    left.metric(_("Here, a month"), amount(comparison.metered))
    middle.metric(_("A GPU by the month"), amount(comparison.flat))
    right.metric(_("Break-even (pictures a day)"), f"{comparison.break_even_images_day:,}")
    facts = {
        "images": ngettext("{n} picture a day", "{n} pictures a day", comparison.images_day),
        "metered": amount(comparison.metered),
        "flat": amount(comparison.flat),
        "percent": share(abs(comparison.saving_percent)),
    }
    if comparison.saving_percent > 0:
        st.success(
            _("With {images} you pay {metered} a month here and {flat} for the GPU: {percent} less.").format(**facts),
            icon=":material/savings:",
        )
    elif comparison.saving_percent < 0:
        st.warning(
            _(
                "With {images} you pay {metered} a month here and {flat} for the GPU: a GPU of your own is cheaper by "
                "{percent} of its price, if one is enough and somebody looks after it."
            ).format(**facts),
            icon=":material/balance:",
        )
    else:
        st.info(_("With {images} both cost the same: {flat} a month.").format(**facts), icon=":material/balance:")
    st.plotly_chart(
        charts.break_even(
            comparison,
            words={
                "metered": _("Here"),
                "flat": _("A GPU by the month"),
                "you": _("You"),
                "even": _("Break-even"),
                "pictures": _("pictures a day"),
            },
            currency=symbol,
        ),
        width="stretch",
        config={"displaylogo": False, "displayModeBar": False},
        key="break_even",
    )


st.title(_("Savings"))
st.caption(
    _("What would you pay for a GPU by the month? Here only what is computed costs something, at night nothing.")
)
own = savings.find_own_usage(app, user)
words = {OWN: _("My last 30 days"), FACTORY: _("PCB factory"), CAMPUS: _("Smart campus")}
offered = [OWN, FACTORY, CAMPUS] if own is not None else [FACTORY, CAMPUS]
chosen = st.segmented_control(
    _("Begin with"), offered, format_func=words.__getitem__, default=offered[0], required=True, key="savings_preset"
)
if own is None:
    st.caption(_("As soon as you have run something, your own usage is offered here, too."))

if chosen == OWN and own is not None:
    price_mt, images_day = own.price_mt, own.images_day
    st.caption(
        _("One of your pictures cost {price} on average, free repeats included.").format(
            price=tokens(int(price_mt.to_integral_value()))
        )
    )
else:
    preset = PRESETS[chosen]
    images_day = preset.images_day
    st.caption(describe(preset))
    left, middle, right = st.columns(3)
    model = left.selectbox(
        _("Model"),
        list(prices.betas),
        index=list(prices.betas).index(preset.model) if preset.model in prices.betas else 0,
        format_func=lambda name: f"{name} · β {prices.betas[name]}",
        key=f"savings_model_{chosen}",
    )
    width = middle.number_input(
        _("Width of a picture (px)"), 1, SIDE_MAX_PX, preset.image_width, key=f"savings_width_{chosen}"
    )
    height = right.number_input(
        _("Height of a picture (px)"), 1, SIDE_MAX_PX, preset.image_height, key=f"savings_height_{chosen}"
    )
    img_size = st.select_slider(
        _("Size of the longer side (px)"), IMG_SIZES_PX, value=preset.img_size, key=f"savings_size_{chosen}"
    )
    workload = replace(preset, model=model, image_height=int(height), image_width=int(width), img_size=int(img_size))
    price_mt = savings.price_workload(prices, app.registry, workload)
    st.caption(
        _("One picture costs {price}, {money} for a thousand of them.").format(
            price=tokens(int(price_mt)), money=amount(price_mt * price_per_token)
        )
    )
left, right = st.columns(2)
images = left.number_input(
    _("Pictures a day"), 0, IMAGES_DAY_MAX, images_day, step=max(1, images_day // 10), key=f"savings_images_{chosen}"
)
flat = right.number_input(
    _("A GPU by the month ({symbol})").format(symbol=symbol),
    1,
    10_000_000,
    int(FLAT_MONTH),
    step=1_000,
    key="savings_flat",
)
show_answer(Comparison(int(images), price_mt, price_per_token=price_per_token, flat=Decimal(int(flat))))
st.caption(
    _(
        "A month is {days} days. Price list {version}, {price} a token, without the discounts of batches. The GPU's "
        "price has neither its electricity and upkeep in it nor the second one that a peak may need."
    ).format(days=DAYS_A_MONTH, version=prices.version, price=f"{symbol}{price_per_token}")
)
