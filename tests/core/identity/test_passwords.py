"""Which passwords are refused when they are chosen, and that those chosen before go on."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from core import errors
from core.identity import users
from core.identity.passwords import require_hard_to_guess
from core.identity.tables import User
from core.services import profile, sign_in
from core.services.application import Application
from tests.conftest import PASSWORD
from tests.core.services.helpers import change


@pytest.mark.parametrize(
    "password",
    [
        "password123",
        "1234567890",
        "qwertyuiop12",
        "Passw0rd2024!",
        "iloveyou123",
        "aaaabbbbcccc",
        "summer2024!",
        "visionmeter1",
        "a" * 250,
        "miller1987",
    ],
)
def test_easy_to_guess(password: str) -> None:
    """Leaked ones, words with a year, rows of keys, repetitions, and what has to do with the person or the service."""
    with pytest.raises(errors.WeakPasswordError) as refused:
        require_hard_to_guess(password, "h.miller@example.com")
    assert refused.value.details["why"] == "guessable"


@pytest.mark.parametrize("password", ["hmiller77 and a horse", "a horse HMILLER77"])
def test_name_of_the_address(password: str) -> None:
    """However long it is, it does not contain what stands before the @."""
    with pytest.raises(errors.WeakPasswordError) as refused:
        require_hard_to_guess(password, "hmiller77@example.com")
    assert refused.value.details["why"] == "email"


@pytest.mark.parametrize("password", [PASSWORD, "kF8#qz!wP2", "四个互不相关的词语放在一起", "al horse battery"])
def test_hard_to_guess(password: str) -> None:
    """Words without a connection, random signs, another script; a name of two letters is no name."""
    require_hard_to_guess(password, "al@example.com")


def test_judged_soon() -> None:
    """The longest password that is accepted takes no longer than its digest does: nobody keeps the server busy so."""
    began = time.process_time()
    require_hard_to_guess("xK2 9q.L" * 32, "ann@example.com")
    assert time.process_time() - began < 1.0


def test_existing_ones_stay(any_app: Application, sign_up: Callable[..., User]) -> None:
    """Who chose a weak password before signs in with it; a new one, at sign-up or later, must be better."""
    ann = sign_up(any_app, "ann@example.com")
    digest = users._hasher().hash("password123")
    change(any_app, f"UPDATE user_ SET password_digest = '{digest}'")
    token = sign_in.open_session(any_app, sign_in.sign_in(any_app, "ann@example.com", "password123"))
    with pytest.raises(errors.WeakPasswordError):
        profile.change_password(any_app, ann, token, "password123", "iloveyou1234")
    with pytest.raises(errors.WeakPasswordError):
        sign_in.sign_up(any_app, "bob@example.com", "password123")
    assert sign_in.signed_in_user(any_app, token) is not None
