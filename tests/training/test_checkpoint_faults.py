"""Checkpoints and what can befall them: damaged files, crashes at any moment, disks that are full, object stores."""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import disks
import pytest
from cuts import Run, in_order, without_dense
from pyarrow import fs

from recsys.errors import DataError, ServiceError
from recsys.rows import folders
from recsys.rows.folders import Folder
from recsys.training.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parents[2]

# --- damaged files


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints 1 and 3 are whole, 2 adds to 1, 4 to 3; of two shards."""
    folder = tmp_path_factory.mktemp("saved")
    run = Run(Checkpoints(folder, keep=4, full_every=2), 2)
    for _ in range(4):
        run.train()
        run.save()
    return folder


@pytest.fixture
def place(saved: Path, tmp_path: Path) -> Path:
    shutil.copytree(saved, tmp_path / "c")
    return tmp_path / "c"


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda data: None,
    "cut short": lambda data: data[:-1],
    "empty": lambda data: b"",
    "one bit": lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
    "longer": lambda data: data + b"\0",
}


def damage(path: Path, kind: str = "one bit") -> None:
    damaged = DAMAGES[kind](path.read_bytes())
    path.unlink()
    if damaged is not None:
        path.write_bytes(damaged)


def refusal(load: Callable[[], Any]) -> str:
    with pytest.raises(DataError) as raised:
        load()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def offered(number: int) -> str:
    name = f"checkpoint-{number:06}"
    return f"; the one before it is {name}: resume from that with resume_from={name}"


@pytest.mark.parametrize("kind", DAMAGES)
def test_every_damaged_file_is_named_and_the_one_before_offered(place: Path, kind: str) -> None:
    newest = place / "checkpoint-000004"
    names = sorted(os.listdir(newest))
    assert {"manifest.json", "state.json", "dense.safetensors", "shard-1-rows-5.parquet"} <= set(names)
    assert len(names) > 15
    for name in names:
        path = newest / name
        intact = path.read_bytes()
        damage(path, kind)
        if (name, kind) == ("manifest.json", "missing"):  # then there is no such checkpoint
            assert Checkpoints(place).names()[-1] == "checkpoint-000003"
        else:
            said = refusal(lambda: Checkpoints(place).load())
            assert said.startswith(f"{path} is {'missing' if kind == 'missing' else 'altered ('}")
            assert said.endswith(offered(3))
        path.write_bytes(intact)
    Checkpoints(place).load()


@pytest.mark.parametrize("kind", DAMAGES)
def test_every_damaged_file_of_a_base_is_named(place: Path, kind: str) -> None:
    base = place / "checkpoint-000003"
    for name in sorted(os.listdir(base)):
        path = base / name
        intact = path.read_bytes()
        damage(path, kind)
        if name in ("state.json", "dense.safetensors"):  # of a base, nobody asks for these
            Checkpoints(place).load("checkpoint-000004")
        else:
            said = refusal(lambda: Checkpoints(place).load("checkpoint-000004"))
            assert said.startswith(f"{path} is {'missing' if kind == 'missing' else 'altered ('}")
            assert said.endswith(offered(2))
        path.write_bytes(intact)


def test_what_is_offered_is_sound(saved: Path, place: Path) -> None:
    """All of it, what it adds to included; or it is said that there is none."""
    checkpoints = Checkpoints(place)
    damage(place / "checkpoint-000002" / "state.json")
    assert refusal(lambda: checkpoints.load("checkpoint-000002")).endswith(offered(1))  # not a later one
    shutil.copy(saved / "checkpoint-000002" / "state.json", place / "checkpoint-000002")
    damage(place / "checkpoint-000004" / "state.json")
    damage(place / "checkpoint-000003" / "dense.safetensors")
    assert refusal(checkpoints.load).endswith(offered(2))
    damage(place / "checkpoint-000002" / "shard-0-rows-0.parquet")
    assert refusal(checkpoints.load).endswith(offered(1))
    checkpoints.load("checkpoint-000001")
    damage(place / "checkpoint-000001" / "shard-1-rows-0.parquet", "missing")
    none = "; there is no sound one before checkpoint-00000{}: restore the file, or train again"
    assert refusal(checkpoints.load).endswith(none.format(4))
    assert refusal(lambda: checkpoints.load("checkpoint-000001")).endswith(none.format(1))


def test_only_what_is_read_is_checked(place: Path) -> None:
    """A shard is not kept from its rows by what became of another's."""
    checkpoints = Checkpoints(place)
    groups = Run(checkpoints, 1).store.groups
    damage(place / "checkpoint-000003" / "shard-1-rows-0.parquet")
    checkpoints.load_state("checkpoint-000004")
    checkpoints.load_part("checkpoint-000004", 0, 2, groups)
    for part, num_parts in [(1, 2), (0, 1), (0, 3)]:
        said = refusal(lambda: checkpoints.load_part("checkpoint-000004", part, num_parts, groups))  # noqa: B023
        assert said.startswith(f"{place}/checkpoint-000003/shard-1-rows-0.parquet is altered")


