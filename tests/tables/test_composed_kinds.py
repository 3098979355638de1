"""Kinds whose vectors are composed: each against a few lines that look up the slow way, counts, and starting scales."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from recsys import hashing
from recsys.batches.batch import Bag
from recsys.errors import ConfigError
from recsys.features.declarations import Feature
from recsys.rows.initial import Initial
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD, Optimizer
from recsys.tables import build_table, plan_tables
from recsys.tables.compositional import CompositionalConfig, Operation
from recsys.tables.dhe import DHEConfig
from recsys.tables.double_hash import DoubleHashConfig
from recsys.tables.embeddings import Embeddings
from recsys.tables.hash_embedding import HashEmbeddingConfig
from recsys.tables.robe import Robe, RobeConfig
from recsys.tables.table import Table, TableConfig
from recsys.tables.tt_rec import TTRec, TTRecConfig, dim_factors, id_factors

OPTIMIZER: Optimizer = SGD(learning_rate=1.0)
IDS = np.array([0, 1, 7, 41, 2**62, -5])


def common(dim: int = 8, scale: float = 0.05, seed: int = 5) -> dict[str, Any]:
    return {
        "name": "t",
        "embedding_dim": dim,
        "feature_names": ("f",),
        "optimizer": OPTIMIZER,
        "initial": Initial(scale=scale),
        "seed": seed,
    }


def looked_up(config: TableConfig, ids: np.ndarray = IDS) -> tuple[Table, dict[str, np.ndarray], np.ndarray]:
    """The table, all its rows by the end of their group's name, and the vectors of ids."""
    embeddings = Embeddings([config])
    table = embeddings.tables["t"]
    store = LocalRows(list(table.groups))
    rows = store.pull({group.name: np.arange(group.num_rows or 0) for group in table.groups})
    vectors_ND = embeddings.embed("t", "f", ids, store).detach().numpy()
    return table, {name.removeprefix("t").removeprefix("."): part for name, part in rows.items()}, vectors_ND


# --- double hash, hash embeddings


def test_double_hash_is_a_sum_bag_of_two_hashed_ids() -> None:
    table, rows, vectors_ND = looked_up(DoubleHashConfig(**common(), num_buckets=11))
    keys_N2 = table.address("f", torch.from_numpy(IDS))["t"]
    bags = nn.functional.embedding_bag(keys_N2, torch.from_numpy(rows[""]), mode="sum")
    np.testing.assert_allclose(vectors_ND, bags.numpy(), rtol=1e-6)


