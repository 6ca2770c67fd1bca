"""Requests that no honest client sends: each is answered with a problem document, on every database."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.core.services.helpers import pictures
from tests.gateway.calls import Customer, Gateway

PNG = next(iter(pictures(1).values()))
PICTURE = base64.b64encode(PNG).decode()
IDS = ("quotes", "jobs", "results", "receipts")
LONG = "x" * 10_000


@pytest.fixture(scope="module")
def customer(gateway: Gateway) -> Iterator[Customer]:
    """Somebody who has a job."""
    customer = gateway.customer(1000)
    assert customer.run("/batch", pictures(1, seed=9)).status_code == 200
    yield customer
    assert customer.balance()[1] == 0, "something is still held"


@pytest.mark.parametrize(
    "odd", ["%00", "a%00b", "%0A", "%ED%A0%80", "%FF", "%2e%2e%2f", "%E2%80%AE", LONG, "job_' OR 1=1 --", "%25s"]
)
def test_odd_ids_lead_nowhere(customer: Customer, odd: str) -> None:
    """An id with NUL, a line break, broken UTF-8, ten thousand characters or SQL finds nothing: 404."""
    for path in [*(f"/{kind}/{odd}" for kind in IDS), f"/jobs/{odd}/results", f"/jobs/{odd}/events"]:
        answer = customer.get(path)
        assert answer.status_code == 404, (path, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
    for method, path in [
        ("POST", f"/jobs/{odd}/cancel"),
        ("DELETE", f"/keys/{odd}"),
        ("POST", f"/keys/{odd}/rotate"),
    ]:
        assert customer.call(method, path).status_code == 404, path


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/jobs?limit=0", "limit"),
        ("/jobs?limit=-1", "limit"),
        ("/jobs?limit=99999999999999999999999999", "limit"),
        ("/jobs?limit=1e3", "limit"),
        (f"/jobs?before={LONG}", "before"),
        ("/usage?start=0001-01-01T00:00:00Z", "start"),
        ("/usage?end=9999-12-31T23:59:59-14:00", "end"),
        ("/usage?start=2026-11-24T10:07:00Z", "start"),
        ("/usage?start=9998-12-31T00:00:00Z&end=9998-12-31T12:00:00Z&time_zone=../etc/passwd", "time_zone"),
        ("/usage?time_zone=%2Fetc%2Fpasswd", "time_zone"),
        ("/usage?start=1700000000", "start"),
        ("/usage?start=2020-01-01T00:00:00Z", "start"),
        ("/receipts.csv?start=0000-00-00", "start"),
        (f"/receipts.csv?text={LONG}", "text"),
        ("/results/x?confidence=nan", "confidence"),
        ("/results/x?confidence=-1", "confidence"),
        ("/results/x?confidence=1e999", "confidence"),
        ("/results/x?format=xml", "format"),
        ("/results/x?annotated=jpg", "annotated"),
        ("/results/x?format=json&format=csv", "format"),
        ("/jobs?limit=1&limit=2", "limit"),
        ("/models?foo=2", "foo"),
    ],
)
def test_odd_queries_name_their_parameter(customer: Customer, path: str, field: str) -> None:
    """Numbers and dates beyond every edge: 422 with the parameter's name in `errors`."""
    answer = customer.get(path)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), answer.text
    assert [error["field"] for error in answer.json()["errors"]] == [field]


@pytest.mark.parametrize(
    ("method", "path", "field"),
    [
        ("POST", "/keys/{key}/rotate?grace_s=0", "grace_s"),
        ("POST", "/keys?day_cap_tokens=1", "day_cap_tokens"),
        ("DELETE", "/keys/{key}?force=1", "force"),
        ("POST", "/jobs/x/cancel?now=1", "now"),
        ("POST", "/detect?img_size=320&img_size=640", "img_size"),
        ("POST", "/detect?imgsz=320", "imgsz"),
    ],
)
def test_nothing_in_an_address_is_passed_over(gateway: Gateway, method: str, path: str, field: str) -> None:
    """Whatever the method: a parameter that would do nothing is a 422 that names it, and nothing happens."""
    customer = gateway.customer(manages_keys=True)
    key_id = customer.key_id
    request: dict[str, Any] = {"content": PNG, "headers": {"Content-Type": "image/png"}} if "detect" in path else {}
    if path.startswith("/keys?"):
        request = {"json": {"name": "x"}}
    answer = customer.call(method, path.format(key=key_id), **request)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), answer.text
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert [key["state"] for key in customer.get("/keys").json()["keys"]] == ["active"]
    assert customer.balance() == (20.0, 0.0)


