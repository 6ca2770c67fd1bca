"""Webhook messages through the API: looked at page by page, sent again; and usage by who asked."""

from __future__ import annotations

import csv
from datetime import timedelta
from typing import Any

import jsonschema
import pytest

from core.services import webhooks
from gateway.account_shapes import UsageByKeyOut
from gateway.answers import webhook_body
from gateway.examples import ANSWERED
from tests.core.jobs.messages import end_pauses
from tests.core.services.helpers import change, pictures, run
from tests.gateway.calls import Customer, Gateway

# Nobody listens on this port.
NOWHERE = "http://127.0.0.1:9/hook"


def finish_jobs(customer: Customer, count: int) -> list[str]:
    """The ids of so many finished jobs whose end is told to nobody, newest first."""
    jobs = [
        customer.run("/jobs", pictures(1, seed=number), webhook_url=NOWHERE).json()["id"] for number in range(count)
    ]
    for job in jobs:
        customer.wait(job)
    return jobs[::-1]


def deliveries(customer: Customer, **query: Any) -> list[dict[str, Any]]:
    """A page of messages."""
    found: list[dict[str, Any]] = customer.get("/webhooks/deliveries", params=query).json()["deliveries"]
    return found


def test_messages_by_pages(gateway: Gateway) -> None:
    """Newest first, each once; another account sees none of them, nor goes on from one."""
    customer, other = gateway.customer(), gateway.customer()
    finish_jobs(customer, 3)
    first = customer.get("/webhooks/deliveries", params={"limit": 2}).json()
    rest = customer.get("/webhooks/deliveries", params={"limit": 2, "before": first["next"]}).json()
    assert (len(first["deliveries"]), len(rest["deliveries"]), rest["next"]) == (2, 1, None)
    listed = [one["id"] for one in (*first["deliveries"], *rest["deliveries"])]
    assert listed == [one["id"] for one in deliveries(customer)]
    times = [one["created_at"] for one in deliveries(customer)]
    assert times == sorted(times, reverse=True)
    assert deliveries(other) == []
    answer = other.get("/webhooks/deliveries", params={"before": listed[0]})
    assert (answer.status_code, answer.json()["code"]) == (404, "delivery_not_found")
    assert customer.get("/webhooks/deliveries", params={"status": "lost"}).status_code == 422


def test_a_message_that_was_given_up_is_sent_again(gateway: Gateway) -> None:
    """Its states as it fails, is given up, and is sent again; asking twice is asking once."""
    customer, other = gateway.customer(), gateway.customer()
    (job_id,) = finish_jobs(customer, 1)
    (fresh,) = deliveries(customer, status="pending")
    assert (fresh["job_id"], fresh["url"], fresh["attempts"]) == (job_id, NOWHERE, 0)
    end_pauses(customer.app.db)
    while webhooks.deliver_next(customer.app, webhook_body) is not None:
        pass
    (failed,) = deliveries(customer)
    assert (failed["status"], failed["attempts"], failed["last_status"]) == ("pending", 1, None)
    assert failed["next_attempt_at"] > fresh["created_at"]
    path = f"/webhooks/deliveries/{fresh['id']}/resend"
    assert customer.post(path).json() == failed, "it is on its way"
    change(
        customer.app,
        "UPDATE webhook_delivery SET given_up_at = created_at, last_status = 410 WHERE id = :id",
        id=fresh["id"],
    )
    (given_up,) = deliveries(customer, status="given_up")
    assert (given_up["next_attempt_at"], given_up["last_status"]) == (None, 410)
    assert given_up["given_up_at"] is not None
    assert deliveries(customer, status="pending") == deliveries(customer, status="delivered") == []
    assert other.post(path).status_code == 404
    sent, again = customer.post(path), customer.post(path)
    assert (sent.status_code, sent.json()) == (200, again.json())
    assert (sent.json()["status"], sent.json()["attempts"], sent.json()["id"]) == ("pending", 0, fresh["id"])


def test_usage_by_key(gateway: Gateway) -> None:
    """Two keys and the portal: each with its name and sums, together as by day; the receipts say the same."""
    customer = gateway.customer()
    another = customer.make_key(name="gate camera")
    files = pictures(4, seed=77)
    for number in range(3):
        assert customer.detect(files[f"{number}.png"]).status_code == 200
    customer.detect(files["0.png"])
    customer.detect(files["3.png"], secret=another.secret)
    run(customer.app, customer.user, pictures(2, seed=78))
    answer = customer.get("/usage", params={"by": "key"}).json()
    jsonschema.validate(answer, UsageByKeyOut.model_json_schema())
    sums = {"charged": 0, "free": 0, "failed": 0, "name": None, "prefix": None, "email": None}
    assert answer["callers"] == [
        {**sums, "id": customer.key_id, "kind": "api_key", "name": "test", "prefix": customer.secret[:11],
         "tokens": 0.75, "images": 4, "charged": 3, "free": 1},
        {**sums, "id": customer.user.id, "kind": "person", "email": customer.user.email,
         "tokens": 0.5, "images": 2, "charged": 2},
        {**sums, "id": another.key.id, "kind": "api_key", "name": "gate camera", "prefix": another.key.prefix,
         "tokens": 0.25, "images": 1, "charged": 1},
    ]  # fmt: skip
    by_day = customer.get("/usage").json()
    assert answer["totals"] == by_day["totals"]
    assert {name: answer[name] for name in ("start", "end", "time_zone")} == {
        name: by_day[name] for name in ("start", "end", "time_zone")
    }
    charged: dict[str, float] = {}
    for row in csv.DictReader(customer.get("/receipts.csv").text.splitlines()):
        charged[row["caller"]] = charged.get(row["caller"], 0) + float(row["charged_tokens"])
    assert charged == {
        f"test ({customer.secret[:11]}…)": 0.75,
        customer.user.email: 0.5,
        f"gate camera ({another.key.prefix}…)": 0.25,
    }
    shown = ANSWERED["UsageByKeyOut"]
    assert (set(shown), set(shown["callers"][0])) == (set(answer), set(answer["callers"][0]))


@pytest.mark.parametrize("query", [{"by": "person"}, {"by": "key", "start": "2026-01-01T00:01:00Z"}])
def test_usage_by_nonsense(gateway: Gateway, query: dict[str, str]) -> None:
    """422 for a sum that there is not, as without `by`."""
    assert gateway.customer().get("/usage", params=query).status_code == 422


def test_a_period_before_there_was_anything_is_empty(gateway: Gateway) -> None:
    """No caller and sums of nothing."""
    customer = gateway.customer()
    customer.detect(pictures(1, seed=79)["0.png"])
    start = customer.user.created_at.replace(minute=0, second=0, microsecond=0) - timedelta(days=2)
    query = {"by": "key", "start": start.isoformat(), "end": (start + timedelta(days=1)).isoformat()}
    answer = customer.get("/usage", params=query).json()
    assert (answer["callers"], answer["totals"]["images"], answer["totals"]["tokens"]) == ([], 0, 0)
