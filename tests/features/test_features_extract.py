"""Extraction: raw values become ids and numbers; what is unknown is none; nothing stale is kept."""

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import ConfigError, DataError
from recsys.features.declarations import Feature
from recsys.features.extract import Extractor
from recsys.features.state import NOTHING, FactTable, History
from recsys.hashing import hash_string


def value_of(kind: str, raw: Any, **fields: Any) -> Any:
    feature = Feature(name="f", kind=kind, source="item.f", **fields)
    return Extractor([feature]).of_item(1, {} if raw is None else {"f": raw})["f"]


@pytest.mark.parametrize(
    ("kind", "raw", "expected"),
    [
        ("id", 7, [7]),
        ("id", -(2**63), [-(2**63)]),
        ("id", "7", [hash_string("7")]),
        ("id", None, []),
        ("bag", [3, "é", 3], [3, hash_string("é"), 3]),
        ("bag", [], []),
        ("bag", 5, [5]),
        ("bag", "x", [hash_string("x")]),
        ("bag", None, []),
        ("number", 3, 3.0),
        ("number", -0.5, -0.5),
        ("number", None, 0.0),
    ],
)
def test_values(kind: str, raw: Any, expected: Any) -> None:
    value = value_of(kind, raw)
    assert value == expected and type(value) is type(expected)


def test_hashed_ids_fit_int64() -> None:
    ids = value_of("bag", [str(number) for number in range(50)])
    assert all(-(2**63) <= id_ < 2**63 for id_ in ids) and len(set(ids)) == 50


@pytest.mark.parametrize(
    ("kind", "raw", "expected"),
    [
        ("id", "F", [0]),
        ("id", "M", [1]),
        ("id", "X", []),
        ("id", 0, []),  # a number is not the place of a word
        ("bag", ["M", "X", "F", "M"], [1, 0, 1]),
        ("bag", None, []),
    ],
)
def test_a_vocabulary_numbers_its_words_and_leaves_others_out(kind: str, raw: Any, expected: list[int]) -> None:
    assert value_of(kind, raw, vocabulary=("F", "M")) == expected


@given(st.lists(st.integers(-5, 5)), st.integers(1, 4))
def test_a_bag_keeps_its_first_ids(raw: list[int], max_length: int) -> None:
    assert value_of("bag", raw, max_length=max_length) == raw[:max_length]


def test_a_sequence_is_the_latest_first_or_as_it_was_published() -> None:
    features = [
        Feature(name="liked", kind="sequence", source="user.likes", max_length=2),
        Feature(name="steps", kind="sequence", source="item.steps", vocabulary=("a", "b", "c")),
    ]
    history = History()
    for time_ms, item in ((10, 5), (30, 7), (20, 6)):
        history.like(time_ms, item, keep=9)
    extractor = Extractor(features)
    assert extractor.of_user(1, history, {}, 40) == {"liked": [7, 6]}
    assert extractor.of_item(1, {"steps": ["c", "x", "a", "c"]}) == {"steps": [2, 0, 2]}
    assert extractor.of_item(2, {}) == {"steps": []}


@pytest.mark.parametrize(
    ("kind", "raw", "remedy"),
    [
        ("id", 0.5, "kind: number"),
        ("id", True, "kind: number"),
        ("id", [1], "kind: bag"),
        ("bag", [0.5], "kind: number"),
        ("number", "x", "kind: id"),
        ("number", [1], "kind: id"),
        ("number", float("nan"), "kind: id"),
        ("number", float("inf"), "kind: id"),
        ("number", 1e39, "kind: id"),
        pytest.param("number", 10**400, "kind: id", id="huge"),
    ],
)
def test_a_value_of_another_kind_is_an_error_with_the_remedy(kind: str, raw: Any, remedy: str) -> None:
    with pytest.raises(DataError, match=f"'f'.*{remedy}"):
        value_of(kind, raw)


