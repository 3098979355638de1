"""A checkpoint of one process comes back as it was, onto any number of shards, or says why it does not."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cuts import (
    KINDS,
    Run,
    batch_of,
    blueprint,
    checkpoint_of,
    feature_state,
    in_order,
    restored,
    trained,
)
from safetensors.torch import load_file

from recsys.errors import ConfigError, DataError
from recsys.features.state import FeatureState
from recsys.models.recommender import Recommender
from recsys.ps.dense import DENSE
from recsys.rows.store import GroupSnapshot, Snapshot
from recsys.training.checkpoint import Checkpoints, load_checkpoint, save_checkpoint
from recsys.training.dense_file import dense_from_bytes, dense_to_bytes


def assert_same_rows(one: Snapshot, other: Snapshot) -> None:
    """Bit for bit, in the same order, dtypes included."""
    assert one.cursor == other.cursor and one.groups.keys() == other.groups.keys()
    for name in one.groups:
        a, b = columns(one.groups[name]), columns(other.groups[name])
        assert a.keys() == b.keys()
        for column in a:
            assert a[column].dtype == b[column].dtype and a[column].shape == b[column].shape, (name, column)
            assert a[column].tobytes() == b[column].tobytes(), (name, column)


def columns(group: GroupSnapshot) -> dict[str, np.ndarray]:
    own: dict[str, np.ndarray] = {
        "keys": group.keys_U,
        "rows": group.rows_UW,
        "times": group.event_times_U,
        "sequences": group.sequences_U,
    }
    return {**own, **{f"state.{name}": values for name, values in group.state.items()}}


# --- there and back


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_shards", [None, 3])
def test_what_is_loaded_is_what_was_saved(tmp_path: Path, kind: str, num_shards: int | None) -> None:
    saved = checkpoint_of(trained(kind, num_shards))
    save_checkpoint(tmp_path / "run" / "checkpoints", saved)
    loaded = load_checkpoint(tmp_path / "run" / "checkpoints")
    assert loaded.blueprint == saved.blueprint
    assert_same_rows(loaded.rows, saved.rows)
    assert (loaded.about, loaded.step, loaded.position) == (saved.about, saved.step, saved.position)
    (joiner,) = loaded.joiners
    assert joiner["position"] == saved.joiners[0]["position"]
    again = FeatureState.from_json(joiner["features"])
    assert json.dumps(again.to_json()) == json.dumps(feature_state().to_json())
    assert again.history(7).liked() == [2**53 + 1] and again.history("7").shown() == ["tt4", "tt3", "tt2"]
    assert again.profiles.as_of(7, 5) == {"age": 0.1, "work": "ärztin"}
    assert os.listdir(tmp_path / "run") == ["checkpoints"]
    assert os.listdir(tmp_path / "run" / "checkpoints") == ["checkpoint-000001"]


def test_extreme_keys_and_numbers(tmp_path: Path) -> None:
    numbers = np.array([[np.inf, -0.0], [np.nan, 1e-45], [3.4e38, 0.1]], np.float32)
    group = GroupSnapshot(
        np.array([2**63 - 1, -(2**63), 0]),
        numbers,
        {"sum": numbers, "step": np.array([[1], [2**24], [0]], np.float32)},
        np.array([0, 2**53, -1]),
        np.array([1, 2**53, 2**63 - 1]),
    )
    empty = group.select(lambda keys: np.zeros(len(keys), np.bool_))
    saved = checkpoint_of(trained(steps=0))
    rows = Snapshot((2**62, 0, 7), {"a/../b": group, "empty": empty, "ü:": group, DENSE: saved.rows.groups[DENSE]})
    save_checkpoint(tmp_path / "c", replace(saved, rows=rows))
    assert_same_rows(load_checkpoint(tmp_path / "c").rows, rows)


def test_loaded_rows_are_the_holders_own(tmp_path: Path) -> None:
    """The store is trained on after a restore: nothing may be read-only, or shared between loads."""
    save_checkpoint(tmp_path / "c", checkpoint_of(trained()))
    group = load_checkpoint(tmp_path / "c").rows.groups["item"]
    group.rows_UW[:] = 0
    assert load_checkpoint(tmp_path / "c").rows.groups["item"].rows_UW.any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_shards", [None, 1, 2, 5])
def test_predictions_and_further_steps_are_those_of_the_saved_run(
    tmp_path: Path, kind: str, num_shards: int | None
) -> None:
    first = trained(kind)
    save_checkpoint(tmp_path / "c", checkpoint_of(first))
    second = restored(load_checkpoint(tmp_path / "c"), num_shards)
    asked = batch_of(100)
    assert first.predict(asked).tobytes() == second.predict(asked).tobytes()
    for step in (5, 6):
        a, b = first.step(batch_of(step)), second.step(batch_of(step))
        assert a.probabilities_B.tobytes() == b.probabilities_B.tobytes() and a.loss == b.loss
    assert first.predict(asked).tobytes() == second.predict(asked).tobytes()


def test_another_optimizer_than_the_saved_ones_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", checkpoint_of(trained()))
    loaded = load_checkpoint(tmp_path / "c")
    other = replace(loaded.blueprint, optimizer={"kind": "sgd", "learning_rate": 0.1})
    with pytest.raises(ConfigError, match="restore with the optimizer it was trained with"):
        restored(replace(loaded, blueprint=other))


def test_only_parquet_safetensors_and_json(tmp_path: Path) -> None:
    """Nothing in it is code: Parquet and safetensors of numbers, and JSON."""
    save_checkpoint(tmp_path, checkpoint_of(trained()))
    files = sorted((tmp_path / "checkpoint-000001").iterdir())
    assert {path.suffix for path in files} == {".parquet", ".safetensors", ".json"}
    for path in files:
        if path.suffix == ".parquet":
            assert path.read_bytes()[:4] == b"PAR1"
        elif path.suffix == ".json":
            json.loads(path.read_text())
    manifest = json.loads((tmp_path / "checkpoint-000001" / "manifest.json").read_text())
    listed = [*manifest["files"], *manifest["parts"][0]["files"], "manifest.json"]
    assert sorted(listed) == [path.name for path in files]


# --- dense parameters


def test_dense_parameters_lie_under_their_own_names(tmp_path: Path) -> None:
    """Anybody can take them into torch, without us."""
    trainer = trained(steps=3)
    save_checkpoint(tmp_path, checkpoint_of(trainer))
    tensors = load_file(tmp_path / "checkpoint-000001" / "dense.safetensors")
    trainer.recommender.dense.load(trainer.store.pull({DENSE: trainer.recommender.dense.keys})[DENSE])
    expected = trainer.recommender.state_dict()
    assert {name for name in tensors if not name.startswith("dense/")} == set(expected)
    for name, values in expected.items():
        assert tensors[name].shape == values.shape and torch.equal(tensors[name], values)
    assert tensors["dense/state.variance"].shape == (len(trainer.recommender.dense.keys), 256)
    again = Recommender(blueprint())
    again.load_state_dict({name: tensors[name] for name in expected})
    assert again.dense.rows().tobytes() == trainer.recommender.dense.rows().tobytes()


@pytest.mark.parametrize("order", ["as they are", "backwards", "some"])
def test_a_dense_group_comes_back_bit_for_bit(order: str) -> None:
    """In any order of its rows, with numbers that are none, and as little of it as there may be."""
    keys = {"as they are": [0, 1, 2], "backwards": [2, 1, 0], "some": [1]}[order]
    recommender = Recommender(blueprint())
    rows = recommender.dense.rows()[keys]
    assert len(recommender.dense.keys) == 3
    rows[0, :4] = np.inf, -0.0, np.frombuffer(b"\x01\x00\xc0\xff", np.float32)[0], 1e-45
    group = GroupSnapshot(
        np.array(keys),
        rows,
        {"mean": rows * 2, "step": np.full((len(keys), 1), 2**24, np.float32)},
        np.array(keys) * 2**53,
        np.array(keys) + 2**40,
        time_ms=-1,
        num_steps=2**33,
        own_steps_U=np.array(keys) - 7,
    )
    for own in (group.own_steps_U, None):
        told = replace(group, own_steps_U=own)
        loaded = dense_from_bytes(blueprint(), dense_to_bytes(blueprint(), told))
        assert loaded.keys_U.tolist() == keys
        assert in_order(Snapshot((0,), {DENSE: loaded})) == in_order(Snapshot((0,), {DENSE: told}))


def test_the_dense_parameters_of_another_model_are_refused() -> None:
    recommender = Recommender(blueprint())
    data = dense_to_bytes(blueprint(), recommender.start_state().groups[DENSE])
    wider = replace(blueprint(), model={"kind": "deepfm", "hidden_sizes": [41]})
    with pytest.raises(DataError) as raised:
        dense_from_bytes(wider, data)
    assert str(raised.value) == (
        "the saved model is another than this version builds: its parameter model.mlp.layers.0.bias is (40,), here "
        "(41,); load it with the version that saved it"
    )


def test_saving_and_loading_draw_nothing_from_torch(tmp_path: Path) -> None:
    """Same seed, same numbers: whether a run was saved on the way or not."""
    trainer = trained()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    save_checkpoint(tmp_path, checkpoint_of(trainer))
    load_checkpoint(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


# --- nothing is executed


_unpickled: list[str] = []
_watching = False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event in ("pickle.find_class", "exec", "compile"):
        _unpickled.append(f"{event} {arguments}")


def test_loading_runs_no_code(tmp_path: Path) -> None:
    global _watching
    save_checkpoint(tmp_path / "c", checkpoint_of(trained()))
    load_checkpoint(tmp_path / "c")  # what is imported lazily is imported now
    sys.addaudithook(_watch)
    _watching = True
    load_checkpoint(tmp_path / "c")
    _watching = False
    assert _unpickled == []


# --- saving over an old one


def test_each_is_saved_beside_those_before(tmp_path: Path) -> None:
    first = trained(steps=1)
    for about in ("one", "two", "three"):
        save_checkpoint(tmp_path, checkpoint_of(first, about))
        assert load_checkpoint(tmp_path).about["data"] == about
    assert Checkpoints(tmp_path).names() == ["checkpoint-000002", "checkpoint-000003"]
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-000002", "checkpoint-000003"]
    assert Checkpoints(tmp_path).load("checkpoint-000002").about["data"] == "two"


def test_an_increment_alone_is_not_saved(tmp_path: Path) -> None:
    rows = replace(trained().store.snapshot(), since=(1,))
    with pytest.raises(DataError, match=r"holds what changed after \(1,\); apply it to that one"):
        save_checkpoint(tmp_path / "c", replace(checkpoint_of(trained()), rows=rows))
    assert not (tmp_path / "c").exists()


# --- what is not there


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "nowhere", tmp_path / "empty"):
        assert Checkpoints(folder).names() == [] and Checkpoints(folder).base(1) is None
        with pytest.raises(DataError) as raised:
            load_checkpoint(folder)
        assert str(raised.value) == f"no checkpoint in {folder}; give the folder of a trained run"


def test_no_checkpoint_of_that_name(tmp_path: Path) -> None:
    run = Run(Checkpoints(tmp_path), 2)
    for _ in range(2):
        run.save()
    (tmp_path / "checkpoint-000003").mkdir()
    (tmp_path / "another-000009").mkdir()
    for name in ("checkpoint-000003", "checkpoint-000007", "../x"):
        for load in (
            lambda name: run.checkpoints.load(name),
            lambda name: run.checkpoints.load_state(name),
            lambda name: run.checkpoints.load_part(name, 0, 2, run.store.groups),
        ):
            with pytest.raises(DataError) as raised:
                load(name)
            there = "there are checkpoint-000001, checkpoint-000002"
            assert str(raised.value) == f"no {name} in {tmp_path}; {there}"


def test_another_format_is_told(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint_of(trained()))
    path = tmp_path / "checkpoint-000001" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    with pytest.raises(DataError, match=f"{path} has format 2, this version reads 3"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("fields", [{"keep": 0}, {"full_every": 0}])
def test_impossible_numbers(tmp_path: Path, fields: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint\.keep \d and checkpoint\.full_every \d+ must be at least 1"):
        Checkpoints(tmp_path, **fields)
