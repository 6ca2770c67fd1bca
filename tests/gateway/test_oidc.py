"""Signing in at a real provider on the loopback: what lets somebody in, and everything that does not."""

from __future__ import annotations

import base64
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.testclient import TestClient

import gateway.oidc
from core.config import SESSION_COOKIE
from core.errors import BadCodeError, BadCredentialsError, OidcRefusedError
from core.identity import oidc, oidc_rows
from core.identity.oidc import Claims, Provider
from core.identity.tables import User
from core.services import account_view, closing, customer_invitations, my_data, oidc_sign_in, sign_in, team
from core.services.application import Application, set_current
from gateway.oidc import START_COOKIE, Wish, oidc_routes
from gateway.session import session_routes
from tests.conftest import PASSWORD, OpenApp
from tests.core.services.test_second_factor import Phone
from tests.identity_provider import CLIENT_ID, CLIENT_SECRET, IdentityProvider, identity_provider

PORTAL = "https://portal.example.com"


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    """A provider of one test."""
    with identity_provider() as one:
        yield one


@pytest.fixture
def oidc_app(open_app: OpenApp, database_url: str, provider: IdentityProvider) -> Iterator[Application]:
    """An application that knows it, on each kind of database."""
    app = open_app(
        database_url=database_url,
        public_url=PORTAL,
        oidc_issuer=provider.url,
        oidc_client_id=CLIENT_ID,
        oidc_client_secret=CLIENT_SECRET,
    )
    set_current(app)
    yield app
    set_current(None)


@pytest.fixture
def client(oidc_app: Application) -> TestClient:
    """A browser."""
    return browser()


def browser(address: str = "203.0.113.7") -> TestClient:
    """One more browser, with cookies of its own."""
    routes = Starlette(routes=[*oidc_routes(), *session_routes()])
    return TestClient(routes, base_url=PORTAL, follow_redirects=False, client=(address, 50000))


def go_to_provider(client: TestClient, **asked: str) -> str:
    """Begin, and let the provider let one in; gives the address that it sends the browser back to."""
    begun = client.get("/session/oidc", params=asked)
    assert begun.status_code == 303
    return httpx.get(begun.headers["location"]).headers["location"]


def come_back(client: TestClient, address: str) -> httpx.Response:
    """Open the address that the provider named; it is ours."""
    assert address.startswith(f"{PORTAL}/session/oidc/callback?")
    answer: httpx.Response = client.get(address)
    assert answer.status_code == 303
    return answer


def refused(answer: httpx.Response) -> str:
    """Why nobody was signed in."""
    assert SESSION_COOKIE not in answer.headers.get("set-cookie", "")
    assert answer.headers["location"].startswith("/")
    return parse_qs(urlsplit(answer.headers["location"]).query)["sign_in_failed"][0]


def signed_in(app: Application, client: TestClient) -> User:
    """Who this browser is."""
    user = sign_in.signed_in_user(app, client.cookies.get(SESSION_COOKIE))
    assert user is not None
    return user


def test_first_and_second_sign_in(oidc_app: Application, client: TestClient) -> None:
    """The first opens an account, its user is the operator and welcomed once; the second is the same user again."""
    answer = come_back(client, go_to_provider(client))
    assert answer.headers["location"] == "/"
    cookie = answer.headers.get_list("set-cookie")[0].lower()
    assert all(word in cookie for word in (SESSION_COOKIE, "httponly", "samesite=lax", "secure", "path=/"))
    ann = signed_in(oidc_app, client)
    assert (ann.email, ann.is_operator, ann.role, ann.password_digest) == ("ann@example.com", True, "owner", "")
    other = browser()
    come_back(other, go_to_provider(other))
    assert signed_in(oidc_app, other).id == ann.id
    assert account_view.get_balance(oidc_app, ann).posted_mt == 20_000


