"""An account that somebody opened with another's address, in the days before they began with a mail or by an
invitation that was not his: what the other finds when he chooses a password by mail."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import text

from core import errors
from core.identity import oidc_rows, users
from core.identity.tables import User
from core.services import (
    api_keys,
    confirmation,
    customer_invitations,
    limits,
    password_reset,
    sign_in,
    sign_up_by_mail,
    team,
    webhooks,
)
from core.services.api_key_settings import KeySettings
from core.services.application import Application
from core.services.password_reset import Ended
from tests.conftest import PASSWORD, OpenApp
from tests.core.services.test_password_reset import NEW, asked, send_all
from tests.core.services.test_second_factor import Phone
from tests.mail_server import MailServer, mail_server

VICTIM, ACCOMPLICE, NEXT = "victim@example.com", "accomplice@example.com", "next@example.com"


@pytest.fixture
def server() -> Iterator[MailServer]:
    """A mail server."""
    with mail_server() as server:
        yield server


@pytest.fixture
def app(open_app: OpenApp, database_url: str, server: MailServer, sign_up: Callable[..., User]) -> Application:
    """An application that sends mail, on each kind of database, with its operator."""
    app = open_app(database_url=database_url, **server.settings())
    sign_up(app, "operator@example.com")
    return app


def come_in(app: Application, email: str, code: str | None = None) -> tuple[User, str]:
    """Sign somebody up who is invited, by default by the operator, and in; gives him and his token."""
    if code is None:
        with app.db.read() as session:
            [operator] = [one for one in users.list_users(session) if one.is_operator]
        code = customer_invitations.invite_customer(app, operator, email)
    token = sign_in.open_session(app, sign_in.sign_up(app, email, PASSWORD, invitation=code))
    user = sign_in.signed_in_user(app, token)
    assert user is not None
    return user, token


def prepare(app: Application) -> tuple[User, str, str, str]:
    """As Mallory does; gives the victim's user, a key, an invitation's code and the webhooks' secret."""
    victim, token = come_in(app, VICTIM)
    accomplice, _token = come_in(app, ACCOMPLICE, team.invite_member(app, victim, ACCOMPLICE, "owner"))
    key = api_keys.create_key(app, accomplice, KeySettings(name="mine"))
    webhook_secret = webhooks.get_secret(app, victim)
    limits.set_alert_url(app, victim, "https://mallory.example.com/")
    Phone(app, victim, token)
    code = team.invite_member(app, accomplice, NEXT, "owner")
    team.set_member_role(app, accomplice, victim.id, "viewer")
    send_all(app)
    return victim, key.secret, code, webhook_secret


def test_nothing_of_it_is_left(app: Application, server: MailServer) -> None:
    """Keys, members, invitations, second factor, the address and the secret of messages end, on the record."""
    victim, key, code, webhook_secret = prepare(app)
    ended = password_reset.set_password(app, asked(app, server, VICTIM), NEW)
    assert ended == Ended(api_keys=1, invitations=1, members=1, of_account=True)
    user = sign_in.signed_in_user(app, sign_in.open_session(app, sign_in.sign_in(app, VICTIM, NEW)))
    assert user is not None
    assert (user.id, user.role) == (victim.id, "owner")
    assert [one.id for one in team.list_members(app, user)] == [user.id]
    with pytest.raises(errors.NotSignedInError):
        api_keys.authenticate(app, key, None)
    with pytest.raises(errors.BadCredentialsError):
        sign_in.sign_in(app, ACCOMPLICE, PASSWORD)
    with pytest.raises(errors.InvitationError):
        sign_in.sign_up(app, NEXT, PASSWORD, invitation=code)
    assert limits.get_alert_url(app, user) is None
    assert webhooks.get_secret(app, user) != webhook_secret
    with app.db.read() as session:
        said = "SELECT count(*) FROM audit_event WHERE action = 'user.end_what_was_prepared'"
        assert session.connection().execute(text(said)).scalar_one() == 1


def test_who_confirmed_keeps_his(app: Application, server: MailServer) -> None:
    """A new password of somebody whose address is confirmed, or who was there before addresses were, ends no key."""
    ann, _token = come_in(app, "ann@example.com")
    send_all(app)
    key = api_keys.create_key(app, ann, KeySettings(name="mine"))
    ended = password_reset.set_password(app, asked(app, server), NEW)
    assert ended == Ended(api_keys=1, invitations=0, members=0, of_account=True)
    key = api_keys.create_key(app, ann, KeySettings(name="mine"))
    assert password_reset.set_password(app, asked(app, server), PASSWORD) is None
    assert api_keys.authenticate(app, key.secret, None)


