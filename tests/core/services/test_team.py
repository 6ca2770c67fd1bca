"""Teams: inviting, joining, roles, leaving; and that nobody gets further than his role and his account."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text

from core import errors
from core.identity import users
from core.identity.tables import User
from core.services import account_view, mails, sign_in, team
from core.services.application import Application
from tests.conftest import PASSWORD
from tests.core.services.helpers import change

PAST = "2001-01-01 00:00:00.000000"
OTHER_PASSWORD = "another horse battery"


@pytest.fixture
def operator(any_app: Application, sign_up: Callable[..., User]) -> User:
    """The first user, who runs the installation and has an account of his own."""
    return sign_up(any_app, "operator@example.com")


@pytest.fixture
def ann(any_app: Application, operator: User, sign_up: Callable[..., User]) -> User:
    """A customer who owns an account."""
    return sign_up(any_app, "ann@example.com")


@pytest.fixture
def eve(any_app: Application, operator: User, sign_up: Callable[..., User]) -> User:
    """A customer who owns another account."""
    return sign_up(any_app, "eve@example.com")


def join(app: Application, owner: User, email: str, role: str, password: str = PASSWORD) -> tuple[User, str]:
    """Invite an address and sign it up; gives the user and the token of his session."""
    code = team.invite_member(app, owner, email, role)
    token = sign_in.open_session(app, sign_in.sign_up(app, email, password, invitation=code))
    user = sign_in.signed_in_user(app, token)
    assert user is not None
    return user, token


def fresh(app: Application, user: User) -> User:
    """The user as he is stored now."""
    with app.db.read() as session:
        return session.get_one(User, user.id)


def together(*actions: Callable[[], object]) -> list[str]:
    """Run actions at the same moment; gives the sorted codes of their failures, `done` for success."""
    barrier = threading.Barrier(len(actions))

    def client(action: Callable[[], object]) -> str:
        barrier.wait()
        try:
            action()
        except errors.VisionMeterError as error:
            return error.code
        return "done"

    with ThreadPoolExecutor(len(actions)) as clients:
        return sorted(clients.map(client, actions))


def active_owners(app: Application, account_id: str) -> list[str]:
    """The addresses of an account's owners."""
    with app.db.read() as session:
        return [user.email for user in users.list_members(session, account_id) if user.role == "owner"]


# Roles ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "minimum", "allowed"),
    [
        ("owner", "owner", True), ("owner", "member", True), ("owner", "viewer", True),
        ("member", "owner", False), ("member", "member", True), ("member", "viewer", True),
        ("viewer", "owner", False), ("viewer", "member", False), ("viewer", "viewer", True),
    ],
)  # fmt: skip
def test_each_role_may_what_those_below_may(role: str, minimum: str, allowed: bool) -> None:
    """An owner may what a member may, and a member what a viewer may; a refusal names the role that is needed."""
    user = User(account_id="acct", email="a@b.co", password_digest="", role=role)
    if allowed:
        team.require_role(user, minimum)
        return
    with pytest.raises(errors.RoleNeededError) as caught:
        team.require_role(user, minimum)
    assert caught.value.details == {"needed": minimum, "role": role}


def test_a_removed_user_has_no_role(any_app: Application, ann: User) -> None:
    """Who was removed may not even look, whatever his role was."""
    bob, _token = join(any_app, ann, "bob@example.com", "owner")
    team.remove_member(any_app, ann, bob.id)
    with pytest.raises(errors.RoleNeededError):
        team.require_role(fresh(any_app, bob), "viewer")


# Joining -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["owner", "member", "viewer"])
def test_joining(any_app: Application, ann: User, role: str) -> None:
    """An invited person is in the account with the role; no account, no welcome tokens and no entry are made."""
    before = account_view.list_transactions(any_app, ann)
    bob, _token = join(any_app, ann, " Bob@Example.com", role)
    assert (bob.account_id, bob.role, bob.is_operator) == (ann.account_id, role, False)
    assert [(user.email, user.role) for user in team.list_members(any_app, ann)] == [
        ("ann@example.com", "owner"),
        ("bob@example.com", role),
    ]
    assert account_view.list_transactions(any_app, bob) == before
    assert account_view.get_balance(any_app, bob).available_mt == 20_000
    assert team.list_invitations(any_app, ann) == []


