"""A customer's receipts for the browser that is signed in: one as JSON, all that are wanted as CSV."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import AfterValidator

from core.config import SESSION_COOKIE
from core.errors import NotSignedInError
from core.identity.tables import User
from core.pricing.receipts import ReceiptFilter
from core.services import receipts, sign_in
from core.services.application import current
from core.services.receipt_document import receipt_json

# A receipt belongs to nobody but its account: no cache between keeps it.
PRIVATE = {"Cache-Control": "private, no-store", "Vary": "Cookie"}


def _aware(moment: datetime) -> datetime:
    """A moment that names no zone is in UTC; one that no calendar of ours holds is refused (422)."""
    if not 1970 <= moment.year <= 9998:
        raise ValueError("a year from 1970 to 9998")
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


Moment = Annotated[datetime, AfterValidator(_aware)]
router = APIRouter()


def require_session(request: Request) -> User:
    """The user of the session's cookie. Raises `NotSignedInError`."""
    user = sign_in.signed_in_user(current(), request.cookies.get(SESSION_COOKIE))
    if user is None:
        raise NotSignedInError("Sign in first.")
    return user


@router.get("/receipts.csv")
def receipts_csv(
    request: Request,
    text: Annotated[str, Query(max_length=200)] = "",
    start: Moment | None = None,
    end: Moment | None = None,
) -> Response:
    """The receipts of `start` ≤ t < `end` whose picture's name contains `text`, newest first, as one CSV file."""
    user = require_session(request)
    wanted = ReceiptFilter(text.strip(), start, end)
    pieces: Iterator[str] = receipts.receipts_csv(current(), user, wanted)
    headers = {**PRIVATE, "Content-Disposition": 'attachment; filename="receipts.csv"'}
    return StreamingResponse(pieces, media_type="text/csv; charset=utf-8", headers=headers)


@router.get("/receipts/{receipt_id}")
def receipt(request: Request, receipt_id: str) -> Response:
    """One receipt with all that it takes to recompute its price."""
    user = require_session(request)
    document = receipt_json(current(), user, receipt_id)
    return Response(document, media_type="application/json", headers=PRIVATE)
