"""Quotes, batches and jobs: one price, one settlement, an outcome for each picture, and news of the end."""

from __future__ import annotations

import base64
import csv
import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from core.db import utcnow
from core.pricing.book import adopt_book, current_prices
from gateway.events import _streams as open_streams
from tests.conftest import MODEL
from tests.core.services.helpers import pictures
from tests.gateway.calls import Gateway, blocked_model, events, failing_model, open_gateway, serve_files

if TYPE_CHECKING:
    from core.inference.engine import Engine

CLIENTS = 8


def results(job: dict[str, Any]) -> list[str]:
    """The outcomes of a job's pictures, in order."""
    return [one["status"] for one in job["results"]]


# Quotes --------------------------------------------------------------------------------------------


def test_a_quote_is_what_the_batch_costs(gateway: Gateway) -> None:
    """A quote, then a batch by its id alone: exactly the quoted amount, and the quote runs once."""
    customer = gateway.customer()
    quote = customer.run("/quotes", pictures(3, seed=1))
    assert quote.status_code == 201
    assert quote.json()["tokens"] == sum(one["tokens"] for one in quote.json()["images"]) == 0.75
    assert customer.balance() == (20.0, 0.0)
    assert customer.get(f"/quotes/{quote.json()['id']}").json() == quote.json()

    job = customer.post("/batch", json={"quote_id": quote.json()["id"]}).json()
    assert (job["status"], job["quote_id"], results(job)) == ("finished", quote.json()["id"], ["charged"] * 3)
    assert job["usage"] == {
        "quoted_tokens": 0.75,
        "tokens": 0.75,
        "held_tokens": 0.0,
        "returned_tokens": 0.0,
        "remaining_tokens": 19.25,
    }
    assert job["images"] == {
        "total": 3,
        "done": 3,
        "charged": 3,
        "free": 0,
        "failed": 0,
        "cancelled": 0,
        "interrupted": 0,
    }
    again = customer.post("/batch", json={"quote_id": quote.json()["id"]}).json()
    assert again["id"] == job["id"]
    assert customer.balance() == (19.25, 0.0)
    for one in job["results"]:
        assert customer.get(f"/results/{one['id']}").json()["predictions"] == one["predictions"]
        assert customer.get(f"/receipts/{one['usage']['receipt_id']}").json()["charged_tokens"] == "0.250"


def test_a_quote_says_what_is_free(gateway: Gateway) -> None:
    """What the account has already, and what is twice in the batch, costs nothing, and the quote says why."""
    customer = gateway.customer()
    files = pictures(2, seed=2)
    customer.detect(files["0.png"])
    quote = customer.run("/quotes", {**files, "twin.png": files["1.png"]}).json()
    assert [one["free_reason"] for one in quote["images"]] == ["processed", None, "duplicate"]
    assert [one["tokens"] for one in quote["images"]] == [0.0, 0.25, 0.0]
    job = customer.run("/batch", {**files, "twin.png": files["1.png"]}).json()
    assert results(job) == ["free", "charged", "free"]
    assert [one["usage"]["cached"] for one in job["results"]] == [True, False, True]
    assert job["results"][1]["id"] == job["results"][2]["id"]
    assert customer.balance() == (19.5, 0.0)


def test_an_expired_quote(gateway: Gateway) -> None:
    """It runs as long as it did not grow; when it did, 409 names the new quote, which runs then."""
    customer = gateway.customer()
    one, two = (customer.run("/quotes", pictures(1, seed=seed)).json() for seed in (3, 4))
    # Not so long ago that it is removed meanwhile.
    an_hour_ago = f"{utcnow() - timedelta(hours=1):%Y-%m-%d %H:%M:%S.%f}"
    gateway.change(
        "UPDATE quote SET expires_at = :moment WHERE account_id = :id",
        id=customer.user.account_id,
        moment=an_hour_ago,
    )
    job = customer.post("/batch", json={"quote_id": one["id"]}).json()
    assert (job["usage"]["tokens"], job["quote_id"] != one["id"]) == (0.25, True)
    with gateway.app.db.write() as session:
        before = current_prices(session)
        dearer = replace(before, version="9999-1", betas={**before.betas, MODEL: Decimal(2)})
        adopt_book(session, dearer)
    try:
        answer = customer.post("/batch", json={"quote_id": two["id"]})
        body = answer.json()
        assert (answer.status_code, body["code"]) == (409, "quote_grew")
        assert (body["previous"], body["total"]) == (0.25, 0.5)
        assert customer.balance() == (19.75, 0.0)
        agreed = customer.post("/batch", json={"quote_id": body["quote_id"]}).json()
        assert agreed["usage"]["tokens"] == 0.5
        assert customer.balance() == (19.25, 0.0)
    finally:
        with gateway.app.db.write() as session:
            adopt_book(session, replace(before, version="9999-2"))