def test_one_code_one_sign_up(any_app: Application, ann: User) -> None:
    """Eight sign-ups at once with one code: one joins, and the others make no account either."""
    code = team.invite_member(any_app, ann, "bob@example.com", "member")
    outcomes = together(
        *[lambda: sign_in.sign_up(any_app, "bob@example.com", PASSWORD, invitation=code) for _ in range(8)]
    )
    assert outcomes == [*["bad_invitation"] * 7, "done"]
    assert len(team.list_members(any_app, ann)) == 2


def test_a_used_code_is_used_for_good(any_app: Application, ann: User) -> None:
    """A code brings a removed person not back: it was single use."""
    code = team.invite_member(any_app, ann, "bob@example.com", "member")
    sign_in.sign_up(any_app, "bob@example.com", PASSWORD, invitation=code)
    team.remove_member(any_app, ann, team.list_members(any_app, ann)[1].id)
    with pytest.raises(errors.InvitationError):
        sign_in.sign_up(any_app, "bob@example.com", PASSWORD, invitation=code)


def test_bad_codes_look_alike(any_app: Application, ann: User) -> None:
    """Unknown, expired, revoked, replaced and somebody else's codes get one answer, and nobody is signed up."""

    def invite(email: str) -> str:
        return team.invite_member(any_app, ann, email, "member")

    revoked = invite("bob@example.com")
    team.revoke_invitation(any_app, ann, team.list_invitations(any_app, ann)[0].id)
    expired = invite("cyd@example.com")
    change(any_app, "UPDATE invitation SET expires_at = :past", past=PAST)
    replaced, good = invite("dan@example.com"), invite("dan@example.com")
    found = set()
    for email, code in (
        ("bob@example.com", revoked),
        ("cyd@example.com", expired),
        ("dan@example.com", replaced),
        ("bob@example.com", good),
        ("bob@example.com", "unknown"),
        ("bob@example.com", ""),
        ("bob@example.com", "\ud800"),
    ):
        with pytest.raises(errors.InvitationError) as caught:
            sign_in.sign_up(any_app, email, PASSWORD, invitation=code)
        found.add((caught.value.code, caught.value.message, str(caught.value.details)))
    assert len(found) == 1
    assert len(team.list_members(any_app, ann)) == 1
    sign_in.sign_up(any_app, "dan@example.com", PASSWORD, invitation=good)
    assert len(team.list_members(any_app, ann)) == 2


def test_a_refused_password_leaves_the_code_good(any_app: Application, ann: User) -> None:
    """A sign-up that fails for another reason does not use the invitation up."""
    code = team.invite_member(any_app, ann, "bob@example.com", "member")
    with pytest.raises(errors.WeakPasswordError):
        sign_in.sign_up(any_app, "bob@example.com", "short", invitation=code)
    assert sign_in.sign_up(any_app, "bob@example.com", PASSWORD, invitation=code)


def test_one_open_invitation_for_an_address(any_app: Application, ann: User) -> None:
    """Inviting again, also eight times at once, leaves one open invitation, in the last role."""
    for role in ("owner", "viewer"):
        team.invite_member(any_app, ann, "bob@example.com", role)
    assert [(found.email, found.role) for found in team.list_invitations(any_app, ann)] == [
        ("bob@example.com", "viewer")
    ]
    outcomes = together(*[lambda: team.invite_member(any_app, ann, "Bob@example.com", "member") for _ in range(8)])
    assert outcomes == ["done"] * 8
    assert [found.role for found in team.list_invitations(any_app, ann)] == ["member"]


