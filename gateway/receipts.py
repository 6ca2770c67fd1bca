"""An account's receipts, for programs and for the browser that is signed in: one as JSON, many as CSV."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response, StreamingResponse

from core.config import SESSION_COOKIE
from core.errors import NotSignedInError
from core.identity.callers import Caller
from core.pricing.receipts import ReceiptFilter
from core.services import receipts, sign_in
from core.services.application import current
from core.services.receipt_document import receipt_json
from gateway.auth import bearer, require_caller, require_known_parameters, require_sender
from gateway.openapi import problems
from gateway.shapes import Moment

# A receipt belongs to nobody but its account: no cache between keeps it.
PRIVATE = {"Cache-Control": "private, no-store", "Vary": "Cookie, Authorization"}


router = APIRouter()


def require_reader(request: Request, _shown: Annotated[Any, Depends(bearer)] = None) -> Caller:
    """Whoever shows an API key, or else the user of the session's cookie. Raises `NotSignedInError`."""
    if "authorization" in request.headers or "x-api-key" in request.headers:
        return require_caller(request, require_sender(request))
    require_known_parameters(request)
    user = sign_in.signed_in_user(current(), request.cookies.get(SESSION_COOKIE))
    if user is None:
        raise NotSignedInError("Sign in on the portal, or send an API key as `Authorization: Bearer vm_…`.")
    return user


ReaderDependency = Annotated[Caller, Depends(require_reader)]


@router.get(
    "/receipts.csv",
    summary="The receipts of a period as CSV",
    response_model=None,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}, **problems()},
)
def receipts_csv(
    user: ReaderDependency,
    text: Annotated[str, Query(max_length=200)] = "",
    start: Moment | None = None,
    end: Moment | None = None,
) -> Response:
    """The receipts of `start` ≤ t < `end` whose picture's name contains `text`, newest first, as one CSV file."""
    wanted = ReceiptFilter(text.strip(), start, end)
    pieces: Iterator[str] = receipts.receipts_csv(current(), user, wanted)
    headers = {**PRIVATE, "Content-Disposition": 'attachment; filename="receipts.csv"'}
    return StreamingResponse(pieces, media_type="text/csv; charset=utf-8", headers=headers)


@router.get("/receipts/{receipt_id}", summary="A receipt", response_model=None, responses=problems(404))
def receipt(user: ReaderDependency, receipt_id: str) -> Response:
    """One receipt with all that it takes to recompute its price."""
    document = receipt_json(current(), user, receipt_id)
    return Response(document, media_type="application/json", headers=PRIVATE)