def test_of_user_reads_history_and_profile() -> None:
    features = [
        Feature(name="user", kind="id", source="user.id"),
        Feature(name="liked", kind="bag", source="user.likes", max_length=2),
        Feature(name="seen", kind="bag", source="user.shown"),
        Feature(name="odds", kind="number", source="user.like_log_odds"),
        Feature(name="recent", kind="number", source="user.recent_like_log_odds"),
        Feature(name="shown", kind="number", source="user.log_impressions"),
        Feature(name="age", kind="id", source="profile.age"),
        Feature(name="item", kind="id", source="item.id"),
        Feature(name="hour", kind="id", source="time.hour_of_day"),
    ]
    extractor = Extractor(features)
    history = History(num_impressions=5)
    for time_ms in (5, 25, 45):
        history.show(time_ms, time_ms, keep=10)
    for time_ms, item_id in [(10, 1), (20, "two"), (30, 3), (40, 4)]:
        history.like(time_ms, item_id, keep=10)
    values = extractor.of_user("anna", history, {"age": 30, "unused": "x"}, time_ms=35)
    assert values == {
        "user": [hash_string("anna")],
        "liked": [3, hash_string("two")],
        "seen": [25, 5],
        "odds": 0.0,
        "recent": 0.0,
        "shown": math.log(9),
        "age": [30],
    }
    assert extractor.of_user(1, History(), NOTHING, 0) == {
        "user": [1],
        "liked": [],
        "seen": [],
        "odds": 0.0,
        "recent": 0.0,
        "shown": 0.0,
        "age": [],
    }
    assert extractor.of_item("x", NOTHING) == {"item": [hash_string("x")]}


@given(st.integers(0, 4_000_000_000_000))
def test_the_clock_is_utc(time_ms: int) -> None:
    features = [
        Feature(name="hour", kind="id", source="time.hour_of_day"),
        Feature(name="day", kind="number", source="time.day_of_week"),
    ]
    at = datetime.fromtimestamp(time_ms // 1000, UTC)
    assert Extractor(features).of_time(time_ms) == {"hour": [at.hour], "day": float(at.weekday())}


def test_a_known_thursday() -> None:
    extractor = Extractor([Feature(name="day", kind="id", source="time.day_of_week")])
    assert extractor.of_time(0) == {"day": [3]}  # 1 January 1970
    assert Extractor([]).of_time(0) == {}


FACT_STEPS = st.lists(
    st.tuples(st.booleans(), st.sampled_from([1, "1", 2]), st.integers(0, 4), st.integers(0, 9)), max_size=40
)


@given(FACT_STEPS)
def test_kept_values_are_those_of_the_facts_given(steps) -> None:
    features = [
        Feature(name="year", kind="id", source="item.year"),
        Feature(name="age", kind="id", source="profile.year"),
        Feature(name="item", kind="id", source="item.id"),
    ]
    table, extractor = FactTable(), Extractor(features)
    for is_put, id_, time_ms, year in steps:
        if is_put:
            table.put(id_, time_ms, {"year": year})
        facts = table.as_of(id_, time_ms)
        expected = [facts["year"]] if facts else []
        assert extractor.of_item(id_, facts) == {
            "year": expected,
            "item": [id_ if isinstance(id_, int) else hash_string(id_)],
        }
        assert extractor.of_user(id_, History(), facts, time_ms)["age"] == expected


def test_values_handed_out_belong_to_the_caller() -> None:
    extractor = Extractor([Feature(name="age", kind="id", source="profile.age")])
    profile = {"age": 30}
    extractor.of_user(1, History(), profile, 0)["more"] = [1]
    assert extractor.of_user(1, History(), profile, 0) == {"age": [30]}


def test_columns_are_not_extracted() -> None:
    with pytest.raises(ConfigError, match=r"feature 'f' is of column\.f: of plain examples"):
        Extractor([Feature(name="f", kind="id", source="column.f")])
