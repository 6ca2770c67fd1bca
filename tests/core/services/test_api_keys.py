"""API keys below the API: who may make them, how a secret is found, and that many at once keep the limits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlmodel import select

from core import errors
from core.db import utcnow
from core.identity.api_keys import is_in_networks, make_secret
from core.identity.tables import ApiKey, User
from core.services import api_keys, sign_in, team
from core.services.api_key_settings import KeySettings
from core.services.api_keys import KEYS_MAX, LastUses
from core.services.application import Application
from tests.conftest import PASSWORD
from tests.core.services.helpers import change

THREADS = 8


@pytest.fixture
def ann(any_app: Application, sign_up: Callable[..., User]) -> User:
    """The owner of an account."""
    return sign_up(any_app)


def join(app: Application, owner: User, role: str) -> User:
    """Somebody who was invited in a role."""
    email = f"{role}@example.com"
    code = team.invite_member(app, owner, email, role)
    user = sign_in.signed_in_user(
        app, sign_in.open_session(app, sign_in.sign_up(app, email, PASSWORD, invitation=code))
    )
    assert user is not None
    return user


def test_a_secret_is_stored_as_its_digest(any_app: Application, ann: User) -> None:
    """The row has the SHA-256 and the first eleven characters; the secret finds the key and nothing near it does."""
    made = api_keys.create_key(any_app, ann, KeySettings("camera"))
    with any_app.db.read() as session:
        row = session.get_one(ApiKey, made.key.id)
    assert row.digest == hashlib.sha256(made.secret.encode()).hexdigest()
    assert row.prefix == made.secret[:11]
    assert api_keys.authenticate(any_app, made.secret, None).id == made.key.id
    other = "a" if made.secret[-1] != "a" else "b"
    for wrong in (
        "",
        made.secret[:-1],
        made.secret[:-1] + other,
        made.secret + "a",
        made.secret.lower(),
        "vm_\udcff",
        "vm_\0",
    ):
        with pytest.raises(errors.NotSignedInError):
            api_keys.authenticate(any_app, wrong, None)


def test_keys_with_the_same_prefix_are_told_apart(any_app: Application, ann: User) -> None:
    """Two keys that look alike in the list: each secret finds its own, by the digest."""
    one, two = (api_keys.create_key(any_app, ann, KeySettings(name)) for name in ("one", "two"))
    twin = one.secret[:11] + make_secret()[11:]
    change(
        any_app,
        "UPDATE api_key SET prefix = :prefix, digest = :digest WHERE id = :id",
        prefix=twin[:11],
        digest=hashlib.sha256(twin.encode()).hexdigest(),
        id=two.key.id,
    )
    assert api_keys.authenticate(any_app, one.secret, None).id == one.key.id
    assert api_keys.authenticate(any_app, twin, None).id == two.key.id


def test_who_may_make_which(any_app: Application, ann: User) -> None:
    """Members make keys, owners also such that manage keys, viewers none; a viewer sees the list."""
    member, viewer = join(any_app, ann, "member"), join(any_app, ann, "viewer")
    assert api_keys.create_key(any_app, member, KeySettings("his")).key.created_by == member.id
    with pytest.raises(errors.RoleNeededError):
        api_keys.create_key(any_app, member, KeySettings("more", manages_keys=True))
    for attempt in (
        lambda: api_keys.create_key(any_app, viewer, KeySettings("hers")),
        lambda: api_keys.revoke_key(any_app, viewer, api_keys.list_keys(any_app, viewer)[0].key.id),
        lambda: api_keys.rotate_key(any_app, viewer, api_keys.list_keys(any_app, viewer)[0].key.id),
    ):
        with pytest.raises(errors.RoleNeededError):
            attempt()
    assert api_keys.create_key(any_app, ann, KeySettings("manager", manages_keys=True)).key.manages_keys


def test_the_limit_holds_for_many_at_once(any_app: Application, ann: User) -> None:
    """With room for one more, of eight at once one is made."""
    for number in range(KEYS_MAX - 1):
        api_keys.create_key(any_app, ann, KeySettings(str(number)))

    def attempt(number: int) -> bool:
        try:
            api_keys.create_key(any_app, ann, KeySettings(f"late {number}"))
        except errors.TooManyApiKeysError:
            return False
        return True

    with ThreadPoolExecutor(THREADS) as pool:
        assert sum(pool.map(attempt, range(THREADS))) == 1
    with any_app.db.read() as session:
        assert len(session.exec(select(ApiKey)).all()) == KEYS_MAX


def test_two_rotations_at_once_make_one_key(any_app: Application, ann: User) -> None:
    """Of eight rotations of one key at once one gives a secret; the others are refused, and the budget is one."""
    made = api_keys.create_key(any_app, ann, KeySettings("camera", day_cap_mt=1000))

    def attempt(_number: int) -> str | None:
        try:
            return api_keys.rotate_key(any_app, ann, made.key.id).secret
        except errors.InvalidApiKeySettingError:
            return None

    with ThreadPoolExecutor(THREADS) as pool:
        secrets = [secret for secret in pool.map(attempt, range(THREADS)) if secret]
    assert len(secrets) == 1
    views = api_keys.list_keys(any_app, ann)
    assert len(views) == 2
    assert len({view.key.budget_id for view in views}) == 1
    assert sorted(view.state for view in views) == ["active", "expiring"]


def test_rotation_never_lengthens_a_key(any_app: Application, ann: User) -> None:
    """A key that ends in an hour ends then, whatever the grace, and so does the one in its place."""
    ends = utcnow() + timedelta(hours=1)
    made = api_keys.create_key(any_app, ann, KeySettings("guest", expires_at=ends))
    new = api_keys.rotate_key(any_app, ann, made.key.id, grace=timedelta(days=7))
    assert [view.key.expires_at for view in api_keys.list_keys(any_app, ann)] == [ends, ends]
    assert new.key.expires_at == ends


def test_last_use_is_written_once_a_minute() -> None:
    """Of a thousand calls within a minute one is written, and the first after it is again."""
    uses, now = LastUses(), utcnow()
    key = ApiKey(account_id="a", created_by="u", name="n", prefix="p", digest="d", budget_id="b")
    written = [uses.is_due(key, now + timedelta(milliseconds=60 * number)) for number in range(1001)]
    assert [number for number, due in enumerate(written) if due] == [0, 1000]


@pytest.mark.parametrize(
    ("address", "networks", "inside"),
    [
        ("203.0.113.255", ["203.0.113.0/24"], True),
        ("203.0.114.0", ["203.0.113.0/24"], False),
        ("::ffff:203.0.113.1", ["203.0.113.0/24"], True),
        ("2001:db8::ffff", ["2001:db8::/64"], True),
        ("203.0.113.1", ["::/0"], False),
        ("203.0.113.1", ["0.0.0.0/0"], True),
        ("203.0.113.1", [], False),
        ("203.0.113.1.example.com", ["0.0.0.0/0"], False),
        ("2130706433", ["127.0.0.0/8"], False),
    ],
)
def test_networks(address: str, networks: list[str], inside: bool) -> None:
    """The edges of a network, the two families, and what is no address."""
    assert is_in_networks(address, networks) is inside