def test_what_the_provider_is_told(oidc_app: Application, client: TestClient) -> None:
    """The address that it sends people to is the setting's, whatever `Host` says; nothing of the cookie's secret."""
    begun = client.get("/session/oidc", headers={"Host": "evil.example.com"})
    asked = {name: values[0] for name, values in parse_qs(urlsplit(begun.headers["location"]).query).items()}
    assert asked["redirect_uri"] == f"{PORTAL}/session/oidc/callback"
    assert asked["code_challenge_method"] == "S256"
    cookie = begun.headers["set-cookie"]
    assert all(word in cookie.lower() for word in ("httponly", "samesite=lax", "max-age=600", "secure"))
    secret = cookie.partition("=")[2].partition(".")[0].strip('"')
    assert len(secret) == 43
    assert secret not in begun.headers["location"]
    with oidc_app.db.read() as session:
        assert secret not in str(session.connection().execute(text("SELECT * FROM oidc_start")).all())


def test_another_state(oidc_app: Application, client: TestClient) -> None:
    """A state that is not this browser's is refused, and the right one afterwards too: it is tried once."""
    address = go_to_provider(client)
    state = parse_qs(urlsplit(address).query)["state"][0]
    assert refused(client.get(address.replace(state, "x" * 43))) == "state"
    assert refused(come_back(client, address)) == "state"


def test_another_browser(oidc_app: Application, client: TestClient) -> None:
    """Whoever is given the address of somebody else's sign-in is not signed in as him (session fixation)."""
    address = go_to_provider(client)
    victim = browser()
    assert refused(come_back(victim, address)) == "state"
    victim.get("/session/oidc")
    assert refused(come_back(victim, address)) == "state"


def test_a_replay(oidc_app: Application, client: TestClient) -> None:
    """The same address with the same cookie signs in once."""
    address = go_to_provider(client)
    kept = client.cookies[START_COOKIE]
    come_back(client, address)
    thief = browser()
    thief.cookies.set(START_COOKIE, kept, path="/session/oidc", domain="portal.example.com")
    assert refused(come_back(thief, address)) == "state"


def test_ten_minutes(oidc_app: Application, client: TestClient) -> None:
    """A sign-in that took longer is refused, whatever the browser kept."""
    address = go_to_provider(client)
    with oidc_app.db.write() as session:
        session.connection().execute(text("UPDATE oidc_start SET expires_at = '2020-01-01 00:00:00+00:00'"))
    assert refused(come_back(client, address)) == "state"


def test_a_used_code(oidc_app: Application, client: TestClient) -> None:
    """A code that the provider knows as used is refused in a sign-in of its own."""
    address = go_to_provider(client)
    code = parse_qs(urlsplit(address).query)["code"][0]
    come_back(client, address)
    thief = browser()
    own = go_to_provider(thief)
    own_code = parse_qs(urlsplit(own).query)["code"][0]
    assert refused(come_back(thief, own.replace(own_code, code))) == "token"


def test_a_stolen_code(oidc_app: Application, client: TestClient) -> None:
    """A code of another sign-in that was not used yet is refused: its challenge is not of this verifier."""
    code = parse_qs(urlsplit(go_to_provider(client)).query)["code"][0]
    thief = browser()
    own = go_to_provider(thief)
    own_code = parse_qs(urlsplit(own).query)["code"][0]
    assert refused(come_back(thief, own.replace(own_code, code))) == "token"


def test_the_provider_says_no(oidc_app: Application, client: TestClient) -> None:
    """An error of the provider is a sentence, and none of its words reach our address."""
    state = parse_qs(urlsplit(go_to_provider(client)).query)["state"][0]
    query = f"error=%3Cscript%3E&error_description=evil&state={state}"
    assert refused(client.get(f"/session/oidc/callback?{query}")) == "denied"


def none_alg(provider: IdentityProvider, nonce: str) -> str:
    """Nobody's signature."""
    parts = ({"alg": "none"}, provider.all_claims(nonce))
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + "."


def public_key_as_secret(provider: IdentityProvider, nonce: str) -> str:
    """HS256, with what everybody may read as the secret."""
    parts = ({"alg": "HS256", "kid": provider.key.kid}, provider.all_claims(nonce))
    signed = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    signature = hmac.digest(provider.key.as_pem(private=False), signed.encode(), "sha256")
    return f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def another_key(provider: IdentityProvider, nonce: str) -> str:
    """Signed by somebody else, under the key's id."""
    thief = RSAKey.generate_key(2048)
    return jwt.encode({"alg": "RS256", "kid": provider.key.kid}, provider.all_claims(nonce), thief)


