"""Checkpoints that shards write part by part, over each other: against the shards themselves, on any number of them."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from cuts import Run, in_order, without_dense

from recsys.errors import ConfigError, DataError, ServiceError
from recsys.ps.dense import DENSE
from recsys.ps.routing import merge_snapshots, split_snapshot
from recsys.rows.files import write_part
from recsys.rows.folders import Folder
from recsys.rows.store import Snapshot
from recsys.training.checkpoint import Checkpoints


def manifest(folder: Path, name: str) -> dict:
    return json.loads((folder / name / "manifest.json").read_text())


def base_of(folder: Path, name: str) -> str | None:
    link = manifest(folder, name)["base"]
    return None if link is None else link["name"]


def named(*numbers: int) -> list[str]:
    return [f"checkpoint-{number:06}" for number in numbers]


# --- there and back


@pytest.mark.parametrize("num_shards", [1, 3])
def test_each_of_a_chain_is_what_the_run_was_then(tmp_path: Path, num_shards: int) -> None:
    """Rows, deletions, what waits for admission, counters; and one in ``full_every`` is whole."""
    run = Run(Checkpoints(tmp_path, keep=8, full_every=3), num_shards)
    then, steps = {}, {}
    for _ in range(7):
        run.train()
        name = run.save()
        then[name], steps[name] = run.whole(), run.step
    bases = {name: base_of(tmp_path, name) for name in then}
    a, b, c, d, e, f, g = named(1, 2, 3, 4, 5, 6, 7)
    assert bases == {a: None, b: a, c: b, d: None, e: d, f: e, g: None}
    for name, whole in then.items():
        loaded = run.checkpoints.load(name)
        assert in_order(loaded.rows) == whole
        assert (loaded.step, loaded.position) == (steps[name], {"0": [steps[name], 0]})
        assert loaded.blueprint == run.blueprint and loaded.rows.since is None
    for kind in ("candidates", "deleted"):
        assert [*(tmp_path / c).glob(f"*-{kind}-*.parquet")]
    state, dense = run.checkpoints.load_state(c)
    assert state.about == {"time_ms": steps[c]}
    assert in_order(Snapshot((0,), {DENSE: dense}))[DENSE] == then[c][DENSE]


def test_an_increment_holds_what_changed(tmp_path: Path) -> None:
    run = Run(Checkpoints(tmp_path), 2)
    run.train(20)
    run.save()
    run.store.push({"user": (np.array([5]), np.ones((1, 4), np.float32))}, 10**6)
    run.store.delete({"item": np.array([7])})
    (part,) = [part for part in manifest(tmp_path, run.save())["parts"] if "deleted" in part["groups"]["item"]]
    assert part["since"] is not None
    cut = merge_snapshots([run.checkpoints.load_part("checkpoint-000002", at, 2, run.store.groups) for at in range(2)])
    assert 7 not in cut.groups["item"].keys_U
    sizes = [sum(path.stat().st_size for path in (tmp_path / name).glob("*rows-0*")) for name in named(1, 2)]
    assert sizes[1] < 0.7 * sizes[0]


@pytest.mark.parametrize("written", [1, 2, 3])
@pytest.mark.parametrize("read", [1, 2, 3])
def test_a_part_for_every_shard_of_any_number(tmp_path: Path, written: int, read: int) -> None:
    run = Run(Checkpoints(tmp_path), written)
    for _ in range(3):
        run.train()
        name = run.save()
    groups = run.store.groups
    found = [run.checkpoints.load_part(name, shard, read, groups) for shard in range(read)]
    now = [without_dense(part) for part in run.snapshots()]
    if read == written:
        assert [part.cursor for part in found] == [part.cursor for part in now]
        assert [in_order(part) for part in found] == [in_order(part) for part in now]
    else:
        expected = split_snapshot(merge_snapshots(now), dict(groups), read)
        assert {part.cursor for part in found} == {(max(part.cursor[0] for part in now),)}
        assert [in_order(part) for part in found] == [in_order(part) for part in expected]
    assert sum(len(part.groups["user"].keys_U) for part in found) == len(merge_snapshots(now).groups["user"].keys_U)


@pytest.mark.parametrize("num_shards", [1, 3])
def test_training_goes_on_from_parts_as_if_nothing_had_been(tmp_path: Path, num_shards: int) -> None:
    run = Run(Checkpoints(tmp_path), num_shards)
    for _ in range(3):
        run.train()
        name = run.save()
    again = Run(Checkpoints(tmp_path), num_shards, first_step=run.step)
    state, dense = again.checkpoints.load_state(name)
    dense_parts = split_snapshot(Snapshot((0,), {DENSE: dense}), dict(again.store.groups), num_shards)
    for at, shard in enumerate(again.shards):
        part = again.checkpoints.load_part(name, at, num_shards, again.store.groups)
        shard.restore(replace(part, groups={**part.groups, **dense_parts[at].groups}))
    assert state.step == again.step
    for each in (run, again):
        each.train(5)
    one, other = run.whole(), again.whole()
    for name, group in one.items():
        del group["sequences"], other[name]["sequences"]  # a restart may skip some
    assert one == other


def test_a_part_that_is_whole_ends_its_own_chain(tmp_path: Path) -> None:
    """Where one shard has lost its memory of deletions, the others still add to theirs."""
    run = Run(Checkpoints(tmp_path), 2)
    run.train()
    run.save()
    first = run.snapshots()
    run.train()
    held = [run.shards[0].snapshot(first[0].cursor), run.shards[1].snapshot()]
    name, folder = run.checkpoints.begin()
    parts = [write_part(folder, f"shard-{at}", without_dense(part)) for at, part in enumerate(held)]
    assert [part["since"] for part in parts] == [list(first[0].cursor), None]
    dense = merge_snapshots(run.snapshots()).groups[DENSE]
    run.checkpoints.commit(name, parts, dense, run.state(), "checkpoint-000001")
    assert base_of(tmp_path, name) == "checkpoint-000001"
    assert in_order(run.checkpoints.load().rows) == run.whole()
    (tmp_path / "checkpoint-000001" / "shard-1-rows-0.parquet").unlink()
    assert in_order(run.checkpoints.load().rows) == run.whole()  # nobody needs that one


def test_groups_that_nobody_asked_for(tmp_path: Path) -> None:
    run = Run(Checkpoints(tmp_path), 2)
    name = run.save()
    groups = {group: run.store.groups[group] for group in ("user", "item")}
    with pytest.raises(ConfigError, match="unknown row group 'genres'; known: user, item"):
        run.checkpoints.load_part(name, 0, 3, groups)


# --- what an increment may add to


def test_the_next_is_whole_for_other_shards_and_after_a_long_chain(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, full_every=3)
    run = Run(checkpoints, 2)
    assert checkpoints.base(2) is None
    for expected in (*named(1, 2), None, *named(4)):
        run.train(1)
        run.save()
        assert checkpoints.base(2) == expected
        assert checkpoints.base(1) is None and checkpoints.base(3) is None
    assert checkpoints.cursors("checkpoint-000004") == [part.cursor for part in run.snapshots()]
    assert Checkpoints(tmp_path, full_every=1).base(2) is None


@pytest.mark.parametrize("damage", ["remove", "cut", "alter the manifest", "remove the base"])
def test_the_next_is_whole_where_the_chain_is_damaged(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(Checkpoints(tmp_path, keep=3), 2)
    for _ in range(2):
        run.train(1)
        run.save()
    assert run.checkpoints.base(2) == "checkpoint-000002"
    path = tmp_path / "checkpoint-000001" / "shard-1-rows-0.parquet"
    if damage == "remove":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path = tmp_path / ("checkpoint-000001" if "base" in damage else "checkpoint-000002") / "manifest.json"
        path.write_text(path.read_text().replace("3", "4", 1))
    assert run.checkpoints.base(2) is None
    (said,) = caplog.messages
    assert said.startswith(f"the next checkpoint will be whole: {path} ")
    run.train(1)
    name = run.save()
    assert base_of(tmp_path, name) is None and in_order(run.checkpoints.load(name).rows) == run.whole()


def test_a_chain_that_does_not_fit_together_is_not_published(tmp_path: Path) -> None:
    run = Run(Checkpoints(tmp_path), 2)
    for _ in range(2):
        run.train(1)
        run.save()
    (_, middle), since = run.checkpoints.names(), run.checkpoints.cursors("checkpoint-000001")
    run.train(1)
    dense = merge_snapshots(run.snapshots()).groups[DENSE]
    for base, error, message in [
        (middle, ValueError, rf"part 0 of {middle} is of \[\d+\], its increment of after \[\d+\]"),
        (None, ValueError, "need the base"),
        ("checkpoint-000009", ServiceError, "could not add to checkpoint-000009: .* is missing; the next .* be whole"),
    ]:
        name, folder = run.checkpoints.begin()
        held = [shard.snapshot(after) for shard, after in zip(run.shards, since, strict=True)]
        parts = [write_part(folder, f"shard-{at}", without_dense(part)) for at, part in enumerate(held)]
        parts[0]["since"] = list(since[0])
        with pytest.raises(error, match=message):
            run.checkpoints.commit(name, parts, dense, run.state(), base)
        assert run.checkpoints.names() == named(1, 2) and sorted(os.listdir(tmp_path)) == named(1, 2)


def test_parts_that_only_their_writer_can_see(tmp_path: Path) -> None:
    """A local folder is not the same on every machine."""
    run = Run(Checkpoints(tmp_path), 2)
    run.save()
    elsewhere = Run(Checkpoints(tmp_path / "elsewhere"), 2)
    (name, folder), (_, other) = run.checkpoints.begin(), elsewhere.checkpoints.begin()
    parts = [write_part(at, f"shard-{n}", without_dense(run.snapshots()[n])) for n, at in enumerate((folder, other))]
    with pytest.raises(ServiceError) as raised:
        run.checkpoints.commit(name, parts, merge_snapshots(run.snapshots()).groups[DENSE], run.state(), None)
    assert str(raised.value) == (
        f"{tmp_path}/{name}/shard-1-rows-0.parquet is missing, though it was written: on several machines, choose a "
        "folder that they share, or an object store (s3://…)"
    )
    assert run.checkpoints.names() == named(1)


def test_a_base_in_whose_place_another_lies(tmp_path: Path) -> None:
    run = Run(Checkpoints(tmp_path), 1)
    for _ in range(2):
        run.train(1)
        run.save()
    other = Run(Checkpoints(tmp_path / "other"), 1)
    other.save()
    (tmp_path / "checkpoint-000001").rename(tmp_path / "gone")
    (tmp_path / "other" / "checkpoint-000001").rename(tmp_path / "checkpoint-000001")
    with pytest.raises(DataError) as raised:
        run.checkpoints.load()
    assert str(raised.value) == (
        f"{tmp_path}/checkpoint-000001/manifest.json is another than checkpoint-000002 adds to; the one before it is "
        "checkpoint-000001: resume from that with resume_from=checkpoint-000001"
    )


def test_an_increment_of_another_instant(tmp_path: Path) -> None:
    """Whoever wrote that: it is not taken for what it is not."""
    run = Run(Checkpoints(tmp_path), 1)
    for _ in range(2):
        run.train(1)
        name = run.save()
    said = manifest(tmp_path, name)
    of, since = said["parts"][0]["since"][0], said["parts"][0]["since"][0] + 1
    said["parts"][0]["since"] = [since]
    del said["sha256"]
    (Folder.of(tmp_path) / name).publish(said)
    with pytest.raises(DataError, match=rf"/checkpoint-000001 is of \[{of}\], what adds to it of after \[{since}\]"):
        run.checkpoints.load()


# --- names, and which stay


@pytest.mark.parametrize(
    ("keep", "full_every", "stay"),
    [
        (1, 1, [[1], [2], [3], [4], [5], [6]]),
        (2, 1, [[1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 6]]),
        (1, 3, [[1], [1, 2], [1, 2, 3], [4], [4, 5], [4, 5, 6]]),
        (2, 3, [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4], [4, 5], [4, 5, 6]]),
        (3, 2, [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4], [3, 4, 5], [3, 4, 5, 6]]),
        (9, 9, [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6]]),
    ],
)
def test_the_newest_stay_and_what_they_add_to(
    tmp_path: Path, keep: int, full_every: int, stay: list[list[int]]
) -> None:
    run = Run(Checkpoints(tmp_path, keep=keep, full_every=full_every), 1)
    for expected in stay:
        run.save()
        assert run.checkpoints.names() == named(*expected) == sorted(os.listdir(tmp_path))
        for name in run.checkpoints.names():
            run.checkpoints.load(name)


def test_increments_go_before_what_they_add_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that one that is there can be loaded at any time."""
    run = Run(Checkpoints(tmp_path, keep=1, full_every=3), 1)
    removed: list[str] = []
    remove = type(run.checkpoints.begin()[1]).remove

    def noted(folder: object) -> None:
        for name in run.checkpoints.names():
            run.checkpoints.load(name)
        removed.append(str(folder).rpartition("/")[2])
        remove(folder)  # type: ignore[arg-type]

    monkeypatch.setattr("recsys.rows.folders.Folder.remove", noted)
    for _ in range(4):
        run.save()
    assert removed == named(1, 4, 3, 2)  # the first was begun only


