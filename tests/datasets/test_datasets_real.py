"""Both real data sets, where RECSYS_DATA has them, against plain Python over the same files."""

import csv
import math
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from recsys.datasets.audit import audit
from recsys.datasets.prepare import prepare
from recsys.datasets.prepared import open_prepared
from recsys.datasets.replay import replay_events

COUNTS = {"ml100k": (100_000, 943, 1_682, "1998"), "ml_latest_small": (100_004, 671, 9_125, "2016")}


@pytest.fixture(scope="module", params=list(COUNTS))
def prepared(request, real_data_folder, tmp_path_factory):
    into = tmp_path_factory.mktemp("prepared") / request.param
    prepare(request.param, into, data_folder=real_data_folder, download=None)
    return open_prepared(into, request.param)


def ratings_of(name, folder) -> list[tuple[int, int, float, int]]:
    if name == "ml100k" and (folder / "ml100k" / "ratings.parquet").exists():
        return [tuple(row.values()) for row in pq.read_table(folder / "ml100k" / "ratings.parquet").to_pylist()]
    for path in (folder / "ml_latest_small_2016" / "ratings.csv",):
        if name == "ml_latest_small" and path.exists():
            with path.open(encoding="utf-8", newline="") as file:
                lines = list(csv.reader(file))[1:]
            return [(int(user), int(item), float(rating), int(second)) for user, item, rating, second in lines]
    return pytest.skip(f"RECSYS_DATA holds {name} in another layout than this comparison reads")


def test_counts_are_the_published_ones(prepared, real_data_folder):
    manifest = prepared.manifest
    ratings = ratings_of(manifest.name, real_data_folder)
    counted = (manifest.num_impressions, manifest.num_users, manifest.num_items, manifest.edition)
    assert counted == COUNTS[manifest.name]
    assert manifest.num_actions == sum(rating >= 4 for _, _, rating, _ in ratings)


def test_impressions_are_the_ratings_in_order_of_time(prepared, real_data_folder):
    ratings = sorted(ratings_of(prepared.manifest.name, real_data_folder), key=lambda rating: rating[3])
    table = pq.read_table(prepared.impressions)
    assert table["request_id"].to_pylist() == [f"{prepared.manifest.name}-{row}" for row in range(len(ratings))]
    assert table["user_id"].to_pylist() == [rating[0] for rating in ratings]
    assert table["item_id"].to_pylist() == [rating[1] for rating in ratings]
    late_ms_N = table["time_ms"].to_numpy() - 1000 * np.array([rating[3] for rating in ratings])
    assert late_ms_N.min() == 0
    assert late_ms_N.max() < 1000  # the spread never leaves the second
    assert set(pq.read_table(prepared.actions)["request_id"].to_pylist()) == {
        f"{prepared.manifest.name}-{row}" for row, rating in enumerate(ratings) if rating[2] >= 4
    }


def test_times_are_distinct_and_of_the_right_parity(prepared):
    shown_ms_N = pq.read_table(prepared.impressions)["time_ms"].to_numpy()
    liked_ms_N = pq.read_table(prepared.actions)["time_ms"].to_numpy()
    assert (np.diff(shown_ms_N) > 0).all() and (np.diff(liked_ms_N) > 0).all()
    assert (shown_ms_N % 2 == 0).all() and (liked_ms_N % 2 == 1).all()
    assert (prepared.manifest.first_time_ms, prepared.manifest.last_time_ms) == (
        shown_ms_N[0],
        liked_ms_N[-1],
    )


def test_likes_follow_after_one_to_ten_seconds(prepared):
    impressions, actions = pq.read_table(prepared.impressions), pq.read_table(prepared.actions)
    shown_ms = dict(zip(impressions["request_id"].to_pylist(), impressions["time_ms"].to_pylist(), strict=True))
    delay_ms_N = actions["time_ms"].to_numpy() - [shown_ms[name] for name in actions["request_id"].to_pylist()]
    assert delay_ms_N.min() > 1_000 and delay_ms_N.max() <= 10_000
    assert math.isclose(delay_ms_N.mean(), 5_500, rel_tol=0.02)  # uniform


def test_facts_cover_everybody_and_years_are_years(prepared):
    impressions, items = pq.read_table(prepared.impressions), pq.read_table(prepared.items)
    assert set(impressions["user_id"].to_pylist()) == set(pq.read_table(prepared.users)["user_id"].to_pylist())
    assert set(impressions["item_id"].to_pylist()) <= set(items["item_id"].to_pylist())
    assert set(items["time_ms"].to_pylist()) == {prepared.manifest.first_time_ms - 1}
    years = items["year"].drop_null().to_pylist()
    assert min(years) > 1900 and max(years) <= 2016
    assert items["year"].null_count == {"ml100k": 1, "ml_latest_small": 4}[prepared.manifest.name]
    if prepared.manifest.name == "ml100k":
        assert "Misérables, Les (1995)" in prepared.titles().values()


def test_the_replay_is_whole_ordered_and_fast(prepared):
    start_seconds = time.perf_counter()
    events = list(replay_events(prepared))
    elapsed_seconds = time.perf_counter() - start_seconds
    times_ms = [event.time_ms for _, event in events]
    assert times_ms == sorted(times_ms)
    num_facts = sum(topic == "facts" for topic, _ in events)
    assert len(events) - num_facts == prepared.manifest.num_impressions + prepared.manifest.num_actions
    assert len(set(times_ms)) == len(events) - num_facts + 1  # all facts share one time, nothing else does
    assert events[num_facts][1].request_id == f"{prepared.manifest.name}-0"
    assert times_ms[-1] == prepared.manifest.last_time_ms
    # 0.5 to 1.0 million a second when measured; this only catches a replay that became quadratic.
    assert len(events) / elapsed_seconds > 50_000

    trained = [event.request_id for topic, event in events if topic == "impressions"]
    assert audit(prepared, trained) == (0, 0)
    assert audit(prepared, trained[3:] + trained[10:15]) == (3, 5)


def test_preparing_is_reproducible_to_the_byte(prepared, real_data_folder, tmp_path):
    again = prepare(prepared.manifest.name, tmp_path / "again", data_folder=real_data_folder, download=None)
    assert again == prepared.manifest
