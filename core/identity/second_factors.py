"""Second factors: codes of an authenticator app (TOTP, RFC 6238) and recovery codes, each taken once.

Every function runs in the caller's transaction.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Sequence

import pyotp
from sqlalchemy import delete, func, update
from sqlmodel import Session, col, select

from core.db import utcnow
from core.identity.secret_digest import digest_secret
from core.identity.tables import RecoveryCode, SecondFactor

STEP_S = 30
# A phone's clock may be so many steps off, before or behind.
DRIFT_STEPS = 1
# NIST SP 800-63B, 5.2.2: no more wrong ones in a row. A guess is right with three in a million.
FAILURES_MAX = 100
RECOVERY_CODES = 10
# Without what looks alike. 16 of 31 are 79 random bits: a fast digest keeps them, and nobody guesses one.
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
_CHARACTERS = 16
_APP_CODE = re.compile(r"[0-9]{6}")


def make_seed() -> str:
    """160 random bits in base32, as authenticator apps take them."""
    return pyotp.random_base32()


def provisioning_uri(seed: str, email: str) -> str:
    """What a QR code tells an authenticator app."""
    return pyotp.TOTP(seed, interval=STEP_S).provisioning_uri(name=email, issuer_name="VisionMeter")


def current_step() -> int:
    """The number of the 30 seconds that are now, since 1970."""
    return int(utcnow().timestamp()) // STEP_S


def normalise_code(code: str) -> str:
    """A code as somebody typed or pasted it, without what only makes it easier to read."""
    return re.sub(r"[\s\-]", "", code).lower()


def is_app_code(code: str) -> bool:
    """Whether a normalised code is one of an app, six digits, rather than a recovery code."""
    return _APP_CODE.fullmatch(code) is not None


def match_step(seed: str, code: str, *, now: int) -> int | None:
    """The time step around the step `now` whose code this is, the newest if there are several; None if there is none.

    It takes as long whatever is wrong.
    """
    totp = pyotp.TOTP(seed, interval=STEP_S)
    found = None
    for step in range(now - DRIFT_STEPS, now + DRIFT_STEPS + 1):
        if hmac.compare_digest(totp.generate_otp(step).encode(), code.encode(errors="replace")):
            found = step
    return found


def find(session: Session, user_id: str) -> SecondFactor | None:
    """A user's second factor, or None where it is not turned on."""
    return session.exec(select(SecondFactor).where(SecondFactor.user_id == user_id)).first()


def add(session: Session, factor: SecondFactor) -> None:
    """Turn it on; the caller has seen that there is none, in `users.lock_user`."""
    session.add(factor)
    session.flush()


def remove(session: Session, user_id: str) -> bool:
    """Turn it off, with its recovery codes; gives whether it was on."""
    session.execute(delete(RecoveryCode).where(col(RecoveryCode.user_id) == user_id))
    of_user = col(SecondFactor.user_id) == user_id
    return bool(session.execute(delete(SecondFactor).where(of_user).returning(col(SecondFactor.user_id))).all())


def take_step(session: Session, factor: SecondFactor, step: int) -> bool:
    """Use up the code of a time step; False when it, or a newer one, was used before."""
    taken = session.execute(
        update(SecondFactor)
        .where(
            col(SecondFactor.user_id) == factor.user_id,
            col(SecondFactor.sealed_seed) == factor.sealed_seed,
            col(SecondFactor.last_step) < step,
        )
        .values(last_step=step, failures=0)
        .returning(col(SecondFactor.user_id))
    )
    return taken.first() is not None


def note_failure(session: Session, user_id: str) -> None:
    """Count a wrong code of the app."""
    of_user = col(SecondFactor.user_id) == user_id
    session.execute(update(SecondFactor).where(of_user).values(failures=col(SecondFactor.failures) + 1))


def replace_recovery_codes(session: Session, user_id: str) -> Sequence[str]:
    """Ten new recovery codes, which are stored nowhere; those before are worth nothing any more."""
    session.execute(delete(RecoveryCode).where(col(RecoveryCode.user_id) == user_id))
    codes = ["".join(secrets.choice(_ALPHABET) for _ in range(_CHARACTERS)) for _ in range(RECOVERY_CODES)]
    session.add_all(RecoveryCode(user_id=user_id, digest=digest_secret(code)) for code in codes)
    session.flush()
    return ["-".join(code[at : at + 4] for at in range(0, _CHARACTERS, 4)) for code in codes]


def take_recovery_code(session: Session, user_id: str, code: str) -> bool:
    """Use up a recovery code, which opens an app that was locked, too; False for one that is wrong or was used."""
    taken = session.execute(
        update(RecoveryCode)
        .where(
            col(RecoveryCode.user_id) == user_id,
            col(RecoveryCode.digest) == digest_secret(code),
            col(RecoveryCode.used_at).is_(None),
        )
        .values(used_at=utcnow())
        .returning(col(RecoveryCode.user_id))
    ).first()
    if taken is None:
        return False
    session.execute(update(SecondFactor).where(col(SecondFactor.user_id) == user_id).values(failures=0))
    return True


def count_recovery_codes(session: Session, user_id: str) -> int:
    """How many recovery codes are left."""
    unused = RecoveryCode.user_id == user_id, col(RecoveryCode.used_at).is_(None)
    return session.exec(select(func.count()).select_from(RecoveryCode).where(*unused)).one()


def count_by_key(session: Session) -> dict[str, int]:
    """How many seeds are encrypted with which key, by its id."""
    counted = select(SecondFactor.key_id, func.count()).group_by(col(SecondFactor.key_id))
    return dict(session.exec(counted).all())
