"""The account's transactions: by type and period, page by page, with receipts, refunds and the CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import pandas as pd
import streamlit as st

from core.identity.tables import User
from core.ledger.ledger import SYSTEM
from core.ledger.tables import Entry
from core.money import format_tokens
from core.services import account_view, audit, team
from core.services.application import Application, current
from core.slots import period_of
from ui.format import money, plain, table_time, time_zone, tokens
from ui.i18n import N_, _, ngettext
from ui.payments import show_payment_of
from ui.receipt import show_receipt
from ui.verification import explain_problem

PER_PAGE = 50
CSV_ENTRIES_MAX = 50_000
KIND_WORDS = {
    "top_up": N_("top-up"),
    "bonus": N_("bonus"),
    "hold": N_("held"),
    "capture": N_("charge"),
    "release": N_("given back"),
    "expire": N_("given back"),
    "refund": N_("refund"),
    "adjustment": N_("adjustment"),
    "freeze": N_("account frozen"),
    "unfreeze": N_("account active again"),
}
# None: whatever kind.
VIEW_KINDS: dict[str, tuple[str, ...] | None] = {
    "settled": ("top_up", "bonus", "capture", "refund", "adjustment"),
    "top_up": ("top_up", "bonus"),
    "capture": ("capture",),
    "corrections": ("refund", "adjustment", "freeze", "unfreeze"),
    "all": None,
}


def kind_words(kind: str) -> str:
    """The kind of an entry, in words."""
    return _(KIND_WORDS[kind]) if kind in KIND_WORDS else kind


def show_transactions(user: User) -> None:
    """The filters, one page of entries, what was selected in it, and the downloads."""
    app = current()
    view, since, until = _show_filters()
    kinds = VIEW_KINDS[view]
    trail = _trail((view, since, until))
    found = account_view.list_transactions(
        app,
        user,
        kinds=kinds,
        since=since,
        until=until,
        before_seq=trail[-1] if trail else None,
        limit=PER_PAGE + 1,
    )
    entries, has_older = found[:PER_PAGE], len(found) > PER_PAGE
    actors = team.actor_names(app, user.account_id)
    if entries:
        _show_page(app, user, view, entries, actors)
        _show_pager(trail, entries, has_older=has_older)
    elif view == "settled" and since is None:
        st.info(_("Nothing here yet: top up above, then run your first picture on the Detect page."))
    else:
        st.info(_("There is nothing of this type in this period: choose another."))
    with st.container(horizontal=True):
        if entries:
            st.download_button(
                _("CSV of this list"),
                data=lambda: account_view.transactions_csv(
                    account_view.list_transactions(
                        app, user, kinds=kinds, since=since, until=until, limit=CSV_ENTRIES_MAX
                    ),
                    actors=actors,
                ),
                file_name="transactions.csv",
                mime="text/csv",
                icon=":material/download:",
                on_click="ignore",
                help=_("All pages of the chosen type and period: at most {n} entries, the newest.").format(
                    n=f"{CSV_ENTRIES_MAX:,}"
                ),
            )
        if st.button(_("Verify my balance"), icon=":material/verified:"):
            _verify(app, user)


def _show_filters() -> tuple[str, datetime | None, datetime | None]:
    """The chosen view, and the period as start ≤ t < end; None where it is open."""
    views = {
        "settled": _("All that moved the balance"),
        "top_up": _("Top-ups"),
        "capture": _("Charges"),
        "corrections": _("Refunds and corrections"),
        "all": _("Everything, holds too"),
    }
    periods = {"all": _("All"), "7": _("7 days"), "30": _("30 days"), "90": _("90 days"), "custom": _("Custom")}
    view = st.segmented_control(
        _("Show"), list(views), format_func=views.__getitem__, default="settled", required=True, key="transactions_view"
    )
    period = st.segmented_control(
        _("Period"),
        list(periods),
        format_func=periods.__getitem__,
        default="all",
        required=True,
        key="transactions_period",
    )
    zone = time_zone()
    today = datetime.now(zone).date()
    first, last = today - timedelta(days=29), today
    if period == "all":
        return view, None, None
    if period == "custom":
        chosen = st.date_input(_("From – to"), (first, last), max_value=today, key="transactions_custom", width=320)
        if len(chosen) != 2:
            st.info(_("Choose the last day too."))
            st.stop()
        first, last = chosen
    else:
        first = today - timedelta(days=int(period) - 1)
    return (
        view,
        *period_of(first, last, zone),
    )


def _trail(chosen: tuple[object, ...]) -> list[int]:
    """Where each page behind the first one begins: the entries before this `seq`. Another choice starts anew."""
    if st.session_state.get("transactions_chosen") != chosen:
        st.session_state["transactions_chosen"], st.session_state["transactions_trail"] = chosen, []
    trail: list[int] = st.session_state["transactions_trail"]
    return trail


def _show_page(app: Application, user: User, view: str, entries: Sequence[Entry], actors: Mapping[str, str]) -> None:
    refunded = account_view.find_refunded(app, user, entries)
    kinds = {kind: kind_words(kind) for kind in {entry.kind for entry in entries}}
    columns = {
        _("Time"): [table_time(entry.created_at) for entry in entries],
        _("Type"): [kinds[entry.kind] for entry in entries],
        _("Tokens"): [format_tokens(entry.posted_change_mt, signed=True) for entry in entries],
        _("Worth"): [money(entry.posted_change_mt) for entry in entries],
        _("Settled after"): [format_tokens(entry.posted_after_mt) for entry in entries],
    }
    if view == "all":
        columns[_("Held after")] = [format_tokens(entry.held_after_mt) for entry in entries]
    if refunded:
        columns[_("Refunded of it")] = [
            format_tokens(refunded[entry.hold_id]) if entry.kind == "capture" and entry.hold_id in refunded else ""
            for entry in entries
        ]
    memos = [account_view.split_memo(entry) for entry in entries]
    if any(reason for _reference, reason in memos):
        columns[_("Reason")] = [reason for _reference, reason in memos]
    columns[_("By")] = [_actor(entry, actors) for entry in entries]
    columns[_("Reference")] = [reference for reference, _reason in memos]
    gain, loss = ("#57C99A", "#F08A80") if st.context.theme.type == "dark" else ("#0B7A4B", "#C0392B")
    colours = [
        f"color: {gain if entry.posted_change_mt > 0 else loss}" if entry.posted_change_mt else "" for entry in entries
    ]
    event = st.dataframe(
        pd.DataFrame(columns).style.apply(lambda _column: colours, subset=[_("Tokens")]),
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        # Row numbers mean nothing in another list.
        key=f"transactions_{view}_{entries[0].seq}_{entries[-1].seq}",
    )
    st.caption(_("Select a charge to see its receipt, or a top-up to see its payment."))
    for row in event.selection.rows:
        entry = entries[row]
        if entry.hold_id and refunded.get(entry.hold_id):
            st.info(
                _("Refunded of this charge: {amount}.").format(amount=tokens(refunded[entry.hold_id])),
                icon=":material/undo:",
            )
        if entry.hold_id:
            show_receipt(app, user, entry.hold_id)
        elif entry.kind in ("top_up", "bonus"):
            show_payment_of(entry)
        elif reason := account_view.split_memo(entry)[1]:
            st.info(f"{kind_words(entry.kind)} — {plain(reason)}", icon=":material/edit_note:")


def _actor(entry: Entry, actors: Mapping[str, str]) -> str:
    """Who did it: somebody of the account by his address, a rule, the operator, or nobody in particular."""
    if entry.actor.startswith("rule:"):
        return _("rule of the price list")
    if entry.actor == SYSTEM:
        return ""
    name = account_view.name_actor(entry.actor, actors)
    return _("operator") if name == account_view.OPERATOR else name


def _show_pager(trail: list[int], entries: Sequence[Entry], *, has_older: bool) -> None:
    if not trail and not has_older:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button(_("Newer"), icon=":material/chevron_left:", disabled=not trail):
            trail.pop()
            st.rerun()
        if st.button(_("Older"), icon=":material/chevron_right:", icon_position="right", disabled=not has_older):
            trail.append(entries[-1].seq)
            st.rerun()
        st.caption(
            _("Page {n}").format(n=len(trail) + 1)
            + " · "
            + ngettext("{n} entry a page", "{n} entries a page", PER_PAGE)
        )


def _verify(app: Application, user: User) -> None:
    check = audit.verify_balance(app, user)
    if check.ok:
        posted_mt = account_view.get_balance(app, user).posted_mt
        st.success(
            _("All {count} entries replayed: they give exactly {balance}.").format(
                count=f"{check.entries:,}", balance=tokens(posted_mt)
            )
        )
    else:
        st.error(
            _("The entries do not give this balance. Tell the operator: {problem}").format(
                problem="; ".join(explain_problem(problem) for problem in check.problems)
            )
        )
