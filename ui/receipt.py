"""A receipt: everything the price of one charge was made of, computed afresh before the reader's eyes."""

from __future__ import annotations

import streamlit as st

from core.geometry import STRIDE_PX
from core.identity.tables import User
from core.ledger.tables import Entry
from core.money import format_tokens, from_millitokens
from core.services import receipts
from core.services.application import Application
from core.services.receipt_document import exact_text, receipt_json
from core.services.receipts import ReceiptView
from ui.facts import show_facts
from ui.format import local_time, percent, plain, show_amount, tokens, tokens_and_money
from ui.help import help_link
from ui.i18n import _, ngettext
from ui.navigation import find_page


def show_receipt(app: Application, user: User, hold_id: str) -> None:
    """The receipt of a captured hold in short, or a sentence when there is none."""
    view = receipts.find_receipt(app, user, hold_id)
    if view is None:
        st.info(_("This entry has no receipt: nothing was charged by it, or it is demonstration data."))
        return
    with st.container(border=True):
        st.markdown(f"**{plain(view.receipt.image_name)}** · {tokens_and_money(view.receipt.amount_mt)}")
        st.markdown(f"`{price_formula(view)}`")
        _show_verdict(view)
        st.page_link(
            find_page("receipts"),
            label=_("The whole receipt"),
            icon=":material/receipt_long:",
            query_params={"id": view.receipt.id},
        )


def show_receipt_page(app: Application, user: User, view: ReceiptView) -> None:
    """One receipt with all that belongs to it."""
    receipt = view.receipt
    st.header(plain(receipt.image_name))
    st.caption(f"{_('Receipt')} `{receipt.id}` · {local_time(receipt.created_at)}")
    with st.container(border=True):
        charged, refunded, net = st.columns(3)
        show_amount(charged, _("Charged"), receipt.amount_mt)
        show_amount(refunded, _("Refunded"), view.hold.refunded_mt)
        show_amount(net, _("Net"), view.net_mt)
    st.subheader(_("How the price came about"))
    st.markdown(f"`{price_formula(view)}`")
    st.table(_steps(view), border="horizontal", hide_header=True)
    if receipt.floor_mt:
        st.caption(
            _(
                "The share of the floor: a batch never costs less than a smaller batch that it contains would; "
                "what its discount takes too much is spread over its pictures."
            )
        )
    _show_verdict(view)
    st.subheader(_("What was charged, and where it stands"))
    show_facts(_facts(view))
    _show_refunds(view)
    _show_repeats(view)
    with st.container(horizontal=True):
        st.download_button(
            _("Receipt as JSON"),
            data=lambda: receipt_json(app, user, receipt.id),
            file_name=f"{receipt.id}.json",
            mime="application/json",
            icon=":material/download:",
            on_click="ignore",
        )
        if view.image:
            st.page_link(
                find_page("detect"),
                label=_("The run with its boxes"),
                icon=":material/center_focus_strong:",
                query_params={"run": view.image.job_id},
            )
    st.caption(_("The JSON holds every number above: the price and the seal can be worked out from it alone."))


def price_formula(view: ReceiptView) -> str:
    """The formula of a receipt with its numbers filled in."""
    receipt = view.receipt
    discount = f" × (1 − {percent(receipt.discount_percent)})" if receipt.discount_percent else ""
    floor = f" + {format_tokens(receipt.floor_mt)}" if receipt.floor_mt else ""
    return (
        f"{receipt.alpha} × ({_pixels(view)} / 640²) × {receipt.beta}{discount}{floor} → "
        f"{format_tokens(view.recomputed_mt)}"
    )


def _pixels(view: ReceiptView) -> str:
    """The pixels that were paid for: those of the whole picture, and of the tiles that did not fail."""
    receipt, plan = view.receipt, view.computation.plan
    whole = f"{plan.whole.width} × {plan.whole.height}"
    if plan.tile is None:
        return whole
    return f"{whole} + {receipt.tiles - receipt.tiles_failed} × {plan.tile.width} × {plan.tile.height}"