def test_inviting_is_counted_before_anything_is_looked_up(any_app: Application, ann: User, eve: User) -> None:
    """After twenty invitations within an hour an account learns of no further address; another account goes on."""
    for number in range(19):
        team.invite_member(any_app, ann, f"a{number}@example.com", "viewer")
    with pytest.raises(errors.HasAccountError):
        team.invite_member(any_app, ann, "eve@example.com", "viewer")
    for email in ("eve@example.com", "new@example.com"):
        with pytest.raises(errors.TooManyInvitationsError) as refused:
            team.invite_member(any_app, ann, email, "viewer")
        assert refused.value.details["invitations_max"] == 20
    assert team.invite_member(any_app, eve, "new@example.com", "viewer")


def test_an_address_that_did_not_accept_is_forgotten(any_app: Application, ann: User) -> None:
    """Invitations that were withdrawn, or whose week is over, name nobody; an open one and one that was accepted do."""

    def addresses() -> list[str]:
        with any_app.db.read() as session:
            return sorted(session.connection().execute(text("SELECT email FROM invitation")).scalars())

    for email in ("old1@example.com", "old2@example.com"):
        team.invite_member(any_app, ann, email, "viewer")
    change(any_app, "UPDATE invitation SET expires_at = :past", past=PAST)
    join(any_app, ann, "bob@example.com", "viewer")
    team.invite_member(any_app, ann, "cyd@example.com", "viewer")
    team.invite_member(any_app, ann, "dan@example.com", "viewer")
    [dans] = [one.id for one in team.list_invitations(any_app, ann) if one.email == "dan@example.com"]
    team.revoke_invitation(any_app, ann, dans)
    mails.clean_up(any_app)
    assert addresses() == ["", "", "", "bob@example.com", "cyd@example.com"]


def test_two_accounts_may_invite_the_same_address(any_app: Application, ann: User, eve: User) -> None:
    """Invitations of two accounts do not disturb one another; whose is accepted first has the person."""
    anns = team.invite_member(any_app, ann, "bob@example.com", "member")
    eves = team.invite_member(any_app, eve, "bob@example.com", "viewer")
    sign_in.sign_up(any_app, "bob@example.com", PASSWORD, invitation=anns)
    with pytest.raises(errors.EmailTakenError):
        sign_in.sign_up(any_app, "bob@example.com", PASSWORD, invitation=eves)
    assert [user.email for user in team.list_members(any_app, eve)] == ["eve@example.com"]


def test_somebody_with_an_account_is_not_invited(any_app: Application, ann: User, eve: User) -> None:
    """A person belongs to one account: neither a member nor another customer can be invited."""
    for email in ("ann@example.com", "EVE@example.com"):
        with pytest.raises(errors.HasAccountError, match="belongs to one account: invite another address"):
            team.invite_member(any_app, ann, email, "member")
    with pytest.raises(errors.InvalidEmailError):
        team.invite_member(any_app, ann, "no address", "member")
    for role in ("operator", "", "OWNER"):
        with pytest.raises(errors.InvalidRoleError):
            team.invite_member(any_app, ann, "bob@example.com", role)
    assert team.list_invitations(any_app, ann) == []


def test_the_code_is_stored_as_a_digest(app: Application, sign_up: Callable[..., User], tmp_path: Path) -> None:
    """The code is in no file of the data folder; the invited address is."""
    code = team.invite_member(app, sign_up(app), "bob@example.com", "member")
    app.db.close()
    everything = b"".join(path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file())
    assert b"bob@example.com" in everything
    assert code.encode() not in everything


# Leaving -------------------------------------------------------------------------------------------


