"""Two runs beside one another: only one's own, only the pictures that both have."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from core import errors
from core.identity.tables import User
from core.services.application import Application
from core.services.job_runner import JobRunner
from core.services.run_comparison import compare_runs, list_comparable
from tests.core.services.helpers import balance, pictures, run


def test_runs_are_compared_picture_by_picture(
    any_app: Application,
    sign_up: Callable[..., User],
    start_runner: Callable[[Application], JobRunner],
    photo_bytes: dict[str, bytes],
) -> None:
    """Two sizes of two photographs, one of them among other pictures under another name: both results, for nothing."""
    start_runner(any_app)
    ann, bob = sign_up(any_app), sign_up(any_app, "bob@example.com")
    first = run(any_app, ann, photo_bytes, img_size=320)
    second = run(any_app, ann, {**pictures(2), "other name.jpg": photo_bytes["bus.jpg"]}, img_size=640)
    same = run(any_app, ann, {"bus.jpg": photo_bytes["bus.jpg"]}, img_size=320)
    strange = run(any_app, ann, pictures(1, seed=9))
    foreign = run(any_app, bob, photo_bytes, img_size=640)
    before = balance(any_app, ann)

    assert [(one.job.id, one.pictures) for one in list_comparable(any_app, ann, first.job.id)] == [(second.job.id, 1)]
    assert {one.job.id for one in list_comparable(any_app, ann, second.job.id)} == {first.job.id, same.job.id}
    comparison = compare_runs(any_app, ann, first.job.id, second.job.id)
    (pair,) = comparison.pairs
    assert (pair.first.image.name, pair.second.image.name) == ("bus.jpg", "other name.jpg")
    assert (pair.first.image.amount_mt, pair.second.image.amount_mt) == (200, 750)
    assert len(pair.second.detections.filter(confidence_min=0.25)) >= 4
    assert compare_runs(any_app, ann, first.job.id, strange.job.id).pairs == []
    assert balance(any_app, ann) == before

    for one, other in ((first, foreign), (foreign, first)):
        with pytest.raises(errors.JobNotFoundError):
            compare_runs(any_app, ann, one.job.id, other.job.id)
    with pytest.raises(errors.JobNotFoundError):
        list_comparable(any_app, ann, foreign.job.id)
    assert list_comparable(any_app, bob, foreign.job.id) == []
