"""Ratings become impressions and likes, each at a millisecond of its own.

Order in a replay must not depend on how many partitions or workers there are, so no two impressions or
actions share a time: impressions fall on even milliseconds, actions on odd ones, and ratings of the same
second are spread over successive even milliseconds in file order.

Shape suffixes: N ratings or events, in event-time order.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys.hashing import hash_string, hash_to_range, seed_of

LIKE_KIND = "like"
LIKE_THRESHOLD = 4.0  # a rating of 4 stars and more is a like, as is usual for MovieLens
# A like follows its impression after 1.001 s to 9.999 s (odd milliseconds, by a hash of the request id).
_MIN_DELAY_MS, _NUM_DELAYS = 1_001, 4_500
_DELAY_SEED = seed_of("like", "delay")

Times = npt.NDArray[np.int64]


def spread(slots_N: Times) -> Times:
    """Ascending slots made strictly ascending: each is the smallest that is neither before its own nor taken.

    >>> spread(np.array([5, 5, 5, 6, 9])).tolist()
    [5, 6, 7, 8, 9]
    """
    rank_N = np.arange(len(slots_N))
    return np.maximum.accumulate(slots_N - rank_N) + rank_N


def impressions_and_actions(ratings: pa.Table, name: str) -> tuple[pa.Table, pa.Table]:
    """One impression per rating at its second, and a like for each rating of LIKE_THRESHOLD and more.

    ``ratings`` has the columns of ``raw.RATING_TYPES``. Both tables ascend in ``time_ms``; the request id of
    an impression is its data set's name and its row in that order.
    """
    order_N = np.argsort(ratings["timestamp"].to_numpy(), kind="stable")
    ratings = ratings.take(pa.array(order_N)).combine_chunks()
    time_ms_N = spread(ratings["timestamp"].to_numpy() * 500) * 2
    rows = pa.array(np.arange(len(order_N))).cast(pa.string())
    impressions = pa.table(
        {
            "request_id": pc.binary_join_element_wise(name, rows, "-"),
            "user_id": ratings["user_id"],
            "item_id": ratings["item_id"],
            "time_ms": pa.array(time_ms_N),
        }
    )
    return impressions, _likes(impressions.filter(pc.greater_equal(ratings["rating"], LIKE_THRESHOLD)))


def _likes(liked: pa.Table) -> pa.Table:
    ids_N = np.array([hash_string(request_id) for request_id in liked["request_id"].to_pylist()], dtype=np.int64)
    delay_ms_N = _MIN_DELAY_MS + 2 * hash_to_range(ids_N, _NUM_DELAYS, _DELAY_SEED)
    time_ms_N = liked["time_ms"].to_numpy() + delay_ms_N
    order_N = np.argsort(time_ms_N, kind="stable")
    in_order = liked.take(pa.array(order_N))
    return pa.table(
        {
            "request_id": in_order["request_id"],
            "user_id": in_order["user_id"],
            "kind": pa.array([LIKE_KIND] * len(order_N), pa.string()),
            "time_ms": pa.array(spread((time_ms_N[order_N] - 1) // 2) * 2 + 1),
        }
    )


def with_time(facts: pa.Table, time_ms: int) -> pa.Table:
    """Facts known from ``time_ms`` on: that column goes in behind the id."""
    return facts.add_column(1, "time_ms", pa.array(np.full(facts.num_rows, time_ms, dtype=np.int64)))
