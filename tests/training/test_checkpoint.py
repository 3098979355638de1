"""A checkpoint comes back as it was, onto any number of shards, or says which file is not what it should be."""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.batches.batch import Bag, LabelledBatch
from recsys.errors import ConfigError, DataError
from recsys.features.declarations import Feature
from recsys.features.state import FeatureState
from recsys.models.recommender import Blueprint, Recommender
from recsys.ps.client import LocalShard, ShardedRows
from recsys.ps.routing import NUM_BUCKETS, shard_buckets
from recsys.rows import files, folders
from recsys.rows.local import LocalRows
from recsys.rows.store import GroupSnapshot, RowStore, Snapshot
from recsys.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from recsys.training.trainer import Trainer

FEATURES = (
    Feature(name="user", kind="id", source="user.id", num_embeddings=40),
    Feature(name="item", kind="id", source="item.id", num_embeddings=30),
    Feature(name="liked", kind="bag", source="user.likes", table="item"),
    Feature(name="genres", kind="bag", source="item.genres", vocabulary=("Drama", "Comédie")),
    Feature(name="age", kind="number", source="profile.age"),
)
KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "hash": {"num_buckets": 9},
    "unified": {"num_rows": 50},
    "collisionless": {},
}


def blueprint(kind: str = "collisionless") -> Blueprint:
    return Blueprint(
        features=FEATURES,
        table={"kind": kind, "embedding_dim": 4, **KINDS[kind]},
        model={"kind": "deepfm", "hidden_sizes": [8]},
        optimizer={"kind": "adagrad", "learning_rate": 0.1},
        first_order_optimizer={"kind": "sgd", "learning_rate": 0.1},
        dense_optimizer={"kind": "adam", "learning_rate": 0.01},
        seed=4,
    )


def batch_of(seed: int, size: int = 16) -> LabelledBatch:
    draw = np.random.default_rng(seed)

    def lists(below: int, most: int) -> list[list[int]]:
        return [draw.integers(below, size=draw.integers(most + 1)).tolist() for _ in range(size)]

    return LabelledBatch(
        bags={
            "user": Bag.of_lists(draw.integers(40, size=(size, 1)).tolist()),
            "item": Bag.of_lists(draw.integers(30, size=(size, 1)).tolist()),
            "liked": Bag.of_lists(lists(30, 3)),
            "genres": Bag.of_lists(lists(2, 2)),
        },
        numbers_BM=draw.standard_normal((size, 1)).astype(np.float32),
        labels_B=draw.integers(2, size=size).astype(np.float32),
        weights_B=np.ones(size, np.float32),
        request_ids=[f"{seed}-{at}" for at in range(size)],
        user_ids=[0] * size,
        item_ids=[0] * size,
        times_ms_B=np.full(size, 1000 + seed),
        read_at_ms_B=np.zeros(size, np.int64),
    )


def store_of(recommender: Recommender, num_shards: int | None) -> RowStore:
    if num_shards is None:
        return LocalRows(recommender.groups)
    shards = [
        LocalRows(recommender.groups, buckets=shard_buckets(shard, num_shards), num_buckets=NUM_BUCKETS)
        for shard in range(num_shards)
    ]
    return ShardedRows(recommender.groups, [LocalShard(shard) for shard in shards])


def trained(kind: str = "collisionless", num_shards: int | None = None, steps: int = 4) -> Trainer:
    recommender = Recommender(blueprint(kind))
    trainer = Trainer(recommender, store_of(recommender, num_shards))
    trainer.start()
    for step in range(steps):
        trainer.step(batch_of(step))
    return trainer


def restored(checkpoint: Checkpoint, num_shards: int | None = None) -> Trainer:
    recommender = Recommender(checkpoint.blueprint)
    store = store_of(recommender, num_shards)
    store.restore(checkpoint.rows)
    return Trainer(recommender, store)


def feature_state() -> FeatureState:
    state = FeatureState(keep_items=3)
    for user in (7, "7", -(2**63), 2**63 - 1):
        for time_ms in range(5):
            state.count_impression(user, f"tt{time_ms}", time_ms)
        state.count_like(user, 2**53 + 1, 3)
    state.put_facts("user", 7, 0, {"age": 0.1, "work": "ärztin"})
    state.put_facts("user", 7, 9, {"age": 0.2})
    state.put_facts("item", "tt1", 0, {"genres": ["Drama"], "year": 1995, "title": '"Quoted", Title'})
    return state


def checkpoint_of(trainer: Trainer, about: str = "first") -> Checkpoint:
    joiners = [{"features": feature_state().to_json(), "position": [["actions", 0, 12], ["facts", 1, 2**40]]}]
    return Checkpoint(trainer.recommender.blueprint, trainer.store.snapshot(), joiners, {"data": about, "time_ms": 5})


def assert_same_rows(one: Snapshot, other: Snapshot) -> None:
    """Bit for bit, dtypes included."""
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
    save_checkpoint(tmp_path / "run" / "checkpoint", saved)
    loaded = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert loaded.blueprint == saved.blueprint
    assert_same_rows(loaded.rows, saved.rows)
    assert loaded.about == saved.about
    (joiner,) = loaded.joiners
    assert joiner["position"] == saved.joiners[0]["position"]
    again = FeatureState.from_json(joiner["features"])
    assert json.dumps(again.to_json()) == json.dumps(feature_state().to_json())
    assert again.history(7).liked() == [2**53 + 1] and again.history("7").shown() == ["tt4", "tt3", "tt2"]
    assert again.profiles.as_of(7, 5) == {"age": 0.1, "work": "ärztin"}
    assert os.listdir(tmp_path / "run") == ["checkpoint"]  # nothing is left beside it


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
    rows = Snapshot((2**62, 0, 7), {"a/../b": group, "empty": empty, "ü:": group})
    save_checkpoint(tmp_path / "c", replace(checkpoint_of(trained(steps=0)), rows=rows))
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