def test_a_list_may_be_sent_as_http_libraries_send_it(customer: Customer, photo_bytes: dict[str, bytes]) -> None:
    """`classes` several times, with commas, in a form and in an address: the same filter."""
    files = {"file": ("bus.jpg", photo_bytes["bus.jpg"])}
    all_of = customer.post("/detect", files=files).json()
    for classes in (["Normal", "Fall"], ["Fall", "Normal"], ["Normal,Fall"]):
        found = customer.post("/detect", files=files, data={"classes": classes}).json()
        assert found["predictions"] == all_of["predictions"]
        stored = customer.get(f"/results/{all_of['id']}", params={"classes": classes}).json()
        assert stored["predictions"] == all_of["predictions"]
    assert all_of["predictions"]
    assert not customer.post("/detect", files=files, data={"classes": "Fall"}).json()["predictions"]
    twice = customer.post("/detect", files=files, data={"img_size": ["320", "640"]})
    assert (twice.status_code, twice.json()["errors"][0]["field"]) == (422, "img_size")


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-32"])
def test_json_is_utf8(customer: Customer, coding: str) -> None:
    """Another coding, in which a NUL character would pass unseen, is a 422; a byte order mark of UTF-8 is none."""
    body = json.dumps({"name": "n\0ul", "image": base64.b64encode(PNG).decode(), "img_size": 320})
    headers = {"Content-Type": "application/json"}
    answer = customer.post("/detect", content=body.encode(coding), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    plain = body.replace("\\u0000", "")
    assert customer.post("/detect", content=plain.encode("utf-8-sig"), headers=headers).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/jobs?before=%00",
        "/receipts.csv?text=a%00b",
        "/usage?time_zone=UTC%00",
        "/results/x?classes=%00",
        "/jobs?%00=1",
    ],
)
def test_nul_in_a_query_is_refused(customer: Customer, path: str) -> None:
    """A NUL character, which no database keeps in text, is a 422."""
    answer = customer.get(path)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/usage?start=9998-12-31T00:00:00Z&end=9998-12-31T12:00:00Z",
        "/usage?start=1970-01-01T00:00:00%2B14:00&end=1970-01-02T00:00:00Z",
        "/usage?start=2024-02-29T00:00:00Z&end=2024-03-01T00:00:00Z&time_zone=Pacific/Kiritimati",
        "/receipts.csv?start=9998-12-31T23:59:59-12:00",
        "/receipts.csv?text=%25_%5C%27%22",
        "/jobs?limit=100",
    ],
)
def test_edges_that_are_good(customer: Customer, path: str) -> None:
    """The first and the last year, a leap day in a far zone and SQL's own signs are answered."""
    assert customer.get(path).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b"7",
        b'"text"',
        b"{",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"image": "%s", "name": "a\\u0000b"}' % PICTURE.encode(),
        b'{"image": "%s", "name": "\\ud800"}' % PICTURE.encode(),
        b'{"image": "%s", "\\ud800": 1}' % PICTURE.encode(),
        b'{"image": "%s", "img_size": 1e400}' % PICTURE.encode(),
        b'{"image": "%s", "img_size": %s}' % (PICTURE.encode(), b"9" * 5000),
        b'{"image": "%s", "img_size": -640}' % PICTURE.encode(),
        b'{"image": "%s", "confidence": NaN}' % PICTURE.encode(),
        b'{"image": "%s", "confidence": true, "img_size": []}' % PICTURE.encode(),
        b'{"image": "%s", "classes": [null]}' % PICTURE.encode(),
        b'{"image": "%s", "classes": {"a": 1}}' % PICTURE.encode(),
        b'{"image": "%s", "misspelt": 1}' % PICTURE.encode(),
        b'{"image": ["a"]}',
        b'{"image": "****"}',
        b'{"image": ""}',
        b'{"image": "data:image/png;base64,"}',
        b'{"image": "%s", "image_url": "https://example.com/"}' % PICTURE.encode(),
        b"{}",
    ],
    ids=lambda body: body[-40:].decode("ascii", "replace"),
)
def test_odd_bodies_are_refused(customer: Customer, body: bytes) -> None:
    """Whatever is no request is a 422, through every operation that takes pictures, and nothing is held."""
    before = customer.balance()
    for path in ("/detect", "/quotes", "/batch", "/jobs", "/keys"):
        answer = customer.post(path, content=body, headers={"Content-Type": "application/json"})
        # A key is made by a few bytes: more are refused by their number.
        refused = 413 if path == "/keys" and len(body) > 64_000 else 422
        assert answer.status_code == refused, (path, answer.status_code, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert isinstance(answer.json()["detail"], str)
    assert customer.balance() == before


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=", b"x"),
        ("multipart/form-data; boundary=a", b""),
        ("multipart/form-data; boundary=a", b"--a\r\n\r\n--a--"),
        (
            "multipart/form-data; boundary=a",
            b'--a\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--a--\r\n',
        ),
        (
            "multipart/form-data; boundary=a",
            b'--a\r\nContent-Disposition: form-data; name="other"; filename="x.png"\r\n\r\nx\r\n--a--\r\n',
        ),
        (
            "multipart/form-data; boundary=a",
            b'--a\r\nContent-Disposition: form-data; name="name"\r\n\r\na\0b\r\n--a--\r\n',
        ),
        ("multipart/form-data; boundary=a", b"--a\r\nContent-Disposition\xff: \0\r\n\r\n"),
        ("multipart/form-data; boundary=" + "a" * 5000, b"x"),
    ],
    ids=range(9),
)
def test_odd_forms_are_refused(customer: Customer, content_type: str, body: bytes) -> None:
    """A form that is cut, empty, misnamed or no text is a 422."""
    for path in ("/detect", "/quotes", "/batch", "/jobs"):
        answer = customer.post(path, content=body, headers={"Content-Type": content_type})
        assert answer.status_code == 422, (path, answer.status_code, answer.text)


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/xml", "application/x-www-form-urlencoded", "json"]
)
def test_other_types_are_415(customer: Customer, content_type: str) -> None:
    """A body that is neither JSON nor a form nor a picture is refused by its type, before it is read."""
    answer = customer.post("/detect", content=b"{}", headers={"Content-Type": content_type})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_body")
    answer = customer.post("/batch", content=b"\x89PNG", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415


@pytest.mark.parametrize("key", ["", " ", "a b", "\t", "ü", "x" * 256, "a\x7fb", "\u00a0"])
def test_odd_idempotency_keys(customer: Customer, key: str) -> None:
    """One that is empty, too long or no visible ASCII is a 422 that names the header; 255 characters are a key."""
    headers = {"Idempotency-Key": key.encode("latin-1"), "Content-Type": "application/json"}
    for path in ("/detect", "/batch", "/jobs"):
        answer = customer.post(path, content=b"{}", headers=headers)
        assert answer.status_code == 422, (key, answer.text)
        assert answer.json()["errors"][0]["field"] == "Idempotency-Key"


def test_the_longest_idempotency_key(customer: Customer) -> None:
    """255 visible characters, quotes and signs among them, are one key."""
    key = "\"'%;--" + "k" * 249
    first = customer.post("/detect", json={"image": PICTURE, "img_size": 320}, headers={"Idempotency-Key": key})
    again = customer.post("/detect", json={"image": PICTURE, "img_size": 320}, headers={"Idempotency-Key": key})
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.headers["Idempotent-Replayed"] == "true"


ODD_NAMES = (
    "a\r\nX-Evil: 1",
    "\u202e.exe",
    "'; DROP TABLE job; --",
    "=cmd|' /C calc'!A0",
    "大楼 “门”",
    "<script>",
    "x" * 200,
)


def test_odd_names_stay_text(customer: Customer) -> None:
    """What a picture is called comes back as it was sent, and gets into no header."""
    for name, data in zip(ODD_NAMES, pictures(len(ODD_NAMES), seed=3).values(), strict=True):
        answer = customer.detect(data, name=name)
        assert answer.status_code == 200, answer.text
        assert answer.json()["image"]["name"] == name
        assert "x-evil" not in answer.headers
        stored = customer.get(f"/results/{answer.json()['id']}")
        assert stored.json()["image"]["name"] == name


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic dm06dm0=",
        "Bearer vm_" + "x" * 40,
        "Bearer " + "x" * 10_000,
        "Bearer \xff\xfe",
        "vm_x",
    ],
)
def test_odd_credentials_are_401(gateway: Gateway, authorization: str) -> None:
    """Without a key that is one, every operation but the public ones says 401 and how to sign in."""
    headers: dict[str, Any] = {"Authorization": authorization.encode("latin-1")}
    for method, path in [("POST", "/detect"), ("GET", "/balance"), ("GET", "/jobs/x"), ("GET", "/receipts/x")]:
        answer = gateway.client.request(method, f"/v1{path}", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), path
        assert answer.headers["www-authenticate"] == "Bearer"
    assert gateway.client.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/keys", "GET, POST"),
        ("GET", "/v1/detect", "POST"),
        ("GET", "/yolo/detect", "POST"),
        ("DELETE", "/v1/balance", "GET"),
    ],
)
def test_another_method_is_405(gateway: Gateway, method: str, path: str, allowed: str) -> None:
    """`Allow` lists every method of the address, not those of one route."""
    answer = gateway.client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/a%0Ab", "/v1/%00", "/yolo/", "/nothing"])
def test_nothing_there_is_404(gateway: Gateway, path: str) -> None:
    """An address that leads nowhere is a problem document too."""
    answer = gateway.client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert answer.headers["content-type"] == "application/problem+json"
