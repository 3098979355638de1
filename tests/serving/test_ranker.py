"""Rankings out of Redis equal what the trainer would have predicted from the joiner's own features."""

import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from redis import Redis
from served_films import HOUR_MS, MODELS, TABLES, Films, films
from table_kinds import OF_KNOWN_IDS

from recsys.errors import ConfigError, DataError, ServiceError
from recsys.features.state import FeatureState, Id
from recsys.rows.layout import Layout
from recsys.rows.local import LocalRows
from recsys.serving import Ranker, Ranking
from recsys.serving.ranker import Scorer, StateFeatures
from recsys.sync.run import publish_run

TOLERANCE = {"float32": 1e-5, "float16": 2e-3}


@pytest.fixture(scope="module")
def client(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as connected:
        yield connected


def scores_of(ranking: Ranking) -> dict[Id, float]:
    return dict(zip(ranking.items, ranking.scores, strict=True))


def assert_as_trained(ranking: Ranking, trained: Films, user: Id, time_ms: int, tolerance: float = 1e-5) -> None:
    expected = trained.expected_scores(user, ranking.items, time_ms)
    np.testing.assert_allclose(ranking.scores, expected, rtol=0, atol=tolerance)


# --- the same scores as training


HALVED = ("full", "unified", "collisionless", "frequency", "int8")  # kinds that are published as float16 too
PUBLISHED = [(table, "float32") for table in TABLES] + [(table, "float16") for table in HALVED]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("table", "row_format"), PUBLISHED)
def test_scores_are_the_trainers(redis_url: str, table: str, model: str, row_format: str) -> None:
    """All features included: likes, what was shown, profile, genres, the hour, numbers; unknown ids too."""
    trained = films(table, model, strings=table not in OF_KNOWN_IDS)
    name = f"rank-{table}-{model}-{row_format}"
    trained.serve(redis_url, name, row_format=row_format)
    ranker = Ranker.connect(redis_url, name)
    strangers: list[Id] = ["nobody", 10**15] if table not in OF_KNOWN_IDS else [50]
    for user in [*trained.users[:4], *strangers]:
        for later in (0, 5 * HOUR_MS):
            time_ms = trained.time_ms + 20_000 + later
            candidates = [*trained.items, *strangers]
            ranking = ranker.rank(user, candidates, {"time_ms": time_ms}, k=100)
            assert sorted(map(str, ranking.items)) == sorted(map(str, candidates))
            assert_as_trained(ranking, trained, user, time_ms, TOLERANCE[row_format])
            assert ranking.scores == sorted(ranking.scores, reverse=True)
            assert len(set(ranking.scores)) > len(candidates) / 2  # else anything would pass


def test_every_feature_counts(redis_url: str) -> None:
    """The comparison above would not notice a feature that is left out on both sides."""
    trained = films()
    publisher = trained.serve(redis_url, "rank-features")
    ranker = Ranker.connect(redis_url, "rank-features")
    user, time_ms = trained.users[0], trained.time_ms + 20_000

    def scores(at_ms: int = time_ms) -> dict[Id, float]:
        publisher.publish()
        ranking = ranker.rank(user, trained.items, {"time_ms": at_ms}, k=100)
        assert_as_trained(ranking, trained, user, at_ms)
        return scores_of(ranking)

    state, before = trained.state, scores()
    assert scores() == before
    assert scores(time_ms + 3 * HOUR_MS) != before  # time
    steps = {
        "profile": lambda: state.put_facts("user", user, 1, {"age": 99.0, "work": "doctor"}),
        "likes": lambda: state.count_like(user, 3, trained.time_ms),
        "shown": lambda: state.count_impression(user, 4, trained.time_ms),
    }
    for what, change in steps.items():
        change()
        after = scores()
        assert all(after[item] != before[item] for item in trained.items), what
        before = after
    state.put_facts("item", 5, 1, {"genres": ["War"], "year": 3.0})
    after = scores()
    assert [item for item in trained.items if after[item] != before[item]] == [5]


def test_facts_of_what_training_never_saw_are_used(redis_url: str) -> None:
    trained = films(strings=True)
    trained.state.put_facts("user", "newcomer", 5, {"age": 33.0, "work": "artist"})
    trained.state.put_facts("item", "new-film", 5, {"genres": ["Drama", "Unheard of"], "year": 2.0, "title": "New"})
    trained.serve(redis_url, "rank-new")
    ranking = Ranker.connect(redis_url, "rank-new").rank("newcomer", ["new-film", "tt1", "not-there"])
    assert_as_trained(ranking, trained, "newcomer", trained.time_ms)
    assert dict(zip(ranking.items, ranking.titles, strict=True)) == {
        "new-film": "New",
        "tt1": "Film tt1",
        "not-there": "not-there",
    }


