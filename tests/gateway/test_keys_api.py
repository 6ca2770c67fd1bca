"""API keys through the API: made, rotated, limited, ended; and what each of these does to the calls with them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import select

from core.db import utcnow
from core.identity.tables import ApiKey, AuditEvent, User
from core.services import api_keys, sign_in, team
from core.services.api_key_settings import KeySettings
from core.services.api_keys import KEYS_MAX
from tests.conftest import MODEL, PASSWORD
from tests.core.services.helpers import pictures
from tests.gateway.calls import Customer, Gateway


def picture(seed: int) -> bytes:
    """A small picture of its own: 0.250 tokens at 320."""
    return pictures(1, seed=seed)["0.png"]


def key_of(customer: Customer, key_id: str) -> dict[str, Any]:
    """A key as the list has it."""
    found: dict[str, Any] = next(key for key in customer.get("/keys").json()["keys"] if key["id"] == key_id)
    return found


def move_expiry(gateway: Gateway, key_id: str, moment: str) -> None:
    """Let a key end at another moment."""
    gateway.change("UPDATE api_key SET expires_at = :moment WHERE id = :id", moment=moment, id=key_id)


def test_a_key_is_made_and_used(gateway: Gateway) -> None:
    """The secret is in the answer and nowhere else: not in the list, not in the database, not in a cache."""
    customer = gateway.customer()
    answer = customer.post("/keys", json={"name": "  gate   camera "})
    made = answer.json()
    assert (answer.status_code, answer.headers["Cache-Control"]) == (201, "no-store")
    assert (made["name"], made["state"], made["manages_keys"]) == ("gate camera", "active", False)
    secret = made["secret"]
    assert (secret[:3], len(secret), secret[:11]) == ("vm_", 43, made["prefix"])
    assert customer.detect(picture(1), secret=secret).status_code == 200
    listed = customer.get("/keys")
    assert secret not in listed.text
    assert all("secret" not in key for key in listed.json()["keys"])
    with gateway.app.db.read() as session:
        row = session.get_one(ApiKey, made["id"])
        events = session.exec(select(AuditEvent).where(AuditEvent.subject == made["id"])).all()
    assert secret not in repr(row.model_dump())
    assert [(event.action, event.actor) for event in events] == [("key.create", customer.key_id)]
    assert secret not in repr(events)


def test_a_key_without_the_right_manages_nothing(gateway: Gateway) -> None:
    """403 for listing, making, rotating and revoking, itself too, and for the webhooks' secret; it still detects."""
    customer = gateway.customer()
    plain = customer.make_key()
    for method, path in [
        ("GET", "/keys"),
        ("POST", "/keys"),
        ("POST", f"/keys/{customer.key_id}/rotate"),
        ("DELETE", f"/keys/{customer.key_id}"),
        ("DELETE", f"/keys/{plain.key.id}"),
        ("GET", "/webhooks/secret"),
    ]:
        body = {"json": {"name": "x"}} if path == "/keys" and method == "POST" else {}
        answer = customer.call(method, path, secret=plain.secret, **body)
        assert (answer.status_code, answer.json()["code"]) == (403, "key_may_not"), path
    assert customer.detect(picture(2), secret=plain.secret).status_code == 200
    assert customer.get("/balance").status_code == 200


def test_no_key_makes_one_that_manages_keys(gateway: Gateway) -> None:
    """The right to manage keys is given on the portal, by an owner: 422 that names the field."""
    answer = gateway.customer().post("/keys", json={"name": "x", "manages_keys": True})
    assert (answer.status_code, answer.json()["field"]) == (422, "manages_keys")


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"name": " "}, "name"),
        ({"name": "a\u0000b"}, None),
        ({"models": ["yolov9000"]}, "models"),
        ({"models": []}, None),
        ({"networks": []}, None),
        ({"networks": ["10.0.0.0/33"]}, "networks"),
        ({"networks": ["example.com"]}, "networks"),
        ({"networks": ["10.0.0.0/8"] * 21}, "networks"),
        ({"day_cap_tokens": -1}, None),
        ({"day_cap_tokens": 0.0001}, None),
        ({"month_cap_tokens": 1e12}, None),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-14:00"}, None),
        ({"expires_at": 1e12}, None),
        ({"owner": True}, None),
    ],
)
def test_what_a_key_cannot_be(gateway: Gateway, settings: dict[str, Any], field: str | None) -> None:
    """A name, model, network, cap or date that no key can have is a 422, and no key is made."""
    customer = gateway.customer()
    answer = customer.post("/keys", json={"name": "x", **settings})
    assert answer.status_code == 422, answer.text
    assert answer.json().get("field") == field
    assert len(customer.get("/keys").json()["keys"]) == 1


def test_a_cap_that_is_too_fine_is_named(gateway: Gateway) -> None:
    """The error names the cap that has four decimals, not the other one."""
    for field in ("day_cap_tokens", "month_cap_tokens"):
        answer = gateway.customer().post("/keys", json={"name": "x", field: 0.0001})
        assert (answer.status_code, [error["field"] for error in answer.json()["errors"]]) == (422, [field])


