"""Top up, Buy tokens: an amount, what it buys with its bonus, and the ways to pay."""

from __future__ import annotations

import uuid

import streamlit as st

from core.errors import VisionMeterError
from core.ledger.ledger import Balance
from core.money import from_minor, parse_number, to_minor
from core.payments.offers import Offers
from core.payments.stripe_checkout import STRIPE
from core.services import payments
from core.services.application import current
from ui.format import paid, percent, plain, show_amount, tokens
from ui.i18n import _
from ui.messages import explain
from ui.payment_words import way_words
from ui.session import may, require_user

OTHER = 0


def show_buy_tokens(balance: Balance, ways: list[str], *, is_member: bool) -> None:
    """Presets and an amount of one's own; the price before paying; a button for each way to pay."""
    offers = payments.get_offers(current())
    amount_minor = _choose(offers)
    if amount_minor is None:
        return
    terms = offers.terms(amount_minor)
    with st.container(border=True, key="buy_preview"):
        pay, get, after = st.columns(3)
        pay.metric(
            _("You pay"),
            paid(amount_minor, offers.currency),
            delta=_("{price} a token").format(
                price=f"{current().settings.currency_symbol}{terms.effective_price.normalize():f}"
            ),
            delta_color="off",
            delta_arrow="off",
        )
        get.metric(
            _("You get"),
            tokens(terms.tokens_mt + terms.bonus_mt),
            delta=_("{amount} of it bonus").format(amount=tokens(terms.bonus_mt)) if terms.bonus_mt else _("no bonus"),
            delta_color="normal" if terms.bonus_mt else "off",
            delta_arrow="off",
        )
        show_amount(after, _("Available afterwards"), balance.available_mt + terms.tokens_mt + terms.bonus_mt)
    if tier := offers.next_tier(amount_minor):
        st.caption(
            _("From {amount} on you get {percent} more tokens.").format(
                amount=paid(tier.amount_minor_min, offers.currency), percent=percent(tier.percent)
            )
        )
    # One key for the amount as it stands on the page: a double click sends the same request twice.
    request = st.session_state.setdefault("payment_request", uuid.uuid4().hex)
    keeps = (
        STRIPE in ways
        and may(require_user(), "owner")
        and st.checkbox(_("Keep the card with Stripe, for automatic top-ups that I turn on below"), key="keep_card")
    )
    pressed = None
    with st.container(horizontal=True):
        for way in ways:
            label = _("Pay {amount} {way}").format(amount=paid(amount_minor, offers.currency), way=way_words(way))
            if st.button(label, type="primary", key=f"pay_{way}", disabled=not is_member):
                pressed = way
    if pressed is None:
        if st.session_state.pop("payment_opened", False):
            del st.session_state["payment_request"]
        return
    try:
        payments.open_payment(
            current(),
            require_user(),
            pressed,
            amount_minor,
            idempotency_key=f"{request} {pressed} {amount_minor} {keeps}",
            saves_card=keeps and pressed == STRIPE,
        )
    except VisionMeterError as error:
        st.error(explain(error))
    else:
        st.session_state["payment_opened"] = True
        st.rerun()


def _choose(offers: Offers) -> int | None:
    """The chosen amount in minor units; None while there is none that can be paid."""

    def label(amount_minor: int) -> str:
        if amount_minor == OTHER:
            return _("Other amount")
        bonus = offers.terms(amount_minor).bonus_percent
        money = paid(amount_minor, offers.currency).removesuffix(".00")
        return f"{money} · +{percent(bonus)}" if bonus else money

    chosen = st.segmented_control(
        _("Amount"),
        [*offers.presets_minor, OTHER],
        format_func=label,
        default=offers.presets_minor[0],
        required=True,
        key="buy_amount",
    )
    if chosen != OTHER:
        return chosen
    # Two dollar signs in one text would be taken for a formula.
    least, most = (plain(paid(limit, offers.currency)) for limit in (offers.minor_min, offers.minor_max))
    typed = st.text_input(
        _("Amount, from {least} to {most}").format(least=least, most=most),
        key="buy_other",
        max_chars=20,
        placeholder=f"{from_minor(offers.presets_minor[-1], offers.currency):,}",
        width=320,
    )
    if not typed.strip():
        return None
    try:
        amount_minor = to_minor(parse_number(typed.replace(current().settings.currency_symbol, "")), offers.currency)
    except ValueError:
        st.error(
            _("Enter the amount as a number, such as {example}.").format(
                example=f"{from_minor(offers.minor_min, offers.currency):,}"
            )
        )
        return None
    if not offers.minor_min <= amount_minor <= offers.minor_max:
        st.error(_("The amount lies outside the limits: from {least} to {most}.").format(least=least, most=most))
        return None
    return amount_minor
