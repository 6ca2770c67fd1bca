"""Users and passwords (Argon2id). Every function runs in the caller's transaction."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from zoneinfo import available_timezones

import idna
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import ColumnElement, delete, exists, func, or_, update
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from core.db import utcnow
from core.errors import (
    BadCredentialsError,
    EmailTakenError,
    InvalidEmailError,
    InvalidTimeZoneError,
    TooManyAttemptsError,
    WeakPasswordError,
)
from core.identity.passwords import require_hard_to_guess
from core.identity.tables import SignInAttempt, User

PASSWORD_LENGTH_MIN = 10
PASSWORD_LENGTH_MAX = 256
ATTEMPT_WINDOW = timedelta(minutes=15)
# scrypt's cost of what is kept of a forgotten address: 32 MiB. With another one the old digests are of no use.
EMAIL_DIGEST_COST = 2**15

_EMAIL_PART = r"[^@\s\x00-\x1f,;<>\"()\[\]\\"
_EMAIL = re.compile(rf"{_EMAIL_PART}]{{1,64}}@{_EMAIL_PART}.]+(\.{_EMAIL_PART}.]+)+")


@cache
def _hasher() -> PasswordHasher:
    return PasswordHasher()


@cache
def _decoy_digest() -> str:
    return _hasher().hash("nobody signs in with this")


def hash_password(password: str, *, email: str) -> str:
    """Argon2id digest of a new password. Slow on purpose (tens of ms): call it outside a transaction.

    Raises `WeakPasswordError` for fewer than 10 or more than 256 characters, or one that `core.identity.passwords`
    finds easy to guess for whoever knows the address.
    """
    if len(password) < PASSWORD_LENGTH_MIN or len(set(password)) < 4:
        raise WeakPasswordError(
            f"Choose a password of at least {PASSWORD_LENGTH_MIN} characters that are not all alike.",
            length_min=PASSWORD_LENGTH_MIN,
        )
    if len(password) > PASSWORD_LENGTH_MAX:
        raise WeakPasswordError(
            f"Choose a password of at most {PASSWORD_LENGTH_MAX} characters.",
            length_min=PASSWORD_LENGTH_MIN,
            length_max=PASSWORD_LENGTH_MAX,
        )
    require_hard_to_guess(password, email)
    return _hasher().hash(password)


def verify_password(password_digest: str | None, password: str) -> bool:
    """Whether a password fits. With None (no such user) or an empty one (no password) it takes as long and says no."""
    try:
        matches = _hasher().verify(password_digest or _decoy_digest(), password[:PASSWORD_LENGTH_MAX])
    except (VerificationError, InvalidHashError):
        return False
    # Where there is no password the decoy was verified, which nobody knows to be one.
    return matches and bool(password_digest)


def normalise_email(email: str) -> str:
    """An address as it is stored. Raises `InvalidEmailError`."""
    email = email.strip().lower()
    if _EMAIL.fullmatch(email) and not email.isascii():
        email = _with_plain_domain(email)
    if len(email) > 254 or not _EMAIL.fullmatch(email):
        raise InvalidEmailError("Enter an e-mail address such as name@example.com.")
    return email


def _with_plain_domain(email: str) -> str:
    # Fullwidth letters, soft hyphens, capital sharp s: one domain, and one mailbox, has one spelling in ASCII. What is
    # ASCII already is left alone, also what is no name by IDNA, such as one with an underscore.
    local, _at, domain = email.rpartition("@")
    if domain.isascii():
        return email
    try:
        return f"{local}@{idna.encode(domain, uts46=True).decode().lower()}"
    except idna.IDNAError:
        return ""


def add_user(
    session: Session,
    *,
    account_id: str,
    email: str,
    password_digest: str,
    role: str,
    is_operator: bool = False,
    language: str = "en",
    welcome_due_since: datetime | None = None,
) -> User:
    """A new user. Raises `EmailTakenError`."""
    if find_user(session, email) is not None:
        raise EmailTakenError("There is an account with this address: sign in instead.")
    user = User(
        account_id=account_id,
        email=email,
        password_digest=password_digest,
        role=role,
        is_operator=is_operator,
        language=language,
        welcome_due_since=welcome_due_since,
    )
    session.add(user)
    session.flush()
    return user


def find_user(session: Session, email: str) -> User | None:
    """The user who signs in with this normalised address, or None."""
    return session.exec(select(User).where(User.email == email, col(User.disabled_at).is_(None))).first()


def find_typed(session: Session, email: str) -> User | None:
    """The user whom an address as somebody typed it belongs to, or None. Raises `InvalidEmailError`."""
    typed = email.strip().lower()
    normal = normalise_email(email)
    # Where two had one mailbox before domains had one spelling, the migration left the second as he spelled it.
    as_typed = None if typed == normal else find_user(session, typed)
    return as_typed or find_user(session, normal)


def was_user(session: Session, email: str, email_digest: str, *, is_proved: bool) -> bool:
    """Whether this normalised address, whose `digest_email` is given, belongs or ever belonged to a user.

    One who never confirmed it does not count where his welcome tokens waited for that; nor, where it `is_proved` before
    tokens are given, where others had opened the account that he joined: he may not have been him.
    """
    of_him = or_(col(User.email) == email, col(User.forgotten_digest) == email_digest)
    counted = [of_him, col(User.welcome_due_since).is_(None)]
    if is_proved:
        before = aliased(User)
        is_older = col(before.created_at) < col(User.created_at)
        opened = ~exists().where(col(before.account_id) == col(User.account_id), is_older)
        counted.append(or_(col(User.email_verified_at).is_not(None), opened))
    return session.exec(select(User.id).where(*counted).limit(1)).first() is not None


def digest_email(email: str) -> str:
    """What is kept of a normalised address that is to be forgotten: it answers whether it was this one, to whoever
    has it. Slow on purpose (tens of ms and 32 MiB): call it outside a transaction.
    """
    return hashlib.scrypt(
        email.encode(), salt=b"visionmeter forgotten address", n=EMAIL_DIGEST_COST, r=8, p=1, maxmem=2**26, dklen=24
    ).hex()


def forget_user(session: Session, user_id: str, email_digest: str) -> None:
    """Take the address and the password from a user's row for good, and let nobody sign in as him."""
    disable_user(session, user_id)
    session.execute(
        update(User)
        .where(col(User.id) == user_id)
        .values(email=forgotten_email(user_id), forgotten_digest=email_digest, password_digest="", time_zone=None)
    )


