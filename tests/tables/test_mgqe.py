"""MGQE by value: who has which centroids, the paper's ratios, and codes of two sorts in one map."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import ConfigError, DataError
from recsys.features.declarations import Feature
from recsys.rows.optimizers import SGD
from recsys.tables import build_table, plan_tables
from recsys.tables.code_map import CodeMap, MixedCodes
from recsys.tables.frequent_map import FrequentMap, most_frequent
from recsys.tables.id_files import read_id_map, write_id_map
from recsys.tables.kept_map import KeptIds
from recsys.tables.mgqe import MGQE

NUM_IDS = 4000


def mgqe(num_ids: int = NUM_IDS, **fields: Any) -> MGQE:
    """A table of which every tenth id is frequent."""
    flags = KeptIds.of(np.arange(num_ids) % 10 == 0, width=1)
    made = FrequentMap(method="counts", data="d", tables={"item": flags})
    item = Feature(name="item", kind="id", source="item.id", num_embeddings=num_ids)
    described = {"kind": "mgqe", "embedding_dim": 16, "initial_scale": 1.0, "map": made.to_json(), **fields}
    table = build_table(plan_tables(described, [item], optimizer=SGD(learning_rate=1.0), seed=3)[0])
    assert isinstance(table, MGQE)
    return table


def drawn_queries(num: int) -> torch.Tensor:
    return torch.randn(num, 16, generator=torch.Generator().manual_seed(0))


def test_rare_ids_read_the_nearest_of_the_first_centroids() -> None:
    table, queries = mgqe(num_subspaces=4, num_centroids=16, rare_centroids=4), drawn_queries(200)
    codes = table.codes(queries, torch.arange(200))
    pieces = queries.view(200, 4, 4)
    for id_ in range(200):
        most = 16 if id_ % 10 == 0 else 4
        for m in range(4):
            distances = (table.codebooks[m, :most] - pieces[id_, m]).square().sum(1)
            assert int(codes[id_, m]) == int(distances.argmin())
    assert int(codes[::10].max()) > 4
    rows = {"item": queries[:, None]}
    torch.testing.assert_close(
        table.compose("item", torch.arange(200), rows),
        torch.cat([table.codebooks[m][codes[:, m]] for m in range(4)], dim=1),
    )


@pytest.mark.parametrize(("num_subspaces", "ratio"), [(8, 0.159), (4, 0.111), (2, 0.087)])
def test_ratios_are_the_papers(num_subspaces: int, ratio: float) -> None:
    """(1 + p (0.1 · 8 + 0.9 · 6) / 32) / 16 of D = 16: its 1 is a whole number an id, which is a bit here."""
    num_ids = 100_000
    table = mgqe(num_ids, num_subspaces=num_subspaces, num_centroids=256, rare_centroids=64)
    served = table.nbytes("serving")
    assert served.dense == 4 * 16 * 256
    full = 4 * 16 * num_ids
    codes = num_ids * num_subspaces * (0.1 * 8 + 0.9 * 6) / 8
    assert (4 * num_ids + codes) / full == pytest.approx(ratio, abs=5e-4)
    flags = num_ids / 8 * 1.5  # a count of four bytes for every eight of them
    assert served.maps == pytest.approx(codes + flags, rel=1e-3)


@pytest.mark.parametrize("num_subspaces", [2, 4])
def test_what_is_counted_before_ids_are_is_what_is_served(num_subspaces: int) -> None:
    sizes: dict[str, Any] = {"num_subspaces": num_subspaces, "num_centroids": 32}
    table, queries = mgqe(**sizes), drawn_queries(NUM_IDS)
    before = mgqe(map=None, frequent_share=0.1, **sizes)
    packed = table.packed(table.codes(queries, torch.arange(NUM_IDS)).numpy())
    assert before.nbytes("serving") == table.nbytes("serving")
    assert packed.nbytes == table.nbytes("serving").maps
    with pytest.raises(ConfigError, match=r"table 'item' \(kind=mgqe\) has no map of frequent ids"):
        before.codes(queries, torch.arange(NUM_IDS))


def test_codes_survive_their_file_and_read_the_same_vectors(tmp_path: Path) -> None:
    table, queries = mgqe(num_subspaces=4, num_centroids=32), drawn_queries(NUM_IDS)
    codes = table.codes(queries, torch.arange(NUM_IDS)).numpy()
    made = CodeMap(method="mgqe", data="d", tables={"item": table.packed(codes)})
    write_id_map(tmp_path / "codes.safetensors", made)
    read = read_id_map(tmp_path / "codes.safetensors", CodeMap)
    assert read.to_json() == made.to_json() == CodeMap.from_json(made.to_json()).to_json()
    item = Feature(name="item", kind="id", source="item.id", num_embeddings=NUM_IDS)
    described = {"kind": "codes", "embedding_dim": 16, "map": read.to_json()}
    coded = build_table(plan_tables(described, [item], optimizer=SGD(learning_rate=1.0), seed=3)[0])
    coded.load_state_dict(table.state_dict())
    ids_N = torch.tensor([7, 3990, 10, 7])
    expected = table.compose("item", ids_N, {"item": queries[ids_N, None]})
    torch.testing.assert_close(coded.compose("item", ids_N, {}), expected)
    assert coded.nbytes("serving") == table.nbytes("serving")


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 63)), min_size=1, max_size=200), st.integers(1, 3))
def test_mixed_codes_are_those_that_were_packed(drawn: list[tuple[bool, int]], num_subspaces: int) -> None:
    is_frequent = np.array([frequent for frequent, _ in drawn])
    codes = np.array([[code] * num_subspaces for _, code in drawn], np.int64)
    codes[~is_frequent] %= 5
    packed = MixedCodes.of(codes, KeptIds.of(is_frequent, 1), num_centroids=64, rare_centroids=5)
    ids_N = np.random.default_rng(0).permutation(len(drawn))
    np.testing.assert_array_equal(packed.at(ids_N), codes[ids_N])


def test_what_can_not_be_is_said() -> None:
    with pytest.raises(ConfigError, match="rare_centroids 16 are more than num_centroids 8"):
        mgqe(num_centroids=8, rare_centroids=16)
    with pytest.raises(DataError, match=r"code 7 of an id that is rare is outside \[0, 4\)"):
        MixedCodes.of(np.array([[7]]), KeptIds.of(np.array([False]), 1), num_centroids=8, rare_centroids=4)


@pytest.mark.parametrize("budget", [6000, 9000, 20_000])
def test_a_budget_says_how_many_centroids(budget: int) -> None:
    table = mgqe(num_subspaces=4, budget=budget)
    twice = mgqe(num_subspaces=4, num_centroids=2 * table.codebooks.shape[1])
    assert table.nbytes("serving").total <= budget < twice.nbytes("serving").total


@given(st.lists(st.integers(0, 5), min_size=1, max_size=50), st.floats(0.01, 0.99))
def test_no_rare_id_occurs_more_often_than_a_frequent_one(counts: list[int], share: float) -> None:
    flags = most_frequent(np.array(counts), share)
    held = flags.holds(np.arange(len(counts)))
    assert held.sum() == round(share * len(counts))
    if held.any() and not held.all():
        assert np.array(counts)[held].min() >= np.array(counts)[~held].max()