def test_a_scorer_over_the_joiners_state_says_the_same(redis_url: str) -> None:
    trained = films("hash", "dcnv2")
    trained.serve(redis_url, "rank-own")
    scorer = Scorer(trained.recommender, trained.trainer.store, StateFeatures(trained.state))
    scorer.load_dense()
    ranking = Ranker.connect(redis_url, "rank-own").rank(2, k=100)
    own = scorer.scores(2, ranking.items, trained.time_ms)
    np.testing.assert_allclose(ranking.scores, own, atol=1e-6)


# --- what is ranked, in which order


def test_by_default_all_items_that_are_not_liked(redis_url: str) -> None:
    trained = films(strings=True)
    trained.state.put_facts("item", 777, 0, {"title": "Never shown"})
    trained.serve(redis_url, "rank-default")
    ranker = Ranker.connect(redis_url, "rank-default")
    for user in trained.users[:4]:
        liked = set(trained.state.history(user).liked())
        assert liked
        ranking = ranker.rank(user, k=1000)
        assert set(ranking.items) == {*trained.items, 777} - liked
    assert set(ranker.rank("nobody", k=1000).items) == {*trained.items, 777}
    assert ranker.rank(0, [*trained.state.history(0).liked()], k=9).items  # asked for, they are ranked


def test_all_items_liked_leaves_nothing(redis_url: str) -> None:
    trained = films(learned=False)
    for item in trained.items:
        trained.state.count_like(3, item, trained.time_ms)
    trained.serve(redis_url, "rank-nothing")
    ranker = Ranker.connect(redis_url, "rank-nothing")
    ranking = ranker.rank(3)
    assert (ranking.items, ranking.scores, ranking.titles) == ([], [], [])


def test_no_candidates_are_refused(redis_url: str) -> None:
    """Where a filter has left nothing, "all items" would be the wrong answer, and so would silence."""
    ranker = Ranker.connect(redis_url, "rank-none")
    for none in ([], (), np.array([], np.int64)):
        with pytest.raises(ConfigError) as raised:
            ranker.rank(3, none)  # type: ignore[arg-type]
        assert str(raised.value) == (
            "candidates are an empty list; name at least one, or leave them out to rank all items"
        )


def test_the_list_of_items_is_read_when_it_has_grown(redis_url: str, client: Redis) -> None:
    trained = films(learned=False, strings=True)
    publisher = trained.serve(redis_url, "rank-list")
    run, _ = Ranker.connect(redis_url, "rank-list").published.current()
    evens, odds = list(range(0, 20, 2)), sorted(f"tt{n}" for n in range(1, 20, 2))
    with client.monitor() as monitor:
        assert run.item_ids() == (*evens, *odds)
        assert run.item_ids() is run.item_ids()
        trained.state.put_facts("item", 7, 0, {"title": "Seven"})
        trained.state.put_facts("item", "tt0", 0, {"title": "Zero"})
        trained.state.put_facts("item", 2, 5, {"title": "Two"})
        publisher.publish()
        assert run.item_ids() == (*sorted([*evens, 7]), "tt0", *odds)
        client.echo("the end")
        commands = iter(lambda: str(monitor.next_command()["command"]), "ECHO the end")
        assert sum("SMEMBERS" in command for command in commands) == 2


def test_k_best(redis_url: str) -> None:
    trained = films()
    trained.serve(redis_url, "rank-k")
    ranker = Ranker.connect(redis_url, "rank-k")
    everything = ranker.rank(1, trained.items, k=1000)
    assert len(everything.items) == 20
    for k in (1, 3, 19, 20, 21):
        ranking = ranker.rank(1, trained.items, k=k)
        assert ranking.items == everything.items[:k]
        np.testing.assert_allclose(ranking.scores, everything.scores[:k], atol=1e-7)
    assert len(ranker.rank(1, trained.items).items) == 10
    alone = [ranker.rank(1, [item]).scores[0] for item in everything.items]  # a score does not depend on the others
    np.testing.assert_allclose(alone, everything.scores, atol=1e-6)


def test_ties_keep_the_order_of_the_candidates(redis_url: str) -> None:
    films().serve(redis_url, "rank-ties")
    ranker = Ranker.connect(redis_url, "rank-ties")
    ranking = ranker.rank(1, [4, 9, 4, 9, 4], k=5)
    assert ranking.items in ([4, 4, 4, 9, 9], [9, 9, 4, 4, 4])
    blank = films("collisionless", learned=False, table_fields={"initial_scale": 0.0})
    blank.serve(redis_url, "rank-ties", "r2")
    for candidates in ([5, 3, 9, 1], [9, 5, 1, 3]):  # of no facts, and rows of zeros: all alike
        unknown = [1000 + item for item in candidates]
        ranking = ranker.rank(1, unknown, k=4)
        assert len(set(ranking.scores)) == 1
        assert ranking.items == unknown