def forgotten_email(user_id: str) -> str:
    """What stands in the place of a forgotten address; `.invalid` belongs to nobody (RFC 2606)."""
    return f"{user_id}@deleted.invalid"


def list_former(session: Session, account_id: str) -> Sequence[User]:
    """Whoever belonged to an account once and whose address is still known."""
    return session.exec(
        select(User).where(
            User.account_id == account_id, col(User.disabled_at).is_not(None), col(User.forgotten_digest).is_(None)
        )
    ).all()


def has_operator(session: Session) -> bool:
    """Whether anybody runs this installation yet."""
    return count_operators(session) > 0


def count_operators(session: Session) -> int:
    """How many people run this installation; a removed user does not."""
    return session.exec(select(func.count()).select_from(User).where(col(User.is_operator))).one()


def list_members(session: Session, account_id: str) -> Sequence[User]:
    """The users who belong to an account, oldest first."""
    return session.exec(
        select(User)
        .where(User.account_id == account_id, col(User.disabled_at).is_(None))
        .order_by(col(User.created_at), col(User.id))
    ).all()


def find_member(session: Session, account_id: str, user_id: str) -> User | None:
    """The user of an account with this id, or None; removed users and other accounts' are not there."""
    return session.exec(
        select(User).where(User.id == user_id, User.account_id == account_id, col(User.disabled_at).is_(None))
    ).first()


def find_enabled(session: Session, user_id: str) -> User | None:
    """The user with this id, if he can sign in."""
    return session.exec(select(User).where(User.id == user_id, col(User.disabled_at).is_(None))).first()


def lock_user(session: Session, user_id: str) -> bool:
    """Let nobody else sign in as a user, or change what he signs in with, before this transaction ends.

    False for somebody who was removed. The account's row is locked before it; his links, tickets and sessions after
    it, so that nobody waits in a circle. A sign-in waits for it in `require_same_password`.
    """
    enabled = select(User.id).where(User.id == user_id, col(User.disabled_at).is_(None))
    return session.exec(enabled.with_for_update(key_share=True)).first() is not None


def list_owners(session: Session, account_id: str) -> Sequence[User]:
    """The owners of an account who can sign in."""
    return [one for one in list_members(session, account_id) if one.role == "owner"]


def disable_user(session: Session, user_id: str) -> None:
    """Let nobody sign in as this user any more; `sessions.revoke_all` ends what is open."""
    session.execute(
        update(User)
        .where(col(User.id) == user_id, col(User.disabled_at).is_(None))
        .values(disabled_at=utcnow(), is_operator=False)
    )


def set_role(session: Session, user_id: str, role: str) -> None:
    """Store a user's role in his account."""
    session.execute(update(User).where(col(User.id) == user_id).values(role=role))


def actor_names(session: Session, account_id: str) -> Mapping[str, str]:
    """The address of everybody who belongs or ever belonged to an account, by user id."""
    return dict(session.exec(select(User.id, User.email).where(User.account_id == account_id)).all())


