"""Quote → hold → run → capture or release: detection that is paid for, and only when it worked.

A quote is stored and binds: a run names it and can never take more. Submitting holds the whole amount in one
transaction, image by image; each image is then captured together with its result, or given back. No
transaction is open while a model runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import bindparam
from sqlalchemy import insert as sa_insert
from sqlalchemy import select as sa_select
from sqlmodel import Session

from core.db import insert_row, new_row, table_of, utcnow
from core.errors import (
    AccountNotActiveError,
    ChargeKeyTakenError,
    QuoteExpiredError,
    QuoteGrewError,
    QuoteMismatchError,
    RateLimitedError,
    VisionMeterError,
)
from core.identity.callers import Caller
from core.inference.pipeline import DetectParams
from core.jobs import jobs
from core.jobs.blobs import Parcel
from core.jobs.tables import Job, JobImage
from core.ledger import ledger
from core.ledger.idempotency import begin_idempotent, complete_idempotent, find_answer
from core.ledger.posting import lock_account
from core.ledger.spending import require_within_caps
from core.ledger.tables import Account
from core.pricing.tables import Quote
from core.pricing.unrun import mark_ran
from core.services.application import Application
from core.services.disk_space import require_disk_space
from core.services.quotes import QuoteLine, get_stored_quote, hand_on_pictures, quote_lines, requote
from core.services.team import require_role

# The operation of every idempotency key that starts a run.
RUN = "run"


def find_obstacle(app: Application, user: Caller, *quotes: Quote) -> VisionMeterError | None:
    """What would refuse these runs together, or None: role, disk, frozen account, balance or caps. Holds nothing."""
    lines = [line for quote in quotes for line in quote_lines(quote)]
    try:
        require_role(user, "member")
        require_disk_space(app)
        with app.db.read() as session:
            if any(quote.total_mt for quote in quotes) and session.get_one(Account, user.account_id).status != "active":
                return AccountNotActiveError("This account cannot spend: ask the operator why it is frozen.")
            require_affordable(app, session, user.account_id, lines)
    except VisionMeterError as obstacle:
        return obstacle
    return None


def submit_quote(
    app: Application,
    user: Caller,
    quote_id: str,
    files: Mapping[str, bytes] | Parcel,
    *,
    idempotency_key: str | None = None,
    request: Mapping[str, Any] | None = None,
    budget_id: str | None = None,
    webhook_url: str | None = None,
    runs_max: int | None = None,
) -> Job:
    """Hold the quoted amount and queue the run; a quote runs once, and submitting it again gives the same job.

    `files` maps the SHA-256 of each quoted file to its bytes, or is a parcel of them, such as `BlobStore.kept` gives.
    The idempotency key is the quote's id unless the caller has one of his own, and then `request` is what it stands for
    (the quote alone if it is not given). An expired quote is quoted again first: when it did not grow it runs at the
    new price, else `QuoteGrewError` names the new quote. Raises also `RoleNeededError`, `QuoteNotFoundError`,
    `QuoteMismatchError`, `IdempotencyConflictError`, `InsufficientTokensError`, `SpendingCapError`,
    `AccountNotActiveError`, `DiskFullError`, or `RateLimitedError` where the account has `runs_max` unfinished runs;
    after any of them nothing is held, and no file is stored for good.
    """
    require_role(user, "member")
    by_quote = {"quote_id": quote_id}
    # A quote runs once, under whatever key: its own one stands for that.
    claims = {quote_id: by_quote, **({idempotency_key: request or by_quote} if idempotency_key else {})}
    with app.db.read() as session:
        quote = get_stored_quote(session, user.account_id, quote_id)
        known = [find_answer(session, user.account_id, RUN, key, wanted) for key, wanted in claims.items()]
        is_known = any(known)
        if not is_known and quote.expires_at > utcnow():
            # Before the files are stored: what cannot be paid need not be written first.
            require_affordable(app, session, user.account_id, quote_lines(quote))
    if not is_known:
        require_disk_space(app)
    # What was run before needs no files again.
    with collect_pictures(app, quote, app.blobs.kept(quote.account_id, quote.id) if is_known else files) as pictures:

        def start(binding: Quote) -> Job:
            with app.db.write() as session:
                job, is_new = start_job(
                    app,
                    session,
                    user,
                    binding,
                    asked_id=quote.id,
                    claims=claims,
                    budget_id=budget_id,
                    webhook_url=webhook_url,
                    runs_max=runs_max,
                )
                if is_new:
                    hand_over(pictures, binding)
            return job

        try:
            job = start(quote)
        except QuoteExpiredError:
            renewed = requote(app, user, quote)
            if renewed.total_mt > quote.total_mt:
                hand_on_pictures(app, quote, renewed)
                raise QuoteGrewError(
                    quote_id=renewed.id, total_mt=renewed.total_mt, previous_mt=quote.total_mt
                ) from None
            job = start(renewed)
    app.hands.ring()
    app.blobs.forget(quote.id)
    return job


@contextmanager
def collect_pictures(app: Application, quote: Quote, files: Mapping[str, bytes] | Parcel) -> Iterator[Parcel]:
    """A quote's pictures while the block runs. Raises `QuoteMismatchError` when one is missing or another one."""
    if isinstance(files, Parcel):
        yield files
        return
    with app.blobs.collect(quote.account_id) as parcel:
        for file_sha256 in {line.file_sha256 for line in quote_lines(quote)}:
            data = files.get(file_sha256)
            if data is None or parcel.put(data) != file_sha256:
                raise QuoteMismatchError(
                    "The images are not those of the quote: preview them again.", quote_id=quote.id
                )
        yield parcel


