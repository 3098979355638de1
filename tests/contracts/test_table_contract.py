"""What every table kind promises. A new kind in TABLES fails here until it has an entry in SMALL."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from table_kinds import SMALL
from torch import Tensor

from recsys.batches.batch import Bag, LabelledBatch
from recsys.errors import ConfigError, DataError
from recsys.features.declarations import Feature
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.collisionless import CollisionlessIndex
from recsys.rows.layout import VERSION_BYTES, Layout
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD, Adagrad
from recsys.rows.policies import FrequencyAdmission
from recsys.tables import TABLES, build_table, plan_tables
from recsys.tables.embeddings import Embeddings
from recsys.tables.table import Table, TableConfig
from recsys.training.trainer import Trainer

# fields of a table whose addresses read the same rows before a push and after it
STILL: dict[str, dict[str, Any]] = {"frequency": {"occurrences": 255}, "cafe": {"threshold": 1e9}}
# their gradients are by design not those of their values: tested by the papers' formulas in tests/tables
ESTIMATED = {"optembed", "dpq", "mgqe", "cafe"}
# others reach their size at the end of their stages: tests/training/test_stages.py
OF_ONE_STAGE = [kind for kind, (table, _) in TABLES.items() if not table.stages]
ROOT = Path(__file__).resolve().parents[2]
DIM = 8
FEATURES = (
    Feature(name="user", kind="id", source="user.id", num_embeddings=100),
    Feature(name="item", kind="id", source="item.id", num_embeddings=80),
    Feature(name="liked", kind="bag", source="user.likes", table="item"),
    Feature(name="age", kind="number", source="profile.age"),
)
IDS = {"user": [5, 99, 0], "item": [7, 7, 3], "liked": [3, 79, 3, 7]}


def test_every_kind_has_an_entry() -> None:
    assert set(SMALL) == set(TABLES), "give the new table kind its small fixture in tests/table_kinds.py"


@pytest.fixture(params=list(TABLES))
def kind(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


def plan(kind: str, **fields: Any) -> list[TableConfig]:
    described = {"kind": kind, "embedding_dim": DIM, **SMALL[kind], **fields}
    return plan_tables(described, FEATURES, optimizer=SGD(learning_rate=1.0), seed=3)


def tables_of(configs: list[TableConfig]) -> dict[str, Table]:
    """Table by feature."""
    return {feature: build_table(config) for config in configs for feature in config.feature_names}


def keys_by_feature(kind: str) -> dict[str, dict[str, Any]]:
    """Plain values: what each feature's ids are addressed to."""
    return {
        feature: {
            group: keys_NK.tolist() for group, keys_NK in table.address(feature, torch.tensor(IDS[feature])).items()
        }
        for feature, table in tables_of(plan(kind)).items()
    }


def setup(kind: str, pooling: str = "mean", **fields: Any) -> tuple[Embeddings, LocalRows, dict[str, str]]:
    """Tables, a store for them, and the table each feature reads."""
    configs = plan(kind, pooling=pooling, **fields)
    embeddings = Embeddings(configs)
    store = LocalRows(list(embeddings.groups.values()))
    return embeddings, store, {name: config.name for config in configs for name in config.feature_names}


def bags(**lists: list[list[int]]) -> dict[str, Bag]:
    return {name: Bag.of_lists(ids) for name, ids in lists.items()}


THREE = {"user": [[5], [99], []], "item": [[7], [7], [3]], "liked": [[3, 79, 3], [], [7, 0]]}


