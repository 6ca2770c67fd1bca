"""Whose message is sent next: accounts take turns, one message of each at a time, and who fails comes last."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlmodel import col, select

from core import errors
from core.db import Database, utcnow
from core.jobs import deliveries
from core.jobs.deliveries import ATTEMPTS_MAX, IN_HAND_MAX, SLOW, Attempt, claim_delivery, end_attempt
from core.jobs.tables import WebhookDelivery, WebhookTurn
from core.ledger import ledger
from tests.core.jobs.messages import add_messages, end_pauses

URL = "https://example.com/hook"


@pytest.fixture
def ann(db: Database) -> str:
    """An account."""
    return open_account(db, "Ann")


@pytest.fixture
def bob(db: Database) -> str:
    """Another one."""
    return open_account(db, "Bob")


def open_account(db: Database, name: str) -> str:
    """The id of a new account."""
    with db.write() as session:
        return ledger.open_account(session, name).id


def claim(db: Database, *, prompt_only: bool = False, later: timedelta = timedelta()) -> Attempt | None:
    """The next message that a sender gets, as `has_claimable_delivery` has said before."""
    now = utcnow() + later
    with db.read() as session:
        expected = deliveries.has_claimable_delivery(session, now, prompt_only=prompt_only)
    with db.write() as session:
        attempt = claim_delivery(session, now, prompt_only=prompt_only)
    assert (attempt is not None) == expected
    return attempt


def claim_of(db: Database, account_id: str, *, prompt_only: bool = False) -> Attempt:
    """The next message, which is one of this account."""
    attempt = claim(db, prompt_only=prompt_only)
    assert attempt is not None
    assert attempt.delivery.account_id == account_id
    return attempt


def end(db: Database, attempt: Attempt, status: int | None) -> str:
    """What an attempt came to."""
    with db.write() as session:
        return end_attempt(session, attempt, status)


def delivery_of(db: Database, delivery_id: str) -> WebhookDelivery:
    """A message as it is now."""
    with db.read() as session:
        return session.get_one(WebhookDelivery, delivery_id)


def failures(db: Database, account_id: str) -> int:
    """How often an account has failed since it was well."""
    with db.read() as session:
        return session.get_one(WebhookTurn, account_id).failures


def test_one_message_of_an_account_is_in_hand(db: Database, ann: str, bob: str) -> None:
    """However many are due, the second waits for the end of the first; another account's does not."""
    first, second = add_messages(db, ann, URL, 2)
    add_messages(db, bob, URL)
    taken = claim_of(db, ann)
    assert taken.delivery.id == first
    other = claim_of(db, bob)
    assert claim(db) is None
    assert end(db, taken, 204) == "delivered"
    assert claim_of(db, ann).delivery.id == second
    assert claim(db) is None
    end(db, other, 204)
    assert claim(db) is None


def test_who_fails_comes_last(db: Database, ann: str, bob: str) -> None:
    """Ann's older messages wait for Bob's once one of hers has failed, and no longer once one was delivered."""
    add_messages(db, ann, URL, 3)
    assert end(db, claim_of(db, ann), None) == "retried"
    add_messages(db, bob, URL)
    assert claim(db, prompt_only=True) is not None, "Bob's"
    end_pauses(db)
    end(db, claim_of(db, bob), 200)
    assert claim(db, prompt_only=True) is None
    assert end(db, claim_of(db, ann), 500) == "retried"
    assert failures(db, ann) == 2
    assert end(db, claim_of(db, ann), 200) == "delivered"
    assert failures(db, ann) == 0
    end_pauses(db)
    claim_of(db, ann, prompt_only=True)


def test_a_slow_receiver_is_no_prompt_one(db: Database, ann: str) -> None:
    """A 2xx that took long delivers, and the account comes last all the same."""
    add_messages(db, ann, URL, 2)
    attempt = claim(db, later=-SLOW - timedelta(milliseconds=1))
    assert attempt is None, "not due yet"
    end_pauses(db)
    attempt = claim(db, later=-SLOW - timedelta(milliseconds=1))
    assert attempt is not None
    assert end(db, attempt, 200) == "delivered"
    assert claim(db, prompt_only=True) is None
    assert failures(db, ann) == 1


