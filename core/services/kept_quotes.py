"""Quotes of pictures that come with the request: kept with their pictures until they are run, or run at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from core.db import utcnow
from core.errors import TooManyStoredPicturesError
from core.identity.callers import ApiCaller, Caller
from core.jobs.blobs import Parcel
from core.jobs.tables import Job
from core.ledger.posting import lock_account
from core.pricing.tables import Quote
from core.pricing.unrun import Stored, sum_stored
from core.services.api_keys import budget_of
from core.services.application import Application
from core.services.disk_space import require_disk_space
from core.services.metered_detection import find_obstacle, submit_quote
from core.services.quotes import PreparedImage, check_batch, quote_batch, store_quote

# Each picture once, when it is asked for: together they may not fit into memory.
Images = Iterable[tuple[PreparedImage, bytes]]


def quote_and_keep(
    app: Application, caller: Caller, images: Images, *, model: str, img_size: int, tile_px: int | None = None
) -> Quote:
    """A quote whose pictures are kept, so that it alone is enough to run them. All or nothing is stored.

    Raises what `quote_batch` raises, `DiskFullError`, or `TooManyStoredPicturesError`.
    """
    with app.db.read() as session:
        stored = sum_stored(session, caller.account_id)
    _require_room(app, stored, 1)
    with app.blobs.collect(caller.account_id) as parcel:
        prepared = []
        for image in _put(app, images, parcel):
            # While they come: what is refused at the end should not have filled the disk meanwhile.
            _require_room(app, stored, parcel.disk_bytes)
            prepared.append(image)
        version = check_batch(
            app, prepared, model=model, img_size=img_size, tile_px=tile_px, account_id=caller.account_id
        )
        with app.db.write() as session:
            # One at a time for an account: two that fit alone may not fit together.
            lock_account(session, caller.account_id)
            _require_room(app, sum_stored(session, caller.account_id), parcel.disk_bytes)
            quote = store_quote(
                app,
                session,
                caller.account_id,
                prepared,
                version=version,
                img_size=img_size,
                tile_px=tile_px,
                stored_bytes=parcel.disk_bytes,
            )
        app.blobs.keep(parcel, quote.id)
    return quote


def quote_and_run(
    app: Application,
    caller: ApiCaller,
    images: Images,
    *,
    model: str,
    img_size: int,
    tile_px: int | None = None,
    idempotency_key: str | None,
    request: Mapping[str, Any],
    webhook_url: str | None,
    runs_max: int,
) -> Job:
    """Quote pictures and submit the quote; a failure leaves none of them behind.

    Raises what `quote_batch` and `submit_quote` raise.
    """
    require_disk_space(app)
    with app.blobs.collect(caller.account_id) as parcel:
        prepared = list(_put(app, images, parcel))
        quote = quote_batch(app, caller, prepared, model=model, img_size=img_size, tile_px=tile_px)
        obstacle = find_obstacle(app, caller, quote)
        if obstacle is not None:
            raise obstacle
        return submit_quote(
            app,
            caller,
            quote.id,
            parcel,
            idempotency_key=idempotency_key,
            request=request,
            budget_id=budget_of(caller),
            webhook_url=webhook_url,
            runs_max=runs_max,
        )


def _put(app: Application, images: Images, parcel: Parcel) -> Iterable[PreparedImage]:
    for image, data in images:
        require_disk_space(app)
        parcel.put(data)
        yield image


def _require_room(app: Application, stored: Stored, more_bytes: int) -> None:
    bytes_max = app.settings.stored_quote_bytes_max
    if not more_bytes or stored.disk_bytes + more_bytes <= bytes_max:
        return
    facts = {"stored_bytes": stored.disk_bytes, "stored_bytes_max": bytes_max}
    if stored.first_expires_at is None:
        raise TooManyStoredPicturesError(
            f"The pictures of unrun quotes may take {_mb(bytes_max)} MB in all: quote fewer at once, or send them to "
            "/v1/batch or /v1/jobs without a quote. Nothing was stored.",
            **facts,
        )
    free_at = max(utcnow(), stored.first_expires_at + timedelta(seconds=app.settings.quote_retention_s))
    raise TooManyStoredPicturesError(
        f"The pictures of your unrun quotes take {_mb(stored.disk_bytes)} of {_mb(bytes_max)} MB: run some of these "
        "quotes, send pictures to /v1/batch or /v1/jobs without a quote, or wait until "
        f"{free_at:%Y-%m-%d %H:%M} UTC, when the oldest are removed. Nothing was stored.",
        free_at=free_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        **facts,
    )


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.0f}"