def test_a_number_is_never_taken_twice(tmp_path: Path) -> None:
    """And what others have left unfinished goes, but for what is no checkpoint."""
    run = Run(Checkpoints(tmp_path), 1)
    assert run.save() == "checkpoint-000001"
    (tmp_path / "checkpoint-000004").mkdir()
    (tmp_path / "checkpoint-000004" / "shard-0-rows-0.parquet").write_bytes(b"cut o")
    (tmp_path / "notes").mkdir()
    (tmp_path / "checkpoint-x").write_text("")
    name, folder = run.checkpoints.begin()
    assert name == "checkpoint-000005" and folder.names() == []
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-000001", "checkpoint-000005", "checkpoint-x", "notes"]
    assert run.checkpoints.names() == ["checkpoint-000001"]
    assert run.save() == "checkpoint-000006"


def test_numbers_have_no_end(tmp_path: Path) -> None:
    run = Run(Checkpoints(tmp_path, keep=3), 1)
    (tmp_path / "checkpoint-999998").mkdir()
    assert [run.save() for _ in range(3)] == ["checkpoint-999999", "checkpoint-1000000", "checkpoint-1000001"]
    assert run.checkpoints.names() == ["checkpoint-999999", "checkpoint-1000000", "checkpoint-1000001"]
    assert run.checkpoints.base(1) == "checkpoint-1000001"


