"""An attacker with an account of his own, or with none: what he tries costs nobody else, and him no less."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import anyio
import pytest
from starlette.testclient import TestClient

from core.db import utcnow
from core.errors import EngineBusyError, KeyMayNotError, RequestTooSlowError
from core.identity.callers import ApiCaller
from core.identity.tables import ApiKey
from core.services import api_keys, sign_in, team
from core.services.api_key_settings import KeySettings
from gateway import bodies
from gateway.bodies import BodyBudget, read_bytes
from tests.conftest import PASSWORD
from tests.core.services.helpers import pictures
from tests.gateway.calls import HOST, Customer, Gateway, make_asgi


@pytest.fixture(scope="module")
def customer(gateway: Gateway) -> Iterator[Customer]:
    """Somebody with tokens, from whom nothing may be held when all attacks are over."""
    customer = gateway.customer(1000)
    yield customer
    assert customer.balance()[1] == 0, "something is still held"


# Bodies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/keys", "/keys/key_x/rotate"])
def test_who_has_no_key_has_no_body_read(gateway: Gateway, path: str) -> None:
    """Without a key nothing of a body is read, and of one with a key only so much as a key's settings may have."""
    body, headers = b" " * 300_000, {"Content-Type": "application/json"}
    assert gateway.client.post(f"/v1{path}", content=body, headers=headers).status_code == 401
    answer = gateway.customer().post(path, content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "request_too_large")


