"""One key, one effect, the same answer."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.db import Database
from core.errors import IdempotencyConflictError
from core.ledger import ledger
from core.ledger.idempotency import begin_idempotent, complete_idempotent, hash_request


@pytest.fixture
def account_id(db: Database) -> str:
    """An empty account."""
    with db.write() as session:
        return ledger.open_account(session, "Ann").id


def top_up_once(db: Database, account_id: str, key: str, amount_mt: int, operation: str = "top_up") -> dict[str, int]:
    """A top-up under an idempotency key."""
    with db.write() as session:
        answer = begin_idempotent(session, account_id, operation, key, {"amount_mt": amount_mt})
        if answer is None:
            entry = ledger.post_top_up(session, account_id, amount_mt, source="house:test", actor="test")
            answer = {"posted_after_mt": entry.posted_after_mt}
            complete_idempotent(session, account_id, operation, key, answer)
    return answer


def posted(db: Database, account_id: str) -> int:
    """The posted balance."""
    with db.read() as session:
        return ledger.get_balance(session, account_id).posted_mt


def test_same_request_gives_the_same_answer_once(db: Database, account_id: str) -> None:
    """A retry repeats the first answer, also when the balance moved on, and has no effect."""
    first = top_up_once(db, account_id, "key", 1000)
    top_up_once(db, account_id, "other", 500)
    assert top_up_once(db, account_id, "key", 1000) == first == {"posted_after_mt": 1000}
    assert posted(db, account_id) == 1500


def test_same_key_for_another_request_is_refused(db: Database, account_id: str) -> None:
    """Another amount under the same key is a conflict and credits nothing."""
    top_up_once(db, account_id, "key", 1000)
    with pytest.raises(IdempotencyConflictError) as caught:
        top_up_once(db, account_id, "key", 1001)
    assert caught.value.details == {"key": "key"}
    assert posted(db, account_id) == 1000


def test_key_belongs_to_account_and_operation(db: Database, account_id: str) -> None:
    """The same key in another account or for another operation is another key."""
    with db.write() as session:
        other = ledger.open_account(session, "Bob").id
    for owner, operation in ((account_id, "top_up"), (account_id, "gift"), (other, "top_up")):
        top_up_once(db, owner, "key", 1000, operation)
    assert (posted(db, account_id), posted(db, other)) == (2000, 1000)


def test_failed_effect_frees_the_key(db: Database, account_id: str) -> None:
    """When the effect fails the key goes with it, so the retry is a first try."""
    with pytest.raises(ledger.InvalidAmountError):
        top_up_once(db, account_id, "key", 0)
    with pytest.raises(ledger.InvalidAmountError):
        top_up_once(db, account_id, "key", 0)
    assert top_up_once(db, account_id, "key", 7) == {"posted_after_mt": 7}


def test_racing_retries_have_one_effect(db: Database, account_id: str) -> None:
    """Eight threads with one key: one credit, eight equal answers."""
    barrier = threading.Barrier(8)

    def client(_number: int) -> dict[str, int]:
        barrier.wait()
        return top_up_once(db, account_id, "key", 1000)

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(client, range(8)))
    assert answers == [{"posted_after_mt": 1000}] * 8
    assert posted(db, account_id) == 1000


def test_hash_ignores_the_order_of_fields() -> None:
    """The request's hash is that of its content."""
    assert hash_request({"a": 1, "b": [2, 3]}) == hash_request({"b": [2, 3], "a": 1})
    assert hash_request({"a": 1}) != hash_request({"a": "1"})