def test_shards_write_at_once(tmp_path: Path) -> None:
    """Each from its own thread, into the one folder."""
    run = Run(Checkpoints(tmp_path), 8)
    run.train(4)
    held = run.snapshots()
    name, folder = run.checkpoints.begin()
    with ThreadPoolExecutor(8) as threads:
        prefixes = [f"shard-{at}" for at in range(8)]
        parts = list(threads.map(partial(write_part, folder), prefixes, map(without_dense, held)))
    run.checkpoints.commit(name, parts, merge_snapshots(held).groups[DENSE], run.state(), None)
    assert in_order(run.checkpoints.load().rows) == run.whole()


def test_who_goes_back_leaves_what_came_after(tmp_path: Path) -> None:
    """Else a recovery would return to the newest: of a future that is not this run's."""
    run = Run(Checkpoints(tmp_path, keep=4), 2)
    for _ in range(4):
        run.train(1)
        run.save()
    rows = in_order(run.checkpoints.load("checkpoint-000002").rows)
    assert run.checkpoints.remove_after("checkpoint-000002") == named(3, 4)
    assert run.checkpoints.names() == named(1, 2) == sorted(os.listdir(tmp_path))
    assert in_order(run.checkpoints.load().rows) == rows
    assert run.checkpoints.remove_after("checkpoint-000002") == []