def test_of_who_was_invited_into_anothers_team_his_own_ends(app: Application, server: MailServer) -> None:
    """A second factor, keys, invitations and identities made in his name end with a reset by mail; the team stays."""
    mallory, _token = come_in(app, ACCOMPLICE)
    victim, token = come_in(app, VICTIM, team.invite_member(app, mallory, VICTIM, "owner"))
    key = api_keys.create_key(app, victim, KeySettings(name="mine"))
    others_key = api_keys.create_key(app, mallory, KeySettings(name="theirs"))
    code = team.invite_member(app, victim, NEXT, "owner")
    with app.db.write() as session:
        oidc_rows.link(session, victim.id, "https://id.example.com", "mallory")
    Phone(app, victim, token)
    send_all(app)
    password_reset.set_password(app, password_reset.make_link(app.db, VICTIM), NEW)
    with pytest.raises(errors.SecondFactorNeededError):  # a link of the operator's does not show whose mail it is
        sign_in.sign_in(app, VICTIM, NEW)
    ended = password_reset.set_password(app, asked(app, server, VICTIM), PASSWORD)
    assert ended == Ended(api_keys=1, invitations=1, members=0, of_account=False)
    user, token = enter_again(app, PASSWORD)
    assert {one.email for one in team.list_members(app, user)} == {VICTIM, ACCOMPLICE}
    with pytest.raises(errors.NotSignedInError):
        api_keys.authenticate(app, key.secret, None)
    assert api_keys.authenticate(app, others_key.secret, None)
    with pytest.raises(errors.InvitationError):
        sign_in.sign_up(app, NEXT, PASSWORD, invitation=code)
    with app.db.read() as session:
        assert oidc_rows.list_of(session, victim.id) == []
    Phone(app, user, token)
    assert password_reset.set_password(app, asked(app, server, VICTIM), NEW) is None
    with pytest.raises(errors.SecondFactorNeededError):  # confirmed by now: it is his own
        sign_in.sign_in(app, VICTIM, NEW)


def enter_again(app: Application, password: str) -> tuple[User, str]:
    """Sign the victim in with the new password; gives him and his token."""
    token = sign_in.open_session(app, sign_in.sign_in(app, VICTIM, password))
    user = sign_in.signed_in_user(app, token)
    assert user is not None
    return user, token


def test_an_account_from_before_mail_lets_its_owner_in(
    app: Application, open_app: OpenApp, database_url: str, server: MailServer
) -> None:
    """What was opened with his address while no mail was sent keeps him out by no second factor."""
    before = open_app(database_url=database_url)
    token = sign_in.open_session(before, sign_in.sign_up(before, VICTIM, PASSWORD))
    victim = sign_in.signed_in_user(before, token)
    assert victim is not None
    Phone(before, victim, token)
    send_all(app)
    ended = password_reset.set_password(app, asked(app, server, VICTIM), NEW)
    assert ended == Ended(api_keys=0, invitations=0, members=0, of_account=False)
    enter_again(app, NEW)


def test_the_operators_second_factor_stays(app: Application, server: MailServer) -> None:
    """Whoever reads the operator's mail sets his password, and is asked for the code: his account nobody prepared."""
    token = sign_in.open_session(app, sign_in.sign_in(app, "operator@example.com", PASSWORD))
    operator = sign_in.signed_in_user(app, token)
    assert operator is not None
    assert operator.email_verified_at is None
    Phone(app, operator, token)
    send_all(app)
    assert password_reset.set_password(app, asked(app, server, operator.email), NEW) is None
    with pytest.raises(errors.SecondFactorNeededError):
        sign_in.sign_in(app, operator.email, NEW)


def test_nobody_uses_up_anothers_welcome_by_inviting_him(app: Application, server: MailServer) -> None:
    """Who joined a team and left it unconfirmed is welcomed in an account of his own, once; who confirmed is not."""
    mallory, _token = come_in(app, ACCOMPLICE)
    for confirms, welcome_mt in ((False, 20_000), (True, 0)):
        email = f"{confirms}-{VICTIM}".lower()
        victim, _token = come_in(app, email, team.invite_member(app, mallory, email, "viewer"))
        send_all(app)
        if confirms:
            confirmation.confirm(app, server.received[-1].secret)
        team.remove_member(app, mallory, victim.id)
        sign_up_by_mail.request_mail(app, email)
        send_all(app)
        opened = sign_up_by_mail.open_account(app, server.received[-1].secret, NEW)
        assert opened.welcome_mt == welcome_mt
