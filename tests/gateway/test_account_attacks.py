"""Attacks on accounts: stuffing, enumeration, fixation, stolen cookies, forged requests, redirects to elsewhere."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import pyotp
import pytest
from sqlalchemy import event, text
from starlette.applications import Starlette
from starlette.testclient import TestClient

from core import errors
from core.config import SESSION_COOKIE
from core.db import utcnow
from core.identity.tables import User
from core.mail import outbox
from core.services import application, profile, second_factor, sign_in, sign_up_by_mail
from core.services.application import Application
from core.services.mails import send_next
from gateway.main import gateway_routes
from gateway.session import session_routes
from tests.conftest import PASSWORD, OpenApp
from tests.core.services.helpers import change
from tests.mail_server import mail_server

HOST = "http://portal.example"
OURS = {"Origin": HOST}
NEW_PASSWORD = "another horse battery"
FOREIGN_ORIGINS = [
    {},
    {"Origin": "null"},
    {"Origin": "http://evil.example"},
    {"Origin": "http://portal.example:8080"},
    {"Origin": "http://portal.example.evil.example"},
    {"Origin": "http://portal.example@evil.example"},
]


@pytest.fixture
def portal(any_app: Application) -> Iterator[TestClient]:
    """The routes beside the portal's pages, over HTTP; a browser's cookies are kept."""
    application.set_current(any_app)
    served = Starlette(routes=[*session_routes(), *gateway_routes()])
    yield TestClient(served, base_url=HOST, follow_redirects=False)
    application.set_current(None)


def open_session(portal: TestClient, ticket: str) -> str:
    """Carry a ticket to the route, as the page does; gives the cookie."""
    answer = portal.post("/session", json={"ticket": ticket}, headers=OURS)
    assert answer.status_code == 204
    return str(portal.cookies[SESSION_COOKIE])


@pytest.mark.parametrize(
    ("attacker", "victim"),
    [("203.0.113.7", "203.0.113.8"), ("2001:db8:0:1::7", "2001:db8:0:2::7"), ("::ffff:203.0.113.7", "203.0.113.8")],
)
def test_credential_stuffing(
    attacker: str, victim: str, open_app: OpenApp, database_url: str, sign_up: Callable[..., User]
) -> None:
    """1,000 leaked pairs from one network: all but the first few refused at once, and others sign in meanwhile."""
    app = open_app(database_url=database_url, rate_sign_ins=10)
    sign_up(app, "ann@example.com")
    waits: list[int] = []
    began = time.monotonic()
    for number in range(1000):
        try:
            sign_in.sign_in(app, f"user{number}@example.com", "leaked horse battery", address=attacker)
        except errors.TooManyFromHereError as error:
            waits.append(error.details["retry_after_s"])
        except errors.BadCredentialsError:
            pass
        if number == 500:
            assert sign_in.sign_in(app, "ann@example.com", PASSWORD, address=victim)
    assert len(waits) == 990
    assert min(waits) >= 1
    assert max(waits) <= 900
    # Ten digests, each of some tens of ms; what is refused costs none.
    assert time.monotonic() - began < 20
    with pytest.raises(errors.TooManyFromHereError):
        sign_in.sign_in(app, "ann@example.com", PASSWORD, address=attacker)
    assert sign_in.sign_in(app, "ann@example.com", PASSWORD, address=victim)


def test_accounts_by_the_dozen(open_app: OpenApp, database_url: str) -> None:
    """Welcome tokens are not farmed from one network, nor is it asked which addresses are known."""
    app = open_app(database_url=database_url, rate_sign_ups=3)
    for number in range(3):
        sign_in.sign_up(app, f"farm{number}@example.com", PASSWORD, address="203.0.113.7")
    for email in ("farm0@example.com", "farm4@example.com"):
        with pytest.raises(errors.TooManyFromHereError):
            sign_in.sign_up(app, email, PASSWORD, address="203.0.113.7")
    assert sign_in.sign_up(app, "ann@example.com", PASSWORD, address="203.0.113.8")


def test_nobody_behind_a_mute_proxy_locks_out_the_others(open_app: OpenApp) -> None:
    """What comes over the loopback, or from no address, cannot be told apart: it is not counted as one."""
    app = open_app(rate_sign_ups=1)
    for number, address in enumerate(("127.0.0.1", "127.0.0.1", "::1", "::1", None, None)):
        assert sign_in.sign_up(app, f"user{number}@example.com", PASSWORD, address=address)


def test_sign_in_says_the_same(any_app: Application, sign_up: Callable[..., User]) -> None:
    """Wrong password, unknown address, no address at all: one code, one message, no details."""
    sign_up(any_app, "ann@example.com")
    answers = set()
    for email in ("ann@example.com", "nobody@example.com", "no address", "", "a@b\x00.example"):
        with pytest.raises(errors.BadCredentialsError) as refused:
            sign_in.sign_in(any_app, email, "wrong horse battery")
        answers.add((refused.value.code, refused.value.message, str(refused.value.details)))
    assert len(answers) == 1


@pytest.mark.alone
@pytest.mark.usefixtures("real_digests")
def test_sign_in_takes_the_same_time(open_app: OpenApp, database_url: str, sign_up: Callable[..., User]) -> None:
    """The medians of a known address and of an unknown one are within a factor of two; without a digest it is ten."""
    app = open_app(database_url=database_url, sign_in_attempts_max=1000)
    sign_up(app, "ann@example.com")
    took: dict[str, list[float]] = {"ann@example.com": [], "nobody@example.com": []}
    for _round in range(15):
        for email, times in took.items():
            began = time.perf_counter()
            with pytest.raises(errors.BadCredentialsError):
                sign_in.sign_in(app, email, "wrong horse battery")
            times.append(time.perf_counter() - began)
    known, unknown = (statistics.median(times) for times in took.values())
    assert 0.5 < known / unknown < 2, f"known {known * 1000:.1f} ms, unknown {unknown * 1000:.1f} ms"


@pytest.fixture
def mailing(
    open_app: OpenApp, database_url: str, sign_up: Callable[..., User]
) -> Iterator[tuple[Application, dict[str, str]]]:
    """An application that sends mail, and an address of each kind that somebody may ask for an account with."""
    with mail_server() as server:
        app = open_app(database_url=database_url, **server.settings())
        for name in ("operator", "taken", "removed"):
            sign_up(app, f"{name}@example.com")
        change(app, "UPDATE user_ SET disabled_at = created_at WHERE email = 'removed@example.com'")
        for _number in range(outbox.MAILS_AN_HOUR_MAX):
            sign_up_by_mail.request_mail(app, "enough@example.com")
        sign_up_by_mail.request_mail(app, "pending@example.com")
        assert app.smtp is not None
        while send_next(app, app.smtp):
            pass
        yield app, {name: f"{name}@example.com" for name in ("new", "taken", "removed", "pending", "enough")}


def test_signing_up_does_the_same(mailing: tuple[Application, dict[str, str]]) -> None:
    """New, taken, removed, waiting for its link, enough mails: the same statements, and no user looked for."""
    app, emails = mailing
    statements: list[str] = []

    def listen(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    event.listen(app.db.engine, "before_cursor_execute", listen)
    sign_up_by_mail.request_mail(app, "warm@example.com")
    did = {}
    for name, email in emails.items():
        statements.clear()
        sign_up_by_mail.request_mail(app, email)
        did[name] = list(statements)
    event.remove(app.db.engine, "before_cursor_execute", listen)
    assert len(did["new"]) > 3
    assert all(one == did["new"] for one in did.values())
    assert not any("user_.email" in statement for statement in did["new"])
    with app.db.read() as session:
        rows = session.connection().execute(
            text("SELECT email, count(*) FROM mail WHERE kind = 'sign_up' GROUP BY email")
        )
        asked = {row[0]: row[1] for row in rows}
    assert asked[emails["enough"]] == outbox.MAILS_AN_HOUR_MAX
    assert asked[emails["new"]] == asked[emails["taken"]] == asked[emails["removed"]] == 1


@pytest.mark.alone
def test_signing_up_takes_the_same_time(mailing: tuple[Application, dict[str, str]]) -> None:
    """The medians of all five are within a factor of two of one another."""
    app, emails = mailing
    took: dict[str, list[float]] = {name: [] for name in emails}
    for _round in range(41):
        for name, email in emails.items():
            # What the requests before left would turn each into one that had enough.
            change(app, "DELETE FROM mail WHERE ended_at IS NULL")
            began = time.perf_counter()
            sign_up_by_mail.request_mail(app, email)
            took[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(times) * 1000 for name, times in took.items()}
    assert max(medians.values()) < 2 * min(medians.values()), medians


def test_only_the_invited_learns_that_an_address_is_taken(any_app: Application, sign_up: Callable[..., User]) -> None:
    """With a code that is none, a known and an unknown address get the same answer."""
    sign_up(any_app, "ann@example.com")
    for email in ("ann@example.com", "nobody@example.com"):
        with pytest.raises(errors.InvitationError):
            sign_in.sign_up(any_app, email, PASSWORD, invitation="made up")


def test_session_fixation(portal: TestClient, any_app: Application) -> None:
    """A cookie that somebody planted before never becomes the session of whoever signs in."""
    portal.cookies.set(SESSION_COOKIE, "planted", domain="portal.example")
    ticket = sign_in.sign_up(any_app, "ann@example.com", PASSWORD)
    answer = portal.post("/session", json={"ticket": ticket}, headers=OURS)
    token = answer.cookies[SESSION_COOKIE]
    assert token != "planted"
    assert sign_in.signed_in_user(any_app, "planted") is None
    assert sign_in.signed_in_user(any_app, token) is not None
    assert {"httponly", "samesite=lax", "path=/"} <= {
        part.strip().lower() for part in answer.headers["set-cookie"].split(";")
    }


def test_stolen_cookie(portal: TestClient, any_app: Application) -> None:
    """It dies with signing out, and with a new password, although it is the very cookie of whoever changes it."""
    sign_in.sign_up(any_app, "ann@example.com", PASSWORD)
    stolen = open_session(portal, sign_in.sign_in(any_app, "ann@example.com", PASSWORD))
    assert portal.delete("/session", headers=OURS).status_code == 204
    assert sign_in.signed_in_user(any_app, stolen) is None

    stolen = open_session(portal, sign_in.sign_in(any_app, "ann@example.com", PASSWORD))
    ann = sign_in.signed_in_user(any_app, stolen)
    assert ann is not None
    changed = profile.change_password(any_app, ann, stolen, PASSWORD, NEW_PASSWORD)
    fresh = open_session(portal, changed.ticket)
    assert sign_in.signed_in_user(any_app, stolen) is None
    assert sign_in.signed_in_user(any_app, fresh) is not None
    assert portal.post("/session", json={"ticket": changed.ticket}, headers=OURS).status_code == 400


def test_no_session_before_the_code(portal: TestClient, any_app: Application) -> None:
    """With the right password alone, nothing that a browser can send to any route gives a cookie."""
    token = open_session(portal, sign_in.sign_up(any_app, "ann@example.com", PASSWORD))
    ann = sign_in.signed_in_user(any_app, token)
    assert ann is not None
    enrolment = second_factor.begin(any_app, ann, PASSWORD)
    totp = pyotp.TOTP(enrolment.seed)
    used = totp.at(utcnow())
    codes = second_factor.turn_on(any_app, ann, token, enrolment, used)
    fresh = open_session(portal, second_factor.renew_session(any_app, ann, token))
    assert sign_in.signed_in_user(any_app, token) is None
    assert sign_in.signed_in_user(any_app, fresh) is not None
    portal.cookies.clear()
    with pytest.raises(errors.SecondFactorNeededError) as needed:
        sign_in.sign_in(any_app, "ann@example.com", PASSWORD)
    step = needed.value.step
    assert step not in f"{needed.value.message} {needed.value.details} {needed.value}"
    for guess in (step, used, codes[0], enrolment.seed):
        answer = portal.post("/session", json={"ticket": guess, "step": step, "code": codes[0]}, headers=OURS)
        assert (answer.status_code, "set-cookie" in answer.headers) == (400, False)
    with pytest.raises(errors.BadCodeError):
        second_factor.sign_in(any_app, step, used)
    assert open_session(portal, second_factor.sign_in(any_app, step, codes[0]))


@pytest.mark.parametrize("headers", FOREIGN_ORIGINS, ids=lambda headers: headers.get("Origin", "none"))
def test_forged_requests(headers: dict[str, str], portal: TestClient, any_app: Application) -> None:
    """From another site nobody is signed in, and nobody is signed out; the ticket is as good as before."""
    ticket = sign_in.sign_up(any_app, "ann@example.com", PASSWORD)
    assert portal.post("/session", json={"ticket": ticket}, headers=headers).status_code == 403
    assert SESSION_COOKIE not in portal.cookies
    token = open_session(portal, ticket)
    assert portal.delete("/session", headers=headers).status_code == 403
    assert sign_in.signed_in_user(any_app, token) is not None


def test_a_cookie_is_no_key(portal: TestClient, any_app: Application) -> None:
    """What changes something under `/v1` takes a key, which a browser sends nowhere by itself: never the cookie."""
    open_session(portal, sign_in.sign_up(any_app, "ann@example.com", PASSWORD))
    schema = portal.get("/v1/openapi.json").json()
    asked = 0
    for path, methods in schema["paths"].items():
        for method in methods.keys() & {"post", "put", "patch", "delete"}:
            answer = portal.request(method, f"{_filled(path)}", headers=OURS)
            assert answer.status_code == 401, (method, path)
            asked += 1
    assert asked > 5


@pytest.mark.parametrize("path", ["/v1", "/v1/", "//evil.example/v1", "/v1//evil.example", "/v1/%2F%2Fevil.example"])
def test_open_redirects(path: str, portal: TestClient) -> None:
    """Whatever host or path is asked for, nobody is sent to another site."""
    answer = portal.get(f"{HOST}{path}", headers={"Host": "evil.example", "X-Forwarded-Host": "evil.example"})
    location = answer.headers.get("location", "")
    assert "evil" not in location
    assert not location.startswith(("//", "http"))


def _filled(path: str) -> str:
    base = path if path.startswith(("/v1", "/yolo")) else f"/v1{path}"
    while "{" in base:
        base = base[: base.index("{")] + "x" + base[base.index("}") + 1 :]
    return base