def test_only_parquet_and_json(tmp_path: Path) -> None:
    """Nothing in it is code: Parquet of numbers, and JSON."""
    save_checkpoint(tmp_path / "c", checkpoint_of(trained()))
    files = sorted(path.name for path in (tmp_path / "c").iterdir())
    assert {Path(name).suffix for name in files} == {".parquet", ".json"}
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    assert sorted([*manifest["files"], "manifest.json"]) == files
    for path in (tmp_path / "c").glob("*.parquet"):
        assert path.read_bytes()[:4] == b"PAR1"


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


# --- damage


def saved_folder(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "c", checkpoint_of(trained()))
    return tmp_path / "c"


def file_names(folder: Path) -> Sequence[str]:
    return [*json.loads((folder / "manifest.json").read_text())["files"]]


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "one bit", "longer", "another's"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    folder = saved_folder(tmp_path)
    names = file_names(folder)
    assert "state.json" in names and len(names) == 1 + len(trained(steps=0).recommender.groups)
    for name in names:
        path = folder / name
        whole = path.read_bytes()
        if damage == "missing":
            path.unlink()
        elif damage == "one bit":
            middle = len(whole) // 2
            path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        else:
            other = (folder / names[names.index(name) - 1]).read_bytes()
            path.write_bytes(
                {"truncated": whole[:-1], "empty": b"", "longer": whole + b"\0", "another's": other}[damage]
            )
        with pytest.raises(DataError) as raised:
            load_checkpoint(folder)
        message = f"checkpoint file {path} is missing or altered; restore it, or train again"
        assert str(raised.value) == message
        path.write_bytes(whole)
    load_checkpoint(folder)


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (b"", "Expecting value"),
        (b'{"format": 1, "cur', "Unterminated string"),
        (b"\xff\xfe", "can't decode"),
        (b"[]", "it names no format"),
        (b"{}", "it names no format"),
        (b'{"format": 2}', r"it lacks \['about', 'files', 'rows'\]"),
    ],
)
def test_a_damaged_manifest_is_named(tmp_path: Path, manifest: bytes, reason: str) -> None:
    folder = saved_folder(tmp_path)
    (folder / "manifest.json").write_bytes(manifest)
    with pytest.raises(DataError, match=rf"manifest\.json is altered \(.*{reason}") as raised:
        load_checkpoint(folder)
    assert "\n" not in str(raised.value)


def test_another_format_is_told(tmp_path: Path) -> None:
    folder = saved_folder(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 1}))
    with pytest.raises(DataError, match="has format 1, this version reads 2"):
        load_checkpoint(folder)


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "nowhere", tmp_path / "empty"):
        with pytest.raises(DataError) as raised:
            load_checkpoint(folder)
        assert str(raised.value) == (
            f"no checkpoint in {folder}: manifest.json is not there; give the folder of a trained run"
        )


# --- saving over an old one


class Killed(BaseException):
    """The process ends here."""


def renames(folder: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process end at its ``number``-th rename or removal of a folder."""
    left = [number]

    def dies(action: Any) -> Any:
        def act(path: Any, *arguments: Any, **options: Any) -> None:
            if Path(path).exists():
                left[0] -= 1
                if left[0] == 0:
                    if action is shutil.rmtree:  # half of it is gone
                        next(iter(Path(path).iterdir())).unlink()
                    raise Killed
            action(path, *arguments, **options)

        return act

    monkeypatch.setattr(folders.shutil, "rmtree", dies(shutil.rmtree))
    monkeypatch.setattr(folders.os, "replace", dies(os.replace))


def test_a_save_cut_off_anywhere_leaves_the_old_one_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, first, second = tmp_path / "c", trained(steps=1), trained(steps=2)
    found = []
    for number in range(1, 9):
        shutil.rmtree(folder, ignore_errors=True)
        save_checkpoint(folder, checkpoint_of(first, "old"))
        with monkeypatch.context() as patched:
            renames(folder, number, patched)
            try:
                save_checkpoint(folder, checkpoint_of(second, "new"))
                whole = True
            except Killed:
                whole = False
        found.append(load_checkpoint(folder).about["data"])
        expected = first if found[-1] == "old" else second
        assert_same_rows(load_checkpoint(folder).rows, expected.store.snapshot())
        save_checkpoint(folder, checkpoint_of(second, "later"))  # and the next save is as good as any
        assert load_checkpoint(folder).about["data"] == "later"
        if whole:
            break
    assert whole and found[0] == "old" and found[-1] == "new"
    assert os.listdir(tmp_path) == ["c"]


def test_a_save_that_fails_while_writing_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved_folder(tmp_path)
    for at in range(4):
        calls = [at]

        def full_disk(*arguments: Any, calls: list[int] = calls, **options: Any) -> None:
            calls[0] -= 1
            if calls[0] < 0:
                raise OSError("No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(files.pq, "write_table", full_disk)
            with pytest.raises(OSError):
                save_checkpoint(folder, checkpoint_of(trained(), "new"))
        assert load_checkpoint(folder).about["data"] == "first"
    save_checkpoint(folder, checkpoint_of(trained(), "new"))
    assert load_checkpoint(folder).about["data"] == "new"
    assert os.listdir(tmp_path) == ["c"]
