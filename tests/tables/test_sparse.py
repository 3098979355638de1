"""Single weights that stay, end to end; and DeepLight's schedule, threshold and gradients."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recsys.batches.batch import Bag
from recsys.errors import DataError
from recsys.features.declarations import Feature
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD
from recsys.rows.store import Snapshot, fresh_rows
from recsys.tables import plan_tables
from recsys.tables.bucket_map import PackedCodes
from recsys.tables.deeplight import DeepLight, Pruning
from recsys.tables.embeddings import Embeddings
from recsys.tables.sparse import Sparse
from recsys.tables.sparse_map import SparseIds, SparseMap
from recsys.training.magnitudes import Ranked

masks = st.tuples(st.integers(0, 70), st.integers(1, 9)).flatmap(lambda shape: arrays(np.bool_, shape))


def embeddings_of(masks_ID: Any, **fields: Any) -> Embeddings:
    made = SparseMap(method="deeplight", data="d", tables={"item": SparseIds.of(masks_ID)})
    item = Feature(name="item", kind="id", source="item.id", num_embeddings=max(1, len(masks_ID)))
    described = {"kind": "sparse", "embedding_dim": masks_ID.shape[1], "map": made.to_json(), **fields}
    return Embeddings(plan_tables(described, [item], optimizer=SGD(learning_rate=1.0), seed=3))


def sparse(embeddings: Embeddings) -> Sparse:
    table = embeddings.tables["item"]
    assert isinstance(table, Sparse)
    return table


@given(masks)
def test_bits_say_which_numbers_stay_and_where_they_lie(masks_ID: Any) -> None:
    ids = SparseIds.of(masks_ID)
    everyone = np.arange(len(masks_ID))
    np.testing.assert_array_equal(ids.masks(everyone), masks_ID)
    np.testing.assert_array_equal(ids.holds(everyone), masks_ID.any(axis=1))
    np.testing.assert_array_equal(ids.starts(everyone), np.cumsum(masks_ID.sum(axis=1)) - masks_ID.sum(axis=1))
    assert (ids.num_kept, ids.num_weights) == (masks_ID.any(axis=1).sum(), masks_ID.sum())
    outside = np.array([-1, len(masks_ID), 2**62])
    assert not ids.holds(outside).any() and not ids.masks(outside).any()
    again = SparseIds.unpacked(ids.packed.data, ids.about())
    np.testing.assert_array_equal(again.masks(everyone), masks_ID)


def test_bits_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="6 bits of 2 ids, 1 of which have rows of width 3: 5 are needed"):
        SparseIds(PackedCodes.of(np.array([1, 0, 1, 0, 1, 1]), 1), num_ids=2, width=3)


@given(masks.filter(lambda masks_ID: masks_ID.any()))
@settings(deadline=None)
def test_a_vector_is_the_row_with_zeros_where_numbers_have_gone(masks_ID: Any) -> None:
    embeddings = embeddings_of(masks_ID)
    full_ID = np.random.default_rng(0).standard_normal(masks_ID.shape).astype(np.float32)
    (group,) = embeddings.groups.values()
    store = LocalRows([group])
    store.restore(Snapshot((0,), {"item": fresh_rows(group, *sparse(embeddings).packed(full_ID))}))
    kept_N = np.flatnonzero(masks_ID.any(axis=1))
    found = embeddings.embed("item", "item", kept_N, store).numpy()
    np.testing.assert_array_equal(found, (full_ID * masks_ID)[kept_N])
    assert group.num_rows == -(-int(masks_ID.sum()) // masks_ID.shape[1])


@given(masks.filter(lambda masks_ID: masks_ID.any()))
@settings(deadline=None)
def test_a_step_moves_the_numbers_of_its_ids_and_no_others(masks_ID: Any) -> None:
    embeddings = embeddings_of(masks_ID)
    store = LocalRows(list(embeddings.groups.values()))
    kept_N = np.flatnonzero(masks_ID.any(axis=1))
    before = embeddings.embed("item", "item", kept_N, store).numpy()
    first = kept_N[:1]
    looked = embeddings.lookup({"item": Bag(first, np.array([0, 1]))}, store)
    upstream = torch.arange(1.0, masks_ID.shape[1] + 1)
    (embeddings.vectors("item", "item", looked) * upstream).sum().backward()
    store.push(looked.gradients(), 0)
    after = embeddings.embed("item", "item", kept_N, store).numpy()
    np.testing.assert_allclose(after[0], before[0] - upstream.numpy() * masks_ID[first[0]], atol=1e-6)
    np.testing.assert_array_equal(after[1:], before[1:])


@pytest.mark.parametrize(("ratio", "dim", "expected"), [(0.5, 16, 0.219), (0.1, 16, 0.033)])
def test_bits_leave_room_for_more_weights_than_column_numbers(ratio: float, dim: int, expected: float) -> None:
    """Of the full table's bytes: compressed sparse rows have (rd − 1) / 2d of the weights, coordinates r / 3."""
    of_columns = (ratio * dim - 1) / (2 * dim) if ratio * dim >= 3 else ratio / 3
    assert of_columns == pytest.approx(expected, abs=5e-4)
    num_ids = 4000
    num = int(1.5 * of_columns * num_ids * dim)  # half as many again
    masks_ID = np.zeros(num_ids * dim, np.bool_)
    masks_ID[np.random.default_rng(0).permutation(num_ids * dim)[:num]] = True
    taken = sparse(embeddings_of(masks_ID.reshape(num_ids, dim))).nbytes("serving")
    assert taken.rows == 4 * dim * -(-num // dim)
    assert taken.total < ratio * 4 * num_ids * dim
    companion = embeddings_of(masks_ID.reshape(num_ids, dim)).tables["item"].config.narrowed(SGD(learning_rate=1.0))
    assert Embeddings([companion]).tables["item.first_order"].nbytes("serving").total == 4 * int(
        masks_ID.reshape(num_ids, dim).any(axis=1).sum()
    )


# --- DeepLight


def test_the_schedule_is_the_papers() -> None:
    paper = Pruning(sparsity=0.9)
    assert paper.rate(0) == 0 and paper.rate(10_000) == pytest.approx(0.634 * 0.9, abs=1e-3)
    assert 0.9 - paper.rate(68_732) < 0.9e-3 < 0.9 - paper.rate(68_700)


def test_what_is_below_the_threshold_reads_zero_and_learns_on() -> None:
    item = Feature(name="item", kind="id", source="item.id", num_embeddings=50)
    fields = {"kind": "deeplight", "embedding_dim": 3, "compression": 5}
    (config,) = plan_tables(fields, [item], optimizer=SGD(learning_rate=1.0), seed=3)
    table = Embeddings([config]).tables["item"]
    assert isinstance(table, DeepLight) and table.pruning.sparsity == pytest.approx(0.8)
    rows = torch.tensor([[[0.5, -0.2, 0.1]], [[-0.1, 0.3, 0.0]]], requires_grad=True)
    assert torch.equal(table.compose("item", torch.tensor([4, 5]), {"item": rows}), rows[:, 0])
    table.threshold.fill_(0.2)
    vectors = table.compose("item", torch.tensor([4, 5]), {"item": rows})
    torch.testing.assert_close(vectors, torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.3, 0.0]]))
    (vectors * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert rows.grad is not None and rows.grad[:, 0].tolist() == [[1.0, 2.0, 3.0]] * 2


# --- which stay


@given(arrays(np.float32, (6, 3), elements=st.sampled_from([0.0, 0.5, -0.5, 1.0, -2.0, 3.0])), st.integers(0, 18))
def test_the_largest_stay_and_equal_ones_together(vectors_ID: Any, num: int) -> None:
    ranked = Ranked({"a": vectors_ID[:2], "b": vectors_ID[2:]})
    kept = np.concatenate(list(ranked.largest(num).values()))
    assert kept.sum() <= num and not kept[vectors_ID == 0].any()
    magnitudes = np.abs(vectors_ID)
    assert magnitudes[kept].min(initial=9) > magnitudes[~kept].max(initial=-1) or not kept.any()
    assert ranked.num_alive == (vectors_ID != 0).sum()
    assert ranked.largest(18)["a"].sum() == (vectors_ID[:2] != 0).sum()
    num_within = ranked.most_within(10, lambda n: n, "budget=10")
    assert num_within == min(10, ranked.num_alive)
