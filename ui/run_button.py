"""The button that runs a batch at the price it names: what stands in its way, and what happens when it is pressed."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from core.errors import (
    InsufficientTokensError,
    QuoteGrewError,
    RoleNeededError,
    SpendingCapError,
    VisionMeterError,
)
from core.identity.tables import User
from core.pricing.tables import Quote
from core.services.application import current
from core.services.metered_detection import find_obstacle, submit_quote
from core.services.quotes import get_quote
from ui.batch import Candidate, clear_batch
from ui.format import tokens, tokens_and_money
from ui.help import help_link
from ui.i18n import _
from ui.messages import explain
from ui.navigation import go_to
from ui.opened import open_run
from ui.session import require_user


def show_run_button(quote: Quote, served: list[Candidate]) -> None:
    """The button with the price of a quote, or why it cannot be pressed and what to do."""
    user = require_user()
    grown_id, previous_mt = st.session_state.get("grown", ("", 0))
    has_grown = grown_id == quote.id
    if has_grown:
        st.warning(
            _("The price went from {before} to {now} since the preview. Nothing was taken.").format(
                before=tokens(previous_mt), now=tokens(quote.total_mt)
            ),
            icon=":material/price_change:",
        )
    label = _("Run — {amount}").format(amount=tokens(quote.total_mt)) if quote.total_mt else _("Run — free")
    if has_grown and find_obstacle(current(), user, quote) is None:
        _ask_again(quote, served)
    elif show_spend_button([quote], label, key="run", icon=":material/play_arrow:", shortcut="Ctrl+Enter"):
        _run(quote, served)


def show_spend_button(quotes: Sequence[Quote], label: str, *, key: str, icon: str, shortcut: str | None = None) -> bool:
    """Whether the button that starts these runs was pressed; or why it cannot be pressed, and what to do."""
    user = require_user()
    obstacle = find_obstacle(current(), user, *quotes)
    if isinstance(obstacle, InsufficientTokensError):
        st.warning(
            _("The balance is short by {amount}.").format(amount=tokens_and_money(obstacle.missing_mt)),
            icon=":material/account_balance_wallet:",
        )
        if st.button(
            _("Top up {amount} to run").format(amount=tokens(obstacle.missing_mt)),
            type="primary",
            width="stretch",
            key=f"{key}_top_up",
        ):
            go_to("top_up")
        help_link("money", _("What to do when the balance is short"))
        return False
    if obstacle is not None:
        _show_obstacle(obstacle, label, user, key)
        return False
    # The key names the quote: a click on a button with another price starts nothing.
    return st.button(label, type="primary", width="stretch", key=f"{key}_{quotes[0].id}", icon=icon, shortcut=shortcut)


def _show_obstacle(obstacle: VisionMeterError, label: str, user: User, key: str) -> None:
    """A button that cannot be pressed, under the reason and the way out."""
    if isinstance(obstacle, RoleNeededError):
        st.info(
            _("You may look at prices and results here, and members of the account run: ask an owner to make you one."),
            icon=":material/visibility:",
        )
        label = _("{run} (members only)").format(run=label)
    else:
        st.warning(explain(obstacle), icon=":material/block:")
    st.button(label, type="primary", width="stretch", disabled=True, key=f"{key}_blocked")
    has_way_out = isinstance(obstacle, SpendingCapError) and user.role == "owner"
    if has_way_out and st.button(_("Change the caps"), icon=":material/tune:", key=f"{key}_caps"):
        go_to("account")


def _ask_again(quote: Quote, served: list[Candidate]) -> None:
    """The price grew while the quote lay there: run at the price on this button, or not."""
    with st.container(horizontal=True):
        agreed = st.button(
            _("Run at {amount}").format(amount=tokens(quote.total_mt)),
            type="primary",
            icon=":material/play_arrow:",
            key=f"run_{quote.id}",
        )
        declined = st.button(_("Not now"), key=f"not_now_{quote.id}")
    if agreed:
        _run(quote, served)
    if declined:
        st.session_state.pop("grown", None)
        st.rerun()


def _run(quote: Quote, served: list[Candidate]) -> None:
    user = require_user()
    files = {candidate.image.file_sha256: candidate.read() for candidate in served if candidate.image}
    try:
        job = submit_quote(current(), user, quote.id, files)
    except QuoteGrewError as error:
        st.session_state["quote"] = get_quote(current(), user, error.details["quote_id"])
        st.session_state["grown"] = (error.details["quote_id"], error.details["previous_mt"])
        st.rerun()
    except (InsufficientTokensError, SpendingCapError, RoleNeededError) as error:
        st.error(explain(error))
        return
    except VisionMeterError as error:
        st.session_state.pop("quote", None)
        st.error(explain(error))
        return
    clear_batch()
    open_run(job.id)
    st.rerun()
