"""Deleting an account: the person is forgotten, the books stay and verify, and nobody gains by it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlmodel import select

from core import errors
from core.db import utcnow
from core.identity.tables import ApiKey, Invitation, User, UserSession
from core.jobs.tables import Job, JobImage, Result, WebhookDelivery
from core.ledger.tables import Account, Entry
from core.pricing.tables import Quote, Receipt
from core.services import api_keys, closing, corrections, payments, sign_in, team
from core.services.api_key_settings import KeySettings
from core.services.application import Application
from core.services.job_runner import JobRunner, cancel_job
from tests.conftest import PASSWORD, OpenApp
from tests.core.services import helpers
from tests.core.services.helpers import balance, change
from tests.core.services.test_team import join

EMAIL = "ann@example.com"


def left_mt(app: Application, user: User) -> int:
    """What is left of an account, wherever its people are."""
    with app.db.read() as session:
        return session.get_one(Account, user.account_id).posted_mt


def purge(app: Application) -> None:
    """All rounds of the keeper, the last one long after the account was closed."""
    while closing.purge_closed(app):
        pass
    change(app, "UPDATE account SET closed_at = :past WHERE closed_at IS NOT NULL", past=utcnow() - timedelta(hours=1))
    while closing.purge_closed(app):
        pass


def everything(app: Application) -> str:
    """Every value of every table but the audit log, as one text."""
    with app.db.read() as session:
        names = [
            row[0]
            for row in session.connection().execute(
                text(
                    "SELECT name FROM sqlite_master WHERE type = 'table'"
                    if session.get_bind().dialect.name == "sqlite"
                    else "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
                )
            )
        ]
        assert {"user_", "receipt", "job_image"} <= set(names)
        return "\n".join(
            str(tuple(row))
            for name in names
            if name != "audit_event"
            for row in session.connection().execute(text(f'SELECT * FROM "{name}"'))
        )


def test_a_person_is_forgotten_and_the_books_stay(
    any_app: Application, sign_up: Callable[..., User], start_runner: Callable[[Application], JobRunner]
) -> None:
    """Nothing names her or her pictures afterwards; entries, receipts and the check of the ledger are as before."""
    app = any_app
    sign_up(app, "operator@example.com")
    ann = sign_up(app, EMAIL)
    start_runner(app)
    files = {f"holiday-{name}": data for name, data in helpers.pictures(3).items()}
    view = helpers.run(app, ann, files)
    waiting = helpers.quote(app, ann, {"holiday-later.png": next(iter(helpers.pictures(1, seed=7).values()))})
    secret = api_keys.create_key(app, ann, KeySettings(name="holiday key")).secret
    team.invite_member(app, ann, "invited@example.com", "member")
    token = sign_in.open_session(app, sign_in.sign_in(app, EMAIL, PASSWORD))
    posted_mt, held_mt = balance(app, ann)
    assert held_mt == 0
    assert posted_mt > 0
    folder = app.blobs.root / ann.account_id
    assert folder.is_dir()

    closing.delete_account(app, ann, PASSWORD, forfeit_mt=posted_mt)
    assert sign_in.signed_in_user(app, token) is None
    with pytest.raises(errors.BadCredentialsError):
        sign_in.sign_in(app, EMAIL, PASSWORD)
    with pytest.raises(errors.NotSignedInError):
        api_keys.authenticate(app, secret, None)
    purge(app)

    known = everything(app)
    for word in (EMAIL, "holiday", "invited@example.com"):
        assert word not in known, word
    assert view.images[0].image_sha256 in known, "the fingerprint of a paid picture is evidence"
    assert not folder.exists()
    assert balance(app, ann) == (0, 0)
    with app.db.read() as session:
        assert not session.exec(select(Result)).all()
        assert not session.exec(select(UserSession).where(UserSession.user_id == ann.id)).all()
        assert not session.exec(select(WebhookDelivery)).all()
        assert session.get(Quote, waiting.id) is None
        account = session.get_one(Account, ann.account_id)
        assert (account.status, account.name) == ("frozen", "")
        assert account.purged_at is not None
        receipts = session.exec(select(Receipt)).all()
        assert [receipt.amount_mt for receipt in receipts] == [250, 250, 250]
        assert {receipt.image_name for receipt in receipts} == {""}
        assert len(session.exec(select(JobImage)).all()) == 3
        assert session.exec(select(Job)).one().status == "finished"
        assert {key.name for key in session.exec(select(ApiKey)).all()} == {"deleted"}
        assert {one.email for one in session.exec(select(Invitation)).all()} == {""}
        kinds = [entry.kind for entry in session.exec(select(Entry).order_by(Entry.seq)).all()]
        assert kinds[-2:] == ["adjustment", "freeze"]


def test_no_second_welcome(any_app: Application, sign_up: Callable[..., User]) -> None:
    """The same address may come again and gets no tokens for it; a new one does, and so did the first time."""
    ann = sign_up(any_app, EMAIL)
    welcome_mt, _held_mt = balance(any_app, ann)
    assert welcome_mt > 0
    sign_up(any_app, "next@example.com")
    with pytest.raises(errors.LastOperatorError):
        closing.delete_account(any_app, ann, PASSWORD, forfeit_mt=welcome_mt)
    change(any_app, "UPDATE user_ SET is_operator = true WHERE email <> :email", email=EMAIL)
    closing.delete_account(any_app, ann, PASSWORD, forfeit_mt=welcome_mt)
    again = sign_up(any_app, EMAIL)
    assert again.id != ann.id
    assert again.account_id != ann.account_id
    assert balance(any_app, again) == (0, 0)
    assert balance(any_app, sign_up(any_app, "bob@example.com")) == (welcome_mt, 0)


@pytest.fixture
def bob(any_app: Application, sign_up: Callable[..., User]) -> User:
    """A customer beside the operator."""
    sign_up(any_app, "operator@example.com")
    return sign_up(any_app, "bob@example.com")


def test_what_is_refused_changes_nothing(any_app: Application, bob: User) -> None:
    """A wrong password, another balance, a frozen account, a teammate: each is refused, and he still signs in."""
    app, (posted_mt, _held_mt) = any_app, balance(any_app, bob)
    operator = sign_in.signed_in_user(
        app, sign_in.open_session(app, sign_in.sign_in(app, "operator@example.com", PASSWORD))
    )
    assert operator is not None
    with pytest.raises(errors.BadCredentialsError):
        closing.delete_account(app, bob, "wrong horse battery", forfeit_mt=posted_mt)
    with pytest.raises(errors.BalanceChangedError) as caught:
        closing.delete_account(app, bob, PASSWORD, forfeit_mt=posted_mt - 1)
    assert caught.value.details["available_mt"] == posted_mt
    corrections.freeze_account(app, operator, bob.account_id, frozen=True, reason="a dispute")
    with pytest.raises(errors.AccountNotActiveError):
        closing.delete_account(app, bob, PASSWORD, forfeit_mt=posted_mt)
    corrections.freeze_account(app, operator, bob.account_id, frozen=False, reason="settled")
    join(app, bob, "carl@example.com", "member")
    with pytest.raises(errors.TeamNotEmptyError):
        closing.delete_account(app, bob, PASSWORD, forfeit_mt=posted_mt)
    with pytest.raises(errors.LastOwnerError):
        closing.leave_account(app, bob, PASSWORD)
    assert sign_in.sign_in(app, "bob@example.com", PASSWORD)
    assert balance(app, bob) == (posted_mt, 0)


def test_not_while_a_run_holds_something(any_app: Application, bob: User) -> None:
    """With a picture that waits for a runner it is refused; once it was stopped, it goes."""
    files = helpers.pictures(1)
    posted_mt, _held_mt = balance(any_app, bob)
    job = helpers.submit(any_app, bob, helpers.quote(any_app, bob, files), files)
    with pytest.raises(errors.AccountBusyError):
        closing.delete_account(any_app, bob, PASSWORD, forfeit_mt=posted_mt)
    cancel_job(any_app, bob, job.id)
    closing.delete_account(any_app, bob, PASSWORD, forfeit_mt=posted_mt)
    assert left_mt(any_app, bob) == 0


def test_a_member_leaves(any_app: Application, bob: User, sign_up: Callable[..., User]) -> None:
    """His address and keys go, what he did keeps his number, and the account goes on."""
    carl, _ticket = join(any_app, bob, "carl@example.com", "member")
    secret = api_keys.create_key(any_app, carl, KeySettings(name="carl's")).secret
    assert closing.can_leave(any_app, carl)
    closing.leave_account(any_app, carl, PASSWORD)
    with pytest.raises(errors.NotSignedInError):
        api_keys.authenticate(any_app, secret, None)
    assert [one.email for one in team.list_members(any_app, bob)] == ["bob@example.com"]
    with any_app.db.read() as session:
        assert "carl@example.com" not in {user.email for user in session.exec(select(User)).all()}
    again = sign_up(any_app, "carl@example.com")
    assert balance(any_app, again) == (0, 0)


def test_a_closed_account_stays_closed(any_app: Application, bob: User) -> None:
    """The operator cannot let it spend again; money that comes late is still booked."""
    posted_mt, _held_mt = balance(any_app, bob)
    closing.delete_account(any_app, bob, PASSWORD, forfeit_mt=posted_mt)
    with any_app.db.read() as session:
        operator = session.exec(select(User).where(User.is_operator)).one()
    for frozen in (True, False):
        with pytest.raises(errors.AccountNotActiveError):
            corrections.freeze_account(any_app, operator, bob.account_id, frozen=frozen, reason="by mistake")
    corrections.adjust_balance(any_app, operator, bob.account_id, 1000, reason="late transfer", idempotency_key="late")
    assert balance(any_app, bob) == (1000, 0)


def test_twice_at_once(any_app: Application, bob: User) -> None:
    """Of four requests at once one deletes it; the balance is taken once."""
    posted_mt, _held_mt = balance(any_app, bob)
    outcomes: list[str] = []
    start = threading.Barrier(4)

    def one() -> None:
        start.wait()
        try:
            closing.delete_account(any_app, bob, PASSWORD, forfeit_mt=posted_mt)
            outcomes.append("deleted")
        except errors.VisionMeterError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("deleted") == 1, outcomes
    with any_app.db.read() as session:
        taken = [entry for entry in session.exec(select(Entry)).all() if entry.kind == "adjustment"]
    assert [entry.posted_change_mt for entry in taken] == [-posted_mt]
    assert balance(any_app, bob) == (0, 0)


def test_not_while_a_payment_is_open(open_app: OpenApp, database_url: str, sign_up: Callable[..., User]) -> None:
    """Money that is on its way would come to nobody: refused, and the payment stays; once it is cancelled he may go."""
    app = open_app(database_url=database_url, bank_transfer="Bank of Nowhere", currency="CNY")
    sign_up(app, "operator@example.com")
    bob = sign_up(app, "bob@example.com")
    posted_mt, _held_mt = balance(app, bob)
    payment = payments.open_payment(app, bob, "bank_transfer", 10_000, idempotency_key="one")
    with pytest.raises(errors.PaymentsOpenError):
        closing.delete_account(app, bob, PASSWORD, forfeit_mt=posted_mt)
    payments.cancel_payment(app, bob, payment.id)
    closing.delete_account(app, bob, PASSWORD, forfeit_mt=posted_mt)
    for late in (
        lambda: payments.open_payment(app, bob, "bank_transfer", 10_000, idempotency_key="two"),
        lambda: api_keys.create_key(app, bob, KeySettings(name="late")),
    ):
        with pytest.raises(errors.RoleNeededError):
            late()


def test_nobody_elses_account_knows_the_address(any_app: Application, bob: User) -> None:
    """Neither the invitation that he accepted, nor the name of the account that he opened and left to another."""
    carl, _token = join(any_app, bob, "carl@example.com", "owner")
    closing.leave_account(any_app, bob, PASSWORD)
    assert "bob@example.com" not in everything(any_app)
    assert "carl@example.com" in everything(any_app)
    closing.delete_account(any_app, carl, PASSWORD, forfeit_mt=balance(any_app, carl)[0])
    assert "carl@example.com" not in everything(any_app)


def test_pictures_that_cannot_be_removed_are_tried_again(
    any_app: Application, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that refuses: the account is not called purged, and the next round finds it."""
    any_app.blobs.put(bob.account_id, b"a picture")
    closing.delete_account(any_app, bob, PASSWORD, forfeit_mt=balance(any_app, bob)[0])
    with monkeypatch.context() as refused:
        refused.setattr("core.jobs.blobs.shutil.rmtree", lambda *_path, **_options: None)
        purge(any_app)
    with any_app.db.read() as session:
        assert session.get_one(Account, bob.account_id).purged_at is None
    purge(any_app)
    with any_app.db.read() as session:
        assert session.get_one(Account, bob.account_id).purged_at is not None