def test_time_of_the_ranking(redis_url: str) -> None:
    """Features are as of ``time_ms``: a like after it is not known yet; without it, the latest event's time."""
    trained = films()
    trained.state.count_like(1, 7, trained.time_ms + 50_000)
    publisher = trained.serve(redis_url, "rank-time")
    ranker = Ranker.connect(redis_url, "rank-time")
    by_default = ranker.rank(1, trained.items, k=20)
    assert by_default.versions.time_ms == trained.time_ms
    assert ranker.rank(1, trained.items, {"time_ms": trained.time_ms}, k=20) == by_default
    later = ranker.rank(1, trained.items, {"time_ms": trained.time_ms + 50_000}, k=20)
    assert scores_of(later) != scores_of(by_default)
    assert_as_trained(later, trained, 1, trained.time_ms + 50_000)
    trained.time_ms += 50_000
    trained.trainer.store.delete({"item": np.array([10**9])})  # moves the version, nothing else
    publisher.publish()
    assert scores_of(ranker.rank(1, trained.items, k=20)) == scores_of(later)


# --- versions


def test_versions_are_those_of_the_publication(redis_url: str) -> None:
    trained = films()
    publisher = trained.publisher(redis_url, Layout(model="rank-versions", run="r7"))
    published = publisher.publish()
    publisher.switch()
    ranker = Ranker.connect(redis_url, "rank-versions")
    versions = ranker.rank(1, [1]).versions
    assert (versions.run, versions.version, versions.time_ms) == ("r7", published.version, trained.time_ms)
    trained.learn(seed=1)
    again = publisher.publish()
    versions = ranker.rank(1, [1]).versions
    assert (versions.version, versions.time_ms) == (again.version, trained.time_ms)
    assert again.version > published.version


def dense_reads(client: Redis, layout: Layout, act: Sequence[object]) -> int:
    """How many commands with a key of the dense parameters Redis got while ``act``'s calls ran."""
    prefix = f"{layout.prefix}{layout.row_format}:dense:"
    calls = [call for call in act if callable(call)]
    with client.monitor() as monitor:
        for call in calls:
            call()
        client.echo("the end")
        seen = 0
        for command in iter(lambda: str(monitor.next_command()["command"]), ""):
            if "the end" in command:
                return seen
            seen += prefix in command
    raise AssertionError


def test_dense_parameters_are_read_once_a_version(redis_url: str, client: Redis) -> None:
    trained = films()
    layout = Layout(model="rank-dense", run="r1")
    publisher = trained.serve(redis_url, "rank-dense")
    ranker = Ranker.connect(redis_url, "rank-dense")

    def rank() -> None:
        assert_as_trained(ranker.rank(1, trained.items, k=20), trained, 1, trained.time_ms)

    assert dense_reads(client, layout, [rank]) == 1
    assert dense_reads(client, layout, [rank, rank, rank]) == 0
    publisher.publish()  # nothing has changed
    assert dense_reads(client, layout, [rank]) == 0
    for seed in (1, 2):
        trained.learn(num_impressions=20, seed=seed)
        publisher.publish()
        assert dense_reads(client, layout, [rank, rank]) == 1


def test_another_run_is_followed_at_the_next_call(redis_url: str) -> None:
    first, second = films("collisionless", "deepfm"), films("unified", "dcnv2", seed=8, strings=True)
    first.serve(redis_url, "rank-switch", "r1")
    ranker = Ranker.connect(redis_url, "rank-switch")
    assert_as_trained(ranker.rank(1, k=30), first, 1, first.time_ms)
    publisher = second.publisher(redis_url, Layout(model="rank-switch", run="r2"))
    publisher.publish()
    still = ranker.rank(1, k=30)
    assert still.versions.run == "r1"
    assert_as_trained(still, first, 1, first.time_ms)
    publisher.switch()
    ranking = ranker.rank("user-1", k=30)
    assert ranking.versions.run == "r2" and "tt2" not in ranking.items and "tt3" in ranking.items
    assert_as_trained(ranking, second, "user-1", second.time_ms)


def test_threads_rank_while_versions_change(redis_url: str) -> None:
    """Each answer is that of one version's dense parameters, whichever version other threads take over meanwhile."""
    trained = films()
    publisher = trained.serve(redis_url, "rank-threads")
    ranker = Ranker.connect(redis_url, "rank-threads")
    found: list[Ranking] = []
    errors: list[BaseException] = []
    stop = threading.Event()

    def ask() -> None:
        try:
            while not stop.is_set():
                found.append(ranker.rank(1, trained.items, k=20))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for seed in range(5):
        trained.learn(num_impressions=10, seed=seed)
        publisher.publish()
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors and found
    assert_as_trained(ranker.rank(1, trained.items, k=20), trained, 1, trained.time_ms)


