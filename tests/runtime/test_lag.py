"""How far each partition is behind: stages put together, in numbers and on the display."""

import io
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from recsys.runtime.display import ProgressDisplay
from recsys.runtime.lag import furthest_behind, lag_by_partition, total_lag
from recsys.runtime.watching import Progress
from recsys.streams.unread import Lag


def joiner(lag: Mapping[int, Lag], emitted: Mapping[int, int]) -> dict[str, Any]:
    return {"counts": {}, "lag": lag, "emitted": emitted}


def test_each_partition_counts_what_is_not_joined_and_what_is_not_learned() -> None:
    joiners = [
        joiner({0: Lag(5, 2.0), 2: Lag(0, 0.0)}, {0: 100, 2: 50}),
        joiner({1: Lag(7, 0.5)}, {1: 10}),
    ]
    workers = [{"lag_seconds": {0: 1.0, 1: 4.0}}, {"lag_seconds": {2: 3.0}}]
    learned = {0: (9, 90), 1: (2, 4), 2: (6, 50)}
    found = lag_by_partition(joiners, workers, learned)
    # of partition 2 all is learned, which its worker has not told yet
    assert found == {0: Lag(15, 2.0), 1: Lag(13, 4.0), 2: Lag(0, 0.0)}
    assert total_lag(found) == Lag(28, 4.0)


def test_a_joiner_that_begins_again_owes_nothing_that_was_learned() -> None:
    assert lag_by_partition([joiner({0: Lag(3, 1.0)}, {0: 80})], [], {0: (9, 90)}) == {0: Lag(3, 1.0)}


def test_the_display_names_the_partitions_that_wait_longest() -> None:
    lag = {index: Lag(10 * index, 0.5 * index) for index in range(12)}
    assert furthest_behind(lag, most=2) == "11: 110 (5.5 s), 10: 100 (5.0 s)"
    progress = Progress(
        seconds=1.0,
        events=2,
        examples=1,
        events_per_second=2.0,
        lag={0: Lag(3, 0.5), 1: Lag(4000, 2.25), 2: Lag(0, 0.0)},
        auc=0.5,
        calibration=1.0,
        rows=1,
        bytes=1,
        publications=0,
        last_sync_seconds_ago=0.0,
    )
    told = io.StringIO()
    with ProgressDisplay(Console(file=told, width=200), "learning") as display:
        display(progress)
    assert "lag 4,003  lag of partitions 1: 4,000 (2.2 s), 0: 3 (0.5 s)  progressive" in told.getvalue()
