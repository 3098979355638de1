"""Kinds that prune single weights, from their first stage to what is served."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_stages import DIM, NUM_IDS, NUM_ITEMS, TRAIN, VALID, blueprint, work_in

from recsys.errors import ConfigError, DataError
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.local import LocalRows
from recsys.rows.store import Snapshot
from recsys.tables.code_map import CodeMap
from recsys.tables.deeplight import DeepLight
from recsys.tables.id_files import read_id_map
from recsys.tables.sparse_map import SparseMap
from recsys.training.fit import evaluate, held_out_batches
from recsys.training.magnitudes import alive_share, rising_tables, vectors_of
from recsys.training.stage import stage_folder, trained
from recsys.training.stages import run_stages
from recsys.training.trainer import Trainer
from recsys.training.weight_stages import as_they_are, as_they_began

FULL_BYTES = 4 * NUM_IDS * (DIM + 1)


def of_kind(kind: str, **table: Any) -> Blueprint:
    fields = {"kind": kind, "embedding_dim": DIM, "initial_scale": 0.05, "prune_epochs": 3, **table}
    model = {"kind": "deepfm", "hidden_sizes": [8], "batch_norm": True}
    return replace(blueprint({"kind": "adam", "learning_rate": 0.01}), table=fields, model=model)


def served_bytes(folder: Path) -> int:
    recommender, _ = trained(folder)
    return sum(table.nbytes("serving").total for table in recommender.embeddings.tables.values())


def map_in(folder: Path) -> SparseMap:
    return read_id_map(stage_folder(folder, "mask") / "weights.safetensors", SparseMap)


# --- DeepLight


def deeplight(**table: Any) -> Blueprint:
    return of_kind("deeplight", **{"sparsity": 0.7, "damping_steps": 1, "damping": 0.97, "every_steps": 5, **table})


@pytest.fixture(scope="module")
def magnitudes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages of DeepLight."""
    folder = tmp_path_factory.mktemp("magnitudes")
    work, folders = work_in(folder)
    run_stages(work, deeplight())
    assert folders == ["prune", folder.name]
    return folder


def test_thresholds_follow_the_schedule_and_go_with_the_rows() -> None:
    recommender = Recommender(deeplight())
    trainer = Trainer(recommender, LocalRows(recommender.groups))
    trainer.start()
    for step, _ in enumerate(trainer.steps(TRAIN.batches(100)), 1):
        if step == 20:
            break
    (table, other) = rising_tables(recommender)
    assert table.threshold == other.threshold > 0
    again, store = Recommender(deeplight()), LocalRows(recommender.groups)
    store.restore(trainer.store.snapshot())
    again.load_dense(store.pull(again.dense_keys))
    assert [float(one.threshold) for one in rising_tables(again)] == pytest.approx([float(table.threshold)] * 2, 1e-6)
    rows = np.concatenate([store.pull({name: np.arange(num)})[name] for name, num in (("user", 60), ("item", 300))])
    # found among the rows of before the step that set it
    assert np.mean(np.abs(rows) <= float(table.threshold)) == pytest.approx(table.pruning.rate(20), abs=0.03)
    assert alive_share(recommender, trainer.store)["kept"] == pytest.approx(1 - table.pruning.rate(20), abs=0.03)


def test_the_share_that_was_asked_for_is_left_and_as_good(magnitudes: Path) -> None:
    made, (served, store) = map_in(magnitudes), trained(magnitudes)
    assert made.density == pytest.approx(0.3, abs=0.001)
    assert served.blueprint.table["kind"] == "sparse"
    pruned, before = trained(stage_folder(magnitudes, "prune"))
    auc = evaluate(Trainer(served, store), VALID)["auc"]
    assert auc > 0.85 and auc > evaluate(Trainer(pruned, before), VALID)["auc"] - 0.02
    assert served_bytes(magnitudes) < 0.55 * FULL_BYTES
    assert store.num_rows()["item"] == served.embeddings.groups["item"].num_rows


