"""The collection against torchrec itself: outputs, gradients and the rows after optimizer steps."""

import importlib
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys import hashing
from recsys.collection import EmbeddingBagCollection, KeyedJaggedTensor, KeyedTensor, torchrec, unified_in_torchrec
from recsys.errors import ConfigError, DataError, DependencyError
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD, Adagrad, Adam, Optimizer
from recsys.rows.store import Snapshot, fresh_rows
from recsys.tables.full import FullConfig
from recsys.tables.unified import UnifiedConfig

SUM, MEAN = torchrec.PoolingType.SUM, torchrec.PoolingType.MEAN
TABLES = [
    torchrec.EmbeddingBagConfig(
        name="item", num_embeddings=20, embedding_dim=4, feature_names=["shown", "liked"], pooling=MEAN
    ),
    torchrec.EmbeddingBagConfig(name="genre", num_embeddings=7, embedding_dim=6, feature_names=["genres"], pooling=SUM),
    torchrec.EmbeddingBagConfig(  # liked is in two tables: liked@item, liked@bias
        name="bias", num_embeddings=20, embedding_dim=1, feature_names=["liked"], pooling=SUM
    ),
]
SUMMED = [
    torchrec.EmbeddingBagConfig(
        name=table.name,
        num_embeddings=table.num_embeddings,
        embedding_dim=table.embedding_dim,
        feature_names=table.feature_names,
        pooling=SUM,
    )
    for table in TABLES
]
SIZES = {"shown": 20, "liked": 20, "genres": 7}


