"""Which key a request shows, what its caller may ask for, and how often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from core.errors import InvalidRequestError, NotSignedInError
from core.identity.callers import ApiCaller
from core.services import api_keys
from core.services.application import current

IDEMPOTENCY_KEY_LENGTH_MAX = 255
# What may be there several times, as HTTP libraries send a list.
LISTS = ("classes",)
# Only for the OpenAPI document: `require_caller` reads the header itself, and says what is wrong in our words.
bearer = HTTPBearer(auto_error=False, scheme_name="ApiKey", description="An API key, `vm_…`.")


def require_sender(request: Request, _shown: Annotated[Any, Depends(bearer)] = None) -> ApiCaller:
    """The caller behind `Authorization: Bearer vm_…` or `X-API-Key`, within his rate of requests.

    For what takes its fields from body and address alike (`gateway.bodies.read_body`) and looks at them itself.
    Raises `NotSignedInError`, `KeyNetworkNotAllowedError` or `RateLimitedError`.
    """
    app = current()
    address = request.client.host if request.client else None
    caller = api_keys.authenticate(app, _read_secret(request), address)
    state = request.scope.setdefault("state", {})
    state["key_id"], state["account_id"] = caller.id, caller.account_id
    state["rates"] = app.rates
    app.rates.hit_request(caller.id)
    return caller


def require_caller(request: Request, caller: Annotated[ApiCaller, Depends(require_sender)]) -> ApiCaller:
    """The same, for whatever knows its query parameters. Raises `InvalidRequestError` for others, too."""
    require_known_parameters(request)
    return caller


SenderDependency = Annotated[ApiCaller, Depends(require_sender)]
CallerDependency = Annotated[ApiCaller, Depends(require_caller)]


def require_known_parameters(request: Request) -> None:
    """Raise `InvalidRequestError` for a query parameter that an address does not know, which would do nothing, and for
    one that is there twice, of which all but the last would do nothing.
    """
    route = request.scope.get("route")
    if not isinstance(route, APIRoute):
        return
    require_once(request.query_params.multi_items())
    known = set(_query_parameters(route.dependant))
    unknown = sorted(set(request.query_params) - known)
    if unknown:
        takes = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
        raise InvalidRequestError(
            f"This address does not know the parameter {unknown[0][:60]}: {takes}.",
            errors=[{"field": name[:60], "message": "there is no such parameter"} for name in unknown[:10]],
        )


def require_once(fields: Iterable[tuple[str, Any]]) -> None:
    """Raise `InvalidRequestError` for a field that is there twice, unless it is a list."""
    names = Counter(name for name, _value in fields)
    for name, count in names.items():
        if count > 1 and name not in LISTS:
            raise InvalidRequestError(
                f"{name[:60]} is there {count} times: send it once.",
                errors=[{"field": name[:60], "message": "more than once"}],
            )


def _query_parameters(dependant: Dependant) -> Iterator[str]:
    yield from (field.alias for field in dependant.query_params)
    for one in dependant.dependencies:
        yield from _query_parameters(one)


def _read_secret(request: Request) -> str:
    header = request.headers.get("authorization")
    if header is not None:
        scheme, _, secret = header.partition(" ")
        if scheme.lower() == "bearer" and secret.strip():
            return secret.strip()
    secret = request.headers.get("x-api-key", "").strip()
    if not secret:
        raise NotSignedInError("Send an API key as `Authorization: Bearer vm_…`: make one on the page API keys.")
    return secret


def read_idempotency_key(request: Request) -> str | None:
    """The `Idempotency-Key`. Raises `InvalidRequestError` for one that is empty, too long or no visible ASCII."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    key = key.strip()
    if not (1 <= len(key) <= IDEMPOTENCY_KEY_LENGTH_MAX and key.isascii() and key.isprintable() and " " not in key):
        raise InvalidRequestError(
            f"Idempotency-Key is 1 to {IDEMPOTENCY_KEY_LENGTH_MAX} visible ASCII characters, such as a UUID.",
            errors=[{"field": "Idempotency-Key", "message": "1 to 255 visible ASCII characters"}],
        )
    return key
