"""The price before anything runs: each picture with its formula, the total, the balance after, and the button."""

from __future__ import annotations

import streamlit as st

from core.db import utcnow
from core.errors import InsufficientTokensError, VisionMeterError
from core.money import format_tokens
from core.pricing.tables import Quote
from core.services import account_view
from core.services.application import current
from core.services.metered_detection import (
    FREE_PROCESSED,
    QuoteLine,
    quote_batch,
    quote_lines,
    submit_quote,
)
from ui.batch import Candidate, clear_batch
from ui.format import plain, show_amount, tokens, tokens_and_money
from ui.i18n import _, ngettext
from ui.messages import explain, explain_code
from ui.navigation import go_to
from ui.session import require_user

LINES_SHOWN = 12
REQUOTE_BEFORE_S = 30


def show_preview(candidates: list[Candidate], model: str, img_size: int) -> None:
    """The preview of a batch. Pictures that cannot be served are named with the reason; the others go on."""
    for candidate in candidates:
        if candidate.problem is not None:
            st.error(f"**{plain(candidate.name)}** — {explain(candidate.problem)}", icon=":material/broken_image:")
    served = [candidate for candidate in candidates if candidate.image is not None]
    if not served:
        return
    try:
        quote = _current_quote(served, model, img_size)
    except VisionMeterError as error:
        st.error(explain(error))
        return
    lines = quote_lines(quote)
    st.subheader(_("Price before running"))
    for candidate, line in list(zip(served, lines, strict=True))[:LINES_SHOWN]:
        _show_line(candidate, line)
    if len(lines) > LINES_SHOWN:
        with st.expander(ngettext("{n} more picture", "{n} more pictures", len(lines) - LINES_SHOWN)):
            st.dataframe(
                [
                    {_("Picture"): line.name, _("Formula"): _formula(line), _("Tokens"): format_tokens(line.amount_mt)}
                    for line in lines[LINES_SHOWN:]
                ],
                hide_index=True,
            )
    _show_total(quote, served, lines)


def _current_quote(served: list[Candidate], model: str, img_size: int) -> Quote:
    """The stored quote of exactly this batch; a new one when the batch changed or the old one runs out."""
    user = require_user()
    signature = (
        tuple((candidate.name, candidate.image.file_sha256) for candidate in served if candidate.image),
        model,
        img_size,
        st.session_state.get("jobs_seen", 0),
    )
    quote: Quote | None = st.session_state.get("quote")
    fresh = quote is not None and (quote.expires_at - utcnow()).total_seconds() > REQUOTE_BEFORE_S
    if quote is None or not fresh or st.session_state.get("quote_signature") != signature:
        if quote is not None and st.session_state.get(f"run_{quote.id}"):
            # The click was meant for the price that was on the button; the new one must be looked at first.
            st.warning(explain_code("quote_expired"), icon=":material/price_change:")
        images = [candidate.image for candidate in served if candidate.image]
        quote = quote_batch(current(), user, images, model=model, img_size=img_size)
        st.session_state["quote"], st.session_state["quote_signature"] = quote, signature
    return quote


def _formula(line: QuoteLine) -> str:
    price = format_tokens(line.list_mt)
    at_minimum = f" ({_('minimum')})" if line.list_mt == line.minimum_mt else ""
    return f"{line.alpha} × ({line.input_width} × {line.input_height} / 640²) × {line.beta} = {price}{at_minimum}"


def _show_line(candidate: Candidate, line: QuoteLine) -> None:
    with st.container(border=True, horizontal=True, vertical_alignment="center", gap="small"):
        if candidate.thumbnail:
            st.image(candidate.thumbnail, width=88)
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
            if line.free_reason is None:
                st.markdown(f"`{_formula(line)}` {_('tokens')}")
            elif line.free_reason == FREE_PROCESSED:
                st.markdown(f":green-badge[{_('already processed — free')}]")
            else:
                st.markdown(f":green-badge[{_('same picture as above — free')}]")


def _show_total(quote: Quote, served: list[Candidate], lines: list[QuoteLine]) -> None:
    balance = account_view.get_balance(current(), require_user())
    free = sum(1 for line in lines if line.free_reason)
    with st.container(border=True):
        left, middle, right = st.columns(3)
        show_amount(left, _("Total"), quote.total_mt)
        show_amount(middle, _("Balance after"), balance.available_mt - quote.total_mt)
        minutes = max(1, round((quote.expires_at - utcnow()).total_seconds() / 60))
        right.metric(_("Pictures"), f"{len(lines):,}")
        st.caption(
            " · ".join(
                filter(
                    None,
                    [
                        _("tokens = α · (W · H / 640²) · β, rounded to 0.001, at least {minimum}").format(
                            minimum=format_tokens(lines[0].minimum_mt)
                        ),
                        ngettext("{n} picture is free", "{n} pictures are free", free) if free else "",
                        _("price list {version}").format(version=quote.price_version),
                        ngettext("binding for {n} minute", "binding for {n} minutes", minutes),
                    ],
                )
            )
        )
        missing_mt = quote.total_mt - balance.available_mt
        if missing_mt > 0:
            st.warning(
                _("The balance is short by {amount}.").format(amount=tokens_and_money(missing_mt)),
                icon=":material/account_balance_wallet:",
            )
            if st.button(
                _("Top up {amount} to run").format(amount=tokens(missing_mt)), type="primary", width="stretch"
            ):
                go_to("top_up")
            return
        label = _("Run — {amount}").format(amount=tokens(quote.total_mt)) if quote.total_mt else _("Run — free")
        # The key names the quote: a click on a button with another price starts nothing.
        if st.button(
            label,
            type="primary",
            width="stretch",
            key=f"run_{quote.id}",
            icon=":material/play_arrow:",
            shortcut="Ctrl+Enter",
        ):
            _run(quote, served)


def _run(quote: Quote, served: list[Candidate]) -> None:
    user = require_user()
    files = {candidate.image.file_sha256: candidate.read() for candidate in served if candidate.image}
    try:
        job = submit_quote(current(), user, quote.id, files)
    except InsufficientTokensError as error:
        st.error(explain(error))
        return
    except VisionMeterError as error:
        st.session_state.pop("quote", None)
        st.error(explain(error))
        return
    clear_batch()
    st.session_state["job_id"] = job.id
    st.query_params["run"] = job.id
    st.rerun()
