"""API keys: a secret shown once, its SHA-256 in the database. Every function runs in the caller's transaction."""

from __future__ import annotations

import hmac
import secrets
import string
from collections.abc import Collection, Sequence
from datetime import datetime
from ipaddress import ip_address, ip_network

from sqlalchemy import ColumnElement, and_, bindparam, func, or_, true, update
from sqlmodel import Session, col, select

from core.db import UTCDateTime, utcnow
from core.errors import ApiKeyNotFoundError
from core.identity.secret_digest import digest_secret
from core.identity.tables import ApiKey

SECRET_PREFIX = "vm_"  # noqa: S105  # no secret: what every key begins with, so that scanners of leaked keys know ours
SECRET_CHARACTERS = 40
# Of the secret, so much is shown in lists: enough to tell keys apart, nothing that helps to guess the rest.
PREFIX_CHARACTERS = len(SECRET_PREFIX) + 8

_ALPHABET = string.ascii_letters + string.digits


def make_secret() -> str:
    """`vm_` and 40 letters and digits (238 random bits)."""
    return SECRET_PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(SECRET_CHARACTERS))


def store_key(session: Session, secret: str, key: ApiKey) -> ApiKey:
    """Store a key under the digest of its secret."""
    key.prefix = secret[:PREFIX_CHARACTERS]
    key.digest = digest_secret(secret)
    session.add(key)
    session.flush()
    return key


def find_usable_key(session: Session, secret: str) -> ApiKey | None:
    """The key of a secret that is neither revoked nor expired, or None.

    Found by the prefix, which is no secret, and told apart by its digest in constant time.
    """
    if not (secret.isascii() and secret.isprintable()):
        return None  # no secret of ours, and perhaps no text that a database takes
    digest = digest_secret(secret)
    candidates = session.scalars(_FIND, {"b_prefix": secret[:PREFIX_CHARACTERS], "b_now": utcnow()})
    found = None
    for key in candidates:
        if hmac.compare_digest(key.digest, digest):
            found = key
    return found


def get_key(session: Session, account_id: str, key_id: str) -> ApiKey:
    """A key of this account. Raises `ApiKeyNotFoundError`."""
    key = session.exec(select(ApiKey).where(ApiKey.id == key_id, ApiKey.account_id == account_id)).first()
    if key is None:
        raise ApiKeyNotFoundError("There is no such API key in your account.", key_id=key_id)
    return key


def list_keys(session: Session, account_id: str) -> Sequence[ApiKey]:
    """The account's keys, also those that ended, newest first."""
    return session.exec(
        select(ApiKey)
        .where(ApiKey.account_id == account_id)
        .order_by(col(ApiKey.created_at).desc(), col(ApiKey.id).desc())
    ).all()


def find_keys(session: Session, ids: Collection[str]) -> Sequence[ApiKey]:
    """Some keys by id, also those that ended; what is no key's id is passed over."""
    return session.exec(select(ApiKey).where(col(ApiKey.id).in_(ids))).all()


def count_usable_keys(session: Session, account_id: str) -> int:
    """How many keys of an account can be used now."""
    return session.exec(
        select(func.count()).select_from(ApiKey).where(ApiKey.account_id == account_id, *_usable(utcnow()))
    ).one()


def is_usable(key: ApiKey, now: datetime) -> bool:
    """Whether a key is neither revoked nor expired."""
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > now)


def end_key(session: Session, key: ApiKey, *, at: datetime, replaced_by: str | None = None) -> None:
    """Let a key expire at a moment, unless it ends before."""
    expires_at = at if key.expires_at is None else min(at, key.expires_at)
    session.execute(
        update(ApiKey).where(col(ApiKey.id) == key.id).values(expires_at=expires_at, replaced_by=replaced_by)
    )


def revoke_key(session: Session, key_id: str) -> bool:
    """End a key now; False when it was revoked before."""
    return bool(_revoke(session, col(ApiKey.id) == key_id))


def revoke_keys_by(session: Session, user_id: str, *, managing_only: bool = False) -> list[str]:
    """End the keys that a user made, or those that manage keys: he may know their secrets. Gives their ids."""
    managing = col(ApiKey.manages_keys).is_(True) if managing_only else true()
    return _revoke(session, and_(col(ApiKey.created_by) == user_id, managing))


def revoke_all(session: Session, account_id: str) -> int:
    """End every key of an account now; gives how many could be used until now."""
    usable = count_usable_keys(session, account_id)
    _revoke(session, col(ApiKey.account_id) == account_id)
    return usable


def forget_keys(session: Session, account_id: str) -> None:
    """End every key of an account, and take the names and networks from all that it ever had."""
    of_account = col(ApiKey.account_id) == account_id
    _revoke(session, of_account)
    session.execute(update(ApiKey).where(of_account).values(name="deleted", networks=None))


def touch_key(session: Session, key_id: str, moment: datetime) -> None:
    """Remember when a key was used last."""
    session.execute(update(ApiKey).where(col(ApiKey.id) == key_id).values(last_used_at=moment))


def key_names(session: Session, account_id: str) -> dict[str, str]:
    """Name and prefix of every key of an account by its id: who acted in its entries."""
    return _names(session, col(ApiKey.account_id) == account_id)


def names_of(session: Session, ids: Collection[str]) -> dict[str, str]:
    """Name and prefix of some keys by id."""
    return _names(session, col(ApiKey.id).in_(ids))


def is_in_networks(address: str, networks: Sequence[str]) -> bool:
    """Whether an IP address lies in one of some networks; what is no address lies in none.

    An IPv4 address that comes as IPv6 (`::ffff:203.0.113.7`) is the IPv4 one.
    """
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    ip = mapped or ip
    return any(ip.version == network.version and ip in network for network in map(ip_network, networks))


def _names(session: Session, which: ColumnElement[bool]) -> dict[str, str]:
    rows = session.exec(select(ApiKey.id, ApiKey.name, ApiKey.prefix).where(which)).all()
    return {key_id: f"{name} ({prefix}…)" for key_id, name, prefix in rows}


def _usable(now: datetime | ColumnElement[datetime]) -> tuple[ColumnElement[bool], ...]:
    return (
        col(ApiKey.revoked_at).is_(None),
        or_(col(ApiKey.expires_at).is_(None), col(ApiKey.expires_at) > now),
    )


def _revoke(session: Session, which: ColumnElement[bool]) -> list[str]:
    revoked = session.execute(
        update(ApiKey)
        .where(which, col(ApiKey.revoked_at).is_(None))
        .values(revoked_at=utcnow())
        .returning(col(ApiKey.id))
    ).all()
    return [row[0] for row in revoked]


# Prepared: every request asks it.
_FIND = select(ApiKey).where(ApiKey.prefix == bindparam("b_prefix"), *_usable(bindparam("b_now", type_=UTCDateTime)))
