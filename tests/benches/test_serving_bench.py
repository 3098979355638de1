"""The benchmark of serving runs in its small form: numbers come out, whatever they are."""

import math
from pathlib import Path

import pytest

from benches.serving_data import films
from benches.serving_ranking import rankings
from benches.serving_reading import compact_lookups, feast, lookups
from benches.serving_runs import QUICK, Served
from recsys.embedded.redis import EmbeddedRedis
from recsys.embedded.redis_url import open_client


def test_every_measure_of_reading_gives_numbers(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with EmbeddedRedis(tmp_path) as redis:
        served = Served(redis, films(QUICK.rows, QUICK.items, num_users=20), QUICK)
        with open_client(redis.url) as client:
            served.films.serve(client, "fast")
            served.films.serve(client, "half", row_format="float16")
        found = [*lookups(served), *rankings(served), *compact_lookups(served), *feast(served)]
    named = {result.measure for result in found}
    assert {"rank 500 candidates, p99", "Lookup, 1000 ids a call, compact float16, over TCP"} <= named
    assert all(math.isfinite(result.ours) and result.ours >= 0 for result in found)
    assert [result.note for result in found if result.peer_value is None and result.peer] == [
        "not measured: it is not installed"
    ]
    shares = [result.ours for result in found if result.measure.startswith("of which")]
    assert len(shares) == 8 and sum(shares) == pytest.approx(200)
