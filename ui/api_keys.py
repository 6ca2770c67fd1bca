"""The API keys of an account: the list, the secret that is shown once, and calls to paste."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import streamlit as st

from core.identity.tables import User
from core.money import format_tokens
from core.services.api_keys import KeyView
from core.services.application import Application
from ui import code_samples
from ui.api_key_dialogs import FreshKey, create_dialog, forget_secret, revoke_dialog, rotate_dialog
from ui.code_samples import Call
from ui.format import local_time, plain, table_time, tokens_and_money
from ui.help import help_link
from ui.i18n import _, language, ngettext
from ui.session import may

STATE_COLORS = {"active": "green", "expiring": "orange"}


def show_fresh_key(app: Application, fresh: FreshKey) -> None:
    """The secret, the only time, and calls with it filled in."""
    with st.container(border=True, key="fresh_key"):
        st.markdown(_("The secret of **{name}**").format(name=plain(fresh.name)))
        st.warning(
            _(
                "Copy it now and keep it like a password: it is shown this once, and nobody can show it again. It goes "
                "away when you leave or reload this page."
            ),
            icon=":material/key:",
        )
        st.code(fresh.secret, language=None, wrap_lines=True)
        if fresh.old_ends is not None:
            st.caption(_("The old secret ends {time}.").format(time=local_time(fresh.old_ends)))
        show_calls(app, fresh)
        st.button(_("I have kept it"), icon=":material/check:", type="primary", on_click=forget_secret)


def show_calls(app: Application, fresh: FreshKey | None = None) -> None:
    """Calls of this server in four ways, with the secret where there is one to show, else with a variable for it."""
    embedded = app.registry.embedded().name
    allowed = fresh.models if fresh and fresh.models else [embedded]
    call = Call(
        code_samples.own_host(st.context.url),
        embedded if embedded in allowed else allowed[0],
        fresh.secret if fresh else None,
    )
    if fresh is None:
        st.caption(
            _("Put the secret of a key into the environment variable {variable} first.").format(
                variable=f"`{code_samples.KEY_VARIABLE}`"
            )
        )
    ways = {
        "cURL": ("bash", code_samples.curl_file, code_samples.curl_url),
        "Python": ("python", code_samples.python_file, code_samples.python_url),
        "JavaScript": ("javascript", code_samples.javascript_file, code_samples.javascript_url),
        _("Python client"): ("python", code_samples.client_file, code_samples.client_url),
    }
    for tab, (code_language, by_file, by_address) in zip(st.tabs(list(ways)), ways.values(), strict=True):
        with tab:
            st.caption(_("Upload a file"))
            st.code(by_file(call), language=code_language, wrap_lines=True)
            st.caption(_("Name the picture's address"))
            st.code(by_address(call), language=code_language, wrap_lines=True)


# The list ------------------------------------------------------------------------------------------


def show_actions(user: User, views: Sequence[KeyView]) -> None:
    """Make a key, or read why not; and the reference of the API."""
    is_member = may(user, "member")
    if not any(view.state in STATE_COLORS for view in views):
        st.info(
            _(
                "No key yet. Make one for each program that is to send pictures: each has its own caps, and ending one "
                "leaves the others alone."
            )
            if is_member
            else _("No key yet."),
            icon=":material/key:",
        )
    if not is_member:
        st.caption(_("You may look at the keys and make or end none: ask an owner for the role of a member."))
    with st.container(horizontal=True):
        if is_member and st.button(_("Create a key"), type="primary", icon=":material/add:"):
            st.dialog(_("Create a key"), icon=":material/key:")(create_dialog)(uuid.uuid4().hex)
        reference = f"/v1/docs?lang={language().replace('_', '-')}"
        st.link_button(_("API reference"), reference, icon=":material/menu_book:")
        help_link("api", _("The API in five minutes"))


def show_keys(user: User, views: Sequence[KeyView]) -> None:
    """Keys that work, with what they spent and may spend; those that ended are folded away."""
    if notice := st.session_state.pop("key_notice", None):
        st.success(notice, icon=":material/check_circle:")
    ended = []
    for view in views:
        if view.state in STATE_COLORS:
            _show_key(user, view)
        else:
            ended.append(view)
    if ended:
        with st.expander(ngettext("{n} key that ended", "{n} keys that ended", len(ended))):
            _show_ended(ended)


def _show_key(user: User, view: KeyView) -> None:
    key = view.key
    with st.container(border=True, key=f"key_{key.id}"):
        badges = f":{STATE_COLORS[view.state]}-badge[{_state_words(view)}]"
        if key.manages_keys:
            badges += f" :violet-badge[{_('manages keys')}]"
        st.markdown(f"**{plain(key.name)}** `{key.prefix}…` {badges}")
        st.caption(f"{_times(view)}  \n{_limits(view)}")
        today, month, actions = st.columns(3)
        today.markdown(_spent(_("Today"), view.day_spent_mt, view.day_cap_mt))
        month.markdown(_spent(_("This month"), view.month_spent_mt, view.month_cap_mt))
        if may(user, "member"):
            with actions.container(horizontal=True, horizontal_alignment="right"):
                _show_buttons(user, view)


def _show_buttons(user: User, view: KeyView) -> None:
    key = view.key
    # Owners alone make keys that manage keys, and rotating is making.
    may_rotate = view.state == "active" and may(user, "owner" if key.manages_keys else "member")
    if may_rotate and st.button(_("Rotate"), key=f"rotate_{key.id}", icon=":material/autorenew:"):
        st.dialog(_("Rotate this key"), icon=":material/autorenew:")(rotate_dialog)(view, uuid.uuid4().hex)
    if st.button(_("Revoke"), key=f"revoke_{key.id}", icon=":material/block:"):
        st.dialog(_("Revoke this key?"), icon=":material/block:")(revoke_dialog)(view)


def _show_ended(views: Sequence[KeyView]) -> None:
    st.dataframe(
        [
            {
                _("Name"): view.key.name,
                _("Prefix"): f"{view.key.prefix}…",
                _("State"): _state_words(view),
                _("Ended"): table_time(view.key.revoked_at or view.key.expires_at or view.key.created_at),
                _("Created"): table_time(view.key.created_at),
                _("Last used"): table_time(view.key.last_used_at) if view.key.last_used_at else "",
                # A key that took another's place counts on in the same budget: said there, not twice.
                _("Tokens this month"): "" if view.key.replaced_by else format_tokens(view.month_spent_mt),
            }
            for view in views
        ],
        hide_index=True,
    )


def _state_words(view: KeyView) -> str:
    if view.state == "expiring":
        assert view.key.expires_at is not None
        return _("being replaced until {time}").format(time=local_time(view.key.expires_at))
    words = {"active": _("active"), "expired": _("expired"), "revoked": _("revoked")}
    return _("replaced") if view.state == "expired" and view.key.replaced_by else words[view.state]


def _times(view: KeyView) -> str:
    used = view.key.last_used_at
    return " · ".join(
        [
            _("created {time}").format(time=local_time(view.key.created_at)),
            _("last used {time}").format(time=local_time(used)) if used else _("never used"),
        ]
    )


def _limits(view: KeyView) -> str:
    key = view.key
    limits = [
        ", ".join(key.models) if key.models else _("all models"),
        ", ".join(key.networks) if key.networks else _("from any address"),
    ]
    if view.state == "active":
        limits.append(_("until {time}").format(time=local_time(key.expires_at)) if key.expires_at else _("no end"))
    return plain(" · ".join(limits))


def _spent(label: str, spent_mt: int, cap_mt: int | None) -> str:
    left = (
        _("no cap")
        if cap_mt is None
        else _("{left} left of {cap}").format(
            left=format_tokens(max(0, cap_mt - spent_mt)), cap=tokens_and_money(cap_mt)
        )
    )
    return f":small[:gray[{label}]]  \n{tokens_and_money(spent_mt)}  \n:small[:gray[{left}]]"
