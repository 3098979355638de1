"""Retrieval training on a planted graph: clusters of it beat hashing, and a step is what BPR says it is."""

import dataclasses

import numpy as np
import pytest
import torch

from recsys.datasets.interactions import Interactions, Pairs
from recsys.errors import ConfigError
from recsys.graphs.bipartite import Bipartite
from recsys.models.retrieval import build_retriever
from recsys.rows.optimizers import SGD, Adam
from recsys.tables.assign import assigned_map, clustered_map
from recsys.training.fitting import RetrievalFit
from recsys.training.ranking import judge, popularity
from recsys.training.retrieval import (
    Fitted,
    Graphs,
    build_embeddings,
    fit_retriever,
    judge_test,
    local_trainer,
    valid_users,
)

FULL = {"kind": "full", "embedding_dim": 8, "initial_scale": 0.1}
FIT = RetrievalFit(epochs=30, batch_size=256, judge_every=2, patience=4)


def planted_graphs(num_blocks: int = 10, users: int = 12, items: int = 40) -> Graphs:
    """Users like items of their own block."""
    random = np.random.default_rng(0)
    pairs = np.array([
        (b * users + u, b * items + i)
        for b in range(num_blocks) for u in range(users) for i in random.choice(items, 20, replace=False)
    ])  # fmt: skip
    part = random.permutation(len(pairs)) % 10
    parts = [Pairs(*pairs[chosen].T) for chosen in (part < 7, part == 7, part > 7)]
    return Graphs.of(Interactions("planted", *parts, num_blocks * users, num_blocks * items))


@pytest.fixture(scope="module")
def graphs() -> Graphs:
    return planted_graphs()


def fitted(graphs: Graphs, table: dict, kind: str = "mf", **changes: int) -> Fitted:
    retriever = build_retriever({"kind": kind}, graphs.train)
    trainer, _, _ = local_trainer(table, retriever, graphs.train, Adam(learning_rate=0.02), seed=0)
    return fit_retriever(trainer, graphs, dataclasses.replace(FIT, **changes), seed=0)


def test_clusters_find_far_more_than_hashing_in_as_many_rows(graphs: Graphs) -> None:
    clustered = clustered_map(graphs.train, "planted", num_buckets=60)
    sizes = clustered.tables["user"].num_buckets, clustered.tables["item"].num_buckets
    hashed = assigned_map(graphs.train, "planted", "hash", sizes, seed=0)
    recalls = {}
    for name, made in (("clustered", clustered), ("hashed", hashed)):
        recalls[name] = judge_test(
            fitted(graphs, {**FULL, "kind": "graphhash", "map": made.to_json()}), graphs, 0
        ).recall
    full = judge_test(fitted(graphs, FULL), graphs, 0).recall
    floor = judge(*popularity(graphs.train), graphs.test, [graphs.train, graphs.valid]).recall
    assert recalls["clustered"] > 1.5 * recalls["hashed"] and recalls["clustered"] > 2 * floor
    assert full > 3 * floor


def test_lightgcn_learns_over_a_table_that_is_pulled_whole(graphs: Graphs) -> None:
    found = fitted(graphs, FULL, kind="lightgcn", epochs=6, batch_size=4096)
    floor = judge(*popularity(graphs.train), graphs.test, [graphs.train, graphs.valid]).recall
    assert judge_test(found, graphs, 0).recall > 3 * floor


@pytest.mark.parametrize("kind", ["mf", "lightgcn"])
def test_a_step_is_sgd_on_the_loss_of_dense_embeddings(kind: str) -> None:
    graph = Bipartite.of(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2]), 3, 4)
    retriever = build_retriever({"kind": kind}, graph)
    table = {"kind": "full", "embedding_dim": 2, "initial_scale": 0.5}
    trainer, _, store = local_trainer(table, retriever, graph, SGD(learning_rate=0.1), seed=3)
    keys = {"user": np.arange(3), "item": np.arange(4)}
    before = {name: torch.from_numpy(rows).requires_grad_() for name, rows in store.pull(keys).items()}
    random = np.random.default_rng([3, 0])
    order, others = random.permutation(4), random.integers(0, 4, 4)
    users, items = retriever(before["user"], before["item"])
    u, i, j = graph.users_E[order], graph.items_E[order], others[order]
    margins = (users[u] * (items[i] - items[j])).sum(1)
    squares = sum((before[name][ids] ** 2).sum() for name, ids in (("user", u), ("item", i), ("item", j)))
    (torch.nn.functional.softplus(-margins).mean() + 0.3 * squares / 8).backward()
    loss = trainer.epoch(batch_size=4, regularisation=0.3)
    assert loss == pytest.approx(torch.nn.functional.softplus(-margins).mean().item() + 0.3 * squares.item() / 8)
    after = store.pull(keys)
    for name, rows in before.items():
        assert rows.grad is not None
        np.testing.assert_allclose(after[name], (rows - 0.1 * rows.grad).detach().numpy(), rtol=1e-5, atol=1e-7)
    vectors = trainer.vectors()
    expected = retriever(torch.from_numpy(after["user"]), torch.from_numpy(after["item"]))
    for ours, theirs in zip(vectors, expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6)