def test_it_goes_on_from_the_largest_weightsas_they_are(magnitudes: Path, tmp_path: Path) -> None:
    pruned, before = trained(stage_folder(magnitudes, "prune"))
    pruned.load_dense(before.pull(pruned.dense_keys))
    assert all(isinstance(table, DeepLight) for table in pruned.embeddings.tables.values())
    served, _ = trained(magnitudes)
    start = LocalRows(served.groups)
    start.restore(as_they_are(served.blueprint, stage_folder(magnitudes, "prune")))
    pulled, trained_as = start.pull(served.dense_keys), before.pull(pruned.dense_keys)
    np.testing.assert_array_equal(pulled["dense"], trained_as["dense"])
    served.load_dense(pulled)
    assert served.state_dict()["model.mlp.layers.1.running_mean"].abs().max() > 0
    ids = map_in(magnitudes).tables["item"]
    kept_N = np.flatnonzero(ids.holds(np.arange(NUM_ITEMS)))
    for name in ("item", "item.first_order"):
        expected = vectors_of(pruned, name, before)[kept_N]
        found = served.embeddings.embed(name, "item", kept_N, start).detach().numpy()
        np.testing.assert_array_equal(found, expected * (ids.masks(kept_N) if name == "item" else 1))


def test_a_target_in_bytes_is_met_or_the_smallest_is_said(magnitudes: Path, tmp_path: Path) -> None:
    def with_target(name: str, **target: Any) -> Path:
        folder = tmp_path / name
        work, _ = work_in(folder)
        run_stages(work, deeplight(sparsity=None, prune_epochs=1, **target))
        return folder

    eighth = with_target("eighth", compression=8)
    assert 0.85 * FULL_BYTES / 8 < served_bytes(eighth) <= FULL_BYTES / 8
    with pytest.raises(
        ConfigError, match=r"budget=20 allows 20 bytes, and to say that no weight is left takes"
    ) as said:
        with_target("small", budget=20)
    least = int(str(said.value).partition("give budget=")[2].split()[0])
    assert 20 < least < FULL_BYTES / 20


def test_a_finished_choice_is_read_and_another_target_chooses_anew(magnitudes: Path, tmp_path: Path) -> None:
    stage_folder(tmp_path, "prune").parent.mkdir(parents=True)
    stage_folder(tmp_path, "prune").symlink_to(stage_folder(magnitudes, "prune"))
    lines: list[str] = []
    work, folders = work_in(tmp_path, lines.append)
    run_stages(work, deeplight())
    assert folders == [tmp_path.name]
    chosen = (stage_folder(tmp_path, "mask") / "weights.safetensors").read_bytes()
    assert chosen == (stage_folder(magnitudes, "mask") / "weights.safetensors").read_bytes()
    (tmp_path / "summary.json").unlink()
    run_stages(work, deeplight())
    assert any("it has ended" in line for line in lines)


def test_rows_that_are_no_numbers_are_refused(magnitudes: Path) -> None:
    recommender, store = trained(stage_folder(magnitudes, "prune"))
    snapshot = store.snapshot()
    snapshot.groups["item"].rows_UW[0, 0] = np.nan
    store.restore(snapshot)
    with pytest.raises(DataError, match="the rows of table 'item' have numbers that are none: training diverged"):
        vectors_of(recommender, "item", store)


def test_a_model_without_embeddings_is_refused(tmp_path: Path) -> None:
    work, folders = work_in(tmp_path)
    with pytest.raises(ConfigError, match="model 'lr' has no embeddings to prune"):
        run_stages(work, replace(deeplight(), model={"kind": "lr"}))
    assert not folders


# --- PEP


def test_what_stays_of_pep_begins_anew(tmp_path: Path) -> None:
    pep = of_kind("pep", threshold_rate=0.05, threshold_decay=1e-4, initial_threshold=0.0025, compression=4)
    work, folders = work_in(tmp_path)
    run_stages(work, pep)
    assert folders == ["thresholds", tmp_path.name]
    assert 0.8 * FULL_BYTES / 4 < served_bytes(tmp_path) <= FULL_BYTES / 4
    searched, before = trained(stage_folder(tmp_path, "thresholds"))
    assert 0.1 < alive_share(searched, before)["kept"] < 0.95
    served, store = trained(tmp_path)
    assert evaluate(Trainer(served, store), VALID)["auc"] > 0.85

    start = LocalRows(served.groups)
    start.restore(as_they_began(served.blueprint, stage_folder(tmp_path, "thresholds")))
    ids = map_in(tmp_path).tables["item"]
    kept_N = np.flatnonzero(ids.holds(np.arange(NUM_ITEMS)))
    found = served.embeddings.embed("item", "item", kept_N, start).detach().numpy()
    fresh = LocalRows(searched.groups).pull({"item": kept_N})["item"]
    np.testing.assert_array_equal(found, fresh * ids.masks(kept_N))
    new = Recommender(served.blueprint)
    np.testing.assert_array_equal(start.pull(new.dense_keys)["dense"], new.dense.rows())


