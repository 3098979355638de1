"""Declarations: every mistake is an error that names the feature, the value and what is known."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from recsys.errors import ConfigError
from recsys.features.declarations import (
    CLOCK,
    HISTORY,
    OWNERS,
    DataSet,
    Feature,
    build_features,
    features_to_json,
)
from recsys.fields import build

GOOD: dict[str, Any] = {"name": "genres", "kind": "bag", "source": "item.genres"}
CONF = Path(__file__).parents[2] / "conf" / "data"


def error_of(**fields: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        build_features([{**GOOD, **fields}])
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults() -> None:
    (feature,) = build_features([GOOD])
    assert feature == Feature(name="genres", kind="bag", source="item.genres")
    assert (feature.table, feature.num_embeddings, feature.vocabulary, feature.max_length) == (
        None,
        None,
        None,
        50,
    )
    assert (feature.table_name, feature.size) == ("genres", None)


def test_table_name_and_size() -> None:
    named = Feature(name="liked", kind="bag", source="user.likes", table="item", num_embeddings=9)
    listed = Feature(name="g", kind="id", source="profile.g", vocabulary=("F", "M"), num_embeddings=9)
    assert (named.table_name, named.size) == ("item", 9)
    assert (listed.table_name, listed.size) == ("g", 2)


def test_an_unknown_kind_lists_the_known() -> None:
    assert error_of(kind="bags") == "data.features[0].kind='bags': give id or bag or sequence or number"


@pytest.mark.parametrize("source", ["", "item", "item.", ".genres", "movie.genres"])
def test_an_unknown_owner_lists_the_known(source: str) -> None:
    message = error_of(source=source)
    assert repr(source) in message
    assert message.endswith(", ".join(f"{owner}.…" for owner in OWNERS))


@pytest.mark.parametrize(("owner", "known"), [("user", HISTORY), ("time", CLOCK)])
def test_an_unknown_name_of_user_and_time_lists_the_known(owner: str, known: tuple[str, ...]) -> None:
    message = error_of(source=f"{owner}.age")
    assert f"'{owner}.age'" in message
    assert message.endswith(", ".join(f"{owner}.{name}" for name in known))


def test_an_unknown_field_lists_the_known() -> None:
    message = error_of(size=3)
    assert message.startswith("unknown field 'data.features[0].size'; known: ")
    assert message.endswith(", ".join(field.name for field in dataclasses.fields(Feature)))


@pytest.mark.parametrize("source", ["user.id", "user.like_log_odds", "time.hour_of_day"])
def test_a_sequence_comes_from_what_has_an_order(source: str) -> None:
    for ordered in ("user.shown", "user.likes", "item.genres", "profile.visited"):
        assert Feature(name="seen", kind="sequence", source=ordered).source == ordered
    wrong = error_of(kind="sequence", source=source)
    assert f"{source} is no sequence; use user.shown or user.likes, or a list" in wrong


@pytest.mark.parametrize("field", ["name", "kind", "source"])
def test_a_missing_field_is_named(field: str) -> None:
    with pytest.raises(ConfigError, match=rf"^data\.features\[0\]\.{field} is not given; set "):
        build_features([{name: value for name, value in GOOD.items() if name != field}])


def test_a_name_declared_twice_is_named() -> None:
    with pytest.raises(ConfigError, match=r"\['genres'\]"):
        build_features([GOOD, {**GOOD, "name": "other"}, GOOD])


@pytest.mark.parametrize("max_length", [0, -1])
def test_a_bag_keeps_at_least_one_id(max_length: int) -> None:
    said = f"data.features[0].max_length={max_length}: give a whole number of at least 1"
    assert error_of(max_length=max_length) == said


def test_a_data_set_declares_each_name_once() -> None:
    said = {"name": "films", "folder": "data/films", "features": [GOOD]}
    assert build(DataSet, said, "data").features == (Feature(**GOOD),)
    with pytest.raises(ConfigError, match=r"^data: feature names \['genres'\] are declared more than once"):
        build(DataSet, {**said, "features": [GOOD, GOOD]}, "data")


def test_declarations_survive_json() -> None:
    features = (
        Feature(name="genres", kind="bag", source="item.genres", vocabulary=("é", "b"), max_length=3),
        Feature(name="user", kind="id", source="user.id", table="people", num_embeddings=5),
        Feature(name="hour", kind="number", source="time.hour_of_day"),
    )
    assert build_features(json.loads(json.dumps(features_to_json(features)))) == features
    assert build_features([]) == ()


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_data_sets_declare_features_that_can_be_built(path: Path) -> None:
    from omegaconf import OmegaConf

    declared = OmegaConf.to_container(OmegaConf.load(path))["features"]
    features = build_features(declared)
    assert [feature.name for feature in features] == [fields["name"] for fields in declared]
    # a full table can be made, of what preparing counts at the latest
    assert all(feature.size or feature.min_count for feature in features if feature.kind != "number")
    # features that share a table agree on its size
    sizes: dict[str, set[int | None]] = {}
    for feature in features:
        if feature.kind != "number":
            sizes.setdefault(feature.table_name, set()).add(feature.size)
    assert {table: size for table, size in sizes.items() if len(size) > 1} == {}
