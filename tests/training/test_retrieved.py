"""What retrieval leaves is a recommender: published, it finds what its vectors rank best, but what was learned from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_retrieval import FULL, planted_graphs

from recsys.embedded.redis import EmbeddedRedis
from recsys.features.state import FeatureState
from recsys.models.recommender import Recommender
from recsys.models.retrieval import build_retriever
from recsys.rows.layout import Layout
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import build_optimizer
from recsys.serving import Lookup, Retriever
from recsys.sync.run import publish_run
from recsys.training.checkpoint import load_checkpoint, save_checkpoint
from recsys.training.fitting import RetrievalFit
from recsys.training.retrieval import fit_retriever, local_trainer
from recsys.training.retrieved import as_checkpoint, retrieved_form

ADAM = {"kind": "adam", "learning_rate": 0.02}


@pytest.mark.parametrize(
    ("kind", "table"), [("mf", FULL), ("mf", {**FULL, "kind": "hash", "compression": 4}), ("lightgcn", FULL)]
)
def test_published_it_finds_what_its_vectors_rank_best(kind: str, table: dict[str, Any], tmp_path: Path) -> None:
    graphs = planted_graphs(num_blocks=3, users=6, items=25)
    retriever = build_retriever({"kind": kind}, graphs.train)
    trainer, _, _ = local_trainer(table, retriever, graphs.train, build_optimizer(ADAM), seed=0)
    fit = RetrievalFit(epochs=6, batch_size=64, judge_every=2)
    fitted = fit_retriever(trainer, graphs, fit, seed=0)
    trainer.epoch(64)  # what comes after the best is not what is kept
    titles = {item: f"Film {item}" for item in range(75)} if kind == "mf" else {}
    retrieved = retrieved_form(table, ADAM, graphs, fitted, smooths=retriever.whole, seed=0)
    save_checkpoint(tmp_path / "checkpoints", as_checkpoint(retrieved, graphs, titles))

    saved = load_checkpoint(tmp_path / "checkpoints")
    store = LocalRows(Recommender(saved.blueprint).groups)
    store.restore(saved.rows)
    with EmbeddedRedis(tmp_path / "redis") as redis:
        publish_run(
            redis.url,
            Layout(model="recsys", run="r1"),
            blueprint=saved.blueprint,
            store=store,
            features=[FeatureState.from_json(dict(state["features"])) for state in saved.joiners],
            time_ms=saved.about["time_ms"],
            about=saved.about,
        )
        vectors_ID = Lookup.connect(redis.url).embeddings("item", np.arange(75))
        np.testing.assert_allclose(vectors_ID, fitted.items_ID, rtol=1e-6, atol=1e-7)
        finds = Retriever.connect(redis.url)
        for user in (0, 7, 17):
            products_I = fitted.users_UD[user] @ fitted.items_ID.T
            known = {*graphs.train.matrix_UI[user].indices, *graphs.valid.matrix_UI[user].indices}
            wanted = [item for item in np.argsort(-products_I, kind="stable").tolist() if item not in known]
            found = finds.recommend(user, k=8, rerank=False)
            expected = 1 / (1 + np.exp(-products_I))
            np.testing.assert_allclose(found.scores, expected[wanted[:8]], rtol=1e-5)
            np.testing.assert_allclose(expected[found.items], expected[wanted[:8]], rtol=1e-5)  # ties aside
            assert not known.intersection(found.items) and set(found.liked) == known
            assert finds.recommend(user, k=8).scores == pytest.approx(found.scores, rel=1e-5)
        everything = finds.recommend(0, k=100, exclude="none")
        assert sorted(everything.items) == list(range(75))
        assert everything.titles == [titles.get(item, str(item)) for item in everything.items]
