"""What came back, told apart: held and never taken, or taken and refunded; and the month against its cap."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from core.db import utcnow
from core.identity.tables import User
from core.services import corrections, limits, usage_details, usage_report
from core.services.application import Application
from core.services.job_runner import JobRunner, cancel_job
from core.services.metered_detection import billing_day
from core.usage.queries import Selection
from core.usage.records import add_record
from core.usage.tables import UsageRecord
from tests.core.services.helpers import MODEL, pictures, quote, run, submit, wait

Start = Callable[[Application], JobRunner]


def period() -> tuple[datetime, datetime]:
    """Yesterday to tomorrow, in UTC."""
    today = utcnow().astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return today - timedelta(days=1), today + timedelta(days=2)


def test_given_back_and_refunded_are_two_things(
    app: Application, sign_up: Callable[..., User], start_runner: Start
) -> None:
    """A cancelled run gives back what was held; a refund what was taken; each only where the selection has it."""
    ann, ben = sign_up(app), sign_up(app, email="ben@example.com")
    cancelled = pictures(3)
    job = submit(app, ann, quote(app, ann, cancelled), cancelled)
    assert cancel_job(app, ann, job.id) == 750
    start_runner(app)
    wait(app, ann, job)
    view = run(app, ann, pictures(2, seed=2))
    hold_id = view.images[0].hold_id
    assert hold_id is not None
    corrections.refund_charge(app, ann, hold_id, 100, reason="blurred", idempotency_key="one")

    def returned(user: User, which: Selection) -> tuple[int, int]:
        found = usage_details.report_returns(app, user, *period(), zone=UTC, which=which)
        return found.given_back_by_day.total(), sum(found.refunded_mt.values())

    assert returned(ann, Selection()) == (750, 100)
    assert returned(ann, Selection(models=[MODEL], actors=[ann.id])) == (750, 100)
    assert returned(ann, Selection(outcomes=["charged"])) == (0, 100)
    assert returned(ann, Selection(outcomes=["cancelled", "failed"])) == (750, 0)
    assert returned(ann, Selection(models=["yolov8x"])) == (0, 0)
    assert returned(ann, Selection(actors=[ben.id])) == (0, 0)
    assert returned(ben, Selection()) == (0, 0)
    details = usage_details.report_details(app, ann, *period(), zone=UTC)
    assert sum(details.hours.values()) == 5
    assert sum(one.images for one in details.latencies.values()) == 2
    rows = "".join(usage_report.records_csv(app, ann, *period(), which=Selection(outcomes=["cancelled"]))).splitlines()
    assert len(rows) == 4
    assert all(f"0.250,{ann.email},{ann.id}" in row for row in rows[1:])


def test_the_month_stands_against_the_cap(app: Application, sign_up: Callable[..., User], start_runner: Start) -> None:
    """The month's usage adds up to what the cap has counted; a first day is too little for a forecast."""
    ann = sign_up(app)
    limits.set_limits(app, ann, day_cap_mt=None, month_cap_mt=9000, alert_below_mt=None)
    start_runner(app)
    run(app, ann, pictures(2))
    month = usage_details.report_month(app, ann)
    assert sum(month.daily_mt.values()) == limits.get_limits(app, ann).month_spent_mt == 500
    assert (month.cap_mt, month.forecast, month.days[-1]) == (9000, None, month.today)
    assert usage_details.report_month(app, ann, which=Selection(models=[])).daily_mt == {}


def test_a_version_stands_for_what_the_page_shows(
    app: Application, sign_up: Callable[..., User], start_runner: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every image, whatever its outcome, every entry, the cap and a day make a new version; nothing else does."""
    ann, ben = sign_up(app), sign_up(app, email="ben@example.com")
    start_runner(app)
    seen: list[str] = []

    def version() -> str:
        return usage_report.report_version(app, ann, usage_report.used_models(app, ann))

    def is_new() -> bool:
        found = version()
        assert found == version()
        seen.append(found)
        return found not in seen[:-1]

    assert is_new()
    view = run(app, ann, pictures(1))
    assert is_new()
    hold_id = view.images[0].hold_id
    assert hold_id is not None
    run(app, ann, pictures(1))  # free: the same picture again
    assert is_new()
    run(app, ben, pictures(1))
    assert not is_new()
    corrections.refund_charge(app, ann, hold_id, 100, reason="blurred", idempotency_key="one")
    assert is_new()
    limits.set_limits(app, ann, day_cap_mt=None, month_cap_mt=9000, alert_below_mt=None)
    assert is_new()
    with app.db.write() as session:
        add_record(
            session,
            UsageRecord(
                account_id=ann.account_id, actor=ann.id, model=MODEL, model_version="v", img_size=640,
                input_height=640, input_width=640, amount_mt=0, outcome="failed",
            ),
        )  # fmt: skip
    assert is_new()
    tomorrow = billing_day(app) + timedelta(days=1)
    monkeypatch.setattr(usage_report, "billing_day", lambda _app: tomorrow)
    assert is_new()
    noon = utcnow() + timedelta(days=1)
    monkeypatch.setattr(usage_report, "utcnow", lambda: noon)
    assert is_new()