def test_the_discount_of_ten(gateway: Gateway) -> None:
    """Nine pictures at list price, ten at 5 % less, to the third decimal, in the quote and in the ledger."""
    customer = gateway.customer()
    nine = customer.run("/quotes", pictures(9, seed=5)).json()
    assert (nine["discount_percent"], nine["tokens"], nine["list_tokens"]) == (0.0, 2.25, 2.25)
    files = pictures(10, seed=5)
    ten = customer.run("/quotes", files).json()
    assert (ten["discount_percent"], ten["tokens"], ten["list_tokens"]) == (5.0, 2.38, 2.5)
    job = customer.run("/batch", files).json()
    assert job["usage"]["tokens"] == 2.38
    assert round(sum(one["usage"]["tokens"] for one in job["results"]), 3) == 2.38
    assert customer.balance() == (17.62, 0.0)


# Batches -------------------------------------------------------------------------------------------


def test_a_picture_that_fails_costs_nothing(gateway: Gateway) -> None:
    """One of three fails in the model: the two others are charged, its price is given back, and its error is named."""
    customer = gateway.customer()
    files = {
        **pictures(1, seed=6),
        "bad.png": pictures(1, seed=6, side=78)["0.png"],
        "c.png": pictures(2, seed=6)["1.png"],
    }
    with failing_model(78):
        job = customer.run("/batch", files).json()
    assert results(job) == ["charged", "failed", "charged"]
    failed = job["results"][1]
    assert (failed["error"], failed["id"], failed["predictions"]) == ("inference_failed", None, [])
    assert failed["usage"] == {"tokens": 0.0, "cached": False, "receipt_id": None}
    usage = job["usage"]
    assert (usage["tokens"], usage["returned_tokens"], usage["held_tokens"]) == (0.5, 0.25, 0.0)
    assert customer.balance() == (19.5, 0.0)


@pytest.mark.parametrize("path", ["/quotes", "/batch", "/jobs"])
def test_a_broken_picture_is_named(gateway: Gateway, path: str) -> None:
    """Nothing runs when one of five cannot be read; the answer says which, in JSON and in a form."""
    customer = gateway.customer()
    files = pictures(5, seed=7)
    files["3.png"] = files["3.png"][:200]
    answer = customer.run(path, files)
    body = answer.json()
    assert (answer.status_code, body["code"]) == (422, "image_broken")
    assert [error["field"] for error in body["errors"]] == ["images.3"]
    assert body["detail"].startswith("Picture 4 of 5: ")
    form = customer.post(
        path, files=[("files", (name, data)) for name, data in files.items()], data={"img_size": "320"}
    )
    assert (form.status_code, form.json()["errors"]) == (422, body["errors"])
    images = [{"image": base64.b64encode(data).decode()} for data in pictures(2, seed=7).values()]
    answer = customer.post(path, json={"images": [*images, {"image": "no base64!"}]})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "images.2")
    answer = customer.post(path, json={"images": [*images, {"image_url": "http://10.0.0.1/a.jpg"}]})
    assert (answer.status_code, answer.json()["code"]) == (422, "image_url_refused")
    assert answer.json()["errors"][0]["field"] == "images.2"
    assert customer.balance() == (20.0, 0.0)
    assert customer.get("/jobs").json()["jobs"] == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"images": []}, None),
        ({"images": [{}]}, "image"),
        ({"images": [{"image_url": "https://example.com/", "image": "AAAA"}]}, "image"),
        ({"images": [{"url": "https://example.com/"}]}, "images.0.url"),
        ({"images": [{"image": "AAAA"}], "quote_id": "quote_1"}, "quote_id"),
        ({"images": "https://example.com/"}, "images"),
    ],
)
def test_what_is_no_batch(gateway: Gateway, body: dict[str, Any], field: str | None) -> None:
    """No picture, a picture in two ways, or pictures beside a quote: 422 that names the field."""
    answer = gateway.customer().post("/batch", json=body)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json().get("errors", [])] == ([] if field is None else [field])


