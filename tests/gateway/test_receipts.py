"""Receipts over HTTP: only for the session's own account, and the same document that the page gives."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from starlette.testclient import TestClient

from core.config import SESSION_COOKIE
from core.identity.tables import User
from core.services import sign_in
from core.services.application import Application, set_current
from core.services.receipt_document import receipt_json
from tests.conftest import PASSWORD
from tests.core.services.charges import charge
from tests.gateway.test_gateway import serve

START = datetime(2026, 10, 1, tzinfo=UTC)


@pytest.fixture
def client(app: Application) -> Iterator[TestClient]:
    """The gateway's routes without a session."""
    yield serve(app)
    set_current(None)


def sign_up(app: Application, client: TestClient, email: str) -> User:
    """Somebody new, whose cookie the client carries from now on."""
    token = sign_in.open_session(app, sign_in.sign_up(app, email, PASSWORD))
    client.cookies.set(SESSION_COOKIE, token)
    user = sign_in.signed_in_user(app, token)
    assert user is not None
    return user


def test_a_receipt_is_the_document_of_the_page(app: Application, client: TestClient) -> None:
    """The bytes are those that the page downloads, and no cache may keep them."""
    ann = sign_up(app, client, "ann@example.com")
    made = charge(app, ann, "大楼 “a”.jpg")
    answer = client.get(f"/v1/receipts/{made.id}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.text == receipt_json(app, ann, made.id)
    assert answer.json()["image"]["name"] == "大楼 “a”.jpg"
    assert "no-store" in answer.headers["cache-control"]


@pytest.mark.parametrize("path", ["receipts/rcpt_0123", "receipts.csv"])
@pytest.mark.parametrize("token", [None, "", "no such token"])
def test_without_a_session_nothing_is_told(client: TestClient, path: str, token: str | None) -> None:
    """401 as a problem document, for receipts that exist and for those that do not."""
    if token is not None:
        client.cookies.set(SESSION_COOKIE, token)
    answer = client.get(f"/v1/{path}")
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert answer.headers["content-type"] == "application/problem+json"


def test_after_signing_out_the_cookie_opens_nothing(app: Application, client: TestClient) -> None:
    """A session that was ended on the server is no session."""
    ann = sign_up(app, client, "ann@example.com")
    made = charge(app, ann, "a.jpg")
    sign_in.sign_out(app, client.cookies[SESSION_COOKIE])
    assert client.get(f"/v1/receipts/{made.id}").status_code == 401


@pytest.mark.parametrize("number", ["rcpt_0123", "%00", "..", "rcpt_%27%20OR%201=1", "x" * 3000])
def test_unknown_numbers(app: Application, client: TestClient, number: str) -> None:
    """404 for whatever is no receipt."""
    sign_up(app, client, "ann@example.com")
    assert client.get(f"/v1/receipts/{number}").status_code == 404


def test_a_foreign_receipt_looks_like_none(app: Application, client: TestClient) -> None:
    """404 with the words of an unknown number, and nothing of the receipt."""
    made = charge(app, sign_up(app, client, "ann@example.com"), "secret.jpg")
    sign_up(app, client, "bob@example.com")
    answer = client.get(f"/v1/receipts/{made.id}")
    assert (answer.status_code, answer.json()["code"]) == (404, "receipt_not_found")
    assert "secret" not in answer.text


def test_csv_takes_the_filter_of_the_page(app: Application, client: TestClient) -> None:
    """Name and period as the page writes them into the address; the file is the account's own."""
    bob = sign_up(app, client, "bob@example.com")
    charge(app, bob, "pcb-bob.jpg", at=START)
    ann = sign_up(app, client, "ann@example.com")
    for number, name in enumerate(["pcb-1.jpg", "pcb-2.jpg", "other.jpg"]):
        charge(app, ann, name, at=START + timedelta(days=number))
    query = {"text": "pcb", "start": "2026-10-02T08:00:00+08:00", "end": "2026-11-01T00:00:00"}
    answer = client.get("/v1/receipts.csv", params=query)
    assert answer.headers["content-disposition"] == 'attachment; filename="receipts.csv"'
    assert [row["picture"] for row in csv.DictReader(answer.text.splitlines())] == ["pcb-2.jpg"]
    everything = client.get("/v1/receipts.csv").text
    assert [row["picture"] for row in csv.DictReader(everything.splitlines())] == [
        "other.jpg",
        "pcb-2.jpg",
        "pcb-1.jpg",
    ]


@pytest.mark.parametrize("query", ["start=yesterday", "end=0001-01-01T00:00:00%2B14:00", f"text={'x' * 300}"])
def test_a_csv_of_nonsense_is_refused(app: Application, client: TestClient, query: str) -> None:
    """A filter that cannot be meant is a 422, not an error of ours."""
    sign_up(app, client, "ann@example.com")
    assert client.get(f"/v1/receipts.csv?{query}").status_code == 422
