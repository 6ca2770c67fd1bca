"""Admin, Audit log: who did what, page by page, and as CSV."""

from __future__ import annotations

import streamlit as st

from core.services import audit_trail
from core.services.application import current
from ui.format import table_time
from ui.i18n import _
from ui.session import require_operator

PER_PAGE = 100
CSV_EVENTS_MAX = 50_000


def action_words(action: str) -> str:
    """What was done, in words; an action that has none is shown as it is stored."""
    words = {
        "user.sign_up": _("signed up"),
        "user.sign_in": _("signed in"),
        "user.sign_in_oidc": _("signed in with the identity provider"),
        "user.link_oidc": _("linked the identity provider"),
        "user.unlink_oidc": _("unlinked the identity provider"),
        "user.change_password": _("changed the password"),
        "user.confirm_address": _("confirmed the address"),
        "user.reset_password": _("chose a new password by a link"),
        "user.end_what_was_prepared": _("ended what somebody else may have prepared in the account"),
        "user.make_reset_link": _("made a link for a new password"),
        "user.export_data": _("exported the data"),
        "user.end_session": _("ended a sign-in"),
        "user.end_other_sessions": _("ended all other sign-ins"),
        "user.set_time_zone": _("chose a time zone"),
        "second_factor.turn_on": _("turned a second factor on"),
        "second_factor.turn_off": _("turned the second factor off"),
        "second_factor.new_codes": _("made new recovery codes"),
        "second_factor.use_recovery_code": _("used a recovery code"),
        "second_factor.wrong_code": _("entered a wrong code after the right password"),
        "second_factor.reset": _("removed somebody's second factor"),
        "team.invite": _("invited somebody"),
        "team.withdraw_invitation": _("withdrew an invitation"),
        "customer.invite": _("invited a new customer"),
        "customer.withdraw_invitation": _("withdrew a new customer's invitation"),
        "team.set_role": _("changed a role"),
        "team.remove": _("removed a member"),
        "key.create": _("made an API key"),
        "key.rotate": _("rotated an API key"),
        "key.revoke": _("revoked an API key"),
        "webhook.read_secret": _("read the webhooks' secret"),
        "webhook.resend": _("sent a webhook again"),
        "limits.set": _("set limits"),
        "limits.set_alert_url": _("set the address that is told of a low balance"),
        "card.save": _("kept a card"),
        "card.forget": _("had the card forgotten"),
        "auto_top_up.turn_on": _("turned automatic top-ups on"),
        "auto_top_up.turn_off": _("turned automatic top-ups off"),
        "auto_top_up.begin": _("began an automatic top-up"),
        "auto_top_up.stop": _("automatic top-ups stopped"),
        "billing.set": _("changed the billing details"),
        "voucher.make": _("made a voucher"),
        "voucher.withdraw": _("withdrew a voucher"),
        "voucher.redeem": _("redeemed a voucher"),
        "payment.open": _("opened a payment"),
        "payment.cancel": _("cancelled a payment"),
        "payment.confirm": _("confirmed a payment"),
        "payment.reject": _("rejected a payment"),
        "balance.refund": _("refunded a charge"),
        "balance.adjust": _("adjusted a balance"),
        "account.freeze": _("froze an account"),
        "account.unfreeze": _("unfroze an account"),
        "account.delete": _("deleted the account"),
        "user.leave": _("left an account"),
        "account.plan": _("changed a plan"),
        "model.fetch": _("fetched a model"),
        "model.switch": _("put a model's new version in service"),
        "model.add": _("added a model"),
        "model.replace": _("replaced a model's weights"),
        "model.roll_back": _("rolled a model back"),
        "model.canary": _("tried new weights on a share of the accounts"),
        "model.promote": _("gave everybody the weights that were tried"),
        "model.stop_canary": _("stopped trying new weights"),
        "model.retire": _("retired a model"),
        "model.offer": _("offered a retired model again"),
        "price_book.adopt": _("put a calibrated price list in force"),
    }
    return words.get(action, action)


def show_audit_log() -> None:
    """The newest events of everybody or of one account."""
    app = current()
    operator = require_operator()
    st.caption(_("Written together with each deed, and never changed. Images, secrets and addresses are not in it."))
    account = st.text_input(_("Account (optional)"), key="audit_account", max_chars=64).strip()
    pages: list = st.session_state.setdefault("audit_pages", [None])
    if st.session_state.get("audit_shown") != account:
        st.session_state["audit_shown"] = account
        pages[:] = [None]
    lines = audit_trail.list_trail(app, operator, account_id=account or None, before=pages[-1], limit=PER_PAGE)
    if not lines:
        st.info(
            _("No account with this number has done anything yet: check the number, or leave the field empty.")
            if account
            else _("Nothing has been done yet: sign-ins, keys, limits, vouchers and corrections will stand here.")
        )
        return
    st.dataframe(
        [
            {
                _("Time"): table_time(line.event.created_at),
                _("Who"): line.actor,
                _("What"): action_words(line.event.action),
                _("To what"): line.event.subject,
                _("Account"): line.event.account_id or "",
                _("Details"): line.details,
                _("Request"): line.event.request_id or "",
            }
            for line in lines
        ],
        hide_index=True,
    )
    with st.container(horizontal=True):
        if len(pages) > 1 and st.button(_("Newer"), icon=":material/arrow_back:", key="audit_newer"):
            pages.pop()
            st.rerun()
        if len(lines) == PER_PAGE and st.button(_("Older"), icon=":material/arrow_forward:", key="audit_older"):
            pages.append((lines[-1].event.created_at, lines[-1].event.id))
            st.rerun()
        st.download_button(
            _("Audit log as CSV"),
            # Made when it is clicked, outside of the page's run: nobody's session can be asked for there.
            data=lambda: audit_trail.trail_csv(
                audit_trail.list_trail(app, operator, account_id=account or None, limit=CSV_EVENTS_MAX)
            ),
            file_name="audit-log.csv",
            mime="text/csv",
            icon=":material/download:",
            on_click="ignore",
            key="audit_csv",
        )
