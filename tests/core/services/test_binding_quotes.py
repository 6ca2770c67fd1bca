"""A quote binds: what was shown is the most that is taken, also when it expired before the run."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal

import pytest
from sqlmodel import select

from core import errors
from core.identity.tables import User
from core.jobs.blobs import hash_bytes
from core.jobs.tables import Job
from core.pricing.book import adopt_book, current_prices
from core.services.application import Application
from core.services.metered_detection import submit_quote
from core.services.quotes import quote_lines
from tests.core.services.helpers import MODEL, balance, change, pictures, quote, submit


@pytest.fixture
def ann(any_app: Application, sign_up: Callable[..., User]) -> User:
    """A customer with 20.000 tokens."""
    return sign_up(any_app)


def expire(app: Application) -> None:
    """Let every quote run out."""
    change(app, "UPDATE quote SET expires_at = '2001-01-01 00:00:00.000000'")


def adopt(app: Application, version: str, beta: str) -> None:
    """Another price book, in force from now on."""
    with app.db.write() as session:
        prices = current_prices(session)
        adopt_book(session, replace(prices, version=version, betas={**prices.betas, MODEL: Decimal(beta)}))


def test_expired_quote_runs_when_it_did_not_grow(any_app: Application, ann: User) -> None:
    """Quoted again without asking: the price is the same, and a retry gives the same run."""
    files = pictures(2)
    quoted = quote(any_app, ann, files)
    expire(any_app)
    job = submit(any_app, ann, quoted, files)
    assert job.quote_id != quoted.id
    assert balance(any_app, ann) == (20_000, quoted.total_mt)
    assert submit(any_app, ann, quoted, files).id == job.id
    assert balance(any_app, ann) == (20_000, quoted.total_mt)


def test_expired_quote_that_grew_asks_first(any_app: Application, ann: User) -> None:
    """Nothing is held until the customer takes the new, named quote."""
    files = pictures(2)
    quoted = quote(any_app, ann, files)
    expire(any_app)
    adopt(any_app, "9999-1", "2.0")
    with pytest.raises(errors.QuoteGrewError) as caught:
        submit(any_app, ann, quoted, files)
    assert caught.value.details["previous_mt"] == quoted.total_mt
    assert caught.value.details["total_mt"] == 2 * quoted.total_mt
    assert balance(any_app, ann) == (20_000, 0)
    submit_quote(any_app, ann, caught.value.details["quote_id"], {hash_bytes(d): d for d in files.values()})
    assert balance(any_app, ann) == (20_000, 2 * quoted.total_mt)


def test_expired_quote_that_shrank_runs_cheaper(any_app: Application, ann: User) -> None:
    """Who pays less than he agreed to need not be asked."""
    files = pictures(2)
    quoted = quote(any_app, ann, files)
    expire(any_app)
    adopt(any_app, "9999-1", "0.5")
    submit(any_app, ann, quoted, files)
    assert balance(any_app, ann) == (20_000, quoted.total_mt // 2)


def test_a_valid_quote_binds_against_a_new_price_book(any_app: Application, ann: User) -> None:
    """A price that rose after the preview does not change what was promised."""
    files = pictures(2)
    quoted = quote(any_app, ann, files)
    adopt(any_app, "9999-1", "4.0")
    assert submit(any_app, ann, quoted, files).quote_id == quoted.id
    assert balance(any_app, ann) == (20_000, quoted.total_mt)


def test_own_idempotency_key(any_app: Application, ann: User) -> None:
    """The same key and quote give the same run; the same key with another quote is refused and holds nothing."""
    first, second = pictures(1, seed=1), pictures(1, seed=2)
    one, other = quote(any_app, ann, first), quote(any_app, ann, second)
    files = {hash_bytes(data): data for data in (*first.values(), *second.values())}
    job = submit_quote(any_app, ann, one.id, files, idempotency_key="mine")
    assert submit_quote(any_app, ann, one.id, files, idempotency_key="mine").id == job.id
    with pytest.raises(errors.IdempotencyConflictError):
        submit_quote(any_app, ann, other.id, files, idempotency_key="mine")
    assert balance(any_app, ann) == (20_000, one.total_mt)


@pytest.mark.parametrize("is_expired", [False, True])
def test_a_quote_runs_once_under_any_keys(any_app: Application, ann: User, is_expired: bool) -> None:
    """Two keys of the caller's and the quote's own for one quote: one run, held once, and each key keeps its answer."""
    files = pictures(2)
    quoted = quote(any_app, ann, files)
    if is_expired:
        expire(any_app)
    by_hash = {hash_bytes(data): data for data in files.values()}
    keys = ["one", "two", None, "one"]
    runs = {submit_quote(any_app, ann, quoted.id, by_hash, idempotency_key=key).id for key in keys}
    assert len(runs) == 1
    assert balance(any_app, ann) == (20_000, quoted.total_mt)


def test_an_empty_batch_is_refused(any_app: Application, ann: User) -> None:
    """Nothing to run is no run that never ends."""
    with pytest.raises(errors.ImageEmptyError):
        quote(any_app, ann, {})


def test_many_submits_of_an_expired_quote_make_one_run(any_app: Application, ann: User) -> None:
    """Eight clicks at once on a price that is too old: one job, one hold an image."""
    files = pictures(3)
    quoted = quote(any_app, ann, files)
    expire(any_app)
    with ThreadPoolExecutor(8) as clicks:
        jobs = set(clicks.map(lambda _n: submit(any_app, ann, quoted, files).id, range(8)))
    assert len(jobs) == 1
    with any_app.db.read() as session:
        assert len(session.exec(select(Job)).all()) == 1
    assert balance(any_app, ann) == (20_000, quoted.total_mt)


def test_batch_discount_is_quoted_held_and_stored(any_app: Application, ann: User) -> None:
    """Ten charged pictures get 5 %: each 0.250 becomes 0.238, rounded once; nine pay the list price."""
    files = pictures(10, side=64)
    nine = dict(list(files.items())[:9])
    assert quote(any_app, ann, nine).total_mt == 9 * 250
    quoted = quote(any_app, ann, files)
    assert (quoted.list_mt, quoted.discount_percent) == (2500, Decimal(5))
    assert [line.amount_mt for line in quote_lines(quoted)] == [238] * 10
    submit(any_app, ann, quoted, files)
    assert balance(any_app, ann) == (20_000, 2380)