@pytest.mark.parametrize(
    "forge",
    [
        none_alg,
        public_key_as_secret,
        another_key,
        lambda provider, _nonce: provider.id_token("another nonce"),
        lambda provider, _nonce: provider.id_token(""),
        lambda provider, nonce: provider.id_token(nonce, nonce=None),
        lambda provider, nonce: provider.id_token(nonce, aud="another client"),
        lambda provider, nonce: provider.id_token(nonce, aud=None),
        lambda provider, nonce: provider.id_token(nonce, aud=[CLIENT_ID, "another client"]),
        lambda provider, nonce: provider.id_token(nonce, azp="another client"),
        lambda provider, nonce: provider.id_token(nonce, iss="https://evil.example.com"),
        lambda provider, nonce: provider.id_token(nonce, iss=None),
        lambda provider, nonce: provider.id_token(nonce, exp=int(time.time()) - 61),
        lambda provider, nonce: provider.id_token(nonce, exp=None),
        lambda provider, nonce: provider.id_token(nonce, iat=int(time.time()) + 600),
        lambda provider, nonce: provider.id_token(nonce, iat=None),
        lambda provider, nonce: provider.id_token(nonce, sub=None),
        lambda provider, nonce: provider.id_token(nonce, sub=""),
        lambda provider, nonce: provider.id_token(nonce, sub="x" * 256),
        lambda _provider, _nonce: "no token",
        lambda _provider, _nonce: None,
        lambda _provider, _nonce: ["a", "list"],
    ],
)
def test_a_token_that_is_not_right(open_app: OpenApp, provider: IdentityProvider, forge: Callable[..., Any]) -> None:
    """None of these signs anybody in or opens an account."""
    app = open_app(
        public_url=PORTAL,
        oidc_issuer=provider.url,
        oidc_client_id=CLIENT_ID,
        oidc_client_secret=CLIENT_SECRET,
    )
    set_current(app)
    try:
        client = browser()
        provider.make_id_token = lambda nonce: forge(provider, nonce)
        assert refused(come_back(client, go_to_provider(client))) == "token"
        with app.db.read() as session:
            assert session.connection().execute(text("SELECT count(*) FROM user_")).scalar_one() == 0
        provider.make_id_token = None
        come_back(client, go_to_provider(client))
        assert signed_in(app, client).email == "ann@example.com"
    finally:
        set_current(None)


@pytest.mark.parametrize(
    "claims",
    [
        {"email_verified": False},
        {"email_verified": "true"},
        {"email_verified": None},
        {"email": None},
        {"email": "not an address"},
        {"email": 7},
    ],
)
def test_only_a_verified_address(oidc_app: Application, provider: IdentityProvider, claims: dict[str, Any]) -> None:
    """Without one nobody is linked and no account is opened; who is linked already signs in nevertheless."""
    client = browser()
    provider.claims.update(claims)
    assert refused(come_back(client, go_to_provider(client))) == "email"
    provider.claims.update(email="ann@example.com", email_verified=True)
    come_back(client, go_to_provider(client))
    provider.claims.update(claims)
    come_back(client, go_to_provider(client))
    assert signed_in(oidc_app, client).email == "ann@example.com"


