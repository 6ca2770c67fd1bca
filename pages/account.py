"""Account: limits, team, statements, the check of the balance, who one is here and where one is signed in."""

from collections.abc import Callable

import streamlit as st

from core.services import account_view, profile
from core.services.application import current
from ui.balance_check import show_balance_check
from ui.closing import show_closing
from ui.facts import show_facts
from ui.format import local_time, plain
from ui.i18n import _
from ui.invoices import show_billing
from ui.limits import show_limits
from ui.messages import role_words
from ui.plans import plan_facts
from ui.sections import show_sections
from ui.security import show_security
from ui.session import choose_language, require_user
from ui.statement import show_statement
from ui.team import show_team
from ui.unconfirmed import show_unconfirmed_quietly

user = require_user()
app = current()


def show_profile() -> None:
    account = account_view.get_account(app, user)
    facts = {
        _("E-mail"): plain(user.email),
        _("Role"): role_words(user.role),
        _("Account"): f"{plain(account.name)} · `{account.id}`",
        _("Since"): local_time(account.created_at),
        _("Plan"): plan_facts(account.plan),
    }
    if user.is_operator:
        facts[_("Operator")] = _("you run this installation")
    show_facts(facts)
    show_unconfirmed_quietly(user)
    choose_language(user, key="profile_language")
    st.caption(_("Remembered with your sign-in: another browser speaks it as soon as you sign in there."))
    show_time_zone()
    show_export()
    show_closing(app, user)


def show_time_zone() -> None:
    """One click, and all pages show their times in the chosen zone."""
    followed = st.context.timezone or "UTC"

    def change() -> None:
        chosen = st.session_state["time_zone_choice"] or None
        profile.set_time_zone(app, require_user(), chosen)
        st.session_state["time_zone"] = chosen

    # To Streamlit, None would be no choice.
    st.session_state["time_zone_choice"] = user.time_zone or ""
    st.selectbox(
        _("Time zone"),
        ["", *profile.time_zones()],
        format_func=lambda name: name or _("As the browser says ({zone})").format(zone=followed),
        key="time_zone_choice",
        on_change=change,
        width=360,
    )
    st.caption(
        _("Times on all pages follow it. Caps and statements keep the time zone {zone}, and files are in UTC.").format(
            zone=app.settings.billing_time_zone
        )
    )


def show_export() -> None:
    """All that is stored, as files to take along."""
    st.subheader(_("Your data"))
    st.caption(
        _(
            "Profile, API keys without their secrets, transactions, receipts, usage, runs with their results, and what "
            "you did: as JSON and CSV in one ZIP. Pictures are not in it: take them from their runs."
        )
    )
    st.link_button(_("Export my data (ZIP)"), "/v1/my-data.zip", icon=":material/download:")


SECTIONS: dict[str, tuple[str, Callable[[], None]]] = {
    "limits": (_("Limits"), lambda: show_limits(app, user)),
    "team": (_("Team"), lambda: show_team(app, user)),
    "statement": (_("Statement"), lambda: show_statement(app, user)),
    "billing": (_("Billing"), lambda: show_billing(app, user)),
    "verify": (_("Verify"), lambda: show_balance_check(app, user)),
    "profile": (_("Profile"), show_profile),
    "security": (_("Security"), lambda: show_security(app, user)),
}

st.title(_("Account"))
show_sections(SECTIONS, key="account_section")
