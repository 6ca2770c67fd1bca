"""A receipt: everything the price of one charge was made of, computed afresh before the reader's eyes."""

from __future__ import annotations

import streamlit as st

from core.identity.tables import User
from core.money import format_tokens
from core.services import account_view
from core.services.application import Application
from ui.format import local_time, tokens_and_money
from ui.i18n import _


def show_receipt(app: Application, user: User, hold_id: str) -> None:
    """The receipt of a captured hold, or a sentence when there is none."""
    view = account_view.get_receipt(app, user, hold_id)
    if view is None:
        st.info(_("This entry has no receipt: nothing was charged by it, or it is demonstration data."))
        return
    receipt = view.receipt
    with st.container(border=True):
        st.markdown(f"**{_('Receipt')}** `{receipt.id}`")
        st.dataframe(
            {
                _("Time"): local_time(receipt.created_at),
                _("Picture"): f"{receipt.image_name} ({receipt.image_width} × {receipt.image_height} px)",
                _("Fingerprint"): receipt.image_sha256,
                _("Model"): f"{receipt.model} · {receipt.model_version}",
                _("Network input"): f"{receipt.input_width} × {receipt.input_height} px",
                _("Price list"): receipt.price_version,
                _("Charged"): tokens_and_money(receipt.amount_mt),
            },
            width="stretch",
        )
        st.markdown(
            f"`{receipt.alpha} × ({receipt.input_width} × {receipt.input_height} / 640²) × {receipt.beta} → "
            f"{format_tokens(view.recomputed_mt)}`"
        )
        if view.agrees:
            st.success(_("Computed again just now: the same amount."), icon=":material/verified:")
        else:
            st.error(_("Computed again just now: another amount. Tell the operator."), icon=":material/report:")
