"""All that is stored about somebody and his account, as one ZIP of files that other programs read."""

from __future__ import annotations

import json
import math
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import count
from typing import Any, BinaryIO

from core.csv_text import plain_cell, to_csv
from core.db import utcnow
from core.errors import RateLimitedError
from core.identity import audit_log
from core.identity.audit_log import record_event
from core.identity.tables import User
from core.jobs import jobs, results
from core.jobs.tables import Job, JobImage, Result
from core.ledger.tables import Account
from core.mail import outbox
from core.money import from_millitokens, from_minor
from core.pricing.receipts import ReceiptFilter
from core.services import (
    account_view,
    api_keys,
    invoices,
    limits,
    oidc_sign_in,
    payments,
    receipts,
    saved_cards,
    second_factor,
    team,
    usage_report,
)
from core.services.application import Application
from core.services.disk_space import require_disk_space
from core.slots import moment_of, slot_of

ROWS_PER_READ = 1000
# People open them one by one: nobody has more.
PAYMENTS_MAX = 10_000
# Each reads a whole history: one at a time, and one a person in so many seconds.
EXPORT_EVERY_S = 60
WAIT_S = 20.0
_making = threading.Lock()
_asked_at: dict[str, float] = {}
_asked_mutex = threading.Lock()

README = """This is what VisionMeter stores about you and your account. Times are UTC, amounts are in tokens.

profile.json       you, your account, its balance and its limits
api_keys.json      API keys without their secrets, which are not stored
transactions.csv   every entry of the ledger, newest first
receipts.csv       every charge with all that its price is made of
payments.csv       every payment of money, newest first
invoices.json      whom invoices are made out to, and all that were issued, newest first
usage.csv          every picture that was processed, oldest first
runs.jsonl         a run a line, with its pictures and what was found on them
activity.csv       what you did in your account, newest first

Of sign-ins the times and the kind of browser are stored, which your page Security shows.
Pictures are not in it: a run's page gives them, drawn or with their labels.
"""


def write_my_data(app: Application, user: User, file: BinaryIO) -> None:
    """Write the ZIP; few rows are in memory at once. Raises `DiskFullError`, and `RateLimitedError` for
    somebody who asked within the last minute, or while others' exports are being made.
    """
    require_disk_space(app)
    _require_pause(user.id)
    if not _making.acquire(timeout=WAIT_S):
        raise _refused("Other exports are being made: ask for yours again in a minute.", EXPORT_EVERY_S)
    try:
        with app.db.write() as session:
            record_event(session, actor=user.id, action="user.export_data", subject=user.id, account_id=user.account_id)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, make in _files().items():
                with archive.open(name, "w", force_zip64=True) as member:
                    for piece in make(app, user):
                        member.write(piece.encode())
    finally:
        _making.release()


def _require_pause(user_id: str) -> None:
    now = time.monotonic()
    with _asked_mutex:
        for one, asked_at in list(_asked_at.items()):
            if now - asked_at >= EXPORT_EVERY_S:
                del _asked_at[one]
        if user_id in _asked_at:
            left_s = math.ceil(EXPORT_EVERY_S - (now - _asked_at[user_id]))
            raise _refused(f"You asked for your data a moment ago: ask again in {left_s} seconds.", left_s)
        _asked_at[user_id] = now


def _refused(message: str, retry_after_s: int) -> RateLimitedError:
    return RateLimitedError(message, limit="exports", limit_max=1, retry_after_s=retry_after_s)


def _files() -> dict[str, Callable[[Application, User], Iterable[str]]]:
    return {
        "README.txt": lambda _app, _user: [README],
        "profile.json": _profile,
        "api_keys.json": _api_keys,
        "transactions.csv": _transactions,
        "receipts.csv": lambda app, user: receipts.receipts_csv(app, user, ReceiptFilter()),
        "payments.csv": _payments,
        "invoices.json": _invoices,
        "usage.csv": _usage,
        "runs.jsonl": _runs,
        "activity.csv": _activity,
    }


def _profile(app: Application, user: User) -> Iterator[str]:
    account, balance = account_view.get_account(app, user), account_view.get_balance(app, user)
    caps, auto = limits.get_limits(app, user), saved_cards.get_auto(app, user)
    factor = second_factor.get_state(app, user)
    with app.db.read() as session:
        mails = outbox.list_mails(session, user.id, user.email)
    names = ("is_on", "stopped", "amount_minor", "month_max_minor", "currency", "changed_at")
    yield _json(
        {
            "id": user.id,
            "email": user.email,
            "role": user.role,
            "language": user.language,
            "time_zone": user.time_zone,
            "created_at": user.created_at,
            "last_sign_in_at": user.last_sign_in_at,
            "email_verified_at": user.email_verified_at,
            "welcome_due_since": user.welcome_due_since,
            "mails": [
                {name: getattr(one, name) for name in ("kind", "created_at", "ended_at", "outcome")} for one in mails
            ],
            "identities": [
                {"issuer": one.issuer, "subject": one.subject, "linked_at": one.created_at}
                for one in oidc_sign_in.list_identities(app, user)
            ],
            "second_factor_since": factor.turned_on_at if factor else None,
            "account": {
                "id": account.id,
                "name": account.name,
                "status": account.status,
                "plan": account.plan,
                "created_at": account.created_at,
                "settled": _tokens(balance.posted_mt),
                "held": _tokens(balance.held_mt),
                "cap_a_day": _tokens(caps.day_cap_mt),
                "cap_a_month": _tokens(caps.month_cap_mt),
                "kept_card": auto.card and {name: getattr(auto.card, name) for name in ("brand", "last4", "saved_at")},
                "automatic_top_up": auto.rule
                and {
                    "threshold": _tokens(auto.rule.threshold_mt),
                    **{name: getattr(auto.rule, name) for name in names},
                },
            },
        }
    )


