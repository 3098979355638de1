"""Recommendations: products equal an oracle's, vectors equal the model's own scores, and what is left out is."""

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis
from served_films import GENRES, Films, films

from recsys.errors import ConfigError
from recsys.hashing import Floats
from recsys.rows.layout import Layout
from recsys.serving import Ranker, RetrievalConfig, Retriever
from recsys.serving import vectors as vectors_module
from recsys.serving.published import NotPublished
from recsys.serving.vectors import best_products


def oracle(vectors_IV: Floats, query_V: Floats, k: int, left_out: list[int]) -> list[int]:
    """Every product, sorted: the largest first, of equal ones the first place."""
    products_I = vectors_IV @ query_V
    places = [at for at in range(len(vectors_IV)) if at not in left_out]
    return sorted(places, key=lambda at: (-products_I[at], at))[:k]


@given(
    seed=st.integers(0, 2**32 - 1),
    num_items=st.integers(0, 60),
    k=st.integers(1, 70),
    block=st.integers(1, 30),
    left_out=st.sets(st.integers(0, 59), max_size=60),
)
def test_the_best_products_are_those_of_a_full_sort(
    seed: int, num_items: int, k: int, block: int, left_out: set[int]
) -> None:
    """Small whole numbers: products are exact, and many are equal."""
    draw = np.random.default_rng(seed)
    vectors_IV = draw.integers(-2, 3, (num_items, 3)).astype(np.float32)
    query_V = draw.integers(-2, 3, 3).astype(np.float32)
    gone = [at for at in left_out if at < num_items]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors_module, "_ITEMS_PER_BLOCK", block)
        places_K, products_K = best_products(vectors_IV, query_V, k, np.array(gone, np.int64))
    assert places_K.tolist() == oracle(vectors_IV, query_V, k, gone)
    np.testing.assert_array_equal(products_K, (vectors_IV @ query_V)[places_K])


@pytest.mark.parametrize("table", ["collisionless", "unified", "tt_rec", "int8"])
def test_an_fm_retrieves_by_vectors_what_it_scores_best(redis_url: str, table: str) -> None:
    """Items, genres and years on one side; the user, their likes, their work, age and the hour on the other."""
    made = films(table, "fm", strings=table != "int8")
    made.serve(redis_url, f"retrieve-{table}")
    retriever = Retriever.connect(redis_url, f"retrieve-{table}")
    ranker = Ranker.connect(redis_url, f"retrieve-{table}")
    for user in (made.users[2], made.users[5], "nobody" if table != "int8" else 77):
        all_ranked = ranker.rank(user, made.items, k=len(made.items))
        found = retriever.recommend(user, k=7, exclude="none", rerank=False)
        assert found.items == all_ranked.items[:7] and found.titles == all_ranked.titles[:7]
        np.testing.assert_allclose(found.scores, all_ranked.scores[:7], atol=1e-6)
        assert found.by == "vectors" and found.versions == all_ranked.versions
        again = retriever.recommend(user, k=7, exclude="none")
        assert (again.items, again.scores) == (found.items, all_ranked.scores[:7])


def by_rank(made: Films, ranker: Ranker, user: Any, left_out: set[Any]) -> list[Any]:
    candidates = [item for item in made.items if item not in left_out]
    return ranker.rank(user, candidates, k=len(candidates)).items


@pytest.mark.parametrize("model", ["fm", "dcnv2"])
def test_what_the_user_knows_is_left_out_as_asked(redis_url: str, model: str) -> None:
    made = films("collisionless", model)
    made.serve(redis_url, f"left-out-{model}")
    retriever, ranker = (kind.connect(redis_url, f"left-out-{model}") for kind in (Retriever, Ranker))
    assert isinstance(retriever, Retriever) and isinstance(ranker, Ranker)
    history = made.state.history(4)
    liked, shown = history.liked(), history.shown()
    assert liked and set(shown) - set(liked)
    for exclude, left_out in (("none", set()), ("liked", {*liked}), ("seen", {*liked, *shown})):
        found = retriever.recommend(4, k=100, exclude=exclude)  # type: ignore[arg-type]
        assert found.items == by_rank(made, ranker, 4, left_out)
        assert (found.liked, found.shown) == (liked, shown)
    assert found.by == ("vectors" if model == "fm" else "pool")