def hand_over(pictures: Parcel, quote: Quote) -> None:
    """Make a quote's pictures the account's for good. Raises `QuoteMismatchError` when one is not there any more.

    Last, and before the commit: a run that is refused leaves no picture behind, and one that a runner finds has all of
    them. Renaming two hundred files takes some milliseconds.
    """
    if not pictures.hand_over({line.file_sha256 for line in quote_lines(quote)}):
        raise QuoteMismatchError(
            "The pictures of this quote are not kept any more: send them again.", quote_id=quote.id
        )


def find_run(app: Application, user: Caller, key: str, request: Mapping[str, Any]) -> Job | None:
    """The run that an idempotency key started before, or None. Raises `IdempotencyConflictError`."""
    with app.db.read() as session:
        answer = find_answer(session, user.account_id, RUN, key, request)
        return None if answer is None else jobs.get_job(session, user.account_id, answer["job_id"])


def billing_day(app: Application) -> date:
    """Today in the time zone in which caps and statements count."""
    return utcnow().astimezone(app.settings.billing_zone).date()


def start_job(
    app: Application,
    session: Session,
    user: Caller,
    quote: Quote,
    *,
    asked_id: str,
    claims: Mapping[str, Mapping[str, Any]],
    budget_id: str | None = None,
    webhook_url: str | None = None,
    runs_max: int | None = None,
) -> tuple[Job, bool]:
    """Claim the keys, hold the amount and store the job in the caller's transaction; False for one that was there.

    `asked_id` is the quote that this one may have taken the place of. Whoever starts a new one hands its pictures over
    before he commits.
    """
    lines = quote_lines(quote)
    known = [begin_idempotent(session, user.account_id, RUN, key, request) for key, request in claims.items()]
    answer = next((one for one in known if one is not None), None)
    if answer is not None:
        for key, one in zip(claims, known, strict=True):
            if one is None:
                complete_idempotent(session, user.account_id, RUN, key, answer)
        return jobs.get_job(session, user.account_id, answer["job_id"]), False
    if quote.expires_at <= utcnow():
        raise QuoteExpiredError("This price is too old: preview again.", quote_id=quote.id)
    if quote.total_mt or runs_max is not None:
        # What is needed depends on what other runs of the account hold: a hold placed between the two looks at it
        # would refuse a run that waits for that very work. And of two that find the last place free, one is refused.
        lock_account(session, user.account_id)
    if runs_max is not None:
        require_free_run(session, user.account_id, runs_max)
    job = store_job(
        session,
        new_row(
            Job,
            account_id=user.account_id,
            quote_id=quote.id,
            actor=user.id,
            model=quote.model,
            model_version=quote.model_version,
            img_size=quote.img_size,
            tile_px=quote.tile_px,
            lease_expires_at=utcnow() + timedelta(seconds=app.settings.hold_lease_s),
            webhook_url=webhook_url,
        ),
    )
    require_affordable(app, session, user.account_id, lines)
    for position, line in enumerate(lines):
        hold_image(app, session, user, job.id, position, line, budget_id=budget_id)
    for key in claims:
        complete_idempotent(session, user.account_id, RUN, key, {"job_id": job.id})
    mark_ran(session, {asked_id, quote.id})
    return job, True


