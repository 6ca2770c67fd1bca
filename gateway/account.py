"""What a program asks of its account: balance, usage, keys; and which models there are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from core.errors import InvalidRequestError
from core.identity.callers import ApiCaller
from core.ledger.ledger import Balance
from core.money import to_millitokens
from core.services import account_view, admin, api_keys, usage_report
from core.services.api_key_settings import KeySettings
from core.services.application import Application, current
from gateway import openapi
from gateway.account_shapes import BalanceOut, KeyIn, KeyList, KeyOut, ModelOut, RotateIn, UsageByKeyOut, UsageOut
from gateway.answers import caller_answer, key_answer, time, tokens, usage_answer
from gateway.auth import CallerDependency, require_known_parameters
from gateway.bodies import parse_fields, read_small_json
from gateway.detect import budget
from gateway.openapi import problems
from gateway.shapes import Moment

router = APIRouter()
PERIOD_MAX = timedelta(days=400)
_QUARTER_S = 900


@router.get("/balance", response_model=BalanceOut, responses=problems(), summary="The account's balance")
def balance(caller: CallerDependency) -> Response:
    """Settled, held, and what can be spent; and the account's plan."""
    app = current()
    account = account_view.get_account(app, caller)
    now = Balance(account.posted_mt, account.held_mt)
    return JSONResponse(
        {
            "tokens": tokens(now.posted_mt),
            "held_tokens": tokens(now.held_mt),
            "remaining_tokens": tokens(now.available_mt),
            "currency": app.settings.currency_symbol,
            "price_per_token": str(app.settings.price_per_token),
            "plan": account.plan,
        }
    )


@router.get(
    "/usage",
    response_model=UsageOut | UsageByKeyOut,
    responses=problems(),
    summary="Usage of a period, by day and model or by API key",
)
def usage(
    caller: CallerDependency,
    by: Annotated[Literal["day", "key"], Query(description="`key`: by API key, and by person on the portal.")] = "day",
    start: Moment | None = None,
    end: Moment | None = None,
    time_zone: Annotated[str | None, Query(max_length=64, examples=["Asia/Shanghai"])] = None,
) -> Response:
    """The last 30 days unless told otherwise. A period begins and ends at a quarter of an hour."""
    app = current()
    zone = _zone(time_zone or app.settings.billing_time_zone)
    end = end or _next_quarter()
    start = start or end - timedelta(days=30)
    if not start < end or end - start > PERIOD_MAX:
        raise _wrong("start", f"start lies before end, and a period has at most {PERIOD_MAX.days} days.")
    period = {"start": time(start), "end": time(end), "time_zone": zone.key}
    try:
        if by == "key":
            callers = usage_report.report_callers(app, caller, start, end)
            totals = usage_report.add_up(callers)
            return JSONResponse(
                {**period, "totals": usage_answer(totals), "callers": list(map(caller_answer, callers))}
            )
        report = usage_report.report_usage(app, caller, start, end, zone=zone)
    except ValueError:
        raise _wrong("start", "start and end lie on quarters of an hour, such as 2026-11-24T10:15:00Z.") from None
    days = [
        {"day": one.day.isoformat(), "model": one.group, "tokens": tokens(one.amount_mt), "images": one.images}
        for one in report.by_day
    ]
    return JSONResponse({**period, "totals": usage_answer(report.totals), "days": days})


@router.get(
    "/models",
    response_model=list[ModelOut],
    responses={422: problems()[422]},
    summary="Models with their rates",
    dependencies=[Depends(require_known_parameters)],
)
def models() -> Response:
    """Known models, whether each can run here, and its rate β in the price book in force. Needs no key."""
    app = current()
    prices = account_view.get_prices(app)
    return JSONResponse(
        [
            {
                "name": view.model.name,
                "title": view.model.title,
                "task": view.model.task,
                "state": view.state.value,
                "version": view.version.version if view.version else None,
                "beta": str(prices.betas[view.model.name]) if view.model.name in prices.betas else None,
                "price_version": prices.version,
            }
            for view in admin.list_models(app)
        ]
    )


# Keys ----------------------------------------------------------------------------------------------