def test_an_account_with_a_password(oidc_app: Application, client: TestClient, sign_up: Callable[..., User]) -> None:
    """A verified address does not open the account of whoever chose a password under it; the password links the two."""
    token = sign_in.open_session(oidc_app, sign_in.sign_up(oidc_app, "ann@example.com", PASSWORD))
    ann = sign_in.signed_in_user(oidc_app, token)
    assert ann is not None
    assert refused(come_back(client, go_to_provider(client))) == "password"
    assert oidc_sign_in.list_identities(oidc_app, ann) == []
    client.cookies.set(SESSION_COOKIE, token, domain="portal.example.com")
    address = go_to_provider(client, link="1", page="/account?section=security")
    assert come_back(client, address).headers["location"] == "/account?section=security"
    assert [one.subject for one in oidc_sign_in.list_identities(oidc_app, ann)] == ["ann-1"]
    other = browser()
    come_back(other, go_to_provider(other))
    assert signed_in(oidc_app, other).id == ann.id
    # Both are ways in now, and what was open stays open.
    assert sign_in.sign_in(oidc_app, "ann@example.com", PASSWORD)
    assert sign_in.signed_in_user(oidc_app, token) is not None
    oidc_sign_in.unlink(oidc_app, ann, oidc_app.settings.oidc_issuer, token)
    # The provider may have let in whoever has the other one.
    assert sign_in.signed_in_user(oidc_app, other.cookies.get(SESSION_COOKIE)) is None
    assert sign_in.signed_in_user(oidc_app, token) is not None
    assert refused(come_back(other, go_to_provider(other))) == "password"


def test_linking_another(oidc_app: Application, provider: IdentityProvider, sign_up: Callable[..., User]) -> None:
    """Only an unlinked identity of one's own verified address is linked, to who is signed in in this browser."""
    token = sign_in.open_session(oidc_app, sign_in.sign_up(oidc_app, "ann@example.com", PASSWORD))
    ann = sign_in.signed_in_user(oidc_app, token)
    assert ann is not None
    client = browser()
    assert refused(come_back(client, go_to_provider(client, link="1"))) == "state"
    client.cookies.set(SESSION_COOKIE, token, domain="portal.example.com")
    for claims in (
        {"email": "mallory@example.com"},
        {"email": "ann@example.com", "email_verified": False},
        {"email": None, "email_verified": True},
    ):
        provider.claims.update(claims)
        assert refused(come_back(client, go_to_provider(client, link="1"))) == "other"
    # Somebody with an account of his own, whose address at the provider became this one.
    provider.claims.update(sub="bob-1", email="bob@example.com", email_verified=True)
    bob = browser()
    come_back(bob, go_to_provider(bob))
    provider.claims.update(email="ann@example.com")
    assert refused(come_back(client, go_to_provider(client, link="1"))) == "other"
    assert oidc_sign_in.list_identities(oidc_app, ann) == []
    provider.claims.update(sub="ann-1")
    come_back(client, go_to_provider(client, link="1"))
    provider.claims.update(sub="ann-2")
    assert refused(come_back(client, go_to_provider(client, link="1"))) == "other"
    assert [one.subject for one in oidc_sign_in.list_identities(oidc_app, ann)] == ["ann-1"]


def test_the_subject_counts(oidc_app: Application, provider: IdentityProvider) -> None:
    """Another address at the provider is the same user; the address that he had opens nothing to whoever has it now."""
    client, heir = browser(), browser()
    come_back(client, go_to_provider(client))
    ann = signed_in(oidc_app, client)
    provider.claims.update(email="ann.married@example.com")
    come_back(client, go_to_provider(client))
    assert signed_in(oidc_app, client).id == ann.id
    assert signed_in(oidc_app, client).email == "ann@example.com"
    provider.claims.update(sub="ann-2", email="ann@example.com")
    assert refused(come_back(heir, go_to_provider(heir))) == "another"
    with pytest.raises(OidcRefusedError, match="only way"):
        oidc_sign_in.unlink(oidc_app, ann, oidc_app.settings.oidc_issuer, "")


def test_another_provider(open_app: OpenApp, oidc_app: Application, provider: IdentityProvider) -> None:
    """The same subject of another issuer is another person; an operator who changes the provider locks out nobody."""
    client = browser()
    come_back(client, go_to_provider(client))
    ann = signed_in(oidc_app, client)
    with identity_provider() as second:
        app = open_app(
            database_url=oidc_app.settings.database_url,
            public_url=PORTAL,
            oidc_issuer=second.url,
            oidc_client_id=CLIENT_ID,
            oidc_client_secret=CLIENT_SECRET,
        )
        set_current(app)
        second.claims.update(email="bob@example.com")
        bob = browser()
        come_back(bob, go_to_provider(bob))
        assert signed_in(app, bob).id != ann.id
        second.claims.update(sub="ann-at-second", email="ann@example.com")
        come_back(client, go_to_provider(client))
        assert signed_in(app, client).id == ann.id
        assert {one.issuer for one in oidc_sign_in.list_identities(app, ann)} == {provider.url, second.url}


