"""What a person does to his own sign-in: password, sessions, time zone; and that nobody does it for him."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from core import errors
from core.identity import users
from core.identity.browsers import describe_browser
from core.identity.tables import User
from core.services import profile, sign_in
from core.services.application import Application
from tests.conftest import PASSWORD, OpenApp
from tests.core.services.helpers import change

FIREFOX = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:128.0) Gecko/20100101 Firefox/128.0"
NEW_PASSWORD = "another horse battery"


def open_one(app: Application, password: str = PASSWORD, user_agent: str = FIREFOX) -> str:
    """Sign Ann in once more; gives the token."""
    return sign_in.open_session(app, sign_in.sign_in(app, "ann@example.com", password), user_agent=user_agent)


@pytest.mark.parametrize(
    ("user_agent", "words"),
    [
        (FIREFOX, "Firefox · Windows"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) Version/17.5 Mobile Safari/604.1", "Safari · iPhone"),
        ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/126.0.0.0 Safari/537.36", "Chrome · Linux"),
        ("Mozilla/5.0 (Windows NT 10.0) Chrome/126.0.0.0 Safari/537.36 Edg/126.0.0.0", "Edge · Windows"),
        ("curl/8.5", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_a_browser_in_two_words(user_agent: str, words: str) -> None:
    """Kind and system, no version; nothing for what is no browser."""
    assert describe_browser(user_agent) == words


def test_sessions_are_listed_and_ended_one_by_one(any_app: Application, sign_up: Callable[..., User]) -> None:
    """Three sign-ins: the current one first and marked; the ended one is gone and its cookie is worth nothing."""
    ann = sign_up(any_app, "ann@example.com")
    one, two = open_one(any_app), open_one(any_app, user_agent="curl/8.5")
    listed = profile.list_sessions(any_app, ann, one)
    assert [(row.browser, row.is_current) for row in listed] == [("Firefox · Windows", True), ("", False), ("", False)]
    ending = next(row for row in profile.list_sessions(any_app, ann, two) if row.is_current)
    profile.revoke_session(any_app, ann, ending.id)
    assert sign_in.signed_in_user(any_app, two) is None
    assert sign_in.signed_in_user(any_app, one) is not None
    with pytest.raises(errors.SessionNotFoundError):
        profile.revoke_session(any_app, ann, ending.id)


def test_everywhere_else(any_app: Application, sign_up: Callable[..., User]) -> None:
    """All but the own one end, also a ticket that would open another; a neighbour's stay."""
    ann, eve = sign_up(any_app, "ann@example.com"), sign_up(any_app, "eve@example.com")
    eves = sign_in.open_session(any_app, sign_in.sign_in(any_app, "eve@example.com", PASSWORD))
    mine, other = open_one(any_app), open_one(any_app)
    ticket = sign_in.sign_in(any_app, "ann@example.com", PASSWORD)
    assert profile.revoke_other_sessions(any_app, ann, mine) == 2
    assert sign_in.signed_in_user(any_app, other) is None
    assert sign_in.signed_in_user(any_app, mine) is not None
    assert sign_in.signed_in_user(any_app, eves) is not None
    with pytest.raises(errors.SignInTicketError):
        sign_in.open_session(any_app, ticket)
    assert len(profile.list_sessions(any_app, eve, eves)) == 2


def test_nobody_ends_anothers_session(any_app: Application, sign_up: Callable[..., User]) -> None:
    """Another user's session id is as unknown as one that never was, and the session stays open."""
    ann, eve = sign_up(any_app, "ann@example.com"), sign_up(any_app, "eve@example.com")
    token = open_one(any_app)
    target = profile.list_sessions(any_app, ann, token)[0]
    for session_id in (target.id, "sess_unknown", ""):
        with pytest.raises(errors.SessionNotFoundError):
            profile.revoke_session(any_app, eve, session_id)
    assert sign_in.signed_in_user(any_app, token) is not None


def test_last_seen_is_written_seldom(app: Application, sign_up: Callable[..., User]) -> None:
    """A session that was not used for long is seen now; one that was used just now is not written again."""
    ann = sign_up(app, "ann@example.com")
    token = open_one(app)
    change(app, "UPDATE user_session SET last_seen_at = '2001-01-01 00:00:00.000000'")
    sign_in.signed_in_user(app, token)
    first = profile.list_sessions(app, ann, token)[0].last_seen_at
    assert first.year > 2001
    sign_in.signed_in_user(app, token)
    assert profile.list_sessions(app, ann, token)[0].last_seen_at == first


