"""Many requests for a run at the same moment, on a gateway of its own."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.core.services.helpers import pictures
from tests.gateway.calls import blocked_model, open_gateway

if TYPE_CHECKING:
    from pathlib import Path

    from core.inference.engine import Engine


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_many_runs_at_the_same_moment(
    kind: str, tmp_path_factory: pytest.TempPathFactory, weights_dir: Path, engine: Engine
) -> None:
    """Of sixteen requests that come at once, with and without a quote, no more get through than may be unfinished."""
    folder = tmp_path_factory.mktemp("at-once")
    with open_gateway(kind, folder, weights_dir, engine, rate_jobs_concurrent=3, engine_queue_max=64) as served:
        customer = served.customer()
        quoted = [customer.run("/quotes", pictures(1, seed=70 + number)).json()["id"] for number in range(8)]
        with blocked_model(), ThreadPoolExecutor(16) as pool:
            sent = [pool.submit(customer.run, "/jobs", pictures(1, seed=80 + number)) for number in range(8)]
            sent += [pool.submit(customer.post, "/jobs", json={"quote_id": quote_id}) for quote_id in quoted]
            answers = [one.result(60) for one in sent]
            statuses = Counter(answer.status_code for answer in answers)
            assert statuses == {202: 3, 429: 13}, statuses
            refused = {answer.json()["limit"] for answer in answers if answer.status_code == 429}
            assert refused == {"jobs_concurrent"}
            assert customer.balance() == (20.0, 0.75)
        for answer in answers:
            if answer.status_code == 202:
                customer.wait(answer.json()["id"])
        assert customer.balance() == (19.25, 0.0)