def test_a_pool_is_of_what_was_shown_or_liked_last(redis_url: str) -> None:
    """Of more items than may be ranked, those that something happened to last; then the first of the others."""
    made = films("collisionless", "deepfm", learned=False)
    made.state.count_impression(1, 13, 5_000)
    made.state.count_like(1, 13, 9_000)
    made.state.count_impression(2, 7, 8_000)
    made.state.count_impression(2, 5, 7_000)
    made.serve(redis_url, "pool")

    def pool(size: int, user: int = 99) -> list[Any]:
        config = RetrievalConfig(max_candidates=size)
        return sorted(Retriever.connect(redis_url, "pool", config=config).recommend(user, k=100).items)

    assert [pool(1), pool(2), pool(3), pool(5)] == [[13], [7, 13], [5, 7, 13], [0, 1, 5, 7, 13]]
    assert pool(2, user=1) == [5, 7]  # who likes 13
    assert pool(20) == pool(500) == list(range(20))


def test_reasons_are_the_recent_likes_that_are_nearest(redis_url: str) -> None:
    made = films("collisionless", "fm")
    made.serve(redis_url, "why")
    retriever = Retriever.connect(redis_url, "why")
    found = retriever.recommend(4, k=5, why=True)
    liked = found.liked
    vectors = made.recommender.embed("item", np.array([*found.items, *liked]), made.trainer.store)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for at, reasons in enumerate(found.because):
        nearness = unit[5:] @ unit[at]
        best = [place for place in np.argsort(-nearness, kind="stable")[:2] if nearness[place] > 0]
        assert reasons == [f"Film {liked[place]}" for place in best]
    assert any(found.because) and found.liked_titles == [f"Film {item}" for item in liked]
    assert retriever.recommend("nobody", k=2, why=True).because == [[], []]
    assert retriever.recommend(4, k=2).because == [[], []]


def test_vectors_follow_what_is_published(redis_url: str) -> None:
    made = films("collisionless", "fm")
    publisher = made.serve(redis_url, "follow")
    at_once = Retriever.connect(redis_url, "follow", config=RetrievalConfig(max_age_seconds=0))
    later = Retriever.connect(redis_url, "follow", config=RetrievalConfig(max_age_seconds=1e6))
    before = at_once.recommend(3, exclude="none", rerank=False)
    assert later.recommend(3, exclude="none", rerank=False) == before
    made.learn(80, seed=5)
    publisher.publish()
    after, kept = (one.recommend(3, exclude="none", rerank=False) for one in (at_once, later))
    assert after.versions.version > before.versions.version
    assert after.items == Ranker.connect(redis_url, "follow").rank(3, made.items).items
    assert kept.versions.version == before.versions.version  # it says of which version they are
    reranked = later.recommend(3, exclude="none")
    assert reranked.versions.version == after.versions.version
    films("collisionless", "fm").serve(redis_url, "follow", run="r2")
    assert later.recommend(3, exclude="none", rerank=False).versions.run == "r2"


def test_many_at_once_make_the_vectors_once(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    films("collisionless", "fm").serve(redis_url, "together")
    retriever, made = Retriever.connect(redis_url, "together"), []
    real = vectors_module.item_vectors
    monkeypatch.setattr("recsys.serving.item_index.item_vectors", lambda *given: made.append(1) or real(*given))
    answers: list[list[Any]] = []
    threads = [threading.Thread(target=lambda: answers.append(retriever.recommend(3).items)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 6 and all(items == answers[0] for items in answers) and made == [1]


def test_what_can_not_be_recommended(redis_url: str) -> None:
    films("collisionless", "fm", learned=False).serve(redis_url, "asked-wrongly")
    retriever = Retriever.connect(redis_url, "asked-wrongly")
    with pytest.raises(ConfigError, match="k 0 must be at least 1"):
        retriever.recommend(1, k=0)
    with pytest.raises(ConfigError, match="exclude 'all' must be one of liked, seen, none"):
        retriever.recommend(1, exclude="all")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="is no id"):
        retriever.recommend(1.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="time_ms 'now'"):
        retriever.recommend(1, context={"time_ms": "now"}, rerank=False)
    with pytest.raises(NotPublished, match="no model 'nothing'"):
        Retriever.connect(redis_url, "nothing").recommend(1)
    Redis.from_url(redis_url).delete(Layout(model="asked-wrongly", run="r1").items_key)
    with pytest.raises(NotPublished, match="has published no items to choose from"):
        Retriever.connect(redis_url, "asked-wrongly").recommend(1)


def test_another_model_has_no_sides() -> None:
    made = films("collisionless", "deepfm", learned=False)
    assert not made.recommender.is_factorised and len(GENRES) == 4
    with pytest.raises(ConfigError, match=r"model\.kind=deepfm does not score by products; use model=fm"):
        made.recommender.side(["item"], made.batch([]), made.trainer.store)  # type: ignore[arg-type]
