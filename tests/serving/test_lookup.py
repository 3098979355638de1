"""Lookup over a real Redis equals the recommender's own embeddings over the trainer's rows."""

from collections.abc import Sequence

import numpy as np
import pytest
from redis import Redis
from served_films import TABLES, Films, films
from table_kinds import OF_KNOWN_IDS

from recsys.errors import ConfigError, DataError, ServiceError
from recsys.hashing import Floats
from recsys.rows.layout import Layout, pointer_key
from recsys.serving import Lookup
from recsys.serving.rows import PublishedRows

ID_OF: dict[str, list[int | str]] = {"user": [0, 5, 11], "item": [0, 7, 19, 7], "liked": [3, 4], "hour": [22, 23]}
ABSENT: dict[str, list[int | str]] = {"user": [77], "item": [78, 99], "hour": [3]}


def own(trained: Films, feature: str, ids: Sequence[int | str]) -> Floats:
    recommender = trained.recommender
    return recommender.embed(feature, recommender.encode_ids(feature, ids), trained.trainer.store)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("absent", ["initial", "zeros"])
def test_equals_the_trainers_rows(redis_url: str, table: str, absent: str) -> None:
    strings = table not in OF_KNOWN_IDS
    trained = films(table, strings=strings, table_fields={"absent": absent})
    model = f"lookup-{table}-{absent}"
    trained.serve(redis_url, model)
    lookup = Lookup.connect(redis_url, model)
    asked = {feature: [*ids] for feature, ids in ID_OF.items()}
    if strings:
        asked["user"] += ["user-1", "user-11", "1"]
        asked["item"] += ["tt1", "tt19", "nobody", -(2**63), 2**63 - 1]
    asked["genres"] = ["Comedy", "Drama", "Noir"]
    asked["work"] = ["doctor"]
    for feature, ids in asked.items():
        found = lookup.embeddings(feature, ids)
        assert found.dtype == np.float32 and found.shape == (len(ids), 4)
        np.testing.assert_array_equal(found, own(trained, feature, ids))
        assert len(np.unique(found, axis=0)) > 1 or len(ids) == 1
    for feature, ids in ABSENT.items():
        found = lookup.embeddings(feature, ids)
        np.testing.assert_array_equal(found, own(trained, feature, ids))
        if table in ("full", "collisionless", "int8"):
            assert (found == 0).all() == (absent == "zeros")


def test_what_absent_reads_is_the_initial_value_of_training(redis_url: str) -> None:
    trained = films("collisionless")
    trained.serve(redis_url, "lookup-initial")
    (group,) = [group for group in trained.recommender.groups if group.name == "item"]
    expected = group.initial.rows(np.array([10**12]), 4, group.seed)
    np.testing.assert_array_equal(Lookup.connect(redis_url, "lookup-initial").embeddings("item", [10**12]), expected)


def test_float16_rows_are_near(redis_url: str) -> None:
    trained = films()
    trained.serve(redis_url, "lookup-half", row_format="float16")
    found = Lookup.connect(redis_url, "lookup-half").embeddings("item", list(range(20)))
    expected = own(trained, "item", list(range(20)))
    np.testing.assert_array_equal(found, expected.astype(np.float16).astype(np.float32))
    assert not np.array_equal(found, expected)


def test_features_of_one_table_read_the_same_rows(redis_url: str) -> None:
    films().serve(redis_url, "lookup-shared")
    lookup = Lookup.connect(redis_url, "lookup-shared")
    np.testing.assert_array_equal(lookup.embeddings("item", [1, 2]), lookup.embeddings("liked", [1, 2]))
    assert not np.array_equal(lookup.embeddings("item", [1, 2]), lookup.embeddings("user", [1, 2]))