def random_features(seed: int, num_examples: int = 9, longest: int = 5, weighted: bool = False) -> KeyedJaggedTensor:
    """Bags of 0 … longest ids a feature, in an order that is not the tables'."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, longest + 1, (len(SIZES), num_examples), generator=generator)
    order = ["genres", "shown", "liked"]
    values = [
        torch.randint(0, SIZES[name], (int(row.sum()),), generator=generator)
        for name, row in zip(order, lengths, strict=True)
    ]
    weights = torch.rand(int(lengths.sum()), generator=generator) if weighted else None
    return KeyedJaggedTensor(keys=order, values=torch.cat(values), lengths=lengths.reshape(-1), weights=weights)


def pair(
    tables: list[torchrec.EmbeddingBagConfig], optimizer: Optimizer, is_weighted: bool = False
) -> tuple[EmbeddingBagCollection, torchrec.EmbeddingBagCollection]:
    """Ours and torchrec's, with torchrec's weights."""
    theirs = torchrec.EmbeddingBagCollection(tables=tables, is_weighted=is_weighted)
    ours = EmbeddingBagCollection(tables=tables, is_weighted=is_weighted, optimizer=optimizer)
    groups = {}
    for name, bag in theirs.embedding_bags.items():
        weight = bag.weight.detach().numpy().copy()
        groups[name] = fresh_rows(ours.store.groups[name], np.arange(len(weight)), weight)
    ours.store.restore(Snapshot((0,), groups))
    return ours, theirs


def loss_of(output: KeyedTensor) -> torch.Tensor:
    """Something with a different gradient in every cell."""
    values = output.values()
    return (torch.sin(values + torch.arange(values.numel()).view_as(values)) * values).sum()


def assert_same_rows(ours: EmbeddingBagCollection, theirs: torchrec.EmbeddingBagCollection) -> None:
    for name, bag in theirs.embedding_bags.items():
        weight = bag.weight.detach().numpy()
        rows = ours.store.pull({name: np.arange(len(weight))})[name]
        np.testing.assert_allclose(rows, weight, rtol=1e-5, atol=1e-6, err_msg=name)


def test_output_has_torchrecs_names_order_lengths_and_values() -> None:
    ours, theirs = pair(TABLES, SGD(learning_rate=1.0))
    mine, reference = ours(random_features(0)), theirs(random_features(0))
    assert mine.keys() == reference.keys() == ["shown", "liked@item", "genres", "liked@bias"]
    assert mine.length_per_key() == reference.length_per_key() == [4, 4, 6, 1]
    assert mine.offset_per_key() == reference.offset_per_key()
    torch.testing.assert_close(mine.values(), reference.values())
    for key in reference.keys():  # noqa: SIM118 (a KeyedTensor is no dict)
        torch.testing.assert_close(mine[key], reference[key])


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_examples=st.integers(1, 6),
    longest=st.integers(0, 4),
    weighted=st.booleans(),
)
def test_outputs_equal_torchrecs_for_any_bags(seed: int, num_examples: int, longest: int, weighted: bool) -> None:
    ours, theirs = pair(SUMMED if weighted else TABLES, SGD(learning_rate=1.0), is_weighted=weighted)
    features = random_features(seed, num_examples, longest, weighted)
    torch.testing.assert_close(ours(features).values(), theirs(features).values())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("optimizer", "torchs"),
    [
        (SGD(learning_rate=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
        (Adagrad(learning_rate=0.1), lambda p: torch.optim.Adagrad(p, lr=0.1)),
    ],
)
def test_rows_equal_torchrecs_after_steps(
    optimizer: Optimizer, torchs: Callable[..., torch.optim.Optimizer], weighted: bool
) -> None:
    ours, theirs = pair(SUMMED if weighted else TABLES, optimizer, is_weighted=weighted)
    reference = torchs(theirs.parameters())
    for seed in range(4):
        features = random_features(seed, weighted=weighted)
        output = ours(features)
        loss_of(output).backward()
        ours.push(event_time_ms=seed)
        reference.zero_grad()
        expected = theirs(features)
        loss_of(expected).backward()
        reference.step()
        torch.testing.assert_close(output.values(), expected.values(), rtol=1e-5, atol=1e-6)
        assert_same_rows(ours, theirs)


def test_adam_equals_torchs_where_every_step_touches_every_row() -> None:
    ours, theirs = pair(TABLES, Adam(learning_rate=0.01))
    reference = torch.optim.Adam(theirs.parameters(), lr=0.01)
    everything = KeyedJaggedTensor(
        keys=list(SIZES),
        values=torch.cat([torch.arange(size) for size in SIZES.values()]),
        lengths=torch.tensor(list(SIZES.values())),
    )
    for _ in range(5):
        reference.zero_grad()
        loss_of(theirs(everything)).backward()
        reference.step()
        loss_of(ours(everything)).backward()
        ours.push(event_time_ms=0)
        assert_same_rows(ours, theirs)


def test_a_push_sums_all_backwards_since_the_last() -> None:
    ours, theirs = pair(TABLES, Adagrad(learning_rate=0.1))
    reference = torch.optim.Adagrad(theirs.parameters(), lr=0.1)
    kept = ours(random_features(1))
    for seed in (0, 1):
        loss_of(ours(random_features(seed))).backward()
        loss_of(theirs(random_features(seed))).backward()
    reference.step()
    ours.push(event_time_ms=0)
    assert_same_rows(ours, theirs)
    ours.push(event_time_ms=0)  # nothing since: nothing changes
    assert_same_rows(ours, theirs)
    assert kept.values().requires_grad  # a forward without a backward pushed nothing


def test_two_backwards_through_one_forward_around_a_push_count_once_each() -> None:
    ours, _ = pair(TABLES, SGD(learning_rate=1.0))
    features = random_features(3)
    start = ours(features).values().detach()
    output = ours(features)
    for _ in range(2):
        output["genres"].sum().backward(retain_graph=True)
        ours.push(event_time_ms=0)
    twice = ours(features).values().detach() - start
    ours, _ = pair(TABLES, SGD(learning_rate=1.0))
    start = ours(features).values().detach()
    ours(features)["genres"].sum().backward()
    ours.push(event_time_ms=0)
    once = ours(features).values().detach() - start
    torch.testing.assert_close(twice, 2 * once, rtol=1e-4, atol=1e-5)


def test_discarded_gradients_are_not_pushed() -> None:
    ours, theirs = pair(TABLES, SGD(learning_rate=1.0))
    loss_of(ours(random_features(0))).backward()
    ours.discard_gradients()
    ours.push(event_time_ms=0)
    assert_same_rows(ours, theirs)


def test_without_gradients_nothing_is_watched() -> None:
    ours, _ = pair(TABLES, SGD(learning_rate=1.0))
    with torch.no_grad():
        assert not ours(random_features(0)).values().requires_grad


def test_start_has_torchrecs_distribution() -> None:
    config = torchrec.EmbeddingBagConfig(name="t", num_embeddings=400, embedding_dim=8, feature_names=[])
    ours = EmbeddingBagCollection(tables=[config])
    rows = ours.store.pull({"t": np.arange(400)})["t"]
    assert ours.embedding_bag_configs()[0].feature_names == ("t",)  # as torchrec
    assert abs(rows).max() <= 0.05  # sqrt(1 / 400)
    assert rows.std() == pytest.approx(0.05 / np.sqrt(3), rel=0.05)


def test_int32_ids_and_repeated_inverse_indices_as_in_torchrec() -> None:
    ours, theirs = pair(TABLES, SGD(learning_rate=1.0))
    features = KeyedJaggedTensor(
        keys=list(SIZES),
        values=torch.tensor([1, 2, 3, 4, 5, 6], dtype=torch.int32),
        lengths=torch.tensor([1, 1, 1, 1, 1, 1]),
        inverse_indices=(list(SIZES), torch.tensor([[0, 1, 0], [1, 1, 0], [0, 0, 1]])),
    )
    torch.testing.assert_close(ours(features).values(), theirs(features).values())


@pytest.mark.parametrize("chunks", [None, {"liked": 2, "genres": 1}])
def test_unified_is_one_stock_table_over_rewritten_ids(chunks: dict[str, int] | None) -> None:
    """Each key repeated num_chunks times with hashed ids, in one EmbeddingBagConfig; columns regrouped."""
    num_rows, num_chunks, dim = 50, 3, 12
    config = UnifiedConfig(
        name="all",
        embedding_dim=dim,
        feature_names=("shown", "liked", "genres"),
        pooling="mean",
        optimizer=Adagrad(learning_rate=0.1),
        num_rows=num_rows,
        num_chunks=num_chunks,
        chunks=chunks,
        seed=11,
        salts={"shown": "item", "liked": "item"},
    )
    ours = EmbeddingBagCollection(tables=[config])
    rewritten_config, rewrite = unified_in_torchrec(config, num_rows)
    stock = torchrec.EmbeddingBagCollection(tables=[rewritten_config])
    weight = stock.embedding_bags["all"].weight
    with torch.no_grad():
        weight.copy_(torch.from_numpy(ours.store.pull({"all": np.arange(num_rows)})["all"]))
    reference = torch.optim.Adagrad(stock.parameters(), lr=0.1)

    def rewritten(features: KeyedJaggedTensor) -> KeyedJaggedTensor:
        """The rewriting by hand."""
        values, lengths = [], []
        for name, vocabulary in (("shown", "item"), ("liked", "item"), ("genres", "genres")):
            for chunk in range((chunks or {}).get(name, num_chunks)):
                salt = hashing.seed_of(11, vocabulary, chunk)
                ids = features[name].values().numpy()
                values.append(torch.from_numpy(hashing.hash_to_range(ids, num_rows, salt)))
                lengths.append(features[name].lengths())
        keys = rewritten_config.feature_names
        return KeyedJaggedTensor(keys=keys, values=torch.cat(values), lengths=torch.cat(lengths))

    def regrouped(output: KeyedTensor) -> torch.Tensor:
        """A feature's chunks side by side, zeros behind where they are few."""
        columns = []
        for name in config.feature_names:
            given = [output[f"{name}#{chunk}"] for chunk in range((chunks or {}).get(name, num_chunks))]
            missing = num_chunks - len(given)
            columns += [*given, torch.zeros(len(given[0]), missing * dim // num_chunks)]
        return torch.cat(columns, dim=1)

    for seed in range(3):
        features = random_features(seed)
        again = rewrite(features)
        assert (
            torch.equal(again.values(), rewritten(features).values()) and again.keys() == rewritten_config.feature_names
        )
        output, expected = ours(features), regrouped(stock(again))
        torch.testing.assert_close(output.values(), expected, rtol=1e-5, atol=1e-6)
        reference.zero_grad()
        (expected**3 + expected).sum().backward()
        reference.step()
        (output.values() ** 3 + output.values()).sum().backward()
        ours.push(event_time_ms=0)
    rows = ours.store.pull({"all": np.arange(num_rows)})["all"]
    np.testing.assert_allclose(rows, weight.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_a_shared_store_serves_two_collections() -> None:
    config = FullConfig(
        name="item",
        embedding_dim=2,
        num_embeddings=9,
        feature_names=("shown",),
        optimizer=SGD(learning_rate=1.0),
    )
    first = EmbeddingBagCollection(tables=[config])
    second = EmbeddingBagCollection(tables=[config], store=first.store)
    features = KeyedJaggedTensor(keys=["shown"], values=torch.tensor([4]), lengths=torch.tensor([1]))
    before = second(features).values().detach()
    first(features).values().sum().backward()
    first.push(event_time_ms=0)
    torch.testing.assert_close(second(features).values(), before - 1)


def config_with(**fields: object) -> torchrec.EmbeddingBagConfig:
    return torchrec.EmbeddingBagConfig(
        **{"name": "t", "num_embeddings": 5, "embedding_dim": 2, "feature_names": ["f"], **fields}
    )


@pytest.mark.parametrize(
    ("config", "is_weighted", "message"),
    [
        (config_with(data_type=torchrec.DataType.FP16), False, "table 't': data_type .*FP16 is not FP32"),
        (config_with(init_fn=torch.nn.init.ones_), False, "table 't': rows start uniform"),
        (config_with(weight_init_min=0.0), False, "table 't': rows start uniform"),
        (config_with(pooling=torchrec.PoolingType.NONE), False, "unknown pooling of table 't':"),
        (config_with(pooling=MEAN), True, "table 't': is_weighted needs pooling 'sum', not 'mean'"),
    ],
)
def test_configs_that_can_not_be(config: torchrec.EmbeddingBagConfig, is_weighted: bool, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EmbeddingBagCollection(tables=[config], is_weighted=is_weighted)


def test_a_store_without_the_tables_groups_is_refused() -> None:
    with pytest.raises(ConfigError, match="row group 't' is None"):
        EmbeddingBagCollection(tables=[config_with()], store=LocalRows([]))
    with pytest.raises(ConfigError, match="rename one"):
        EmbeddingBagCollection(tables=[config_with(), config_with()])


def test_features_that_do_not_fit() -> None:
    ours = EmbeddingBagCollection(tables=[config_with()])
    with pytest.raises(DataError, match="features f are missing; the tensor has g"):
        ours(KeyedJaggedTensor(keys=["g"], values=torch.tensor([1]), lengths=torch.tensor([1])))
    with pytest.raises(DataError, match=r"row key 5 is outside \[0, 5\)"):
        ours(KeyedJaggedTensor(keys=["f"], values=torch.tensor([5]), lengths=torch.tensor([1])))
    weighted = EmbeddingBagCollection(tables=[config_with()], is_weighted=True)
    unweighted = KeyedJaggedTensor(keys=["f"], values=torch.tensor([1]), lengths=torch.tensor([1]))
    with pytest.raises(DataError, match="feature 'f' has no weights"):
        weighted(unweighted)
    learned = KeyedJaggedTensor(
        keys=["f"],
        values=torch.tensor([1]),
        lengths=torch.tensor([1]),
        weights=torch.ones(1, requires_grad=True),
    )
    with pytest.raises(DataError, match=r"detach\(\) them"):
        weighted(learned)


def test_without_torchrec_the_import_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchrec", None)
    monkeypatch.delitem(sys.modules, "recsys.collection")
    with pytest.raises(DependencyError) as caught:
        importlib.import_module("recsys.collection")
    expected = "torchrec is not installed; run: pip install --no-deps torchrec==1.8.0 (or `make install`)"
    assert str(caught.value) == expected
