"""What pages and keeper ask all the time is answered from an index, however long the history is.

SQLite plans without statistics, so its plans are the same on an empty ledger as on one of ten million entries;
`bench/ledger_growth.py` measures those, and PostgreSQL's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import event

from core.config import Settings
from core.db import Database, utcnow
from core.identity.tables import User
from core.jobs import deliveries, jobs
from core.jobs.results import count_free_repeats, find_results, list_free_repeats
from core.jobs.turns import Turns
from core.ledger import ledger, roll_up, seal
from core.pricing.receipts import Cursor, ReceiptFilter
from core.pricing.unrun import sum_stored
from core.services import (
    account_view,
    corrections,
    limits,
    receipts,
    retention,
    statement,
    usage_details,
    usage_report,
    webhooks,
)
from core.services.application import Application
from core.usage.queries import Selection
from tests.core.jobs.messages import add_messages

GROWING = {"entry", "entry_slot", "hold", "job", "job_image", "quote", "receipt", "result", "seal", "usage_record",
           "usage_slot", "usage_caller_slot", "usage_given_back_slot",
           "usage_latency_slot", "usage_class_slot", "webhook_delivery"}  # fmt: skip
START, END = datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC)
USER = User(account_id="acct", is_operator=True)
MAY = ReceiptFilter("", START, END)
SOME_MODELS = Selection(models=["a", "b"])
SOME = Selection(["a", "b"], ["key_1"], ["charged", "failed"])
KINDS = ("top_up", "bonus", "capture", "refund", "adjustment")

Ask = Callable[[Application, Any], object]
QUESTIONS: dict[str, Ask] = {
    "balance": lambda app, _session: limits.find_low_balance(app, USER),
    "open images": lambda app, _session: account_view.count_open_images(app, USER),
    "usage": lambda app, _session: usage_report.report_usage(app, USER, START, END, zone=UTC, which=SOME_MODELS),
    "used models": lambda app, _session: usage_report.used_models(app, USER),
    "usage by key": lambda app, _session: usage_report.report_callers(app, USER, START, END, which=SOME_MODELS),
    "usage as CSV": lambda app, _session: list(usage_report.records_csv(app, USER, START, END)),
    "usage by day and key": lambda app, _session: usage_report.report_usage(
        app, USER, START, END, zone=UTC, which=SOME, by="actor"
    ),
    "usage: details": lambda app, _session: usage_details.report_details(app, USER, START, END, zone=UTC, which=SOME),
    "usage: returns": lambda app, _session: usage_details.report_returns(app, USER, START, END, zone=UTC, which=SOME),
    "usage of the month": lambda app, _session: usage_details.report_month(app, USER, which=SOME),
    "transactions": lambda app, _session: account_view.list_transactions(app, USER, kinds=KINDS, limit=9),
    "top-ups": lambda app, _session: account_view.list_transactions(app, USER, kinds=["top_up"], before_seq=9),
    "transactions of May": lambda app, _session: account_view.list_transactions(app, USER, since=START, until=END),
    "receipts": lambda app, _session: receipts.list_receipts(app, USER, MAY, after=Cursor(END, "rcpt_1")),
    "receipt by number": lambda app, _session: receipts.list_receipts(app, USER, ReceiptFilter("rcpt_0123")),
    "receipts by name": lambda app, _session: receipts.list_receipts(app, USER, ReceiptFilter("line", START, END)),
    "who caused charges": lambda _app, session: ledger.find_actors(session, "acct", [1, 2, 3]),
    "runs": lambda app, _session: account_view.list_jobs(app, USER),
    "progress": lambda _app, session: jobs.get_progress(session, "job"),
    "free repeats": lambda _app, session: list_free_repeats(session, "acct", "key", limit=9),
    "count of free repeats": lambda _app, session: count_free_repeats(session, "acct", "key"),
    "pictures that wait for quotes": lambda _app, session: sum_stored(session, "acct"),
    "quotes that go": lambda _app, session: retention._remove(session, utcnow()),
    "results of a quote": lambda _app, session: find_results(session, "acct", ["a", "b"]),
    "work under way": lambda _app, session: ledger.find_taken_keys(session, "acct", ["a", "b"]),
    "statement": lambda app, session: statement.build_statement(app, USER, 2026, 5, zone=UTC),
    "months": lambda app, _session: statement.statement_months(app, USER, zone=UTC),
    "charges": lambda app, _session: corrections.list_charges(app, USER, "acct", before_seq=9),
    "charge by number": lambda app, _session: corrections.list_charges(app, USER, "acct", reference="rcpt_0123"),
    "due holds": lambda _app, session: [ledger.due_accounts(session, utcnow()), ledger.expire_holds(session, "acct")],
    "lapsed jobs": lambda _app, session: jobs.lapsed_jobs(session, utcnow()),
    "work to do": lambda _app, session: [jobs.has_work(session, "me"), jobs.has_queued_jobs(session)],
    "next image": lambda _app, session: jobs.claim_image(session, "me", Turns(8)),
    "own jobs": lambda _app, session: [jobs.running_jobs(session, "me"), jobs.renew_jobs(session, "me", lease_s=9)],
    "lost images": lambda _app, session: jobs.images_started_before(session, "me", utcnow() - timedelta(hours=1)),
    "unsealed": lambda _app, session: [seal.unsealed_accounts(session), seal.get_head(session, "acct")],
    "webhooks": lambda app, _session: webhooks.list_deliveries(app, USER, limit=9, before=(END, "msg_1")),
    "webhooks pending": lambda app, _session: webhooks.list_deliveries(app, USER, status="pending", limit=9),
    "webhooks given up": lambda app, _session: webhooks.list_deliveries(app, USER, status="given_up", limit=9),
    "whose turn": lambda _app, session: deliveries.has_claimable_delivery(session, utcnow(), prompt_only=True),
    "next webhook": lambda _app, session: deliveries.claim_delivery(session, utcnow()),
    "not summed": lambda _app, session: [roll_up.behind_accounts(session), roll_up.roll_up_entries(session, "acct")],
}
# Where SQLite has a choice between two indexes and would take the one through all that the account ever did.
MUST_USE = {
    "top-ups": "ix_entry_not_usage (account_id=? AND seq<?)",
    "free repeats": "ix_job_image_charge_key (charge_key=? AND status=?)",
    "count of free repeats": "ix_job_image_charge_key (charge_key=? AND status=?)",
    "pictures that wait for quotes": "COVERING INDEX ix_quote_stored (account_id=?)",
    "quotes that go": "ix_quote_unrun (expires_at<?)",
    "work under way": "uq_hold_charge_key (account_id=? AND charge_key=?)",
    "charge by number": "ix_entry_hold_id (hold_id=?)",
    "receipts by name": "COVERING INDEX ix_receipt_account (account_id=? AND created_at>? AND created_at<?)",
    "usage": "PRIMARY KEY (account_id=? AND model=? AND slot>? AND slot<?)",
    "usage by key": "PRIMARY KEY (account_id=? AND actor=? AND model=? AND slot>? AND slot<?)",
    "usage by day and key": "PRIMARY KEY (account_id=? AND actor=? AND model=? AND slot>? AND slot<?)",
    "usage: details": "usage_class_slot USING PRIMARY KEY (account_id=? AND actor=? AND model=? AND slot>?",
    "usage: returns": "ix_entry_not_usage_created (account_id=? AND created_at>? AND created_at<?)",
    "who caused charges": "(account_id=? AND seq=?)",
    "webhooks": "ix_webhook_account (account_id=? AND created_at<?)",
    "webhooks pending": "ix_webhook_pending (account_id=?)",
    "webhooks given up": "ix_webhook_given_up (account_id=?)",
    "whose turn": "ix_webhook_turn (account_id=?",
    "next webhook": "ix_webhook_turn (account_id=? AND next_attempt_at<?)",
}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """An application with an account, of which only the database is used."""
    db = Database(f"sqlite:///{Path(tmp_path_factory.mktemp('plans')) / 'ledger.db'}")
    db.migrate()
    with db.write() as session:
        ledger.open_account(session, "Ann").id = "acct"
    # Of the queries that claim a webhook, the second asks for what the first has found.
    add_messages(db, "acct", "https://example.com/hook")
    yield Application(Settings(_env_file=None), db, *(SimpleNamespace() for _part in range(5)))
    db.close()


def plans_of(app: Application, ask: Ask) -> list[str]:
    """The plan of every query of a question, line by line."""
    plans: list[str] = []

    def explain(_connection: Any, cursor: Any, query: str, parameters: Any, *_: Any) -> None:
        if query.startswith(("SELECT", "UPDATE", "INSERT", "DELETE")):
            rows = cursor.connection.execute(f"EXPLAIN QUERY PLAN {query}", parameters)
            plans.extend(row[3] for row in rows)

    event.listen(app.db.engine, "before_cursor_execute", explain)
    try:
        with app.db.write() as session:
            ask(app, session)
    finally:
        event.remove(app.db.engine, "before_cursor_execute", explain)
    return plans


@pytest.mark.parametrize("question", QUESTIONS)
def test_nothing_is_looked_through(app: Application, question: str) -> None:
    """No table that grows with history is scanned, and the index is the one that leads straight there."""
    plans = plans_of(app, QUESTIONS[question])
    assert plans, "no query was seen"
    scanned = {line.split()[1] for line in plans if line.startswith("SCAN")}
    assert not scanned & GROWING, plans
    if question in MUST_USE:
        assert any(MUST_USE[question] in line for line in plans), plans


def test_the_questions_would_be_convicted(app: Application) -> None:
    """A query that says its condition in other words than the partial index is seen to scan."""
    plans = plans_of(app, lambda _app, session: session.connection().exec_driver_sql(
        "SELECT id FROM hold WHERE account_id = 'acct' AND status IN ('held', 'captured', 'x')"))  # fmt: skip
    assert plans == ["SCAN hold"]