def test_rotation_with_grace(gateway: Gateway) -> None:
    """Both secrets work until the grace is over, then only the new one; limits and the budget go along."""
    customer = gateway.customer()
    made = customer.post("/keys", json={"name": "camera", "models": [MODEL], "day_cap_tokens": 0.5}).json()
    assert customer.detect(picture(3), secret=made["secret"]).status_code == 200
    answer = customer.post(f"/keys/{made['id']}/rotate", json={"grace_s": 3600})
    new = answer.json()
    assert answer.status_code == 201
    assert (new["name"], new["models"], new["day_cap_tokens"], new["day_tokens"]) == ("camera", [MODEL], 0.5, 0.25)
    old = key_of(customer, made["id"])
    assert (old["state"], old["replaced_by"]) == ("expiring", new["id"])
    # 0.25 of 0.5 is left, for both together.
    assert customer.detect(picture(4), secret=made["secret"]).status_code == 200
    answer = customer.detect(picture(5), secret=new["secret"])
    assert (answer.status_code, answer.json()["scope"]) == (403, "key")
    again = customer.post(f"/keys/{made['id']}/rotate", json={"grace_s": 3600})
    assert (again.status_code, again.json()["code"]) == (422, "invalid_key_setting")
    move_expiry(gateway, made["id"], "2001-01-01 00:00:00.000000")
    assert customer.get("/balance", secret=made["secret"]).status_code == 401
    assert customer.get("/balance", secret=new["secret"]).status_code == 200
    assert key_of(customer, made["id"])["state"] == "expired"


def test_rotation_at_once(gateway: Gateway) -> None:
    """Without a grace the old secret ends with the answer; a key may rotate itself; other graces are refused."""
    customer = gateway.customer()
    answer = customer.post(f"/keys/{customer.key_id}/rotate", json={"grace_s": 0})
    new = answer.json()
    assert (answer.status_code, new["manages_keys"]) == (201, True)
    assert customer.get("/balance").status_code == 401
    assert customer.get("/keys", secret=new["secret"]).status_code == 200
    refused = gateway.customer()
    assert refused.post(f"/keys/{refused.key_id}/rotate", json={"grace_s": 5}).status_code == 422


def test_revoking_ends_at_once(gateway: Gateway) -> None:
    """The next call is a 401; revoking again changes nothing; a revoked key is not rotated."""
    customer = gateway.customer()
    made = customer.post("/keys", json={"name": "camera"}).json()
    assert customer.get("/balance", secret=made["secret"]).status_code == 200
    for _ in range(2):
        answer = customer.call("DELETE", f"/keys/{made['id']}")
        assert (answer.status_code, answer.json()["state"]) == (200, "revoked")
    answer = customer.get("/balance", secret=made["secret"])
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert customer.post(f"/keys/{made['id']}/rotate").status_code == 422
    assert customer.call("DELETE", f"/keys/{customer.key_id}").status_code == 200
    assert customer.get("/balance").status_code == 401


def test_a_key_expires(gateway: Gateway) -> None:
    """It works until its moment and not after; the answer does not say why."""
    customer = gateway.customer()
    soon = (utcnow() + timedelta(days=1)).isoformat()
    made = customer.post("/keys", json={"name": "guest", "expires_at": soon}).json()
    assert customer.get("/balance", secret=made["secret"]).status_code == 200
    move_expiry(gateway, made["id"], "2001-01-01 00:00:00.000000")
    expired = customer.get("/balance", secret=made["secret"])
    unknown = customer.get("/balance", secret="vm_" + "x" * 40)
    assert (expired.status_code, expired.json()["detail"]) == (401, unknown.json()["detail"])
    assert key_of(customer, made["id"])["state"] == "expired"


def test_caps_of_a_key(gateway: Gateway) -> None:
    """A key that has spent its cap gets 403 with the numbers, other keys go on, and what is free passes."""
    customer = gateway.customer()
    made = customer.post("/keys", json={"name": "camera", "day_cap_tokens": 0.5, "month_cap_tokens": 0.6}).json()
    for seed in (6, 7):
        assert customer.detect(picture(seed), secret=made["secret"]).status_code == 200
    for answer in (
        customer.detect(picture(8), secret=made["secret"]),
        customer.call(
            "POST",
            "/batch",
            secret=made["secret"],
            json={"quote_id": customer.run("/quotes", pictures(1, seed=8)).json()["id"]},
        ),
    ):
        body = answer.json()
        assert (answer.status_code, body["code"]) == (403, "spending_cap"), answer.text
        assert (body["scope"], body["period"]) == ("key", "day")
        assert (body["cap"], body["spent"], body["left"], body["required"]) == (0.5, 0.5, 0.0, 0.25)
    assert customer.detect(picture(6), secret=made["secret"]).json()["usage"]["cached"]
    assert customer.detect(picture(8)).status_code == 200
    assert key_of(customer, made["id"])["day_tokens"] == 0.5
    assert customer.balance() == (19.25, 0.0)


