"""The price before anything runs: each picture with its formula, the total, the balance after, and the button."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import streamlit as st

from core.db import utcnow
from core.errors import VisionMeterError
from core.inference.draw import draw_tiles
from core.inference.images import decode_image, encode_jpeg
from core.money import format_tokens
from core.pricing.tables import Quote
from core.services import account_view
from core.services.application import current
from core.services.quotes import FREE_PROCESSED, THUMBNAIL_PX, QuoteLine, next_discount, quote_batch, quote_lines
from core.tiles import OVERLAP_PERCENT, cut_tiles
from ui.batch import Candidate
from ui.format import local_clock, percent, plain, show_amount, tokens
from ui.help import help_link
from ui.i18n import _, ngettext
from ui.messages import explain, explain_code
from ui.run_button import show_run_button
from ui.session import require_user

LINES_SHOWN = 12
REQUOTE_BEFORE_S = 30
BINDING_REFRESH_S = 20.0


def show_preview(candidates: list[Candidate], model: str, img_size: int, tile_px: int | None) -> None:
    """The preview of a batch. Pictures that cannot be served are named with the reason; the others go on."""
    for candidate in candidates:
        if candidate.problem is not None:
            st.error(f"**{plain(candidate.name)}** — {explain(candidate.problem)}", icon=":material/broken_image:")
    served = [candidate for candidate in candidates if candidate.image is not None]
    if not served:
        return
    try:
        quote = _current_quote(served, model, img_size, tile_px)
    except VisionMeterError as error:
        st.error(explain(error))
        return
    lines = quote_lines(quote)
    st.subheader(_("Price before running"))
    for candidate, line in list(zip(served, lines, strict=True))[:LINES_SHOWN]:
        _show_line(candidate, line, quote)
    if len(lines) > LINES_SHOWN:
        with st.expander(ngettext("{n} more picture", "{n} more pictures", len(lines) - LINES_SHOWN)):
            st.dataframe(
                [
                    {
                        _("Picture"): line.name,
                        _("Formula"): _formula(line, quote.discount_percent),
                        _("Tokens"): format_tokens(line.amount_mt),
                    }
                    for line in lines[LINES_SHOWN:]
                ],
                hide_index=True,
            )
    _show_total(quote, served, lines)


def _current_quote(served: list[Candidate], model: str, img_size: int, tile_px: int | None) -> Quote:
    """The stored quote of exactly this batch; a new one when the batch changed or the old one runs out.

    A click on Run keeps the quote that was on the button, however old: `submit_quote` renews it, and asks when the
    price grew.
    """
    user = require_user()
    signature = (
        tuple((candidate.name, candidate.image.file_sha256) for candidate in served if candidate.image),
        model,
        img_size,
        tile_px,
        st.session_state.get("jobs_seen", 0),
    )
    quote: Quote | None = st.session_state.get("quote")
    is_clicked = quote is not None and bool(st.session_state.get(f"run_{quote.id}"))
    if quote is not None and st.session_state.get("quote_signature") == signature:
        if is_clicked or (quote.expires_at - utcnow()).total_seconds() > REQUOTE_BEFORE_S:
            return quote
    elif is_clicked:
        # The click was meant for the price that was on the button; the new one must be looked at first.
        st.warning(explain_code("quote_mismatch"), icon=":material/price_change:")
    images = [candidate.image for candidate in served if candidate.image]
    quote = quote_batch(current(), user, images, model=model, img_size=img_size, tile_px=tile_px)
    st.session_state["quote"], st.session_state["quote_signature"] = quote, signature
    return quote


def _formula(line: QuoteLine, discount_percent: Decimal) -> str:
    """The price of a picture with all its numbers; of a free one, why it is free."""
    if line.free_reason is not None:
        return _free_words(line)
    discount = f" × (1 − {percent(discount_percent)})" if discount_percent else ""
    share = f" + {format_tokens(line.floor_mt)} {_('floor')}" if line.floor_mt else ""
    at_minimum = f" ({_('minimum')})" if line.amount_mt - line.floor_mt == line.minimum_mt else ""
    return (
        f"{line.alpha} × ({_pixels(line)} / 640²) × {line.beta}{discount}{share} = "
        f"{format_tokens(line.amount_mt)}{at_minimum}"
    )


def _pixels(line: QuoteLine) -> str:
    whole = f"{line.input_width} × {line.input_height}"
    if not line.tiles:
        return whole
    return f"({whole} + {line.tiles} × {line.tile_input_width} × {line.tile_input_height})"


def _free_words(line: QuoteLine) -> str:
    return _("already processed — free") if line.free_reason == FREE_PROCESSED else _("same picture as above — free")


def _show_line(candidate: Candidate, line: QuoteLine, quote: Quote) -> None:
    discount_percent = quote.discount_percent
    with st.container(border=True, horizontal=True, vertical_alignment="center", gap="small"):
        if candidate.thumbnail and line.tiles and quote.tile_px:
            grid = _with_grid(candidate.thumbnail, line.height, line.width, quote.tile_px)
            st.image(grid, width=THUMBNAIL_PX, alt=_("{name}, with the grid of its tiles").format(name=line.name))
        elif candidate.thumbnail:
            st.image(candidate.thumbnail, width=88, alt=line.name)
        with st.container(gap=None):
            st.markdown(f"**{plain(line.name)}**")
            st.caption(
                _("{width} × {height} px → network input {input_width} × {input_height}").format(
                    width=line.width,
                    height=line.height,
                    input_width=line.input_width,
                    input_height=line.input_height,
                )
            )
            if line.tiles:
                st.caption(
                    _("and {tiles}, each {input_width} × {input_height}, overlapping by {overlap}").format(
                        tiles=ngettext("{n} tile", "{n} tiles", line.tiles),
                        input_width=line.tile_input_width,
                        input_height=line.tile_input_height,
                        overlap=percent(Decimal(OVERLAP_PERCENT)),
                    )
                )
            if line.free_reason is not None:
                st.markdown(f":green-badge[{_free_words(line)}]")
            elif line.amount_mt < line.list_mt:
                st.markdown(
                    f"`{_formula(line, discount_percent)}` {_('tokens')} :gray[~~{format_tokens(line.list_mt)}~~]"
                )
            else:
                st.markdown(f"`{_formula(line, discount_percent)}` {_('tokens')}")


@st.cache_data(max_entries=256, show_spinner=False)
def _with_grid(thumbnail: bytes, height: int, width: int, tile_px: int) -> bytes:
    """A thumbnail with the tiles of its picture, as JPEG."""
    small = decode_image(thumbnail, bytes_max=len(thumbnail), pixels_max=THUMBNAIL_PX * THUMBNAIL_PX).pixels
    grid = draw_tiles(small, cut_tiles(height, width, tile_px), height, width)
    return encode_jpeg(grid, longest_side_px=THUMBNAIL_PX)


def _show_total(quote: Quote, served: list[Candidate], lines: list[QuoteLine]) -> None:
    user = require_user()
    balance = account_view.get_balance(current(), user)
    free = sum(1 for line in lines if line.free_reason)
    with st.container(border=True):
        left, middle, right = st.columns(3)
        show_amount(left, _("Total"), quote.total_mt)
        show_amount(middle, _("Available after"), balance.available_mt - quote.total_mt)
        right.metric(
            _("Pictures"),
            f"{len(lines):,}",
            delta=_("{charged} charged · {free} free").format(charged=f"{len(lines) - free:,}", free=f"{free:,}"),
            delta_color="off",
            delta_arrow="off",
        )
        with st.container(gap="xxsmall"):
            _show_discount(quote, lines)
            st.caption(
                " · ".join(
                    [
                        (
                            _("tokens = α · (W · H / 640²) · β · (1 − discount), rounded to 0.001, at least {minimum}")
                            if quote.discount_percent
                            else _("tokens = α · (W · H / 640²) · β, rounded to 0.001, at least {minimum}")
                        ).format(minimum=format_tokens(lines[0].minimum_mt)),
                        _("price list {version}").format(version=quote.price_version),
                    ]
                )
            )
            st.fragment(_show_binding, run_every=BINDING_REFRESH_S)(quote.expires_at)
            help_link("prices", _("How prices work"))
        show_run_button(quote, served)


def _show_discount(quote: Quote, lines: list[QuoteLine]) -> None:
    """What the batch saves, as a sum that adds up, and what would save more."""
    if quote.discount_percent:
        floor_mt = sum(line.floor_mt for line in lines)
        discount_mt = quote.list_mt - (quote.total_mt - floor_mt)
        st.markdown(
            _("List price {list} − {discount} ({percent} batch discount){floor} = **{total}**").format(
                list=format_tokens(quote.list_mt),
                discount=format_tokens(discount_mt),
                percent=percent(quote.discount_percent),
                floor=f" + {format_tokens(floor_mt)} {_('floor')}" if floor_mt else "",
                total=tokens(quote.total_mt),
            )
        )
        if floor_mt:
            st.caption(_("The floor: a batch never costs less than a smaller one that it contains."))
    tier = next_discount(current(), quote)
    if tier is not None:
        st.markdown(
            ":material/sell: "
            + _("Add {count} and the batch gets {percent} off.").format(
                count=ngettext("{n} picture", "{n} pictures", tier.images_missing), percent=percent(tier.percent)
            )
        )


def _show_binding(expires_at: datetime) -> None:
    left_s = (expires_at - utcnow()).total_seconds()
    if left_s > 0:
        binding = ngettext("binding for {n} minute", "binding for {n} minutes", max(1, round(left_s / 60)))
        st.caption(f":material/lock_clock: {binding} · {_('until {time}').format(time=local_clock(expires_at))}")
    else:
        st.caption(
            ":material/lock_clock: " + _("Asked for again when you run: you never pay more than the button says.")
        )
