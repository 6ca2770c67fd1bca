"""What is done to API keys: a form to make one, a choice to rotate one, a question before one is revoked.

`request` is made when a dialog opens: whatever is clicked twice in it makes one key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

import streamlit as st

from core.errors import VisionMeterError
from core.money import parse_tokens
from core.services import api_keys
from core.services.api_key_settings import NAME_LENGTH_MAX, KeySettings
from core.services.api_keys import GRACE_DEFAULT, GRACES, KeyView, NewKey
from core.services.application import current
from ui.format import local_time, plain, time_zone
from ui.i18n import _
from ui.messages import explain
from ui.session import may, require_user

# Streamlit's "Press Enter to submit form", which it says in English only, lies over what is typed in a narrow field.
NO_HINTS = "<style>.st-key-create_key [data-testid=InputInstructions] { display: none; }</style>"


@dataclass(frozen=True, slots=True)
class FreshKey:
    """A secret that is shown now, until it is dismissed. `old_ends` is when the one it replaces ends."""

    request: str
    key_id: str
    name: str
    secret: str
    models: Sequence[str] | None
    old_ends: datetime | None = None


def fresh_key() -> FreshKey | None:
    """The key that was just made and not dismissed yet."""
    return st.session_state.get("fresh_key")


def forget_secret() -> None:
    """Let go of the secret: from here on nobody can show it."""
    st.session_state.pop("fresh_key", None)


def create_dialog(request: str) -> None:
    """The form for a new key."""
    tomorrow = datetime.now(time_zone()).date() + timedelta(days=1)
    st.html(NO_HINTS)
    with st.container(key="create_key"), st.form(f"form_{request}", border=False):
        name = st.text_input(_("Name"), max_chars=NAME_LENGTH_MAX, placeholder=_("what will use it"))
        models = st.multiselect(
            _("Models"), [model.name for model in current().registry.models()], placeholder=_("all models")
        )
        left, right = st.columns(2)
        caps = (
            left.text_input(_("Cap a day (tokens)"), max_chars=24, placeholder=_("no cap")),
            right.text_input(_("Cap a month (tokens)"), max_chars=24, placeholder=_("no cap")),
        )
        last_day = st.date_input(_("Valid until (optional)"), value=None, min_value=tomorrow)
        networks = st.text_area(
            _("Allowed addresses, one a line (optional)"), placeholder="203.0.113.7\n203.0.113.0/24", height=90
        )
        manages_keys = may(require_user(), "owner") and st.checkbox(
            _("May manage keys"), help=_("A program with this key can make, rotate and revoke keys of this account.")
        )
        if st.form_submit_button(_("Create"), type="primary"):
            _create(request, name or "", models, caps, last_day, networks or "", manages_keys=manages_keys)


def _create(
    request: str,
    name: str,
    models: Sequence[str],
    caps: tuple[str | None, str | None],
    last_day: date | None,
    networks: str,
    *,
    manages_keys: bool,
) -> None:
    try:
        day_cap_mt, month_cap_mt = (parse_tokens(text) if text and text.strip() else None for text in caps)
    except ValueError:
        st.error(
            _(
                "Enter tokens as a number such as 1,000 or 12.5, with at most three decimals; leave a field empty "
                "for none."
            )
        )
        return
    settings = KeySettings(
        name=name,
        models=models or None,
        networks=[line.strip() for line in networks.splitlines() if line.strip()] or None,
        day_cap_mt=day_cap_mt,
        month_cap_mt=month_cap_mt,
        expires_at=datetime.combine(last_day, time.max, tzinfo=time_zone()) if last_day else None,
        manages_keys=manages_keys,
    )
    _make(request, lambda: api_keys.create_key(current(), require_user(), settings))


def rotate_dialog(view: KeyView, request: str) -> None:
    """Choose how long the old secret goes on, and make the new one."""
    words = {
        timedelta(0): _("at once"),
        timedelta(hours=1): _("after 1 hour"),
        timedelta(hours=24): _("after 24 hours"),
        timedelta(days=7): _("after 7 days"),
    }
    with st.form(f"form_{request}", border=False):
        st.markdown(
            _(
                "{name} gets a new secret, with the same limits. Put it into your programs before the old one ends."
            ).format(name=_named(view))
        )
        grace = st.radio(
            _("The old secret ends"), GRACES, index=GRACES.index(GRACE_DEFAULT), format_func=words.__getitem__
        )
        if st.form_submit_button(_("Rotate"), type="primary"):
            _make(
                request,
                lambda: api_keys.rotate_key(current(), require_user(), view.key.id, grace=grace),
                old_key_id=view.key.id,
            )


def _make(request: str, make: Callable[[], NewKey], *, old_key_id: str | None = None) -> None:
    fresh = fresh_key()
    if fresh is None or fresh.request != request:
        try:
            new = make()
            old = api_keys.get_key(current(), require_user(), old_key_id) if old_key_id else None
        except VisionMeterError as error:
            st.error(explain(error))
            return
        st.session_state["fresh_key"] = FreshKey(
            request, new.key.id, new.key.name, new.secret, new.key.models, old.key.expires_at if old else None
        )
    st.rerun()


def revoke_dialog(view: KeyView) -> None:
    """One question, then the key is no more."""
    st.markdown(_("Programs that use {name} are refused from now on. This cannot be undone.").format(name=_named(view)))
    last_used = view.key.last_used_at
    st.caption(_("last used {time}").format(time=local_time(last_used)) if last_used else _("never used"))
    with st.container(horizontal=True):
        confirmed = st.button(_("Revoke this key"), type="primary", key=f"confirm_{view.key.id}")
        if st.button(_("Keep it"), key=f"keep_{view.key.id}"):
            st.rerun()
    if not confirmed:
        return
    try:
        api_keys.revoke_key(current(), require_user(), view.key.id)
    except VisionMeterError as error:
        st.error(explain(error))
        return
    fresh = fresh_key()
    if fresh is not None and fresh.key_id == view.key.id:
        forget_secret()
    st.session_state["key_notice"] = _("{name} was revoked.").format(name=_named(view))
    st.rerun()


def _named(view: KeyView) -> str:
    return f"**{plain(view.key.name)}** (`{view.key.prefix}…`)"