def test_a_removed_member(oidc_app: Application, provider: IdentityProvider, sign_up: Callable[..., User]) -> None:
    """His identity does not bring him back: what he comes to is an account of his own, without the welcome."""
    owner = sign_up(oidc_app, "owner@example.com")
    client = browser()
    code = team.invite_member(oidc_app, owner, "ann@example.com", "member")
    come_back(client, go_to_provider(client, invite=code))
    ann = signed_in(oidc_app, client)
    team.remove_member(oidc_app, owner, ann.id)
    assert sign_in.signed_in_user(oidc_app, client.cookies[SESSION_COOKIE]) is None
    come_back(client, go_to_provider(client))
    again = signed_in(oidc_app, client)
    assert again.account_id != owner.account_id
    assert account_view.get_balance(oidc_app, again).posted_mt == 0


def test_invitations(oidc_app: Application, provider: IdentityProvider, sign_up: Callable[..., User]) -> None:
    """A code brings its address into the account; another address is refused, and no account is opened for it."""
    owner = sign_up(oidc_app, "owner@example.com")
    code = team.invite_member(oidc_app, owner, "ann@example.com", "viewer")
    client = browser()
    provider.claims.update(email="bob@example.com", sub="bob-1")
    answer = come_back(client, go_to_provider(client, invite=code))
    assert refused(answer) == "invitation"
    assert answer.headers["location"].endswith(f"&invite={code}")
    provider.claims.update(email="ann@example.com", sub="ann-1")
    come_back(client, go_to_provider(client, invite=code, language="zh_CN"))
    ann = signed_in(oidc_app, client)
    assert (ann.account_id, ann.role, ann.language) == (owner.account_id, "viewer", "zh_CN")


@pytest.mark.parametrize(("policy", "reason"), [("invitation", "uninvited"), ("closed", "closed")])
def test_who_may_come(
    open_app: OpenApp, provider: IdentityProvider, sign_up: Callable[..., User], policy: str, reason: str
) -> None:
    """The first is the operator; then somebody new needs what signing up needs, and who has an account always comes."""
    app = open_app(
        public_url=PORTAL,
        oidc_issuer=provider.url,
        oidc_client_id=CLIENT_ID,
        oidc_client_secret=CLIENT_SECRET,
        sign_up=policy,
    )
    set_current(app)
    try:
        first, client = browser(), browser()
        provider.claims.update(sub="op-1", email="operator@example.com")
        come_back(first, go_to_provider(first))
        operator = signed_in(app, first)
        assert operator.is_operator
        provider.claims.update(sub="ann-1", email="ann@example.com")
        assert refused(come_back(client, go_to_provider(client))) == reason
        code = customer_invitations.invite_customer(app, operator, "ann@example.com")
        if policy == "closed":
            assert refused(come_back(client, go_to_provider(client, invite=code))) == "closed"
            code = team.invite_member(app, operator, "ann@example.com", "member")
        come_back(client, go_to_provider(client, invite=code))
        ann = signed_in(app, client)
        assert (ann.account_id == operator.account_id) == (policy == "closed")
        come_back(client, go_to_provider(client))
        assert signed_in(app, client).id == ann.id
    finally:
        set_current(None)