@pytest.mark.parametrize("absent", ["initial", "zeros"])
def test_a_deleted_id_reads_as_absent_and_a_learned_one_anew(redis_url: str, absent: str) -> None:
    trained = films(table_fields={"absent": absent})
    publisher = trained.serve(redis_url, f"lookup-deleted-{absent}")
    lookup = Lookup.connect(redis_url, f"lookup-deleted-{absent}")
    before = lookup.embed("item", [3, 4])
    trained.trainer.store.delete({"item": np.array([3])})
    publisher.publish()
    after = lookup.embed("item", [3, 4])
    np.testing.assert_array_equal(after.vectors_ND, own(trained, "item", [3, 4]))
    assert not np.array_equal(after.vectors_ND[0], before.vectors_ND[0])
    assert (after.vectors_ND[0] == 0).all() == (absent == "zeros")
    np.testing.assert_array_equal(after.vectors_ND[1], before.vectors_ND[1])
    assert after.versions.version > before.versions.version
    trained.learn(seed=1)
    publisher.publish()
    np.testing.assert_array_equal(lookup.embeddings("item", [3, 4]), own(trained, "item", [3, 4]))


def test_versions_say_where_an_answer_comes_from(redis_url: str) -> None:
    trained = films()
    publisher = trained.publisher(redis_url, Layout(model="lookup-versions", run="2026-01-31"))
    published = publisher.publish()
    publisher.switch()
    versions = Lookup.connect(redis_url, "lookup-versions").embed("item", [1]).versions
    assert (versions.run, versions.version, versions.time_ms) == ("2026-01-31", published.version, trained.time_ms)
    assert versions.rows == sum(trained.trainer.store.snapshot().cursor)


def test_a_second_run_is_followed_at_the_next_call(redis_url: str) -> None:
    """Published beside the first, under another kind of table and row format, then one pointer."""
    first, second = films("collisionless"), films("unified", seed=9)
    first.serve(redis_url, "lookup-switch", "r1")
    lookup = Lookup.connect(redis_url, "lookup-switch")
    np.testing.assert_array_equal(lookup.embeddings("item", [1, 2]), own(first, "item", [1, 2]))
    layout = Layout(model="lookup-switch", run="r2", row_format="float16")
    publisher = second.publisher(redis_url, layout)
    publisher.publish()
    assert lookup.embed("item", [1]).versions.run == "r1"
    np.testing.assert_array_equal(lookup.embeddings("item", [1, 2]), own(first, "item", [1, 2]))
    publisher.switch()
    found = lookup.embed("item", [1, 2])
    assert found.versions.run == "r2"
    np.testing.assert_allclose(found.vectors_ND, own(second, "item", [1, 2]), rtol=1e-3)
    with Redis.from_url(redis_url) as client:  # and back
        client.set(pointer_key("lookup-switch"), "r1")
    assert lookup.embed("item", [1]).versions.run == "r1"


def test_ids_in_all_their_forms(redis_url: str) -> None:
    films(strings=True).serve(redis_url, "lookup-forms")
    lookup = Lookup.connect(redis_url, "lookup-forms")
    expected = lookup.embeddings("item", [1, 2])
    np.testing.assert_array_equal(lookup.embeddings("item", np.array([1, 2])), expected)  # type: ignore[arg-type]
    np.testing.assert_array_equal(lookup.embeddings("item", (np.int32(1), 2)), expected)  # type: ignore[arg-type]
    strings = lookup.embeddings("item", np.array(["tt1", "tt3"]))  # type: ignore[arg-type]
    np.testing.assert_array_equal(strings, lookup.embeddings("item", ["tt1", "tt3"]))
    assert not np.array_equal(lookup.embeddings("item", ["7"]), lookup.embeddings("item", [7]))


def test_no_ids_are_no_embeddings(redis_url: str) -> None:
    films(learned=False).serve(redis_url, "lookup-none")
    assert Lookup.connect(redis_url, "lookup-none").embeddings("item", []).shape == (0, 4)


# --- what is refused


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_an_unknown_feature_lists_the_known_ones(redis_url: str) -> None:
    films(learned=False).serve(redis_url, "lookup-unknown")
    for feature in ("itme", "age", ""):  # a number has no embedding
        with pytest.raises(ConfigError) as raised:
            Lookup.connect(redis_url, "lookup-unknown").embeddings(feature, [1])
        known = "user, item, liked, shown, genres, work, hour"
        assert one_line(raised) == f"unknown feature {feature!r}; known: {known}"


