"""Mails on their way: put there by whoever has something to say, claimed for an attempt, ended.

Every function runs in the caller's transaction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, func, update
from sqlmodel import Session, col, select

from core.db import one_at_a_time, utcnow
from core.mail.tables import Mail

# The pauses after each failed attempt: some 14 hours in all, then it is given up. The first is longer than an attempt
# lasts (core.mail.smtp), so that a mail is in one hand at a time.
PAUSES = tuple(timedelta(seconds=seconds) for seconds in (60, 120, 300, 900, 3600, 7200, 14_400, 25_200))
ATTEMPTS_MAX = len(PAUSES) + 1
# For how long it can be seen what became of a mail; then its row goes, and with it an address that somebody typed.
KEPT = timedelta(days=2)
# To one address. A person who looks for a mail in vain asks three or four times.
MAILS_AN_HOUR_MAX = 5
MAILS_A_DAY_MAX = 10
# Of those, so that what strangers ask for leaves some to whoever forgot his password.
SIGN_UPS_A_DAY_MAX = 5
# Of a kind that strangers ask for, of all addresses: else they fill a table.
ASKED_WAITING_MAX = 1000
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)

# What this version can say: one that is newer, beside it in an upgrade, may put others here.
KINDS = ("confirm", "reset", "sign_up", "low_balance")
# What a stranger's wish sends.
_ASKED = ("confirm", "reset", "sign_up")
_OPEN = col(Mail.ended_at).is_(None)


def put_mail(
    session: Session, kind: str, email: str, *, user_id: str | None = None, facts: Mapping[str, Any] | None = None
) -> None:
    """Let a mail be sent to a user, or to a normalised address that somebody typed; it is due at once."""
    _put(session, kind, email, user_id, facts or {})


def put_asked(session: Session, kind: str, email: str, *, facts: Mapping[str, Any] | None = None) -> None:
    """Let a mail be sent to a normalised address that a stranger typed, unless too many are, which is not said.

    Nothing but the outbox is looked at, and the statements are the same for every address, also for one that had enough
    mails: a transaction that writes nothing takes less time.
    """
    may_send, has_room = may_ask(session, kind, email), not _is_full(session, kind)
    mail_id = _put(session, kind, email, None, facts or {})
    session.execute(delete(Mail).where(col(Mail.id) == ("" if may_send and has_room else mail_id)))


def _put(session: Session, kind: str, email: str, user_id: str | None, facts: Mapping[str, Any]) -> str:
    stored = email if user_id is None else ""
    mail = Mail(kind=kind, user_id=user_id, email=stored, address_digest=_digest(email), facts=dict(facts))
    session.add(mail)
    session.flush()
    return mail.id


def may_ask(session: Session, kind: str, email: str) -> bool:
    """Whether a stranger's wish may write to a normalised address once more: so often an hour by a kind, a day by all
    of them, and a day to sign up, also where its user deleted his account meanwhile. Who asks at the same moment waits.
    """
    digest, now = _digest(email), utcnow()
    one_at_a_time(session, f"mail {digest}")
    asked = (col(Mail.address_digest) == digest, col(Mail.kind).in_(_ASKED))
    count = select(func.count()).select_from(Mail).where(*asked)
    a_day = session.exec(count.where(col(Mail.created_at) > now - _DAY)).one()
    an_hour = session.exec(count.where(col(Mail.created_at) > now - _HOUR, col(Mail.kind) == kind)).one()
    sign_ups = session.exec(count.where(col(Mail.created_at) > now - _DAY, col(Mail.kind) == "sign_up")).one()
    has_room = kind != "sign_up" or sign_ups < SIGN_UPS_A_DAY_MAX
    return a_day < MAILS_A_DAY_MAX and an_hour < MAILS_AN_HOUR_MAX and has_room


def _is_full(session: Session, kind: str) -> bool:
    waiting = select(Mail.id).where(col(Mail.kind) == kind, _OPEN).limit(ASKED_WAITING_MAX).subquery()
    return session.exec(select(func.count()).select_from(waiting)).one() >= ASKED_WAITING_MAX


def find_due(session: Session, now: datetime) -> Mail | None:
    """The mail of a kind that is known here that has been due for longest; a read."""
    due = select(Mail).where(col(Mail.next_attempt_at) <= now, _OPEN, col(Mail.kind).in_(KINDS))
    return session.exec(due.order_by(col(Mail.next_attempt_at)).limit(1)).first()


def claim_mail(session: Session, mail: Mail, now: datetime) -> bool:
    """Take a due mail in hand for one attempt; False when another process did. The next attempt is set already."""
    claimed = (
        update(Mail)
        .where(col(Mail.id) == mail.id, col(Mail.attempts) == mail.attempts, col(Mail.next_attempt_at) <= now, _OPEN)
        .values(attempts=mail.attempts + 1, next_attempt_at=now + PAUSES[min(mail.attempts, len(PAUSES) - 1)])
    )
    return session.execute(claimed.returning(col(Mail.id))).first() is not None


def is_open(session: Session, mail_id: str) -> bool:
    """Whether a mail that was found before has not ended, and is there, now."""
    return session.exec(select(Mail.id).where(Mail.id == mail_id, _OPEN)).first() is not None


def end_mail(session: Session, mail_id: str, outcome: str, why: str = "") -> None:
    """Write down that a mail was `sent`, `given_up` or `dropped`."""
    session.execute(
        update(Mail).where(col(Mail.id) == mail_id, _OPEN).values(outcome=outcome, last_error=why, ended_at=utcnow())
    )


def note_failure(session: Session, mail_id: str, why: str) -> bool:
    """Write down that an attempt failed; gives whether it was the last one, so that the mail is given up."""
    attempts = session.exec(select(Mail.attempts).where(Mail.id == mail_id)).first()
    if attempts is not None and attempts >= ATTEMPTS_MAX:
        end_mail(session, mail_id, "given_up", why)
        return True
    session.execute(update(Mail).where(col(Mail.id) == mail_id, _OPEN).values(last_error=why))
    return False


def last_mail(session: Session, user_id: str, kind: str) -> Mail | None:
    """The newest mail of a kind to a user that is remembered."""
    mine = select(Mail).where(Mail.user_id == user_id, Mail.kind == kind)
    return session.exec(mine.order_by(col(Mail.created_at).desc(), col(Mail.id)).limit(1)).first()


def list_mails(session: Session, user_id: str, email: str) -> Sequence[Mail]:
    """Every mail to a user, or to his address, that is remembered, newest first."""
    return session.exec(select(Mail).where(_of(user_id, email)).order_by(col(Mail.created_at).desc())).all()


def count_given_up(session: Session) -> int:
    """How many of the mails that are remembered could not be sent."""
    return session.exec(select(func.count()).select_from(Mail).where(col(Mail.outcome) == "given_up")).one()


def forget_mails(session: Session, user_id: str, email: str) -> None:
    """Send nothing more to a user, and leave of his mails only that the digest of an address was written to.

    Else whoever makes and deletes accounts with another's address could write to it without end.
    """
    mine = _of(user_id, email)
    session.execute(update(Mail).where(mine, _OPEN).values(outcome="dropped", ended_at=utcnow()))
    session.execute(update(Mail).where(mine).values(user_id=None, email="", facts={}))


def has_old(session: Session) -> bool:
    """Whether `forget_old` would find anything; a read."""
    return session.exec(select(Mail.id).where(*_old()).limit(1)).first() is not None


def forget_old(session: Session) -> None:
    """Remove what ended long ago, and what somebody typed long ago while no mail was sent."""
    session.execute(delete(Mail).where(*_old()))


def _of(user_id: str, email: str) -> ColumnElement[bool]:
    return (col(Mail.user_id) == user_id) | ((col(Mail.address_digest) == _digest(email)) & (col(Mail.email) == email))


def _digest(email: str) -> str:
    return hashlib.sha256(email.encode()).hexdigest()


def _old() -> tuple[Any, ...]:
    return (col(Mail.created_at) < utcnow() - KEPT, col(Mail.ended_at).is_not(None) | col(Mail.user_id).is_(None))