def test_removal_ends_everything_at_once(any_app: Application, ann: User) -> None:
    """After removal sessions, tickets and the password open nothing, and the answer is that of a wrong password."""
    bob, token = join(any_app, ann, "bob@example.com", "member")
    ticket = sign_in.sign_in(any_app, "bob@example.com", PASSWORD)
    team.remove_member(any_app, ann, bob.id)
    assert sign_in.signed_in_user(any_app, token) is None
    with pytest.raises(errors.SignInTicketError):
        sign_in.open_session(any_app, ticket)
    messages = set()
    for email, password in (
        ("bob@example.com", PASSWORD),
        ("bob@example.com", OTHER_PASSWORD),
        ("ann@example.com", OTHER_PASSWORD),
    ):
        with pytest.raises(errors.BadCredentialsError) as caught:
            sign_in.sign_in(any_app, email, password)
        messages.add((caught.value.message, str(caught.value.details)))
    assert len(messages) == 1
    assert [user.email for user in team.list_members(any_app, ann)] == ["ann@example.com"]
    # Revoked, not only ignored: they would open nothing even if somebody enabled him by hand.
    change(any_app, "UPDATE user_ SET disabled_at = NULL WHERE id = :id", id=bob.id)
    assert sign_in.signed_in_user(any_app, token) is None
    with pytest.raises(errors.SignInTicketError):
        sign_in.open_session(any_app, ticket)


def test_a_disabled_user_is_shut_out_whatever_is_left_of_him(any_app: Application, ann: User) -> None:
    """A session and a ticket that a removal missed, because they came at that moment, are worth nothing either."""
    bob, token = join(any_app, ann, "bob@example.com", "member")
    ticket = sign_in.sign_in(any_app, "bob@example.com", PASSWORD)
    change(any_app, "UPDATE user_ SET disabled_at = :past WHERE id = :id", past=PAST, id=bob.id)
    assert sign_in.signed_in_user(any_app, token) is None
    with pytest.raises(errors.SignInTicketError):
        sign_in.open_session(any_app, ticket)


def test_entries_go_on_naming_who_was_removed(any_app: Application, ann: User, eve: User) -> None:
    """The account's actors include who left, also when he is in another team now; nobody of elsewhere is named."""
    bob, _token = join(any_app, ann, "bob@example.com", "member")
    team.remove_member(any_app, ann, bob.id)
    again, _token = join(any_app, eve, "bob@example.com", "viewer", OTHER_PASSWORD)
    assert team.actor_names(any_app, ann.account_id) == {ann.id: "ann@example.com", bob.id: "bob@example.com"}
    assert team.actor_names(any_app, eve.account_id) == {eve.id: "eve@example.com", again.id: "bob@example.com"}


def test_coming_back(any_app: Application, ann: User) -> None:
    """A removed person who is invited again has the new password and role; what was his before stays ended."""
    bob, token = join(any_app, ann, "bob@example.com", "owner")
    team.remove_member(any_app, ann, bob.id)
    again, _token = join(any_app, ann, "bob@example.com", "viewer", OTHER_PASSWORD)
    assert (again.account_id, again.role, again.disabled_at) == (ann.account_id, "viewer", None)
    with pytest.raises(errors.BadCredentialsError):
        sign_in.sign_in(any_app, "bob@example.com", PASSWORD)
    assert sign_in.open_session(any_app, sign_in.sign_in(any_app, "bob@example.com", OTHER_PASSWORD))
    assert sign_in.signed_in_user(any_app, token) is None
    assert [user.id for user in team.list_members(any_app, ann)] == [ann.id, again.id]


def test_a_removed_person_may_open_an_account_of_his_own(any_app: Application, ann: User) -> None:
    """Without an invitation he gets a new account, but no second welcome and no power over the installation."""
    bob, _token = join(any_app, ann, "bob@example.com", "member")
    team.remove_member(any_app, ann, bob.id)
    ticket = sign_in.sign_up(any_app, "bob@example.com", OTHER_PASSWORD)
    alone = sign_in.signed_in_user(any_app, sign_in.open_session(any_app, ticket))
    assert alone is not None
    assert alone.account_id != ann.account_id
    assert (alone.role, alone.is_operator) == ("owner", False)
    assert account_view.get_balance(any_app, alone).available_mt == 0


