"""Product quantisation by value: codes, gradients, the loss's terms, bytes, and what is served of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.errors import ConfigError, DataError
from recsys.features.declarations import Feature
from recsys.rows.optimizers import SGD
from recsys.tables import build_table, plan_tables
from recsys.tables.code_map import CodeMap, IdCodes
from recsys.tables.codes import Codes
from recsys.tables.dpq import DPQ
from recsys.tables.id_files import read_id_map, write_id_map
from recsys.tables.table import Table

ITEM = Feature(name="item", kind="id", source="item.id", num_embeddings=1000)
DIM, M, K = 6, 3, 4


def table_of(kind: str = "dpq", dim: int = DIM, **fields: Any) -> Table:
    described = {"kind": kind, "embedding_dim": dim, "initial_scale": 1.0, **fields}
    return build_table(plan_tables(described, [ITEM], optimizer=SGD(learning_rate=1.0), seed=3)[0])


def dpq(**fields: Any) -> DPQ:
    table = table_of(**{"num_subspaces": M, "num_centroids": K, "commitment": 0.5, **fields})
    assert isinstance(table, DPQ)
    return table


def composed(table: Table, queries_ND: Tensor) -> Tensor:
    return table.compose("item", torch.arange(len(queries_ND)), {"item": queries_ND[:, None]})


def nearest(queries_ND: Tensor, codebooks: Tensor) -> list[list[int]]:
    """By hand."""
    return [
        [
            min(range(K), key=lambda k: float(((query[2 * m : 2 * m + 2] - codebooks[m, k]) ** 2).sum()))
            for m in range(M)
        ]
        for query in queries_ND
    ]


def test_a_vector_is_its_nearest_centroids_side_by_side() -> None:
    table, queries = dpq(), torch.randn(30, DIM, generator=torch.Generator().manual_seed(0))
    codes = nearest(queries, table.codebooks.detach())
    assert table.codes(queries).tolist() == codes
    expected = torch.stack([torch.cat([table.codebooks[m, k] for m, k in enumerate(one)]) for one in codes])
    torch.testing.assert_close(composed(table, queries), expected)
    assert len({tuple(one) for one in codes}) > 10


def test_the_querys_gradient_passes_the_choice_and_the_loss_draws_both() -> None:
    """q: g + β ∂‖q − sg(c)‖²; centroids: ∂‖sg(q) − c‖² of the queries that chose them, and nothing of g."""
    table = dpq()
    queries = torch.randn(5, DIM, generator=torch.Generator().manual_seed(1)).requires_grad_()
    upstream = torch.randn(5, DIM, generator=torch.Generator().manual_seed(2))
    table.begin_step(0)
    vectors = composed(table, queries)
    ((vectors * upstream).sum() + table.penalty()).backward()
    apart = (queries - vectors).detach()
    assert queries.grad is not None and table.codebooks.grad is not None
    torch.testing.assert_close(queries.grad, upstream + 0.5 * 2 * apart / apart.numel())
    expected = torch.zeros_like(table.codebooks)
    for query, codes in enumerate(table.codes(queries.detach()).tolist()):
        for m, k in enumerate(codes):
            expected[m, k] -= 2 * apart[query, 2 * m : 2 * m + 2] / apart.numel()
    torch.testing.assert_close(table.codebooks.grad, expected)
    table.begin_step(1)
    assert table.penalty().item() == 0
    table.eval()
    composed(table, queries)
    assert table.penalty().item() == 0


def test_bytes_are_codes_and_codebooks() -> None:
    """MGQE's count without its frequency classes: (M log₂ K / 8 + codebooks) of 4 D an id."""
    for num_centroids, bits in ((256, 8), (64, 6), (2, 1)):
        table = table_of(dim=16, num_subspaces=8, num_centroids=num_centroids)
        served = table.nbytes("serving")
        assert (served.rows, served.dense) == (0, 4 * 16 * num_centroids)
        assert served.maps == 1000 * 8 * bits // 8 + 8
        codes = np.zeros((1000, 8), np.int64)
        made = CodeMap(method="dpq", data="d", tables={"item": IdCodes.of(codes, num_centroids)})
        assert table_of("codes", 16, map=made.to_json()).nbytes("serving") == served


@pytest.mark.parametrize("budget", [2000, 2400, 4000, 9000])
def test_a_budget_says_how_many_centroids(budget: int) -> None:
    table = table_of(dim=16, num_subspaces=4, num_centroids=None, budget=budget)
    assert isinstance(table, DPQ)
    bits = int(table.codebooks.shape[1]).bit_length() - 1
    assert table.nbytes("serving").total <= budget
    assert 4 * 16 * 2 ** (bits + 1) + 500 * (bits + 1) + 8 > budget  # one more would be too much


def test_what_can_not_be_is_said() -> None:
    with pytest.raises(ConfigError, match="embedding_dim 6 must be a multiple of num_subspaces 4"):
        table_of(num_subspaces=4, num_centroids=4)
    with pytest.raises(ConfigError, match="give budget=636 or more"):  # one bit a code and two centroids
        table_of(dim=16, num_subspaces=4, num_centroids=None, budget=600)
    with pytest.raises(DataError, match=r"are outside \[0, 4\)"):
        IdCodes.of(np.array([[0, 4]]), 4)
    made = CodeMap(method="dpq", data="d", tables={"item": IdCodes.of(np.zeros((1000, 4), np.int64), 4)})
    with pytest.raises(ConfigError, match="no multiple of the 4 sub-spaces"):
        table_of("codes", map=made.to_json())


def test_codes_survive_their_file_and_read_the_same_vectors(tmp_path: Path) -> None:
    table = dpq()
    queries = torch.randn(1000, DIM, generator=torch.Generator().manual_seed(0))
    made = CodeMap(method="dpq", data="d", tables={"item": IdCodes.of(table.codes(queries).numpy(), K)})
    write_id_map(tmp_path / "codes.safetensors", made)
    read = read_id_map(tmp_path / "codes.safetensors", CodeMap, "d")
    assert read.to_json() == made.to_json() == CodeMap.from_json(made.to_json()).to_json()
    coded = table_of("codes", map=read.to_json())
    assert isinstance(coded, Codes) and coded.groups == ()
    coded.load_state_dict(table.state_dict())
    ids = torch.tensor([999, 0, 17, 17])
    torch.testing.assert_close(coded.compose("item", ids, {}), composed(table, queries)[ids], rtol=0, atol=1e-6)
    assert coded.known("item", torch.tensor([-1, 0, 999, 1000])).tolist() == [False, True, True, False]