# --- crashes


class Killed(BaseException):
    """The process ends here."""


def test_a_crash_at_any_moment_leaves_the_old_one_or_the_new_one() -> None:
    """Within files and between them, while old ones are removed, too; and the next save is as good as any."""
    newest = []
    for num_steps in range(10_000):
        disk = Counting()
        folder = Folder(disk, "c", "c")
        run = Run(Checkpoints(folder, keep=1, full_every=2), 2)
        for _ in range(2):
            run.train(1)
            run.save()
        then = run.whole()
        run.train(1)
        disk.left = num_steps
        try:
            run.save()
            lived = True
        except Killed:
            lived = False
        disk.left = None
        newest.append(run.checkpoints.names()[-1])
        assert in_order(run.checkpoints.load().rows) == (run.whole() if newest[-1].endswith("3") else then)
        if lived:
            break
        run.train(1)
        assert run.save() > newest[-1] and in_order(run.checkpoints.load().rows) == run.whole()
        assert folder.names() == run.checkpoints.names()
    assert lived and len(newest) > 40
    assert newest == sorted(newest) and {*newest} == {"checkpoint-000002", "checkpoint-000003"}


class Counting(fs._MockFileSystem):
    """Ends the process after ``left`` steps: files opened, moved and removed, folders made and removed."""

    left: int | None = None

    def _step(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed

    def create_dir(self, *arguments: Any, **options: Any) -> None:
        self._step()
        super().create_dir(*arguments, **options)

    def open_output_stream(self, *arguments: Any, **options: Any) -> Any:
        self._step()
        stream = super().open_output_stream(*arguments, **options)
        self._step()  # an empty file
        return stream

    def move(self, *arguments: Any) -> None:
        self._step()
        super().move(*arguments)
        self._step()

    def delete_file(self, *arguments: Any) -> None:
        self._step()
        super().delete_file(*arguments)

    def delete_dir(self, *arguments: Any) -> None:
        self._step()
        super().delete_dir(*arguments)


@pytest.mark.long
def test_a_process_killed_after_each_file_leaves_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    script = ROOT / "tests" / "training" / "killed_while_saving.py"
    subprocess.run([sys.executable, script, tmp_path], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    run = Run(Checkpoints(tmp_path / "none"), 2)
    run.train()
    (tmp_path / "first").rename(tmp_path / "-1")
    found = []
    for number in range(-1, len(os.listdir(tmp_path)) - 1):
        checkpoints = Checkpoints(tmp_path / str(number))
        found.append(checkpoints.names()[-1])
        assert in_order(checkpoints.load().rows) == run.whole()
    assert found == sorted(found) and found.count("checkpoint-000001") > 20
    assert found[-4:] == ["checkpoint-000002"] * 4  # moved, known to be moved, the old one half gone, gone


# --- writes that fail


def failed(save: Callable[[], Any]) -> str:
    with pytest.raises(ServiceError) as raised:
        save()
    return str(raised.value)


def test_a_file_that_can_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever it is: the error names it, the last one stays, and nothing of the new one."""
    run = Run(Checkpoints(tmp_path), 2)
    run.save()
    then = run.whole()
    run.train()
    open_stream, refused = Folder.writing, set()

    def writing(folder: Folder, name: str) -> Any:
        if name not in refused:
            refused.add(name)
            os.symlink("/dev/full", f"{folder.path}/{name}")
        return open_stream(folder, name)

    monkeypatch.setattr(Folder, "writing", writing)
    messages = []
    for _ in range(40):
        try:
            run.save()
            break
        except ServiceError as error:
            messages.append(str(error))
            assert run.checkpoints.names() == ["checkpoint-000001"]
            assert in_order(run.checkpoints.load().rows) == then
    assert len(messages) == len(refused) and {"state.json", "dense.safetensors", "manifest.json.writing"} < refused
    for message in messages:
        assert message.startswith(f"could not write {tmp_path}/checkpoint-")
        assert message.endswith(": No space left on device; mend that, or choose another folder")
    assert in_order(run.checkpoints.load().rows) == run.whole()
    assert sorted(os.listdir(tmp_path)) == run.checkpoints.names()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    with disks.small_disk(tmp_path / "disk", "1m") as disk:
        yield disk


def test_a_disk_that_fills_up(disk: Path) -> None:
    """However much room there is: the last good one stays and loads; with room again, the next is there."""
    run = Run(Checkpoints(disk / "c", keep=1, full_every=1), 2)
    run.train()
    run.save()
    then = run.whole()
    filler = disk / "filler"
    free = shutil.disk_usage(disk).free
    whole = sum(path.stat().st_size for path in (disk / "c").rglob("*.*"))
    for room in range(0, 2 * whole, whole // 6):
        filler.write_bytes(bytes(free - room))
        run.train(1)
        try:
            run.save()
        except ServiceError as error:
            assert "No space left on device" in str(error) and "could not" in str(error)
            assert in_order(run.checkpoints.load().rows) == then
            assert run.checkpoints.names() == ["checkpoint-000001"]
        else:
            break
    assert room > 0
    assert in_order(run.checkpoints.load().rows) == run.whole()
    assert os.listdir(disk / "c") == run.checkpoints.names()


def test_a_disk_that_becomes_read_only(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(Checkpoints(disk / "c"), 2)
    run.save()
    then = run.whole()
    name, _ = run.checkpoints.begin()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    run.train()
    end = "Read-only file system; mend that, or choose another folder"
    assert failed(run.save) == f"could not create {disk}/c/checkpoint-000003: {end}"
    assert failed(lambda: run.checkpoints.commit(name, [], None, run.state(), None)) == (  # type: ignore[arg-type]
        f"could not write {disk}/c/{name}/state.json: {end}"
    )
    assert caplog.messages == [f"could not remove {disk}/c/{name}: {end}"]
    assert run.checkpoints.names() == ["checkpoint-000001"] and in_order(run.checkpoints.load().rows) == then
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert run.save() == "checkpoint-000003" and os.listdir(disk / "c") != []
    assert in_order(run.checkpoints.load().rows) == run.whole()


def test_an_old_one_that_can_not_be_removed_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(folder: Folder) -> None:
        raise ServiceError(f"could not remove {folder}")

    run = Run(Checkpoints(tmp_path, keep=1, full_every=1), 1)
    run.save()
    with monkeypatch.context() as patched:
        patched.setattr(Folder, "remove", refuse)
        assert run.save() == "checkpoint-000002"
    assert caplog.record_tuples == [
        ("recsys.training.checkpoint", logging.WARNING, f"could not remove {tmp_path}/checkpoint-000001")
    ]
    run.save()
    assert os.listdir(tmp_path) == ["checkpoint-000003"]


# --- other file systems


@pytest.fixture(params=["in memory", "s3"])
def elsewhere(request: pytest.FixtureRequest) -> Folder:
    """A folder that is not on this disk."""
    if request.param == "in memory":
        return Folder(fs._MockFileSystem(), "bucket/run", "mock://bucket/run")
    uri = os.environ.get("RECSYS_S3")
    if not uri:
        pytest.skip("RECSYS_S3 names no folder of an object store: s3://KEY:SECRET@BUCKET/FOLDER?endpoint_override=…")
    folder = Folder.of(uri) / f"test-{os.getpid()}"
    request.addfinalizer(folder.remove)
    return folder


def test_checkpoints_in_another_file_system(elsewhere: Folder) -> None:
    """Written, retained, read by parts, damaged and offered as on a disk."""
    run = Run(Checkpoints(elsewhere, keep=1, full_every=3), 2)
    for _ in range(5):
        run.train()
        name = run.save()
    assert run.checkpoints.names() == elsewhere.names() == ["checkpoint-000004", "checkpoint-000005"]
    assert in_order(run.checkpoints.load().rows) == run.whole()
    parts = [run.checkpoints.load_part(name, shard, 2, run.store.groups) for shard in range(2)]
    assert [in_order(part) for part in parts] == [in_order(without_dense(part)) for part in run.snapshots()]
    left, _ = run.checkpoints.begin()
    assert left == "checkpoint-000006" and run.checkpoints.names()[-1] == name
    for file in (elsewhere / name).names():
        intact = (elsewhere / name).read_bytes(file).to_pybytes()
        (elsewhere / name).write_bytes(file, intact[:-1])
        said = refusal(run.checkpoints.load)
        assert said.startswith(f"{elsewhere}/{name}/{file} is altered (") and said.endswith(offered(4))
        (elsewhere / name).write_bytes(file, intact)
    run.train()
    assert run.save() == "checkpoint-000007" and left not in elsewhere.names()
    assert in_order(run.checkpoints.load().rows) == run.whole()


def test_a_store_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(fs._MockFileSystem):
        def get_file_info(self, *arguments: Any) -> Any:
            raise OSError("When listing objects: AWS Error NETWORK_CONNECTION:\n curlCode: 7, Couldn't connect.")

    checkpoints = Checkpoints(Folder(Gone(), "c", "s3://c"))
    reason = "When listing objects: AWS Error NETWORK_CONNECTION: curlCode: 7, Couldn't connect"
    for attempt in (checkpoints.names, checkpoints.load, checkpoints.begin, lambda: checkpoints.base(1)):
        assert failed(attempt) == f"could not read s3://c: {reason}"
    assert folders._WHOLE_AT_ONCE == ("s3", "gcs")
