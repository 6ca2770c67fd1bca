"""An optional second factor: turned on and off by its owner, asked for at every sign-in, reset by the operator.

API keys are not asked for it: a program has nobody who reads a code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from sqlalchemy import inspect
from sqlmodel import Session

from core import seed_key
from core.config import Settings
from core.db import Database, one_at_a_time, utcnow
from core.errors import (
    BadCodeError,
    InvalidEmailError,
    NotAllowedError,
    SecondFactorLockedError,
    SecondFactorStateError,
    SeedKeyError,
    SignInStepError,
)
from core.identity import email_links, second_factors, sessions, sign_in_steps, users
from core.identity.audit_log import record_event
from core.identity.tables import SecondFactor, User
from core.seed_key import SeedKey
from core.services import sign_in as password_sign_in
from core.services.application import Application
from core.services.top_up import require_operator

T = TypeVar("T")

ENROLMENT_TTL = timedelta(minutes=15)
# While the recovery codes are looked at; whoever copied the cookie has it no longer than that.
CODES_SHOWN_FOR = timedelta(minutes=10)
OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A seed that is not stored yet: `uri` is what a QR code tells an authenticator app."""

    seed: str = field(repr=False)
    uri: str = field(repr=False)
    begun_at: datetime


@dataclass(frozen=True, slots=True)
class State:
    """Since when a second factor is on, and how many recovery codes are left."""

    turned_on_at: datetime
    recovery_codes: int


@dataclass(frozen=True, slots=True)
class KeyState:
    """The seeds of an installation: how many there are, and how many of them the key at hand does not open."""

    seeds: int
    unreadable: int


def get_state(app: Application, user: User) -> State | None:
    """How a user's second factor is; None while it is off."""
    with app.db.read() as session:
        factor = second_factors.find(session, user.id)
        if factor is None:
            return None
        return State(factor.turned_on_at, second_factors.count_recovery_codes(session, user.id))


def begin(app: Application, user: User, password: str) -> Enrolment:
    """A new seed for the user's app; nothing is on before `turn_on`.

    Raises `BadCredentialsError`, `TooManyAttemptsError` or `SecondFactorStateError`.
    """
    password_sign_in.check_present_password(app, user, password)
    if get_state(app, user) is not None:
        raise _changed()
    seed = second_factors.make_seed()
    return Enrolment(seed, second_factors.provisioning_uri(seed, user.email), utcnow())


def turn_on(app: Application, user: User, token: str, enrolment: Enrolment, code: str) -> Sequence[str]:
    """Turn it on with the app's first code; gives the recovery codes, which are stored nowhere.

    Every other sign-in ends, and that of `token` soon: `renew_session` gives another in its place. Raises
    `BadCodeError`, `SecondFactorStateError` or `SeedKeyError`.
    """
    if utcnow() - enrolment.begun_at > ENROLMENT_TTL:
        raise SecondFactorStateError("This took too long: begin again.")
    now = second_factors.current_step()
    step = second_factors.match_step(enrolment.seed, second_factors.normalise_code(code), now=now)
    if step is None:
        raise _bad_code()
    with app.db.write() as session:
        key = _key_to_seal(app, session)
        if not users.lock_user(session, user.id) or second_factors.find(session, user.id) is not None:
            raise _changed()
        second_factors.add(
            session,
            SecondFactor(
                user_id=user.id,
                sealed_seed=key.seal(enrolment.seed, bound_to=user.id),
                key_id=key.id,
                last_step=step,
            ),
        )
        codes = second_factors.replace_recovery_codes(session, user.id)
        email_links.end_links(session, user.id, email_links.FOR_PASSWORD)
        sessions.revoke_all(session, user.id, but=token)
        sessions.shorten_session(session, token, ends_at=utcnow() + CODES_SHOWN_FOR)
        _record(session, user, "second_factor.turn_on")
    return codes


def renew_session(app: Application, user: User, token: str) -> str:
    """End the session in which it was turned on; gives the ticket for one in its place, under another token."""
    with app.db.write() as session:
        sessions.revoke_session(session, token)
        return sessions.issue_ticket(session, user.id)


def turn_off(app: Application, user: User, password: str, code: str) -> None:
    """Turn it off. Raises `BadCredentialsError`, `TooManyAttemptsError`, or what `sign_in` raises for a code."""
    password_sign_in.check_present_password(app, user, password)

    def remove(session: Session) -> None:
        second_factors.remove(session, user.id)
        _record(session, user, "second_factor.turn_off")

    with_code(app, user.id, code, remove)


def renew_recovery_codes(app: Application, user: User, password: str, code: str) -> Sequence[str]:
    """Ten recovery codes in place of all before. Raises as `turn_off` does."""
    password_sign_in.check_present_password(app, user, password)

    def replace(session: Session) -> Sequence[str]:
        _record(session, user, "second_factor.new_codes")
        return second_factors.replace_recovery_codes(session, user.id)

    return with_code(app, user.id, code, replace)


def sign_in(app: Application, step: str, code: str, *, address: str | None = None) -> str:
    """Go on where `SecondFactorNeededError` came, with a code of the app or a recovery code; gives a ticket.

    Raises `BadCodeError`, `SignInStepError`, `TooManyAttemptsError`, `SecondFactorLockedError`, `SeedKeyError` or
    `TooManyFromHereError`.
    """
    app.rates.hit_client("sign_in_code", address)
    with app.db.read() as session:
        user_id = sign_in_steps.find_user_id(session, step)

    def let_in(session: Session) -> str:
        sign_in_steps.use_step(session, step)
        _record(session, session.get_one(User, user_id), "user.sign_in")
        return sessions.issue_ticket(session, user_id)

    try:
        return with_code(app, user_id, code, let_in, note_wrong=lambda s: sign_in_steps.note_wrong_code(s, step))
    except SecondFactorStateError as error:
        # Turned off or reset meanwhile: the password alone is enough now, and has to be shown again.
        raise SignInStepError("This sign-in took too long: sign in again.") from error