def test_a_body_of_a_million_lists_is_refused_unread(customer: Customer) -> None:
    """JSON that would take sixty times its size in memory is refused before it is taken apart."""
    bomb = b'{"images": [' + b"[]," * 1_000_000 + b"[]]}"
    started = time.monotonic()
    for path in ("/detect", "/quotes", "/batch", "/jobs"):
        answer = customer.post(path, content=bomb, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert time.monotonic() - started < 2


class _Uploads:
    """What `read_bytes` asks of a request: pieces of a body, each after a pause."""

    def __init__(self, *pieces: tuple[float, bytes]) -> None:
        self.headers: dict[str, str] = {}
        self._pieces = pieces

    async def stream(self) -> AsyncIterator[bytes]:
        for pause_s, piece in self._pieces:
            await anyio.sleep(pause_s)
            yield piece


def _read(budget: BodyBudget, uploads: _Uploads, account_id: str = "acc_1") -> bytes:
    async def read() -> bytes:
        with budget.reserve(account_id) as reservation:
            return await read_bytes(uploads, reservation, 10_000)  # type: ignore[arg-type]  # as much of a request as it needs

    # In a thread of its own: the browser tests leave an event loop running in this one.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(anyio.run, read).result()


def test_a_body_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece that does not come, and pieces that come too slowly to end, are a 408; what was read is given back."""
    budget = BodyBudget(1000)
    monkeypatch.setattr(bodies, "PIECE_TIMEOUT_S", 0.3)
    monkeypatch.setattr(bodies, "BODY_TIMEOUT_S", 0.6)
    assert _read(budget, _Uploads(*[(0.05, b"x" * 100)] * 5)) == b"x" * 500
    for uploads in (_Uploads((0, b"x" * 500), (5, b"x")), _Uploads(*[(0.1, b"x")] * 100)):
        started = time.monotonic()
        with pytest.raises(RequestTooSlowError):
            _read(budget, uploads)
        assert time.monotonic() - started < 2
    assert _read(budget, _Uploads((0, b"x" * 600))) == b"x" * 600


def test_one_account_leaves_room_for_another() -> None:
    """Of the memory for bodies an account has its share, however much it sends at once; another one still gets in."""
    budget = BodyBudget(1000)
    with budget.reserve("acc_1") as one, budget.reserve("acc_1") as two, budget.reserve("acc_2") as other:
        one.take(400)
        two.take(200)
        with pytest.raises(EngineBusyError):
            two.take(1)
        other.take(400)
        with pytest.raises(EngineBusyError):
            other.take(1)
    with budget.reserve("acc_1") as one:
        one.take(600)


# Keys ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "wanted", "status"),
    [
        ({"networks": ["127.0.0.0/8", "::1/128"]}, {"networks": ["0.0.0.0/0"]}, 403),
        ({"networks": ["127.0.0.0/8"]}, {"networks": ["127.0.0.1", "::1"]}, 403),
        ({"networks": ["127.0.0.0/8"]}, {"networks": ["127.0.0.1"]}, 201),
        ({"models": ["yolov8s-fall"]}, {"models": ["yolov8s-fall", "yolov8n"]}, 403),
        ({"models": ["yolov8s-fall"]}, {"models": ["yolov8s-fall"]}, 201),
        ({"expires_at": utcnow() + timedelta(hours=1)}, {"expires_at": "2090-01-01T00:00:00Z"}, 403),
        ({"day_cap_mt": 1000}, {"day_cap_tokens": 1000}, 403),
        ({"month_cap_mt": 1000}, {"month_cap_tokens": 0.5}, 403),
        ({}, {"models": ["yolov8n"], "networks": ["10.0.0.0/8"], "day_cap_tokens": 5}, 201),
    ],
)
def test_a_key_makes_none_that_may_more(
    gateway: Gateway, limits: dict[str, Any], wanted: dict[str, Any], status: int
) -> None:
    """A key that manages keys makes others within its own limits only; what it leaves out they have from it."""
    owner = gateway.customer()
    manager = owner.make_key(manages_keys=True, **limits).secret
    client = TestClient(make_asgi(), base_url=HOST, client=("127.0.0.1", 50_000))
    headers = {"Authorization": f"Bearer {manager}"}
    answer = client.post("/v1/keys", json={"name": "another", **wanted}, headers=headers)
    assert answer.status_code == status, answer.text
    if status == 403:
        assert answer.json()["code"] == "key_may_not"
    answer = client.post("/v1/keys", json={"name": "plain"}, headers=headers)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert (made["models"], made["networks"]) == (limits.get("models"), limits.get("networks"))
    assert (made["expires_at"] is None) == ("expires_at" not in limits)
    assert (made["day_cap_tokens"] is None) == ("day_cap_mt" not in limits)


def test_the_keys_of_a_capped_key_spend_from_its_caps(gateway: Gateway) -> None:
    """Fifty keys made by a key with a cap of one token have one token between them."""
    owner = gateway.customer()
    manager = owner.make_key(manages_keys=True, day_cap_mt=250).secret
    made = [owner.post("/keys", json={"name": "one of many"}, secret=manager).json()["secret"] for _ in range(3)]
    with ThreadPoolExecutor(8) as pool:
        files = [(data, made[index % 3]) for index, data in enumerate(pictures(9, seed=21).values())]
        answers = list(pool.map(lambda one: owner.detect(one[0], secret=one[1]), files))
    charged = sum(answer.json()["usage"]["tokens"] for answer in answers if answer.status_code == 200)
    assert 0 < charged <= 0.25
    assert {answer.json().get("code") for answer in answers if answer.status_code != 200} == {"spending_cap"}
    assert owner.balance() == (20 - charged, 0)


def test_no_key_takes_over_a_stronger_one(gateway: Gateway) -> None:
    """Rotating gives a secret: a key gets that of no other manager, and of none that may more than itself."""
    owner = gateway.customer()
    other_manager, free = owner.make_key(manages_keys=True), owner.make_key()
    narrow = owner.make_key(networks=["127.0.0.1/32"], models=["yolov8s-fall"])
    limited = owner.make_key(manages_keys=True, models=["yolov8s-fall"]).secret
    capped = owner.make_key(manages_keys=True, month_cap_mt=5).secret
    for secret, victim in [
        (owner.secret, other_manager),
        (limited, free),
        (limited, other_manager),
        (capped, free),
        (capped, narrow),
    ]:
        answer = owner.post(f"/keys/{victim.key.id}/rotate", secret=secret)
        assert (answer.status_code, answer.json()["code"]) == (403, "key_may_not")
    assert owner.post(f"/keys/{narrow.key.id}/rotate", secret=limited).status_code == 201
    assert owner.post(f"/keys/{free.key.id}/rotate", secret=owner.secret).status_code == 201
    own = api_keys.list_keys(owner.app, owner.user)
    assert owner.get("/balance", secret=other_manager.secret).status_code == 200
    assert sum(view.state == "active" for view in own) == 6


def test_keys_of_another_account_are_not_there(gateway: Gateway, customer: Customer) -> None:
    """Every address with an id answers 404 to the key of another account, and changes nothing."""
    stranger = gateway.customer()
    data = next(iter(pictures(1, seed=31).values()))
    mine = customer.detect(data).json()
    quote = customer.run("/quotes", {"a.png": data}).json()
    key = customer.make_key()
    ids = {
        "quotes": quote["id"],
        "results": mine["id"],
        "receipts": mine["usage"]["receipt_id"],
        "jobs": mine["job_id"],
    }
    for kind, id_ in ids.items():
        assert customer.get(f"/{kind}/{id_}").status_code == 200
        assert stranger.get(f"/{kind}/{id_}").status_code == 404
    for method, path in [
        ("GET", f"/jobs/{mine['job_id']}/results"),
        ("GET", f"/jobs/{mine['job_id']}/events"),
        ("GET", f"/jobs?before={mine['job_id']}"),
        ("POST", f"/jobs/{mine['job_id']}/cancel"),
        ("GET", f"/results/{mine['id']}?annotated=png"),
        ("POST", f"/keys/{key.key.id}/rotate"),
        ("DELETE", f"/keys/{key.key.id}"),
    ]:
        assert stranger.call(method, path).status_code == 404, path
    for path in ("/batch", "/jobs"):
        assert stranger.post(path, json={"quote_id": quote["id"]}).status_code == 404
    # The same picture under the same idempotency key is another request of another account: paid by itself.
    first, second = customer.detect(data, key="shared"), stranger.detect(data, key="shared")
    assert (first.json()["usage"]["cached"], second.json()["usage"]["cached"]) == (True, False)
    assert "Idempotent-Replayed" not in second.headers
    assert customer.get("/balance", secret=key.secret).status_code == 200


def test_a_key_that_ended_meanwhile_makes_none(gateway: Gateway) -> None:
    """A request that began before its key was revoked, or its owner removed, leaves no key behind."""
    owner = gateway.customer()
    with owner.app.db.read() as session:
        caller = ApiCaller(session.get_one(ApiKey, owner.key_id))
    assert owner.call("DELETE", f"/keys/{owner.key_id}").status_code == 200
    for attempt in (
        lambda: api_keys.create_key(owner.app, caller, KeySettings("late")),
        lambda: api_keys.rotate_key(owner.app, caller, caller.id),
        lambda: api_keys.list_keys(owner.app, caller),
    ):
        with pytest.raises(KeyMayNotError):
            attempt()
    assert [view.state for view in api_keys.list_keys(owner.app, owner.user)] == ["revoked"]


def test_who_is_no_owner_any_more_manages_no_keys(gateway: Gateway) -> None:
    """An owner who becomes a member loses the keys that manage keys; those that only run pictures go on."""
    owner = gateway.customer()
    code = team.invite_member(owner.app, owner.user, "second-owner@example.com", "owner")
    ticket = sign_in.sign_up(owner.app, "second-owner@example.com", PASSWORD, invitation=code)
    second = sign_in.signed_in_user(owner.app, sign_in.open_session(owner.app, ticket))
    assert second is not None
    managing = api_keys.create_key(owner.app, second, KeySettings("manages", manages_keys=True)).secret
    plain = api_keys.create_key(owner.app, second, KeySettings("runs")).secret
    assert owner.get("/keys", secret=managing).status_code == 200
    team.set_member_role(owner.app, owner.user, second.id, "member")
    assert owner.get("/keys", secret=managing).status_code == 401
    assert owner.get("/balance", secret=plain).status_code == 200
    team.remove_member(owner.app, owner.user, second.id)
    assert owner.get("/balance", secret=plain).status_code == 401
