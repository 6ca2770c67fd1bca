"""What a cheaper model or size would lose: a few of the customer's own pictures, run with several and compared.

The runs are runs like any other: quoted, held, captured with receipts, free where the account has the result already.
They are only started together, all or none, and remembered as belonging together (`core.jobs.advice`). What they found
is compared from their stored results, so another confidence is another answer and costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from core.db import utcnow
from core.errors import QuoteGrewError, QuoteMismatchError
from core.identity.callers import Caller
from core.inference.detections import Detections
from core.jobs import advice as advices
from core.jobs import jobs
from core.jobs.results import get_results
from core.jobs.tables import Advice, Job
from core.ledger.idempotency import begin_idempotent, complete_idempotent, find_answer
from core.pricing.tables import Quote
from core.services.advice_verdict import AdviceView, Measured
from core.services.application import Application
from core.services.budget import Combination, list_combinations
from core.services.disk_space import require_disk_space
from core.services.job_runner import cancel_job
from core.services.metered_detection import RUN, collect_pictures, hand_over, require_affordable, start_job
from core.services.quotes import (
    PreparedImage,
    check_batch,
    get_stored_quote,
    price_images,
    quote_lines,
    requote,
    store_quote,
)
from core.services.team import require_role

SAMPLE_DEFAULT = 3
SAMPLE_MAX = 10
OTHERS_DEFAULT = 5
OTHERS_MAX = 12
# What costs more than this of the reference is not worth a try, and what costs less rarely finds half of it.
SUGGESTED_WORK_PERCENT = range(15, 91)
ADVISE = "advise"


@dataclass(frozen=True, slots=True)
class Alternative:
    """A combination that can be compared; `work_mt` is what the sample costs by the formula alone."""

    combination: Combination
    work_mt: int


@dataclass(frozen=True, slots=True)
class AdvicePlan:
    """Binding quotes for the same pictures, the reference's first; together they cost at most `total_mt`."""

    quotes: tuple[Quote, ...]

    @property
    def id(self) -> str:
        """Names the plan: its reference's quote."""
        return self.quotes[0].id

    @property
    def total_mt(self) -> int:
        """What all runs together cost at most."""
        return sum(quote.total_mt for quote in self.quotes)

    @property
    def expires_at(self) -> datetime:
        """Until when all of them bind."""
        return min(quote.expires_at for quote in self.quotes)


@dataclass(frozen=True, slots=True)
class AdviceLine:
    """An advice in a list: its reference's run, how many runs and pictures it has, and what was charged for all."""

    advice: Advice
    reference: Job
    runs: int
    pictures: int
    charged_mt: int


# Before the run ------------------------------------------------------------------------------------


