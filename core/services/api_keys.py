"""API keys of an account: make, list, rotate, revoke, and sign a program in with one."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlmodel import Session

from core.db import utcnow
from core.errors import (
    InvalidApiKeySettingError,
    KeyMayNotError,
    KeyModelNotAllowedError,
    KeyNetworkNotAllowedError,
    NotSignedInError,
    TooManyApiKeysError,
)
from core.identity import api_keys
from core.identity.api_keys import is_usable
from core.identity.audit_log import record_event
from core.identity.callers import ApiCaller, Caller
from core.identity.tables import ApiKey
from core.ledger import spending
from core.ledger.posting import lock_account
from core.services.api_key_settings import KeySettings, check_settings, may_more, within
from core.services.application import Application
from core.services.metered_detection import billing_day
from core.services.team import require_now

KEYS_MAX = 50
# How long the old secret goes on working after a rotation.
GRACES = (timedelta(0), timedelta(hours=1), timedelta(hours=24), timedelta(days=7))
GRACE_DEFAULT = timedelta(hours=24)
# `last_used_at` is written this often at most, not at every call.
TOUCH_INTERVAL = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made. `secret` is shown now and stored nowhere."""

    key: ApiKey
    secret: str


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key in the list with its caps and what they have used, in milli-tokens.

    `state` is `active`, `expiring` (another one took its place), `expired` or `revoked`.
    """

    key: ApiKey
    state: str
    day_cap_mt: int | None
    month_cap_mt: int | None
    day_spent_mt: int
    month_spent_mt: int


def create_key(app: Application, caller: Caller, settings: KeySettings) -> NewKey:
    """Make a key. Members may; a key that manages keys is made by an owner who is signed in.

    One that a key makes may no more than its maker: what is left out is the maker's, and its caps count for both.

    Raises `RoleNeededError`, `KeyMayNotError`, `InvalidApiKeySettingError` or `TooManyApiKeysError`.
    """
    settings = check_settings(app, settings)
    secret = api_keys.make_secret()
    with app.db.write() as session:
        # Two at once must not both be the last that is allowed; and who is deleted at this moment makes none any more.
        lock_account(session, caller.account_id)
        _require_manager(session, caller, "owner" if settings.manages_keys else "member")
        if settings.manages_keys and isinstance(caller, ApiCaller):
            raise InvalidApiKeySettingError(
                "A key that manages keys is made on the portal, by an owner: leave manages_keys out.",
                field="manages_keys",
            )
        if isinstance(caller, ApiCaller):
            settings = within(caller.key, settings)
        _require_room(session, caller.account_id)
        budget_id = _open_budget(session, caller, settings)
        key = _store(session, caller, secret, settings, budget_id)
        _record(session, caller, "key.create", key, name=key.name)
    return NewKey(key, secret)


def rotate_key(app: Application, caller: Caller, key_id: str, *, grace: timedelta = GRACE_DEFAULT) -> NewKey:
    """A new secret with the same name, limits and budget; the old one goes on for the grace period.

    Raises what `create_key` raises, and `ApiKeyNotFoundError` for a key that is unknown or has ended.
    """
    if grace not in GRACES:
        raise InvalidApiKeySettingError(
            f"grace_s is one of {', '.join(str(int(one.total_seconds())) for one in GRACES)}.", field="grace"
        )
    secret = api_keys.make_secret()
    now = utcnow()
    with app.db.write() as session:
        lock_account(session, caller.account_id)
        old = api_keys.get_key(session, caller.account_id, key_id)
        _require_manager(session, caller, "owner" if old.manages_keys else "member")
        if isinstance(caller, ApiCaller) and old.id != caller.id:
            _require_rotatable_by(session, caller.key, old)
        if not is_usable(old, now) or old.replaced_by is not None:
            raise InvalidApiKeySettingError(
                "This key has ended or was rotated before: make a new one.", field="state", key_id=key_id
            )
        if grace:
            _require_room(session, caller.account_id)
        same = KeySettings(old.name, old.models, old.networks, expires_at=old.expires_at, manages_keys=old.manages_keys)
        new = _store(session, caller, secret, same, old.budget_id)
        api_keys.end_key(session, old, at=now + grace, replaced_by=new.id)
        _record(session, caller, "key.rotate", old, new_key=new.id, grace_s=int(grace.total_seconds()))
    return NewKey(new, secret)


def revoke_key(app: Application, caller: Caller, key_id: str) -> None:
    """End a key at once; what it has under way is finished. Ending it again changes nothing.

    Raises `RoleNeededError`, `KeyMayNotError` or `ApiKeyNotFoundError`.
    """
    with app.db.write() as session:
        key = api_keys.get_key(session, caller.account_id, key_id)
        _require_manager(session, caller, "member")
        if api_keys.revoke_key(session, key.id):
            _record(session, caller, "key.revoke", key)


def list_keys(app: Application, caller: Caller) -> list[KeyView]:
    """The account's keys with what they have spent, newest first, also those that ended."""
    day, now = billing_day(app), utcnow()
    with app.db.read() as session:
        _require_manager(session, caller, "viewer")
        return [_view(session, key, day, now) for key in api_keys.list_keys(session, caller.account_id)]