@router.get("/keys", response_model=KeyList, responses=problems(), summary="The account's API keys")
def list_keys(caller: CallerDependency) -> Response:
    """Needs a key that manages keys."""
    return JSONResponse({"keys": [key_answer(view) for view in api_keys.list_keys(current(), caller)]})


@router.post(
    "/keys",
    status_code=201,
    response_model=KeyOut,
    responses=problems(408, 409, 413, 503),
    summary="Make an API key",
    openapi_extra=openapi.small_body(KeyIn),
)
async def create_key(request: Request, caller: CallerDependency) -> Response:
    """`secret` is in this answer and nowhere else.

    Needs a key that manages keys. The new one does not, and may no more than the one that makes it.
    """
    wanted = parse_fields(KeyIn, await _read_fields(request, caller))
    return await run_in_threadpool(_create_key, current(), caller, wanted)


def _create_key(app: Application, caller: ApiCaller, wanted: KeyIn) -> Response:
    made = api_keys.create_key(
        app,
        caller,
        KeySettings(
            name=wanted.name,
            models=wanted.models,
            networks=wanted.networks,
            day_cap_mt=_millitokens("day_cap_tokens", wanted.day_cap_tokens),
            month_cap_mt=_millitokens("month_cap_tokens", wanted.month_cap_tokens),
            expires_at=wanted.expires_at,
            manages_keys=wanted.manages_keys,
        ),
    )
    return _secret_answer(key_answer(api_keys.get_key(app, caller, made.key.id), made.secret), 201)


@router.post(
    "/keys/{key_id}/rotate",
    status_code=201,
    response_model=KeyOut,
    responses=problems(404, 408, 409, 413, 503),
    summary="Give a key a new secret",
    openapi_extra=openapi.small_body(RotateIn, required=False),
)
async def rotate_key(request: Request, caller: CallerDependency, key_id: str) -> Response:
    """A new key with the same limits and budget; the old secret works for `grace_s` seconds more."""
    wanted = parse_fields(RotateIn, await _read_fields(request, caller))
    return await run_in_threadpool(_rotate_key, current(), caller, key_id, timedelta(seconds=wanted.grace_s))


def _rotate_key(app: Application, caller: ApiCaller, key_id: str, grace: timedelta) -> Response:
    made = api_keys.rotate_key(app, caller, key_id, grace=grace)
    # A key that rotated itself may have ended with that: the one in its place looks.
    reader = ApiCaller(made.key) if key_id == caller.id else caller
    return _secret_answer(key_answer(api_keys.get_key(app, reader, made.key.id), made.secret), 201)


@router.delete("/keys/{key_id}", response_model=KeyOut, responses=problems(404), summary="Revoke an API key")
def revoke_key(caller: CallerDependency, key_id: str) -> Response:
    """At once. What it has under way is finished. Revoking it again changes nothing."""
    app = current()
    view = api_keys.get_key(app, caller, key_id)
    api_keys.revoke_key(app, caller, key_id)
    if key_id != caller.id:
        view = api_keys.get_key(app, caller, key_id)
    return JSONResponse(key_answer(view))


async def _read_fields(request: Request, caller: ApiCaller) -> dict[str, Any]:
    # By hand: FastAPI reads a body of any size before it asks who sends it.
    with budget.reserve(caller.account_id) as reservation:
        return await read_small_json(request, reservation)


def _secret_answer(document: object, status: int) -> Response:
    return JSONResponse(document, status_code=status, headers={"Cache-Control": "no-store"})


def _millitokens(field: str, amount: float | None) -> int | None:
    if amount is None:
        return None
    exact = Decimal(str(amount))
    if exact != round(exact, 3):
        raise _wrong(field, "A cap has at most three decimals.")
    return to_millitokens(exact)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise _wrong("time_zone", "time_zone is a name such as UTC or Asia/Shanghai.") from None


def _next_quarter() -> datetime:
    now = datetime.now(UTC).timestamp()
    return datetime.fromtimestamp((int(now) // _QUARTER_S + 1) * _QUARTER_S, UTC)


def _wrong(field: str, sentence: str) -> InvalidRequestError:
    return InvalidRequestError(sentence, errors=[{"field": field, "message": sentence}])