def test_what_an_owner_invited_ends_with_his_power(any_app: Application, ann: User) -> None:
    """A removed or demoted owner cannot come back through an invitation whose code he kept."""
    bob, _token = join(any_app, ann, "bob@example.com", "owner")
    cyd, _token = join(any_app, ann, "cyd@example.com", "owner")
    bobs = team.invite_member(any_app, bob, "bob2@example.com", "owner")
    cyds = team.invite_member(any_app, cyd, "cyd2@example.com", "owner")
    anns = team.invite_member(any_app, ann, "dan@example.com", "member")
    team.remove_member(any_app, ann, bob.id)
    team.set_member_role(any_app, ann, cyd.id, "member")
    for email, code in (("bob2@example.com", bobs), ("cyd2@example.com", cyds)):
        with pytest.raises(errors.InvitationError):
            sign_in.sign_up(any_app, email, PASSWORD, invitation=code)
    assert sign_in.sign_up(any_app, "dan@example.com", PASSWORD, invitation=anns)


# The last owner and the last operator --------------------------------------------------------------


def test_an_account_keeps_an_owner(any_app: Application, ann: User) -> None:
    """The only owner can neither leave nor step down; with a second one he can do both."""
    join(any_app, ann, "bob@example.com", "member")
    for action in (
        lambda: team.remove_member(any_app, ann, ann.id),
        lambda: team.set_member_role(any_app, ann, ann.id, "member"),
        lambda: team.set_member_role(any_app, ann, ann.id, "viewer"),
    ):
        with pytest.raises(errors.LastOwnerError):
            action()
    team.set_member_role(any_app, ann, ann.id, "owner")
    cyd, _token = join(any_app, ann, "cyd@example.com", "owner")
    team.set_member_role(any_app, ann, ann.id, "viewer")
    team.remove_member(any_app, cyd, ann.id)
    assert active_owners(any_app, cyd.account_id) == ["cyd@example.com"]


def _demote_each_other(app: Application, one: User, two: User) -> list[str]:
    return together(
        lambda: team.set_member_role(app, one, two.id, "member"),
        lambda: team.set_member_role(app, two, one.id, "viewer"),
    )


def _remove_each_other(app: Application, one: User, two: User) -> list[str]:
    return together(
        lambda: team.remove_member(app, one, two.id),
        lambda: team.remove_member(app, two, one.id),
    )


def _both_leave(app: Application, one: User, two: User) -> list[str]:
    return together(
        lambda: team.remove_member(app, one, one.id),
        lambda: team.set_member_role(app, two, two.id, "member"),
    )


@pytest.mark.parametrize(
    ("attack", "second"),
    [(_demote_each_other, "role_needed"), (_remove_each_other, "role_needed"), (_both_leave, "last_owner")],
)
def test_two_owners_at_the_same_moment(
    any_app: Application, ann: User, attack: Callable[..., list[str]], second: str
) -> None:
    """Two owners who demote or remove each other, or both leave, at once: one does, and one owner remains."""
    for number in range(5):
        one, *others = [user for user in team.list_members(any_app, ann) if user.role == "owner"]
        assert not others
        two, _token = join(any_app, one, f"two{number}@example.com", "owner")
        assert attack(any_app, one, two) == sorted(["done", second])
        owners = active_owners(any_app, ann.account_id)
        assert len(owners) == 1
        with any_app.db.read() as session:
            found = users.find_user(session, owners[0])
        assert found is not None
        ann = found


def test_an_installation_keeps_an_operator(any_app: Application, operator: User) -> None:
    """A co-owner cannot remove the only operator, who stays one in whatever role; a second one makes it possible."""
    bob, _token = join(any_app, operator, "bob@example.com", "owner")
    with pytest.raises(errors.LastOperatorError):
        team.remove_member(any_app, bob, operator.id)
    team.set_member_role(any_app, bob, operator.id, "viewer")
    assert fresh(any_app, operator).is_operator
    with pytest.raises(errors.LastOperatorError):
        team.remove_member(any_app, bob, operator.id)
    change(any_app, "UPDATE user_ SET is_operator = true WHERE id = :id", id=bob.id)
    team.remove_member(any_app, bob, operator.id)
    assert not fresh(any_app, operator).is_operator
    with any_app.db.read() as session:
        assert users.count_operators(session) == 1


