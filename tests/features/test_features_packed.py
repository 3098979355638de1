"""What the joiner packs is what the extractor gives a ranker, whatever the ids and the order of the features."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from recsys.features.columns import columns
from recsys.features.declarations import Feature
from recsys.features.extract import Extractor
from recsys.features.packed import PackedFeatures
from recsys.features.packing import pack, unpack
from recsys.features.state import History

IDS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from(["7", "é"])
FEATURES = [
    Feature(name="hour", kind="number", source="time.hour_of_day"),
    Feature(name="shown", kind="sequence", source="user.shown", max_length=2),
    Feature(name="age", kind="id", source="profile.age"),
    Feature(name="user", kind="id", source="user.id"),
    Feature(name="liked", kind="bag", source="user.likes"),
    Feature(name="chosen", kind="bag", source="user.likes", vocabulary=("7",)),
    Feature(name="item", kind="id", source="item.id"),
    Feature(name="odds", kind="number", source="user.like_log_odds"),
    Feature(name="recent", kind="number", source="user.recent_like_log_odds"),
    Feature(name="weekday", kind="id", source="time.day_of_week"),
    Feature(name="tags", kind="bag", source="item.tags"),
]
ARE_NUMBERS = [feature.kind == "number" for feature in FEATURES]
PAST = st.lists(st.tuples(st.booleans(), st.integers(0, 60_000), IDS), max_size=12)


@given(PAST, st.integers(0, 2**45), IDS, IDS, st.lists(IDS, max_size=3))
def test_packed_features_are_the_extractors(past, time_ms, user_id, item_id, tags) -> None:
    history, extractor = History(), Extractor(FEATURES)
    for is_like, at_ms, of in past:
        (history.like if is_like else history.show)(at_ms, of, 4)
    profile, facts, packed = {"age": 30}, {"tags": tags}, PackedFeatures(extractor)
    values = {
        **extractor.of_user(user_id, history, profile, time_ms),
        **extractor.of_item(item_id, facts),
        **extractor.of_time(time_ms),
    }
    parts = packed.of_profile(user_id, profile), packed.of_item(item_id, facts)
    found = unpack(packed.as_of(time_ms, user_id, history, *parts), ARE_NUMBERS)
    assert found == [values[feature.name] for feature in FEATURES]


@given(st.lists(st.tuples(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=80), st.floats(width=32)), max_size=5))
def test_columns_are_what_arrow_makes_of_the_values(rows) -> None:
    ids, numbers = columns([pack(row) for row in rows], [False, True])
    assert ids.equals(pa.array([row[0] for row in rows], pa.list_(pa.int64())))
    expected = pa.array([row[1] for row in rows], pa.float32())
    assert [str(value) for value in numbers.to_pylist()] == [str(value) for value in expected.to_pylist()]
