"""The supernet by its formulas (OptEmbed), and what is left of it: rows of kept ids at kept widths."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recsys.batches.batch import Bag
from recsys.errors import ConfigError, DataError
from recsys.features.declarations import Feature
from recsys.rows.initial import Initial
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD
from recsys.tables import build_table, plan_tables, with_map
from recsys.tables.embeddings import Embeddings
from recsys.tables.id_files import read_id_map, write_id_map
from recsys.tables.kept_map import KeptIds, KeptMap
from recsys.tables.optembed import OptEmbed, long_tailed_slope, long_tailed_step
from recsys.tables.table import Table

ITEM = Feature(name="item", kind="id", source="item.id", num_embeddings=50)
LIKED = Feature(name="liked", kind="bag", source="user.likes", table="item")
ALPHA = 0.25


def embeddings_of(dim: int = 4, **fields: Any) -> Embeddings:
    described = {"kind": "optembed", "embedding_dim": dim, "alpha": ALPHA, "threshold_rate": 0.5, **fields}
    return Embeddings(plan_tables(described, [ITEM, LIKED], optimizer=SGD(learning_rate=1.0), seed=3))


def supernet(dim: int = 4, **fields: Any) -> OptEmbed:
    table = embeddings_of(dim, **fields).tables["item"]
    assert isinstance(table, OptEmbed)
    return table


def composed(table: Table, rows_ND: Tensor, threshold: Tensor) -> Tensor:
    num = len(rows_ND)
    rows = {"item": rows_ND[:, None], "item.threshold": threshold.expand(num)[:, None, None]}
    return table.compose("item", torch.arange(num), rows)


def test_the_surrogate_slope_is_the_papers_and_its_area_is_as_computed() -> None:
    found = long_tailed_slope(torch.tensor([0.0, 0.1, -0.1, 0.4, 0.41, 1.0, 1.01, -1.01]))
    torch.testing.assert_close(found, torch.tensor([2.0, 1.6, 1.6, 0.4, 0.4, 0.4, 0.0, 0.0]))
    wide = torch.linspace(-1.5, 1.5, 300_001, dtype=torch.float64)
    assert torch.trapezoid(long_tailed_slope(wide), wide).item() == pytest.approx(1.44, abs=1e-4)


def test_the_step_is_one_above_zero_alone() -> None:
    assert long_tailed_step(torch.tensor([-0.1, 0.0, 1e-9])).tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_gradients_are_the_papers(norm: str) -> None:
    """s = ⟨g, m_d ∘ e⟩ σ'(‖e‖ − t); ∂L/∂t = −Σ s − α exp(−t); ∂L/∂e = m_e m_d ∘ g + s ∂‖e‖/∂e."""
    generator = torch.Generator().manual_seed(0)
    rows = (torch.rand(20, 4, generator=generator) - 0.5) * 0.4
    upstream = torch.randn(20, 4, generator=generator)
    mask = (torch.arange(4) <= torch.randint(0, 4, (20, 1), generator=generator)).float()
    table = supernet(norm=norm)
    leaf, threshold = rows.clone().requires_grad_(), torch.tensor(0.4 if norm == "l1" else 0.2, requires_grad=True)
    vectors = composed(table, leaf, threshold) * mask
    ((vectors * upstream).sum() + table.penalty()).backward()

    norms = rows.abs().sum(1) if norm == "l1" else rows.norm(dim=1)
    slopes = rows.sign() if norm == "l1" else rows / norms[:, None]
    excess = norms - threshold.detach()
    kept = (excess > 0).float()
    assert 3 < kept.sum() < 18
    s = (upstream * mask * rows).sum(1) * long_tailed_slope(excess)
    torch.testing.assert_close(vectors.detach(), kept[:, None] * mask * rows)
    torch.testing.assert_close(threshold.grad, -s.sum() - ALPHA * torch.exp(-threshold.detach()))
    torch.testing.assert_close(leaf.grad, kept[:, None] * mask * upstream + s[:, None] * slopes)


