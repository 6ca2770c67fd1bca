"""What an API key may be limited to: names, models, networks, caps, an end; and which key may more than another."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from ipaddress import ip_network

from core.db import utcnow
from core.errors import (
    InvalidAmountError,
    InvalidApiKeySettingError,
    KeyMayNotError,
)
from core.identity.tables import ApiKey
from core.ledger import spending
from core.services.application import Application

NAME_LENGTH_MAX = 80
NETWORKS_MAX = 20


@dataclass(frozen=True, slots=True)
class KeySettings:
    """What a key is limited to. Caps in milli-tokens; None everywhere means no limit."""

    name: str
    models: Sequence[str] | None = None
    networks: Sequence[str] | None = None
    day_cap_mt: int | None = None
    month_cap_mt: int | None = None
    expires_at: datetime | None = None
    manages_keys: bool = False


def check_settings(app: Application, settings: KeySettings) -> KeySettings:
    """The settings as they are stored. Raises `InvalidApiKeySettingError`."""
    name = " ".join(settings.name.split())
    if not 1 <= len(name) <= NAME_LENGTH_MAX or not name.isprintable():
        raise InvalidApiKeySettingError(f"Give the key a name of 1 to {NAME_LENGTH_MAX} characters.", field="name")
    for cap_mt in (settings.day_cap_mt, settings.month_cap_mt):
        try:
            spending.require_cap(cap_mt)
        except InvalidAmountError as error:
            raise InvalidApiKeySettingError(error.message, field="caps") from None
    if settings.expires_at is not None and settings.expires_at <= utcnow():
        raise InvalidApiKeySettingError("expires_at lies in the past: choose a later time.", field="expires_at")
    known = {model.name for model in app.registry.models()}
    return replace(
        settings,
        name=name,
        models=_checked_models(settings.models, known),
        networks=_checked_networks(settings.networks),
    )


def within(maker: ApiKey, settings: KeySettings) -> KeySettings:
    """What a key asks for another one, and where it asks for nothing its own limits. Raises `KeyMayNotError`."""
    asked = replace(
        settings,
        models=settings.models or maker.models,
        networks=settings.networks or maker.networks,
        expires_at=settings.expires_at or maker.expires_at,
    )
    if may_more(asked, maker):
        raise KeyMayNotError(
            "A key makes none that may more than itself: ask for fewer models, smaller networks or an earlier end, or "
            "leave them out to have this key's."
        )
    return asked


def may_more(one: KeySettings | ApiKey, maker: ApiKey) -> bool:
    """Whether a key has another model, network or a later end than another one; None is no limit. Not of caps."""
    return (
        (maker.models is not None and (one.models is None or not set(one.models) <= set(maker.models)))
        or (maker.networks is not None and (one.networks is None or not _lie_in(one.networks, maker.networks)))
        or (maker.expires_at is not None and (one.expires_at is None or one.expires_at > maker.expires_at))
    )


def _checked_models(models: Sequence[str] | None, known: Collection[str]) -> list[str] | None:
    if models is None:
        return None
    if not models:
        raise InvalidApiKeySettingError(
            "A key for no model is of no use: name one, or leave models out.", field="models"
        )
    for model in models:
        if model not in known:
            raise InvalidApiKeySettingError(
                f"There is no model {model[:80]}: choose among {', '.join(sorted(known))}.", field="models"
            )
    return list(dict.fromkeys(models))


def _checked_networks(networks: Sequence[str] | None) -> list[str] | None:
    if networks is None:
        return None
    if not networks:
        raise InvalidApiKeySettingError(
            "A key for no network is of no use: name one, or leave networks out.", field="networks"
        )
    if len(networks) > NETWORKS_MAX:
        raise InvalidApiKeySettingError(f"A key has at most {NETWORKS_MAX} networks.", field="networks")
    checked = []
    for text in networks:
        try:
            checked.append(str(ip_network(text.strip(), strict=False)))
        except ValueError:
            raise InvalidApiKeySettingError(
                f"{text[:60]!r} is no network: write 203.0.113.7 or 203.0.113.0/24.", field="networks"
            ) from None
    return list(dict.fromkeys(checked))


def _lie_in(networks: Sequence[str], allowed: Sequence[str]) -> bool:
    outer = [ip_network(text) for text in allowed]
    return all(
        any(inner.version == one.version and inner.subnet_of(one) for one in outer)  # type: ignore[arg-type]  # the same version
        for inner in map(ip_network, networks)
    )
