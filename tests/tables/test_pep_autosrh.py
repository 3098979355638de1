"""PEP's thresholds and AutoSrh's gates, by their formulas."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from recsys.batches.batch import Bag
from recsys.errors import ConfigError
from recsys.features.declarations import Feature
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD
from recsys.tables import plan_tables
from recsys.tables.code_map import CodeMap, IdCodes
from recsys.tables.embeddings import Embeddings
from recsys.tables.pep import soft_thresholded

ITEM = Feature(name="item", kind="id", source="item.id", num_embeddings=50)
DIM = 3


def embeddings_of(kind: str, **fields: Any) -> Embeddings:
    described = {"kind": kind, "embedding_dim": DIM, "initial_scale": 0.5, **fields}
    return Embeddings(plan_tables(described, [ITEM], optimizer=SGD(learning_rate=1.0), seed=3))


# --- PEP


def test_soft_thresholds_and_their_gradients_are_the_papers() -> None:
    """∂L/∂v = g and ∂L/∂s = −Σ g sign(v) σ(s) (1 − σ(s)) of what is alive; 0 of what is not."""
    generator = torch.Generator().manual_seed(0)
    rows = (torch.rand(20, DIM, generator=generator) - 0.5).requires_grad_()
    starts = torch.linspace(-4, -0.5, 20)[:, None].requires_grad_()
    upstream = torch.randn(20, DIM, generator=generator)
    found = soft_thresholded(rows, starts)
    (found * upstream).sum().backward()
    sigma = torch.sigmoid(starts.detach())
    alive = rows.detach().abs() > sigma
    assert 10 < alive.sum() < 50
    torch.testing.assert_close(found.detach(), torch.where(alive, rows - rows.sign() * sigma, 0.0).detach())
    torch.testing.assert_close(rows.grad, upstream * alive)
    expected = -(upstream * rows.detach().sign() * alive).sum(1, keepdim=True) * sigma * (1 - sigma)
    torch.testing.assert_close(starts.grad, expected)


@pytest.mark.parametrize(
    ("granularity", "keys", "width"),
    [("global", [0, 0], 1), ("dimension", [0, 0], DIM), ("feature", [7, 9], 1), ("feature_dimension", [7, 9], DIM)],
)
def test_what_has_a_threshold_of_its_own(granularity: str, keys: list[int], width: int) -> None:
    embeddings = embeddings_of("pep", granularity=granularity)
    table = embeddings.tables["item"]
    assert table.address("item", torch.tensor([7, 9]))["item.threshold"][:, 0].tolist() == keys
    assert embeddings.groups["item.threshold"].width == width
    narrow = Embeddings([table.config.narrowed(SGD(learning_rate=1.0))])
    assert list(narrow.groups) == ["item.first_order"]


def test_thresholds_rise_by_their_decay_each_once_a_step() -> None:
    decay, start = 0.25, -8.0
    for granularity, num_read in (("feature", 2), ("feature_dimension", 2 * DIM), ("global", 1)):
        embeddings = embeddings_of(
            "pep", granularity=granularity, threshold_decay=decay, initial_threshold=1 / (1 + math.exp(-start))
        )
        embeddings.begin_step(1)
        store = LocalRows(list(embeddings.groups.values()))
        bags = {"item": Bag(np.array([7, 9, 7]), np.arange(4))}
        embeddings.pool(embeddings.lookup(bags, store))
        assert embeddings.penalty().item() == pytest.approx(decay / 2 * start**2 * num_read)
        embeddings.begin_step(2)
        looked = embeddings.lookup(bags, store)
        embeddings.pool(looked)
        embeddings.penalty().backward()
        before = store.pull({"item.threshold": np.array([7])})["item.threshold"]
        store.push(looked.gradients(), 0)
        keys = np.array([7 if granularity != "global" else 0])
        assert (store.pull({"item.threshold": keys})["item.threshold"] > before).all()


def test_a_start_without_a_gradient_is_refused() -> None:
    assert torch.sigmoid(torch.tensor(-150.0, requires_grad=True)).item() == 0.0  # of float32
    with pytest.raises(ConfigError, match="initial_threshold"):
        embeddings_of("pep", initial_threshold=7e-66)


# --- AutoSrh


def test_vectors_are_rows_times_the_gates_of_their_group() -> None:
    groups_I = np.arange(50) % 4
    made = CodeMap(method="autosrh", data="d", tables={"item": IdCodes.of(groups_I[:, None], 4)})
    embeddings = embeddings_of("autosrh", map=made.to_json(), num_groups=4, gate_l1=0.5)
    table = embeddings.tables["item"]
    ids_N = torch.tensor([5, 6, 9, 5])
    assert table.address("item", ids_N)["item.gates"][:, 0].tolist() == [1, 2, 1, 1]
    rows_ND = torch.arange(12.0).view(4, DIM)
    gates = torch.tensor([[0.0, 0.5, -3.0], [0.0, 0.0, 0.0]])[torch.tensor([0, 1, 0, 0])]
    found = table.compose("item", ids_N, {"item": rows_ND[:, None], "item.gates": gates[:, None]})
    torch.testing.assert_close(found, rows_ND * (1 + gates))
    gates.requires_grad_()
    table.begin_step(1)
    table.compose("item", ids_N, {"item": rows_ND[:, None], "item.gates": gates[:, None]})
    assert table.penalty().item() == pytest.approx(0.5 * (1 + 1.5 + 2 + 3))  # each group once


def test_without_groups_all_ids_have_the_same_gates() -> None:
    table = embeddings_of("autosrh").tables["item"]
    assert table.address("item", torch.tensor([5, 6]))["item.gates"].tolist() == [[0], [0]]