def test_the_same_seed_gives_the_same_model(graphs: Graphs) -> None:
    one, two = (fitted(graphs, FULL, epochs=4) for _ in range(2))
    np.testing.assert_array_equal(one.users_UD, two.users_UD)
    assert [said["loss"] for said in one.history] == [said["loss"] for said in two.history]


def test_it_stops_after_patience_and_keeps_the_best(graphs: Graphs) -> None:
    found = fitted(graphs, FULL, epochs=200, judge_every=1, patience=2)
    recalls = [said["recall"] for said in found.history]
    assert len(recalls) < 200 and max(recalls[-2:]) <= recalls[-3] == max(recalls)
    assert found.epoch == len(recalls) - 2


def test_valid_users_are_drawn_from_those_with_something_to_find(graphs: Graphs) -> None:
    drawn = valid_users(graphs.valid, 30, seed=1)
    assert len(drawn) == 30 and (np.diff(drawn) > 0).all() and (graphs.valid.user_degrees_U[drawn] > 0).all()
    assert len(valid_users(graphs.valid, 10**6, seed=1)) == int((graphs.valid.user_degrees_U > 0).sum())


@pytest.mark.parametrize("kind", ["optembed", "dpq"])
def test_a_table_that_has_stages_is_refused(kind: str) -> None:
    graph = Bipartite(np.array([0, 1]), np.array([1, 0]), 2, 2)
    with pytest.raises(ConfigError, match=rf"table\.kind={kind} has stages"):
        build_embeddings({"kind": kind, "embedding_dim": 8}, graph, SGD(learning_rate=0.1), seed=0)


def test_a_step_moves_the_parameters_that_a_table_brings() -> None:
    graph = Bipartite.of(np.arange(40) % 20, np.arange(40) % 30, 20, 30)
    table = {"kind": "mde", "embedding_dim": 4, "alpha": 0.4, "initial_scale": 0.5}
    retriever = build_retriever({"kind": "mf"}, graph)
    trainer, embeddings, store = local_trainer(
        table, retriever, graph, SGD(learning_rate=0.1), 3, dense_optimizer=SGD(learning_rate=0.2)
    )
    keys = {name: np.arange(num) for name, num in (("user", 20), ("item", 30))}
    rows = {name: torch.from_numpy(found) for name, found in store.pull(keys).items()}
    before = {name: made.projection.detach().clone().requires_grad_() for name, made in embeddings.tables.items()}
    users, items = (rows[name] @ before[name] for name in ("user", "item"))
    random = np.random.default_rng([3, 0])
    order = random.permutation(graph.num_edges)
    others = random.integers(0, 30, graph.num_edges)[order]
    u, i = graph.users_E[order], graph.items_E[order]
    torch.nn.functional.softplus(-(users[u] * (items[i] - items[others])).sum(1)).mean().backward()
    trainer.epoch(batch_size=10**6)
    trainer.vectors()  # takes over what the store has
    for name, made in embeddings.tables.items():
        gradient = before[name].grad
        assert gradient is not None and gradient.abs().max() > 0
        torch.testing.assert_close(made.projection.detach(), (before[name] - 0.2 * gradient).detach())


@pytest.mark.parametrize(
    "table", [{"kind": "dhe", "num_hashes": 32, "hidden_size": 24}, {"kind": "mde", "alpha": 0.1}], ids=["dhe", "mde"]
)
def test_tables_with_parameters_learn(graphs: Graphs, table: dict) -> None:
    found = judge_test(fitted(graphs, {**FULL, **table}, epochs=12), graphs, 0)
    floor = judge(*popularity(graphs.train), graphs.test, [graphs.train, graphs.valid]).recall
    assert found.recall > 1.3 * floor