def choose_sample(images: Sequence[PreparedImage], count: int) -> list[PreparedImage]:
    """Up to `count` different pictures, evenly from the whole batch."""
    different = list({image.image_sha256: image for image in images}.values())
    count = min(count, len(different))
    return [different[number * len(different) // count] for number in range(count)]


def list_alternatives(
    app: Application, user: Caller, images: Sequence[PreparedImage], *, model: str, tile_px: int | None
) -> list[Alternative]:
    """What can be compared with a model's answers for these pictures, what computes most first.

    Models of the same task with the same classes, at every size, without tiles and with those of `tile_px`. Raises
    `ModelNotFoundError`.
    """
    chosen = app.registry.get(model)
    with app.db.read() as session:
        prices = app.prices.current(session)
        found = [
            Alternative(
                combination,
                sum(
                    line.list_mt
                    for line in price_images(
                        session,
                        prices,
                        user.account_id,
                        images,
                        version=version,
                        img_size=combination.img_size,
                        tile_px=combination.tile_px,
                    ).batch.lines
                ),
            )
            for version, combination in list_combinations(
                app, user, images, prices, task=chosen.task, tiles_px=[tile_px] if tile_px else []
            )
            if version.model.classes == chosen.classes
        ]
    return sorted(found, key=lambda one: -one.work_mt)


def list_cheaper(alternatives: Sequence[Alternative], reference: Combination) -> list[Alternative]:
    """Those that compute less than the reference."""
    work_mt = next(one.work_mt for one in alternatives if one.combination == reference)
    return [one for one in alternatives if one.work_mt < work_mt]


def suggest(alternatives: Sequence[Alternative], reference: Combination) -> list[Combination]:
    """A few cheaper ones that are worth a try, evenly from the dearest down."""
    work_mt = next(one.work_mt for one in alternatives if one.combination == reference)
    worth = [
        one.combination
        for one in list_cheaper(alternatives, reference)
        if one.work_mt * 100 // work_mt in SUGGESTED_WORK_PERCENT
    ]
    count = min(OTHERS_DEFAULT, len(worth))
    return [worth[number * len(worth) // count] for number in range(count)]


def plan_advice(
    app: Application,
    user: Caller,
    images: Sequence[PreparedImage],
    reference: Combination,
    others: Sequence[Combination],
) -> AdvicePlan:
    """Binding quotes for all runs. Nothing is held yet.

    Raises what `quote_batch` raises, and `ValueError` for no other combination or too many.
    """
    if not 1 <= len(others) <= OTHERS_MAX or len(images) > SAMPLE_MAX:
        raise ValueError(f"1 to {OTHERS_MAX} others and at most {SAMPLE_MAX} pictures")
    wanted = [
        (
            one,
            check_batch(
                app,
                images,
                model=one.model,
                img_size=one.img_size,
                tile_px=one.tile_px,
                account_id=user.account_id,
            ),
        )
        for one in (reference, *others)
    ]
    with app.db.write() as session:
        return AdvicePlan(
            tuple(
                store_quote(
                    app,
                    session,
                    user.account_id,
                    images,
                    version=version,
                    img_size=one.img_size,
                    tile_px=one.tile_px,
                )
                for one, version in wanted
            )
        )


def start_advice(app: Application, user: Caller, quote_ids: Sequence[str], files: Mapping[str, bytes]) -> str:
    """Start all runs of a plan together, or none; gives the advice's id, and the same one when it is asked again.

    `files` maps the SHA-256 of each file to its bytes. Expired quotes are quoted again first: when their sum did not
    grow they run at the new prices, else `QuoteGrewError`. Raises what `submit_quote` raises; after any error nothing
    is held.
    """
    require_role(user, "member")
    require_disk_space(app)
    request = {"quote_ids": list(quote_ids)}
    with app.db.read() as session:
        asked = [get_stored_quote(session, user.account_id, quote_id) for quote_id in quote_ids]
        known = find_answer(session, user.account_id, ADVISE, asked[0].id, request)
        if known is None:
            # Before the files are stored: what cannot be paid need not be written first.
            require_affordable(app, session, user.account_id, [line for quote in asked for line in quote_lines(quote)])
    if known is not None:
        return str(known["advice_id"])
    if len({tuple(line.file_sha256 for line in quote_lines(quote)) for quote in asked}) != 1:
        raise QuoteMismatchError("The runs of an advice are of the same pictures: preview again.")
    binding = [quote if quote.expires_at > utcnow() else requote(app, user, quote) for quote in asked]
    before_mt, now_mt = (sum(quote.total_mt for quote in quotes) for quotes in (asked, binding))
    if now_mt > before_mt:
        raise QuoteGrewError(quote_id=binding[0].id, total_mt=now_mt, previous_mt=before_mt)
    with collect_pictures(app, asked[0], files) as pictures, app.db.write() as session:
        known = begin_idempotent(session, user.account_id, ADVISE, asked[0].id, request)
        if known is not None:
            return str(known["advice_id"])
        # All of them before the account is locked, as for a single run: who runs one of these quotes at this moment has
        # its key, and waits for the account.
        for quote_id in quote_ids:
            begin_idempotent(session, user.account_id, RUN, quote_id, {"quote_id": quote_id})
        # As one, so that a short balance is named in one number.
        require_affordable(app, session, user.account_id, [line for quote in binding for line in quote_lines(quote)])
        started = [
            start_job(app, session, user, quote, asked_id=asked_id, claims={asked_id: {"quote_id": asked_id}})
            for quote, asked_id in zip(binding, quote_ids, strict=True)
        ]
        advice = advices.add_advice(session, user.account_id, [job.id for job, _is_new in started], actor=user.id)
        complete_idempotent(session, user.account_id, ADVISE, asked[0].id, {"advice_id": advice.id})
        hand_over(pictures, asked[0])
    app.hands.ring()
    return advice.id


# While it runs, and after --------------------------------------------------------------------------


def get_advice(app: Application, user: Caller, advice_id: str) -> AdviceView:
    """An advice of the account with what its runs found so far. Raises `JobNotFoundError`."""
    titles = {model.name: model.title for model in app.registry.models()}
    with app.db.read() as session:
        advice = advices.get_advice(session, user.account_id, advice_id)
        runs = []
        for job in advices.list_advice_jobs(session, advice.id):
            images = jobs.list_images(session, job.id)
            answered = {image.charge_key: image for image in images if image.is_answered}
            results = get_results(session, user.account_id, answered.keys())
            runs.append(
                Measured(
                    Combination(job.model, titles.get(job.model, job.model), job.img_size, job.tile_px),
                    job,
                    jobs.get_progress(session, job.id),
                    images,
                    sum(line.list_mt for line in quote_lines(session.get_one(Quote, job.quote_id))),
                    # What lacks a tile would be blamed for what it could not see.
                    {
                        answered[key].image_sha256: Detections.from_json(result.detections)
                        for key, result in results.items()
                        if not result.tiles_failed
                    },
                )
            )
    return AdviceView(advice, runs[0], tuple(runs[1:]))


def find_open_advice(app: Application, user: Caller) -> str | None:
    """The account's newest advice that is not finished."""
    with app.db.read() as session:
        return advices.find_open_advice(session, user.account_id)


def list_advices(app: Application, user: Caller, *, limit: int) -> list[AdviceLine]:
    """The account's newest advices."""
    with app.db.read() as session:
        lines = []
        for advice in advices.list_advices(session, user.account_id, limit=limit):
            runs = advices.list_advice_jobs(session, advice.id)
            progress = [jobs.get_progress(session, job.id) for job in runs]
            lines.append(
                AdviceLine(advice, runs[0], len(runs), progress[0].total, sum(one.charged_mt for one in progress))
            )
    return lines


def cancel_advice(app: Application, user: Caller, advice_id: str) -> int:
    """Give back what has not started; the milli-tokens given back. Raises `JobNotFoundError`, `RoleNeededError`."""
    with app.db.read() as session:
        advice = advices.get_advice(session, user.account_id, advice_id)
        runs = advices.list_advice_jobs(session, advice.id)
    return sum(cancel_job(app, user, job.id) for job in runs if job.status != "finished")
