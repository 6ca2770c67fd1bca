"""Signing up, in and out; and that nothing secret is ever stored."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core import errors
from core.identity import users
from core.identity.tables import User
from core.services import account_view, admin, audit, sign_in, top_up
from core.services.application import Application
from tests.conftest import PASSWORD, OpenApp
from tests.core.services.helpers import change

PAST = "2001-01-01 00:00:00.000000"


def test_first_is_operator_and_second_is_not(any_app: Application, sign_up: Callable[..., User]) -> None:
    """The first user of an installation runs it; later ones are customers; both get the welcome tokens."""
    first, second = sign_up(any_app, "first@example.com"), sign_up(any_app, "second@example.com")
    assert (first.is_operator, second.is_operator) == (True, False)
    assert (first.role, second.role) == ("owner", "owner")
    assert first.account_id != second.account_id
    for user in (first, second):
        assert account_view.get_balance(any_app, user).available_mt == 20_000


def test_concurrent_first_sign_ups_make_one_operator(any_app: Application) -> None:
    """Eight people who sign up at the same moment: one operator."""
    barrier = threading.Barrier(8)

    def client(number: int) -> None:
        barrier.wait()
        sign_in.sign_up(any_app, f"user{number}@example.com", PASSWORD)

    with ThreadPoolExecutor(8) as clients:
        list(clients.map(client, range(8)))
    with any_app.db.read() as session:
        operators = sorted(user.is_operator for user in users.list_users(session))
    assert operators == [False] * 7 + [True]


def test_same_address_twice(any_app: Application) -> None:
    """An address has one user, however it is typed, also when two sign up at the same moment."""
    barrier = threading.Barrier(2)

    def client(email: str) -> str:
        barrier.wait()
        try:
            sign_in.sign_up(any_app, email, PASSWORD)
        except errors.EmailTakenError:
            return "taken"
        return "done"

    with ThreadPoolExecutor(2) as clients:
        assert sorted(clients.map(client, ["ann@example.com", " Ann@Example.COM "])) == ["done", "taken"]
    with any_app.db.read() as session:
        assert [user.email for user in users.list_users(session)] == ["ann@example.com"]


def test_wrong_password_and_unknown_address_look_alike(any_app: Application) -> None:
    """Nobody learns whether an address has an account."""
    sign_in.sign_up(any_app, "ann@example.com", PASSWORD)
    messages = set()
    for email, password in (
        ("ann@example.com", "wrong horse battery"),
        ("nobody@example.com", PASSWORD),
        ("no address", PASSWORD),
        ("ann@example.com", ""),
    ):
        with pytest.raises(errors.BadCredentialsError) as caught:
            sign_in.sign_in(any_app, email, password)
        messages.add((caught.value.code, caught.value.message, str(caught.value.details)))
    assert len(messages) == 1


def test_too_many_attempts(open_app: OpenApp) -> None:
    """After the limit even the right password waits; other addresses do not, and old failures are forgotten."""
    app = open_app(sign_in_attempts_max=3)
    for email in ("ann@example.com", "bob@example.com"):
        sign_in.sign_up(app, email, PASSWORD)
    for _ in range(3):
        with pytest.raises(errors.BadCredentialsError):
            sign_in.sign_in(app, "ann@example.com", "wrong horse battery")
    for password in ("wrong horse battery", PASSWORD):
        with pytest.raises(errors.TooManyAttemptsError):
            sign_in.sign_in(app, "Ann@example.com", password)
    assert sign_in.sign_in(app, "bob@example.com", PASSWORD)
    change(app, "UPDATE sign_in_attempt SET created_at = :past", past=PAST)
    assert sign_in.sign_in(app, "ann@example.com", PASSWORD)


def test_ticket_is_single_use(any_app: Application) -> None:
    """Eight threads exchanging one ticket: one session."""
    ticket = sign_in.sign_up(any_app, "ann@example.com", PASSWORD)
    barrier = threading.Barrier(8)

    def client(_number: int) -> str | None:
        barrier.wait()
        try:
            return sign_in.open_session(any_app, ticket)
        except errors.SignInTicketError:
            return None

    with ThreadPoolExecutor(8) as clients:
        tokens = [token for token in clients.map(client, range(8)) if token]
    assert len(tokens) == 1
    assert sign_in.signed_in_user(any_app, tokens[0]) is not None


def test_ticket_expires(any_app: Application) -> None:
    """A ticket past its 30 seconds, and one that never was, open nothing."""
    ticket = sign_in.sign_up(any_app, "ann@example.com", PASSWORD)
    change(any_app, "UPDATE sign_in_ticket SET expires_at = :past", past=PAST)
    for wrong in (ticket, "never issued", ""):
        with pytest.raises(errors.SignInTicketError):
            sign_in.open_session(any_app, wrong)


def test_sign_out_really_ends_the_session(any_app: Application) -> None:
    """After sign-out a copied cookie is worth nothing, while the user's other browser stays signed in."""
    one = sign_in.open_session(any_app, sign_in.sign_up(any_app, "ann@example.com", PASSWORD))
    two = sign_in.open_session(any_app, sign_in.sign_in(any_app, "ann@example.com", PASSWORD))
    assert one != two
    sign_in.sign_out(any_app, one)
    assert sign_in.signed_in_user(any_app, one) is None
    assert sign_in.signed_in_user(any_app, two) is not None


def test_session_expires(any_app: Application) -> None:
    """A session past its date, an unknown token and none at all sign nobody in."""
    token = sign_in.open_session(any_app, sign_in.sign_up(any_app, "ann@example.com", PASSWORD))
    assert sign_in.signed_in_user(any_app, token) is not None
    change(any_app, "UPDATE user_session SET expires_at = :past", past=PAST)
    for nobody in (token, "unknown", "", None):
        assert sign_in.signed_in_user(any_app, nobody) is None