def get_key(app: Application, caller: Caller, key_id: str) -> KeyView:
    """One of the account's keys. Raises `ApiKeyNotFoundError`."""
    with app.db.read() as session:
        _require_manager(session, caller, "viewer")
        return _view(session, api_keys.get_key(session, caller.account_id, key_id), billing_day(app), utcnow())


# Signing a program in ------------------------------------------------------------------------------


class LastUses:
    """When each key was last written down as used by this process, so that not every call writes."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._written: dict[str, datetime] = {}

    def is_due(self, key: ApiKey, now: datetime) -> bool:
        """Whether this use is to be written; says so to one caller at a time."""
        with self._mutex:
            last = self._written.get(key.id) or key.last_used_at
            if last is not None and now - last < TOUCH_INTERVAL:
                return False
            self._written[key.id] = now
            return True


_last_uses = LastUses()


def require_usable(app: Application, caller: ApiCaller) -> None:
    """For what goes on after it was asked for: raise `NotSignedInError` once the caller's key has ended."""
    with app.db.read() as session:
        key = session.get(ApiKey, caller.id)
        if key is None or not is_usable(key, utcnow()):
            raise NotSignedInError("This API key has ended.")


def authenticate(app: Application, secret: str, address: str | None) -> ApiCaller:
    """The caller behind a secret, who calls from an IP address.

    Raises `NotSignedInError` for a secret that is unknown, revoked or expired (which of these is not said) and
    `KeyNetworkNotAllowedError` for an address outside the key's networks.
    """
    with app.db.read() as session:
        key = api_keys.find_usable_key(session, secret)
    if key is None:
        raise NotSignedInError("This API key is not known or has ended: make one on the page API keys.")
    if key.networks is not None and not api_keys.is_in_networks(address or "", key.networks):
        raise KeyNetworkNotAllowedError(
            "This API key is limited to other networks: call from one of them, or add yours to the key's networks."
        )
    now = utcnow()
    if _last_uses.is_due(key, now):
        with app.db.write() as session:
            api_keys.touch_key(session, key.id, now)
    return ApiCaller(key)


def require_model(caller: Caller, model: str) -> None:
    """Raise `KeyModelNotAllowedError` when the caller's key is limited to other models."""
    if isinstance(caller, ApiCaller) and caller.key.models is not None and model not in caller.key.models:
        raise KeyModelNotAllowedError(
            f"This API key is limited to {', '.join(caller.key.models)}: choose one of these, or use another key.",
            model=model,
            models=caller.key.models,
        )


def budget_of(caller: Caller) -> str | None:
    """The budget that a caller's spending counts in, besides the account's own caps."""
    return caller.key.budget_id if isinstance(caller, ApiCaller) else None