def require_free_run(session: Session, account_id: str, runs_max: int) -> None:
    """Raise `RateLimitedError` when the account has as many unfinished runs as it may have."""
    if jobs.count_open_jobs(session, account_id) >= runs_max:
        raise RateLimitedError(
            f"{runs_max} runs of this account are under way, which is the limit: wait for one to finish.",
            limit="jobs_concurrent",
            limit_max=runs_max,
            retry_after_s=5,
        )


def require_affordable(app: Application, session: Session, account_id: str, lines: Sequence[QuoteLine]) -> None:
    """Refuse a batch as a whole and with one number, before the first hold of many fails.

    What another run of this account pays for at the moment is not asked for a second time.
    """
    taken = ledger.find_taken_keys(session, account_id, {line.charge_key for line in lines if line.amount_mt})
    required_mt = sum(line.amount_mt for line in lines if line.charge_key not in taken)
    ledger.require_available(session, account_id, required_mt)
    require_within_caps(session, account_id, required_mt, billing_day(app))


def store_job(session: Session, job: Job) -> Job:
    """Write a new run under the plan that its account has now, which the statement that writes it finds."""
    values = {f"b_{name}": value for name, value in job.__dict__.items() if name in _job.c and name != "plan"}
    job.plan = session.connection().execute(_STORE_JOB, values).scalar_one()
    return job


def detect_params(img_size: int) -> DetectParams:
    """The parameters every charged run uses: all detections down to the stored minimum confidence."""
    return DetectParams(img_size=img_size)


def hold_image(
    app: Application,
    session: Session,
    user: Caller,
    job_id: str,
    position: int,
    line: QuoteLine,
    *,
    budget_id: str | None,
    started_at: datetime | None = None,
) -> JobImage:
    """Store a line's image, with its hold; without one the line is free or the same work is under way already.

    It is queued, unless it was started at once.
    """
    hold_id = _hold_line(app, session, user, job_id, line, budget_id)
    image = new_row(
        JobImage,
        job_id=job_id,
        position=position,
        name=line.name,
        file_sha256=line.file_sha256,
        image_sha256=line.image_sha256,
        height=line.height,
        width=line.width,
        charge_key=line.charge_key,
        amount_mt=line.amount_mt if hold_id else 0,
        hold_id=hold_id,
        status="queued" if started_at is None else "running",
        started_at=started_at,
    )
    return insert_row(session, image)


def _hold_line(
    app: Application, session: Session, user: Caller, job_id: str, line: QuoteLine, budget_id: str | None
) -> str | None:
    """The id of the hold for a line; None when the line is free or the same work is under way already."""
    if line.amount_mt == 0:
        return None
    try:
        hold = ledger.place_hold(
            session,
            user.account_id,
            line.amount_mt,
            charge_key=line.charge_key,
            lease_s=app.settings.hold_lease_s,
            actor=user.id,
            memo=job_id,
            spend_day=billing_day(app),
            budget_id=budget_id,
        )
    except ChargeKeyTakenError:
        # Another run of this account took the same picture since the quote: this one waits for its result.
        return None
    return hold.id


_job, _account = table_of(Job), table_of(Account)
_STORE_JOB = (
    sa_insert(_job)
    .values(
        {
            **{c.name: bindparam(f"b_{c.name}", type_=c.type) for c in _job.c if c.name != "plan"},
            "plan": sa_select(_account.c.plan).where(_account.c.id == bindparam("b_account_id")).scalar_subquery(),
        }
    )
    .returning(_job.c.plan)
)
