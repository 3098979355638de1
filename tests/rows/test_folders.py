"""Folders: names as users write them, files that are as they were written or refused, and publishing by a manifest."""

import errno
import hashlib
import json
import os
import pickle
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import disks
import pytest
from pyarrow import fs

from recsys.errors import ConfigError, DataError, ServiceError
from recsys.rows import folders
from recsys.rows.folders import Folder

# --- names


def test_a_relative_path_is_shown_as_written_and_is_the_same_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Folder.of("runs/a") / "b"
    assert str(folder) == "runs/a/b" and folder.path == f"{tmp_path}/runs/a/b"
    folder.create()
    folder.write_bytes("x", b"1")
    monkeypatch.chdir("/")
    assert pickle.loads(pickle.dumps(folder)).sizes() == {"x": 1}
    assert (tmp_path / "runs" / "a" / "b" / "x").read_bytes() == b"1"


def test_paths_and_uris(tmp_path: Path) -> None:
    assert Folder.of(tmp_path).path == str(tmp_path)
    assert Folder.of(f"file://{tmp_path}/").path == str(tmp_path)
    assert str(Folder.of(f"file://{tmp_path}") / "x") == f"file://{tmp_path}/x"
    folder = Folder.of(tmp_path)
    assert Folder.of(folder) is folder
    bucket = Folder.of("gs://bucket/runs/1")
    assert (bucket.filesystem.type_name, bucket.path, str(bucket)) == ("gcs", "bucket/runs/1", "gs://bucket/runs/1")


def test_keys_of_an_object_store_are_not_shown() -> None:
    folder = Folder.of("s3://somebody:secret@bucket/runs/1?region=us-east-1&scheme=http") / "c"
    assert (folder.filesystem.type_name, folder.path, str(folder)) == ("s3", "bucket/runs/1/c", "s3://bucket/runs/1/c")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("ftp://host/x", "unknown kind of folder 'ftp://'; known: file://, s3://, gs://"),
        ("s3:///x", "folder s3:///x: Missing bucket name in S3 URI; write it as s3://bucket/folder or file:///folder"),
        ("s3://k:secret@b/x?sharp=1", "folder s3://b/x: Unexpected query parameter in S3 URI: 'sharp'; write it as"),
        (
            "file://host/x",
            "folder file://host/x: Unsupported hostname in non-Windows local URI: 'file://host/x'",
        ),
    ],
)
def test_what_names_no_folder(where: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Folder.of(where)
    assert str(raised.value).startswith(message) and "secret" not in str(raised.value)


# --- files


@pytest.fixture(params=["local", "in memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    made = Folder.of(tmp_path / "f") if request.param == "local" else Folder(fs._MockFileSystem(), "a/f", "mock://a/f")
    made.create()
    return made


def test_sums_are_those_of_the_file(folder: Folder) -> None:
    with folder.writing("x") as stream:
        for data in (b"one", b"", b"two"):
            stream.write(data)
    expected = {"bytes": 6, "sha256": hashlib.sha256(b"onetwo").hexdigest()}
    assert stream.sums == expected == folder.write_bytes("y", b"onetwo")
    assert folder.read("x", expected).to_pybytes() == b"onetwo"
    assert folder.names() == ["x", "y"] and folder.sizes() == {"x": 6, "y": 6}
    folder.remove_file("x")
    folder.remove_file("x")
    assert folder.sizes() == {"y": 6}


def test_a_file_that_is_not_as_it_was_written_is_named(folder: Folder) -> None:
    sums = folder.write_bytes("x", b"0123456789")
    altered = "its SHA-256 is not the manifest's"
    for data, how in [(b"", "it has 0 bytes, not 10"), (b"0123456788", altered), (b"01234567890", "it has 11 bytes")]:
        folder.write_bytes("x", data)
        with pytest.raises(DataError) as raised:
            folder.read("x", sums)
        assert str(raised.value).startswith(f"{folder}/x is altered ({how}")
    folder.remove_file("x")
    with pytest.raises(DataError) as raised:
        folder.read("x", sums)
    assert str(raised.value) == f"{folder}/x is missing"


def test_no_folder_at_all(folder: Folder) -> None:
    nothing = folder / "nothing"
    assert nothing.names() == [] and nothing.sizes() == {} and not nothing.is_published
    nothing.remove()  # harmless
    with pytest.raises(ServiceError, match=r"could not write .*/nothing/x: No such file or directory"):
        nothing.write_bytes("x", b"")


# --- publishing


def test_a_folder_is_published_by_its_manifest(folder: Folder) -> None:
    manifest = {"format": 7, "files": {"x": folder.write_bytes("x", b"1")}, "numbers": (1, 2)}
    assert not folder.is_published
    folder.publish(manifest)
    assert folder.is_published and folder.names() == ["manifest.json", "x"]
    read = folder.read_manifest(version=7, fields={"files", "numbers"})
    assert read.pop("sha256") and read == {**manifest, "numbers": [1, 2]}
    folder.remove()
    assert not folder.is_published and folder.names() == []


def test_local_files_are_on_the_disk_before_the_manifest_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder.of(tmp_path / "f")
    folder.create()
    synced: list[tuple[str, bool]] = []
    sync = folders._sync

    def noted(path: str) -> None:
        sync(path)
        synced.append((os.path.relpath(path, tmp_path), folder.is_published))

    monkeypatch.setattr(folders, "_sync", noted)
    folder.write_bytes("x", b"1")
    folder.publish({"format": 1})
    assert synced == [
        ("f/x", False), ("f/manifest.json.writing", False), ("f", False),  # then it is moved
        ("f", True), (".", True),
    ]  # fmt: skip
    folder.remove()
    assert synced[5:] == [("f", False)]  # without its manifest, and then without the rest


def test_an_object_is_put_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In an object store a move is a copy and a removal: the manifest is written in its place."""
    monkeypatch.setattr(folders, "_WHOLE_AT_ONCE", ("mock",))
    folder = Folder(Recording(), "f", "f")
    folder.create()
    folder.publish({"format": 1})
    assert folder.filesystem.written == ["f/manifest.json"]


class Recording(fs._MockFileSystem):
    """Knows what it was asked to write, and moves nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []

    def open_output_stream(self, path: str, *arguments: Any, **options: Any) -> Any:
        self.written.append(path)
        return super().open_output_stream(path, *arguments, **options)

    def move(self, src: str, dest: str) -> None:
        raise AssertionError(f"moved {src} to {dest}")


def test_a_manifest_with_any_bit_flipped_or_cut_anywhere_is_refused() -> None:
    folder = Folder(fs._MockFileSystem(), "f", "f")
    folder.create()
    folder.publish({"format": 3, "base": None, "parts": [{"cursor": [12], "since": None, "of": -0.5}]})
    whole = folder.read_bytes("manifest.json").to_pybytes()
    damaged = [whole[:length] for length in range(len(whole))]
    for at in range(len(whole)):
        damaged += [whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :] for bit in range(8)]
    for data in damaged:
        folder.write_bytes("manifest.json", data)
        with pytest.raises(DataError) as raised:
            folder.read_manifest(version=3, fields={"base", "parts"})
        assert str(raised.value).startswith("f/manifest.json ") and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (b"", "is altered (Expecting value"),
        (b'{"format": 1, "cur', "is altered (Unterminated string"),
        (b"\xff\xfe", "is altered ('utf-8' codec can't decode"),
        (b"[]", "is altered (it names no format)"),
        (b"{}", "is altered (it names no format)"),
        (b'{"format": 2}', "has format 2, this version reads 1"),
        (b'{"format": 1, "files": {}}', "is altered (it lacks base, sha256)"),
        (b'{"format": 1, "base": 1, "sha256": 1}', "is altered (its SHA-256 is not what it says)"),
    ],
)
def test_a_manifest_that_says_something_else(folder: Folder, manifest: bytes, message: str) -> None:
    folder.write_bytes("manifest.json", manifest)
    with pytest.raises(DataError) as raised:
        folder.read_manifest(version=1, fields={"base"})
    assert str(raised.value).startswith(f"{folder}/manifest.json {message}")