# Who may ---------------------------------------------------------------------------------------------


def _is_capped(session: Session, key: ApiKey) -> bool:
    budget = spending.get_budget(session, key.budget_id, utcnow().date())
    return budget.day_cap_mt is not None or budget.month_cap_mt is not None


def _open_budget(session: Session, caller: Caller, settings: KeySettings) -> str:
    """A budget for a new key; that of its maker when this is a key with caps, for they would mean nothing otherwise."""
    if isinstance(caller, ApiCaller) and _is_capped(session, caller.key):
        if settings.day_cap_mt is not None or settings.month_cap_mt is not None:
            raise KeyMayNotError("This key has caps, which count for the keys that it makes too: leave the caps out.")
        return caller.key.budget_id
    return spending.open_budget(
        session, caller.account_id, day_cap_mt=settings.day_cap_mt, month_cap_mt=settings.month_cap_mt
    ).id


def _require_rotatable_by(session: Session, key: ApiKey, old: ApiKey) -> None:
    """Whoever rotates a key gets its secret: raise `KeyMayNotError` when it may more than the key that asks."""
    if old.manages_keys:
        raise KeyMayNotError("A key that manages keys is rotated with itself, or on the page API keys.")
    if may_more(old, key) or (_is_capped(session, key) and old.budget_id != key.budget_id):
        raise KeyMayNotError("This key rotates none that may more than itself: rotate it on the page API keys.")


def _require_manager(session: Session, caller: Caller, minimum: str) -> None:
    if isinstance(caller, ApiCaller):
        if not caller.key.manages_keys:
            raise KeyMayNotError("This API key does not manage keys: use one that does, or the page API keys.")
        # As it is now: it may have ended, with its owner's access, since the request began.
        if not is_usable(api_keys.get_key(session, caller.account_id, caller.id), utcnow()):
            raise KeyMayNotError("This API key has ended: use another one, or the page API keys.")
        return
    require_now(session, caller, minimum)


def _require_room(session: Session, account_id: str) -> None:
    if api_keys.count_usable_keys(session, account_id) >= KEYS_MAX:
        raise TooManyApiKeysError(
            f"An account has at most {KEYS_MAX} usable API keys: revoke one first.", keys_max=KEYS_MAX
        )


def _person(caller: Caller) -> str:
    # Whoever loses his access takes along the keys that were made with his.
    return caller.key.created_by if isinstance(caller, ApiCaller) else caller.id


def _store(session: Session, caller: Caller, secret: str, settings: KeySettings, budget_id: str) -> ApiKey:
    """A new key with its limits; what it spends counts in the budget, which holds its caps."""
    return api_keys.store_key(
        session,
        secret,
        ApiKey(
            account_id=caller.account_id,
            created_by=_person(caller),
            name=settings.name,
            models=list(settings.models) if settings.models is not None else None,
            networks=list(settings.networks) if settings.networks is not None else None,
            budget_id=budget_id,
            manages_keys=settings.manages_keys,
            expires_at=settings.expires_at,
            prefix="",
            digest="",
        ),
    )


def _view(session: Session, key: ApiKey, day: date, now: datetime) -> KeyView:
    spent = spending.get_budget(session, key.budget_id, day)
    return KeyView(
        key,
        _state(key, now),
        spent.day_cap_mt,
        spent.month_cap_mt,
        spent.day_spent_mt,
        spent.month_spent_mt,
    )


def _state(key: ApiKey, now: datetime) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if not is_usable(key, now):
        return "expired"
    return "expiring" if key.replaced_by is not None else "active"


def _record(session: Session, caller: Caller, action: str, key: ApiKey, **details: object) -> None:
    record_event(
        session,
        actor=caller.id,
        action=action,
        subject=key.id,
        account_id=caller.account_id,
        details={"prefix": key.prefix, **details},
    )
