"""What is stored about whoever is signed in at this browser, as one ZIP."""

from __future__ import annotations

import tempfile
from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from starlette.background import BackgroundTask

from core.config import SESSION_COOKIE
from core.errors import NotSignedInError
from core.services import sign_in
from core.services.application import current
from core.services.my_data import write_my_data
from gateway.receipts import PRIVATE

PIECE_BYTES = 1 << 16

router = APIRouter()


@router.get("/my-data.zip", include_in_schema=False)
def my_data(request: Request) -> Response:
    """The ZIP, for the session's cookie alone: an API key is no person."""
    app = current()
    user = sign_in.signed_in_user(app, request.cookies.get(SESSION_COOKIE))
    if user is None:
        raise NotSignedInError("Sign in on the portal: your data is only for yourself.")
    # On disk first: a slow reader must not keep the database's snapshot open. Closing it removes it.
    file = tempfile.TemporaryFile(dir=app.settings.data_dir)  # noqa: SIM115  # it outlives this function
    try:
        write_my_data(app, user, file)
    except BaseException:
        file.close()
        raise
    size = file.tell()
    file.seek(0)
    headers = {
        **PRIVATE,
        "Content-Disposition": 'attachment; filename="visionmeter-my-data.zip"',
        "Content-Length": str(size),
    }
    return StreamingResponse(
        iter(partial(file.read, PIECE_BYTES), b""),
        media_type="application/zip",
        headers=headers,
        background=BackgroundTask(file.close),
    )
