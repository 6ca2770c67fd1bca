"""What is drawn once is drawn anew as soon as anything that it depends on differs."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from core.usage.queries import Selection
from ui.usage_figures import Edition
from ui.usage_view import Span, View

DAY, MOMENT = date(2026, 7, 31), datetime(2026, 7, 31, tzinfo=UTC)
VIEW = View(
    span=Span(DAY, DAY, DAY, DAY),
    start=MOMENT,
    end=MOMENT,
    before=(MOMENT, MOMENT),
    which=Selection(models=["yolov8n"], all_models=["yolov8n", "yolov8s"]),
    by="model",
)
EDITION = Edition("acct_1", "1", VIEW, (("user_1", "ann@example.com"),), ZoneInfo("Asia/Shanghai"), "en", False)
OTHER: dict[str, Any] = {
    "account_id": "acct_2",
    "version": "2",
    "view": replace(VIEW, which=Selection(models=["yolov8s"], all_models=["yolov8n", "yolov8s"])),
    "callers": (("user_1", "anna@example.com"),),
    "zone": UTC,
    "language": "zh_CN",
    "dark": True,
}
OTHER_VIEW: dict[str, Any] = {
    "span": Span(DAY, DAY, DAY, DAY.replace(day=1)),
    "start": MOMENT.replace(hour=1),
    "end": MOMENT.replace(hour=1),
    "before": (MOMENT, MOMENT.replace(hour=1)),
    "which": Selection(outcomes=["free"]),
    "by": "actor",
}


@pytest.mark.parametrize("name", [field.name for field in fields(Edition)])
def test_every_field_is_part_of_the_key(name: str) -> None:
    """Two editions that differ in one field are two keys."""
    assert repr(replace(EDITION, **{name: OTHER[name]})) != repr(EDITION)


@pytest.mark.parametrize("name", [field.name for field in fields(View)])
def test_every_field_of_the_view_is_too(name: str) -> None:
    """So are two views."""
    assert repr(replace(EDITION, view=replace(VIEW, **{name: OTHER_VIEW[name]}))) != repr(EDITION)