def test_a_sender_that_died_gives_the_turn_back(db: Database, ann: str) -> None:
    """Its account waits for half a minute and no longer, and what the dead one says afterwards changes no turn."""
    add_messages(db, ann, URL, 2)
    dead = claim_of(db, ann)
    assert claim(db, later=IN_HAND_MAX - timedelta(seconds=1)) is None
    second = claim(db, later=IN_HAND_MAX + timedelta(seconds=1))
    assert second is not None
    end(db, dead, 500)
    with db.read() as session:
        assert session.get_one(WebhookTurn, ann).in_hand_until == second.begun_at + IN_HAND_MAX


def test_the_pause_begins_when_the_attempt_ends(db: Database, ann: str) -> None:
    """A receiver that hangs is not called again at once because the pause ran out meanwhile."""
    (message,) = add_messages(db, ann, URL)
    end_pauses(db)
    attempt = claim(db, later=-timedelta(seconds=10))
    assert attempt is not None
    end(db, attempt, None)
    assert delivery_of(db, message).next_attempt_at - utcnow() > deliveries.PAUSES[0] - timedelta(seconds=2)


def test_many_senders_at_once(db: Database) -> None:
    """Eight threads, three accounts, forty messages: never two of one account at a time, each message once."""
    accounts = [open_account(db, name) for name in ("a", "b", "c")]
    wanted = {one for number, account in enumerate(accounts) for one in add_messages(db, account, URL, 10 + 5 * number)}
    in_hand: set[str] = set()
    sent: list[str] = []
    guard = threading.Lock()

    def work() -> None:
        while len(sent) < len(wanted):
            with db.write() as session:
                attempt = claim_delivery(session, utcnow())
            if attempt is None:
                continue
            with guard:
                assert attempt.delivery.account_id not in in_hand
                in_hand.add(attempt.delivery.account_id)
                sent.append(attempt.delivery.id)
            with guard:
                in_hand.remove(attempt.delivery.account_id)
            with db.write() as session:
                end_attempt(session, attempt, 204)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work) for _ in range(8)]:
            future.result(60)
    assert len(sent) == len(wanted)
    assert set(sent) == wanted


def test_a_message_that_ended_is_reopened(db: Database, ann: str, bob: str) -> None:
    """Due at once under its id with all attempts before it; while it is open nothing changes; only its account may."""
    (message,) = add_messages(db, ann, URL)

    def reopen(account_id: str) -> bool:
        with db.write() as session:
            return deliveries.reopen_delivery(session, account_id, message)

    assert not reopen(ann), "it is on its way"
    end(db, claim_of(db, ann), 204)
    assert not reopen(bob)
    assert claim(db) is None
    assert reopen(ann)
    assert not reopen(ann)
    reopened = delivery_of(db, message)
    assert (reopened.status, reopened.attempts, reopened.delivered_at) == ("pending", 0, None)
    for number in range(ATTEMPTS_MAX):
        end_pauses(db)
        attempt = claim_of(db, ann)
        assert attempt.delivery.id == message
        assert end(db, attempt, 500) == ("given_up" if number == ATTEMPTS_MAX - 1 else "retried")
    assert reopen(ann)
    assert end(db, claim_of(db, ann), 200) == "delivered"


def test_the_list_is_newest_first_by_pages(db: Database, ann: str, bob: str) -> None:
    """Every message of the account once, in pages, also those of one status and of one moment."""
    made = add_messages(db, ann, URL, 7)
    add_messages(db, bob, URL, 2)
    moment = utcnow()
    with db.write() as session:
        for delivery in session.exec(select(WebhookDelivery).where(col(WebhookDelivery.id).in_(made))):
            delivery.created_at = moment
            delivery.delivered_at = moment if delivery.id in made[:2] else None
            delivery.given_up_at = moment if delivery.id == made[2] else None

    def pages(status: str | None) -> list[str]:
        found: list[str] = []
        before = None
        while True:
            with db.read() as session:
                page = deliveries.list_deliveries(session, ann, status=status, limit=2, before=before)
            assert all(status in (None, one.status) for one in page)
            found += [one.id for one in page]
            if len(page) < 2:
                return found
            before = (page[-1].created_at, page[-1].id)

    assert pages(None) == sorted(made, reverse=True)
    assert pages("delivered") == sorted(made[:2], reverse=True)
    assert pages("given_up") == [made[2]]
    assert pages("pending") == sorted(made[3:], reverse=True)
    with db.read() as session, pytest.raises(errors.DeliveryNotFoundError):
        deliveries.get_delivery(session, bob, made[0])