def test_at_a_threshold_of_zero_only_rows_of_zeros_are_pruned() -> None:
    rows = torch.tensor([[1e-6, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.1, -0.1, 0.0, 0.0]])
    assert supernet().keeps(rows, torch.tensor(0.0)).tolist() == [True, False, True]


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_a_row_of_zeros_has_a_gradient_of_zeros(norm: str) -> None:
    rows = torch.zeros(2, 4, requires_grad=True)
    composed(supernet(norm=norm), rows, torch.tensor(0.1)).sum().backward()
    assert rows.grad is not None and not rows.grad.any()


def test_a_threshold_descends_by_sgd_at_its_own_rate() -> None:
    embeddings = embeddings_of(initial_scale=0.1)
    store = LocalRows(list(embeddings.groups.values()))
    embeddings.begin_step(7)
    bags = {"item": Bag.of_lists([[3], [4]]), "liked": Bag.of_lists([[5, 6], []])}
    looked = embeddings.lookup(bags, store)
    (sum(vectors.sum() for vectors in embeddings.pool(looked).values()) + embeddings.penalty()).backward()
    gradients = looked.gradients()
    store.push(gradients, 0)
    moved = store.pull({"item.threshold": np.array([0])})["item.threshold"][0, 0]
    assert moved == pytest.approx(-0.5 * gradients["item.threshold"][1][0, 0]) and moved != 0


def test_widths_are_drawn_by_example_and_step_one_to_d_alike() -> None:
    table = supernet(64)
    assert table.drawn("item", 5) is None  # no step has begun
    table.begin_step(1)
    masks = table.drawn("item", 20_000)
    assert masks is not None
    widths = masks.sum(1)
    assert torch.equal(masks, (torch.arange(64) < widths[:, None]).float())
    assert widths.min() == 1 and widths.max() == 64
    assert widths.mean().item() == pytest.approx(32.5, abs=4 * 18.47 / 20_000**0.5)
    table.begin_step(2)
    assert not torch.equal(masks, again(table))
    table.begin_step(1)
    assert torch.equal(masks, again(table))
    assert not torch.equal(masks, again(table, "liked"))
    table.eval()
    assert table.drawn("item", 5) is None


def again(table: OptEmbed, feature: str = "item") -> Tensor:
    masks = table.drawn(feature, 20_000)
    assert masks is not None
    return masks


def test_all_ids_of_a_bag_are_read_at_the_width_of_their_example() -> None:
    embeddings = embeddings_of(8, initial_scale=1.0)
    store = LocalRows(list(embeddings.groups.values()))
    embeddings.begin_step(5)
    lists = [[1, 2, 3], [], [4], [5, 6]] * 10
    looked = embeddings.lookup({"item": Bag.of_lists([[0]] * 40), "liked": Bag.of_lists(lists)}, store)
    vectors = embeddings.vectors("liked", "item", looked).detach()
    widths = (vectors != 0).sum(1).tolist()
    at = 0
    for ids in lists:
        assert len(set(widths[at : at + len(ids)])) <= 1
        at += len(ids)
    assert len(set(widths)) > 4


def test_chosen_ids_and_widths_alone_are_read() -> None:
    table = supernet()
    table.choose(torch.arange(50) != 7, 2)
    assert table.known("item", torch.tensor([6, 7, 50, -1])).tolist() == [True, False, False, False]
    rows = torch.full((3, 4), 0.01)
    assert composed(table, rows, torch.tensor(9.0)).tolist() == (rows * torch.tensor([1.0, 1, 0, 0])).tolist()
    table.choose(None, 4)
    assert table.known("item", torch.tensor([7])).tolist() == [True]
    assert not composed(table, rows, torch.tensor(9.0)).any()


def test_without_any_id_there_is_no_penalty_and_no_graph_of_a_step_before() -> None:
    table = supernet()
    table.begin_step(0)
    composed(table, torch.ones(2, 4), torch.tensor(0.0, requires_grad=True))
    assert table.penalty().item() == ALPHA
    table.begin_step(1)
    assert table.penalty().item() == 0


# --- pruned


def kept_map(width: int = 3) -> KeptMap:
    return KeptMap(method="optembed", data="d", tables={"item": KeptIds.of(np.arange(50) % 3 == 0, width)})


