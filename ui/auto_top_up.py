"""Top up, Automatic top-ups: the kept card, the rule and its month; and the banner when it has stopped."""

from __future__ import annotations

import streamlit as st

from core.errors import VisionMeterError
from core.identity.tables import User
from core.money import format_tokens, from_minor, parse_number, parse_tokens, to_minor
from core.payments.offers import Offers
from core.payments.stripe_checkout import STRIPE
from core.services import kept_cards, payments, saved_cards
from core.services.application import current
from core.services.saved_cards import AutoView
from ui.format import paid, plain
from ui.i18n import _
from ui.messages import explain
from ui.navigation import go_to
from ui.session import may, require_user


def show_auto_stopped(user: User) -> None:
    """On every page: automatic top-ups have stopped, and why."""
    stopped = saved_cards.find_stopped(current(), user)
    if not stopped:
        return
    with st.container(key="auto_stopped", border=True, horizontal=True, vertical_alignment="center"):
        st.markdown(f":red[:material/credit_card_off:] {_stopped_words(stopped)}", width="stretch")
        if may(user, "member") and st.button(_("Top up"), type="primary", key="auto_stopped_top_up"):
            go_to("top_up")


def show_auto_top_up(user: User, ways: list[str]) -> None:
    """The rule, off until the owner turns it on; nothing where no cards are taken and none is kept."""
    app = current()
    view = saved_cards.get_auto(app, user)
    if STRIPE not in ways and view.card is None:
        return
    is_owner = may(user, "owner")
    st.subheader(_("Automatic top-ups"))
    if view.card is None:
        st.caption(_("Off. To turn them on, pay once by card and tick the box that keeps it."))
        return
    rule = view.rule
    if rule is not None and rule.is_on and rule.stopped:
        st.error(_stopped_words(rule.stopped), icon=":material/credit_card_off:")
        if rule.stopped in ("reversed", "currency", "limits"):
            st.caption(_("Nothing is charged until an owner turns them on again."))
        else:
            st.caption(
                _(
                    "Pay by card above, with the box ticked to keep another one; or call your bank. "
                    "Then turn them on again."
                )
            )
    elif view.is_full and rule is not None and rule.is_on:
        st.warning(_("This month's ceiling is reached: nothing more is charged until the next month."))
    _show_card(view, is_owner=is_owner)
    _show_rule(view, payments.get_offers(app), is_owner=is_owner)
    if not is_owner:
        st.caption(_("Only an owner of the account changes this."))


def _stopped_words(stopped: str) -> str:
    words = {
        "authentication_required": _(
            "Automatic top-ups have stopped: the bank wants the card's holder to confirm each payment."
        ),
        "card_declined": _("Automatic top-ups have stopped: the bank declined the saved card."),
        "not_charged": _("Automatic top-ups have stopped: Stripe did not charge the saved card."),
        "reversed": _("Automatic top-ups have stopped: money of a payment went back to a card."),
        "currency": _("Automatic top-ups have stopped: they were turned on in another currency."),
        "limits": _("Automatic top-ups have stopped: their amount cannot be bought any more."),
    }
    return words[stopped]


def _show_card(view: AutoView, *, is_owner: bool) -> None:
    assert view.card is not None
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(
            _("Kept with Stripe: {card}").format(card=plain(f"{view.card.brand.title()} ·· {view.card.last4}")),
            width="content",
        )
        if st.button(_("Forget this card"), icon=":material/delete:", key="forget_card", disabled=not is_owner):
            try:
                kept_cards.forget_card(current(), require_user())
            except VisionMeterError as error:
                st.error(explain(error))
            else:
                st.rerun()


def _show_rule(view: AutoView, offers: Offers, *, is_owner: bool) -> None:
    rule, symbol = view.rule, current().settings.currency_symbol
    if rule is not None and rule.currency != offers.currency:
        # Its amounts mean something else.
        rule = None
    is_on = view.rule is not None and view.rule.is_on
    amount = offers.presets_minor[0] if rule is None else rule.amount_minor
    ceiling = min(10 * amount, 10**12) if rule is None else rule.month_max_minor
    threshold_mt = offers.terms(offers.presets_minor[0]).tokens_mt // 10 if rule is None else rule.threshold_mt
    with st.form("auto_top_up", width=480):
        threshold = st.text_input(
            _("When fewer tokens are available than"), format_tokens(threshold_mt), max_chars=20, disabled=not is_owner
        )
        buy = st.text_input(
            _("buy for ({currency})").format(currency=offers.currency),
            f"{from_minor(amount, offers.currency):,}",
            max_chars=20,
            disabled=not is_owner,
        )
        most = st.text_input(
            _("and for no more in a month than ({currency})").format(currency=offers.currency),
            f"{from_minor(ceiling, offers.currency):,}",
            max_chars=20,
            disabled=not is_owner,
        )
        st.caption(
            _("Charged this month: {amount}. Months are those of the time zone {zone}.").format(
                amount=plain(paid(view.month_minor, offers.currency)), zone=current().settings.billing_time_zone
            )
        )
        with st.container(horizontal=True):
            words = _("Save") if is_on and rule is not None and not rule.stopped else _("Turn on")
            saved = st.form_submit_button(words, type="primary", disabled=not is_owner)
            turned_off = is_on and st.form_submit_button(_("Turn off"), disabled=not is_owner)
    if st.session_state.pop("auto_saved", False):
        st.success(_("Saved."))
    if not saved and not turned_off:
        return
    try:
        if turned_off:
            saved_cards.turn_off(current(), require_user())
        else:
            threshold_mt = parse_tokens(threshold)
            amount, ceiling = (
                to_minor(parse_number(typed.replace(symbol, "")), offers.currency) for typed in (buy, most)
            )
            saved_cards.turn_on(
                current(), require_user(), threshold_mt=threshold_mt, amount_minor=amount, month_max_minor=ceiling
            )
    except VisionMeterError as error:
        st.error(explain(error))
    except ValueError:
        st.error(_("Enter the amounts as numbers."))
    else:
        st.session_state["auto_saved"] = True
        st.rerun()