def test_formats_of_a_batch(gateway: Gateway, photo_bytes: dict[str, bytes]) -> None:
    """COCO, YOLO and CSV of many pictures keep apart which box belongs to which."""
    customer = gateway.customer()
    job = customer.run("/batch", photo_bytes, format="json").json()
    counts = {one["name"]: len(one["predictions"]) for one in job["results"]}
    assert all(counts.values())
    coco = customer.get(f"/jobs/{job['id']}/results?format=coco").json()
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    found = [names[annotation["image_id"]] for annotation in coco["annotations"]]
    assert {name: found.count(name) for name in counts} == counts
    assert len({annotation["id"] for annotation in coco["annotations"]}) == len(found)
    rows = list(csv.DictReader(io.StringIO(customer.get(f"/jobs/{job['id']}/results?format=csv").text)))
    assert {name: sum(row["image"] == name for row in rows) for name in counts} == counts
    lines = customer.get(f"/jobs/{job['id']}/results?format=yolo").text.splitlines()
    assert len(lines) == sum(counts.values())
    strict = customer.get(f"/jobs/{job['id']}/results?confidence=0.6").json()
    assert all(box["confidence"] >= 0.6 for one in strict["results"] for box in one["predictions"])
    assert customer.get(f"/jobs/{job['id']}/results?classes=Fall,nothing").json()["results"][0]["predictions"] == []


def test_a_batch_under_one_key(gateway: Gateway) -> None:
    """Eight times at once and once more: one job, one charge; other pictures under the key are a conflict."""
    customer = gateway.customer()
    files = pictures(2, seed=8)
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(lambda _n: customer.run("/batch", files, key="batch-1"), range(CLIENTS)))
    assert [answer.status_code for answer in answers] == [200] * CLIENTS
    assert len({answer.json()["id"] for answer in answers}) == 1
    again = customer.run("/batch", files, key="batch-1")
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json()["results"] == answers[0].json()["results"]
    answer = customer.run("/batch", pictures(2, seed=9), key="batch-1")
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_conflict")
    assert customer.balance() == (19.5, 0.0)


def test_short_balance_holds_nothing(gateway: Gateway) -> None:
    """A batch that costs more than there is: 402 for the whole of it, and not one of its pictures is held."""
    customer = gateway.customer("0.700")
    for path in ("/batch", "/jobs"):
        answer = customer.run(path, pictures(3, seed=10))
        body = answer.json()
        assert (answer.status_code, body["code"]) == (402, "insufficient_tokens")
        assert (body["required"], body["available"]) == (0.75, 0.7)
    assert customer.run("/quotes", pictures(3, seed=10)).status_code == 201
    assert customer.balance() == (0.7, 0.0)


# Jobs ----------------------------------------------------------------------------------------------


def test_a_job_from_start_to_end(gateway: Gateway) -> None:
    """202 with its place at once, progress while it runs, results at the end; under one key it is one job."""
    customer = gateway.customer()
    files = pictures(3, seed=11)
    with blocked_model():
        answer = customer.run("/jobs", files, key="job-1")
        job = answer.json()
        assert (answer.status_code, answer.headers["Location"]) == (202, f"/v1/jobs/{job['id']}")
        assert job["usage"]["held_tokens"] == 0.75
        assert "results" not in job
        again = customer.run("/jobs", files, key="job-1")
        assert (again.status_code, again.json()["id"]) == (202, job["id"])
        assert again.headers["Idempotent-Replayed"] == "true"
        partly = customer.get(f"/jobs/{job['id']}/results").json()
        assert set(results(partly)) <= {"queued", "running"}
        assert customer.balance() == (20.0, 0.75)
    finished = customer.wait(job["id"])
    assert (finished["images"]["charged"], finished["usage"]["tokens"]) == (3, 0.75)
    assert results(customer.get(f"/jobs/{job['id']}/results").json()) == ["charged"] * 3
    assert customer.balance() == (19.25, 0.0)


