"""What waits on the disk for quotes: so much and no more, gone when nobody runs it; and what a full disk refuses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from core.jobs.blobs import DISK_BLOCK_BYTES
from core.services.application import set_current
from core.services.retention import remove_unrun_quotes
from tests.core.services import helpers
from tests.gateway.calls import Customer, Gateway, open_gateway

if TYPE_CHECKING:
    from core.inference.engine import Engine

PICTURES_MAX = 3


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def small(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, weights_dir: Path, engine: Engine
) -> Iterator[Gateway]:
    """A gateway where three small pictures may wait for the quotes of an account."""
    limit = PICTURES_MAX * DISK_BLOCK_BYTES
    folder = tmp_path_factory.mktemp("small")
    with open_gateway(request.param, folder, weights_dir, engine, stored_quote_bytes_max=limit) as served:
        yield served


def pictures(count: int, seed: int) -> dict[str, bytes]:
    """Different pictures, each of which fits into one block of a disk."""
    return helpers.pictures(count, seed=seed, side=33)


def files(customer: Customer) -> tuple[int, int]:
    """How many pictures wait for quotes, of everybody, and how many the customer has for good."""
    root = customer.app.blobs.root
    folders = (root / ".quotes", root / ".incoming"), (root / customer.user.account_id,)
    waiting, stored = ([path for folder in some for path in folder.rglob("*") if path.is_file()] for some in folders)
    return len(waiting), len(stored)


def test_too_much_waits(small: Gateway) -> None:
    """409 says how much and until when, and stores nothing; a batch has no such limit; running a quote makes room."""
    customer = small.customer()
    quotes = [customer.run("/quotes", pictures(count, seed)) for count, seed in ((2, 1), (1, 2))]
    assert [quote.status_code for quote in quotes] == [201, 201]
    before = files(customer)
    refused = customer.run("/quotes", pictures(1, 3))
    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (409, "too_many_stored_pictures")
    assert problem["stored_bytes"] == problem["stored_bytes_max"] == PICTURES_MAX * DISK_BLOCK_BYTES
    assert quotes[0].json()["expires_at"] < problem["free_at"]
    assert problem["free_at"].endswith("Z")
    assert files(customer) == before
    assert customer.run("/batch", pictures(4, 4)).json()["usage"]["tokens"] == 1.0
    assert customer.post("/batch", json={"quote_id": quotes[0].json()["id"]}).json()["usage"]["tokens"] == 0.5
    assert files(customer) == (before[0] - 2, 6)
    assert customer.run("/quotes", pictures(2, 5)).status_code == 201
    assert customer.balance() == (18.5, 0.0)


def test_a_refused_batch_leaves_nothing(small: Gateway) -> None:
    """A key whose cap does not allow it cannot fill the disk with what it never pays for."""
    customer = small.customer()
    key = customer.make_key(day_cap_mt=100)
    before = files(customer)
    for path in ("/batch", "/jobs"):
        answer = replace(customer, secret=key.secret).run(path, pictures(2, 6))
        assert (answer.status_code, answer.json()["code"]) == (403, "spending_cap")
    assert files(customer) == before
    assert customer.balance() == (20.0, 0.0)


def test_an_old_quote_is_not_there_any_more(small: Gateway) -> None:
    """404 for what nobody ran; what was run is there for good, and running it again gives its job."""
    customer = small.customer()
    old, ran = (customer.run("/quotes", pictures(1, seed)).json()["id"] for seed in (7, 8))
    job = customer.post("/batch", json={"quote_id": ran}).json()
    for quote_id in (old, ran):
        small.change("UPDATE quote SET expires_at = '2001-01-01 00:00:00.000000' WHERE id = :id", id=quote_id)
    os.utime(small.app.blobs.root / ".quotes" / old, (0, 0))
    remove_unrun_quotes(small.app)
    assert [customer.get(f"/quotes/{quote_id}").status_code for quote_id in (old, ran)] == [404, 200]
    assert customer.post("/batch", json={"quote_id": old}).json()["code"] == "quote_not_found"
    assert customer.post("/batch", json={"quote_id": ran}).json()["id"] == job["id"]
    assert customer.get(f"/results/{job['results'][0]['id']}", params={"annotated": "png"}).status_code == 200
    assert customer.balance() == (19.75, 0.0)


def test_a_full_disk(small: Gateway) -> None:
    """507 wherever a picture would be stored, with nothing held; what is answered already is still answered."""
    customer = small.customer()
    (data,) = pictures(1, 9).values()
    assert customer.detect(data, key="one").status_code == 200
    quote = customer.run("/quotes", pictures(1, 10)).json()
    before = files(customer)
    settings = small.app.settings.model_copy(update={"disk_free_bytes_min": 10**18})
    set_current(replace(small.app, settings=settings))
    try:
        answers = [
            *(customer.run(path, pictures(1, 11)) for path in ("/quotes", "/batch", "/jobs")),
            customer.post("/batch", json={"quote_id": quote["id"]}),
            customer.detect(pictures(1, 12)["0.png"]),
        ]
        assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(507, "disk_full")] * 5
        assert customer.detect(data, key="one").headers["Idempotent-Replayed"] == "true"
        assert customer.balance() == (19.75, 0.0)
    finally:
        set_current(small.app)
    assert files(customer) == before
    assert customer.post("/batch", json={"quote_id": quote["id"]}).json()["usage"]["tokens"] == 0.25