def pruned(**fields: Any) -> list[Any]:
    described = {"kind": "pruned", "embedding_dim": 4, "map": kept_map().to_json(), **fields}
    return plan_tables(described, [ITEM, LIKED], optimizer=SGD(learning_rate=1.0), seed=3)


def test_kept_rows_start_from_what_the_supernet_started_from() -> None:
    """OptEmbed: retrained from the initial values, of which no snapshot is needed."""
    keys = np.array([0, 3, 48])
    (group,), (before, _) = build_table(pruned()[0]).groups, supernet().groups
    assert group.name == before.name and group.seed == before.seed
    expected = LocalRows([before]).pull({"item": keys})["item"][:, :3]
    np.testing.assert_array_equal(LocalRows([group]).pull({"item": keys})["item"], expected)
    assert expected.any()


def test_pruned_ids_are_left_out_and_narrow_rows_end_in_zeros() -> None:
    embeddings = Embeddings([replace(config, initial=Initial(scale=1.0)) for config in pruned(pooling="sum")])
    store = LocalRows(list(embeddings.groups.values()))
    bags, num_unknown = embeddings.known_bags(
        {"item": Bag.of_lists([[3], [4], [99]]), "liked": Bag.of_lists([[3, 4], [5, 6], []])}
    )
    assert num_unknown == 4
    pooled = embeddings.pool(embeddings.lookup(bags, store))
    row = store.pull({"item": np.array([3, 6])})["item"]
    for vectors in (pooled["item", "item"], pooled["item", "liked"]):
        assert vectors[0].tolist() == [*row[0].tolist(), 0.0] and vectors[0].any()
    assert not pooled["item", "item"][1:].any()
    assert pooled["item", "liked"][1].tolist() == [*row[1].tolist(), 0.0]


def test_bytes_are_rows_keys_and_one_map() -> None:
    (config,) = pruned()
    narrow = build_table(config.narrowed(SGD(learning_rate=1.0)))
    found = build_table(config).nbytes("serving")
    bits, counts = 7 + 8, 2 * 4  # 50 bits, and room to read eight bytes; a count for every 64 of those
    assert (found.rows, found.maps) == (17 * 3 * 4, 17 * 8 + bits + counts)
    assert (narrow.nbytes("serving").rows, narrow.nbytes("serving").maps) == (17 * 4, 0)
    assert kept_map().num_weights == 51 and kept_map().sparsity == pytest.approx(1 - 17 / 50)


@given(st.lists(st.booleans(), max_size=300))
def test_ranks_count_the_kept_ids_below(flags: list[bool]) -> None:
    kept = KeptIds.of(np.array(flags, np.bool_), 1)
    ids = np.flatnonzero(flags).astype(np.int64)
    assert kept.num_kept == len(ids)
    assert kept.ranks(ids).tolist() == list(range(len(ids)))
    assert kept.holds(np.arange(-2, len(flags) + 2)).tolist() == [False, False, *flags, False, False]


def test_a_companion_has_a_row_of_each_kept_id_one_after_the_other() -> None:
    (config,) = pruned()
    table = build_table(config.narrowed(SGD(learning_rate=1.0)))
    (group,) = table.groups
    assert group.num_rows == 17
    assert table.address("item", torch.tensor([0, 3, 48]))[group.name].tolist() == [[0], [1], [16]]


def test_a_map_survives_its_file_and_json_and_nothing_else(tmp_path: Any) -> None:
    path = tmp_path / "maps" / "kept.safetensors"
    write_id_map(path, kept_map())
    assert read_id_map(path, KeptMap, "d").to_json() == kept_map().to_json()
    fields = with_map({"kind": "pruned", "map": str(path)}, "d")
    assert fields["map"] == kept_map().to_json()
    with pytest.raises(ConfigError, match="was made for data set 'd', not 'other'"):
        read_id_map(path, KeptMap, "other")
    with pytest.raises(ConfigError, match="there is no such file"):
        read_id_map(tmp_path / "none", KeptMap)
    changed = {**kept_map().to_json(), "data": "other"}
    with pytest.raises(DataError, match="its checksum differs"):
        KeptMap.from_json(changed)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match="is no map of this kind"):
        read_id_map(path, KeptMap)