def test_cancelling_gives_back(gateway: Gateway) -> None:
    """What has not started is given back at once; what is in hand is finished; cancelling again changes nothing."""
    customer = gateway.customer()
    with blocked_model():
        job = customer.run("/jobs", pictures(6, seed=12)).json()
        deadline = time.monotonic() + 30
        while results(customer.get(f"/jobs/{job['id']}/results").json()).count("running") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        cancelled = customer.post(f"/jobs/{job['id']}/cancel").json()
        assert (cancelled["images"]["cancelled"], cancelled["usage"]["returned_tokens"]) == (4, 1.0)
        assert customer.balance() == (20.0, 0.5)
        assert customer.post(f"/jobs/{job['id']}/cancel").json()["images"] == cancelled["images"]
    finished = customer.wait(job["id"])
    assert (finished["images"]["charged"], finished["images"]["cancelled"]) == (2, 4)
    assert customer.balance() == (19.5, 0.0)
    assert customer.post(f"/jobs/{job['id']}/cancel").json()["usage"]["tokens"] == 0.5


def test_events_end_with_the_job(gateway: Gateway) -> None:
    """`progress` at each change, `finished` once and last; the stream of a finished job is that one event."""
    customer = gateway.customer()
    with ThreadPoolExecutor(1) as pool:
        with blocked_model():
            job = customer.run("/jobs", pictures(2, seed=13)).json()
            stream = pool.submit(customer.get, f"/jobs/{job['id']}/events")
            time.sleep(0.5)  # the stream has told of the start by then; the rest is the end
            assert not stream.done()
        answer = stream.result(60)
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = events(answer.text)
    assert [kind for kind, _ in told[:-1]] == ["progress"] * (len(told) - 1)
    assert (told[-1][0], told[-1][1]["status"]) == ("finished", "finished")
    assert len(told) > 1
    done = [data["images"]["done"] for _, data in told]
    assert done == sorted(done)
    only = events(customer.get(f"/jobs/{job['id']}/events").text)
    assert [kind for kind, _ in only] == ["finished"]
    assert only[0][1] == customer.get(f"/jobs/{job['id']}").json()


def test_jobs_page_by_page(gateway: Gateway) -> None:
    """Newest first; `next` leads through all of them, each once, and ends."""
    customer = gateway.customer()
    made = [customer.run("/batch", pictures(1, seed=20 + number)).json()["id"] for number in range(5)]
    seen: list[str] = []
    before = ""
    while True:
        page = customer.get(f"/jobs?limit=2{before}").json()
        seen += [job["id"] for job in page["jobs"]]
        if page["next"] is None:
            break
        before = f"&before={page['next']}"
    assert seen == made[::-1]


# Webhooks at creation ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/hook",
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:10.0.0.1]/",
        "http://user:pass@example.com/",
        "ftp://example.com/",
        "javascript:alert(1)",
        "",
        "https://example.com:22/",
    ],
)
def test_an_address_that_no_webhook_goes_to(gateway: Gateway, url: str) -> None:
    """A private, odd or foreign address is refused when the job is made, and there is no job."""
    customer = gateway.customer()
    answer = customer.run("/jobs", pictures(1), webhook_url=url)
    assert (answer.status_code, answer.json()["code"]) == (422, "webhook_url_refused")
    assert customer.get("/jobs").json()["jobs"] == []
    assert customer.balance() == (20.0, 0.0)


def test_pictures_by_address(gateway: Gateway) -> None:
    """A batch whose pictures come from another server, some twice: each is fetched and priced as if it were sent."""
    customer = gateway.customer()
    files = pictures(2, seed=14)
    with serve_files(files) as url:
        images = [{"image_url": f"{url}/{name}"} for name in ("0.png", "1.png", "0.png")]
        job = customer.post("/batch", json={"images": images, "img_size": 320}).json()
        assert results(job) == ["charged", "charged", "free"]
        assert [one["name"] for one in job["results"]] == ["0.png", "1.png", "0.png"]
        answer = customer.post("/batch", json={"images": [*images, {"image_url": f"{url}/nothing.png"}]})
    assert (answer.status_code, answer.json()["code"]) == (422, "image_url_failed")
    assert answer.json()["errors"][0]["field"] == "images.3"
    assert customer.balance() == (19.5, 0.0)