def names_of(session: Session, ids: Collection[str]) -> dict[str, str]:
    """The addresses of some users by id."""
    return dict(session.exec(select(User.id, User.email).where(col(User.id).in_(ids))).all())


def set_language(session: Session, user_id: str, language: str) -> None:
    """Store a user's language."""
    session.execute(update(User).where(col(User.id) == user_id).values(language=language))


@cache
def time_zones() -> tuple[str, ...]:
    """The time zones that a user can choose, by IANA name; without those that mean another one on each machine."""
    return tuple(sorted(available_timezones() - {"Factory", "localtime"}))


def set_time_zone(session: Session, user_id: str, time_zone: str | None) -> None:
    """Store a user's time zone; None follows his browser. Raises `InvalidTimeZoneError` for an unknown name."""
    if time_zone is not None and time_zone not in time_zones():
        raise InvalidTimeZoneError("There is no time zone of this name: choose one from the list.")
    session.execute(update(User).where(col(User.id) == user_id).values(time_zone=time_zone))


def replace_password(session: Session, user: User, password_digest: str) -> None:
    """Store another password. Raises `BadCredentialsError` when it is not the one any more that was looked at."""
    replaced = session.execute(
        update(User).where(*_as_read(user)).values(password_digest=password_digest).returning(col(User.id))
    )
    if replaced.first() is None:
        raise BadCredentialsError("The password was changed meanwhile: sign in again.")


def set_password(session: Session, user_id: str, password_digest: str) -> None:
    """Store another password of somebody who proved by a link who he is."""
    session.execute(update(User).where(col(User.id) == user_id).values(password_digest=password_digest))


def confirm_address(session: Session, user_id: str) -> bool:
    """Note that a user's address is his; gives whether his welcome tokens waited for that, and do no longer."""
    now, unconfirmed = utcnow(), col(User.email_verified_at).is_(None)
    session.execute(update(User).where(col(User.id) == user_id, unconfirmed).values(email_verified_at=now))
    due = update(User).where(col(User.id) == user_id, col(User.welcome_due_since).is_not(None))
    return session.execute(due.values(welcome_due_since=None).returning(col(User.id))).first() is not None


def require_same_password(session: Session, user: User) -> None:
    """Raise `BadCredentialsError` when a user's password was changed since he was read, or he was removed.

    Whoever changes it waits for the end of this transaction.
    """
    same = session.execute(select(User.id).where(*_as_read(user)).with_for_update(read=True))
    if same.first() is None:
        raise BadCredentialsError("The address or the password is wrong.")


def _as_read(user: User) -> tuple[ColumnElement[bool], ...]:
    """He is still who he was when he was read: not removed, and with the same password."""
    return (
        col(User.id) == user.id,
        col(User.password_digest) == user.password_digest,
        col(User.disabled_at).is_(None),
    )


def list_users(session: Session) -> Sequence[User]:
    """Everybody who can sign in, oldest first."""
    return session.exec(select(User).where(col(User.disabled_at).is_(None)).order_by(col(User.created_at))).all()


def check_credentials(user: User | None, password: str) -> User:
    """The user, if the password fits; `BadCredentialsError` otherwise, whoever is unknown."""
    if not verify_password(user.password_digest if user else None, password) or user is None:
        raise BadCredentialsError("The address or the password is wrong.")
    return user


def require_few_attempts(session: Session, email: str, *, attempts_max: int) -> None:
    """Raise `TooManyAttemptsError` after too many recent failures for an address."""
    recent = session.exec(
        select(func.count())
        .select_from(SignInAttempt)
        .where(
            SignInAttempt.email_digest == _digest(email),
            SignInAttempt.created_at > utcnow() - ATTEMPT_WINDOW,
        )
    ).one()
    if recent >= attempts_max:
        raise TooManyAttemptsError("Too many failed sign-ins for this address: wait 15 minutes.")


def record_attempt(session: Session, email: str) -> str:
    """Note one attempt to show a password for somebody, and forget old ones; gives its id."""
    session.execute(delete(SignInAttempt).where(col(SignInAttempt.created_at) < utcnow() - ATTEMPT_WINDOW))
    attempt = SignInAttempt(email_digest=_digest(email))
    session.add(attempt)
    session.flush()
    return attempt.id


def forget_attempt(session: Session, attempt_id: str) -> None:
    """An attempt that succeeded does not count."""
    session.execute(delete(SignInAttempt).where(col(SignInAttempt.id) == attempt_id))


def forget_attempts(session: Session, email: str) -> None:
    """Let whoever proved by a link who he is sign in at once, whatever others have tried."""
    session.execute(delete(SignInAttempt).where(col(SignInAttempt.email_digest) == _digest(email)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