def _api_keys(app: Application, user: User) -> Iterator[str]:
    names = ("id", "name", "prefix", "created_by", "models", "networks", "manages_keys")
    times = ("created_at", "expires_at", "revoked_at", "last_used_at")
    yield _json(
        [
            {
                **{name: getattr(view.key, name) for name in (*names, *times)},
                "state": view.state,
                "cap_a_day": _tokens(view.day_cap_mt),
                "cap_a_month": _tokens(view.month_cap_mt),
            }
            for view in api_keys.list_keys(app, user)
        ]
    )


def _transactions(app: Application, user: User) -> Iterator[str]:
    actors = team.actor_names(app, user.account_id)
    before: int | None = None
    for number in count():
        entries = account_view.list_transactions(app, user, before_seq=before, limit=ROWS_PER_READ)
        text = account_view.transactions_csv(entries, actors=actors)
        # The header is the first one's.
        yield text if number == 0 else text.partition("\n")[2]
        if len(entries) < ROWS_PER_READ:
            return
        before = entries[-1].seq


def _payments(app: Application, user: User) -> Iterator[str]:
    times = ("created_at", "expires_at", "paid_at")
    names = ("id", "state", "provider", "provider_reference", "currency", "price_per_token", "bonus_percent")
    yield to_csv([(*names, "amount", "tokens", "bonus_tokens", "transaction_seq", "reason", *times)])
    for payment in payments.list_payments(app, user, limit=PAYMENTS_MAX):
        yield to_csv(
            [
                (
                    *(getattr(payment, name) for name in names),
                    from_minor(payment.amount_minor, payment.currency),
                    _tokens(payment.tokens_mt),
                    _tokens(payment.bonus_mt),
                    payment.entry_seq or "",
                    plain_cell(payment.reason),
                    *(moment and _time(moment) for moment in (getattr(payment, name) for name in times)),
                )
            ]
        )


def _usage(app: Application, user: User) -> Iterator[str]:
    with app.db.read() as session:
        first = session.get_one(Account, user.account_id).created_at
    return usage_report.records_csv(app, user, moment_of(slot_of(first)), moment_of(slot_of(utcnow()) + 1))


def _runs(app: Application, user: User) -> Iterator[str]:
    before: tuple[datetime, str] | None = None
    while True:
        with app.db.read() as session:
            page = jobs.list_jobs(session, user.account_id, limit=50, before=before)
        for job in page:
            with app.db.read() as session:
                images = jobs.list_images(session, job.id)
                found = results.get_results(session, user.account_id, {image.charge_key for image in images})
            yield json.dumps(_run(job, images, found), ensure_ascii=False, default=_time) + "\n"
        if not page:
            return
        before = page[-1].created_at, page[-1].id


def _run(job: Job, images: Iterable[JobImage], found: dict[str, Result]) -> dict[str, Any]:
    names = ("id", "model", "model_version", "img_size", "tile_px", "actor", "created_at", "finished_at")
    return {
        **{name: getattr(job, name) for name in names},
        "images": [
            {
                "name": image.name,
                "sha256": image.image_sha256,
                "height": image.height,
                "width": image.width,
                "status": image.status,
                "error_code": image.error_code,
                "tokens": _tokens(image.amount_mt if image.status == "charged" else 0),
                # Of a picture that failed another run may have a result.
                "predictions": (
                    found[image.charge_key].detections if image.is_answered and image.charge_key in found else None
                ),
            }
            for image in images
        ],
    }


def _invoices(app: Application, user: User) -> Iterator[str]:
    names = ("number", "kind", "corrects", "issued_at", "payment_id", "currency", "gross_minor", "vat_minor")
    billing = invoices.get_billing(app, user)
    yield _json(
        {
            "billing": {name: getattr(billing, name) for name in ("name", "address", "tax_id")},
            "issued": [
                {
                    **{name: getattr(one, name) for name in names},
                    "vat_percent": str(one.vat_percent),
                    "says": one.says,
                }
                for one in invoices.list_invoices(app, user, limit=PAYMENTS_MAX)
            ],
        }
    )


def _activity(app: Application, user: User) -> Iterator[str]:
    yield to_csv([("time_utc", "action", "subject", "details")])
    before: tuple[datetime, str] | None = None
    while True:
        with app.db.read() as session:
            events = audit_log.list_events(session, account_id=user.account_id, before=before, limit=ROWS_PER_READ)
        if not events:
            return
        yield to_csv(
            [
                _time(event.created_at),
                plain_cell(event.action),
                plain_cell(event.subject),
                json.dumps(event.details, ensure_ascii=False) if event.details else "",
            ]
            for event in events
            if event.actor == user.id
        )
        before = events[-1].created_at, events[-1].id


def _json(document: object) -> str:
    return json.dumps(document, ensure_ascii=False, indent=2, default=_time) + "\n"


def _time(moment: object) -> str:
    if not isinstance(moment, datetime):
        raise TypeError(f"{type(moment).__name__} has no place in an export")
    return moment.isoformat(timespec="seconds")


def _tokens(amount_mt: int | None) -> str | None:
    return None if amount_mt is None else str(from_millitokens(amount_mt))