def test_counted_by_network_address(open_app: OpenApp, provider: IdentityProvider) -> None:
    """Beginning and coming back count, and so do new accounts; another network goes on."""
    app = open_app(
        public_url=PORTAL,
        oidc_issuer=provider.url,
        oidc_client_id=CLIENT_ID,
        oidc_client_secret=CLIENT_SECRET,
        rate_sign_ins=3,
        rate_sign_ups=1,
    )
    set_current(app)
    try:
        client = browser()
        come_back(client, go_to_provider(client))
        provider.claims.update(sub="bob-1", email="bob@example.com")
        assert refused(come_back(client, go_to_provider(client))) == "too_many"
        provider.claims.update(sub="ann-1", email="ann@example.com")
        come_back(client, go_to_provider(client))
        assert refused(client.get("/session/oidc")) == "too_many"
        assert refused(client.get("/session/oidc/callback")) == "too_many"
        with app.db.read() as session:
            assert session.connection().execute(text("SELECT count(*) FROM oidc_start")).scalar_one() == 0
        elsewhere = browser("198.51.100.7")
        come_back(elsewhere, go_to_provider(elsewhere))
    finally:
        set_current(None)


@pytest.mark.parametrize(
    ("page", "opened"),
    [
        ("/usage", "/usage"),
        ("/receipts?id=rct_1&x=a%2Fb", "/receipts?id=rct_1&x=a%2Fb"),
        ("/account?section=security", "/account?section=security"),
        ("//evil.example.com", "/"),
        ("/\\evil.example.com", "/"),
        ("https://evil.example.com", "/"),
        ("javascript:alert(1)", "/"),
        ("/usage//evil", "/"),
        ("/@evil.example.com", "/"),
        ("/usage\r\nSet-Cookie: a=b", "/"),
        ("/" + "a" * 500 + "!", "/"),
        ("/" + "a/" * 400, "/"),
        ("", "/"),
    ],
)
def test_pages_of_ours(page: str, opened: str) -> None:
    """A sign-in ends on a page of this host, and whatever else is asked for ends on the front page."""
    assert Wish.read("", "", "", page).page == opened


def test_where_it_ends(oidc_app: Application, provider: IdentityProvider) -> None:
    """On the page that it began on, well or not; a page that somebody put into the cookie is looked at again."""
    client = browser()
    address = go_to_provider(client, page="/receipts?id=rct_1")
    assert come_back(client, address).headers["location"] == "/receipts?id=rct_1"
    assert client.get(address).headers["location"] == "/?sign_in_failed=state"
    provider.claims.update(sub="bob-1", email_verified=False)
    failed = come_back(client, go_to_provider(client, page="/receipts?id=rct_1"))
    assert failed.headers["location"] == "/receipts?id=rct_1&sign_in_failed=email"
    provider.claims.update(sub="ann-1")
    address = go_to_provider(client)
    kept = client.cookies[START_COOKIE].strip('"') + "/evil.example.com"
    client.cookies.clear()
    client.headers["cookie"] = f'{START_COOKIE}="{kept}"'
    assert come_back(client, address).headers["location"] == "/"
    assert client.cookies[SESSION_COOKIE]


def test_another_sites_link(oidc_app: Application, client: TestClient) -> None:
    """A page of another site begins no sign-in; an address that was typed, or our own button, does."""
    for site in ("cross-site", "same-site"):
        answer = client.get("/session/oidc", headers={"Sec-Fetch-Site": site})
        assert (answer.headers["location"], START_COOKIE in client.cookies) == ("/", False)
    for site in ("same-origin", "none"):
        answer = client.get("/session/oidc", headers={"Sec-Fetch-Site": site})
        assert answer.headers["location"].startswith(oidc_app.settings.oidc_issuer)
        assert answer.headers["cache-control"] == "no-store"


def test_a_mixed_up_answer(oidc_app: Application, provider: IdentityProvider, client: TestClient) -> None:
    """An answer that names another issuer is refused, and one that names none where the provider always does."""
    assert refused(come_back(client, f"{go_to_provider(client)}&iss=https://evil.example.com")) == "token"
    come_back(client, f"{go_to_provider(client)}&iss={provider.url}")
    provider.document["authorization_response_iss_parameter_supported"] = True
    oidc_sign_in._provider.cache_clear()
    assert refused(come_back(client, go_to_provider(client))) == "token"
    come_back(client, f"{go_to_provider(client)}&iss={provider.url}")
    assert signed_in(oidc_app, client).email == "ann@example.com"


