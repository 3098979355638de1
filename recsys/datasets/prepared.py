"""A prepared data set: a folder of four Parquet files and the manifest that vouches for them."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from recsys.errors import DataError

FORMAT = 1
MANIFEST = "manifest.json"
IMPRESSIONS, ACTIONS, USERS, ITEMS = (
    "impressions.parquet",
    "actions.parquet",
    "users.parquet",
    "items.parquet",
)
FILES = (IMPRESSIONS, ACTIONS, USERS, ITEMS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileRecord:
    """The size and SHA-256 of one file."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "FileRecord":
        """Measure a file."""
        with path.open("rb") as file:
            return cls(bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a prepared folder holds; times are those of the first impression and of the last event."""

    format: int
    name: str
    edition: str
    source: str
    like_threshold: float
    num_impressions: int
    num_actions: int
    num_users: int
    num_items: int
    first_time_ms: int
    last_time_ms: int
    files: dict[str, FileRecord]

    def to_json(self) -> str:
        """The text of ``manifest.json``."""
        return json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Read ``manifest.json`` back; ValueError, TypeError or KeyError where it is none."""
        fields: dict[str, Any] = json.loads(text)
        if fields["format"] != FORMAT:
            message = f"format {fields['format']!r}, this version reads {FORMAT}"
            raise ValueError(message)
        files = {name: FileRecord(**record) for name, record in fields.pop("files").items()}
        if set(files) != set(FILES):
            message = f"it lists {', '.join(sorted(files))} instead of {', '.join(sorted(FILES))}"
            raise ValueError(message)
        return cls(**fields, files=files)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """An intact prepared folder.

    - ``impressions``: request_id string, user_id int64, item_id int64, time_ms int64; ascending in time_ms
    - ``actions``: request_id string, user_id int64, kind string, time_ms int64; ascending in time_ms
    - ``users``: user_id int64, time_ms int64, then profile columns
    - ``items``: item_id int64, time_ms int64, title string, genres list<string>, year int64 (or null)
    """

    folder: Path
    manifest: Manifest

    @property
    def impressions(self) -> Path:
        """The Parquet file of the impressions."""
        return self.folder / IMPRESSIONS

    @property
    def actions(self) -> Path:
        """The Parquet file of the actions."""
        return self.folder / ACTIONS

    @property
    def users(self) -> Path:
        """The Parquet file of what is known of the users."""
        return self.folder / USERS

    @property
    def items(self) -> Path:
        """The Parquet file of what is known of the items."""
        return self.folder / ITEMS

    def titles(self) -> dict[int, str]:
        """The title of every item."""
        table = pq.read_table(self.items, columns=["item_id", "title"])
        return dict(zip(table["item_id"].to_pylist(), table["title"].to_pylist(), strict=True))


def open_prepared(folder: Path, name: str | None = None) -> Prepared:
    """Open a prepared folder; every file's size and checksum is compared with the manifest.

    ``name`` is the data set it should hold, where the caller knows. DataError names the file that is missing
    or differs, and the command that prepares the folder again.
    """
    manifest = _read_manifest(folder, name)
    if name is not None and manifest.name != name:
        message = f"{folder} holds data set {manifest.name!r}, not {name!r}; {_remedy(name)}"
        raise DataError(message)
    for file_name, expected in manifest.files.items():
        _check_file(folder / file_name, expected, _remedy(manifest.name))
    return Prepared(folder=folder, manifest=manifest)


def _read_manifest(folder: Path, name: str | None) -> Manifest:
    path = folder / MANIFEST
    try:
        return Manifest.from_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        message = f"{path} is missing: no prepared data set there; {_remedy(name)}"
        raise DataError(message) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        message = f"{path} can not be read ({str(error).splitlines()[0]}); {_remedy(name)}"
        raise DataError(message) from error


def _check_file(path: Path, expected: FileRecord, remedy: str) -> None:
    if not path.is_file():
        message = f"{path} is missing; {remedy}"
        raise DataError(message)
    if path.stat().st_size != expected.bytes:
        message = f"{path} has {path.stat().st_size:,} bytes, its manifest says {expected.bytes:,}; {remedy}"
        raise DataError(message)
    if FileRecord.of(path) != expected:
        message = f"{path} has changed since it was prepared (its checksum differs); {remedy}"
        raise DataError(message)


def _remedy(name: str | None) -> str:
    return f"run: python -m jobs.prepare data={name or 'NAME'}"
