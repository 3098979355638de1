from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from recsys.datasets.timeline import impressions_and_actions, spread

# As first written: a change here changes every prepared folder, and needs a new FORMAT.
DELAY_OF_X0_MS, DELAY_OF_X1_MS = 5_693, 9_891


def spread_by_loop(slots: list[int]) -> list[int]:
    taken: list[int] = []
    for slot in slots:
        taken.append(max(slot, taken[-1] + 1) if taken else slot)
    return taken


@given(st.lists(st.integers(0, 40)).map(sorted))
def test_spread_equals_the_loop(slots):
    assert spread(np.array(slots, dtype=np.int64)).tolist() == spread_by_loop(slots)


@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from([0.5, 3.5, 4.0, 5.0])), min_size=1, max_size=60))
def test_times_are_distinct_and_likes_follow_within_ten_seconds(seconds_and_ratings):
    seconds, ratings = (list(column) for column in zip(*seconds_and_ratings, strict=True))
    n = len(seconds)
    table = {"user_id": range(n), "item_id": range(n), "rating": ratings, "timestamp": seconds}
    impressions, actions = impressions_and_actions(pa.table({k: list(v) for k, v in table.items()}), "x")

    shown_ms, liked_ms = impressions["time_ms"].to_pylist(), actions["time_ms"].to_pylist()
    assert impressions["request_id"].to_pylist() == [f"x-{row}" for row in range(n)]
    # File order within a second, and never before the second that was rated in.
    assert impressions["user_id"].to_pylist() == sorted(range(n), key=lambda row: seconds[row])
    assert all(time % 2 == 0 and time >= 1000 * s for time, s in zip(shown_ms, sorted(seconds), strict=True))
    assert all(time % 2 == 1 for time in liked_ms)
    for times in (shown_ms, liked_ms):
        assert all(a < b for a, b in pairwise(times))

    users = impressions["user_id"].to_pylist()
    shown_at = dict(zip(impressions["request_id"].to_pylist(), shown_ms, strict=True))
    assert set(actions["request_id"].to_pylist()) == {f"x-{row}" for row in range(n) if ratings[users[row]] >= 4}
    for request_id, time_ms in zip(actions["request_id"].to_pylist(), liked_ms, strict=True):
        assert 1_000 < time_ms - shown_at[request_id] < 10_000 + 2 * n


def test_the_delay_of_a_like_is_a_function_of_its_request_id():
    table = pa.table({"user_id": [1, 2], "item_id": [1, 2], "rating": [5.0, 5.0], "timestamp": [100, 200]})
    _, actions = impressions_and_actions(table, "x")
    assert actions["time_ms"].to_pylist() == [100_000 + DELAY_OF_X0_MS, 200_000 + DELAY_OF_X1_MS]
