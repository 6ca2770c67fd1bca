"""What an engineer who knows other services' APIs expects without reading: HEAD, times, a bare address, plain words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from core.plans import Plan
from core.services import plans

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from core.inference.engine import Engine
    from tests.gateway.calls import Customer

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture(scope="module")
def customer(tmp_path_factory: pytest.TempPathFactory, weights_dir: Path, engine: Engine) -> Iterator[Customer]:
    """A customer of a gateway on SQLite."""
    from tests.gateway.calls import open_gateway

    with open_gateway("sqlite", tmp_path_factory.mktemp("customer"), weights_dir, engine) as served:
        yield served.customer()


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/models", "/balance", "/jobs", "/receipts.csv", "/docs"])
def test_head_is_get_without_its_body(customer: Customer, path: str) -> None:
    """Watchers of uptime send HEAD: they get the status and the headers of GET, and no body."""
    got, head = customer.get(path), customer.call("HEAD", path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    assert head.headers["x-request-id"]


def test_head_starts_nothing(customer: Customer) -> None:
    """HEAD of what only POST does is refused, and so is that of a stream, which would not end."""
    for path in ("/detect", "/batch", "/jobs/job_x/events"):
        assert customer.call("HEAD", path).status_code == 405, path
    assert customer.balance() == (20, 0)


def test_the_bare_address_leads_to_the_documentation(customer: Customer) -> None:
    """`/v1` shows how to call the API, and not the portal."""
    answer = customer.client.get("/v1")
    assert (answer.status_code, answer.url.path) == (200, "/v1/docs")
    assert "The HTTP API" in answer.text
    chinese = customer.client.get("/v1/docs", params={"lang": "zh-CN"})
    assert '<html lang="zh-CN">' in chinese.text
    assert "运行之前的价格" in chinese.text
    # Each leads to the other.
    assert 'href="docs?lang=zh-CN"' in answer.text
    assert 'href="docs?lang=en"' in chinese.text


def test_every_time_is_written_alike(customer: Customer, photo_bytes: dict[str, bytes]) -> None:
    """Milliseconds and Z, whatever the moment: a program may read all of them by one pattern."""
    job = customer.run("/batch", {"a.jpg": photo_bytes["bus.jpg"]}).json()
    usage = customer.get("/usage").json()
    result = customer.get(f"/results/{job['results'][0]['id']}").json()
    quote = customer.get(f"/quotes/{job['quote_id']}").json()
    key = customer.get("/keys").json()["keys"][0]
    times = [
        *(job[name] for name in ("created_at", "finished_at")),
        *(quote[name] for name in ("created_at", "expires_at")),
        *(usage[name] for name in ("start", "end")),
        *(key[name] for name in ("created_at", "last_used_at")),
        result["created_at"],
    ]
    assert [one for one in times if not TIME.fullmatch(one)] == []


def test_the_balance_says_the_plan(customer: Customer) -> None:
    """The standard one, until the operator makes the account a VIP's."""
    assert customer.get("/balance").json()["plan"] == "standard"
    operator = customer.user.model_copy(update={"is_operator": True})
    plans.set_plan(customer.app, operator, customer.user.account_id, Plan.VIP, reason="contract")
    assert customer.get("/balance").json()["plan"] == "vip"


def test_a_batch_tells_the_size_of_each_picture(customer: Customer, photo_bytes: dict[str, bytes]) -> None:
    """Boxes are in pixels: each outcome says of how many, as the answer for one picture does."""
    one = customer.detect(photo_bytes["bus.jpg"]).json()
    (outcome,) = customer.run("/batch", {"a.jpg": photo_bytes["bus.jpg"]}).json()["results"]
    assert outcome["image"] == {**one["image"], "name": "a.jpg"}
    assert outcome["image"]["width"] == 810


def test_what_is_wrong_is_said_in_plain_words(customer: Customer, photo_bytes: dict[str, bytes]) -> None:
    """A misspelt field and a wrong time are named without the words of a Python library."""
    misspelt = customer.detect(photo_bytes["bus.jpg"], conf=0.5).json()
    assert misspelt["errors"] == [{"field": "conf", "message": "there is no such field"}]
    wrong = customer.get("/usage", params={"start": "yesterday"}).json()
    assert wrong["errors"] == [{"field": "start", "message": "a time such as 2026-11-24T10:15:00Z"}]


@pytest.mark.parametrize("path", ["/balance", "/jobs", "/receipts.csv", "/nothing"])
def test_nothing_between_keeps_or_guesses_at_an_answer(customer: Customer, path: str) -> None:
    """What belongs to an account is stored by no cache, and taken for no other type than it says."""
    answer = customer.get(path)
    assert "no-store" in answer.headers["cache-control"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_what_a_key_may_still_do_stands_in_the_headers(customer: Customer, photo_bytes: dict[str, bytes]) -> None:
    """`RateLimit-Policy` names both limits and `RateLimit` what is left, exactly; without a key there are none."""
    key = customer.make_key(name="fresh")
    first = customer.get("/balance", secret=key.secret)
    policy = '"requests_per_s";q=10000;w=1, "images_per_minute";q=100000;w=60'
    assert first.headers["RateLimit-Policy"] == policy
    # On a slow machine the request's second is over when it is answered.
    assert re.fullmatch(
        '"requests_per_s";r=(9999;t=1|10000;t=0), "images_per_minute";r=100000;t=0', first.headers["RateLimit"]
    )
    detected = customer.detect(photo_bytes["zidane.jpg"], secret=key.secret)
    assert detected.status_code == 200
    assert re.search(r'"images_per_minute";r=99999;t=[1-6]\d?$', detected.headers["RateLimit"])
    assert "RateLimit" not in customer.client.get("/v1/models").headers


@pytest.mark.parametrize(
    ("path", "name"),
    [("/jobs?limt=3", "limt"), ("/balance?x=1", "x"), ("/usage?start=2026-11-01T00:00:00Z&ende=2", "ende")],
)
def test_a_mistyped_parameter_is_no_silence(customer: Customer, path: str, name: str) -> None:
    """A query parameter that an address does not know is a 422 that names it, and what there is instead."""
    answer = customer.get(path)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["errors"] == [{"field": name, "message": "there is no such parameter"}]
    assert customer.get("/jobs?limit=3").status_code == 200