def test_the_same_run_in_another_row_format_is_refused_and_served_on(redis_url: str, client: Redis) -> None:
    """A reader keeps the format that it opened the run with: rows of both would be mixed in its answers."""
    trained = films()
    trained.serve(redis_url, "rank-formats")
    ranker = Ranker.connect(redis_url, "rank-formats")
    before = ranker.rank(1, trained.items, k=20)
    refused = "run 'r1' of model 'rank-formats' is published with another row_format; publish from a folder of another"
    with pytest.raises(ConfigError, match=refused):
        publish(trained, redis_url, Layout(model="rank-formats", run="r1", row_format="float16"))
    assert not [*client.scan_iter("recsys:rank-formats:r1:float16:*")]
    for asked in (ranker, Ranker.connect(redis_url, "rank-formats")):
        assert asked.rank(1, trained.items, k=20) == before
    publish(trained, redis_url, Layout(model="rank-formats", run="r1-half", row_format="float16"))
    half = ranker.rank(1, trained.items, k=20)
    assert half.versions.run == "r1-half" and half.scores != before.scores
    assert_as_trained(half, trained, 1, trained.time_ms, TOLERANCE["float16"])


def publish(trained: Films, redis_url: str, layout: Layout) -> None:
    """All of it, as out of a checkpoint."""
    store = LocalRows(trained.recommender.groups)
    store.restore(trained.trainer.store.snapshot())
    publish_run(
        redis_url,
        layout,
        blueprint=trained.blueprint,
        store=store,
        features=[FeatureState.from_json(trained.state.to_json())],
        time_ms=trained.time_ms,
        about={},
    )


# --- what is refused


def test_unknown_context_and_impossible_k(redis_url: str) -> None:
    films(learned=False).serve(redis_url, "rank-refused")
    ranker = Ranker.connect(redis_url, "rank-refused")
    with pytest.raises(ConfigError, match="unknown field of context 'time'; known: time_ms"):
        ranker.rank(1, [1], {"time": 5})
    with pytest.raises(ConfigError, match="k 0 must be at least 1"):
        ranker.rank(1, [1], k=0)
    for time_ms in ("noon", None, 1.5, 2**53, -5):
        with pytest.raises(ConfigError, match="of context must be milliseconds since 1970, before the year 10000"):
            ranker.rank(1, [1], {"time_ms": time_ms})
    assert ranker.rank(1, [1], {"time_ms": 253_402_300_799_999}).items == [1]  # the last one that has a calendar day


def test_ids_in_all_their_forms(redis_url: str) -> None:
    trained = films(strings=True)
    trained.serve(redis_url, "rank-ids")
    ranker = Ranker.connect(redis_url, "rank-ids")
    expected = ranker.rank(2, [2, 4, 6])
    assert ranker.rank(np.int64(2), np.array([2, 4, 6])) == expected  # type: ignore[arg-type]
    assert all(type(item) is int for item in ranker.rank(2, np.array([2, 4])).items)  # type: ignore[arg-type]
    assert scores_of(ranker.rank("2", [2, 4, 6])) != scores_of(expected)
    for user, candidates in ((1.5, [1]), (None, [1]), (2**64, [1]), (1, [None]), (1, [2**63])):
        with pytest.raises(ConfigError, match="is no id; ids are integers of 64 bits, or strings"):
            ranker.rank(user, candidates)  # type: ignore[arg-type]


def test_ids_that_a_full_table_does_not_know_are_ranked_as_in_training(redis_url: str) -> None:
    trained = films("full")
    trained.serve(redis_url, "rank-full")
    ranking = Ranker.connect(redis_url, "rank-full").rank(100, [1, 2, 101, -1])
    assert_as_trained(ranking, trained, 100, trained.time_ms)


def test_nothing_published_and_unreachable(redis_url: str) -> None:
    with pytest.raises(DataError, match="no model 'nobody' is published here"):
        Ranker.connect(redis_url, "nobody").rank(1)
    with pytest.raises(ServiceError, match="Redis does not answer") as raised:
        Ranker.connect("redis://ranker:sesame@127.0.0.1:1/0").rank(1)
    assert "sesame" not in str(raised.value) and "\n" not in str(raised.value)


def test_a_batch_normalised_model_is_served_with_its_statistics(redis_url: str) -> None:
    trained = films("full", "normalised")
    publisher = trained.serve(redis_url, "rank-normalised")
    ranker = Ranker.connect(redis_url, "rank-normalised")
    assert_as_trained(ranker.rank(3, k=100), trained, 3, trained.time_ms)
    trained.learn(seed=1)
    publisher.publish()
    assert_as_trained(ranker.rank(3, k=100), trained, 3, trained.time_ms)