def test_the_secret_in_the_body(oidc_app: Application, provider: IdentityProvider, client: TestClient) -> None:
    """A provider that takes the client's secret only there gets it there."""
    provider.document["token_endpoint_auth_methods_supported"] = ["client_secret_post"]
    come_back(client, go_to_provider(client))
    assert signed_in(oidc_app, client).email == "ann@example.com"


def test_rotated_keys(oidc_app: Application, provider: IdentityProvider, client: TestClient) -> None:
    """Another key of the provider is fetched when it is met, and otherwise they are fetched once."""
    come_back(client, go_to_provider(client))
    come_back(client, go_to_provider(client))
    assert provider.keys_asked_for == 1
    provider.rotate()
    come_back(client, go_to_provider(client))
    assert signed_in(oidc_app, client).email == "ann@example.com"
    assert provider.keys_asked_for == 2


def test_a_provider_that_is_down(open_app: OpenApp) -> None:
    """It is a sentence, at the start and on the way back; nothing waits longer than its time-out."""
    with identity_provider() as provider:
        app = open_app(
            public_url=PORTAL, oidc_issuer=provider.url, oidc_client_id=CLIENT_ID, oidc_client_secret=CLIENT_SECRET
        )
        set_current(app)
        client = browser()
        address = go_to_provider(client)
    try:
        assert refused(come_back(client, address)) == "provider"
        oidc_sign_in._provider.cache_clear()
        assert refused(client.get("/session/oidc")) == "provider"
    finally:
        set_current(None)


