"""Deleting one's account, or leaving a team: the person is forgotten at once, his pictures soon, and the books stay.

What is kept is what an account must be able to prove later, under numbers in place of names: the ledger, receipts,
usage figures and the audit log; and invoices, with the names that they must keep. Docs/adr/0030 says why.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta

from sqlmodel import Session

from core.db import one_at_a_time, utcnow
from core.errors import BadCredentialsError, PaymentsOpenError, TeamNotEmptyError
from core.identity import (
    api_keys,
    email_links,
    invitations,
    oidc_rows,
    second_factors,
    sessions,
    sign_up_links,
    users,
)
from core.identity.audit_log import record_event
from core.identity.tables import User
from core.jobs import purge as jobs_purge
from core.ledger import corrections
from core.ledger.posting import lock_account
from core.mail import outbox
from core.payments import invoices, payments
from core.pricing import purge as pricing_purge
from core.services import kept_cards, sign_in, team
from core.services.application import Application

log = logging.getLogger("visionmeter")

# The keeper has leases to renew: a little at once.
ROUND_S_MAX = 0.25
ROWS_PER_TRANSACTION = 1000
# A request that began before the account was closed may still bring a picture, or store a result.
SETTLED_AFTER = timedelta(minutes=10)


def delete_account(app: Application, user: User, password: str, *, forfeit_mt: int) -> None:
    """End an account that only this person belongs to, for good; what is left of its balance is lost.

    `forfeit_mt` is the balance in milli-tokens that he agreed to lose. Raises `BadCredentialsError`,
    `TooManyAttemptsError`, `RoleNeededError` for anybody but an owner, `TeamNotEmptyError`, `LastOperatorError`,
    `PaymentsOpenError`, `AccountBusyError`, `BalanceChangedError`, or `AccountNotActiveError` for a frozen account.
    """
    digests = _check(app, user, password)
    with app.db.write() as session:
        one_at_a_time(session, "team")
        team.require_now(session, user, "owner")
        # First of all: whoever accepts one at this moment has joined, or cannot.
        invitations.revoke_all(session, user.account_id)
        others = [one for one in users.list_members(session, user.account_id) if one.id != user.id]
        if others:
            raise TeamNotEmptyError(
                "Others belong to this account: remove them from the team first, or make one of them an owner and "
                "leave.",
                members=len(others),
            )
        team.require_another_operator(session, user)
        lock_account(session, user.account_id)
        if payments.count_pending(session, user.account_id):
            raise PaymentsOpenError("A payment is open, whose money would come to nobody: pay or cancel it first.")
        corrections.close_account(session, user.account_id, forfeit_mt, actor=user.id)
        api_keys.forget_keys(session, user.account_id)
        invitations.forget_addresses(session, user.account_id)
        invoices.forget_billing(session, user.account_id)
        kept_cards.remove_all(session, user.account_id)
        for former in users.list_former(session, user.account_id):
            _forget(session, former, digests.get(former.email) or users.digest_email(former.email))
        _forget(session, user, digests[user.email])
        _record(session, user, "account.delete")
    kept_cards.detach_soon(app)
    log.info("an account was deleted by its owner", extra={"account_id": user.account_id})


def leave_account(app: Application, user: User, password: str) -> None:
    """End a person's place in an account that others keep; his past entries name his number.

    Raises `BadCredentialsError`, `TooManyAttemptsError`, `MemberNotFoundError`, `LastOwnerError` or
    `LastOperatorError`.
    """
    digest = _check(app, user, password)[user.email]
    with app.db.write() as session:
        one_at_a_time(session, "team")
        lock_account(session, user.account_id)
        team.end_membership(session, user.account_id, user.id)
        _forget(session, user, digest)
        _record(session, user, "user.leave")


def can_leave(app: Application, user: User) -> bool:
    """Whether others belong to the account, so that it goes on without this person."""
    with app.db.read() as session:
        return any(one.id != user.id for one in users.list_members(session, user.account_id))


def purge_closed(app: Application) -> bool:
    """Remove the pictures, results and names that closed accounts left; gives whether there is more to do at once.

    Each piece is a transaction of its own and may be done twice: any number of processes may do this.
    """
    ends_at = time.monotonic() + ROUND_S_MAX
    with app.db.read() as session:
        due = corrections.due_purges(session)
    for account_id, closed_at in due:
        is_gone = app.blobs.remove_account(account_id)
        if not _purge_rows(app, account_id, ends_at):
            return True
        if not is_gone:
            log.error("pictures of a deleted account cannot be removed", extra={"account_id": account_id})
        elif closed_at < utcnow() - SETTLED_AFTER:
            with app.db.write() as session:
                corrections.mark_purged(session, account_id)
            log.info("nothing is left of a closed account's pictures", extra={"account_id": account_id})
    return False


def _purge_rows(app: Application, account_id: str, ends_at: float) -> bool:
    """Whether nothing is left, rather than the time over."""
    if not _remove_unrun(app, account_id, ends_at):
        return False
    pieces: tuple[Callable[..., int], ...] = (
        jobs_purge.remove_results,
        jobs_purge.forget_file_names,
        pricing_purge.forget_lines,
        pricing_purge.forget_image_names,
    )
    for piece in pieces:
        while True:
            if time.monotonic() > ends_at:
                return False
            with app.db.write() as session:
                # Two that choose the same rows would each think that there are no more.
                one_at_a_time(session, f"purge {account_id}")
                if piece(session, account_id, limit=ROWS_PER_TRANSACTION) < ROWS_PER_TRANSACTION:
                    break
    with app.db.write() as session:
        jobs_purge.remove_webhooks(session, account_id)
    return True


def _remove_unrun(app: Application, account_id: str, ends_at: float) -> bool:
    while time.monotonic() < ends_at:
        with app.db.read() as session:
            quote_ids = pricing_purge.list_unrun(session, account_id, limit=100)
        if not quote_ids:
            return True
        for quote_id in quote_ids:
            app.blobs.forget(quote_id)
        with app.db.write() as session:
            pricing_purge.remove_unrun(session, quote_ids)
    return False


def _check(app: Application, user: User, password: str) -> dict[str, str]:
    """What is to be kept of each address, by address: it takes long, and nobody shall wait for it."""
    if user.password_digest:
        sign_in.check_present_password(app, user, password)
    elif password.strip().lower() != user.email:
        # He signs in at a provider: there is no password to ask for, only whether he means it.
        raise BadCredentialsError("This is not the address that you sign in with.")
    with app.db.read() as session:
        former = users.list_former(session, user.account_id)
    return {email: users.digest_email(email) for email in {user.email, *(one.email for one in former)}}


def _forget(session: Session, user: User, digest: str) -> None:
    # Also where somebody else's account knows it: from his invitation, and as the name of one that he opened.
    invitations.forget_address(session, user.email)
    corrections.forget_name(session, user.account_id, user.email)
    users.forget_user(session, user.id, digest)
    email_links.remove_links(session, user.id)
    sign_up_links.forget_address(session, user.email)
    outbox.forget_mails(session, user.id, user.email)
    sessions.remove_all(session, user.id)
    oidc_rows.remove_of(session, user.id)
    second_factors.remove(session, user.id)


def _record(session: Session, user: User, action: str) -> None:
    record_event(session, actor=user.id, action=action, subject=user.id, account_id=user.account_id)