def test_two_hashes_collide_as_if_they_were_independent() -> None:
    """One pair of ids in M shares a hash, 2 in M² both: of N ids N²/M² pairs, here 25 ± 5; a lone one has N²/2M."""
    num_ids, num_buckets = 5000, 1000
    table = build_table(DoubleHashConfig(**common(), num_buckets=num_buckets))
    keys_N2 = table.address("f", torch.arange(num_ids))["t"].sort(dim=1).values
    both = torch.unique(keys_N2, dim=0, return_counts=True)[1]
    lone = torch.unique(keys_N2[:, 0] * 0 + table.address("f", torch.arange(num_ids))["t"][:, 0], return_counts=True)[1]
    assert sum(count * (count - 1) // 2 for count in both.tolist()) == pytest.approx(25, abs=25)
    pairs = sum(count * (count - 1) // 2 for count in lone.tolist())
    assert pairs == pytest.approx(num_ids * (num_ids - 1) / 2 / num_buckets, rel=0.05)


def test_hash_embeddings_weigh_shared_rows_by_the_ids_own() -> None:
    config = HashEmbeddingConfig(**common(), num_buckets=11, num_weights=30, num_hashes=3)
    table = build_table(config)
    addressed = table.address("f", torch.from_numpy(IDS))
    rows = {
        group.name: torch.randn(group.num_rows or 0, group.width, generator=torch.Generator().manual_seed(1))
        for group in table.groups
    }
    found = table.compose("f", torch.from_numpy(IDS), {name: part[addressed[name]] for name, part in rows.items()})
    for at in range(len(IDS)):
        weights = 1 / math.sqrt(3) + rows["t.weights"][addressed["t.weights"][at, 0]]
        expected = sum(weights[k] * rows["t"][addressed["t"][at, k]] for k in range(3))
        torch.testing.assert_close(found[at], expected)
    assert {group.name: (group.num_rows, group.width) for group in table.groups} == {"t": (11, 8), "t.weights": (30, 3)}


# --- quotient and remainder


@pytest.mark.parametrize("operation", ["product", "sum", "concat"])
def test_quotient_and_remainder_are_put_together(operation: Operation) -> None:
    config = CompositionalConfig(**common(), num_ids=1000, num_remainders=10, operation=operation)
    ids = np.array([0, 9, 10, 999, 123])
    table, rows, vectors_ND = looked_up(config, ids)
    assert sum(group.num_rows or 0 for group in table.groups) == 110
    quotient, remainder = rows["quotient"][ids // 10], rows["remainder"][ids % 10]
    expected = {
        "product": quotient * remainder,
        "sum": quotient + remainder,
        "concat": np.concatenate([quotient, remainder], axis=1),
    }
    np.testing.assert_allclose(vectors_ND, expected[operation], rtol=1e-6)


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_no_two_ids_share_quotient_and_remainder(num_ids: int, num_remainders: int) -> None:
    table = build_table(CompositionalConfig(**common(), num_ids=num_ids, num_remainders=num_remainders))
    keys = torch.cat(list(table.address("f", torch.arange(num_ids)).values()), dim=1)
    assert len(torch.unique(keys, dim=0)) == num_ids
    assert all(int(keys[:, at].max()) < (group.num_rows or 0) for at, group in enumerate(table.groups))


def test_ids_beyond_float32_have_their_own_quotient() -> None:
    """In float32, 2^24 + 1 is 2^24."""
    num_ids, ids = 2**26, torch.tensor([2**24, 2**24 + 1, 2**26 - 1])
    keys = build_table(CompositionalConfig(**common(), num_ids=num_ids, num_remainders=2)).address("f", ids)
    assert keys["t.quotient"][:, 0].tolist() == [2**23, 2**23, 2**25 - 1]
    assert keys["t.remainder"][:, 0].tolist() == [0, 1, 1]


def test_products_are_taken_of_each_id_before_a_bag_is_pooled() -> None:
    embeddings = Embeddings([CompositionalConfig(**common(scale=1.0), num_ids=100, num_remainders=10)])
    store = LocalRows(list(embeddings.groups.values()))
    pooled = embeddings.pool(embeddings.lookup({"f": Bag.of_lists([[3, 47]])}, store))["t", "f"]
    apart = embeddings.embed("t", "f", np.array([3, 47]), store)
    torch.testing.assert_close(pooled[0], apart.sum(0))


# --- ROBE


@pytest.mark.parametrize(("block_size", "num_rows"), [(8, 5), (4, 7), (2, 1), (1, 3)])
def test_robe_reads_on_around_the_end_of_one_array_with_signs(block_size: int, num_rows: int) -> None:
    ids = np.arange(200)
    table, rows, vectors_ND = looked_up(RobeConfig(**common(), num_rows=num_rows, block_size=block_size), ids)
    assert isinstance(table, Robe)
    array = rows[""].reshape(-1)
    signs_ND = table.signs(torch.from_numpy(ids)).numpy()
    wrapped = 0
    for at, id_ in enumerate(ids):
        for block in range(8 // block_size):
            seed = hashing.seed_of(5, "t", "block", block)
            (start,) = hashing.hash_to_range(np.array([id_]), len(array), seed)
            wrapped += start + block_size > len(array)
            for z in range(block_size):
                column = block * block_size + z
                expected = array[(start + z) % len(array)] * signs_ND[at, column]
                assert vectors_ND[at, column] == expected
    assert block_size == 1 or wrapped > 0
    assert set(np.unique(signs_ND)) == {-1, 1} and abs(signs_ND.mean()) < 0.1
    assert abs(np.corrcoef(signs_ND, rowvar=False) - np.eye(8)).max() < 0.35


def test_robe_signs_go_on_after_64_columns() -> None:
    table = build_table(RobeConfig(**common(dim=100), num_rows=5))
    assert isinstance(table, Robe)
    signs_ND = table.signs(torch.arange(300)).numpy()
    assert signs_ND.shape == (300, 100)
    assert abs(np.corrcoef(signs_ND, rowvar=False) - np.eye(100)).max() < 0.35


# --- tensor train


def size_of(table: Table) -> int:
    return sum((group.num_rows or 0) * group.width for group in table.groups)


@pytest.mark.parametrize(
    ("id_parts", "ranks", "numbers"), [((200, 220, 250), (32, 32), 958_720), ((120, 90, 110), (12, 14), 72_400)]
)
def test_cores_have_as_many_numbers_as_the_formula_says(
    id_parts: tuple[int, int, int], ranks: tuple[int, int], numbers: int
) -> None:
    config = TTRecConfig(
        **common(dim=64), num_ids=math.prod(id_parts), ranks=ranks, id_factors=id_parts, dim_factors=(4, 4, 4)
    )
    assert size_of(build_table(config)) == numbers


def test_a_lookup_is_a_row_of_the_whole_matrix() -> None:
    config = TTRecConfig(**common(dim=24), num_ids=60, ranks=(3, 5), id_factors=(3, 4, 5), dim_factors=(2, 4, 3))
    _, rows, vectors_ND = looked_up(config, np.arange(60))
    first, second, third = (
        rows[f"core{at}"].reshape(shape) for at, shape in ((1, (3, 2, 3)), (2, (4, 3, 4, 5)), (3, (5, 5, 3)))
    )
    matrix = np.einsum("iar,jrbs,ksc->ijkabc", first, second, third).reshape(60, 24)
    np.testing.assert_allclose(vectors_ND, matrix, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("ids", [[5] * 7, list(range(60)), [1, 3, 3, 59, 0], [*range(0, 60, 5), *range(5)], []])
def test_ids_of_one_digit_are_contracted_together_as_if_alone(ids: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    config = TTRecConfig(**common(dim=24, scale=1.0), num_ids=60, ranks=(3, 5))
    table = build_table(config)
    store = LocalRows(list(table.groups))

    def gradients() -> tuple[torch.Tensor, dict[str, np.ndarray]]:
        embeddings = Embeddings([config])
        looked = embeddings.lookup({"f": Bag.of_lists([[id_] for id_ in ids])}, store)
        vectors_ND = embeddings.vectors("f", "t", looked)
        (vectors_ND * torch.arange(len(ids) * 24.0).view(-1, 24).sin()).sum().backward()
        return vectors_ND.detach(), {name: found[1] for name, found in looked.gradients().items()}

    vectors_ND, found = gradients()
    monkeypatch.setattr("recsys.tables.tt_rec._MOST_PADDING", 0)
    alone_ND, expected = gradients()
    torch.testing.assert_close(vectors_ND, alone_ND)
    for name, gradients_UW in expected.items():
        np.testing.assert_allclose(found[name], gradients_UW, rtol=1e-4, atol=1e-5)


@given(st.integers(1, 10**9))
def test_digits_name_every_id_and_little_more(num_ids: int) -> None:
    p1, p2, p3 = id_factors(num_ids)
    assert num_ids <= p1 * p2 * p3 < num_ids + p2 * p3
    assert max(p1, p2, p3) <= round(num_ids ** (1 / 3)) + 2


@given(st.integers(1, 256))
def test_dim_factors_multiply_to_the_dimension(dim: int) -> None:
    assert math.prod(dim_factors(dim)) == dim


def test_no_two_ids_have_the_same_digits() -> None:
    table = build_table(TTRecConfig(**common(), num_ids=500))
    assert isinstance(table, TTRec)
    keys = torch.cat(list(table.address("f", torch.arange(500)).values()), dim=1)
    assert len(torch.unique(keys, dim=0)) == 500


# --- deep hash embeddings


def test_dhe_has_as_many_parameters_as_counted_to_the_last_bias() -> None:
    table = build_table(DHEConfig(**common(dim=16), num_hashes=1024, hidden_size=64, num_layers=5))
    assert sum(parameter.numel() for parameter in table.parameters()) == 83_920
    assert table.groups == () and table.nbytes("serving").total == 4 * 83_920


def test_dhe_codes_are_within_one_and_independent() -> None:
    table: Any = build_table(DHEConfig(**common(), num_hashes=32))
    codes = table.codes(torch.arange(2000)).numpy()
    assert codes.min() >= -1 and codes.max() < 1
    assert codes.std() == pytest.approx(1 / math.sqrt(3), rel=0.01)
    assert abs(np.corrcoef(codes, rowvar=False) - np.eye(32)).max() < 0.1


# --- all of them


SCALED: list[TableConfig] = [
    DoubleHashConfig(**common(), num_buckets=4000),
    HashEmbeddingConfig(**common(), num_buckets=4000, num_weights=4000),
    *(CompositionalConfig(**common(), num_ids=9000, num_remainders=95, operation=op) for op in ("product", "sum")),
    RobeConfig(**common(), num_rows=4000),
    TTRecConfig(**common(), num_ids=9000, ranks=(6, 4)),
    DHEConfig(**common()),
    DHEConfig(**common(), hidden_size=4),
]


@pytest.mark.parametrize("config", SCALED, ids=lambda config: config.kind)
def test_vectors_start_at_the_scale_of_a_full_tables_rows(config: TableConfig) -> None:
    """Uniform in ±s has the standard deviation s / √3."""
    _, _, vectors_ND = looked_up(config, np.arange(9000))
    assert vectors_ND.std() == pytest.approx(0.05 / math.sqrt(3), rel=0.15)
    assert abs(vectors_ND.mean()) < 0.01


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "compositional", "operation": "concat", "embedding_dim": 3}, "embedding_dim 3 is odd"),
        ({"kind": "robe", "block_size": 3}, "embedding_dim 16 must be a multiple of block_size 3"),
        ({"kind": "compositional", "operation": "min"}, "table.operation='min': give product or sum or concat"),
        ({"kind": "dhe", "hidden_size": 1}, "table.hidden_size=1: give a whole number of at least 4"),
        ({"kind": "frequency", "hot_share": 1}, "table.hot_share=1: give a number above 0 and below 1"),
        ({"kind": "mde", "alpha": 1.5}, "table.alpha=1.5: give a number between 0 and 1"),
        ({"kind": "int8", "row_format": "float32"}, "table.row_format='float32': give int8"),
        ({"kind": "int16", "row_format": "int8"}, "table.row_format='int8': give int16"),
        ({"kind": "int8", "budget": 100}, "table.budget=100 allows 100 bytes, and these tables take 2,000 at least"),
    ],
)
def test_mistakes_in_the_fields_of_these_kinds(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_tables(
            fields,
            [Feature(name="user", kind="id", source="user.id", num_embeddings=100)],
            optimizer=OPTIMIZER,
            seed=0,
        )


@pytest.mark.parametrize("kind", ["double_hash", "hash_embedding", "compositional", "robe", "tt_rec", "frequency"])
def test_kinds_that_need_a_size_say_so(kind: str) -> None:
    unsized = Feature(name="query", kind="id", source="profile.query")
    with pytest.raises(ConfigError, match=rf"table 'query' \(kind={kind}\): \w+ is None; set "):
        (config,) = plan_tables({"kind": kind}, [unsized], optimizer=OPTIMIZER, seed=0)
        build_table(config)