def reset(app: Application, operator: User, user_id: str) -> None:
    """Remove the second factor of a customer who lost his device and his recovery codes; all his sign-ins end.

    Raises `NotAllowedError`, also for his own: his stolen cookie must not do without his password and code. Raises
    `SecondFactorStateError` where none is on.
    """
    require_operator(operator)
    if user_id == operator.id:
        raise NotAllowedError("Turn your own second factor off under Account, Security, or by the command.")
    with app.db.write() as session:
        user = session.get(User, user_id)
        if user is None or not _reset(session, user, operator.id):
            raise _changed()


def reset_by_command(db: Database, email: str) -> bool:
    """The same for whoever has the machine, by address; False where none is on, or nobody has this address."""
    with db.write() as session:
        try:
            user = users.find_typed(session, email)
        except InvalidEmailError:
            return False
        return user is not None and _reset(session, user, OPERATOR)


def examine_key(settings: Settings, db: Database) -> KeyState:
    """Whether the key that is there opens the seeds that are there."""
    with db.read() as session:
        # A database may be backed up before this version has brought its tables.
        has_table = inspect(session.connection()).has_table(SecondFactor.__tablename__)
        by_key = second_factors.count_by_key(session) if has_table else {}
    try:
        key = seed_key.read_key(settings)
    except SeedKeyError:
        key = None
    seeds = sum(by_key.values())
    return KeyState(seeds, seeds - (by_key.get(key.id, 0) if key else 0))


def name_key(settings: Settings) -> str:
    """Where the key is, for somebody who is to keep it or to bring it back."""
    path = settings.second_factor_key_file or seed_key.key_file(settings)
    return "VISIONMETER_SECOND_FACTOR_KEY" if path is None else str(path)


def with_code(
    app: Application,
    user_id: str,
    code: str,
    deed: Callable[[Session], T],
    *,
    note_wrong: Callable[[Session], None] | None = None,
) -> T:
    """Do something in the very transaction that uses up a code. Raises what `sign_in` raises for one.

    Guesses of the app's codes are counted for the user, whatever sign-in they come from. Recovery codes cannot be
    guessed: they are let through, so that nobody who guesses locks the owner out.
    """
    code = second_factors.normalise_code(code)
    attempt_id = _count_attempt(app, user_id) if second_factors.is_app_code(code) else None
    with app.db.write() as session:
        if not users.lock_user(session, user_id):
            raise _changed()
        factor = second_factors.find(session, user_id)
        if factor is None:
            raise _changed()
        is_right = _take(app, session, factor, code)
        user = session.get_one(User, user_id)
        if is_right:
            done = deed(session)
        else:
            if attempt_id is not None:
                second_factors.note_failure(session, user_id)
            if note_wrong is not None:
                note_wrong(session)
            _record(session, user, "second_factor.wrong_code")
        if is_right and attempt_id is not None:
            users.forget_attempt(session, attempt_id)
        if is_right and attempt_id is None:
            _record(session, user, "second_factor.use_recovery_code")
    if not is_right:
        raise _bad_code()
    return done


def _count_attempt(app: Application, user_id: str) -> str:
    counted_as = f"second factor {user_id}"
    with app.db.write() as session:
        # Counted before it is checked, as passwords are: guesses made all at once count one by one.
        one_at_a_time(session, f"sign_in {counted_as}")
        users.require_few_attempts(session, counted_as, attempts_max=app.settings.sign_in_attempts_max)
        return users.record_attempt(session, counted_as)


def _take(app: Application, session: Session, factor: SecondFactor, code: str) -> bool:
    if not second_factors.is_app_code(code):
        return second_factors.take_recovery_code(session, factor.user_id, code)
    if factor.failures >= second_factors.FAILURES_MAX:
        raise SecondFactorLockedError(
            "Too many wrong codes in a row: sign in with a recovery code, or ask the operator."
        )
    key = seed_key.read_key(app.settings)
    if key is None:
        raise seed_key.unreadable()
    seed = key.unseal(factor.sealed_seed, bound_to=factor.user_id)
    step = second_factors.match_step(seed, code, now=second_factors.current_step())
    return step is not None and second_factors.take_step(session, factor, step)


def _key_to_seal(app: Application, session: Session) -> SeedKey:
    """The key, made at first; but not another one where the first is missing, with which seeds were sealed."""
    key = seed_key.read_key(app.settings)
    if key is not None:
        return key
    if second_factors.count_by_key(session):
        raise seed_key.unreadable()
    return seed_key.make_key(app.settings)


def _reset(session: Session, user: User, actor: str) -> bool:
    users.lock_user(session, user.id)
    if not second_factors.remove(session, user.id):
        return False
    sessions.revoke_all(session, user.id)
    record_event(session, actor=actor, action="second_factor.reset", subject=user.id, account_id=user.account_id)
    return True


def _changed() -> SecondFactorStateError:
    return SecondFactorStateError("The second factor was turned on or off meanwhile: load the page again.")


def _bad_code() -> BadCodeError:
    return BadCodeError("This code is wrong or was used before: enter the one that the app shows next.")


def _record(session: Session, user: User, action: str) -> None:
    record_event(session, actor=user.id, action=action, subject=user.id, account_id=user.account_id)