def test_a_provider_that_drips(
    oidc_app: Application, provider: IdentityProvider, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that never stands still and never ends is given up in time, whatever each single wait takes."""
    monkeypatch.setattr(oidc, "STEP_S_MAX", 1.0)
    address = go_to_provider(client)
    provider.drip_s = 0.05
    began = time.monotonic()
    assert refused(come_back(client, address)) == "provider"
    assert 1.0 <= time.monotonic() - began < 4.0


def test_an_endless_document(provider: IdentityProvider) -> None:
    """A discovery document of more than a megabyte is not read to its end."""
    provider.document["padding"] = "x" * 1_100_000
    with pytest.raises(OidcRefusedError, match="cannot be reached"):
        Provider(provider.url, CLIENT_ID, CLIENT_SECRET, PORTAL).metadata()


def test_another_issuers_document(provider: IdentityProvider) -> None:
    """A document that speaks for another issuer is not used."""
    with pytest.raises(OidcRefusedError, match="another issuer"):
        Provider(f"{provider.url}/", CLIENT_ID, CLIENT_SECRET, PORTAL).metadata()


def test_without_a_provider(open_app: OpenApp) -> None:
    """The routes are not there."""
    set_current(open_app())
    try:
        assert [browser().get(path).status_code for path in ("/session/oidc", "/session/oidc/callback")] == [404, 404]
    finally:
        set_current(None)


def test_export_and_deletion(oidc_app: Application, provider: IdentityProvider, tmp_path: Path) -> None:
    """The identity is in the export; without a password the address is typed to delete; then nothing is left of it."""
    import zipfile

    first, client = browser(), browser()
    provider.claims.update(email="operator@example.com", sub="op-1")
    come_back(first, go_to_provider(first))
    provider.claims.update(email="ann@example.com", sub="ann-1")
    come_back(client, go_to_provider(client))
    ann = signed_in(oidc_app, client)
    with (tmp_path / "data.zip").open("wb") as file:
        my_data.write_my_data(oidc_app, ann, file)
    with zipfile.ZipFile(tmp_path / "data.zip") as archive:
        assert json.loads(archive.read("profile.json"))["identities"][0]["subject"] == "ann-1"
    for typed in ("", PASSWORD, "operator@example.com"):
        with pytest.raises(BadCredentialsError):
            closing.delete_account(oidc_app, ann, typed, forfeit_mt=20_000)
    closing.delete_account(oidc_app, ann, " Ann@example.com ", forfeit_mt=20_000)
    assert oidc_sign_in.list_identities(oidc_app, ann) == []
    come_back(client, go_to_provider(client))
    again = signed_in(oidc_app, client)
    assert again.id != ann.id
    assert account_view.get_balance(oidc_app, again).posted_mt == 0


def test_linking_takes_a_code(oidc_app: Application, client: TestClient, sign_up: Callable[..., User]) -> None:
    """While a second factor is on, an identity is linked with one of one's own codes only: it lets in without one."""
    bob = sign_up(oidc_app, "bob@example.com")
    token = sign_in.open_session(oidc_app, sign_in.sign_up(oidc_app, "ann@example.com", PASSWORD))
    ann = sign_in.signed_in_user(oidc_app, token)
    assert ann is not None
    phone = Phone(oidc_app, ann, token)
    other = Phone(oidc_app, bob, sign_in.open_session(oidc_app, sign_in.sign_in(oidc_app, bob.email, PASSWORD)))
    client.cookies.set(SESSION_COOKIE, token, domain="portal.example.com")
    another = oidc_sign_in.permit_link(oidc_app, bob, other.fresh())
    for permit in ("1", "x" * 43, another):
        assert refused(come_back(client, go_to_provider(client, link=permit))) == "code"
    with pytest.raises(BadCodeError):
        oidc_sign_in.permit_link(oidc_app, ann, phone.wrong())
    assert oidc_sign_in.list_identities(oidc_app, ann) == []
    permit = oidc_sign_in.permit_link(oidc_app, ann, phone.fresh())
    come_back(client, go_to_provider(client, link=permit))
    assert [one.subject for one in oidc_sign_in.list_identities(oidc_app, ann)] == ["ann-1"]


def test_who_was_removed_meanwhile_is_not_linked(oidc_app: Application, sign_up: Callable[..., User]) -> None:
    """Somebody who deleted his account while an identity was to be linked to him gets none."""
    sign_up(oidc_app, "operator@example.com")
    ann = sign_up(oidc_app, "ann@example.com")
    closing.delete_account(oidc_app, ann, PASSWORD, forfeit_mt=20_000)
    with pytest.raises(OidcRefusedError), oidc_app.db.write() as session:
        oidc_sign_in._link(oidc_app, session, ann, Claims(oidc_app.settings.oidc_issuer, "ann-1", ann.email))
    assert oidc_sign_in.list_identities(oidc_app, ann) == []


def test_a_removed_member_leaves_no_identity(oidc_app: Application, sign_up: Callable[..., User]) -> None:
    """Whoever is removed from a team is known by no identity any more."""
    ann = sign_up(oidc_app, "ann@example.com")
    code = team.invite_member(oidc_app, ann, "bob@example.com", "member")
    ticket = sign_in.sign_up(oidc_app, "bob@example.com", PASSWORD, invitation=code)
    bob = sign_in.signed_in_user(oidc_app, sign_in.open_session(oidc_app, ticket))
    assert bob is not None
    with oidc_app.db.write() as session:
        oidc_rows.link(session, bob.id, "https://id.example.com", "1")
    team.remove_member(oidc_app, ann, bob.id)
    assert oidc_sign_in.list_identities(oidc_app, bob) == []


def test_a_provider_that_hangs_takes_no_threads(
    oidc_app: Application, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When all places are taken whoever comes is refused at once, at our door and at the provider's."""
    monkeypatch.setattr(gateway.oidc, "PLACES", 1)
    monkeypatch.setattr(gateway.oidc, "_lane", gateway.oidc._Lane())
    client = browser()
    released, begun = threading.Event(), threading.Event()

    async def occupy() -> Any:
        def hang() -> None:
            begun.set()
            released.wait(30)

        return await gateway.oidc._lane.run(hang)

    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(anyio.run, occupy)
        assert begun.wait(30)
        assert refused(client.get("/session/oidc")) == "provider"
        released.set()
        hanging.result(30)
    assert "sign_in_failed" not in client.get("/session/oidc").headers["location"]
    asked = oidc_sign_in.provider_of(oidc_app.settings)
    monkeypatch.setattr(asked, "_places", threading.BoundedSemaphore(1))
    assert asked._places.acquire(blocking=False)
    before = time.monotonic()
    with pytest.raises(OidcRefusedError):
        asked.metadata()
    assert time.monotonic() - before < 2