def test_a_word_outside_the_vocabulary(redis_url: str) -> None:
    films(learned=False).serve(redis_url, "lookup-words")
    lookup = Lookup.connect(redis_url, "lookup-words")
    for word in ("Western", 1):
        with pytest.raises(DataError) as raised:
            lookup.embeddings("genres", ["Drama", word])
        assert one_line(raised) == (f"{word!r} is not in the vocabulary of feature 'genres': Drama, Comedy, War, Noir")


@pytest.mark.parametrize("bad", [1.5, None, True, 2**63, -(2**63) - 1, b"tt1", [1]])
def test_what_is_no_id(redis_url: str, bad: object) -> None:
    films(learned=False).serve(redis_url, "lookup-bad-ids")
    with pytest.raises(ConfigError, match="is no id; ids are integers of 64 bits, or strings") as raised:
        Lookup.connect(redis_url, "lookup-bad-ids").embeddings("item", [1, bad])  # type: ignore[list-item]
    one_line(raised)


def test_a_string_is_not_a_list_of_letters(redis_url: str) -> None:
    films(learned=False).serve(redis_url, "lookup-letters")
    with pytest.raises(ConfigError, match="'tt1' is one string; give a list of ids"):
        Lookup.connect(redis_url, "lookup-letters").embeddings("item", "tt1")


@pytest.mark.parametrize("id_", [-1, 100, "tt1"])
def test_an_id_outside_a_full_table_is_refused_as_in_training(redis_url: str, id_: int | str) -> None:
    trained = films("full", learned=False)
    trained.serve(redis_url, "lookup-outside")
    with pytest.raises(DataError, match=r"is outside \[0, 100\); raise the feature's num_embeddings") as served:
        Lookup.connect(redis_url, "lookup-outside").embeddings("item", [1, id_])
    with pytest.raises(DataError) as own_error:
        own(trained, "item", [1, id_])
    assert one_line(served) == one_line(own_error)


def test_nothing_published(redis_url: str) -> None:
    with pytest.raises(DataError) as raised:
        Lookup.connect(redis_url, "nobody").embeddings("item", [1])
    assert one_line(raised) == "no model 'nobody' is published here; run jobs.online, or jobs.publish run=FOLDER"


def test_published_in_part(redis_url: str) -> None:
    trained = films(learned=False)
    layout = Layout(model="lookup-part", run="r1")
    with Redis.from_url(redis_url) as client:
        client.set(pointer_key("lookup-part"), "r1")
    lookup = Lookup.connect(redis_url, "lookup-part")
    with pytest.raises(DataError, match="run 'r1' of model 'lookup-part' is named but not there; publish it again"):
        lookup.embeddings("item", [1])
    publisher = trained.publisher(redis_url, layout)
    for _ in range(2):
        with pytest.raises(DataError, match="run 'r1' of model 'lookup-part' holds no version yet; try again shortly"):
            lookup.embeddings("item", [1])
    publisher.publish()
    assert lookup.embeddings("item", [1]).shape == (1, 4)


def test_unreachable_is_one_line_without_the_password() -> None:
    lookup = Lookup.connect("redis://ranker:sesame@127.0.0.1:1/0")
    with pytest.raises(ServiceError, match=r"Redis does not answer .*check redis\.url") as raised:
        lookup.embeddings("item", [1])
    assert "sesame" not in one_line(raised)


@pytest.mark.parametrize("url", ["redi://ranker:sesame@cache:1/0", "redis://ranker:sesame@cache:99999/0"])
def test_no_url_is_one_line_without_the_password(url: str) -> None:
    with pytest.raises(ConfigError, match="is no Redis URL; use redis://HOST:PORT/0") as raised:
        Lookup.connect(url)
    assert "sesame" not in one_line(raised)


def test_rows_of_an_unknown_group(redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        rows = PublishedRows(client, Layout(model="m", run="r"), {})
        with pytest.raises(ConfigError, match="unknown row group 'item'"):
            rows.pull({"item": np.array([1])})
        assert rows.pull({}) == {}