# --- AutoSrh


def test_autosrh_groups_ids_by_how_often_they_are_seen(tmp_path: Path) -> None:
    work, folders = work_in(tmp_path)
    run_stages(work, of_kind("autosrh", num_groups=3, compression=4, prune_epochs=2))
    assert folders == ["gates", tmp_path.name]
    groups = read_id_map(stage_folder(tmp_path, "count") / "groups.safetensors", CodeMap).tables["item"]
    groups_I = groups.at(np.arange(NUM_ITEMS))[:, 0]
    counts_I = np.bincount(TRAIN.items, minlength=NUM_ITEMS)
    assert np.bincount(groups_I).tolist() == [100, 100, 100]
    assert counts_I[groups_I == 0].min() >= counts_I[groups_I == 1].max()
    gated, before = trained(stage_folder(tmp_path, "gates"))
    gates_GD = 1 + before.pull({"item.gates": np.arange(3)})["item.gates"]
    rows_ID = before.pull({"item": np.arange(NUM_ITEMS)})["item"]
    np.testing.assert_allclose(vectors_of(gated, "item", before), rows_ID * gates_GD[groups_I], rtol=1e-6)
    assert 0.8 * FULL_BYTES / 4 < served_bytes(tmp_path) <= FULL_BYTES / 4
    served, store = trained(tmp_path)
    assert evaluate(Trainer(served, store), VALID)["auc"] > 0.85
    lines: list[str] = []
    work, _ = work_in(tmp_path, lines.append)
    run_stages(work, of_kind("autosrh", num_groups=3, compression=4, prune_epochs=2))
    assert sum("it has ended" in line for line in lines) == 2


# --- what learns from held-out examples


def test_gates_learn_from_held_out_examples_and_rows_from_the_others() -> None:
    recommender = Recommender(of_kind("autosrh"))
    other = VALID.batches(100)
    trainer = Trainer(recommender, LocalRows(recommender.groups), held_out=other)
    trainer.start()
    learned, held_out = next(TRAIN.batches(50)), next(VALID.batches(100))
    before = trainer.store.snapshot()
    trainer.step(learned)
    after = trainer.store.snapshot().groups
    assert set(after["item"].keys_U) == set(learned.bags["item"].ids_N)
    assert trainer.num_steps == 1 and not np.array_equal(after["dense"].rows_UW, before.groups["dense"].rows_UW)

    # the gates, by the rows and the network as the step left them
    again = Recommender(of_kind("autosrh"))
    store = LocalRows(again.groups)
    moved = {name: group for name, group in after.items() if name != "item.gates"}
    store.restore(Snapshot((0,), moved))
    planned = again.plan(held_out)
    again.embeddings.begin_step(0)
    logits_B, looked = again(planned, store.pull(planned.keys))
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits_B, torch.from_numpy(held_out.labels_B))
    (losses + again.embeddings.penalty()).backward()
    gradients = looked.gradients()
    store.push({"item.gates": gradients["item.gates"]}, 0)
    np.testing.assert_allclose(
        store.snapshot().groups["item.gates"].rows_UW, after["item.gates"].rows_UW, rtol=0, atol=1e-6
    )
    assert np.abs(after["item.gates"].rows_UW).max() > 0


def test_held_out_batches_go_on_where_they_were() -> None:
    def ids(num_steps: int, num: int) -> list[list[int]]:
        batches = held_out_batches(VALID, 400, seed=3, num_steps=num_steps)
        return [batch.bags["item"].ids_N.tolist() for batch in itertools.islice(batches, num)]

    whole = ids(0, 10)  # four to a pass, the last of 300
    assert [len(batch) for batch in whole] == [400, 400, 400, 300] * 2 + [400, 400]
    assert ids(3, 7) == whole[3:] and ids(5, 5) == whole[5:]
    assert whole[0] != whole[4] and sorted(np.concatenate(whole[:4])) == sorted(VALID.items)