def test_two_operators_of_two_accounts_removed_at_once(any_app: Application, operator: User, ann: User) -> None:
    """Co-owners of different accounts who each remove an operator at the same moment: one operator remains."""
    bob, _token = join(any_app, operator, "bob@example.com", "owner")
    cyd, _token = join(any_app, ann, "cyd@example.com", "owner")
    for _ in range(10):
        for user in (operator, ann):
            change(any_app, "UPDATE user_ SET disabled_at = NULL, is_operator = true WHERE id = :id", id=user.id)
        assert together(
            lambda: team.remove_member(any_app, bob, operator.id), lambda: team.remove_member(any_app, cyd, ann.id)
        ) == ["done", "last_operator"]
        with any_app.db.read() as session:
            assert users.count_operators(session) == 1


def test_who_comes_back_is_no_operator(any_app: Application, operator: User, ann: User) -> None:
    """Whoever invites the address of a removed operator, and so holds the code, does not run the service with it."""
    change(any_app, "UPDATE user_ SET is_operator = true WHERE id = :id", id=ann.id)
    bob, _token = join(any_app, operator, "bob@example.com", "owner")
    team.remove_member(any_app, bob, operator.id)
    again, _token = join(any_app, bob, "operator@example.com", "owner", OTHER_PASSWORD)
    assert not again.is_operator


def test_an_invitation_makes_no_operator(any_app: Application, operator: User) -> None:
    """Even where nobody runs the installation, joining by invitation gives no power over it."""
    code = team.invite_member(any_app, operator, "bob@example.com", "owner")
    change(any_app, "UPDATE user_ SET is_operator = false")
    ticket = sign_in.sign_up(any_app, "bob@example.com", PASSWORD, invitation=code)
    bob = sign_in.signed_in_user(any_app, sign_in.open_session(any_app, ticket))
    assert bob is not None
    assert not bob.is_operator


# Who may not ---------------------------------------------------------------------------------------


def owner_actions(app: Application, user: User, target: User, invitation_id: str) -> list[Callable[[], object]]:
    """Everything that only an owner may do, done by some user."""
    return [
        lambda: team.list_invitations(app, user),
        lambda: team.invite_member(app, user, "new@example.com", "viewer"),
        # Not even whether an address has an account, or is one.
        lambda: team.invite_member(app, user, "operator@example.com", "viewer"),
        lambda: team.invite_member(app, user, "no address", "viewer"),
        lambda: team.revoke_invitation(app, user, invitation_id),
        lambda: team.revoke_invitation(app, user, "inv_unknown"),
        lambda: team.set_member_role(app, user, target.id, "viewer"),
        lambda: team.set_member_role(app, user, user.id, "owner"),
        lambda: team.set_member_role(app, user, "user_unknown", "viewer"),
        lambda: team.remove_member(app, user, target.id),
        lambda: team.remove_member(app, user, user.id),
    ]


@pytest.mark.parametrize("role", ["member", "viewer"])
def test_owners_only(any_app: Application, ann: User, role: str) -> None:
    """A member and a viewer can change nothing and learn of no invitation, and get the same answer to everything."""
    bob, _token = join(any_app, ann, "bob@example.com", role)
    team.invite_member(any_app, ann, "cyd@example.com", "member")
    invitation = team.list_invitations(any_app, ann)[0]
    for action in owner_actions(any_app, bob, ann, invitation.id):
        with pytest.raises(errors.RoleNeededError) as caught:
            action()
        assert caught.value.details == {"needed": "owner", "role": role}
    assert [(user.email, user.role) for user in team.list_members(any_app, bob)] == [
        ("ann@example.com", "owner"),
        ("bob@example.com", role),
    ]
    assert [found.id for found in team.list_invitations(any_app, ann)] == [invitation.id]