def test_keys_are_the_same_in_a_fresh_process() -> None:
    """Run as a script, this file prints its keys."""
    fresh = subprocess.run(
        [sys.executable, "-W", "error", __file__],
        env={"PYTHONHASHSEED": "12345", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(fresh.stdout) == {kind: keys_by_feature(kind) for kind in SMALL}


def test_address_is_pure_and_row_by_row(kind: str) -> None:
    for feature, table in tables_of(plan(kind)).items():
        ids_N = torch.tensor([0, 7, 3, 7, 79])
        given = ids_N.clone()
        addressed = table.address(feature, ids_N)
        assert torch.equal(ids_N, given)
        assert list(addressed) == [group.name for group in table.groups]
        for group in table.groups:
            keys_NK = addressed[group.name]
            assert keys_NK.dtype == torch.int64 and keys_NK.ndim == 2 and len(keys_NK) == 5
            assert torch.equal(table.address(feature, ids_N)[group.name], keys_NK)
            assert torch.equal(table.address(feature, ids_N.flip(0))[group.name], keys_NK.flip(0))
            alone = [table.address(feature, id_N)[group.name] for id_N in ids_N.split(1)]
            assert torch.equal(torch.cat(alone), keys_NK)
            assert group.num_rows is None or (int(keys_NK.min()) >= 0 and int(keys_NK.max()) < group.num_rows)


def test_embeddings_are_as_wide_as_promised(kind: str) -> None:
    embeddings, store, table_of = setup(kind)
    pooled = embeddings.pool(embeddings.lookup(bags(**THREE), store))
    assert set(pooled) == {(table_of[name], name) for name in THREE}
    for vectors_BD in pooled.values():
        assert vectors_BD.shape == (3, DIM) and vectors_BD.dtype == torch.float32
    assert (pooled[table_of["user"], "user"][2] == 0).all()  # an empty bag is zeros
    assert (pooled[table_of["liked"], "liked"][1] == 0).all()
    nothing = embeddings.pool(embeddings.lookup(bags(user=[[]], item=[[]], liked=[[]]), store))
    for vectors_BD in nothing.values():
        assert vectors_BD.tolist() == [[0.0] * DIM]


def test_permuting_ids_permutes_vectors(kind: str) -> None:
    embeddings, store, table_of = setup(kind)
    ids = list(range(10))
    order = [3, 9, 0, 1, 2, 8, 7, 4, 5, 6]
    straight = embeddings.lookup(bags(user=[ids], item=[ids], liked=[ids]), store)
    shuffled = embeddings.lookup(bags(user=[order], item=[order], liked=[order]), store)
    for feature, table in table_of.items():
        vectors_ND = embeddings.vectors(feature, table, straight)
        assert torch.equal(embeddings.vectors(feature, table, shuffled), vectors_ND[order])
        assert len(torch.unique(vectors_ND, dim=0)) > 1


def test_features_of_one_vocabulary_read_the_same_rows(kind: str) -> None:
    embeddings, store, table_of = setup(kind)
    ids = [[7, 3, 79]]
    looked = embeddings.lookup(bags(user=ids, item=ids, liked=ids), store)
    item, liked, user = (embeddings.vectors(name, table_of[name], looked) for name in ("item", "liked", "user"))
    assert torch.equal(item, liked)
    assert not torch.equal(item, user)  # the same raw ids of another feature


@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_pooling_is_a_loop_over_vectors(kind: str, pooling: str) -> None:
    embeddings, store, table_of = setup(kind, pooling)
    looked = embeddings.lookup(bags(**THREE), store)
    for (table, feature), vectors_BD in embeddings.pool(looked).items():
        assert table == table_of[feature]
        vectors = list(embeddings.vectors(feature, table, looked))
        for example, ids in enumerate(THREE[feature]):
            mine = [vectors.pop(0) for _ in ids]
            total = torch.stack(mine).sum(0) if mine else torch.zeros(DIM)
            expected = total / len(mine) if pooling == "mean" and mine else total
            torch.testing.assert_close(vectors_BD[example], expected)


def test_gradients_reach_the_addressed_rows_and_no_others(kind: str) -> None:
    embeddings, store, _ = setup(kind, "sum", **STILL.get(kind, {}))
    asked = bags(**THREE)
    looked = embeddings.lookup(asked, store)
    for vectors_BD in embeddings.pool(looked).values():
        (vectors_BD * torch.arange(1, DIM + 1)).sum().backward(retain_graph=True)
    gradients = looked.gradients()
    groups = list(embeddings.groups)
    everything = {name: np.arange(group.num_rows or 100) for name, group in embeddings.groups.items()}
    before = store.pull(everything)
    store.push(gradients, 0)
    after = store.pull(everything)
    reached = created = 0
    for name in groups:
        keys_U, gradients_UW, *_ = gradients[name]
        assert len(np.unique(keys_U)) == len(keys_U) == len(gradients_UW)
        if isinstance(embeddings.groups[name].admission, FrequencyAdmission):  # they wait, nothing of theirs was read
            assert store.num_rows()[name] == 0 and not gradients_UW.any() and gradients[name][2].min() > 0
            continue
        if kind in STILL and embeddings.groups[name].admission is not None:  # their gradients are counted alone
            assert store.num_rows()[name] == 0 and gradients_UW.any(axis=1).all()
            continue
        reached += int((gradients_UW != 0).any(axis=1).sum())
        touched = np.isin(everything[name], keys_U)
        assert touched.any() and not touched.all()
        np.testing.assert_array_equal(after[name][~touched], before[name][~touched])
        assert (after[name][touched] != before[name][touched]).any(axis=1).all()
        created += len(keys_U)
    assert reached == sum(store.num_rows().values()) == created


@pytest.mark.parametrize("kind", [kind for kind in TABLES if kind not in ESTIMATED])
def test_gradients_are_those_of_a_finite_difference(kind: str) -> None:
    embeddings, store, _ = setup(kind)
    addressed = embeddings.address(bags(**THREE))
    rows = store.pull(addressed.keys)

    def loss(rows: dict[str, np.ndarray]) -> tuple[Tensor, Any]:
        looked = embeddings.look(addressed, {name: part.copy() for name, part in rows.items()})
        return torch.stack([torch.sin(20 * v).sum() for v in embeddings.pool(looked).values()]).sum(), looked

    value, looked = loss(rows)
    value.backward()
    for name, (_, gradients_UW, *_) in looked.gradients().items():
        for cell in ((0, 0), (len(rows[name]) - 1, rows[name].shape[1] - 1)):
            moved = {other: part.copy() for other, part in rows.items()}
            moved[name][cell] += 1e-2
            higher = loss(moved)[0].item()
            moved[name][cell] -= 2e-2
            slope = (higher - loss(moved)[0].item()) / 2e-2
            assert gradients_UW[cell] == pytest.approx(slope, rel=0.05, abs=0.02)


def test_unseen_ids_read_a_defined_value_and_create_nothing(kind: str) -> None:
    for absent in ("initial", "zeros"):
        embeddings = Embeddings(plan(kind, absent=absent))
        store = LocalRows(list(embeddings.groups.values()))
        looked = embeddings.lookup(bags(user=[[99]], item=[[79]], liked=[[78, 77]]), store)
        pooled = torch.stack([*embeddings.pool(looked).values()])
        assert torch.isfinite(pooled).all()
        assert not any(store.num_rows().values())
        if absent == "zeros" and not list(embeddings.parameters()):
            assert (pooled == 0).all()


STRANGE = {"user": [[5, 10**12], [-1], []], "item": [[7], [80], [3]], "liked": [[3, 2**62, 79, 3], [-5], [7, 0]]}


def test_ids_are_known_or_left_out_as_if_they_were_not_there(kind: str) -> None:
    embeddings, store, table_of = setup(kind)
    known_of: dict[str, set[int]] = {}
    for feature, table in tables_of(plan(kind)).items():
        ids = sorted({id_ for one in STRANGE[feature] for id_ in one})
        known_N = table.known(feature, torch.tensor(ids))
        assert known_N is None or (known_N.dtype == torch.bool and len(known_N) == len(ids))
        known_of[feature] = set(ids) if known_N is None else {ids[place] for place in known_N.nonzero()[:, 0]}
    by_hand = {
        feature: [[id_ for id_ in one if id_ in known_of[feature]] for one in lists]
        for feature, lists in STRANGE.items()
    }
    asked = bags(**STRANGE)
    kept, num_unknown = embeddings.known_bags(asked)
    assert num_unknown == sum(len(bag.ids_N) for bag in asked.values()) - sum(
        len(one) for lists in by_hand.values() for one in lists
    )
    expected, found = embeddings.lookup(bags(**by_hand), store), embeddings.lookup(kept, store)
    for looked in (expected, found):
        torch.stack([torch.sin(20 * v).sum() for v in embeddings.pool(looked).values()]).sum().backward()
    for key, vectors_BD in embeddings.pool(found).items():
        assert torch.equal(vectors_BD, embeddings.pool(expected)[key])
    for group, (keys_U, gradients_UW, *_) in found.gradients().items():
        np.testing.assert_array_equal(keys_U, expected.gradients()[group][0])
        np.testing.assert_array_equal(gradients_UW, expected.gradients()[group][1])
    for feature, lists in STRANGE.items():
        for id_ in (id_ for one in lists for id_ in one):
            if id_ in known_of[feature]:
                assert embeddings.embed(table_of[feature], feature, np.array([id_]), store).shape == (1, DIM)
            else:
                with pytest.raises(DataError, match=f"feature '{feature}': id {id_} is outside"):
                    embeddings.embed(table_of[feature], feature, np.array([id_]), store)


def test_where_compose_is_linear_pooling_commutes(kind: str) -> None:
    for feature, table in tables_of(plan(kind)).items():
        if not table.linear:
            continue
        ids_N = torch.tensor(IDS[feature])
        addressed = table.address(feature, ids_N)
        generator = torch.Generator().manual_seed(0)
        rows_NKW = {
            group.name: torch.randn(*addressed[group.name].shape, group.width, generator=generator)
            for group in table.groups
        }
        composed_first = table.compose(feature, ids_N, rows_NKW).sum(0)
        pooled_1KW = {name: rows.sum(0, keepdim=True) for name, rows in rows_NKW.items()}
        torch.testing.assert_close(table.compose(feature, ids_N[:1], pooled_1KW)[0], composed_first)


def test_penalty_is_a_number(kind: str) -> None:
    penalty = setup(kind)[0].penalty()
    assert penalty.shape == () and torch.isfinite(penalty)


def test_first_order_companions_are_one_wide_and_start_from_zero(kind: str) -> None:
    configs = plan(kind, **STILL.get(kind, {}))
    narrow = [config.narrowed(SGD(learning_rate=2.0)) for config in configs]
    assert [(c.name, c.kind) for c in narrow] == [(f"{c.name}.first_order", c.kind) for c in configs]
    embeddings = Embeddings([*configs, *narrow])
    store = LocalRows(list(embeddings.groups.values()))
    looked = embeddings.lookup(bags(**THREE), store)
    pooled = embeddings.pool(looked)
    for config in narrow:
        for feature in config.feature_names:
            assert pooled[config.name, feature].tolist() == [[0.0]] * 3
            pooled[config.name, feature].sum().backward(retain_graph=True)
    store.push(looked.gradients(), 0)
    torch.optim.SGD([*embeddings.parameters(), torch.zeros(1)], lr=2.0).step()
    again = embeddings.pool(embeddings.lookup(bags(**THREE), store))
    for config in narrow:
        for feature in config.feature_names:
            values = again[config.name, feature][:, 0].tolist()
            empty = [not ids for ids in THREE[feature]]
            assert [value == 0 for value in values] == empty  # every row that was read has moved


# --- bytes and budgets

USERS, ITEMS = 5000, 2000
LARGE = (
    Feature(name="user", kind="id", source="user.id", num_embeddings=USERS),
    Feature(name="item", kind="id", source="item.id", num_embeddings=ITEMS),
    Feature(name="liked", kind="bag", source="user.likes", table="item"),
    Feature(name="hour", kind="id", source="time.hour_of_day", num_embeddings=24),
)
FULL_BYTES = 4 * (USERS + ITEMS + 24) * DIM
# kinds whose sizes are rows; the others' are ranks and widths, or they have one size
FINE = {"hash", "unified", "collisionless", "double_hash", "hash_embedding", "compositional", "robe", "frequency"}
FINE |= {"cafe", "adaembed"}


def budgeted(kind: str, budget: int, *, with_first_order: bool) -> list[Table]:
    """The large tables within a budget, companions at the end."""
    fields = {"kind": kind, "embedding_dim": DIM, "budget": budget}
    if "map" in SMALL[kind]:
        fields["map"] = SMALL[kind]["map"]
    configs = plan_tables(fields, LARGE, optimizer=SGD(learning_rate=1.0), seed=3, with_first_order=with_first_order)
    narrow = [config.narrowed(SGD(learning_rate=1.0)) for config in configs] if with_first_order else []
    return [build_table(config) for config in [*configs, *narrow]]


@pytest.mark.parametrize("kind", OF_ONE_STAGE)
@given(compression=st.floats(1, 40), with_first_order=st.booleans())
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tables_keep_to_any_budget_or_say_the_smallest(kind: str, compression: float, with_first_order: bool) -> None:
    budget = int(FULL_BYTES / compression)
    try:
        tables = budgeted(kind, budget, with_first_order=with_first_order)
    except ConfigError as error:
        said = re.search(r"give budget=(\d+) or more", str(error))
        assert said is not None
        least = int(said[1])
        assert least > budget
        tables = budgeted(kind, least, with_first_order=with_first_order)
        assert sum(table.nbytes("serving").total for table in tables) == least
        with pytest.raises(ConfigError, match=f"these tables take {least:,} at least"):
            budgeted(kind, least - 1, with_first_order=with_first_order)
    else:
        taken = sum(table.nbytes("serving").total for table in tables)
        assert taken <= budget
        assert kind not in FINE or taken >= 0.9 * budget


def test_bytes_in_training_are_those_that_a_store_holds(kind: str) -> None:
    """All but what an index of no keys takes, and a few bytes of bookkeeping a group."""
    adagrad = Adagrad(learning_rate=0.1)
    for config in plan(kind):
        for made in (replace(config, optimizer=adagrad), config.narrowed(adagrad)):
            table = build_table(made)
            store = LocalRows(list(table.groups))
            counted = table.nbytes("training", store.num_rows())
            assert counted.dense == 4 * sum(parameter.numel() for parameter in table.parameters())
            growing = sum(group.num_rows is None for group in table.groups)
            of_store = counted.total + counted.optimizer - counted.dense - table.map_bytes("training")
            beyond = store.nbytes - of_store
            assert 0 <= beyond <= CollisionlessIndex().nbytes * growing + 200 * len(table.groups)


@pytest.mark.parametrize("kind", OF_ONE_STAGE)
def test_bytes_in_serving_are_those_of_the_published_rows(kind: str) -> None:
    layout = Layout(model="m", run="r")
    for config in plan(kind):
        table, published = build_table(config), 0
        for group in table.groups:
            keys = np.arange(group.num_rows or 5)
            values = layout.encode_rows(np.ones((len(keys), group.width), np.float32), keys, group.row_format)
            published += sum(len(value) - VERSION_BYTES for value in values)
            published += 8 * 5 if group.num_rows is None else 0  # their keys
        counted = table.nbytes("serving", {group.name: 5 for group in table.groups})
        published += table.map_bytes("serving")  # with the blueprint
        assert counted.total == published + 4 * sum(parameter.numel() for parameter in table.parameters())
        assert counted.optimizer == 0


def test_what_a_kind_says_of_itself(kind: str) -> None:
    table, _ = TABLES[kind]
    assert table.shrinks in ("nothing", "training", "serving")
    assert not table.stages or table.shrinks != "nothing"
    for one in tables_of(plan(kind)).values():
        assert one.streams == (one.known(one.config.feature_names[0], torch.tensor([-1, 2**62])) is None)


# --- in a recommender


def recommender(kind: str, model: str) -> Recommender:
    return Recommender(
        Blueprint(
            features=FEATURES,
            table={"kind": kind, "embedding_dim": DIM, **SMALL[kind]},
            model={"kind": model, "hidden_sizes": [4]},
            optimizer={"kind": "adagrad", "learning_rate": 0.1},
            dense_optimizer={"kind": "adam", "learning_rate": 0.02},
            seed=1,
        )
    )


def labelled(seed: int) -> LabelledBatch:
    """Twelve examples; users of an even number like."""
    draw = np.random.default_rng(seed)
    users = draw.integers(0, 10, 12)
    bags = {
        "user": Bag.of_lists([[int(user)] for user in users]),
        "item": Bag.of_lists([[int(item)] for item in draw.integers(0, 8, 12)]),
        "liked": Bag.of_lists([draw.integers(0, 8, draw.integers(0, 4)).tolist() for _ in users]),
    }
    return LabelledBatch(
        bags=bags,
        numbers_BM=draw.standard_normal((12, 1)).astype(np.float32),
        labels_B=(users % 2 == 0).astype(np.float32),
        weights_B=np.ones(12, np.float32),
        request_ids=[str(at) for at in range(12)],
        user_ids=users.tolist(),
        item_ids=[0] * 12,
        times_ms_B=np.full(12, seed),
        read_at_ms_B=np.full(12, seed),
    )


@pytest.mark.parametrize("model", ["deepfm", "dcnv2"])
def test_a_model_learns_over_it_and_goes_on_from_a_snapshot_as_if_nothing_were(kind: str, model: str) -> None:
    made = recommender(kind, model)
    trainer = Trainer(made, LocalRows(made.groups))
    trainer.start()
    losses = [trainer.step(labelled(seed)).loss for seed in range(40)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    again = Trainer(recommender(kind, model), LocalRows(made.groups), num_steps=trainer.num_steps)
    again.store.restore(trainer.store.snapshot())
    for seed in range(40, 43):
        np.testing.assert_array_equal(again.predict(labelled(seed)), trainer.predict(labelled(seed)))
        assert again.step(labelled(seed)).loss == trainer.step(labelled(seed)).loss
    sizes = made.embeddings.sizes(trainer.store.num_rows())
    assert {one["kind"] for one in sizes.values()} == {kind}
    assert all(one["serving_bytes"] > 0 and one["compression"] > 0 for one in sizes.values())  # type: ignore[operator]


if __name__ == "__main__":
    print(json.dumps({kind: keys_by_feature(kind) for kind in SMALL}))
