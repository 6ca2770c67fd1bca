"""Who may open an account: anybody, whom the operator invites, or nobody; the first one always can."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from core import errors
from core.identity.tables import User
from core.services import account_view, customer_invitations, sign_in, team
from core.services.application import Application
from tests.conftest import PASSWORD, OpenApp
from tests.core.services.helpers import change

PAST = "2001-01-01 00:00:00.000000"


def join(app: Application, email: str, code: str) -> User:
    """Sign up with an invitation."""
    ticket = sign_in.sign_up(app, email, PASSWORD, invitation=code)
    user = sign_in.signed_in_user(app, sign_in.open_session(app, ticket))
    assert user is not None
    return user


@pytest.mark.parametrize("policy", ["invitation", "closed"])
def test_only_the_first_comes_uninvited(
    policy: str, open_app: OpenApp, database_url: str, sign_up: Callable[..., User]
) -> None:
    """The operator signs up under every policy; whoever comes then is refused, whether the address is known or not."""
    app = open_app(database_url=database_url, sign_up=policy)
    assert sign_in.sign_up_policy(app) == "open"
    operator = sign_up(app, "operator@example.com")
    assert operator.is_operator
    assert sign_in.sign_up_policy(app) == policy
    for email in ("ann@example.com", "operator@example.com"):
        with pytest.raises(errors.SignUpClosedError) as refused:
            sign_in.sign_up(app, email, PASSWORD)
        assert refused.value.details == {"policy": policy}
    colleague = join(app, "cy@example.com", team.invite_member(app, operator, "cy@example.com", "member"))
    assert colleague.account_id == operator.account_id


def test_operator_invites_a_customer(open_app: OpenApp, database_url: str, sign_up: Callable[..., User]) -> None:
    """The invited address opens an account of its own with the welcome tokens, once; no customer can invite."""
    app = open_app(database_url=database_url, sign_up="invitation")
    operator = sign_up(app, "operator@example.com")
    code = customer_invitations.invite_customer(app, operator, " Ann@Example.com ")
    assert [one.email for one in customer_invitations.list_invitations(app, operator)] == ["ann@example.com"]
    assert not team.list_invitations(app, operator)
    with pytest.raises(errors.InvitationError):
        sign_in.sign_up(app, "eve@example.com", PASSWORD, invitation=code)
    ann = join(app, "ann@example.com", code)
    assert (ann.role, ann.is_operator) == ("owner", False)
    assert ann.account_id != operator.account_id
    assert account_view.get_balance(app, ann).available_mt == 20_000
    with pytest.raises(errors.InvitationError):
        sign_in.sign_up(app, "ann@example.com", PASSWORD, invitation=code)
    with pytest.raises(errors.HasAccountError):
        customer_invitations.invite_customer(app, operator, "ann@example.com")
    for deed in (
        lambda: customer_invitations.invite_customer(app, ann, "eve@example.com"),
        lambda: customer_invitations.list_invitations(app, ann),
        lambda: customer_invitations.revoke_invitation(app, ann, "inv_x"),
    ):
        with pytest.raises(errors.NotAllowedError):
            deed()


def test_invitations_end(open_app: OpenApp, database_url: str, sign_up: Callable[..., User]) -> None:
    """Withdrawn, replaced, expired, or made before sign-up was closed: none of these opens an account."""
    app = open_app(database_url=database_url, sign_up="invitation")
    operator = sign_up(app, "operator@example.com")

    def refused(
        code: str, error: type[errors.VisionMeterError] = errors.InvitationError, of: Application = app
    ) -> None:
        with pytest.raises(error):
            sign_in.sign_up(of, "ann@example.com", PASSWORD, invitation=code)

    replaced = customer_invitations.invite_customer(app, operator, "ann@example.com")
    code = customer_invitations.invite_customer(app, operator, "ann@example.com")
    refused(replaced)
    [open_one] = customer_invitations.list_invitations(app, operator)
    customer_invitations.revoke_invitation(app, operator, open_one.id)
    refused(code)
    with pytest.raises(errors.InvitationNotFoundError):
        customer_invitations.revoke_invitation(app, operator, open_one.id)
    code = customer_invitations.invite_customer(app, operator, "ann@example.com")
    refused(code, errors.SignUpClosedError, open_app(database_url=database_url, sign_up="closed"))
    change(app, f"UPDATE invitation SET expires_at = '{PAST}'")
    refused(code)


def test_an_owner_withdraws_no_customers_invitation(
    open_app: OpenApp, database_url: str, sign_up: Callable[..., User]
) -> None:
    """Invitations of new customers are not any account's."""
    app = open_app(database_url=database_url, sign_up="invitation")
    operator = sign_up(app, "operator@example.com")
    customer_invitations.invite_customer(app, operator, "ann@example.com")
    [invitation] = customer_invitations.list_invitations(app, operator)
    with pytest.raises(errors.InvitationNotFoundError):
        team.revoke_invitation(app, operator, invitation.id)
