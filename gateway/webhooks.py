"""What a program asks of its webhooks: the secret, which messages were delivered, and to send one again."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response

from core.services import webhooks
from core.services.application import current
from gateway.account_shapes import DeliveryList, DeliveryOut, DeliveryStatus, WebhookSecretOut
from gateway.answers import delivery_answer
from gateway.auth import CallerDependency
from gateway.openapi import problems

router = APIRouter()


@router.get(
    "/webhooks/secret",
    response_model=WebhookSecretOut,
    responses=problems(),
    summary="What the account's webhooks are signed with",
)
def webhook_secret(caller: CallerDependency) -> Response:
    """Verify with any library of standardwebhooks.com. Needs a key that manages keys."""
    secret = webhooks.get_secret(current(), caller)
    return JSONResponse({"secret": secret})


@router.get(
    "/webhooks/deliveries", response_model=DeliveryList, responses=problems(404), summary="The newest webhook messages"
)
def list_deliveries(
    caller: CallerDependency,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    before: Annotated[str | None, Query(max_length=64, description="A message's id: go on after it.")] = None,
    status: DeliveryStatus | None = None,
) -> Response:
    """Newest first: where each went, how often, what was answered, and when it is tried again."""
    app = current()
    start: tuple[datetime, str] | None = None
    if before is not None:
        last = webhooks.get_delivery(app, caller, before)
        start = (last.created_at, last.id)
    found = webhooks.list_deliveries(app, caller, status=status, limit=limit, before=start)
    following = found[-1].id if len(found) == limit else None
    return JSONResponse({"deliveries": list(map(delivery_answer, found)), "next": following})


@router.post(
    "/webhooks/deliveries/{delivery_id}/resend",
    response_model=DeliveryOut,
    responses=problems(404),
    summary="Send a webhook message again",
)
def resend_delivery(caller: CallerDependency, delivery_id: str) -> Response:
    """At once, under the same id, with all its attempts before it. One that is still on its way stays as it is."""
    return JSONResponse(delivery_answer(webhooks.resend(current(), caller, delivery_id)))
