"""One's own data as a ZIP: all of it, nobody else's, no secret, and only for a person who is signed in."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from decimal import Decimal

import pytest

from core.config import SESSION_COOKIE
from core.mail import outbox
from core.services import my_data, sign_in
from tests.conftest import PASSWORD
from tests.gateway.calls import Customer, Gateway


def take_files(customer: Customer) -> dict[str, str]:
    """The files of his export, as the browser in which he is signed in gets them."""
    token = sign_in.open_session(customer.app, sign_in.sign_in(customer.app, customer.user.email, PASSWORD))
    answer = customer.client.get("/v1/my-data.zip", headers={"Cookie": f"{SESSION_COOKIE}={token}"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    assert "no-store" in answer.headers["cache-control"]
    assert int(answer.headers["content-length"]) == len(answer.content)
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name).decode() for name in archive.namelist()}


def rows(text: str) -> list[dict[str, str]]:
    """A CSV file's rows."""
    return list(csv.DictReader(io.StringIO(text)))


def test_it_has_all_that_was_done(gateway: Gateway, photo_bytes: dict[str, bytes]) -> None:
    """A charged picture is in runs with its boxes, in receipts, usage and transactions, and the sums agree."""
    customer = gateway.customer()
    answer = customer.detect(photo_bytes["bus.jpg"]).json()
    customer.detect(b"no picture")
    with gateway.app.db.write() as session:
        outbox.put_mail(session, "reset", customer.user.email)
    files = take_files(customer)
    assert set(files) == {
        *("README.txt", "profile.json", "api_keys.json", "transactions.csv", "receipts.csv"),
        *("payments.csv", "invoices.json", "usage.csv", "runs.jsonl", "activity.csv"),
    }
    assert all(name in files["README.txt"] for name in files if name != "README.txt")
    profile = json.loads(files["profile.json"])
    left = Decimal(str(answer["usage"]["remaining_tokens"]))
    assert (profile["email"], Decimal(profile["account"]["settled"])) == (customer.user.email, left)
    assert (profile["email_verified_at"], profile["welcome_due_since"]) == (None, None)
    assert [mail["kind"] for mail in profile["mails"]] == ["reset"]
    (run,) = [json.loads(line) for line in files["runs.jsonl"].splitlines()]
    (image,) = run["images"]
    assert image["status"] == "charged"
    assert len([box for box in image["predictions"] if box["confidence"] >= 0.25]) == len(answer["predictions"]) > 0
    cost = Decimal(str(answer["usage"]["tokens"]))
    assert [Decimal(row["charged_tokens"]) for row in rows(files["receipts.csv"])] == [cost]
    assert [Decimal(row["tokens"]) for row in rows(files["usage.csv"])] == [cost]
    assert {row["type"] for row in rows(files["transactions.csv"])} == {"top_up", "hold", "capture"}
    assert "key.create" in {row["action"] for row in rows(files["activity.csv"])}


def test_a_long_history_comes_in_pages(
    gateway: Gateway, photo_bytes: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a page of one row each entry is there once, under one header."""
    customer = gateway.customer()
    customer.detect(photo_bytes["bus.jpg"])
    monkeypatch.setattr(my_data, "EXPORT_EVERY_S", 0)
    whole = take_files(customer)
    monkeypatch.setattr(my_data, "ROWS_PER_READ", 1)
    paged = take_files(customer)
    assert paged["transactions.csv"] == whole["transactions.csv"]
    # That he signed in once more and exported is written down, too.
    assert rows(paged["activity.csv"])[2:] == rows(whole["activity.csv"])


def test_no_secret_and_nothing_of_others(gateway: Gateway, photo_bytes: dict[str, bytes]) -> None:
    """Neither his key's secret or digest nor his password is in it, and nothing of another customer."""
    customer, other = gateway.customer(), gateway.customer()
    other.detect(photo_bytes["bus.jpg"])
    everything = "".join(take_files(customer).values())
    assert customer.secret not in everything
    assert "digest" not in everything.replace("runs.jsonl", "")
    assert "$argon2" not in everything
    for hidden in (other.user.email, other.user.id, other.user.account_id, other.key_id, "bus"):
        assert hidden not in everything


def test_only_for_a_person(gateway: Gateway) -> None:
    """Signed out, or with an API key alone, it is refused."""
    customer = gateway.customer()
    assert gateway.client.get("/v1/my-data.zip").json()["code"] == "unauthorized"
    assert customer.get("/my-data.zip").status_code == 401


def test_one_a_minute_and_one_at_a_time(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks twice is told when to come back, which keeps nobody else away; all wait while one is being made."""
    customer, other = gateway.customer(), gateway.customer()
    assert take_files(customer)
    token = sign_in.open_session(customer.app, sign_in.sign_in(customer.app, customer.user.email, PASSWORD))
    cookie = {"Cookie": f"{SESSION_COOKIE}={token}"}
    answer = customer.client.get("/v1/my-data.zip", headers=cookie)
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert 0 < int(answer.headers["retry-after"]) <= my_data.EXPORT_EVERY_S
    assert take_files(other)
    monkeypatch.setattr(my_data, "EXPORT_EVERY_S", 0)
    monkeypatch.setattr(my_data, "WAIT_S", 0.05)
    with my_data._making:
        assert customer.client.get("/v1/my-data.zip", headers=cookie).status_code == 429
    assert take_files(customer)
