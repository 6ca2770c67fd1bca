"""The charts' axes: pictures are whole, however few there are."""

from __future__ import annotations

import pytest

from ui import charts


@pytest.mark.parametrize(
    ("most", "marks"), [(1, (1, ",d")), (7, (1, ",d")), (8, (None, ",~s")), (12_000, (None, ",~s"))]
)
def test_a_few_pictures_are_marked_one_by_one(most: int, marks: tuple[int | None, str]) -> None:
    """No half picture and no "500m" of a new customer; thousands in short."""
    classes = charts.classes({"bus": most, "person": 1}, unit="objects").layout.xaxis
    outcomes = charts.outcomes({"charged": most}, {"charged": "charged"}, unit="pictures").layout.xaxis
    hours = charts.hours({(0, 9): most}, weekdays=["Mon"] * 7, unit="pictures", dark=False).data[0].colorbar
    assert [(axis.dtick, axis.tickformat) for axis in (classes, outcomes, hours)] == [marks] * 3
