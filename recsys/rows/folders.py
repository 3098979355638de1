"""Folders of files, in a local file system or an object store, that readers find whole or not at all.

Files are written under their own names; the manifest, with their sizes and SHA-256 sums, comes last and publishes the
folder. What a crash leaves has no manifest, and is not there for readers.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from recsys.errors import ConfigError, DataError, RecsysError, ServiceError, unknown

_MANIFEST = "manifest.json"
_SCHEMES = ("file", "s3", "gs")
_WHOLE_AT_ONCE = ("s3", "gcs")  # stores where an object is there when all of it has been put, and a move is a copy


@dataclass(frozen=True)
class Folder:
    """A folder in a file system or an object store; it can be sent to other processes.

    Whatever a write meets (a full disk, missing permissions, a store that is gone) is a ServiceError that names the
    file; local files are on the disk when a write returns. What is read is checked against its size and sum.

    >>> str(Folder.of("runs/one") / "checkpoints")
    'runs/one/checkpoints'
    """

    filesystem: fs.FileSystem
    path: str
    shown: str  # as the user wrote it

    @classmethod
    def of(cls, where: "str | Path | Folder") -> "Folder":
        """A local path, or a URI: file://, s3://, gs:// (with pyarrow's options); ConfigError for another."""
        if isinstance(where, Folder):
            return where
        text = str(where)
        if "://" not in text:
            return cls(fs.LocalFileSystem(), os.path.abspath(text), text)
        if urlsplit(text).scheme not in _SCHEMES:
            raise unknown("kind of folder", urlsplit(text).scheme + "://", [f"{scheme}://" for scheme in _SCHEMES])
        shown = _without_secrets(text)
        try:
            filesystem, path = fs.FileSystem.from_uri(text)
        except (ValueError, pa.ArrowException) as error:
            reason = _one_line(error).replace(text, shown)
            raise ConfigError(f"folder {shown}: {reason}; write it as s3://bucket/folder or file:///folder") from error
        except OSError as error:
            raise ServiceError(f"could not reach {shown}: {_one_line(error).replace(text, shown)}") from error
        return cls(filesystem, path.rstrip("/"), shown)

    def __truediv__(self, name: str) -> "Folder":
        return Folder(self.filesystem, f"{self.path}/{name}", f"{self.shown.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.shown

    # --- what is there

    def names(self) -> list[str]:
        """The names of what lies in it, sorted; none where there is no folder."""
        return sorted(info.base_name for info in self._found())

    def sizes(self) -> dict[str, int]:
        """The bytes of each file in it; no files where there is no folder."""
        return {info.base_name: info.size for info in self._found() if info.type == fs.FileType.File}

    @property
    def is_published(self) -> bool:
        """Whether readers find it."""
        with self._told_reading():
            return bool(self.filesystem.get_file_info(f"{self.path}/{_MANIFEST}").type == fs.FileType.File)

    # --- writing

    def create(self) -> None:
        """Make it, and the folders that it lies in; harmless where they are there."""
        with _told(f"could not create {self}"):
            self.filesystem.create_dir(self.path, recursive=True)

    def remove(self) -> None:
        """Remove it with all that is in it, the manifest first: readers find it whole or not at all to the end."""
        with _told(f"could not remove {self}"):
            with suppress(FileNotFoundError):
                self.filesystem.delete_file(f"{self.path}/{_MANIFEST}")
                self._to_disk(self.path)
            with suppress(FileNotFoundError):
                self.filesystem.delete_dir(self.path)

    def remove_file(self, name: str) -> None:
        """Remove a file; harmless where there is none."""
        with _told(f"could not remove {self}/{name}"), suppress(FileNotFoundError):
            self.filesystem.delete_file(f"{self.path}/{name}")

    @contextmanager
    def writing(self, name: str) -> Iterator["SummedStream"]:
        """A stream into a file, on the disk at the end of the block; its ``sums`` are what the manifest is told."""
        with _told(f"could not write {self}/{name}"):
            with self.filesystem.open_output_stream(f"{self.path}/{name}") as stream:
                yield SummedStream(stream)
            self._to_disk(f"{self.path}/{name}")

    def write_bytes(self, name: str, data: bytes) -> dict[str, Any]:
        """Write a file; its ``sums``."""
        with self.writing(name) as stream:
            stream.write(data)
        return stream.sums

    def publish(self, manifest: Mapping[str, Any]) -> None:
        """Let readers find the folder. The manifest gets ``sha256``, the sum of what it says."""
        said = json.loads(json.dumps(manifest))  # as readers will see it
        data = json.dumps({**said, "sha256": _sum_of(said)}, indent=1).encode()
        if self.filesystem.type_name in _WHOLE_AT_ONCE:
            self.write_bytes(_MANIFEST, data)
            return
        self.write_bytes(_MANIFEST + ".writing", data)
        with _told(f"could not write {self}/{_MANIFEST}"):
            self._to_disk(self.path)  # the names of the files, before the one that publishes them
            self.filesystem.move(f"{self.path}/{_MANIFEST}.writing", f"{self.path}/{_MANIFEST}")
            self._to_disk(self.path)
            self._to_disk(os.path.dirname(self.path))

    # --- reading

    def read_manifest(self, *, version: int, fields: set[str]) -> dict[str, Any]:
        """What ``publish`` was given, and its ``sha256``; DataError where it is missing or not as it was written.

        ``version`` is what its ``format`` must be, ``fields`` what else it must say.
        """
        manifest = self._parsed(self.read_bytes(_MANIFEST))
        if not isinstance(manifest, dict) or "format" not in manifest:
            raise self._altered(_MANIFEST, "it names no format")
        if manifest["format"] != version:
            raise DataError(f"{self}/{_MANIFEST} has format {manifest['format']!r}, this version reads {version}")
        if missing := {*fields, "sha256"} - set(manifest):
            raise self._altered(_MANIFEST, f"it lacks {', '.join(sorted(missing))}")
        if manifest["sha256"] != _sum_of({name: value for name, value in manifest.items() if name != "sha256"}):
            raise self._altered(_MANIFEST, "its SHA-256 is not what it says")
        return manifest

    def read(self, name: str, sums: Mapping[str, Any]) -> pa.Buffer:
        """All of a file; DataError names it where it is missing, or another than was written."""
        data = self.read_bytes(name)
        if data.size != sums["bytes"]:
            raise self._altered(name, f"it has {data.size:,} bytes, not {sums['bytes']:,}")
        if hashlib.sha256(data).hexdigest() != sums["sha256"]:
            raise self._altered(name, "its SHA-256 is not the manifest's")
        return data

    def read_bytes(self, name: str) -> pa.Buffer:
        """All of a file, unchecked; DataError where it is missing."""
        with self._told_reading(name):
            try:
                with self.filesystem.open_input_file(f"{self.path}/{name}") as file:
                    return file.read_buffer()
            except FileNotFoundError as error:
                raise DataError(f"{self}/{name} is missing") from error

    def _found(self) -> list[fs.FileInfo]:
        with self._told_reading():
            found: list[fs.FileInfo] = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
            return found

    def _parsed(self, data: pa.Buffer) -> Any:
        try:
            return json.loads(data.to_pybytes().decode())
        except ValueError as error:
            raise self._altered(_MANIFEST, _one_line(error)) from error

    def _altered(self, name: str, how: str) -> DataError:
        return DataError(f"{self}/{name} is altered ({how})")

    @contextmanager
    def _told_reading(self, name: str | None = None) -> Iterator[None]:
        """Whatever keeps the block from reading as a ServiceError."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            where = self if name is None else self / name
            raise ServiceError(f"could not read {where}: {_reason(error)}") from error

    def _to_disk(self, path: str) -> None:
        """Have a local file, or the names in a local folder, survive a failing machine."""
        if isinstance(self.filesystem, fs.LocalFileSystem):
            _sync(path)


class SummedStream:
    """A stream that knows the size and the SHA-256 of what went through it."""

    closed = False

    def __init__(self, stream: pa.NativeFile) -> None:
        self._stream, self._sum, self._bytes = stream, hashlib.sha256(), 0

    def write(self, data: bytes | pa.Buffer) -> int:
        """Write and count."""
        self._stream.write(data)
        self._sum.update(data)
        self._bytes += len(data)
        return len(data)

    def flush(self) -> None:
        """The folder sees to that."""

    @property
    def sums(self) -> dict[str, Any]:
        """What ``Folder.read`` checks a file against."""
        return {"bytes": self._bytes, "sha256": self._sum.hexdigest()}


@contextmanager
def _told(failure: str) -> Iterator[None]:
    """Whatever keeps the block from writing as a ServiceError."""
    try:
        yield
    except RecsysError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise ServiceError(f"{failure}: {_reason(error)}; mend that, or choose another folder") from error


def _sum_of(said: Mapping[str, Any]) -> str:
    """The SHA-256 of plain values, however they are laid out."""
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _reason(error: Exception) -> str:
    """``No space left on device``; or what an object store said, on one line."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else _one_line(error)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".: ")


def _without_secrets(uri: str) -> str:
    """A URI without its keys and options."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