def test_a_page_opens_where_nothing_can_be_written(app: Application, sign_up: Callable[..., User]) -> None:
    """When "last seen" cannot be written (a full disk, say) whoever is signed in stays signed in."""
    sign_up(app, "ann@example.com")
    token = open_one(app)
    change(app, "UPDATE user_session SET last_seen_at = '2001-01-01 00:00:00.000000'")
    change(app, "CREATE TRIGGER full BEFORE UPDATE ON user_session BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    assert sign_in.signed_in_user(app, token) is not None


def test_a_password_that_is_changed_meanwhile_opens_no_session(
    any_app: Application, sign_up: Callable[..., User], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was right when it was checked, and is not when the ticket is issued: no session outlives the change."""
    ann = sign_up(any_app, "ann@example.com")
    mine = open_one(any_app)
    check = users.check_credentials

    def check_then_change(user: User | None, password: str) -> User:
        known = check(user, password)
        monkeypatch.undo()
        profile.change_password(any_app, ann, mine, PASSWORD, NEW_PASSWORD)
        return known

    monkeypatch.setattr(users, "check_credentials", check_then_change)
    with pytest.raises(errors.BadCredentialsError):
        sign_in.sign_in(any_app, "ann@example.com", PASSWORD)
    assert not profile.list_sessions(any_app, ann, mine)


def test_changing_the_password(any_app: Application, sign_up: Callable[..., User]) -> None:
    """The new one signs in and the old one does not; every session ends, and the own goes on under another token."""
    ann = sign_up(any_app, "ann@example.com")
    mine, stolen = open_one(any_app), open_one(any_app)
    changed = profile.change_password(any_app, ann, mine, PASSWORD, NEW_PASSWORD)
    assert changed.ended == 2
    for token in (stolen, mine):
        assert sign_in.signed_in_user(any_app, token) is None
    own = sign_in.open_session(any_app, changed.ticket)
    assert own != mine
    assert [one.is_current for one in profile.list_sessions(any_app, ann, own)] == [True]
    with pytest.raises(errors.BadCredentialsError):
        open_one(any_app)
    assert open_one(any_app, NEW_PASSWORD)


def test_the_password_is_not_changed(any_app: Application, sign_up: Callable[..., User]) -> None:
    """A wrong present password and a weak new one change nothing and end nothing."""
    ann = sign_up(any_app, "ann@example.com")
    mine, other = open_one(any_app), open_one(any_app)
    with pytest.raises(errors.BadCredentialsError):
        profile.change_password(any_app, ann, mine, "wrong horse battery", NEW_PASSWORD)
    with pytest.raises(errors.WeakPasswordError):
        profile.change_password(any_app, ann, mine, PASSWORD, "short")
    assert sign_in.signed_in_user(any_app, other) is not None
    assert open_one(any_app)


def test_a_stolen_session_guesses_no_faster(open_app: OpenApp, database_url: str, sign_up: Callable[..., User]) -> None:
    """Wrong present passwords are counted: after the limit even the right one waits, and the owner still signs in."""
    app = open_app(database_url=database_url, sign_in_attempts_max=3)
    ann = sign_up(app, "ann@example.com")
    token = open_one(app)
    for _ in range(3):
        with pytest.raises(errors.BadCredentialsError):
            profile.change_password(app, ann, token, "wrong horse battery", NEW_PASSWORD)
    with pytest.raises(errors.TooManyAttemptsError):
        profile.change_password(app, ann, token, PASSWORD, NEW_PASSWORD)
    assert open_one(app)


def test_time_zone(any_app: Application, sign_up: Callable[..., User]) -> None:
    """A known name is kept, none follows the browser again, and what is no zone is refused."""
    ann = sign_up(any_app, "ann@example.com")
    token = open_one(any_app)
    assert ann.time_zone is None
    for zone in ("Asia/Shanghai", None):
        profile.set_time_zone(any_app, ann, zone)
        user = sign_in.signed_in_user(any_app, token)
        assert user is not None
        assert user.time_zone == zone
    for wrong in ("Mars/Olympus", "", "../etc/passwd"):
        with pytest.raises(errors.InvalidTimeZoneError):
            profile.set_time_zone(any_app, ann, wrong)
