"""How far each partition of a run is behind, from what joiners and workers say of their parts of the way."""

from collections.abc import Mapping, Sequence
from typing import Any

from recsys.rows.store import StreamPosition
from recsys.streams.unread import Lag


def lag_by_partition(
    joiners: Sequence[Mapping[str, Any]], workers: Sequence[Mapping[str, Any]], learned: StreamPosition
) -> dict[int, Lag]:
    """Events that are not joined and examples that are not learned; the seconds are those of the stage further behind.

    An event's whole way is behind by at most the sum of the two. Joiners that begin again at a checkpoint may have
    emitted less than was learned.
    """
    waits = {index: seconds for look in workers for index, seconds in look["lag_seconds"].items()}
    lag = {}
    for look in joiners:
        for index, unjoined in look["lag"].items():
            _, next_example = learned.get(index, (0, 0))
            unlearned = max(0, look["emitted"][index] - next_example)
            lag[index] = unjoined + Lag(unlearned, waits.get(index, 0.0) if unlearned else 0.0)
    return dict(sorted(lag.items()))


def total_lag(lag: Mapping[int, Lag]) -> Lag:
    """All that waits, and the longest wait.

    >>> total_lag({0: Lag(3, 0.5), 1: Lag(2, 2.0)})
    Lag(events=5, seconds=2.0)
    """
    return sum(lag.values(), Lag(0, 0.0))


def furthest_behind(lag: Mapping[int, Lag], most: int = 8) -> str:
    """The partitions that wait longest, in words.

    >>> furthest_behind({0: Lag(3, 0.5), 1: Lag(0, 0.0), 2: Lag(1200, 2.0)})
    '2: 1,200 (2.0 s), 0: 3 (0.5 s)'
    """
    behind = sorted(lag, key=lambda index: (lag[index].seconds, lag[index].events), reverse=True)
    shown = [index for index in behind if lag[index].events][:most]
    return ", ".join(f"{index}: {lag[index].events:,} ({lag[index].seconds:.1f} s)" for index in shown)