def test_a_manifest_may_be_laid_out_anew(folder: Folder) -> None:
    """Its sum is of what it says."""
    folder.publish({"format": 1, "b": 2, "a": float("nan")})
    said = json.loads(folder.read_bytes("manifest.json").to_pybytes())
    folder.write_bytes("manifest.json", json.dumps(dict(sorted(said.items()))).encode())
    assert folder.read_manifest(version=1, fields={"a", "b"})["b"] == 2


# --- disks that are full, read-only or gone


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    with disks.small_disk(tmp_path / "disk", "64k") as disk:
        yield disk


def test_a_full_disk_is_said(small_disk: Path) -> None:
    folder = Folder.of(small_disk / "f")
    folder.create()
    with pytest.raises(ServiceError) as raised:
        folder.write_bytes("x", bytes(2**17))
    said = f"could not write {folder}/x: No space left on device; mend that, or choose another folder"
    assert str(raised.value) == said
    folder.remove_file("x")
    folder.write_bytes("x", bytes(2**10))


def test_a_read_only_disk_is_said(small_disk: Path) -> None:
    folder = Folder.of(small_disk / "f")
    folder.create()
    folder.publish({"format": 1})
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    attempts: dict[str, Any] = {
        f"could not write {folder}/x": lambda: folder.write_bytes("x", b"1"),
        f"could not create {folder}/more": (folder / "more").create,
        f"could not remove {folder}": folder.remove,
        f"could not remove {folder}/manifest.json": lambda: folder.remove_file("manifest.json"),
    }
    for failure, attempt in attempts.items():
        with pytest.raises(ServiceError) as raised:
            attempt()
        assert str(raised.value) == f"{failure}: Read-only file system; mend that, or choose another folder"
    assert folder.read_manifest(version=1, fields=set())["format"] == 1


def test_a_device_that_takes_nothing(tmp_path: Path) -> None:
    """Without root: /dev/full is a full disk of one file."""
    folder = Folder.of(tmp_path)
    (tmp_path / "x").symlink_to("/dev/full")
    with pytest.raises(ServiceError, match=r"could not write .*/x: No space left on device; mend that"):
        folder.write_bytes("x", b"1")


def test_a_failing_disk_is_said_when_the_file_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(folders, "_sync", failing)
    with pytest.raises(ServiceError, match=r"could not write .*/x: Input/output error; mend that"):
        Folder.of(tmp_path).write_bytes("x", b"1")


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("no folder")
    folder = Folder.of(tmp_path / "f")
    with pytest.raises(ServiceError, match=r"could not create .*/f: "):
        folder.create()
    with pytest.raises(ServiceError, match=r"could not read .*/f: Not a directory"):
        folder.names()