def test_an_owner_of_a_moment_ago(any_app: Application, ann: User) -> None:
    """Power is what is stored now: a page drawn before the owner was demoted or removed does nothing any more."""
    bob, _token = join(any_app, ann, "bob@example.com", "owner")
    cyd, _token = join(any_app, ann, "cyd@example.com", "owner")
    team.invite_member(any_app, ann, "dan@example.com", "member")
    invitation = team.list_invitations(any_app, ann)[0]
    team.set_member_role(any_app, ann, bob.id, "member")
    team.remove_member(any_app, ann, cyd.id)
    for former in (bob, cyd):
        assert former.role == "owner"  # as his page still believes
        for action in owner_actions(any_app, former, ann, invitation.id):
            with pytest.raises(errors.RoleNeededError):
                action()
    with pytest.raises(errors.RoleNeededError):
        team.list_members(any_app, cyd)
    assert [user.id for user in team.list_members(any_app, ann)] == [ann.id, bob.id]


def test_another_accounts_owner(any_app: Application, ann: User, eve: User) -> None:
    """Ids of another account, of a removed user and invented ones are all the same to an owner: not there."""
    bob, token = join(any_app, ann, "bob@example.com", "member")
    gone, _token = join(any_app, eve, "gone@example.com", "member")
    team.remove_member(any_app, eve, gone.id)
    team.invite_member(any_app, ann, "cyd@example.com", "member")
    invitation = team.list_invitations(any_app, ann)[0]
    found = set()
    for user_id in (bob.id, ann.id, gone.id, "user_unknown", ""):
        for action in (
            lambda user_id=user_id: team.set_member_role(any_app, eve, user_id, "viewer"),
            lambda user_id=user_id: team.remove_member(any_app, eve, user_id),
        ):
            with pytest.raises(errors.MemberNotFoundError) as caught:
                action()
            found.add((caught.value.message, str(caught.value.details)))
    for invitation_id in (invitation.id, "inv_unknown"):
        with pytest.raises(errors.InvitationNotFoundError) as refused:
            team.revoke_invitation(any_app, eve, invitation_id)
        found.add((refused.value.message, str(refused.value.details)))
    assert len(found) == 2
    assert fresh(any_app, bob).role == "member"
    assert sign_in.signed_in_user(any_app, token) is not None
    assert team.list_invitations(any_app, eve) == []
    assert [listed.id for listed in team.list_invitations(any_app, ann)] == [invitation.id]


def test_an_invitation_ends_once(any_app: Application, ann: User) -> None:
    """What was accepted, revoked or has expired is listed no more, and the ended cannot be revoked again."""
    code = team.invite_member(any_app, ann, "bob@example.com", "member")
    accepted = team.list_invitations(any_app, ann)[0].id
    sign_in.sign_up(any_app, "bob@example.com", PASSWORD, invitation=code)
    team.invite_member(any_app, ann, "cyd@example.com", "member")
    revoked = team.list_invitations(any_app, ann)[0].id
    team.revoke_invitation(any_app, ann, revoked)
    for invitation_id in (accepted, revoked):
        with pytest.raises(errors.InvitationNotFoundError):
            team.revoke_invitation(any_app, ann, invitation_id)
    team.invite_member(any_app, ann, "dan@example.com", "member")
    change(any_app, "UPDATE invitation SET expires_at = :past", past=PAST)
    assert team.list_invitations(any_app, ann) == []


def test_accepting_and_revoking_at_the_same_moment(any_app: Application, ann: User) -> None:
    """Either the person joins or the invitation is withdrawn, never both and never neither."""
    for number in range(5):
        email = f"user{number}@example.com"
        code = team.invite_member(any_app, ann, email, "member")
        invitation_id = team.list_invitations(any_app, ann)[0].id
        outcomes = together(
            lambda email=email, code=code: sign_in.sign_up(any_app, email, PASSWORD, invitation=code),
            lambda invitation_id=invitation_id: team.revoke_invitation(any_app, ann, invitation_id),
        )
        joined = email in [user.email for user in team.list_members(any_app, ann)]
        assert outcomes == sorted(["done", "invitation_not_found" if joined else "bad_invitation"])
