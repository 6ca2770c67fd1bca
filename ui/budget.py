"""Fit my budget: which models and sizes the tokens are enough for, and one click that chooses one of them."""

from __future__ import annotations

import streamlit as st

from core.identity.tables import User
from core.money import format_tokens, parse_tokens
from core.services.application import current
from core.services.budget import TYPICAL_IMAGES_MAX, Combination, Offer, fit_batch, fit_typical, get_spendable
from core.services.quotes import PreparedImage
from ui.batch import Candidate
from ui.format import percent, plain, tile_words, tokens, tokens_and_money
from ui.i18n import _, ngettext
from ui.session import require_user

OFFERS_SHOWN = 4
TYPICAL_IMAGES = 100
TYPICAL_WIDTH_PX, TYPICAL_HEIGHT_PX = 1920, 1080
SIDE_PX_MAX = 20_000


def show_budget(candidates: list[Candidate], task: str) -> None:
    """A closed section; what is in it is computed when it is opened."""
    section = st.expander(_("Fit my budget"), icon=":material/savings:", on_change="rerun", key="budget_open")
    if section.open:
        with section:
            _show(candidates, task)


def words(combination: Combination) -> str:
    """A combination such as `YOLOv8n · 640 · tiles of 640 × 640 px`."""
    parts = [combination.title, f"{combination.img_size} px"]
    if combination.tile_px is not None:
        parts.append(tile_words(combination.tile_px))
    return " · ".join(parts)


def use(combination: Combination) -> None:
    """Put a combination into the page's selectors; a callback, which runs before they are drawn."""
    st.session_state["model"] = combination.model
    st.session_state["img_size"] = combination.img_size
    st.session_state["tile_px"] = combination.tile_px or 0


def _show(candidates: list[Candidate], task: str) -> None:
    user = require_user()
    st.caption(
        _(
            "What your tokens are enough for, what computes most first: a larger model and more pixels find more. "
            "Looking costs nothing and holds nothing."
        )
    )
    images = [candidate.image for candidate in candidates if candidate.image]
    spendable = get_spendable(current(), user)
    left, right = st.columns(2, vertical_alignment="bottom")
    typed = left.text_input(
        _("Tokens to spend"),
        placeholder=format_tokens(spendable.amount_mt),
        max_chars=20,
        key="budget_tokens",
        help=_("Empty: what you can spend now, which is your balance, or what your caps leave of it."),
    )
    is_typical = not images
    if images:
        is_typical = right.segmented_control(
            _("For"),
            [False, True],
            format_func=lambda typical: (
                _("other pictures") if typical else ngettext("this {n} picture", "these {n} pictures", len(images))
            ),
            default=False,
            required=True,
            key="budget_for",
            wrap=True,
        )
    with_tiles = st.toggle(_("Tiles, too"), key="budget_tiles") if task == "detect" else False
    try:
        budget_mt = parse_tokens(typed) if typed.strip() else spendable.amount_mt
        if budget_mt < 0:
            raise ValueError(typed)
    except ValueError:
        st.error(_("Type a number of tokens such as 12.5."))
        return
    if spendable.is_capped and not typed.strip():
        st.caption(":material/info: " + _("Your spending caps leave less than your balance."))
    offers = (
        _fit_typical(user, task, budget_mt, with_tiles=with_tiles)
        if is_typical
        else _fit_batch(user, images, task, budget_mt, with_tiles=with_tiles)
    )
    _show_offers(offers, budget_mt)


def _fit_batch(user: User, images: list[PreparedImage], task: str, budget_mt: int, *, with_tiles: bool) -> list[Offer]:
    limit = current().settings.batch_images_max
    if len(images) > limit:
        st.warning(_("At most {limit} pictures run in one batch: remove some.").format(limit=f"{limit:,}"))
        return []
    return fit_batch(current(), user, images, task=task, budget_mt=budget_mt, with_tiles=with_tiles)


def _fit_typical(user: User, task: str, budget_mt: int, *, with_tiles: bool) -> list[Offer]:
    first, second, third = st.columns(3)
    count = first.number_input(
        _("Pictures"), min_value=1, max_value=TYPICAL_IMAGES_MAX, value=TYPICAL_IMAGES, key="budget_count"
    )
    width = second.number_input(
        _("Width (px)"), min_value=1, max_value=SIDE_PX_MAX, value=TYPICAL_WIDTH_PX, key="budget_width"
    )
    height = third.number_input(
        _("Height (px)"), min_value=1, max_value=SIDE_PX_MAX, value=TYPICAL_HEIGHT_PX, key="budget_height"
    )
    limit = current().settings.batch_images_max
    if count > limit:
        st.caption(_("As runs of at most {limit} pictures, each with its own discount.").format(limit=f"{limit:,}"))
    return fit_typical(current(), user, count, height, width, task=task, budget_mt=budget_mt, with_tiles=with_tiles)


def _show_offers(offers: list[Offer], budget_mt: int) -> None:
    if not offers:
        return
    fitting = [offer for offer in offers if offer.fits]
    if fitting:
        st.markdown(
            _("**{count}** of {all} combinations fit into {budget}.").format(
                count=f"{len(fitting):,}", all=f"{len(offers):,}", budget=tokens_and_money(budget_mt)
            )
        )
    else:
        st.warning(
            _("Nothing fits into {budget}.").format(budget=tokens_and_money(budget_mt)),
            icon=":material/account_balance_wallet:",
        )
    for offer in [*fitting[:OFFERS_SHOWN], *offers[len(fitting) : len(fitting) + 1]]:
        _show_offer(offer)
    st.dataframe(
        [
            {
                _("Model"): offer.combination.title,
                _("Size (px)"): offer.combination.img_size,
                _("Tiles (px)"): "—" if offer.combination.tile_px is None else str(offer.combination.tile_px),
                _("Tokens a picture"): format_tokens(offer.mean_mt),
                _("Total"): format_tokens(offer.total_mt),
                _("Batch discount"): percent(offer.discount_percent),
                _("What remains"): format_tokens(offer.remaining_mt),
            }
            for offer in offers
        ],
        hide_index=True,
        height=260 if len(offers) > 6 else "auto",
        key="budget_table",
    )


def _show_offer(offer: Offer) -> None:
    one = offer.combination
    with st.container(border=True, horizontal=True, vertical_alignment="center", gap="small"):
        with st.container(gap=None):
            st.markdown(f"**{plain(words(one))}**")
            facts = [_("total {amount}").format(amount=tokens_and_money(offer.total_mt))]
            if offer.images_charged:
                facts.insert(0, _("{amount} a picture").format(amount=tokens(offer.mean_mt)))
            if offer.discount_percent:
                facts.append(_("{percent} batch discount").format(percent=percent(offer.discount_percent)))
            st.caption(" · ".join(facts))
            if offer.fits:
                st.markdown(f":green-badge[{_('{amount} remain').format(amount=tokens(offer.remaining_mt))}]")
            else:
                st.markdown(f":orange-badge[{_('short by {amount}').format(amount=tokens(-offer.remaining_mt))}]")
        st.button(
            _("Choose"),
            key=f"use_{one.model}_{one.img_size}_{one.tile_px}",
            icon=":material/check:",
            on_click=use,
            args=(one,),
        )