# Limits --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, weights_dir: Path, engine: Engine) -> Iterator[Gateway]:
    """A gateway with small limits."""
    folder = tmp_path_factory.mktemp("small")
    with open_gateway(
        "sqlite", folder, weights_dir, engine, batch_images_max=3, rate_images_per_minute=10, rate_jobs_concurrent=2
    ) as served:
        yield served


def test_too_many_pictures(small: Gateway) -> None:
    """More pictures than one batch takes: 422 that says how many it takes, in JSON and in a form."""
    customer = small.customer()
    answer = customer.run("/batch", pictures(4))
    assert (answer.status_code, answer.json()["code"]) == (422, "too_many_images")
    assert answer.json()["images_max"] == 3
    form = customer.post("/quotes", files=[("files", (name, data)) for name, data in pictures(4).items()])
    assert form.json()["code"] == "too_many_images"


def test_runs_at_once(small: Gateway) -> None:
    """The third unfinished run of an account is a 429; another account's is not, and one that ends makes room."""
    customer, other = small.customer(), small.customer()
    with blocked_model():
        jobs = [customer.run("/jobs", pictures(1, seed=40 + number)).json() for number in range(2)]
        for path in ("/jobs", "/batch"):
            answer = customer.run(path, pictures(1, seed=50))
            assert (answer.status_code, answer.json()["limit"]) == (429, "jobs_concurrent")
            assert int(answer.headers["Retry-After"]) >= 1
        assert other.run("/jobs", pictures(1, seed=50)).status_code == 202
        assert customer.balance() == (20.0, 0.5)
    for job in jobs:
        customer.wait(job["id"])
    assert customer.run("/batch", pictures(1, seed=50)).status_code == 200


def test_a_quote_is_run_as_it_was_quoted(gateway: Gateway) -> None:
    """Another model, size or tile beside a quote's id is a 422 that names it; the same once more is none."""
    customer = gateway.customer()
    quote = customer.run("/quotes", pictures(1, seed=60)).json()
    for field, value in (("img_size", 1280), ("model", "yolov8n"), ("tile_px", 640)):
        answer = customer.post("/batch", json={"quote_id": quote["id"], field: value})
        assert (answer.status_code, [error["field"] for error in answer.json()["errors"]]) == (422, [field])
    assert customer.balance() == (20.0, 0.0)
    job = customer.post("/batch", json={"quote_id": quote["id"], "img_size": 320, "model": MODEL}).json()
    assert results(job) == ["charged"]


def test_events_end_with_the_key(gateway: Gateway) -> None:
    """A stream breaks off when its key is revoked; the job goes on."""
    customer = gateway.customer()
    other = customer.make_key(name="other")
    with blocked_model(), ThreadPoolExecutor(1) as pool:
        job = customer.run("/jobs", pictures(1, seed=61)).json()
        stream = pool.submit(customer.get, f"/jobs/{job['id']}/events", secret=other.secret)
        deadline = time.monotonic() + 30
        while not open_streams._of_account[customer.user.account_id]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        customer.call("DELETE", f"/keys/{other.key.id}")
        # Waiting, and in hand: what it told before.
        assert {kind for kind, _ in events(stream.result(30).text)} == {"progress"}
    assert customer.wait(job["id"])["status"] == "finished"


def test_images_a_minute(small: Gateway) -> None:
    """All pictures of a request count or none: what would pass the limit is refused whole and counts nothing."""
    customer = small.customer()
    for number in range(3):
        assert customer.run("/quotes", pictures(3, seed=60 + number)).status_code == 201
    assert customer.run("/quotes", pictures(2)).status_code == 429
    assert customer.run("/quotes", pictures(1)).status_code == 201
    assert customer.run("/quotes", pictures(1)).status_code == 429


def test_streams_belong_to_their_account(gateway: Gateway) -> None:
    """Somebody else's job has no events to tell: 404 at once, not a stream."""
    owner, stranger = gateway.customer(), gateway.customer()
    job = owner.run("/batch", pictures(1, seed=15)).json()
    answer = stranger.get(f"/jobs/{job['id']}/events")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