def test_models_of_a_key(gateway: Gateway) -> None:
    """A key for other models gets 403 for detect, quotes, batches and the quotes of others; nothing is held."""
    customer = gateway.customer()
    other = customer.make_key(models=["yolov8x"])
    quote = customer.run("/quotes", pictures(1, seed=9)).json()
    for answer in (
        customer.detect(picture(9), secret=other.secret),
        customer.call("POST", "/quotes", secret=other.secret, json={"image": "AAAA"}),
        customer.call("POST", "/batch", secret=other.secret, json={"quote_id": quote["id"]}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "key_model_not_allowed"), answer.text
        assert answer.json()["models"] == ["yolov8x"]
    assert customer.balance() == (20.0, 0.0)


def test_networks_of_a_key(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key of other networks is a 403 from here; IPv4, IPv6 and IPv4 inside IPv6 are told apart."""
    customer = gateway.customer()
    key = customer.make_key(networks=["203.0.113.0/24", "2001:db8::/32", "198.51.100.7"])
    answer = customer.get("/balance", secret=key.secret)
    assert (answer.status_code, answer.json()["code"]) == (403, "key_network_not_allowed")
    for address, allowed in [
        ("203.0.113.9", True),
        ("::ffff:203.0.113.9", True),
        ("2001:db8::1", True),
        ("198.51.100.7", True),
        ("198.51.100.8", False),
        ("::ffff:198.51.100.8", False),
        ("2001:db9::1", False),
        ("", False),
        ("testclient", False),
    ]:
        if allowed:
            assert api_keys.authenticate(gateway.app, key.secret, address).id == key.key.id, address
        else:
            with pytest.raises(api_keys.KeyNetworkNotAllowedError):
                api_keys.authenticate(gateway.app, key.secret, address)
    # What a client writes into a header is no address.
    forged = customer.get("/balance", secret=key.secret, headers={"X-Forwarded-For": "203.0.113.9"})
    assert forged.status_code == 403


def test_last_used(gateway: Gateway) -> None:
    """A key that was never used says so, and one that was says when, to the minute."""
    customer = gateway.customer()
    made = customer.post("/keys", json={"name": "camera"}).json()
    assert key_of(customer, made["id"])["last_used_at"] is None
    before = utcnow()
    for _ in range(3):
        customer.get("/balance", secret=made["secret"])
    used = key_of(customer, made["id"])["last_used_at"]
    assert before.isoformat() <= used <= utcnow().isoformat()


def test_a_removed_members_keys_end(gateway: Gateway) -> None:
    """Whoever made a key knows its secret: his keys end with his access, or with his right to spend."""
    customer = gateway.customer()

    def join(email: str) -> tuple[User, str]:
        code = team.invite_member(gateway.app, customer.user, email, "member")
        ticket = sign_in.sign_up(gateway.app, email, PASSWORD, invitation=code)
        user = sign_in.signed_in_user(gateway.app, sign_in.open_session(gateway.app, ticket))
        assert user is not None
        return user, api_keys.create_key(gateway.app, user, KeySettings("his")).secret

    end: list[Callable[[User], None]] = [
        lambda user: team.remove_member(gateway.app, customer.user, user.id),
        lambda user: team.set_member_role(gateway.app, customer.user, user.id, "viewer"),
    ]
    for number, action in enumerate(end):
        user, secret = join(f"member{number}.{customer.user.id}@example.com".lower())
        assert customer.get("/balance", secret=secret).status_code == 200
        action(user)
        assert customer.get("/balance", secret=secret).status_code == 401
    assert customer.get("/balance").status_code == 200


def test_so_many_keys_and_no_more(gateway: Gateway) -> None:
    """An account has fifty usable keys at most, however many ended; 409 says to revoke one."""
    customer = gateway.customer()
    ids = [customer.make_key().key.id for _ in range(KEYS_MAX - 1)]
    answer = customer.post("/keys", json={"name": "one more"})
    assert (answer.status_code, answer.json()["code"]) == (409, "too_many_keys")
    assert customer.post(f"/keys/{ids[0]}/rotate", json={"grace_s": 3600}).status_code == 409
    assert customer.post(f"/keys/{ids[0]}/rotate", json={"grace_s": 0}).status_code == 201
    customer.call("DELETE", f"/keys/{ids[1]}")
    assert customer.post("/keys", json={"name": "one more"}).status_code == 201


def test_the_webhooks_secret(gateway: Gateway) -> None:
    """Made at the first look and the same ever after, another one for each account, in no cache."""
    customer, other = gateway.customer(), gateway.customer()
    first, again = customer.get("/webhooks/secret"), customer.get("/webhooks/secret")
    assert first.json() == again.json() != other.get("/webhooks/secret").json()
    assert first.json()["secret"].startswith("whsec_")
    assert first.headers["Cache-Control"] == "no-store"