def _steps(view: ReceiptView) -> dict[str, str]:
    receipt, computation = view.receipt, view.computation
    shape = computation.plan.whole
    steps = {
        _("Network input"): _(
            "{width} × {height} px, longer side to {img_size}, each side up to a multiple of {stride}: "
            "{input_width} × {input_height} px"
        ).format(
            width=receipt.image_width,
            height=receipt.image_height,
            img_size=receipt.img_size,
            stride=STRIDE_PX,
            input_width=shape.width,
            input_height=shape.height,
        ),
        **_tile_steps(view),
        _("Formula"): f"{receipt.alpha} × ({_pixels(view)} / 640²) × {receipt.beta} = {exact_text(computation.exact)}",
    }
    if receipt.discount_percent:
        steps[_("Batch discount")] = (
            ngettext("{n} charged picture in the batch", "{n} charged pictures in the batch", receipt.batch_images)
            + f": − {percent(receipt.discount_percent)} = {exact_text(computation.discounted)}"
        )
    else:
        steps[_("Batch discount")] = _("none ({images})").format(
            images=ngettext(
                "{n} charged picture in the batch", "{n} charged pictures in the batch", receipt.batch_images
            )
        )
    steps[_("Rounded half up to 0.001")] = str(computation.rounded)
    steps[_("At least")] = f"{receipt.minimum} → {computation.unit}"
    if receipt.floor_mt:
        steps[_("Share of the floor")] = f"+ {from_millitokens(receipt.floor_mt)} = {computation.amount}"
    steps[_("Computed again now")] = f"**{tokens(view.recomputed_mt)}**"
    return steps


def _tile_steps(view: ReceiptView) -> dict[str, str]:
    """How many tiles ran besides the whole picture, and which of them were given back."""
    receipt, plan = view.receipt, view.computation.plan
    if plan.tile is None:
        return {}
    steps = {
        _("Tiles"): _("{tiles} of {tile_px} px besides the whole picture, each run as {width} × {height} px").format(
            tiles=ngettext("{n} tile", "{n} tiles", receipt.tiles),
            tile_px=receipt.tile_px,
            width=plan.tile.width,
            height=plan.tile.height,
        )
    }
    if receipt.tiles_failed:
        steps[_("Tiles that failed")] = ngettext(
            "{n} tile, not charged", "{n} tiles, not charged", receipt.tiles_failed
        )
    return steps


def _facts(view: ReceiptView) -> dict[str, str]:
    receipt, hold = view.receipt, view.hold
    return {
        _("Picture"): f"{plain(receipt.image_name)} · {receipt.image_width} × {receipt.image_height} px",
        _("Fingerprint"): f"`{receipt.image_sha256}`",
        _("Model"): f"{plain(receipt.model)} · `{receipt.model_version}`",
        _("Price list"): plain(receipt.price_version),
        _("Quote"): f"`{receipt.quote_id}`",
        _("Run"): f"`{view.image.job_id}`" if view.image else "—",
        _("Held"): f"{tokens(hold.amount_mt)} · {local_time(hold.created_at)} · `{hold.id}`",
        _("Ledger entry"): f"{view.entry.seq:,} · {local_time(view.entry.created_at)}",
        _("Seal"): f"`{view.digest}`" if view.digest else _("not sealed yet: that takes a few seconds"),
        _("Started by"): _person(view, view.entry),
    }


def _show_refunds(view: ReceiptView) -> None:
    st.subheader(_("Refunds"))
    help_link("money", _("What to do if a charge seems wrong"))
    if not view.refunds:
        st.caption(_("Nothing was refunded."))
        return
    for entry in view.refunds:
        with st.container(border=True, gap=None):
            st.markdown(f"**{tokens_and_money(entry.amount_mt)}** — {plain(entry.memo)}")
            st.caption(
                " · ".join([local_time(entry.created_at), _person(view, entry), f"{_('Ledger entry')} {entry.seq:,}"])
            )


def _show_repeats(view: ReceiptView) -> None:
    st.subheader(_("Free repeats"))
    if not view.repeat_count:
        st.caption(_("The same picture with the same model and size costs you nothing again: its result is stored."))
        return
    st.caption(
        ngettext(
            "This charge also paid for {n} later picture with the same content, model and size.",
            "This charge also paid for {n} later pictures with the same content, model and size.",
            view.repeat_count,
        )
    )
    st.markdown(
        "\n".join(
            f"- {plain(image.name)} · {local_time(image.finished_at) if image.finished_at else ''} · `{image.job_id}`"
            for image in view.repeats
        )
    )
    if view.repeat_count > len(view.repeats):
        st.caption(_("The newest {n} are shown.").format(n=len(view.repeats)))


def _person(view: ReceiptView, entry: Entry) -> str:
    """Who made an entry: the address of somebody of this account; corrections come from the operator."""
    if entry.actor in view.names:
        return plain(view.names[entry.actor])
    return _("the operator") if entry.actor.startswith("user_") else plain(entry.actor)


def _show_verdict(view: ReceiptView) -> None:
    if view.agrees:
        st.success(_("Computed again just now: the same amount."), icon=":material/verified:")
    else:
        st.error(_("Computed again just now: another amount. Tell the operator."), icon=":material/report:")