def test_only_digests_are_stored(app: Application, tmp_path: Path) -> None:
    """The password, the ticket and the token are nowhere in any file of the data folder; the address is."""
    ticket = sign_in.sign_up(app, "ann@example.com", PASSWORD)
    token = sign_in.open_session(app, ticket)
    with pytest.raises(errors.BadCredentialsError):
        sign_in.sign_in(app, "ann@example.com", "another secret phrase")
    app.db.close()
    everything = b"".join(path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file())
    assert b"ann@example.com" in everything  # the search does find what is there
    assert b"$argon2id$" in everything
    for secret in (PASSWORD, ticket, token, "another secret phrase"):
        assert secret.encode() not in everything


@pytest.mark.parametrize(
    "email", ["", "ann", "ann@", "@example.com", "ann@example", "a b@example.com", "a" * 300 + "@b.co"]
)
def test_what_is_no_address(app: Application, email: str) -> None:
    """Text that is no e-mail address is refused before anything is written."""
    with pytest.raises(errors.InvalidEmailError):
        sign_in.sign_up(app, email, PASSWORD)


@pytest.mark.parametrize("password", ["", "short", "123456789", "a" * 20, "x1" * 200])
def test_weak_passwords(app: Application, password: str) -> None:
    """Too short, all alike and too long are refused, and no account is made."""
    with pytest.raises(errors.WeakPasswordError):
        sign_in.sign_up(app, "ann@example.com", password)
    with app.db.read() as session:
        assert users.list_users(session) == []


def test_operators_only(app: Application, sign_up: Callable[..., User]) -> None:
    """A customer cannot make, withdraw or list vouchers, list customers, fetch models or check the ledger."""
    operator, ann = sign_up(app, "operator@example.com"), sign_up(app)
    for action in (
        lambda: top_up.make_vouchers(app, ann, count=1, amount_mt=1000),
        lambda: top_up.revoke_voucher(app, ann, "vch_x"),
        lambda: top_up.list_vouchers(app, ann),
        lambda: admin.list_customers(app, ann),
        lambda: admin.fetch_model(app, ann, "yolov8n"),
        lambda: audit.check_ledger(app, ann),
    ):
        with pytest.raises(errors.NotAllowedError):
            action()
    assert [customer.user.email for customer in admin.list_customers(app, operator)] == [
        "operator@example.com",
        "ann@example.com",
    ]
    assert audit.check_ledger(app, operator).ok


def test_no_welcome_tokens(open_app: OpenApp, sign_up: Callable[..., User]) -> None:
    """With welcome tokens set to zero a new account has none, and no entry."""
    app = open_app(welcome_tokens="0")
    ann = sign_up(app)
    assert account_view.get_balance(app, ann).available_mt == 0
    assert account_view.list_transactions(app, ann) == []


@pytest.mark.usefixtures("real_digests")
def test_digests_are_slow_to_guess(app: Application, sign_up: Callable[..., User]) -> None:
    """Argon2id as RFC 9106 recommends for little memory, 64 MiB and three passes, and scrypt with 32 MiB."""
    digest = sign_up(app).password_digest
    assert digest.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert users.verify_password(digest, PASSWORD)
    assert not users.verify_password(digest, PASSWORD + " ")
    again = hashlib.scrypt(
        b"ann@example.com", salt=b"visionmeter forgotten address", n=2**15, r=8, p=1, maxmem=2**26, dklen=24
    )
    assert users.digest_email("ann@example.com") == again.hex()


@pytest.mark.parametrize("digest", ["", None])
@pytest.mark.parametrize("password", ["nobody signs in with this", "", PASSWORD])
def test_nobody_without_a_password_signs_in(digest: str | None, password: str) -> None:
    """Neither an unknown user nor one whose password was taken away, not even with the decoy's."""
    assert not users.verify_password(digest, password)


@pytest.mark.parametrize("spelled", ["ann@ｅxample.com", "Ann@ex­ample.com", "ann@EXAMPLE.com"])
def test_one_mailbox_is_one_user(any_app: Application, sign_up: Callable[..., User], spelled: str) -> None:
    """However a domain is spelled, it is the same user: who signs up with another spelling is told so."""
    ann = sign_up(any_app, "ann@example.com")
    with pytest.raises(errors.EmailTakenError):
        sign_in.sign_up(any_app, spelled, PASSWORD)
    user = sign_in.signed_in_user(any_app, sign_in.open_session(any_app, sign_in.sign_in(any_app, spelled, PASSWORD)))
    assert user is not None
    assert user.id == ann.id


def test_who_kept_his_spelling_signs_in(any_app: Application, sign_up: Callable[..., User]) -> None:
    """Somebody whom the migration left as he was, because another had the plain spelling, comes in by his own."""
    sign_up(any_app, "ann@example.com")
    bob = sign_up(any_app, "bob@example.com")
    change(any_app, "UPDATE user_ SET email = 'ann@ｅxample.com' WHERE id = :id", id=bob.id)
    ticket = sign_in.sign_in(any_app, "ann@ｅxample.com", PASSWORD)
    user = sign_in.signed_in_user(any_app, sign_in.open_session(any_app, ticket))
    assert user is not None
    assert user.id == bob.id


@pytest.mark.parametrize("email", ["ann@☕.com", "ann@exa，mple.com", "ann@。.com"])
def test_domains_that_are_none(email: str) -> None:
    """What no domain can be called is no address."""
    with pytest.raises(errors.InvalidEmailError):
        users.normalise_email(email)
